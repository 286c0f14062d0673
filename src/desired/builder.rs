//! From snapshots to what is desired, touching only what a new snapshot changes.
//!
//! [`Builder::update`] is a function of the snapshot, the node's facts and the drains that are under way; feeding it any
//! sequence of snapshots gives the same result as feeding it the last one, except for what drains.

mod compile;
mod drains;
mod outcome;
mod pass;

pub use outcome::{Change, Extent, Refusal};

use self::compile::served;
use self::pass::{Again, Item, Pass, items, with_gone, with_those_of};
use super::claims::{self, Claims, Frontend};
use super::health::{self, HealthChecks};
use super::node::{answering_addresses, api_servers, never_captured};
use super::ranges::Ranges;
use super::topology::Place;
use super::{Desired, NodeFacts, NodeRules, ServicePort, ServicePortKey, Settings, drain};
use crate::model::{self, IpFamily, PerFamily, Service, ServiceName, Snapshot, filling};
use imbl::{OrdMap, OrdSet};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

/// Services from one telling to the next.
const AT_ONCE: usize = if cfg!(test) { 2 } else { 500 };

/// Holds the last snapshot and what followed from it.
#[derive(Debug)]
pub struct Builder {
    settings: Arc<Settings>,
    /// The settings are other ones than those that what is desired was made with.
    stale: bool,
    snapshot: Snapshot,
    facts: NodeFacts,
    place: Place,
    never_captured: BTreeSet<IpAddr>,
    api_servers: BTreeSet<SocketAddr>,
    ranges: Ranges,
    claims: Claims,
    desired: PerFamily<Desired>,
    draining: PerFamily<OrdMap<ServicePortKey, Arc<ServicePort>>>,
    /// When something of a service port ends to drain, at the soonest.
    deadlines: PerFamily<BTreeSet<(Instant, ServicePortKey)>>,
    refusals: BTreeMap<(ServicePortKey, IpFamily), Vec<String>>,
    health_checks: HealthChecks,
    /// Services that ask for what only IPVS has.
    ipvs_only: OrdSet<ServiceName>,
    /// Endpoints bear the names of their pods.
    names_pods: bool,
}

impl Builder {
    /// A builder that desires nothing yet.
    pub fn new(settings: Arc<Settings>) -> Self {
        Self {
            settings,
            stale: false,
            snapshot: Snapshot::default(),
            facts: NodeFacts::default(),
            place: Place::default(),
            never_captured: BTreeSet::new(),
            api_servers: BTreeSet::new(),
            ranges: Ranges::default(),
            claims: Claims::default(),
            desired: PerFamily::default(),
            draining: PerFamily::default(),
            deadlines: PerFamily::default(),
            refusals: BTreeMap::new(),
            health_checks: HealthChecks::default(),
            ipvs_only: OrdSet::new(),
            names_pods: false,
        }
    }

    /// With the names of pods, for people. Forwarding needs none, and they take more room than the addresses.
    #[must_use]
    pub fn naming_pods(self) -> Self {
        Self { names_pods: true, ..self }
    }

    /// These are the settings from now on; the next update goes over everything.
    pub fn set_settings(&mut self, settings: Arc<Settings>) {
        self.stale |= self.settings != settings;
        self.settings = settings;
    }

    /// What is desired now.
    pub fn desired(&self) -> &PerFamily<Desired> {
        &self.desired
    }

    /// What load balancers are told; `None` before the source has listed everything, when the counts would be too low.
    pub fn health_checks(&self) -> Option<&HealthChecks> {
        self.snapshot.complete.then_some(&self.health_checks)
    }

    /// The service ports of a family of which something drains.
    pub fn draining(&self, family: IpFamily) -> &OrdMap<ServicePortKey, Arc<ServicePort>> {
        self.draining.get(family)
    }

    /// Everything that is refused at present.
    pub fn refusals(&self) -> impl Iterator<Item = Refusal> {
        let each = |((port, _), reasons): (&(ServicePortKey, IpFamily), &Vec<String>)| {
            let port = port.clone();
            reasons.clone().into_iter().map(move |reason| Refusal { port: port.clone(), reason })
        };
        self.refusals.iter().flat_map(each)
    }

    /// The Services that ask, with our own annotations, for what only IPVS has.
    pub fn ipvs_only(&self) -> &OrdSet<ServiceName> {
        &self.ipvs_only
    }

