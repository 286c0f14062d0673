//! What a service port asks of IPVS, the sets and the routes. Pure.

use super::names::Set;
use super::plan::Context;
use super::{VipBinding, shadow};
use crate::desired::{Endpoint, FrontendKind, NodeRules, Role, ServicePort};
use crate::kernel::ipset::{self, Entry, storable_networks};
use crate::model::{IpFamily, Protocol};
use ipnet::{IpNet, Ipv4Net};
use ipvs::{Destination, Scheduler, Service, ServiceFlags, ServiceId};
use litemap::LiteMap;
use smallvec::SmallVec;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Instant;

/// A virtual server with its destinations by address and port, and their weights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Its configuration.
    pub service: Service,
    /// Weight of each destination; 0 drains.
    pub weights: LiteMap<SocketAddr, u32>,
}

/// Everything that a service port asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Virtual servers, each once.
    pub servers: SmallVec<[Server; 1]>,
    /// The set that records each virtual server.
    pub ledger: SmallVec<[(Set, Entry); 1]>,
    /// What becomes of packets before IPVS: who may use the load-balancer addresses, what is dropped, what on localhost
    /// is served.
    pub verdicts: BTreeSet<(Set, Entry)>,
    /// What other service ports may ask for as well.
    pub shared: Shared,
}

/// What other service ports may ask for as well.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shared {
    /// Entries against hairpin.
    pub loop_back: Vec<Entry>,
    /// Addresses that have to be routed to us.
    pub bindings: Vec<IpAddr>,
}

/// Renders a service port.
pub fn render(context: &Context, port: &ServicePort, node: &NodeRules) -> Wanted {
    let mut wanted = Wanted::default();
    let frontends = frontends(port, node);
    for Frontend { address, number, set, local, .. } in &frontends {
        let id = ServiceId::Address { protocol: ipvs_protocol(port.key.protocol), address: *address, port: *number };
        let entry = Entry::IpPort { address: *address, protocol: set_protocol(port.key.protocol), port: *number };
        wanted.servers.push(server(context, port, id, *local));
        wanted.ledger.push((*set, entry));
        if *set == Set::ExternalLocal {
            wanted.verdicts.insert((Set::Mapped, entry));
        }
        if *set != Set::Shadow && port.has_any_endpoints && !serves(port, *local) {
            wanted.verdicts.insert((Set::Dropped, entry));
        }
    }
    wanted.verdicts.extend(firewall(port));
    wanted.verdicts.extend(localhost(port, node));
    wanted.shared = Shared::of(context, port, node, &frontends);
    wanted
}

/// Only what other service ports may ask for as well.
pub fn shared(context: &Context, port: &ServicePort, node: &NodeRules) -> Shared {
    Shared::of(context, port, node, &frontends(port, node))
}

impl Shared {
    fn of(context: &Context, port: &ServicePort, node: &NodeRules, frontends: &[Frontend]) -> Self {
        let reached = port.endpoints.iter().filter(|endpoint| endpoint.serves() && may_reach_itself(port, endpoint));
        let loop_back = reached.map(|endpoint| loop_back(port, endpoint)).collect();
        Self { loop_back, bindings: bindings(context, node, frontends) }
    }
}

fn bindings(context: &Context, node: &NodeRules, frontends: &[Frontend]) -> Vec<IpAddr> {
    let mut bindings = Vec::new();
    for Frontend { address, .. } in frontends.iter().filter(|frontend| frontend.bound) {
        let ranged = context.binding == VipBinding::Route && in_ranges(node, *address);
        if !ranged && !bindings.contains(address) {
            bindings.push(*address);
        }
    }
    bindings
}

/// Whether what an endpoint sends to the service may be balanced here, and to itself. An endpoint of another node is
/// balanced there; but with policy Local it is sent to the shadow here, unmasqueraded.
fn may_reach_itself(port: &ServicePort, endpoint: &Endpoint) -> bool {
    !endpoint.elsewhere || port.external_policy_local || port.left_local.is_some()
}

/// Where a virtual server stands, and what it is for.
struct Frontend {
    address: IpAddr,
    number: u16,
    set: Set,
    /// It has this node's endpoints only.
    local: bool,
    /// The address has to be made local.
    bound: bool,
}

