//! Traffic that goes on while something happens to the proxy: connections that keep talking, new ones at a rate, UDP flows
//! and clients with affinity.
//!
//! Two threads make all of it, one among the callers on the node and one outside, each with an event loop of its own: a
//! thread for each connection would measure the scheduler. What they could not do in time is counted as well, so that
//! a machine that is too slow is not taken for a fault of the proxy.
//!
//! | file | what |
//! |---|---|
//! | `ledger.rs` | what is counted, and how it is cut into periods |
//! | `events.rs` | what is told one by one |
//! | `talk.rs` | connections that keep talking |
//! | `request.rs` | one connection for one question: at a rate, and from clients with affinity |
//! | `flow.rs` | UDP flows |
//! | `closed.rs` | requests as fast as they are answered |
//! | `drops.rs` | packets that the machine itself let go |

mod closed;
mod drops;
mod events;
mod flow;
mod ledger;
mod request;
mod talk;

pub use closed::closed_loop;
pub use drops::Drops;
pub use events::{Broken, Lost};
pub use ledger::{Late, Period, Second, Tally};

use super::field::Field;
use crate::lab::NetNs;
use anyhow::Context;
use ledger::Ledger;
use serde::Serialize;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tokio::time::sleep_until;

/// How often the event loop is looked at: what comes later than that is the machine's doing.
const HEARTBEAT: Duration = Duration::from_millis(20);
/// Longest time to open all connections before anything is measured.
const OPENING: Duration = Duration::from_secs(120);

/// How much traffic.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Plan {
    /// Connections that keep talking.
    pub connections: u32,
    /// How often each of them asks, in milliseconds.
    pub message_ms: u32,
    /// New connections a second.
    pub rate: u32,
    /// UDP flows.
    pub flows: u32,
    /// How often each of them asks, in milliseconds.
    pub datagram_ms: u32,
    /// Clients with affinity.
    pub clients: u32,
    /// How often each of them makes a connection, in milliseconds.
    pub client_ms: u32,
    /// After how many milliseconds without an answer a request has timed out.
    pub timeout_ms: u32,
}

impl Plan {
    fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms.into())
    }
}

/// What all tasks of both threads share.
#[derive(Debug)]
struct Shared {
    plan: Plan,
    ledger: Mutex<Ledger>,
    stop: AtomicBool,
    /// Counts up when talking connections and flows are to be ended and opened anew …
    renewal: AtomicU32,
    /// … every so many-th of them.
    renew_every: AtomicU32,
    opened: AtomicU32,
}

impl Shared {
    fn new(plan: Plan, ledger: Ledger) -> Self {
        Self {
            plan,
            ledger: Mutex::new(ledger),
            stop: AtomicBool::new(false),
            renewal: AtomicU32::new(0),
            renew_every: AtomicU32::new(1),
            opened: AtomicU32::new(0),
        }
    }

    /// Without traffic of its own.
    fn idle(ledger: Ledger) -> Self {
        let none = Plan {
            connections: 0,
            message_ms: 1,
            rate: 0,
            flows: 0,
            datagram_ms: 1,
            clients: 0,
            client_ms: 1,
            timeout_ms: 10_000,
        };
        Self::new(none, ledger)
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Whether the connection or flow of this number is to begin anew since it last looked.
    fn is_renewed(&self, number: u32, seen: &mut u32) -> bool {
        let before = std::mem::replace(seen, self.renewal.load(Ordering::Relaxed));
        // The last two bits say whose it is: of every caller's some.
        *seen != before && (number / 4).is_multiple_of(self.renew_every.load(Ordering::Relaxed))
    }
}

/// Traffic that is under way. It ends when this is dropped.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    started: Instant,
}

/// Whose share of the traffic a thread makes.
struct Share {
    ns: NetNs,
    /// It has those whose number, divided by four, leaves one of these.
    quarters: &'static [u32],
    clients: bool,
    streams: Vec<SocketAddr>,
    datagrams: Vec<SocketAddr>,
    affinity: Vec<SocketAddr>,
}

impl Share {
    fn has(&self, number: u32) -> bool {
        self.quarters.contains(&(number % 4))
    }
}

/// Which of several a number gets.
fn pick(from: &[SocketAddr], number: u32) -> Option<SocketAddr> {
    let at = usize::try_from(number).ok()?.checked_rem(from.len())?;
    from.get(at).copied()
}

impl Load {
    /// Starts it; when this returns all talking connections have been answered once.
    ///
    /// # Errors
    /// When a thread could not be started, or the connections do not open in time.
    pub fn start(field: &Field, plan: Plan) -> anyhow::Result<Self> {
        let started = Instant::now();
        let shared = Arc::new(Shared::new(plan, Ledger::new(started)));
        let share = |ns: &NetNs, quarters, clients| Share {
            ns: ns.clone(),
            quarters,
            clients,
            streams: field.streams(),
            datagrams: field.datagrams(),
            affinity: field.affinity(),
        };
        let mut load = Self { shared, threads: Vec::new(), started };
        for share in [share(field.inside()?, &[0, 1, 2], true), share(field.outside()?, &[3], false)] {
            let shared = Arc::clone(&load.shared);
            let name = format!("load {}", share.ns.name());
            load.threads.push(thread::Builder::new().name(name).spawn(move || {
                if let Err(error) = generate(&share, &shared) {
                    shared.ledger().problem(format!("the load generator: {error:#}"));
                }
            })?);
        }
        while load.shared.opened.load(Ordering::Relaxed) < plan.connections {
            thread::sleep(HEARTBEAT);
            let opened = load.shared.opened.load(Ordering::Relaxed);
            anyhow::ensure!(
                started.elapsed() < OPENING,
                "only {opened} of {} connections were answered after {} s: {}",
                plan.connections,
                OPENING.as_secs(),
                load.shared.ledger().problems_in_short()
            );
        }
        Ok(load)
    }

