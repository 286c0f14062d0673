//! The comparison of what is believed with the kernel, beside the work: a thread reads everything anew through sockets of
//! its own while changes are written as ever, and what it reads is compared little by little. It goes on reading as that is taken
//! from it, so that there is never much of it. What was written meanwhile may or may not have been read: it is left out.

use super::entries::Entries;
use super::names::Set;
use super::observe::Take;
use super::observed::{FoundServer, Observed};
use super::{Ipvs, Op};
use crate::backend::seen::Seen;
use crate::backend::{Audit, ObserveError};
use crate::kernel::interface::LocalRoute;
use crate::kernel::ipset::Entry;
use crate::model::IpFamily;
use foldhash::HashSet;
use ipnet::IpNet;
use iptables::{ChainName, Table};
use ipvs::{Command, ServiceId};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::time::Instant;

/// Facts that are compared before the clock is looked at.
const AT_ONCE: usize = 64;

/// Facts that are handed over together, and how often before somebody takes them.
const TOGETHER: usize = 128;
const AHEAD: usize = 4;

/// A comparison that is under way.
#[derive(Debug)]
pub struct Reading {
    read: Receiver<Piece>,
    comparison: Comparison,
    passed: Passed,
}

/// Something that was read.
enum Piece {
    Facts(Vec<Fact>),
    /// That was all of what grows with the number of services, and this is everything else; or it could not be read.
    Rest(Result<Box<Observed>, ObserveError>),
}

/// Hands over what is read.
struct Teller {
    told: SyncSender<Piece>,
    facts: Vec<Fact>,
}

impl Teller {
    /// Whoever asked may have given up meanwhile.
    fn tell(&mut self) {
        let _ = self.told.send(Piece::Facts(std::mem::take(&mut self.facts)));
    }

    fn add(&mut self, fact: Fact) {
        self.facts.push(fact);
        if self.facts.len() >= TOGETHER {
            self.tell();
        }
    }
}

impl Take for Teller {
    fn server(&mut self, server: FoundServer) {
        self.add(Fact::Server(server));
    }

    fn entry(&mut self, set: Set, entry: Entry) {
        self.add(Fact::Entry(set, entry));
    }
}

/// What was written since the reading began.
#[derive(Debug, Default)]
struct Passed {
    servers: HashSet<ServiceId>,
    entries: HashSet<(Set, Entry)>,
    nets: HashSet<IpNet>,
    chains: HashSet<(Table, ChainName)>,
    timeouts: bool,
}

/// One thing that was read.
#[derive(Debug)]
enum Fact {
    Server(FoundServer),
    Entry(Set, Entry),
    Route(LocalRoute),
    Address(IpNet),
}

/// What a fact is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum About {
    Server(ServiceId),
    Entry(Set, Entry),
    Route(IpNet),
    Address(IpNet),
}

/// What was read and is not compared yet, and what came of the comparison so far.
#[derive(Debug, Default)]
struct Comparison {
    facts: Vec<Fact>,
    /// What facts that hold are about. Some of them may be written to later.
    held: Seen,
    /// What does not grow with the number of services, when everything else was read.
    rest: Option<Box<Observed>>,
}

impl Reading {
    /// Starts to read. `open` makes the reader, in the thread's own sockets.
    ///
    /// # Errors
    /// When there can be no further thread.
    pub fn start(
        family: IpFamily,
        open: impl FnOnce() -> Result<Ipvs, ObserveError> + Send + 'static,
    ) -> Result<Self, ObserveError> {
        let (told, read) = sync_channel(AHEAD);
        let read_all = move || {
            let mut teller = Teller { told, facts: Vec::new() };
            let rest = open().and_then(|mut reader| reader.observe_into(family, Instant::now(), &mut teller));
            teller.tell();
            let _ = teller.told.send(Piece::Rest(rest.map(Box::new)));
        };
        let thread = std::thread::Builder::new().name("audit".into()).spawn(read_all);
        thread.map_err(|error| ObserveError::new("the thread of the audit", error))?;
        Ok(Self { read, comparison: Comparison::default(), passed: Passed::default() })
    }

    /// A step that is carried out meanwhile; `false` if what was read is of no use because of it.
    pub fn passed_over(&mut self, op: &Op) -> bool {
        self.passed.note(op)
    }

    /// Compares until that instant. When it is finished, it must not be asked again.
    ///
    /// # Errors
    /// When the kernel could not be read.
    pub fn step(&mut self, believed: &Observed, until: Instant) -> Result<Audit, ObserveError> {
        loop {
            if self.comparison.wants_more() {
                match self.read.try_recv() {
                    Err(TryRecvError::Empty) => return Ok(Audit::Unfinished),
                    Err(TryRecvError::Disconnected) => return Ok(Audit::Doubtful),
                    Ok(Piece::Facts(facts)) => self.comparison.facts = facts,
                    Ok(Piece::Rest(rest)) => self.comparison.end(rest?),
                }
            }
            let outcome = self.comparison.step(believed, &self.passed, until);
            if outcome != Audit::Unfinished || Instant::now() >= until {
                return Ok(outcome);
            }
        }
    }
}

impl Passed {
    fn note(&mut self, op: &Op) -> bool {
        match op {
            Op::AddEntry(set, entry) | Op::DeleteEntry(set, entry) => drop(self.entries.insert((*set, *entry))),
            Op::Route(route) | Op::Unroute(route) | Op::Bridge(route) | Op::Unbridge(route) => {
                self.nets.insert(route.net);
            }
            Op::AddAddress(net) | Op::DeleteAddress(net) => drop(self.nets.insert(*net)),
            Op::Rule(op) => drop(self.chains.insert((op.table(), op.chain()))),
            Op::Ipvs(command) => return self.note_command(command),
            Op::LeaveAlone(_) => {}
            Op::Sysctl(_) | Op::MakeInterface | Op::DeleteInterface | Op::MakeDetour | Op::DeleteDetour => {
                return false;
            }
            Op::MakeSet(_) | Op::DestroySet(_) => return false,
        }
        true
    }

