//! What of IPVS mode is in the kernel, in one family, as far as we know.

use super::entries::Entries;
use super::names::Set;
use super::wanted::{self, Shared, entry_of};
use super::{Op, Ours, timeouts};
use crate::backend::kube_proxy::Recorded;
use crate::backend::rules::Found;
use crate::desired::{Desired, NodeRules, ServicePort, ServicePortKey, Touched};
use crate::kernel::interface::{FoundDetour, LocalRoute};
use crate::kernel::ipset::Entry;
use crate::kernel::sysctl::Setting;
use foldhash::quality::RandomState;
use foldhash::{HashMap, HashSet};
use imbl::OrdMap;
use ipnet::IpNet;
use ipvs::{Command, Service, ServiceId, Timeouts};
use litemap::LiteMap;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, Hash};
use std::marker::PhantomData;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

/// A destination that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FoundDestination {
    /// Its weight.
    pub weight: u32,
    /// It is masqueraded, as all of ours are.
    pub masqueraded: bool,
    /// Connections, established or not, when they were last counted.
    pub connections: u64,
    /// Since when it has been seen with weight 0.
    pub drained_since: Option<Instant>,
}

/// A virtual server that is there, ours or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundServer {
    /// Its configuration.
    pub service: Service,
    /// Its destinations.
    pub destinations: LiteMap<SocketAddr, FoundDestination>,
}

impl FoundDestination {
    /// Just written by us.
    fn set_to(weight: u32, connections: u64) -> Self {
        // A destination that starts to drain may have connections that were not counted yet.
        let connections = if weight == 0 { connections.max(1) } else { connections };
        Self { weight, masqueraded: true, connections, drained_since: None }
    }
}

impl FoundServer {
    fn drains(&self) -> bool {
        self.destinations.values().any(|found| found.weight == 0)
    }
}

/// Counts who asks for something that several service ports may share. Of each thing a number is kept, which tells it from any
/// other: there are as many as endpoints. Were two ever the same, one would stay until everything is compared again.
#[derive(Debug, Clone)]
pub struct Uses<T> {
    numbers: RandomState,
    /// What one asks for: nearly all.
    single: HashSet<u64>,
    /// What several ask for, and how many.
    several: HashMap<u64, u32>,
    of: PhantomData<T>,
}

impl<T> Default for Uses<T> {
    fn default() -> Self {
        let (single, several) = (HashSet::default(), HashMap::default());
        Self { numbers: RandomState::default(), single, several, of: PhantomData }
    }
}

impl<T: Hash> Uses<T> {
    /// How many ask for it.
    pub fn count(&self, item: &T) -> u32 {
        self.count_of(self.numbers.hash_one(item))
    }

    fn count_of(&self, number: u64) -> u32 {
        self.several.get(&number).copied().unwrap_or_else(|| u32::from(self.single.contains(&number)))
    }

    fn change(&mut self, item: &T, by: i64) {
        let number = self.numbers.hash_one(item);
        let count = (i64::from(self.count_of(number)) + by).max(0);
        if count == 1 {
            self.single.insert(number)
        } else {
            self.single.remove(&number)
        };
        if count > 1 {
            self.several.insert(number, u32::try_from(count).unwrap_or(u32::MAX));
        } else {
            self.several.remove(&number);
        }
    }
}

/// What was wanted when the kernel was last brought there, and who shares what of it.
#[derive(Debug, Clone)]
pub struct Previous {
    /// The service ports.
    pub ports: OrdMap<ServicePortKey, Arc<ServicePort>>,
    /// What held for the whole node.
    pub rules: Arc<NodeRules>,
    /// Entries of the set against hairpin.
    pub loop_back: Uses<Entry>,
    /// Addresses routed to us.
    pub bindings: Uses<IpAddr>,
}

/// The belief.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// All virtual servers with an address of the family.
    pub servers: HashMap<ServiceId, FoundServer>,
    /// Those that have a destination of weight 0, so that a change need not look at all.
    pub drains: HashSet<ServiceId>,
    /// The device is there.
    pub interface: bool,
    /// The device is up: IPv6 takes no routes to one that is down.
    pub interface_up: bool,
    /// The device is somebody else's, of another kind.
    pub interface_foreign: bool,
    /// Somebody else's addresses, or the other family's, are on the device.
    pub interface_shared: bool,
    /// The detour of node ports on localhost.
    pub detour: FoundDetour,
    /// Routes of ours.
    pub routes: BTreeMap<IpNet, LocalRoute>,
    /// Routes of ours to the loopback device, left by a run that ended in the midst of [`Op::Bridge`].
    pub bridges: BTreeSet<LocalRoute>,
    /// Addresses on the device.
    pub addresses: BTreeSet<IpNet>,
    /// Sets that are there and fit.
    pub sets: HashMap<Set, Entries>,
    /// What a kube-proxy that ran here before us made, by its own sets.
    pub inherited: Recorded,
    /// That is not to be taken over: kube-proxy runs again.
    pub spares_inherited: bool,
    /// Sets of our names that are of no use.
    pub unfit_sets: Vec<Set>,
    /// Rules.
    pub rules: Found,
    /// How long connections live on which nothing happens; `None` if it was not read.
    pub timeouts: Option<Timeouts>,
    /// Settings that are not as they should be.
    pub unset: Vec<Setting>,
    /// We have set `route_localnet`, for iptables mode.
    pub localnet_open: bool,
    /// `None` after reading.
    pub previous: Option<Previous>,
}