    /// Takes in a snapshot and the node's facts.
    pub fn update(&mut self, snapshot: &Snapshot, facts: &NodeFacts, now: Instant) -> Change {
        self.update_telling(snapshot, facts, now, |_, _| ())
    }

    /// The same. Where there was nothing before, `each` is told what is desired from time to time, and how far that goes: up to
    /// there it stays as it is. So who writes it to the kernel need not wait for the rest. First comes what holds for the whole
    /// node.
    pub fn update_telling(
        &mut self,
        snapshot: &Snapshot,
        facts: &NodeFacts,
        now: Instant,
        mut each: impl FnMut(&PerFamily<Desired>, Extent),
    ) -> Change {
        if self.begins_with(snapshot) && !self.is_empty() {
            // Where all but all is new, nothing is gained by comparing it with what was there.
            *self = Self { names_pods: self.names_pods, ..Self::new(self.settings.clone()) };
        }
        let mut change = Change::default();
        let first = self.is_empty();
        let before = std::mem::replace(&mut self.snapshot, snapshot.clone());
        let nothing_yet = before.services.is_empty() && before.slices.is_empty();
        let changed = if nothing_yet { Vec::new() } else { before.changed_services(snapshot) };
        let mut services: Vec<Item<'_>> =
            if nothing_yet { Item::all(snapshot) } else { items(&changed, snapshot).collect() };
        let now_there = services.iter().map(|item| (item.name, item.service));
        self.ranges.update(&self.settings, &snapshot.service_ranges, now_there);
        let again = self.update_node(snapshot, facts, &mut change);
        let everything = matches!(again, Again::All);
        let tells = PerFamily::from_fn(|family| !first || !*change.node.get(family));
        let mut pass = Pass { now, first, changed: PerFamily::default(), tells };
        if everything {
            if !nothing_yet {
                services = with_gone(Item::all(snapshot), services);
            }
            // They are all made anew.
            self.claims = Claims::default();
            self.refusals.clear();
            self.claims.reserve(services.len());
        } else if let Again::Of(addresses) = &again
            && !nothing_yet
        {
            services = with_those_of(services, snapshot, addresses);
        }
        let extent = |before: &ServiceName| Extent { before: before.clone(), services: services.len() };
        if let Some(first) = services.first().filter(|_| pass.first) {
            each(&self.desired, extent(first.name));
        }
        let mut affected = BTreeSet::new();
        for item in &services {
            let old = before.services.get(item.name).filter(|_| !everything);
            self.claim(old.map(|old| &**old), item.service, &mut affected);
        }
        let affected: BTreeSet<ServiceName> = affected.into_iter().map(|key| key.service).collect();
        let new = |name: &&ServiceName| services.binary_search_by(|known| known.name.cmp(name)).is_err();
        let affected = items(affected.iter().filter(new), snapshot);
        // What a new node needs before anything else is there with the first that is told.
        let (foremost, others): (Vec<Item<'_>>, Vec<Item<'_>>) =
            services.iter().partition(|item| pass.first && item.name.is_kubernetes());
        foremost.into_iter().for_each(|item| self.rebuild(item, &mut pass));
        for (number, piece) in others.chunks(AT_ONCE).enumerate() {
            if let Some(first) = piece.first().filter(|_| pass.first && number > 0) {
                each(&self.desired, extent(first.name));
            }
            filling(piece).for_each(|item| self.rebuild(*item, &mut pass));
        }
        affected.for_each(|item| self.rebuild(item, &mut pass));
        let [v4, v6] = [pass.changed.v4, pass.changed.v6].map(|keys| keys.into_iter().collect());
        change.ports = PerFamily { v4, v6 };
        change
    }

    /// Whether this snapshot is the first, or the first but for what a new node needs before anything else.
    pub fn begins_with(&self, snapshot: &Snapshot) -> bool {
        let head = !self.snapshot.complete && snapshot.complete && self.snapshot.services.len() <= 1;
        let drains = || IpFamily::BOTH.iter().any(|family| !self.draining.get(*family).is_empty());
        self.is_empty() || head && !drains()
    }

    /// Whether nothing is desired, and no Service asks for anything.
    pub fn is_empty(&self) -> bool {
        IpFamily::BOTH.iter().all(|family| self.desired.get(*family).ports.is_empty()) && self.claims.is_empty()
    }

