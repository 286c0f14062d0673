//! All results of a call. What its JSON holds, docs/benchmarks.md says.

use super::causes::{TO_IPVS, cause_of};
use crate::commands::bench::load::{Broken, Drops, Kept, Late, Load, Lost, Period, Plan, Second, Tally};
use crate::commands::bench::machine::Machine;
use crate::commands::bench::program::Usage;
use crate::reconcile::Mode;
use serde::{Serialize, Serializer};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// From when on a machine that stood still explains what a connection saw: it is told beside it.
const STARVED_MS: f64 = 100.0;

/// A mode, by its name.
fn name_of<S: Serializer>(mode: &Mode, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(mode.name())
}

/// Everything. Counts are those of all runs together.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Always `mode-switch`.
    pub benchmark: &'static str,
    /// The running kernel.
    pub kernel: String,
    /// Services of the largest run.
    pub services: u32,
    /// Switches that were made.
    pub switches: usize,
    /// Restarts that were made where there is one mode only.
    pub restarts: usize,
    /// Requests that ended: messages, new connections, datagrams.
    pub requests: u64,
    /// Refused, unreachable, answered wrongly.
    pub failed: u64,
    /// Connections broken by the other side.
    pub reset: u64,
    /// Not answered in time.
    pub timed_out: u64,
    /// Times that a client with affinity got another endpoint.
    pub affinity_broken: usize,
    /// Of those, the ones that have no known cause.
    pub affinity_unexplained: usize,
    /// The longest time between two answers on one connection or flow, in milliseconds.
    pub longest_gap_ms: f64,
    /// How late the load generator was at the worst.
    pub generator: Late,
    /// Packets that the machine let go, as nobody came for them in time.
    pub dropped: Drops,
    /// Why it came to an end before its time, if it did.
    pub ended_early: Option<String>,
    /// On what it was measured.
    pub machine: Machine,
    /// The traffic that was asked for.
    pub traffic: Plan,
    /// Each size.
    pub runs: Vec<Run>,
}

/// One size.
#[derive(Debug, Serialize)]
pub struct Run {
    /// Services.
    pub services: u32,
    /// Endpoints of each.
    pub endpoints: u32,
    /// The modes that this kernel has.
    pub modes: Vec<String>,
    /// Why there is only one.
    pub only_mode_because: Option<String>,
    /// Seconds from the daemon's start until the kernel was as wanted.
    pub cold_start_seconds: f64,
    /// Each switch.
    pub switches: Vec<Switched>,
    /// Each restart.
    pub restarts: Vec<Restarted>,
    /// Traffic before, during and after each of them.
    pub periods: Vec<Named>,
    /// All traffic.
    pub totals: Totals,
    /// Clients that got another endpoint, by cause.
    pub affinity_causes: BTreeMap<&'static str, usize>,
    /// Each of them.
    pub affinity: Vec<Broken>,
    /// What went wrong, and how often.
    pub problems: Vec<(String, u64)>,
    /// The first connections that broke.
    pub lost: Vec<Lost>,
    /// Packets that the machine let go meanwhile.
    pub dropped: Drops,
    /// Why it came to an end before its time, if it did.
    pub ended_early: Option<String>,
    /// What the daemon used in all.
    pub daemon: Usage,
    /// Answers and faults over time.
    pub timeline: Vec<Second>,
}

/// All traffic of a run, by kind.
#[derive(Debug, Default, Serialize)]
pub struct Totals {
    /// Messages of connections that keep talking.
    pub messages: Tally,
    /// New connections.
    pub connections: Tally,
    /// Datagrams.
    pub datagrams: Tally,
    /// Connections of clients with affinity.
    pub affinity: Tally,
    /// How late the load generator was at the worst.
    pub generator: Late,
}

/// A stretch of time, and what traffic met in it.
#[derive(Debug, Serialize)]
pub struct Named {
    /// Such as `after 2`.
    pub name: String,
    /// The mode that served new connections.
    #[serde(serialize_with = "name_of")]
    pub mode: Mode,
    /// All answers a second.
    pub answers_per_second: f64,
    /// What was counted.
    #[serde(flatten)]
    pub period: Period,
}