impl Observed {
    /// Whether a virtual server is recorded as ours. Our sets are the ledger: an entry is written before its virtual
    /// server is made and taken out after it is gone, and survives us. kube-proxy's sets are its ledger: what it made is
    /// ours as well, as it must not run beside us.
    pub fn is_recorded(&self, id: &ServiceId) -> bool {
        let Some(entry) = entry_of(id) else { return false };
        let ours = Set::LEDGER.iter().any(|set| self.has_entry(*set, &entry));
        let bound = |address| self.addresses.contains(&wanted::host(address));
        let inherited = self.inherited.has_server(&entry, bound);
        if self.spares_inherited { ours && !inherited } else { ours || inherited }
    }

    /// Whether an address on the device was put there by us, or by a kube-proxy before us.
    pub fn is_own_address(&self, net: &IpNet) -> bool {
        let single = *net == wanted::host(net.addr());
        let inherited = single && self.inherited.there;
        let ours = self.has_entry(Set::Addresses, &Entry::Net(*net));
        if self.spares_inherited { ours && !inherited } else { ours || inherited }
    }

    /// Whether nothing of ours is there that a service could have asked for.
    pub fn is_empty(&self) -> bool {
        let nothing = self.routes.is_empty() && self.bridges.is_empty() && self.addresses.is_empty();
        nothing && !self.inherited.there && self.sets.values().all(Entries::is_empty)
    }

    /// Whether a set has an entry.
    pub fn has_entry(&self, set: Set, entry: &Entry) -> bool {
        self.sets.get(&set).is_some_and(|entries| entries.contains(entry))
    }

    /// Takes note of a step that the kernel acknowledged.
    pub fn acknowledge(&mut self, op: &Op) {
        match op {
            Op::Sysctl(setting) => self.unset.retain(|unset| unset.path != setting.path),
            Op::MakeInterface => {
                (self.interface, self.interface_up, self.interface_foreign) = (true, true, false);
            }
            Op::DeleteInterface => {
                *self = Self { interface: false, interface_up: false, routes: BTreeMap::new(), ..std::mem::take(self) }
            }
            Op::MakeDetour => self.detour = FoundDetour::Whole,
            Op::DeleteDetour => self.detour = FoundDetour::Missing,
            Op::MakeSet(set) => {
                self.unfit_sets.retain(|unfit| unfit != set);
                self.sets.insert(*set, Entries::default());
            }
            Op::DestroySet(set) => {
                self.unfit_sets.retain(|unfit| unfit != set);
                self.sets.remove(set);
            }
            Op::AddEntry(set, entry) => {
                self.sets.entry(*set).or_default().insert(*entry);
            }
            Op::DeleteEntry(set, entry) => {
                if let Some(entries) = self.sets.get_mut(set) {
                    entries.remove(entry);
                }
            }
            Op::Route(route) => {
                self.routes.insert(route.net, *route);
                // It took the place of that one.
                self.bridges.remove(route);
            }
            Op::Unroute(route) => {
                self.routes.remove(&route.net);
            }
            Op::Bridge(route) => {
                self.bridges.insert(*route);
            }
            Op::Unbridge(route) => {
                self.bridges.remove(route);
            }
            Op::AddAddress(net) => {
                self.addresses.insert(*net);
            }
            Op::DeleteAddress(net) => {
                self.addresses.remove(net);
            }
            Op::Rule(op) => self.rules.acknowledge(op, &Ours),
            Op::Ipvs(command) => self.acknowledge_command(command),
            Op::LeaveAlone(_) => {}
        }
    }

    fn acknowledge_command(&mut self, command: &Command) {
        match command {
            Command::AddService(service) => {
                let server = FoundServer { service: service.clone(), destinations: LiteMap::new() };
                self.servers.insert(service.id, server);
            }
            Command::SetService(service) => {
                if let Some(server) = self.servers.get_mut(&service.id) {
                    server.service = service.clone();
                }
            }
            Command::DeleteService(id) => {
                self.servers.remove(id);
                self.drains.remove(id);
            }
            Command::AddDestination { service, destination } | Command::SetDestination { service, destination } => {
                let Some(server) = self.servers.get_mut(service) else { return };
                let address = SocketAddr::new(destination.address, destination.port);
                let connections = server.destinations.get(&address).map_or(0, |found| found.connections);
                server.destinations.insert(address, FoundDestination::set_to(destination.weight, connections));
                self.look_for_drains(service, destination.weight);
            }
            Command::DeleteDestination { service, address, port } => {
                if let Some(server) = self.servers.get_mut(service) {
                    server.destinations.remove(&SocketAddr::new(*address, *port));
                }
                self.look_for_drains(service, 0);
            }
            Command::SetTimeouts(set) => self.timeouts = Some(timeouts::after(*set, self.timeouts)),
            _ => {}
        }
    }