    /// Takes in what is not about single Services.
    fn update_node(&mut self, snapshot: &Snapshot, facts: &NodeFacts, change: &mut Change) -> Again {
        let node = snapshot.nodes.get(&self.settings.node_name).cloned();
        let place =
            Place { node: self.settings.node_name.clone(), zone: node.as_ref().and_then(|node| node.zone.clone()) };
        let nodes = snapshot.nodes.values().map(|node| &**node);
        let api_servers = api_servers(snapshot);
        let never_captured = never_captured(nodes, &api_servers, &self.settings.node_name, facts);
        let mut addresses_changed = false;
        // A range takes in the addresses of Services that were not read yet: another proxy's, or those that still serve as an
        // earlier run left them.
        let ranges = if snapshot.complete { self.ranges.nets() } else { &[] };
        for family in IpFamily::BOTH {
            let rules = NodeRules::derive(&self.settings, facts, node.as_deref(), ranges, family);
            addresses_changed |= rules.node_addresses != self.node_addresses(family);
            let answering = answering_addresses(&self.settings, facts, node.as_deref(), family);
            *self.health_checks.addresses.get_mut(family) = answering;
            let desired = self.desired.get_mut(family);
            if desired.incomplete == snapshot.complete {
                desired.incomplete = !snapshot.complete;
                *change.node.get_mut(family) = true;
            }
            if desired.rules.as_deref() != Some(&rules) {
                desired.rules = Some(Arc::new(rules));
                *change.node.get_mut(family) = true;
            }
        }
        let mut guarded: BTreeSet<IpAddr> =
            never_captured.symmetric_difference(&self.never_captured).copied().collect();
        guarded.extend(api_servers.symmetric_difference(&self.api_servers).map(SocketAddr::ip));
        let stale = std::mem::take(&mut self.stale);
        let everything = stale || addresses_changed || place != self.place;
        self.place = place;
        self.never_captured = never_captured;
        self.api_servers = api_servers;
        self.facts = facts.clone();
        if everything { Again::All } else { Again::Of(guarded) }
    }

    fn node_addresses(&self, family: IpFamily) -> &[IpAddr] {
        self.desired.get(family).rules.as_deref().map(|rules| rules.node_addresses.as_slice()).unwrap_or_default()
    }

    /// Puts in the claims of a Service's ports, and withdraws those that it no longer has.
    fn claim(&mut self, old: Option<&Service>, new: Option<&Service>, affected: &mut BTreeSet<ServicePortKey>) {
        let (old, new) = (served(&self.settings, old), served(&self.settings, new));
        for family in IpFamily::BOTH {
            let rules = self.desired.get(family).rules.as_deref();
            let node_addresses = rules.map(|rules| rules.node_addresses.as_slice()).unwrap_or_default();
            let new = claims::of_service(new, family, node_addresses);
            let old = claims::of_service(old, family, node_addresses);
            if old == new {
                continue;
            }
            self.claims.replace(&old, &new, affected);
            // Every port claims its cluster IP at least.
            for (gone, _) in old.into_iter().filter(|(key, _)| new.iter().all(|(known, _)| known != key)) {
                self.refusals.remove(&(gone, family));
            }
        }
        // The keys that are gone are removed from what is desired by `rebuild`, which walks desired ∪ wanted.
    }

    /// Brings what is desired of a Service up to date.
    fn rebuild(&mut self, item: Item<'_>, pass: &mut Pass) {
        let (name, service) = (item.name, served(&self.settings, item.service));
        // Touched only when it changes, so that who compares it finds the same one.
        match service.is_some_and(|service| service.balancing.needs_ipvs()) {
            true if !self.ipvs_only.contains(name) => drop(self.ipvs_only.insert(name.clone())),
            false if self.ipvs_only.contains(name) => drop(self.ipvs_only.remove(name)),
            _ => {}
        }
        let slices = self.slices(item.slices);
        match service.and_then(|service| health::of_service(service, &slices, &self.place)) {
            Some(check) if self.health_checks.services.get(name) == Some(&check) => {}
            Some(check) => drop(self.health_checks.services.insert(name.clone(), check)),
            None => drop(self.health_checks.services.remove(name)),
        }
        for family in IpFamily::BOTH {
            let mut gone = if pass.first { BTreeSet::new() } else { self.keys_in_desired(name, family) };
            for port in self.compile(service, &slices, family) {
                if let Some(port) = self.granted(port, family) {
                    gone.remove(&port.key);
                    let renamed = self.renamed(&port, &gone, family);
                    self.put(port, renamed.as_deref(), family, pass);
                }
            }
            for key in gone {
                self.desired.get_mut(family).ports.remove(&key);
                self.forget_drains(&key, family);
                pass.changed(&key, family);
            }
        }
    }