/// A switch. Milliseconds count from when it was asked for.
#[derive(Debug, Serialize)]
pub struct Switched {
    /// Its number, from 1 on.
    pub number: u32,
    /// The new mode.
    #[serde(serialize_with = "name_of")]
    pub to: Mode,
    /// When it was asked for, since the load was started.
    pub at_ms: f64,
    /// What programming the new mode took, both families together.
    pub programmed_ms: f64,
    /// Steps of that.
    pub steps: usize,
    /// Service ports that the new mode has.
    pub service_ports: usize,
    /// The kernel was read again in all families, and nothing was missing.
    pub verified_ms: Option<f64>,
    /// The new mode serves what is new.
    pub in_force_ms: Option<f64>,
    /// Nothing of the old mode is left; without: connections went on in it until it served again.
    pub gone_ms: Option<f64>,
    /// When clients ended what the old mode carried, since the load was started; where that was waited for.
    pub ended_ms: Option<f64>,
    /// What IPVS still remembered long after that, if it was not gone by then.
    pub left: Vec<String>,
    /// Connections that the old mode had at once, at most.
    pub drained_most: u64,
    /// Processor seconds of the daemon and its programs, until the next switch.
    pub processor: f64,
    /// Its memory afterwards, in bytes.
    pub memory: u64,
    /// The most until then.
    pub peak_memory: u64,
}

/// A restart of the daemon.
#[derive(Debug, Serialize)]
pub struct Restarted {
    /// Its number, from 1 on.
    pub number: u32,
    /// `kill -9` or `SIGTERM`.
    pub how: &'static str,
    /// When, in milliseconds since the load was started.
    pub at_ms: f64,
    /// Milliseconds until the old process was gone.
    pub ended_ms: f64,
    /// Milliseconds from the new one's start until the kernel was as wanted.
    pub in_sync_ms: f64,
    /// Processor seconds of the new one and its programs so far.
    pub processor: f64,
    /// Its peak memory, in bytes.
    pub peak_memory: u64,
}

impl Switched {
    /// Asked for at this instant.
    pub fn new(number: u32, to: Mode, at_ms: f64) -> Self {
        Self {
            number,
            to,
            at_ms,
            programmed_ms: 0.0,
            steps: 0,
            service_ports: 0,
            verified_ms: None,
            in_force_ms: None,
            gone_ms: None,
            ended_ms: None,
            left: Vec::new(),
            drained_most: 0,
            processor: 0.0,
            memory: 0,
            peak_memory: 0,
        }
    }

    /// What the daemon used from before to after.
    pub fn take_usage(&mut self, before: Usage, after: Usage) {
        self.processor = (after.own + after.programs) - (before.own + before.programs);
        (self.memory, self.peak_memory) = (after.memory, after.peak_memory);
    }

    /// In a few words.
    pub fn in_short(&self) -> String {
        let seconds = |ms: Option<f64>| ms.map_or("never".to_owned(), |ms| format!("{:.2} s", ms / 1000.0));
        let gone = match self.gone_ms {
            None => "the old mode drains".to_owned(),
            gone => format!("nothing of the old mode after {}", seconds(gone)),
        };
        format!("serves after {}, {gone}", seconds(self.in_force_ms))
    }
}

impl Run {
    /// Nothing yet.
    pub fn new(services: u32, endpoints: u32, cold: Duration) -> Self {
        Self {
            services,
            endpoints,
            modes: Vec::new(),
            only_mode_because: None,
            cold_start_seconds: cold.as_secs_f64(),
            switches: Vec::new(),
            restarts: Vec::new(),
            periods: Vec::new(),
            totals: Totals::default(),
            affinity_causes: BTreeMap::new(),
            affinity: Vec::new(),
            problems: Vec::new(),
            lost: Vec::new(),
            dropped: Drops::default(),
            ended_early: None,
            daemon: Usage::default(),
            timeline: Vec::new(),
        }
    }

    /// There is nothing to switch to.
    pub fn only(&mut self, mode: Mode, because: String) {
        (self.modes, self.only_mode_because) = (vec![mode.name().to_owned()], Some(because));
    }

    /// Enters a period.
    pub fn period(&mut self, name: &str, mode: Mode, period: Period) {
        let Totals { messages, connections, datagrams, affinity, generator } = &mut self.totals;
        messages.absorb(&period.messages);
        connections.absorb(&period.connections);
        datagrams.absorb(&period.datagrams);
        affinity.absorb(&period.affinity);
        worst(generator, &period.generator);
        let answers_per_second = period.answers_per_second();
        self.periods.push(Named { name: name.to_owned(), mode, answers_per_second, period });
    }

