//! IPVS mode: virtual servers over generic netlink, service addresses as local routes on kube-ipvs0, and a constant
//! number of rules over ipsets for what IPVS cannot decide.

mod ahead;
mod apply;
mod audit;
mod beside;
mod bindings;
mod destinations;
mod draining;
mod entries;
mod forget;
mod give_back;
mod helpers;
mod leave;
mod listed;
mod listen;
pub mod names;
mod observe;
mod observed;
mod order;
mod pause;
mod plan;
mod rehearsal;
pub mod shadow;
mod steps;
mod tending;
mod timeouts;
mod traffic;
mod verdict;
mod wanted;

pub use traffic::IpvsTraffic;

pub use observed::{FoundDestination, FoundServer, Observed};
pub use rehearsal::{Rehearsal, Script};

use super::rules::RuleOp;
use super::{Affinity, Ahead, Audit, Backend, Effort, Failure, Lost, ObserveError, RuleCounts};
use crate::desired::{Desired, NodeRules, ServicePort, Touched};
use crate::kernel::interface::{Detour, Interface, LocalRoute};
use crate::kernel::ipset::{self, Entry};
use crate::kernel::sysctl::{KernelVersion, Ledger, Setting};
use crate::model::{IpFamily, PerFamily, Protocol};
#[cfg(test)]
pub(super) use ahead::ahead as ahead_for_tests;
#[cfg(test)]
pub(super) use apply::failure;
use ipnet::IpNet;
use iptables::{ChainName, Commands, Table};
use ipvs::{Client, Command, Scheduler, ServiceId, templates};
use names::Set;
#[cfg(test)]
pub(super) use order::Broken;
pub(super) use plan::Context;
#[cfg(test)]
pub(super) use plan::plan as plan_for_tests;
use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How service addresses become local to the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum VipBinding {
    /// Local routes: one for each service range that is known, one for each other address.
    #[default]
    Route,
    /// An address each on the device: kube-proxy's layout. Costs the square of their number.
    Address,
}

/// What IPVS mode is configured with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    /// How addresses become local.
    pub binding: VipBinding,
    /// How long destinations that we find with connections and that nobody wants may go on.
    pub drain_timeout: Duration,
    /// Answer ARP only for addresses of the interface asked.
    pub strict_arp: bool,
}

/// The IPVS backend.
#[derive(Debug)]
pub struct Ipvs {
    client: Client,
    interface: Interface,
    loopback: Interface,
    detour: Detour,
    sets: ipset::Client,
    commands: PerFamily<Option<Commands>>,
    sysctl: Ledger,
    kernel: KernelVersion,
    options: Options,
    /// Since when destinations have been seen with weight 0, across readings.
    drained: HashMap<(ServiceId, SocketAddr), Instant>,
    missing: Arc<BTreeSet<Scheduler>>,
    effort: Effort,
    counted: (u64, u64),
    spare_kube_proxy: bool,
    audits: PerFamily<Option<audit::Reading>>,
    /// Between the first and the last piece of a cold start.
    scribe: Option<beside::Scribe>,
    tending: tending::Tending,
}

/// One step of this mode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Change a setting of the kernel.
    Sysctl(Setting),
    /// Make the device, or bring it up.
    MakeInterface,
    /// Delete the device.
    DeleteInterface,
    /// Make the detour of node ports on localhost, or mend it.
    MakeDetour,
    /// Delete it.
    DeleteDetour,
    /// Make a set.
    MakeSet(Set),
    /// Destroy a set.
    DestroySet(Set),
    /// Add an entry to a set.
    AddEntry(Set, Entry),
    /// Delete an entry from a set.
    DeleteEntry(Set, Entry),
    /// Route an address or range to the device, or change that route.
    Route(LocalRoute),
    /// Delete a route.
    Unroute(LocalRoute),
    /// Route an address or range to the loopback device for an instant in which the device loses its routes.
    Bridge(LocalRoute),
    /// Delete such a route, which was left behind.
    Unbridge(LocalRoute),
    /// Put an address on the device.
    AddAddress(IpNet),
    /// Take an address from the device.
    DeleteAddress(IpNet),
    /// Change a helper rule.
    Rule(RuleOp),
    /// Change the IPVS table.
    Ipvs(Command),
    /// Not a step: a virtual server that we want is somebody else's.
    LeaveAlone(ServiceId),
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let device = names::INTERFACE;
        // The family of the set's name does not matter to the reader; its purpose does.
        let name = |set: &Set| set.name(IpFamily::V4);
        match self {
            Self::Sysctl(setting) => write!(f, "set sysctl {} to {}", setting.path, setting.value),
            Self::MakeInterface => write!(f, "create interface {device} or bring it up"),
            Self::DeleteInterface => write!(f, "delete interface {device}"),
            Self::MakeDetour => write!(f, "create interfaces {} or mend them", names::DETOUR.join(" and ")),
            Self::DeleteDetour => write!(f, "delete interfaces {}", names::DETOUR.join(" and ")),
            Self::MakeSet(set) => write!(f, "create set {}", name(set)),
            Self::DestroySet(set) => write!(f, "destroy set {}", name(set)),
            Self::AddEntry(set, entry) => write!(f, "add to set {}: {entry}", name(set)),
            Self::DeleteEntry(set, entry) => write!(f, "delete from set {}: {entry}", name(set)),
            Self::Route(route) => write!(f, "route {} to {device}", route.net),
            Self::Unroute(route) => write!(f, "stop routing {} to {device}", route.net),
            Self::Bridge(route) => write!(f, "route {} to lo for an instant", route.net),
            Self::Unbridge(route) => write!(f, "stop routing {} to lo", route.net),
            Self::AddAddress(net) => write!(f, "add address {net} to {device}"),
            Self::DeleteAddress(net) => write!(f, "delete address {net} from {device}"),
            Self::Rule(op) => op.fmt(f),
            Self::Ipvs(command) => command.fmt(f),
            Self::LeaveAlone(id) => write!(f, "leave virtual server {id} alone"),
        }
    }
}