    fn note_command(&mut self, command: &Command) -> bool {
        match command {
            Command::AddService(service) | Command::SetService(service) => drop(self.servers.insert(service.id)),
            Command::DeleteService(id) => drop(self.servers.insert(*id)),
            Command::AddDestination { service, .. }
            | Command::SetDestination { service, .. }
            | Command::DeleteDestination { service, .. } => drop(self.servers.insert(*service)),
            Command::SetTimeouts(_) => self.timeouts = true,
            _ => return false,
        }
        true
    }

    fn has(&self, fact: &Fact) -> bool {
        match fact.about() {
            About::Server(id) => self.servers.contains(&id),
            About::Entry(set, entry) => self.entries.contains(&(set, entry)),
            About::Route(net) | About::Address(net) => self.nets.contains(&net),
        }
    }

    /// What facts that were written to are about.
    fn about(&self) -> impl Iterator<Item = About> {
        let entries = self.entries.iter().map(|(set, entry)| About::Entry(*set, *entry));
        let nets = self.nets.iter().flat_map(|net| [About::Route(*net), About::Address(*net)]);
        self.servers.iter().map(|id| About::Server(*id)).chain(entries).chain(nets)
    }

    /// How many facts are believed that nothing was written to.
    fn others(&self, believed: &Observed) -> usize {
        let written = self.servers.iter().filter(|id| believed.servers.contains_key(id)).count()
            + self.entries.iter().filter(|(set, entry)| believed.has_entry(*set, entry)).count()
            + self.nets.iter().filter(|net| believed.routes.contains_key(net)).count()
            + self.nets.iter().filter(|net| believed.addresses.contains(net)).count();
        let entries: usize = believed.sets.values().map(Entries::len).sum();
        let all = believed.servers.len() + entries + believed.routes.len() + believed.addresses.len();
        all.saturating_sub(written)
    }
}

impl Comparison {
    fn wants_more(&self) -> bool {
        self.facts.is_empty() && self.rest.is_none()
    }

    /// There is no more to come than this.
    fn end(&mut self, mut rest: Box<Observed>) {
        self.facts.extend(std::mem::take(&mut rest.routes).into_values().map(Fact::Route));
        self.facts.extend(std::mem::take(&mut rest.addresses).into_iter().map(Fact::Address));
        self.rest = Some(rest);
    }

    /// Compares what there is, until that instant.
    fn step(&mut self, believed: &Observed, passed: &Passed, until: Instant) -> Audit {
        self.held.expect(|| passed.others(believed));
        loop {
            for _ in 0..AT_ONCE {
                let Some(fact) = self.facts.pop() else {
                    let Some(rest) = self.rest.take() else { return Audit::Unfinished };
                    let same = self.held.others(passed.about()) == passed.others(believed)
                        && rest_is_as(&rest, believed, passed);
                    return if same { Audit::Holds } else { Audit::Doubtful };
                };
                if passed.has(&fact) {
                    continue;
                }
                if !fact.is_believed(believed) {
                    return Audit::Doubtful;
                }
                self.held.insert(&fact.about());
            }
            if Instant::now() >= until {
                return Audit::Unfinished;
            }
        }
    }
}

fn rest_is_as(rest: &Observed, believed: &Observed, passed: &Passed) -> bool {
    let devices = |observed: &Observed| {
        let Observed { interface, interface_up, interface_foreign, interface_shared, detour, .. } = *observed;
        (interface, interface_up, interface_foreign, interface_shared, detour)
    };
    let sets = rest.sets.len() == believed.sets.len()
        && rest.sets.keys().all(|set| believed.sets.contains_key(set))
        && rest.unfit_sets == believed.unfit_sets;
    let bridges = rest.bridges == believed.bridges;
    let inherited = rest.inherited == believed.inherited;
    let timeouts = passed.timeouts || rest.timeouts == believed.timeouts;
    let rules = rest.rules.is_as(&believed.rules, |table, chain| passed.chains.contains(&(table, *chain)));
    let unset = rest.unset == believed.unset;
    devices(rest) == devices(believed) && sets && bridges && inherited && timeouts && rules && unset
}

impl Fact {
    fn about(&self) -> About {
        match self {
            Self::Server(server) => About::Server(server.service.id),
            Self::Entry(set, entry) => About::Entry(*set, *entry),
            Self::Route(route) => About::Route(route.net),
            Self::Address(net) => About::Address(*net),
        }
    }

    fn is_believed(&self, believed: &Observed) -> bool {
        match self {
            Self::Server(server) => believed.servers.get(&server.service.id).is_some_and(|known| same(known, server)),
            Self::Entry(set, entry) => believed.has_entry(*set, entry),
            Self::Route(route) => believed.routes.get(&route.net) == Some(route),
            Self::Address(net) => believed.addresses.contains(net),
        }
    }
}

/// Connections come and go; whoever waits for their end counts them.
fn same(one: &FoundServer, other: &FoundServer) -> bool {
    one.service == other.service
        && one.destinations.len() == other.destinations.len()
        && one.destinations.iter().zip(&other.destinations).all(|((place, one), (other_place, other))| {
            (place, one.weight, one.masqueraded) == (other_place, other.weight, other.masqueraded)
        })
}

#[cfg(test)]
#[path = "audit_tests.rs"]
mod tests;
