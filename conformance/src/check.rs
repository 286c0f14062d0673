//! Trying all flows of a step, in rounds, until one round holds completely.

use std::collections::BTreeMap;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use kube_ipvs::lab::{Outcome, Probe, Request};

use crate::flow::{Affinity, Expect, Flow, From};
use crate::held::Open;
use crate::inject::inject;
use crate::judge::judge;
use crate::world::World;

/// Tries where nothing has to be seen by its share.
const TRIES: usize = 4;

/// Connections of a flow that are open at the same time.
const PARALLEL: usize = 8;

/// Rounds that are tried at least, however long they take: on a slow machine the first may come too early.
const ROUNDS: usize = 3;

/// Pause before the next round.
const PAUSE: Duration = Duration::from_millis(150);

/// How long to wait for what.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// An answer that is to come.
    pub answer: Duration,
    /// Nothing that is to come: long enough for a SYN to be sent again, since over veth the first refusal can get lost
    /// (an ICMP error that arrives while connect(2) owns the socket is kept as a soft error).
    pub silence: Duration,
    /// A step to hold.
    pub settle: Duration,
}

/// A flow that does not hold: its index and what came.
pub type Broken = (usize, String);

/// How a step ended.
#[derive(Debug)]
pub struct Checked {
    /// Rounds that it took, the one that held included.
    pub rounds: usize,
    /// What did not hold in the last round; empty if all is well.
    pub broken: Vec<Broken>,
    /// What did not hold in earlier rounds.
    pub at_first: Vec<Broken>,
}

/// The flows of a step that are to be tried.
#[derive(Debug)]
pub struct Check<'a> {
    /// The lab.
    pub world: &'a World,
    /// The flows, those left out excepted, with their indices.
    pub flows: Vec<(usize, &'a Flow)>,
    /// Those that were opened before the step, by index.
    pub open: &'a BTreeMap<usize, Open>,
    /// How long to wait.
    pub patience: Patience,
    /// Connections for each endpoint that is to answer. With 20, one of two endpoints stays unseen by chance once in 10¹²
    /// times.
    pub per_endpoint: usize,
}

