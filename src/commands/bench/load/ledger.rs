//! What is counted of the traffic, cut into periods.

use super::events::{Between, Broken, Lost};
use hdrhistogram::Histogram;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// How finely the timeline is told.
const GRAIN: Duration = Duration::from_millis(250);
/// Kinds of trouble that are told apart; there are more when something is very wrong.
const MOST_PROBLEMS: usize = 50;
/// Connections that are told one by one.
const MOST_LOST: usize = 100;

/// A kind of traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Messages of connections that keep talking.
    Messages,
    /// New connections, one question each.
    Connections,
    /// Datagrams of UDP flows.
    Datagrams,
    /// New connections of clients with affinity.
    Affinity,
}

impl Kind {
    fn slot(self) -> usize {
        match self {
            Self::Messages => 0,
            Self::Connections => 1,
            Self::Datagrams => 2,
            Self::Affinity => 3,
        }
    }
}

/// How a request ended.
#[derive(Debug, Clone, Copy)]
pub enum End<'a> {
    /// Answered after so long.
    Answered(Duration),
    /// Nothing came in time.
    TimedOut,
    /// The connection was broken by the other side.
    Reset,
    /// Anything else: refused, unreachable, a wrong answer, a socket that could not be had.
    Failed(&'a str),
}

/// Counts of one kind in one period.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Tally {
    /// Requests that ended.
    pub requests: u64,
    /// Requests that were answered.
    pub answered: u64,
    /// Refused, unreachable, answered wrongly.
    pub failed: u64,
    /// Connections broken by the other side.
    pub reset: u64,
    /// Not answered in time.
    pub timed_out: u64,
    /// Half of the answers took no longer than that, in milliseconds. For new connections: until the handshake's answer, for
    /// the others until the answer.
    pub p50_ms: f64,
    /// 99 of a hundred took no longer.
    pub p99_ms: f64,
    /// The longest.
    pub max_ms: f64,
    /// The longest time from one answer to the next on one connection or flow, in milliseconds.
    pub longest_gap_ms: f64,
}

impl Tally {
    /// Adds the counts; of the times the worst stays.
    pub fn absorb(&mut self, other: &Self) {
        self.requests += other.requests;
        self.answered += other.answered;
        self.failed += other.failed;
        self.reset += other.reset;
        self.timed_out += other.timed_out;
        self.p50_ms = self.p50_ms.max(other.p50_ms);
        self.p99_ms = self.p99_ms.max(other.p99_ms);
        self.max_ms = self.max_ms.max(other.max_ms);
        self.longest_gap_ms = self.longest_gap_ms.max(other.longest_gap_ms);
    }
}

/// How late the load generator itself was: what the machine could not give it, and no fault of the proxy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Late {
    /// 99 of a hundred times its event loop was no later than that, in milliseconds.
    pub p99_ms: f64,
    /// The longest that it stood still.
    pub max_ms: f64,
    /// Connections that were due and not made, as too many were under way.
    pub not_made: u64,
}

/// What happened between two cuts.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Period {
    /// Its beginning, in milliseconds since the load was started.
    pub from_ms: f64,
    /// Its length in seconds.
    pub seconds: f64,
    /// Messages of connections that keep talking.
    pub messages: Tally,
    /// New connections.
    pub connections: Tally,
    /// Datagrams.
    pub datagrams: Tally,
    /// Connections of clients with affinity.
    pub affinity: Tally,
    /// How late the load generator was.
    pub generator: Late,
}

impl Period {
    /// The counts of all kinds together.
    pub fn all(&self) -> Tally {
        let mut all = Tally::default();
        [&self.messages, &self.connections, &self.datagrams, &self.affinity]
            .into_iter()
            .for_each(|one| all.absorb(one));
        all
    }

    /// Answers a second, all kinds together.
    pub fn answers_per_second(&self) -> f64 {
        if self.seconds > 0.0 { as_f64(self.all().answered) / self.seconds } else { 0.0 }
    }
}

/// A count as a figure to divide; exact below 2^32.
pub fn as_f64(count: u64) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

/// A piece of the timeline, [`GRAIN`] long.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Second {
    /// Its beginning, in milliseconds since the load was started.
    pub at_ms: f64,
    /// Requests that were answered.
    pub answered: u32,
    /// Requests that were not.
    pub not_answered: u32,
    /// The longest time between two answers of one connection that ended here, in milliseconds.
    pub longest_gap_ms: f64,
    /// The longest that the load generator stood still, in milliseconds.
    pub late_ms: f64,
}

