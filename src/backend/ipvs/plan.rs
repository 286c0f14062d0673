//! The steps from what IPVS mode has in the kernel to what is desired. Pure. Make before break, in this order: what
//! masquerades and guards, the virtual servers, the routes that bring packets to them; then back the same way.

use super::entries::Entries;
use super::leave::everything_goes;
use super::names::{self, Set};
use super::observed::{FoundServer, Observed, Previous, address_entry};
use super::pause;
use super::steps::Steps;
use super::wanted::{self, Server, Shared, Wanted, destination, host};
use super::{Op, VipBinding, helpers, timeouts};
use crate::backend::rules::{plan_chain, plan_jumps, plan_removal};
use crate::desired::{Desired, NodeRules, ServicePort, ServicePortKey, Touched};
use crate::kernel::interface::FoundDetour;
use crate::kernel::ipset::{Entry, storable_networks};
use crate::model::IpFamily;
use foldhash::{HashMap, HashSet};
use ipvs::{Command, Scheduler, ServiceId};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What the plan goes by besides what is desired and observed.
#[derive(Debug, Clone)]
pub struct Context {
    pub family: IpFamily,
    pub binding: VipBinding,
    pub now: Instant,
    pub drain_timeout: Duration,
    /// Schedulers that this kernel turned out not to have.
    pub missing: Arc<BTreeSet<Scheduler>>,
}

impl Context {
    pub fn render(&self, port: &ServicePort, node: &NodeRules) -> Wanted {
        wanted::render(self, port, node)
    }

    /// What of it other service ports may ask for as well.
    pub fn shared(&self, port: &ServicePort, node: &NodeRules) -> Shared {
        wanted::shared(self, port, node)
    }
}

/// Plans everything, or only what is touched where it is known what was there before.
pub fn plan(context: Context, desired: &Desired, observed: &Observed, touched: Touched<'_>) -> Vec<Op> {
    let Some(rules) = desired.rules.as_deref() else { return everything_goes(observed) };
    let mut steps = Steps::default();
    let mut planner = Planner { context, observed, rules, steps: &mut steps, incomplete: desired.incomplete };
    if desired.retiring {
        planner.retire(desired);
        return steps.in_order();
    }
    planner.helpers();
    match (touched, &observed.previous) {
        (Touched::Ports(keys), Some(previous)) if *previous.rules == *rules => {
            planner.touched(keys, desired, previous);
        }
        _ => planner.whole(desired),
    }
    steps.in_order()
}

pub(super) struct Planner<'a> {
    pub(super) context: Context,
    pub(super) observed: &'a Observed,
    pub(super) rules: &'a NodeRules,
    pub(super) steps: &'a mut Steps,
    /// What is found and not wanted may be wanted by what is still to come: in a plan as a whole. In one of single service ports
    /// that holds for endpoints of those that had none yet.
    pub(super) incomplete: bool,
}

/// What was wanted by the service ports that were looked at, by name.
#[derive(Debug, Default)]
pub(super) struct Seen {
    servers: HashSet<ServiceId>,
    entries: HashSet<(Set, Entry)>,
    bindings: BTreeSet<IpAddr>,
}

