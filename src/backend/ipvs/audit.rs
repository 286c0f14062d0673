//! The comparison of what is believed with the kernel, beside the work: a thread reads everything anew through sockets of
//! its own while changes are written as ever; then the two are compared little by little. What was written meanwhile may or
//! may not have been read: it is left out.

use super::names::Set;
use super::observed::{FoundServer, Observed};
use super::{Ipvs, Op};
use crate::backend::{Audit, ObserveError};
use crate::kernel::interface::LocalRoute;
use crate::kernel::ipset::Entry;
use crate::model::IpFamily;
use foldhash::HashSet;
use ipnet::IpNet;
use iptables::{ChainName, Table};
use ipvs::{Command, ServiceId};

use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::time::Instant;

/// Facts that are compared before the clock is looked at.
const AT_ONCE: usize = 64;

/// A comparison that is under way.
#[derive(Debug)]
pub struct Reading {
    state: State,
    passed: Passed,
}

#[derive(Debug)]
enum State {
    Reading(Receiver<Result<Observed, ObserveError>>),
    Comparing(Box<Comparison>),
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
enum Fact {
    Server(FoundServer),
    Entry(Set, Entry),
    Route(LocalRoute),
    Address(IpNet),
}

/// What was read, and how far it was compared.
struct Comparison {
    facts: Box<dyn Iterator<Item = Fact> + Send>,
    /// Facts that hold, and that nothing was written to.
    held: usize,
    /// What does not grow with the number of services.
    rest: Observed,
}

impl std::fmt::Debug for Comparison {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Comparison").field("held", &self.held).finish_non_exhaustive()
    }
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
        let (sender, found) = sync_channel(1);
        let read = move || {
            // Whoever asked may have given up meanwhile.
            let _ = sender.send(open().and_then(|mut reader| reader.observe_family(family, Instant::now())));
        };
        let thread = std::thread::Builder::new().name("audit".into()).spawn(read);
        thread.map_err(|error| ObserveError::new("the thread of the audit", error))?;
        Ok(Self { state: State::Reading(found), passed: Passed::default() })
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
        if let State::Reading(found) = &self.state {
            match found.try_recv() {
                Err(TryRecvError::Empty) => return Ok(Audit::Unfinished),
                Err(TryRecvError::Disconnected) => return Ok(Audit::Doubtful),
                Ok(found) => self.state = State::Comparing(Box::new(Comparison::new(found?))),
            }
        }
        match &mut self.state {
            State::Reading(_) => Ok(Audit::Unfinished),
            State::Comparing(comparison) => Ok(comparison.step(believed, &self.passed, until)),
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
        match fact {
            Fact::Server(server) => self.servers.contains(&server.service.id),
            Fact::Entry(set, entry) => self.entries.contains(&(*set, *entry)),
            Fact::Route(LocalRoute { net, .. }) | Fact::Address(net) => self.nets.contains(net),
        }
    }

    /// How many facts are believed that nothing was written to.
    fn others(&self, believed: &Observed) -> usize {
        let written = self.servers.iter().filter(|id| believed.servers.contains_key(id)).count()
            + self.entries.iter().filter(|(set, entry)| believed.has_entry(*set, entry)).count()
            + self.nets.iter().filter(|net| believed.routes.contains_key(net)).count()
            + self.nets.iter().filter(|net| believed.addresses.contains(net)).count();
        let entries: usize = believed.sets.values().map(HashSet::len).sum();
        let all = believed.servers.len() + entries + believed.routes.len() + believed.addresses.len();
        all.saturating_sub(written)
    }
}

impl Comparison {
    fn new(mut found: Observed) -> Self {
        let servers = std::mem::take(&mut found.servers).into_values().map(Fact::Server);
        let mut sets = Vec::new();
        for (set, entries) in &mut found.sets {
            sets.push((*set, std::mem::take(entries)));
        }
        let entries = sets.into_iter().flat_map(|(set, entries)| entries.into_iter().map(move |e| Fact::Entry(set, e)));
        let routes = std::mem::take(&mut found.routes).into_values().map(Fact::Route);
        let addresses = std::mem::take(&mut found.addresses).into_iter().map(Fact::Address);
        let facts = Box::new(servers.chain(entries).chain(routes).chain(addresses));
        Self { facts, held: 0, rest: found }
    }

    fn step(&mut self, believed: &Observed, passed: &Passed, until: Instant) -> Audit {
        loop {
            for _ in 0..AT_ONCE {
                let Some(fact) = self.facts.next() else {
                    let same = self.held == passed.others(believed) && self.rest_is_as(believed, passed);
                    return if same { Audit::Holds } else { Audit::Doubtful };
                };
                if passed.has(&fact) {
                    continue;
                }
                if !fact.is_believed(believed) {
                    return Audit::Doubtful;
                }
                self.held += 1;
            }
            if Instant::now() >= until {
                return Audit::Unfinished;
            }
        }
    }

