//! When to look again: retries with backoff, the periodic audit, draining connections.

use super::wish::Mode;
use crate::backend::Report;
use std::time::{Duration, Instant};

/// The periods of the loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// How often the kernel is compared with the belief although nothing happened.
    pub audit: Duration,
    /// The least time between two syncs because of changes; what is urgent does not wait.
    pub min: Duration,
    /// How often draining endpoints are looked at.
    pub drain: Duration,
    /// The first wait after a failure; it doubles up to `retry_max`.
    pub retry_min: Duration,
    /// The longest wait after a failure.
    pub retry_max: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            audit: Duration::from_secs(30),
            min: Duration::ZERO,
            drain: Duration::from_secs(1),
            retry_min: Duration::from_millis(100),
            retry_max: Duration::from_secs(30),
        }
    }
}

/// The periods in each mode, of which kube-proxy's configuration has some apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timings {
    /// In IPVS mode.
    pub ipvs: Timing,
    /// In iptables mode.
    pub iptables: Timing,
}

impl Timings {
    /// Those of a mode.
    #[must_use]
    pub fn of(&self, mode: Mode) -> Timing {
        match mode {
            Mode::Ipvs => self.ipvs,
            Mode::Iptables => self.iptables,
        }
    }
}

impl From<Timing> for Timings {
    fn from(timing: Timing) -> Self {
        Self { ipvs: timing, iptables: timing }
    }
}

/// For so long an audit keeps the loop from changes; its last slice a little longer, where there is much to count.
pub const AUDIT_SLICE: Duration = Duration::from_millis(5);

/// An audit begins no sooner than so many times as long after the last one as that one took. On a machine that is busy or slow
/// it would else be at it all the time.
const AUDIT_REST: u32 = 10;

/// What failed is tried again because something else changed no sooner than so many times as long after the last reading as that
/// took: where Services change all the time, each change would else cost a reading.
const RETRY_REST: u32 = 100;

/// Between two slices of an audit: what iptables-save prints meanwhile fills its pipe in less. IPVS mode's reader waits then, some
/// hundred facts ahead.
pub const AUDIT_PAUSE: Duration = Duration::from_millis(5);

/// The state of the clock of one family.
#[derive(Debug, Clone, Copy, Default)]
pub struct Schedule {
    retry_at: Option<Instant>,
    failures: u32,
    audited: Option<Instant>,
    /// The first slice of the audit that is under way.
    audit_began: Option<Instant>,
    /// How long the last one took.
    audit_took: Duration,
    drained: Option<Instant>,
    /// An audit is under way, and goes on then.
    auditing: Option<Instant>,
    synced: Option<Instant>,
    /// When the kernel was read last, or compared and all that it had not taken tried again; and how long that took with all that
    /// followed.
    read: Option<(Instant, Duration)>,
    /// The last audit found something to try again, and took so long: the next sync does.
    owes: Option<Duration>,
    /// An audit is due sooner, as something changed since a failure, or as only reading tells the end of something.
    doubted: Option<Instant>,
    /// What drains of which nobody wants anything any more was there at the last reading.
    orphans: bool,
}

/// What the clock needs to know of a sync.
#[derive(Debug, Clone, Copy, Default)]
pub struct Outcome {
    /// It should be tried again.
    pub retry: bool,
    /// It failed itself, not only an earlier one.
    pub anew: bool,
    /// What failed had not failed before.
    pub news: bool,
    /// What failed earlier was not tried again.
    pub owing: bool,
    /// The kernel was read.
    pub observed: bool,
    /// What was read earlier held until the end.
    pub believed: bool,
    /// How long it took.
    pub took: Duration,
}

impl Outcome {
    /// Of what is told of it.
    pub fn of(report: &Report) -> Self {
        Self {
            retry: report.wants_retry(),
            anew: report.failed_anew(),
            news: report.news,
            owing: report.standing > 0,
            observed: report.observed,
            believed: !report.observed && !report.wants_reading(),
            took: report.duration,
        }
    }
}

impl Schedule {
    /// A sync ended.
    pub fn synced(&mut self, now: Instant, synced: &Outcome, timing: &Timing) {
        let compared = self.owes.take();
        if synced.observed {
            self.audited(now);
            self.drained(now);
            self.read = Some((now, synced.took));
        } else if let Some(audit) = compared {
            self.read = Some((now, audit + synced.took));
        }
        self.synced = Some(now);
        if !synced.retry {
            self.retry_at = None;
            self.failures = 0;
        } else if synced.anew || self.retry_at.is_none() {
            if synced.news {
                // The kernel may have become another one.
                self.failures = 0;
            }
            let wait = timing.retry_min.saturating_mul(1u32.checked_shl(self.failures).unwrap_or(u32::MAX));
            // Where the belief holds, the others are served from it meanwhile.
            let rested = if synced.believed { self.rested(now, AUDIT_REST) } else { now };
            self.retry_at = Some((now + wait).max(rested).min(now + timing.retry_max));
            self.failures = self.failures.saturating_add(1).min(31);
        }
        if synced.owing {
            // What failed may be what has changed just now.
            let at = self.rested(now, RETRY_REST);
            self.retry_at = self.retry_at.map(|retry| retry.min(at));
            self.doubt(at);
        }
    }