impl Planner<'_> {
    /// What does not depend on services. Constant in number; compared with every plan.
    pub(super) fn helpers(&mut self) {
        let family = self.context.family;
        self.steps.settings.extend(self.observed.unset.iter().copied().map(Op::Sysctl));
        self.steps.settings.extend(timeouts::plan(self.rules.timeouts, self.observed.timeouts));
        if !self.observed.interface || !self.observed.interface_up || self.observed.interface_foreign {
            self.steps.settings.push(Op::MakeInterface);
        }
        match (self.rules.localhost_node_ports, self.observed.detour) {
            (true, FoundDetour::Missing | FoundDetour::Partly) => self.steps.settings.push(Op::MakeDetour),
            (false, FoundDetour::Partly | FoundDetour::Whole) => self.steps.unrecording.push(Op::DeleteDetour),
            _ => {}
        }
        for set in self.observed.unfit_sets.iter().copied() {
            self.steps.settings.push(Op::DestroySet(set));
        }
        for set in Set::ALL {
            if !self.observed.sets.contains_key(&set) {
                self.steps.settings.push(Op::MakeSet(set));
            }
        }
        let found = &self.observed.rules;
        let guard = self.rules.localhost_node_ports || self.observed.localnet_open;
        let wanted = helpers::chains(self.rules, family, guard);
        for (table, chain) in wanted.clone() {
            self.steps.rules.extend(plan_chain(found, table, chain).map(Op::Rule));
        }
        let (missing, surplus) = plan_jumps(found, &helpers::jumps(family, guard));
        self.steps.rules.extend(missing.into_iter().map(Op::Rule));
        if !self.incomplete {
            self.steps.rules.extend(surplus.into_iter().map(Op::Rule));
            let is_wanted =
                |table, name: &iptables::ChainName| wanted.iter().any(|(t, c)| *t == table && c.name == *name);
            self.steps.rules.extend(plan_removal(found, is_wanted, names::depth).into_iter().map(Op::Rule));
        }
        for range in self.rules.service_ranges.clone() {
            if self.context.binding == VipBinding::Route {
                self.route(range, true);
            }
            storable_networks(range).for_each(|net| self.record(Set::Addresses, Entry::Net(net)));
        }
    }

    /// Handing over: nobody new is served; what is open goes on, and what is idle goes.
    fn retire(&mut self, desired: &Desired) {
        // New packets are the other mode's, which has its own verdicts: ours must neither divert nor drop them.
        self.unrecord_all_but(&Seen::default(), &Set::VERDICTS);
        let mut wanted: HashMap<ServiceId, Server> = HashMap::default();
        for port in desired.ports.values() {
            let servers = self.context.render(port, self.rules).servers;
            wanted.extend(servers.into_iter().map(|server| (server.service.id, server)));
        }
        let mut own: Vec<_> = self.observed.servers.iter().filter(|(id, _)| self.observed.is_recorded(id)).collect();
        own.sort_unstable_by_key(|(id, _)| **id);
        if !own.is_empty() {
            pause::plan(self.context.family, self.observed, self.steps);
        }
        for (id, found) in own {
            if found.destinations.is_empty() {
                self.steps.gone_servers.push(Op::Ipvs(Command::DeleteService(*id)));
                continue;
            }
            let listed = wanted.get(id).map(|server| &server.weights);
            for (address, known) in &found.destinations {
                let drains = listed.is_some_and(|weights| weights.contains_key(address));
                if known.weight != 0 {
                    let destination = destination(*address, 0);
                    self.steps.less.push(Op::Ipvs(Command::SetDestination { service: *id, destination }));
                } else if known.connections == 0 {
                    self.delete_destination(*id, *address);
                } else if !drains {
                    self.unlisted(*id, *address, *known);
                }
            }
        }
    }

    fn whole(&mut self, desired: &Desired) {
        let mut seen = Seen::default();
        for (key, port) in &desired.ports {
            self.add(port, key.service.is_kubernetes(), &mut seen);
        }
        if desired.incomplete {
            // Only additions: what is there may belong to what is still to come.
            return self.bindings(&seen.bindings, &BTreeSet::new());
        }
        let surplus = |id: &&ServiceId| !seen.servers.contains(id) && self.observed.is_recorded(id);
        let mut gone: Vec<ServiceId> = self.observed.servers.keys().filter(surplus).copied().collect();
        gone.sort_unstable();
        self.steps.gone_servers.extend(gone.into_iter().map(|id| Op::Ipvs(Command::DeleteService(id))));
        self.unrecord_all_but(&seen, &[Set::LEDGER.as_slice(), &Set::VERDICTS, &[Set::LoopBack]].concat());
        let range_entries: BTreeSet<Entry> =
            self.rules.service_ranges.iter().flat_map(|range| storable_networks(*range)).map(Entry::Net).collect();
        let ranged =
            if self.context.binding == VipBinding::Route { self.rules.service_ranges.clone() } else { Vec::new() };
        let old_bindings: BTreeSet<IpAddr> = self.bound().into_iter().collect();
        for entry in self.entries(Set::Addresses).collect::<Vec<_>>() {
            let wanted =
                matches!(entry, Entry::Net(net) if seen.bindings.contains(&net.addr()) && net == host(net.addr()));
            if !wanted && !range_entries.contains(&entry) {
                self.steps.unrecording.push(Op::DeleteEntry(Set::Addresses, entry));
            }
        }
        self.bindings(&seen.bindings, &old_bindings);
        // Ranges that are no longer ours: never before their addresses are bound one by one.
        let kept: HashSet<&ipnet::IpNet> = ranged.iter().collect();
        for (net, route) in &self.observed.routes {
            let single = *net == host(net.addr());
            if (single && !self.by_route(net.addr())) || (!single && !kept.contains(net)) {
                self.steps.unbinding.push(Op::Unroute(*route));
            }
        }
        let left_behind = self.observed.bridges.iter().copied().map(Op::Unbridge);
        self.steps.unbinding.extend(left_behind);
        if self.context.binding == VipBinding::Route {
            self.routes_instead_of_addresses(&seen.bindings, &ranged);
        }
    }

    /// What service ports ask for, and nothing of what goes. Whether that is all that is to be said of them: what somebody
    /// else's virtual server stands in the way of is not.
    pub(super) fn additions<'p>(
        &mut self,
        ports: impl Iterator<Item = (&'p ServicePortKey, &'p Arc<ServicePort>)>,
    ) -> bool {
        let (mut seen, count) = (Seen::default(), ports.size_hint().0);
        // One of each a port, as a rule.
        seen.servers.reserve(count);
        seen.entries.reserve(count);
        self.steps.recording.reserve(count);
        self.steps.servers.reserve(2 * count);
        ports.for_each(|(key, port)| self.add(port, key.service.is_kubernetes(), &mut seen));
        self.bindings(&seen.bindings, &BTreeSet::new());
        let steps = self.steps.servers.len();
        self.steps.servers.retain(|op| !matches!(op, Op::LeaveAlone(_)));
        self.steps.servers.len() == steps
    }

    /// What a service port asks for, but for its addresses.
    fn add(&mut self, port: &ServicePort, first: bool, seen: &mut Seen) {
        let Wanted { servers, mut ledger, mut verdicts, mut shared } = self.context.render(port, self.rules);
        for server in servers {
            let id = server.service.id;
            // Two addresses may have one shadow: the first has it.
            if !seen.servers.insert(id) {
                continue;
            }
            match self.observed.servers.get(&id) {
                None => self.new_server(&server, first),
                Some(found) if self.may_change(&id, &server, found) => self.known_server(&server, found, first),
                Some(_) => {
                    self.steps.servers.push(Op::LeaveAlone(id));
                    // Recorded, it would pass for ours from the next reading on.
                    ledger.retain(|(_, entry)| wanted::entry_of(&id) != Some(*entry));
                    // Nor are its clients ours to turn away, or its address to make local.
                    verdicts.retain(|(_, entry)| !wanted::is_about(&id, entry));
                    shared.bindings.retain(|address| !wanted::stands_on(&id, *address));
                }
            }
        }
        // Who is admitted comes before the restriction, and goes after it.
        for (set, entry) in ledger.into_iter().chain(verdicts.into_iter().rev()) {
            self.record(set, entry);
            seen.entries.insert((set, entry));
        }
        // Other service ports may ask for the same.
        for entry in shared.loop_back {
            if seen.entries.insert((Set::LoopBack, entry)) {
                self.record(Set::LoopBack, entry);
            }
        }
        seen.bindings.extend(shared.bindings);
    }

    fn unrecord_all_but(&mut self, seen: &Seen, sets: &[Set]) {
        for set in sets {
            let surplus = self.entries(*set).filter(|entry| !seen.entries.contains(&(*set, *entry)));
            let mut surplus: Vec<Entry> = surplus.collect();
            surplus.sort_unstable();
            surplus.into_iter().for_each(|entry| self.unrecord(*set, entry));
        }
    }

    fn touched(&mut self, keys: &BTreeSet<ServicePortKey>, desired: &Desired, previous: &Previous) {
        let (mut old, mut new) = (Vec::new(), Seen::default());
        for key in keys {
            let before = previous.ports.get(key);
            old.extend(before.map(|port| self.context.render(port, self.rules)));
            self.incomplete = desired.incomplete && before.is_none_or(|port| port.endpoints.is_empty());
            if let Some(port) = desired.ports.get(key) {
                self.add(port, key.service.is_kubernetes(), &mut new);
            }
        }
        // What others ask for as well stays …
        let (mut lost, mut released) = (BTreeMap::<Entry, u32>::new(), BTreeMap::<IpAddr, u32>::new());
        for Wanted { servers, ledger, verdicts, shared } in old {
            for id in servers.into_iter().map(|server| server.service.id) {
                // What stood in the way of the Service that goes is somebody else's, and was not recorded.
                let ours = self.observed.servers.contains_key(&id) && self.observed.is_recorded(&id);
                if ours && !new.servers.contains(&id) {
                    self.steps.gone_servers.push(Op::Ipvs(Command::DeleteService(id)));
                }
            }
            for (set, entry) in ledger.into_iter().chain(verdicts) {
                if !new.entries.contains(&(set, entry)) {
                    self.unrecord(set, entry);
                }
            }
            shared.loop_back.into_iter().for_each(|entry| *lost.entry(entry).or_default() += 1);
            shared.bindings.into_iter().for_each(|address| *released.entry(address).or_default() += 1);
        }
        if desired.incomplete {
            // … and others may be still to come.
            (lost, released) = Default::default();
        }
        lost.retain(|entry, count| {
            previous.loop_back.count(entry) <= *count && !new.entries.contains(&(Set::LoopBack, *entry))
        });
        lost.into_keys().for_each(|entry| self.unrecord(Set::LoopBack, entry));
        released.retain(|address, count| previous.bindings.count(address) <= *count);
        let released: BTreeSet<IpAddr> = released.into_keys().collect();
        // A range may be of one address.
        let ranged = |address: &&IpAddr| self.rules.service_ranges.contains(&host(**address));
        for address in released.difference(&new.bindings).filter(|address| !ranged(address)) {
            self.unrecord(Set::Addresses, address_entry(*address));
        }
        self.bindings(&new.bindings, &released);
    }

    fn entries(&self, set: Set) -> impl Iterator<Item = Entry> {
        self.observed.sets.get(&set).into_iter().flat_map(Entries::iter)
    }

    pub(super) fn record(&mut self, set: Set, entry: Entry) {
        if !self.observed.has_entry(set, &entry) {
            let place = if set.diverts() { &mut self.steps.diverting } else { &mut self.steps.recording };
            place.push(Op::AddEntry(set, entry));
        }
    }

    fn unrecord(&mut self, set: Set, entry: Entry) {
        if self.observed.has_entry(set, &entry) {
            let place = if set.diverts() { &mut self.steps.undiverting } else { &mut self.steps.unrecording };
            place.push(Op::DeleteEntry(set, entry));
        }
    }

    /// A virtual server that we did not record is somebody else's, unless it stands on a cluster IP, where nobody else
    /// has any business, or is just what we would have made: then the record was lost. Where the user says that others
    /// have business, only the record counts.
    fn may_change(&self, id: &ServiceId, server: &Server, found: &FoundServer) -> bool {
        let ServiceId::Address { address, .. } = id else { return false };
        let as_ours = found.service == server.service
            && found
                .destinations
                .iter()
                .all(|(address, known)| known.masqueraded && server.weights.contains_key(address));
        let excluded = self.rules.excluded.iter().any(|net| net.contains(address));
        self.observed.is_recorded(id) || !excluded && (wanted::in_ranges(self.rules, *address) || as_ours)
    }
}