    /// Milliseconds since it was started: the clock of everything that is reported.
    pub fn at(&self, instant: Instant) -> f64 {
        instant.saturating_duration_since(self.started).as_secs_f64() * 1000.0
    }

    /// What went wrong so far, in a line; nothing where nothing did.
    pub fn problems_in_short(&self) -> Option<String> {
        let ledger = self.shared.ledger();
        (!ledger.problems().is_empty()).then(|| ledger.problems_in_short())
    }

    /// Ends the period that is under way and begins another one.
    pub fn cut(&self) -> Period {
        self.shared.ledger().cut()
    }

    /// Has every so many-th talking connection and UDP flow ended by its client and opened anew.
    pub fn renew(&self, every: u32) {
        self.shared.renew_every.store(every.max(1), Ordering::Relaxed);
        self.shared.renewal.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether both threads are still at work.
    pub fn is_alive(&self) -> bool {
        self.threads.iter().all(|thread| !thread.is_finished())
    }

    /// Ends it: what is under way is answered or times out. Returns what was counted since the last cut, and what was kept over
    /// all of it.
    pub fn end(mut self) -> (Period, Kept) {
        self.finish();
        let mut ledger = self.shared.ledger();
        let last = ledger.cut();
        let (broken, lost) = ledger.take_events();
        (last, Kept { timeline: ledger.timeline(), broken, lost, problems: ledger.problems() })
    }

    fn finish(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                self.shared.ledger().problem("the load generator panicked".to_owned());
            }
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.finish();
    }
}

/// What is kept over all periods.
#[derive(Debug, Clone, Default)]
pub struct Kept {
    /// Answers and faults over time.
    pub timeline: Vec<Second>,
    /// Clients with affinity that got another endpoint.
    pub broken: Vec<Broken>,
    /// The first connections that broke.
    pub lost: Vec<Lost>,
    /// What went wrong, and how often.
    pub problems: Vec<(String, u64)>,
}

/// A thread: its share of the traffic until it is told to stop.
fn generate(share: &Share, shared: &Arc<Shared>) -> anyhow::Result<()> {
    share.ns.enter()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("an event loop")?;
    runtime.block_on(async {
        let plan = shared.plan;
        let mut tasks = tokio::task::JoinSet::new();
        for number in (0..plan.connections).filter(|number| share.has(*number)) {
            if let Some(to) = pick(&share.streams, number / 4) {
                tasks.spawn(talk::talk(Arc::clone(shared), number, to));
            }
        }
        for number in (0..plan.flows).filter(|number| share.has(*number)) {
            if let Some(to) = pick(&share.datagrams, number) {
                tasks.spawn(flow::flow(Arc::clone(shared), number, to));
            }
        }
        if share.clients {
            for number in 0..plan.clients {
                if let Some(to) = pick(&share.affinity, number) {
                    tasks.spawn(request::client(Arc::clone(shared), number, to));
                }
            }
        }
        let quarters = u32::try_from(share.quarters.len()).unwrap_or(1);
        tasks.spawn(request::stream(Arc::clone(shared), quarters, share.streams.clone()));
        tasks.spawn(heartbeat(Arc::clone(shared)));
        while tasks.join_next().await.is_some() {}
    });
    Ok(())
}

/// Notes how late the event loop is.
async fn heartbeat(shared: Arc<Shared>) {
    let mut next = tokio::time::Instant::now();
    while !shared.stopping() {
        next += HEARTBEAT;
        sleep_until(next).await;
        let late = next.elapsed();
        shared.ledger().late(late);
        if late > HEARTBEAT {
            next = tokio::time::Instant::now();
        }
    }
}

/// The next turn of something that happens every so often.
struct Turns {
    next: tokio::time::Instant,
    every: Duration,
}

impl Turns {
    /// The `number`-th of `many` that take turns evenly.
    fn new(every: Duration, number: u32, many: u32) -> Self {
        let offset = every.mul_f64(f64::from(number) / f64::from(many.max(1)));
        Self { next: tokio::time::Instant::now() + offset, every }
    }

    /// The next one. A turn that was missed is left out: who waits for its answer does not ask twice then.
    async fn turn(&mut self) {
        let now = tokio::time::Instant::now();
        while self.next < now {
            self.next += self.every;
        }
        sleep_until(self.next).await;
        self.next += self.every;
    }

    /// How many there are by the time of the next one. None is left out: those who connect do not know of each other.
    async fn due(&mut self) -> u32 {
        sleep_until(self.next).await;
        let (now, mut due) = (tokio::time::Instant::now(), 0);
        while due == 0 || self.next <= now {
            self.next += self.every;
            due += 1;
        }
        due
    }
}

/// The question's number, as the answer repeats it.
fn question_of(answer: &[u8]) -> Option<u64> {
    const KEY: &[u8] = b"\"question\":\"";
    let at = answer.windows(KEY.len()).rposition(|window| window == KEY)? + KEY.len();
    let digits: Vec<u8> = answer.get(at..)?.iter().copied().take_while(u8::is_ascii_digit).collect();
    std::str::from_utf8(&digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_question_is_found_in_the_answer() {
        let answer = br#"{"name":"pods","local":"10.128.0.1:8080","peer":"10.127.0.2:4711","question":"4712"}"#;
        assert_eq!(question_of(answer), Some(4712));
        assert_eq!(question_of(b"HTTP/1.1 200 OK"), None);
        assert_eq!(question_of(br#""question":"x""#), None);
    }
}