    /// Enters what was kept over all periods.
    pub fn keep(&mut self, kept: Kept) {
        let mut seen = BTreeSet::new();
        for broken in &kept.broken {
            let cause = cause_of(&self.switches, broken, &mut seen);
            *self.affinity_causes.entry(cause).or_default() += 1;
        }
        (self.timeline, self.affinity, self.problems) = (kept.timeline, kept.broken, kept.problems);
        self.lost = kept.lost;
    }

    /// All kinds together.
    pub fn all(&self) -> Tally {
        let mut all = Tally::default();
        let Totals { messages, connections, datagrams, affinity, .. } = &self.totals;
        [messages, connections, datagrams, affinity].into_iter().for_each(|one| all.absorb(one));
        all
    }

    /// What traffic met until now, in a few words: a benchmark that is stopped has told at least that.
    pub fn so_far(&self, load: &Load) -> String {
        let all = self.all();
        let (failed, reset, timed_out) = (all.failed, all.reset, all.timed_out);
        let problems = load.problems_in_short().map(|problems| format!(" ({problems})")).unwrap_or_default();
        let gap = self.longest_gap_ms();
        format!(
            "{} requests, {failed} failed, {reset} reset, {timed_out} timed out{problems}, longest gap {gap:.0} ms",
            all.requests
        )
    }

    /// The longest time between two answers of one connection or flow.
    pub fn longest_gap_ms(&self) -> f64 {
        self.totals.messages.longest_gap_ms.max(self.totals.datagrams.longest_gap_ms)
    }

    /// Clients that got another endpoint for no known cause.
    pub fn unexplained(&self) -> usize {
        self.affinity_causes.iter().filter(|(cause, _)| **cause != TO_IPVS).map(|(_, count)| count).sum()
    }
}

fn worst(of: &mut Late, other: &Late) {
    of.p99_ms = of.p99_ms.max(other.p99_ms);
    of.max_ms = of.max_ms.max(other.max_ms);
    of.not_made += other.not_made;
}

impl Report {
    /// Adds up.
    pub fn of(machine: Machine, traffic: Plan, runs: Vec<Run>) -> Self {
        let (mut all, mut generator, mut dropped) = (Tally::default(), Late::default(), Drops::default());
        for run in &runs {
            all.absorb(&run.all());
            worst(&mut generator, &run.totals.generator);
            dropped = dropped.and(run.dropped);
        }
        Self {
            benchmark: "mode-switch",
            kernel: machine.kernel.clone(),
            services: runs.iter().map(|run| run.services).max().unwrap_or(0),
            switches: runs.iter().map(|run| run.switches.len()).sum(),
            restarts: runs.iter().map(|run| run.restarts.len()).sum(),
            requests: all.requests,
            failed: all.failed,
            reset: all.reset,
            timed_out: all.timed_out,
            affinity_broken: runs.iter().map(|run| run.affinity.len()).sum(),
            affinity_unexplained: runs.iter().map(Run::unexplained).sum(),
            longest_gap_ms: runs.iter().map(Run::longest_gap_ms).fold(0.0, f64::max),
            generator,
            dropped,
            ended_early: runs.iter().find_map(|run| run.ended_early.clone()),
            machine,
            traffic,
            runs,
        }
    }

    /// What the machine could not give the load generator, in a sentence; `None` when it kept up.
    pub fn starved(&self) -> Option<String> {
        let Late { p99_ms, max_ms, not_made } = self.generator;
        let Drops { backlog, receive_buffers, listen_queues } = self.dropped;
        let starved = max_ms > STARVED_MS || not_made > 0 || self.dropped != Drops::default();
        starved.then(|| {
            format!(
                "the load generator itself stood still for up to {max_ms:.0} ms (99 of 100 times no more than {p99_ms:.0} ms in the \
                 worst period), and did not make {not_made} connections that were due: gaps and times up to that are the machine's. \
                 The machine dropped {backlog} packets from its backlog, {receive_buffers} datagrams at full buffers and \
                 {listen_queues} connections at full queues: as many requests can have timed out without a fault of the proxy"
            )
        })
    }

    /// Whether nothing was noticed.
    pub fn is_clean(&self) -> bool {
        self.failed + self.reset + self.timed_out == 0 && self.affinity_unexplained == 0 && self.ended_early.is_none()
    }
}