    fn keys_in_desired(&self, name: &ServiceName, family: IpFamily) -> BTreeSet<ServicePortKey> {
        let first = ServicePortKey::first_of(name.clone());
        let ports = &self.desired.get(family).ports;
        ports.range(first..).map(|(key, _)| key).take_while(|key| key.service == *name).cloned().collect()
    }

    /// What had another name until now: the Service is changed before its slices are, and what is open goes on meanwhile.
    fn renamed(
        &self,
        port: &ServicePort,
        gone: &BTreeSet<ServicePortKey>,
        family: IpFamily,
    ) -> Option<Arc<ServicePort>> {
        let ports = &self.desired.get(family).ports;
        let of_old = gone.iter().filter(|key| key.protocol == port.key.protocol).filter_map(|key| ports.get(key));
        of_old.filter(|_| !ports.contains_key(&port.key)).find(|old| old.port == port.port).cloned()
    }

    fn put(&mut self, mut port: ServicePort, renamed: Option<&ServicePort>, family: IpFamily, pass: &mut Pass) {
        let desired = self.desired.get_mut(family);
        let previous = if pass.first { None } else { desired.ports.get(&port.key) };
        let before = previous.map(|port| &**port).or(renamed);
        drain::carry(before, &mut port, pass.now, self.settings.drain_timeout);
        if previous.is_none_or(|previous| **previous != port) {
            let port = Arc::new(port);
            pass.changed(&port.key, family);
            desired.ports.insert(port.key.clone(), port.clone());
            self.watch_drains(&port, family);
        }
    }

    /// What a service port gets of what it asks for; `None` if it does not even get its cluster IP.
    fn granted(&mut self, mut port: ServicePort, family: IpFamily) -> Option<ServicePort> {
        let mut reasons = Vec::new();
        let (key, protocol, number) = (&port.key, port.key.protocol, port.port);
        let node_addresses = self.node_addresses(family);
        let mut allowed = |ip: IpAddr, what: &str| {
            let frontend = Frontend::Address(protocol, ip, number);
            let as_node_port = Frontend::NodePort(family, protocol, number);
            let on_node = node_addresses.contains(&ip).then(|| self.claims.holder(&as_node_port)).flatten();
            let holder = self.claims.holder(&frontend).filter(|holder| *holder != key);
            let holder = holder.or(on_node.filter(|holder| *holder != key));
            if let Some(holder) = holder {
                reasons.push(format!(
                    "{what} {ip} port {number}/{protocol} is in use by {holder}; not served for this one"
                ));
            } else if self.never_captured.contains(&ip) {
                let whose = "another node, of an API server or of the gateway";
                reasons.push(format!("{what} {ip} is the address of {whose}; not captured"));
            } else if protocol == model::Protocol::Tcp && self.api_servers.contains(&SocketAddr::new(ip, number)) {
                reasons.push(format!("{what} {ip} port {number} is the API server itself; not captured"));
            } else {
                return true;
            }
            false
        };
        let granted = allowed(port.cluster_ip, "cluster IP");
        port.external_ips.retain(|ip| allowed(*ip, "external IP"));
        port.load_balancer_ips.retain(|ip| allowed(*ip, "load-balancer IP"));
        if let Some(node_port) = port.node_port {
            let holder = self.claims.holder(&Frontend::NodePort(family, protocol, node_port));
            if let Some(holder) = holder.filter(|holder| *holder != key) {
                reasons
                    .push(format!("node port {node_port}/{protocol} is in use by {holder}; not served for this one"));
                port.node_port = None;
            }
        }
        if !reasons.is_empty() {
            self.refusals.insert((port.key.clone(), family), reasons);
        } else if !self.refusals.is_empty() {
            self.refusals.remove(&(port.key.clone(), family));
        }
        granted.then_some(port)
    }
}