/// The virtual servers of a service port, each once; where a policy tells strangers from the cluster there are two for an
/// address.
fn frontends(port: &ServicePort, node: &NodeRules) -> SmallVec<[Frontend; 2]> {
    let node_ips = if port.node_port.is_some() { node.node_port_ips() } else { &[] };
    let addresses = port.service_addresses().chain(node_ips.iter().map(|ip| (FrontendKind::NodePort, *ip)));
    let mut frontends: SmallVec<[Frontend; 2]> = SmallVec::new();
    // An external IP that equals the cluster IP, or a node's address, is the same virtual server: the first wins.
    let mut add = |frontend: Frontend| {
        let place = |frontend: &Frontend| (frontend.address, frontend.number);
        if frontends.iter().all(|known| place(known) != place(&frontend)) {
            frontends.push(frontend);
        }
    };
    for (kind, address) in addresses {
        let number = if kind == FrontendKind::NodePort { port.node_port.unwrap_or_default() } else { port.port };
        let bound = kind != FrontendKind::NodePort && !node.node_addresses.contains(&address);
        let (set, local) = match (kind, port.external_policy_local) {
            (FrontendKind::ClusterIp, _) => (Set::ClusterIp, port.internal_policy_local),
            (_, false) => (Set::External, false),
            (_, true) => (Set::ExternalLocal, true),
        };
        add(Frontend { address, number, set, local, bound });
        if set == Set::ExternalLocal || (set == Set::External && port.left_local.is_some()) {
            let address = shadow::of(address);
            add(Frontend { address, number, set: Set::Shadow, local: false, bound: true });
        }
    }
    // The node is within the cluster: all endpoints, whatever the policy.
    if let Some(number) = port.node_port.filter(|_| node.localhost_node_ports) {
        let address = shadow::LOCALHOST;
        add(Frontend { address, number, set: Set::Shadow, local: false, bound: true });
    }
    frontends
}

/// The virtual servers of a service port.
pub fn server_ids(port: &ServicePort, node: &NodeRules) -> Vec<ServiceId> {
    let protocol = ipvs_protocol(port.key.protocol);
    let id = |frontend: Frontend| ServiceId::Address { protocol, address: frontend.address, port: frontend.number };
    frontends(port, node).into_iter().map(id).collect()
}

/// Whether a list has anybody for new connections.
fn serves(port: &ServicePort, local: bool) -> bool {
    if local { port.local_endpoints().next().is_some() } else { port.cluster_endpoints().next().is_some() }
}

/// The entry that takes a node port on localhost to its virtual server. Without any endpoint it is refused there.
fn localhost(port: &ServicePort, node: &NodeRules) -> Option<(Set, Entry)> {
    let number = port.node_port.filter(|_| node.localhost_node_ports)?;
    let net = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8));
    Some((Set::Localhost, Entry::NetPort { net, protocol: set_protocol(port.key.protocol), port: number }))
}

/// The entries that restrict the load-balancer addresses, if anything does.
fn firewall(port: &ServicePort) -> BTreeSet<(Set, Entry)> {
    let mut entries = BTreeSet::new();
    // Without any endpoint everybody is refused, and at once: those who are not admitted, too (kube-proxy's iptables mode
    // has a KUBE-FW- chain only `if hasEndpoints`).
    if port.source_ranges.is_empty() || !port.has_any_endpoints {
        return entries;
    }
    let (protocol, number) = (set_protocol(port.key.protocol), port.port);
    // Who is sent to the shadow is restricted there.
    let shadows = port.load_balancer_ips.iter().filter(|_| port.external_policy_local).map(|ip| shadow::of(*ip));
    for address in port.load_balancer_ips.iter().copied().chain(shadows) {
        entries.insert((Set::Restricted, Entry::IpPort { address, protocol, port: number }));
        for net in port.source_ranges.iter().flat_map(|range| storable_networks(*range)) {
            entries.insert((Set::Admitted, Entry::IpPortNet { address, protocol, port: number, net }));
        }
    }
    entries
}

/// The addresses of the node's service ranges that one route serves.
pub fn in_ranges(node: &NodeRules, address: IpAddr) -> bool {
    let after = node.service_ranges.partition_point(|range| range.network() <= address);
    let before = after.checked_sub(1).and_then(|index| node.service_ranges.get(index));
    before.is_some_and(|range| range.contains(&address))
}

/// The network of one address.
pub fn host(address: IpAddr) -> IpNet {
    IpNet::from(address)
}