#[derive(Debug)]
struct Counts {
    tally: Tally,
    times: Option<Histogram<u64>>,
}

/// Everything that was counted so far.
#[derive(Debug)]
pub struct Ledger {
    started: Instant,
    period: Instant,
    kinds: [Counts; 4],
    lateness: Option<Histogram<u64>>,
    not_made: u64,
    timeline: Vec<Second>,
    broken: Vec<Broken>,
    lost: Vec<Lost>,
    problems: BTreeMap<String, u64>,
}

fn histogram() -> Option<Histogram<u64>> {
    // Microseconds up to ten minutes, to two digits. Those bounds are valid ones, so that there is one.
    Histogram::new_with_bounds(1, 600_000_000, 2).ok()
}

fn fresh() -> [Counts; 4] {
    std::array::from_fn(|_| Counts { tally: Tally::default(), times: histogram() })
}

fn enter(histogram: &mut Option<Histogram<u64>>, time: Duration) {
    if let Some(histogram) = histogram {
        histogram.saturating_record(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    }
}

fn milliseconds(histogram: Option<&Histogram<u64>>, quantile: f64) -> f64 {
    histogram.filter(|times| !times.is_empty()).map_or(0.0, |times| as_f64(times.value_at_quantile(quantile)) / 1000.0)
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

impl Ledger {
    /// Nothing yet.
    pub fn new(started: Instant) -> Self {
        Self {
            started,
            period: started,
            kinds: fresh(),
            lateness: histogram(),
            not_made: 0,
            timeline: Vec::new(),
            broken: Vec::new(),
            lost: Vec::new(),
            problems: BTreeMap::new(),
        }
    }

    /// A request ended.
    pub fn ended(&mut self, kind: Kind, end: End<'_>) {
        let Some(counts) = self.kinds.get_mut(kind.slot()) else { return };
        counts.tally.requests += 1;
        match end {
            End::Answered(time) => {
                counts.tally.answered += 1;
                enter(&mut counts.times, time);
            }
            End::TimedOut => counts.tally.timed_out += 1,
            End::Reset => counts.tally.reset += 1,
            End::Failed(_) => counts.tally.failed += 1,
        }
        let name = match end {
            End::Answered(_) => None,
            End::TimedOut => Some("no answer in time".to_owned()),
            End::Reset => Some("broken by the other side".to_owned()),
            End::Failed(why) => Some(why.to_owned()),
        };
        if let Some(now) = self.now() {
            now.answered += u32::from(name.is_none());
            now.not_answered += u32::from(name.is_some());
        }
        if let Some(name) = name {
            self.problem(format!("{kind:?}: {name}"));
        }
    }

    /// A request ended with an error of its socket.
    pub fn error(&mut self, kind: Kind, error: &io::Error) {
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
        match error.kind() {
            ConnectionReset | BrokenPipe | ConnectionAborted | UnexpectedEof => self.ended(kind, End::Reset),
            // The kernel gave up sending again.
            io::ErrorKind::TimedOut => self.ended(kind, End::TimedOut),
            _ => self.ended(kind, End::Failed(&error.to_string())),
        }
    }

    /// So long passed between two answers.
    pub fn gap(&mut self, kind: Kind, gap: Duration) {
        let gap = ms(gap);
        if let Some(counts) = self.kinds.get_mut(kind.slot()) {
            counts.tally.longest_gap_ms = counts.tally.longest_gap_ms.max(gap);
        }
        if let Some(now) = self.now() {
            now.longest_gap_ms = now.longest_gap_ms.max(gap);
        }
    }

    /// The event loop was so late.
    pub fn late(&mut self, late: Duration) {
        enter(&mut self.lateness, late);
        if let Some(now) = self.now() {
            now.late_ms = now.late_ms.max(ms(late));
        }
    }

    /// Connections that were due and were not made.
    pub fn not_made(&mut self, count: u64) {
        self.not_made += count;
    }

    /// A client got another endpoint.
    pub fn broke(&mut self, client: SocketAddr, since: Instant, from: SocketAddr, to: SocketAddr) {
        let at = |instant: Instant| ms(instant.saturating_duration_since(self.started));
        self.broken.push(Broken { client, since_ms: at(since), at_ms: at(Instant::now()), from, to });
    }

    /// A connection was of no use any more: what was met, and between whom it was.
    pub fn lost(&mut self, kind: Kind, between: Between, error: &io::Error) {
        self.error(kind, error);
        if self.lost.len() < MOST_LOST {
            let at = |instant: Instant| ms(instant.saturating_duration_since(self.started));
            let (opened_ms, at_ms) = (at(between.since), at(Instant::now()));
            let how = error.to_string();
            self.lost.push(Lost { kind, how, from: between.from, to: between.to, opened_ms, at_ms });
        }
    }

    /// Something went wrong.
    pub fn problem(&mut self, what: String) {
        if self.problems.len() < MOST_PROBLEMS || self.problems.contains_key(&what) {
            *self.problems.entry(what).or_default() += 1;
        }
    }

    /// What went wrong, in a line.
    pub fn problems_in_short(&self) -> String {
        let words: Vec<String> = self.problems.iter().map(|(what, count)| format!("{count} × {what}")).collect();
        if words.is_empty() { "nothing was refused".to_owned() } else { words.join("; ") }
    }

    /// What went wrong, the most frequent first.
    pub fn problems(&self) -> Vec<(String, u64)> {
        let mut all: Vec<(String, u64)> = self.problems.iter().map(|(what, count)| (what.clone(), *count)).collect();
        all.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        all
    }

    /// The whole timeline.
    pub fn timeline(&self) -> Vec<Second> {
        self.timeline.clone()
    }

    /// All clients that got another endpoint, and the first connections that broke.
    pub fn take_events(&mut self) -> (Vec<Broken>, Vec<Lost>) {
        (std::mem::take(&mut self.broken), std::mem::take(&mut self.lost))
    }

    /// Ends a period.
    pub fn cut(&mut self) -> Period {
        let now = Instant::now();
        let [messages, connections, datagrams, affinity] = std::mem::replace(&mut self.kinds, fresh()).map(summed);
        let lateness = std::mem::replace(&mut self.lateness, histogram());
        let generator = Late {
            p99_ms: milliseconds(lateness.as_ref(), 0.99),
            max_ms: milliseconds(lateness.as_ref(), 1.0),
            not_made: std::mem::take(&mut self.not_made),
        };
        let period = Period {
            from_ms: ms(self.period.saturating_duration_since(self.started)),
            seconds: now.saturating_duration_since(self.period).as_secs_f64(),
            messages,
            connections,
            datagrams,
            affinity,
            generator,
        };
        self.period = now;
        period
    }

    /// The piece of the timeline that is under way.
    fn now(&mut self) -> Option<&mut Second> {
        let grain = GRAIN.as_millis();
        let at = usize::try_from(self.started.elapsed().as_millis() / grain).ok()?;
        while self.timeline.len() <= at {
            let number = u32::try_from(self.timeline.len()).unwrap_or(u32::MAX);
            self.timeline.push(Second { at_ms: f64::from(number) * ms(GRAIN), ..Second::default() });
        }
        self.timeline.get_mut(at)
    }
}

fn summed(counts: Counts) -> Tally {
    let times = counts.times.as_ref();
    Tally {
        p50_ms: milliseconds(times, 0.5),
        p99_ms: milliseconds(times, 0.99),
        max_ms: milliseconds(times, 1.0),
        ..counts.tally
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_is_counted_as_what_it_was() {
        let mut ledger = Ledger::new(Instant::now());
        (1..=100).for_each(|time| ledger.ended(Kind::Messages, End::Answered(Duration::from_millis(time))));
        ledger.error(Kind::Messages, &io::ErrorKind::ConnectionReset.into());
        ledger.error(Kind::Messages, &io::ErrorKind::ConnectionRefused.into());
        ledger.ended(Kind::Messages, End::TimedOut);
        ledger.gap(Kind::Messages, Duration::from_millis(70));
        let period = ledger.cut();
        let tally = &period.messages;
        assert_eq!((tally.requests, tally.answered, tally.failed), (103, 100, 1));
        assert_eq!((tally.reset, tally.timed_out), (1, 1));
        assert!((49.0..52.0).contains(&tally.p50_ms) && (98.0..101.0).contains(&tally.p99_ms), "{tally:?}");
        assert!((tally.longest_gap_ms - 70.0).abs() < 0.01);
        assert_eq!(ledger.problems().len(), 3);
        let timeline = ledger.timeline();
        assert_eq!((timeline[0].answered, timeline[0].not_answered), (100, 3));
        assert_eq!(ledger.cut().all(), Tally::default(), "the next period begins with nothing");
    }
}