/// Which chains belong to IPVS mode.
#[derive(Debug, Clone, Copy)]
pub struct Ours;

impl super::rules::Ownership for Ours {
    fn is_ours(&self, table: Table, chain: &ChainName) -> bool {
        names::chains().iter().any(|(own, name)| *own == table && name == chain)
    }
    fn is_shared(&self, _: Table, _: &ChainName) -> bool {
        false
    }
}

impl Ipvs {
    /// A backend in the network namespace of the calling thread.
    ///
    /// # Errors
    /// When IPVS, routes or ipsets can't be talked to.
    pub fn open(
        commands: PerFamily<Option<Commands>>,
        kernel: KernelVersion,
        sysctl: Ledger,
        options: Options,
    ) -> Result<Self, ObserveError> {
        Ok(Self {
            client: Client::connect().map_err(|error| ObserveError::new("the IPVS table", error))?,
            interface: Interface::open(names::INTERFACE).map_err(|error| ObserveError::new("routes", error))?,
            loopback: Interface::open("lo").map_err(|error| ObserveError::new("routes", error))?,
            detour: Detour::open(
                names::DETOUR,
                shadow::LOCALHOST_OUT,
                shadow::LOCALHOST_SOURCE,
                sysctl.sysctl().clone(),
            )
            .map_err(|error| ObserveError::new("links", error))?,
            sets: ipset::Client::open().map_err(|error| ObserveError::new("ipsets", error))?,
            commands,
            sysctl,
            kernel,
            options,
            drained: HashMap::new(),
            missing: Arc::default(),
            effort: Effort::default(),
            counted: (0, 0),
            spare_kube_proxy: false,
            audits: PerFamily::default(),
            scribe: None,
            tending: tending::Tending::default(),
        })
    }

    /// What kube-proxy's sets record as its own is its own, even where we recorded it as well: it has taken over.
    #[must_use]
    pub fn sparing_kube_proxy(self) -> Self {
        Self { spare_kube_proxy: true, ..self }
    }

    fn start_audit(&self, family: IpFamily) -> Result<audit::Reading, ObserveError> {
        let (commands, kernel, sysctl, options) =
            (self.commands.clone(), self.kernel, self.sysctl.clone(), self.options);
        let spare_kube_proxy = self.spare_kube_proxy;
        audit::Reading::start(family, move || {
            Ok(Self { spare_kube_proxy, ..Self::open(commands, kernel, sysctl, options)? })
        })
    }

    /// Carried out or not: what is tried may be there.
    fn tell_audit(&mut self, family: IpFamily, plan: &[Op]) {
        let audit = self.audits.get_mut(family);
        if audit.as_mut().is_some_and(|reading| !plan.iter().all(|op| reading.passed_over(op))) {
            *audit = None;
        }
    }

    fn context(&self, family: IpFamily, now: Instant) -> Context {
        Context {
            family,
            binding: self.options.binding,
            now,
            drain_timeout: self.options.drain_timeout,
            missing: self.missing.clone(),
        }
    }
}

impl Backend for Ipvs {
    type Observed = Observed;
    type Op = Op;