fn server(context: &Context, port: &ServicePort, id: ServiceId, local: bool) -> Server {
    // The name was validated where it came in. What this kernel does not have must not cost the service its traffic.
    let has = |scheduler: &Scheduler| !context.missing.contains(scheduler);
    let weighted = port.endpoints.iter().any(|endpoint| endpoint.weight() > 1);
    let known =
        port.scheduler.parse().ok().filter(has).or_else(|| Some(Scheduler::Wrr).filter(|wrr| weighted && has(wrr)));
    let scheduler = known.unwrap_or(Scheduler::Rr);
    let mut service = Service::new(id, scheduler);
    if let Some(timeout) = port.affinity {
        service = service.with_persistence(timeout.seconds());
    }
    // Without fall-back both keep sending to a draining destination and fail (kubernetes PR 138688).
    let (fallback, source_port) = match scheduler {
        Scheduler::Sh => (ServiceFlags::SH_FALLBACK, ServiceFlags::SH_PORT),
        Scheduler::Mh => (ServiceFlags::MH_FALLBACK, ServiceFlags::MH_PORT),
        _ => (ServiceFlags::empty(), ServiceFlags::empty()),
    };
    service = service.with_flags(fallback);
    if port.scheduling.source_port {
        service = service.with_flags(source_port);
    }
    if port.scheduling.one_packet {
        service = service.with_flags(ServiceFlags::ONE_PACKET);
    }
    let role = |endpoint: &Endpoint| if local { endpoint.local } else { endpoint.cluster };
    let listed = port.endpoints.iter().filter_map(|endpoint| Some((endpoint.address, role(endpoint)?)));
    let weights = listed.filter_map(|(address, role)| Some((address, weight(role, context.now)?))).collect();
    Server { service, weights }
}

fn weight(role: Role, now: Instant) -> Option<u32> {
    match role {
        Role::Serve { weight } => Some(weight),
        Role::Drain { until } => (now < until).then_some(0),
    }
}

/// A destination of ours: masqueraded, without thresholds.
pub fn destination(address: SocketAddr, weight: u32) -> Destination {
    Destination::new(address.ip(), address.port(), weight)
}

fn loop_back(port: &ServicePort, endpoint: &Endpoint) -> Entry {
    let (address, protocol) = (endpoint.address.ip(), set_protocol(port.key.protocol));
    Entry::IpPortIp { address, protocol, port: endpoint.address.port(), second: address }
}

/// The ledger entry of a virtual server.
pub fn entry_of(id: &ServiceId) -> Option<Entry> {
    let ServiceId::Address { protocol, address, port } = *id else { return None };
    let protocol = Protocol::ALL.into_iter().find(|known| ipvs_protocol(*known) == protocol).map(set_protocol)?;
    Some(Entry::IpPort { address, protocol, port })
}

/// Whether an entry decides on packets to a virtual server.
pub fn is_about(id: &ServiceId, entry: &Entry) -> bool {
    let of = match *entry {
        Entry::IpPortNet { address, protocol, port, .. } => Entry::IpPort { address, protocol, port },
        other => other,
    };
    entry_of(id) == Some(of)
}

/// Whether a virtual server stands on an address.
pub fn stands_on(id: &ServiceId, on: IpAddr) -> bool {
    matches!(id, ServiceId::Address { address, .. } if *address == on)
}

/// The virtual server of a ledger entry.
pub fn id_of(entry: &Entry) -> Option<ServiceId> {
    let Entry::IpPort { address, protocol, port } = *entry else { return None };
    let protocol = Protocol::ALL.into_iter().find(|known| set_protocol(*known) == protocol).map(ipvs_protocol)?;
    Some(ServiceId::Address { protocol, address, port })
}

/// The family of a virtual server.
pub fn family_of(id: &ServiceId) -> IpFamily {
    match id.family() {
        ipvs::AddressFamily::Ipv4 => IpFamily::V4,
        ipvs::AddressFamily::Ipv6 => IpFamily::V6,
    }
}

fn ipvs_protocol(protocol: Protocol) -> ipvs::Protocol {
    match protocol {
        Protocol::Tcp => ipvs::Protocol::Tcp,
        Protocol::Udp => ipvs::Protocol::Udp,
        Protocol::Sctp => ipvs::Protocol::Sctp,
    }
}

fn set_protocol(protocol: Protocol) -> ipset::Protocol {
    match protocol {
        Protocol::Tcp => ipset::Protocol::TCP,
        Protocol::Udp => ipset::Protocol::UDP,
        Protocol::Sctp => ipset::Protocol::SCTP,
    }
}

#[cfg(test)]
#[path = "wanted_tests.rs"]
mod tests;