    /// Takes note of virtual servers with their destinations right behind them, which are not looked for one by one then.
    pub fn acknowledge_additions(&mut self, ops: &[Op]) {
        let mut rest = ops;
        while let Some((first, behind)) = rest.split_first() {
            rest = behind;
            let Op::Ipvs(Command::AddService(service)) = first else {
                self.acknowledge(first);
                continue;
            };
            let own = |op: &Op| match op {
                Op::Ipvs(Command::AddDestination { service: of, destination }) if *of == service.id => {
                    Some((SocketAddr::new(destination.address, destination.port), destination.weight))
                }
                _ => None,
            };
            let count = rest.iter().map_while(own).count();
            let (mut destinations, mut drains) = (LiteMap::with_capacity(count), false);
            for (address, weight) in rest.iter().map_while(own) {
                drains |= weight == 0;
                destinations.insert(address, FoundDestination::set_to(weight, 0));
            }
            rest = rest.get(count..).unwrap_or_default();
            self.servers.insert(service.id, FoundServer { service: service.clone(), destinations });
            if drains {
                self.drains.insert(service.id);
            }
        }
    }

    /// An addition that was taken for done was not.
    pub fn take_back(&mut self, command: &Command) {
        match command {
            Command::AddService(service) => self.acknowledge_command(&Command::DeleteService(service.id)),
            Command::AddDestination { service, destination } => {
                let (service, address, port) = (*service, destination.address, destination.port);
                self.acknowledge_command(&Command::DeleteDestination { service, address, port });
            }
            _ => {}
        }
    }

    fn look_for_drains(&mut self, id: &ServiceId, weight: u32) {
        if weight > 0 && !self.drains.contains(id) {
            return;
        }
        if self.servers.get(id).is_some_and(FoundServer::drains) {
            self.drains.insert(*id);
        } else {
            self.drains.remove(id);
        }
    }

    /// The virtual servers were read.
    pub fn look_for_all_drains(&mut self) {
        self.drains = self.servers.iter().filter(|(_, server)| server.drains()).map(|(id, _)| *id).collect();
    }

    /// Destinations of ours that take no new connections.
    pub fn draining(&self) -> impl Iterator<Item = &FoundDestination> {
        let own = self.drains.iter().filter(|id| self.is_recorded(id)).filter_map(|id| self.servers.get(id));
        own.flat_map(|server| server.destinations.values()).filter(|found| found.weight == 0)
    }

    /// The kernel is as desired now: remembers who shares what, so that the next change need not look at all.
    pub fn remember(
        &mut self,
        desired: &Desired,
        touched: Touched<'_>,
        shared: &dyn Fn(&ServicePort, &NodeRules) -> Shared,
    ) {
        let Some(rules) = desired.rules.clone().filter(|_| !desired.retiring) else {
            self.previous = None;
            return;
        };
        let previous = match (self.previous.take(), touched) {
            (Some(mut previous), Touched::Ports(keys)) if previous.rules == rules => {
                for key in keys {
                    let (old, new) = (previous.ports.get(key).cloned(), desired.ports.get(key).cloned());
                    previous.count(old.as_deref().map(|port| shared(port, &rules)), -1);
                    previous.count(new.as_deref().map(|port| shared(port, &rules)), 1);
                }
                Previous { ports: desired.ports.clone(), ..previous }
            }
            _ => {
                let mut previous = Previous {
                    ports: desired.ports.clone(),
                    rules: rules.clone(),
                    loop_back: Uses::default(),
                    bindings: Uses::default(),
                };
                for port in desired.ports.values() {
                    previous.count(Some(shared(port, &rules)), 1);
                }
                previous
            }
        };
        self.previous = Some(previous);
    }
}

impl Previous {
    fn count(&mut self, shared: Option<Shared>, by: i64) {
        let Some(Shared { loop_back, bindings }) = shared else { return };
        loop_back.iter().for_each(|entry| self.loop_back.change(entry, by));
        bindings.iter().for_each(|address| self.bindings.change(address, by));
    }
}

#[cfg(test)]
#[path = "inherited_tests.rs"]
mod tests;

/// The network of an address as the set of served addresses holds it.
pub fn address_entry(address: IpAddr) -> Entry {
    Entry::Net(wanted::host(address))
}