    /// Everything was read, and there are (or are not) endpoints that drain and of which nobody wants anything any more: only
    /// another reading tells when their connections are over. Most of them have none, so that the first comes soon.
    pub fn orphaned(&mut self, now: Instant, orphans: bool, timing: &Timing) {
        let before = std::mem::replace(&mut self.orphans, orphans);
        if orphans {
            let at = (now + 2 * timing.drain).max(if before { self.rested(now, RETRY_REST) } else { now });
            self.doubt(at);
        }
    }

    /// An audit begins by then.
    fn doubt(&mut self, at: Instant) {
        self.doubted = Some(self.doubted.map_or(at, |doubted| doubted.min(at)));
    }

    /// When so many times as long has passed since the last reading as that one took.
    fn rested(&self, now: Instant, times: u32) -> Instant {
        self.read.map_or(now, |(at, took)| (at + took.saturating_mul(times)).max(now))
    }

    /// What drains was looked at, and not only what changed: or changes that come one after the other would keep it from ever
    /// being looked at.
    pub fn drained(&mut self, now: Instant) {
        self.drained = Some(now);
    }

    /// The kernel was compared with the belief.
    pub fn audited(&mut self, now: Instant) {
        (self.audited, self.auditing, self.doubted) = (Some(now), None, None);
        self.audit_took = self.audit_began.take().map_or(Duration::ZERO, |began| now.saturating_duration_since(began));
    }

    /// The same, and what the kernel has not taken is tried again by the next sync.
    pub fn audited_owing(&mut self, now: Instant) {
        self.audited(now);
        self.owes = Some(self.audit_took);
    }

    /// An audit has more to do.
    pub fn audit_goes_on(&mut self, now: Instant) {
        self.auditing = Some(now + AUDIT_PAUSE);
        self.audit_began.get_or_insert(now);
    }

    /// How long an audit keeps off.
    fn audit_period(&self, timing: &Timing) -> Duration {
        timing.audit.max(self.audit_took.saturating_mul(AUDIT_REST))
    }