    fn rest_is_as(&self, believed: &Observed, passed: &Passed) -> bool {
        let devices = |observed: &Observed| {
            (observed.interface, observed.interface_up, observed.interface_shared, observed.detour)
        };
        let sets = self.rest.sets.len() == believed.sets.len()
            && self.rest.sets.keys().all(|set| believed.sets.contains_key(set))
            && self.rest.unfit_sets == believed.unfit_sets;
        let bridges = self.rest.bridges == believed.bridges;
        let inherited = self.rest.inherited == believed.inherited;
        let timeouts = passed.timeouts || self.rest.timeouts == believed.timeouts;
        let rules = self.rest.rules.is_as(&believed.rules, |table, chain| passed.chains.contains(&(table, *chain)));
        let unset = self.rest.unset == believed.unset;
        devices(&self.rest) == devices(believed) && sets && bridges && inherited && timeouts && rules && unset
    }
}

impl Fact {
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
mod tests {
    use super::super::observed::FoundDestination;
    use super::*;
    use foldhash::HashMap;
    use ipvs::{Destination, Protocol, Scheduler, Service};
    use litemap::LiteMap;
    use std::net::{IpAddr, SocketAddr};

    fn id(number: u8) -> ServiceId {
        ServiceId::new(Protocol::Tcp, IpAddr::from([172, 30, 0, number]), 80)
    }

    fn place(number: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, number], 8080))
    }

    fn server(number: u8) -> FoundServer {
        let found = FoundDestination { weight: 1, masqueraded: true, connections: 0, drained_since: None };
        let service = Service::new(id(number), Scheduler::Rr);
        FoundServer { service, destinations: LiteMap::from_iter([(place(number), found)]) }
    }

    fn entry(number: u8) -> Entry {
        Entry::Net(IpAddr::from([192, 0, 2, number]).into())
    }

    fn believed() -> Observed {
        let net: IpNet = "192.0.2.1/32".parse().unwrap();
        Observed {
            servers: (1..=200).map(|number| (id(number), server(number))).collect(),
            sets: HashMap::from_iter([(Set::Addresses, (1..=3).map(entry).collect())]),
            routes: [(net, LocalRoute { net, source: None, protocol: 0 })].into(),
            addresses: [net].into(),
            interface: true,
            ..Observed::default()
        }
    }

    fn set(found: &mut Observed) -> &mut HashSet<Entry> {
        found.sets.get_mut(&Set::Addresses).unwrap()
    }

    /// What somebody changed, and the step of ours that would excuse it.
    type Case = (fn(&mut Observed), Option<Op>);

    fn compared(found: Observed, believed: &Observed, ops: &[Op]) -> Audit {
        let mut passed = Passed::default();
        assert!(ops.iter().all(|op| passed.note(op)));
        let mut comparison = Comparison::new(found);
        let past = Instant::now();
        for slice in 0.. {
            match comparison.step(believed, &passed, past) {
                Audit::Unfinished => assert!(slice < 10),
                outcome => return outcome,
            }
        }
        unreachable!()
    }

    #[test]
    fn what_is_as_believed_holds_piece_by_piece() {
        let mut found = believed();
        // Connections are no difference.
        found.servers.get_mut(&id(7)).unwrap().destinations.get_mut(&place(7)).unwrap().connections = 9;
        assert_eq!(compared(found, &believed(), &[]), Audit::Holds);
        let mut comparison = Comparison::new(believed());
        assert_eq!(comparison.step(&believed(), &Passed::default(), Instant::now()), Audit::Unfinished);
    }

    #[test]
    fn every_difference_is_seen_but_where_we_wrote_meanwhile() {
        let destination = Destination::new(place(1).ip(), 8080, 1);
        let command = Op::Ipvs(Command::SetDestination { service: id(1), destination });
        let net: IpNet = "192.0.2.1/32".parse().unwrap();
        let route = LocalRoute { net, source: None, protocol: 0 };
        let cases: Vec<Case> = vec![
            (|found| drop(found.servers.remove(&id(1))), Some(command.clone())),
            (|found| found.servers.get_mut(&id(1)).unwrap().destinations.clear(), Some(command.clone())),
            (
                |found| {
                    let server = found.servers.get_mut(&id(1)).unwrap();
                    server.destinations.iter_mut().map(|(_, found)| found).for_each(|found| found.weight = 0);
                },
                Some(command.clone()),
            ),
            (|found| found.servers.get_mut(&id(1)).unwrap().service.scheduler = Scheduler::Lc, Some(command)),
            (|found| drop(found.servers.insert(id(201), server(201))), Some(Op::Ipvs(Command::DeleteService(id(201))))),
            (|found| set(found).retain(|known| *known != entry(1)), Some(Op::AddEntry(Set::Addresses, entry(1)))),
            (|found| set(found).extend([entry(9)]), Some(Op::DeleteEntry(Set::Addresses, entry(9)))),
            (|found| found.routes.clear(), Some(Op::Route(route))),
            (|found| found.addresses.clear(), Some(Op::AddAddress(net))),
            (|found| found.interface = false, None),
            (|found| found.sets.clear(), None),
        ];
        for (index, (change, op)) in cases.into_iter().enumerate() {
            let mut found = believed();
            change(&mut found);
            assert_eq!(compared(found, &believed(), &[]), Audit::Doubtful, "case {index}");
            let Some(op) = op else { continue };
            let mut found = believed();
            change(&mut found);
            assert_eq!(compared(found, &believed(), &[op]), Audit::Holds, "case {index}, written meanwhile");
        }
        assert!(!Passed::default().note(&Op::DeleteInterface), "nothing that was read counts then");
    }
}