    fn name(&self) -> &'static str {
        "ipvs"
    }

    fn observe(&mut self, family: IpFamily) -> Result<Observed, ObserveError> {
        self.observe_family(family, Instant::now())
    }

    fn refresh(
        &mut self,
        _family: IpFamily,
        desired: &Desired,
        touched: Touched<'_>,
        observed: &mut Observed,
    ) -> Result<(), ObserveError> {
        let draining = draining::draining(desired, touched, observed);
        self.count_connections(draining, observed)
    }

    fn plan(
        &self,
        family: IpFamily,
        desired: &Desired,
        observed: &Observed,
        touched: Touched<'_>,
        now: Instant,
    ) -> Vec<Op> {
        plan::plan(self.context(family, now), desired, observed, touched)
    }

    fn plan_ahead(
        &self,
        family: IpFamily,
        desired: &Desired,
        observed: &Observed,
        now: Instant,
        ahead: &mut Ahead,
    ) -> Option<Vec<Op>> {
        ahead::ahead(self.context(family, now), desired, observed, ahead)
    }

    fn apply(&mut self, family: IpFamily, plan: Vec<Op>, observed: &mut Observed) -> Vec<Failure> {
        self.tell_audit(family, &plan);
        self.tending.join();
        self.apply_all(family, plan, observed)
    }

    fn apply_ahead(&mut self, family: IpFamily, piece: Vec<Op>, observed: &mut Observed) -> Vec<Failure> {
        self.tell_audit(family, &piece);
        self.tending.join();
        self.apply_beside(family, piece, observed)
    }

    fn settle(&mut self, observed: &mut Observed) -> Vec<Failure> {
        self.settle_all(observed)
    }

    fn tend(&mut self, family: IpFamily, desired: &Desired, observed: &Observed) {
        if desired.retiring {
            self.tending.hand_over(family, observed, self.sysctl.sysctl());
        } else {
            self.tending.serve(family, &mut self.client);
        }
    }

    fn audit(&mut self, family: IpFamily, believed: &Observed, until: Instant) -> Result<Audit, ObserveError> {
        let mut reading = match self.audits.get_mut(family).take() {
            Some(reading) => reading,
            None => self.start_audit(family)?,
        };
        let outcome = reading.step(believed, until)?;
        if outcome == Audit::Unfinished {
            *self.audits.get_mut(family) = Some(reading);
        }
        Ok(outcome)
    }

    fn end_audit(&mut self, family: IpFamily) {
        *self.audits.get_mut(family) = None;
    }

    fn draining(&self, observed: &Observed) -> usize {
        observed.draining().count()
    }

    fn still_drains(&self, rules: &NodeRules, port: &ServicePort, observed: &Observed) -> bool {
        wanted::server_ids(port, rules).iter().any(|id| observed.drains.contains(id))
    }

    fn connections(&self, observed: &Observed) -> u64 {
        observed.draining().map(|found| found.connections).sum()
    }

    fn affinities(&mut self, family: IpFamily) -> Result<Vec<Affinity>, ObserveError> {
        let found = templates::read(templates::PATH).map_err(|error| ObserveError::new("persistent clients", error))?;
        let affinity = |found: templates::Template| {
            let protocol = match found.protocol {
                ipvs::Protocol::Tcp => Protocol::Tcp,
                ipvs::Protocol::Udp => Protocol::Udp,
                ipvs::Protocol::Sctp => Protocol::Sctp,
                ipvs::Protocol::Other(_) => return None,
            };
            let templates::Template { client, server, destination, .. } = found;
            let own = IpFamily::of(client) == family;
            own.then_some(Affinity { protocol, client, frontend: server, endpoint: destination })
        };
        Ok(found.into_iter().filter_map(affinity).collect())
    }

    fn believes(&self, observed: &Observed, lost: &Lost) -> bool {
        match lost {
            Lost::Route(net) => observed.routes.contains_key(net),
            // The last IPv4 address of a device takes all its routes along, and nobody is told (`fib_disable_ip`).
            Lost::Address(net) => observed.addresses.contains(net) || !observed.routes.is_empty(),
            Lost::Interface => observed.interface,
        }
    }

    fn remember(&self, desired: &Desired, touched: Touched<'_>, observed: &mut Observed) {
        // Of what is remembered only addresses and entries count, which no clock changes.
        let context = self.context(IpFamily::V4, Instant::now());
        observed.remember(desired, touched, &|port, rules| context.shared(port, rules));
    }

    fn count_rules(&self, observed: &mut Observed) -> RuleCounts {
        observed.rules.take_counts()
    }

    fn take_effort(&mut self) -> Effort {
        self.gather_effort()
    }
}