    /// When what failed is tried again, if it did.
    pub fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }

    /// Whether a failed sync is to be tried again now.
    pub fn retry_is_due(&self, now: Instant) -> bool {
        self.retry_at.is_some_and(|at| at <= now)
    }

    /// Whether a failed sync waits for its time.
    pub fn is_waiting(&self, now: Instant) -> bool {
        self.retry_at.is_some_and(|at| at > now)
    }

    /// When a change may be brought to the kernel: at once, or the least time after the last sync.
    pub fn earliest(&self, now: Instant, timing: &Timing) -> Instant {
        let synced = self.synced.filter(|_| !timing.min.is_zero());
        synced.map_or(now, |at| (at + timing.min).max(now))
    }

    /// When an audit begins.
    fn next_audit(&self, timing: &Timing) -> Option<Instant> {
        let period = self.audited.map(|at| at + self.audit_period(timing));
        period.into_iter().chain(self.doubted).min()
    }

    /// Whether the kernel is to be read again.
    pub fn audit_is_due(&self, now: Instant, timing: &Timing) -> bool {
        match self.auditing {
            Some(at) => at <= now,
            None => self.next_audit(timing).is_some_and(|at| at <= now),
        }
    }

    /// Whether draining endpoints are to be looked at again.
    pub fn drain_is_due(&self, now: Instant, timing: &Timing) -> bool {
        self.drained.is_none_or(|at| at + timing.drain <= now)
    }

    /// The next instant at which anything is due.
    pub fn next(&self, now: Instant, draining: bool, timing: &Timing) -> Instant {
        // Until its retry a family that failed does nothing else: what is due meanwhile must not wake it.
        if let Some(at) = self.retry_at {
            return at.max(now);
        }
        let audit = self.auditing.or(self.next_audit(timing)).unwrap_or(now + self.audit_period(timing));
        let drain = draining.then(|| self.drained.map_or(now, |at| at + timing.drain));
        drain.into_iter().fold(audit, Instant::min)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(observed: bool) -> Outcome {
        Outcome { retry: true, anew: true, observed, ..Outcome::default() }
    }

    #[test]
    fn retries_back_off_and_success_forgets() {
        let timing = Timing::default();
        let (mut schedule, start) = (Schedule::default(), Instant::now());
        let mut waits = Vec::new();
        for _ in 0..12 {
            schedule.synced(start, &failed(false), &timing);
            waits.push((schedule.next(start, false, &timing) - start).as_millis());
        }
        assert_eq!(waits[..4], [100, 200, 400, 800]);
        assert_eq!(waits[11], 30_000);
        schedule.synced(start, &Outcome { observed: true, ..Outcome::default() }, &timing);
        assert!(!schedule.retry_is_due(start + Duration::from_secs(60)));
        assert!(schedule.audit_is_due(start + timing.audit, &timing));
        assert_eq!(schedule.next(start, true, &timing), start + timing.drain);
    }

    #[test]
    fn changes_do_not_keep_what_drains_from_being_looked_at() {
        let timing = Timing::default();
        let (mut schedule, start) = (Schedule::default(), Instant::now());
        schedule.drained(start);
        (1..10).for_each(|n| schedule.synced(start + n * timing.drain / 10, &Outcome::default(), &timing));
        assert!(schedule.drain_is_due(start + timing.drain, &timing));
    }

    #[test]
    fn what_only_reading_tells_is_read_soon_and_then_less_often() {
        let timing = Timing::default();
        let (mut schedule, start) = (Schedule::default(), Instant::now());
        let read = Outcome { observed: true, took: Duration::from_millis(100), ..Outcome::default() };
        let mut due = |orphans| {
            schedule.synced(start, &read, &timing);
            schedule.orphaned(start, orphans, &timing);
            schedule.next(start, false, &timing) - start
        };
        assert_eq!(due(true), Duration::from_secs(2));
        assert_eq!(
            due(true),
            Duration::from_secs(10),
            "it has connections: a hundredth of the time is spent on reading"
        );
        assert_eq!(due(false), timing.audit);
        assert_eq!(due(true), Duration::from_secs(2));
    }

    #[test]
    fn an_audit_that_takes_long_comes_less_often() {
        let timing = Timing::default();
        let (mut schedule, start) = (Schedule::default(), Instant::now());
        schedule.audit_goes_on(start);
        schedule.audited(start + Duration::from_secs(1));
        assert_eq!(schedule.next(start, false, &timing), start + Duration::from_secs(1) + timing.audit);
        schedule.audit_goes_on(start);
        schedule.audit_goes_on(start + Duration::from_secs(5));
        schedule.audited(start + Duration::from_secs(10));
        assert!(!schedule.audit_is_due(start + Duration::from_secs(109), &timing));
        assert!(schedule.audit_is_due(start + Duration::from_secs(110), &timing));
    }

    #[test]
    fn what_waits_for_its_retry_is_not_woken_by_a_drain() {
        let timing = Timing::default();
        let (mut schedule, start) = (Schedule::default(), Instant::now());
        for _ in 0..12 {
            schedule.synced(start, &failed(true), &timing);
        }
        let now = start + Duration::from_secs(5);
        assert!(schedule.is_waiting(now));
        assert_eq!(schedule.next(now, true, &timing), start + timing.retry_max);
    }

    #[test]
    fn a_change_brings_the_retry_nearer_but_not_all_the_time() {
        let timing = Timing::default();
        let (mut schedule, start) = (Schedule::default(), Instant::now());
        let read = Outcome { took: Duration::from_millis(50), ..failed(true) };
        for _ in 0..12 {
            schedule.synced(start, &read, &timing);
        }
        assert_eq!(schedule.next(start, false, &timing), start + timing.retry_max);
        // What had not failed before may mean that the kernel has become another one.
        schedule.synced(start, &Outcome { news: true, observed: false, believed: true, ..read }, &timing);
        assert_eq!(schedule.next(start, false, &timing), start + Duration::from_millis(500), "ten times 50 ms");
        for _ in 0..12 {
            schedule.synced(start, &read, &timing);
        }
        let change = Outcome { retry: true, owing: true, ..Outcome::default() };
        for milliseconds in [10, 20, 30] {
            schedule.synced(start + Duration::from_millis(milliseconds), &change, &timing);
        }
        assert_eq!(schedule.next(start, false, &timing), start + Duration::from_secs(5), "a hundred times 50 ms later");
        let late = start + Duration::from_secs(20);
        schedule.synced(late, &change, &timing);
        assert!(schedule.retry_is_due(late));
        // Where trying again does not help, the audit looks whether it is still so.
        schedule.synced(late, &Outcome { observed: true, ..Outcome::default() }, &timing);
        assert!(!schedule.audit_is_due(late, &timing));
        schedule.synced(late, &Outcome { owing: true, ..Outcome::default() }, &timing);
        assert!(schedule.audit_is_due(late, &timing));
        schedule.audited(late);
        assert!(!schedule.audit_is_due(late, &timing));
    }

    #[test]
    fn what_lastingly_fails_is_not_audited_after_every_change() {
        let timing = Timing::default();
        let (mut schedule, start) = (Schedule::default(), Instant::now());
        let (change, whole) = (Outcome { owing: true, ..Outcome::default() }, Duration::from_millis(40));
        schedule.synced(start, &Outcome { observed: true, took: whole, ..Outcome::default() }, &timing);
        let mut now = start + Duration::from_secs(20);
        for _ in 0..3 {
            schedule.synced(now, &change, &timing);
            assert!(schedule.audit_is_due(now, &timing), "it is long since everything was tried");
            schedule.audit_goes_on(now);
            now += Duration::from_millis(60);
            schedule.audited_owing(now);
            schedule.synced(now, &Outcome { took: whole, ..Outcome::default() }, &timing);
            schedule.synced(now, &change, &timing);
            assert!(!schedule.audit_is_due(now + Duration::from_millis(9900), &timing));
            now += Duration::from_secs(10);
        }
    }
}