impl Check<'_> {
    /// Tries everything until it holds or patience ends, then what takes minutes, once.
    pub fn run(&self) -> Result<Checked> {
        let started = Instant::now();
        let mut checked = Checked { rounds: 0, broken: Vec::new(), at_first: Vec::new() };
        loop {
            checked.rounds += 1;
            checked.broken = self.round()?;
            let patient = checked.rounds < ROUNDS || started.elapsed() < self.patience.settle;
            if checked.broken.is_empty() || !patient {
                break;
            }
            checked.at_first = std::mem::take(&mut checked.broken);
            thread::sleep(PAUSE);
        }
        if checked.broken.is_empty() {
            checked.broken = self.one_by_one()?;
        }
        Ok(checked)
    }

    /// Tries all quick flows side by side.
    fn round(&self) -> Result<Vec<Broken>> {
        let mut broken: Vec<Broken> = thread::scope(|scope| {
            let mut threads = Vec::new();
            for &(index, flow) in &self.flows {
                if let Some(open) = self.open.get(&index) {
                    threads.push((index, scope.spawn(move || open.check(self.world, flow, self.patience.answer))));
                } else if flow.inject.is_some() {
                    threads.push((index, scope.spawn(move || self.inject(flow))));
                }
            }
            let mut broken = self.probe_all()?;
            for (index, thread) in threads {
                let verdict = thread.join().map_err(|_| anyhow!("a checking thread panicked"))??;
                broken.extend(verdict.err().map(|what| (index, what)));
            }
            anyhow::Ok(broken)
        })?;
        broken.sort();
        Ok(broken)
    }

    /// One more connection of a flow, and what came of it, in words.
    pub fn once(&self, flow: &Flow) -> Result<String> {
        if flow.inject.is_some() {
            return Ok(self.inject(flow)?.err().unwrap_or_else(|| "as expected".to_owned()));
        }
        Ok(self.world.prober(flow)?.probe(self.probe(flow)?)?.to_string())
    }

    fn inject(&self, flow: &Flow) -> Result<Result<(), String>> {
        let outcomes = inject(self.world, flow, self.patience.silence)?;
        Ok(judge(flow, &outcomes, self.world.view(flow)?))
    }

    /// The flows that are plain requests.
    fn probe_all(&self) -> Result<Vec<Broken>> {
        let (results, finished) = mpsc::channel();
        let mut outcomes: BTreeMap<usize, (&Flow, Vec<Outcome>)> = BTreeMap::new();
        for &(index, flow) in &self.flows {
            if flow.held.is_some() || flow.inject.is_some() || flow.idle.is_some() {
                continue;
            }
            let probe = Probe { tag: index, ..self.probe(flow)? };
            // Connections that are to find out about each other cannot be made at once.
            let parallel = if flow.affinity.is_some() || flow.source_port != 0 { 1 } else { PARALLEL };
            self.world.prober(flow)?.submit(vec![probe; self.connections(flow)], parallel, results.clone())?;
            outcomes.insert(index, (flow, Vec::new()));
        }
        drop(results);
        for finished in finished {
            if let Some((_, outcomes)) = outcomes.get_mut(&finished.probe.tag) {
                outcomes.push(finished.outcome);
            }
        }
        let mut broken = Vec::new();
        for (index, (flow, outcomes)) in outcomes {
            let verdict = judge(flow, &outcomes, self.world.view(flow)?);
            broken.extend(verdict.err().map(|what| (index, what)));
        }
        Ok(broken)
    }

    fn probe(&self, flow: &Flow) -> Result<Probe> {
        let timeout = match flow.expect {
            Expect::Drop | Expect::Closed => self.patience.silence,
            _ => self.patience.answer,
        };
        let request = match flow.expect {
            Expect::Health { .. } => Request::HttpGet("/".to_owned()),
            _ => Request::Ask,
        };
        let source = self.world.sender(flow)?.bind;
        let reset = flow.idle.is_some();
        Ok(Probe {
            source,
            source_port: flow.source_port,
            request,
            reset,
            ..Probe::ask(flow.to, flow.protocol, timeout)
        })
    }

    /// Flows with pauses. Those of one sender come one after the other: affinity is kept by the sender's address.
    fn one_by_one(&self) -> Result<Vec<Broken>> {
        let mut by_sender: BTreeMap<String, Vec<(usize, &Flow)>> = BTreeMap::new();
        for &(index, flow) in self.flows.iter().filter(|(_, flow)| flow.idle.is_some() && flow.held.is_none()) {
            by_sender.entry(flow.from.to_string()).or_default().push((index, flow));
        }
        let mut broken: Vec<Broken> = thread::scope(|scope| {
            let threads: Vec<_> = by_sender.into_values().map(|flows| scope.spawn(|| self.in_turn(flows))).collect();
            let mut broken = Vec::new();
            for thread in threads {
                broken.extend(thread.join().map_err(|_| anyhow!("a checking thread panicked"))??);
            }
            anyhow::Ok(broken)
        })?;
        broken.sort();
        Ok(broken)
    }

    fn in_turn(&self, flows: Vec<(usize, &Flow)>) -> Result<Vec<Broken>> {
        let mut broken = Vec::new();
        for (index, flow) in flows {
            let prober = self.world.prober(flow)?;
            let mut outcomes = Vec::new();
            for round in 0..flow.rounds.unwrap_or(2) {
                if round > 0 {
                    thread::sleep(flow.idle.unwrap_or_default());
                }
                outcomes.push(prober.probe(self.probe(flow)?)?);
            }
            let verdict = judge(flow, &outcomes, self.world.view(flow)?);
            broken.extend(verdict.err().map(|what| (index, what)));
        }
        Ok(broken)
    }

    /// How many connections show whether a flow holds.
    fn connections(&self, flow: &Flow) -> usize {
        if let Some(connections) = flow.connections {
            return connections.max(1);
        }
        match (&flow.expect, flow.affinity) {
            _ if flow.source_port != 0 => 1,
            (Expect::Endpoints(_), Some(Affinity::SameEndpoint | Affinity::Expires)) => self.per_endpoint,
            (Expect::Endpoints(endpoints), None) => self.per_endpoint * endpoints.len(),
            (Expect::Health { .. }, _) => 2,
            // From the node a refusal comes at once or not at all; no need to try often.
            _ if flow.from == From::Node(None) => TRIES / 2,
            _ => TRIES,
        }
    }
}
