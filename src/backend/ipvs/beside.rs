//! The virtual servers of a cold start, written on a thread of its own: while the kernel takes those of one piece, the next
//! piece is planned and its sets are written.

use super::observed::Observed;
use super::verdict::{aftermath_of, taken, unserved};
use super::{Ipvs, Op};
use crate::backend::{Aftermath, Failure};
use crate::model::IpFamily;
use ipvs::netlink::Counters;
use ipvs::{Client, Command, Error, Prepared, ServiceId};
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::thread;

/// Pieces that wait while one is being written.
const WAITING: usize = 1;

/// The thread, with a connection to the kernel of its own.
#[derive(Debug)]
pub struct Scribe {
    pieces: SyncSender<Prepared>,
    outcomes: Receiver<Outcome>,
    /// Pieces without an outcome so far.
    under_way: usize,
    /// What the connection had sent and received by the last outcome.
    counters: Counters,
}

/// What became of a piece.
#[derive(Debug)]
struct Outcome {
    /// What the kernel did not take, and why.
    failed: Vec<(Command, Error)>,
    counters: Counters,
}

impl Scribe {
    /// Begins, in the network namespace of the calling thread; `None` where that is not possible.
    fn start() -> Option<Self> {
        let mut client = Client::connect().ok()?;
        let (pieces, queue) = sync_channel::<Prepared>(WAITING);
        let (told, outcomes) = channel();
        let work = move || {
            for piece in queue {
                let failed = client.execute_prepared(piece);
                if told.send(Outcome { failed, counters: client.counters() }).is_err() {
                    return;
                }
            }
        };
        thread::Builder::new().name("ipvs write".to_owned()).spawn(work).ok()?;
        Some(Self { pieces, outcomes, under_way: 0, counters: Counters::default() })
    }
}

/// Nothing but virtual servers and destinations that are added: what is taken back is simply not there.
fn only_adds(ops: &[Op]) -> bool {
    ops.iter().all(|op| matches!(op, Op::Ipvs(Command::AddService(_) | Command::AddDestination { .. })))
}

/// Virtual servers that were there already, and how what was put into them goes again.
fn intruders(failed: &[(Command, Error)], observed: &Observed) -> HashMap<ServiceId, Vec<Command>> {
    let mut intruders: HashMap<ServiceId, Vec<Command>> = HashMap::new();
    for id in failed.iter().filter_map(|(command, error)| taken(command, error)) {
        let refused: HashSet<SocketAddr> = failed.iter().filter_map(|(command, _)| added_to(&id, command)).collect();
        let believed = observed.servers.get(&id).into_iter().flat_map(|server| server.destinations.keys().copied());
        let ours = believed.filter(|address| !refused.contains(address));
        let undo = |at: SocketAddr| Command::DeleteDestination { service: id, address: at.ip(), port: at.port() };
        intruders.insert(id, ours.map(undo).collect());
    }
    intruders
}

fn added_to(id: &ServiceId, command: &Command) -> Option<SocketAddr> {
    match command {
        Command::AddDestination { service, destination } if service == id => {
            Some(SocketAddr::new(destination.address, destination.port))
        }
        _ => None,
    }
}

impl Ipvs {
    /// Carries out a piece. Where its virtual servers are the last of it, this returns before the kernel has them, and the
    /// belief has them already; [`Ipvs::settle_all`] takes back what failed. What it returns is of pieces before.
    pub(super) fn apply_beside(
        &mut self,
        family: IpFamily,
        mut plan: Vec<Op>,
        observed: &mut Observed,
    ) -> Vec<Failure> {
        if plan.is_empty() {
            return Vec::new();
        }
        let first = plan.iter().position(|op| matches!(op, Op::Ipvs(_))).unwrap_or(plan.len());
        let servers = plan.split_off(first);
        if servers.is_empty() || !only_adds(&servers) || !self.has_scribe() {
            plan.extend(servers);
            let mut failures = self.settle_all(observed);
            failures.extend(self.apply_all(family, plan, observed));
            return failures;
        }
        let mut failures = self.apply_all(family, plan, observed);
        // A virtual server that could not be recorded as ours must not be made.
        if failures.is_empty() {
            observed.acknowledge_additions(&servers);
            let commands =
                servers.into_iter().filter_map(|op| if let Op::Ipvs(command) = op { Some(command) } else { None });
            failures.extend(self.write_beside(commands.collect(), observed));
        }
        failures
    }

    fn has_scribe(&mut self) -> bool {
        if self.scribe.is_none() {
            self.scribe = Scribe::start();
        }
        self.scribe.is_some()
    }

    /// Hands the commands over, as soon as there is room, and takes in what has happened meanwhile.
    fn write_beside(&mut self, commands: Vec<Command>, observed: &mut Observed) -> Vec<Failure> {
        // Encoded here: that thread is the one that is waited for.
        let piece = self.client.prepare(commands);
        let Some(scribe) = &mut self.scribe else { return Vec::new() };
        scribe.under_way += 1;
        // A thread that is gone is noticed by whoever waits for its outcomes.
        let _ = scribe.pieces.send(piece);
        let told: Vec<Outcome> = scribe.outcomes.try_iter().collect();
        told.into_iter().flat_map(|outcome| self.take_in(outcome, observed)).collect()
    }

    /// Waits for the pieces that are under way, and lets the thread go.
    pub(super) fn settle_all(&mut self, observed: &mut Observed) -> Vec<Failure> {
        let mut failures = Vec::new();
        while let Some(scribe) = self.scribe.as_mut().filter(|scribe| scribe.under_way > 0) {
            match scribe.outcomes.recv() {
                Ok(outcome) => failures.extend(self.take_in(outcome, observed)),
                Err(_) => {
                    scribe.under_way = 0;
                    let (step, reason) = ("write virtual servers".to_owned(), "the thread for it ended".to_owned());
                    failures.push(Failure { step, reason, aftermath: Aftermath::Unknown, of_one: false });
                }
            }
        }
        self.scribe = None;
        failures
    }

    fn take_in(&mut self, outcome: Outcome, observed: &mut Observed) -> Vec<Failure> {
        let Outcome { failed, counters } = outcome;
        if let Some(scribe) = &mut self.scribe {
            scribe.under_way = scribe.under_way.saturating_sub(1);
            let before = std::mem::replace(&mut scribe.counters, counters);
            self.effort.messages += counters.messages.saturating_sub(before.messages);
            let calls = |counters: Counters| counters.sends + counters.receives;
            self.effort.syscalls += calls(counters).saturating_sub(calls(before));
        }
        let mut failures = Vec::with_capacity(failed.len());
        self.give_back(intruders(&failed, observed), observed);
        let unserved = unserved(failed.iter().map(|(command, error)| (command, error)));
        for (command, error) in failed {
            self.learn_missing_scheduler(&command, &error);
            observed.take_back(&command);
            let (step, reason) = (command.to_string(), error.to_string());
            let aftermath = aftermath_of(&command, &error, &unserved);
            failures.push(Failure { step, reason, aftermath, of_one: true });
        }
        failures
    }
}
