//! What is wanted of the node as a whole, in one family: who is masqueraded, where node ports are served, what is
//! never captured.

use super::settings::{ConnectionTimeouts, DetectLocal, NodePortSelector, ServiceChains, Settings};
use crate::model::{EndpointSlice, IpFamily, Node, ServiceName, Snapshot};
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

/// What the kernel says of the node's own addresses. Read by `kernel`, handed in by the reconciler.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// All addresses of the node's interfaces, both families, without those on our own interface.
    pub addresses: Vec<IpAddr>,
    /// The address that the node uses for itself, one a family: the source of its own connections to services.
    pub primary: Vec<IpAddr>,
    /// Next hops of default routes: capturing one would cut the node off.
    pub gateways: Vec<IpAddr>,
}

/// On which addresses node ports are served, in one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodePortAddresses {
    /// On every address of the node.
    All,
    /// On these.
    These(Vec<IpAddr>),
}

/// What holds for the whole node, in one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRules {
    /// How local traffic is recognised; networks of this family only.
    pub detect_local: DetectLocal,
    /// Masquerade everything that is sent to a cluster IP.
    pub masquerade_all: bool,
    /// The mark that asks for masquerading.
    pub masquerade_mark: u32,
    /// Where node ports are served.
    pub node_port_addresses: NodePortAddresses,
    /// Node ports on loopback too; never for IPv6, whose ::1 the kernel does not let leave the host.
    pub localhost_node_ports: bool,
    /// The address of the node's own connections to services.
    pub primary: Option<IpAddr>,
    /// The node's own addresses that are not loopback, sorted.
    pub node_addresses: Vec<IpAddr>,
    /// The cluster's service ranges, without what another proxy serves; sorted, none within another.
    pub service_ranges: Vec<IpNet>,
    /// Drop what connection tracking calls invalid.
    pub drop_invalid: bool,
    /// Where virtual servers that we did not make are left alone.
    pub excluded: Vec<IpNet>,
    /// IPVS's timeouts, which both families share.
    pub timeouts: ConnectionTimeouts,
    /// How iptables mode finds a Service by its address.
    pub service_chains: ServiceChains,
}

impl NodeRules {
    /// Derives the rules of a family from the settings, the kernel's facts and our Node object.
    pub fn derive(
        settings: &Settings,
        facts: &NodeFacts,
        node: Option<&Node>,
        service_ranges: &[IpNet],
        family: IpFamily,
    ) -> Self {
        let mut node_addresses: Vec<IpAddr> = facts
            .addresses
            .iter()
            .copied()
            .filter(|ip| IpFamily::of(*ip) == family && !ip.is_loopback() && !is_link_local(*ip))
            .collect();
        node_addresses.sort_unstable();
        node_addresses.dedup();
        let in_family = |nets: &[IpNet]| -> Vec<IpNet> {
            nets.iter().copied().filter(|net| IpFamily::of_network(net) == family).collect()
        };
        let own_cidrs = in_family(node.map(|node| node.pod_cidrs.as_slice()).unwrap_or_default());
        let detect_local = match &settings.detect_local {
            DetectLocal::NodeCidrs if own_cidrs.is_empty() => DetectLocal::None,
            DetectLocal::NodeCidrs => DetectLocal::Cidrs(own_cidrs),
            DetectLocal::Cidrs(nets) if in_family(nets).is_empty() => DetectLocal::None,
            DetectLocal::Cidrs(nets) => DetectLocal::Cidrs(in_family(nets)),
            other => other.clone(),
        };
        let selector = &settings.node_port_addresses;
        let given = settings.node_ip.filter(|ip| IpFamily::of(*ip) == family);
        let node_port_addresses = match (selector, given) {
            (NodePortSelector::Primary, Some(ip)) => NodePortAddresses::These(vec![ip]),
            _ => node_port_addresses(facts, selector, &node_addresses, node, family),
        };
        // Upstream: localhost node ports need node ports on all addresses or a CIDR that holds 127.0.0.1.
        let loopback = IpAddr::from([127, 0, 0, 1]);
        let loopback_selected = match selector {
            NodePortSelector::All => true,
            NodePortSelector::Cidrs(nets) => {
                nets.iter().any(|net| net.contains(&loopback)) || nets.iter().all(|net| net.addr().is_ipv6())
            }
            NodePortSelector::Primary => false,
        };
        Self {
            detect_local,
            masquerade_all: settings.masquerade_all,
            masquerade_mark: settings.masquerade_mark,
            node_port_addresses,
            localhost_node_ports: settings.localhost_node_ports && family == IpFamily::V4 && loopback_selected,
            primary: facts.primary.iter().copied().find(|ip| IpFamily::of(*ip) == family),
            node_addresses,
            service_ranges: in_family(service_ranges),
            drop_invalid: settings.drop_invalid,
            excluded: in_family(&settings.excluded),
            timeouts: settings.timeouts,
            service_chains: settings.service_chains,
        }
    }

    /// The addresses of the node, other than loopback, on which node ports are served now.
    pub fn node_port_ips(&self) -> &[IpAddr] {
        match &self.node_port_addresses {
            NodePortAddresses::All => &self.node_addresses,
            NodePortAddresses::These(ips) => ips,
        }
    }
}

/// The addresses on which health checks are answered: those of node ports, and loopback where it is among them.
pub fn answering_addresses(
    settings: &Settings,
    facts: &NodeFacts,
    node: Option<&Node>,
    family: IpFamily,
) -> NodePortAddresses {
    let of_family = |ip: &IpAddr| IpFamily::of(*ip) == family && !is_link_local(*ip);
    let mut own: Vec<IpAddr> = facts.addresses.iter().copied().filter(of_family).collect();
    if own.is_empty() {
        // A kernel without IPv6, most likely.
        return NodePortAddresses::These(own);
    }
    own.sort_unstable();
    own.dedup();
    node_port_addresses(facts, &settings.node_port_addresses, &own, node, family)
}

fn node_port_addresses(
    facts: &NodeFacts,
    selector: &NodePortSelector,
    own: &[IpAddr],
    node: Option<&Node>,
    family: IpFamily,
) -> NodePortAddresses {
    match selector {
        NodePortSelector::All => NodePortAddresses::All,
        // Zero-length CIDRs of this family mean all, as upstream's `ContainsIPv4Loopback`/`MatchAll` do.
        // So does a list without any CIDR of this family (`NewNodePortAddresses`).
        NodePortSelector::Cidrs(nets)
            if nets.iter().any(|net| net.prefix_len() == 0 && IpFamily::of_network(net) == family)
                || nets.iter().all(|net| IpFamily::of_network(net) != family) =>
        {
            NodePortAddresses::All
        }
        NodePortSelector::Cidrs(nets) => {
            NodePortAddresses::These(own.iter().copied().filter(|ip| nets.iter().any(|net| net.contains(ip))).collect())
        }
        NodePortSelector::Primary => {
            let named = node.and_then(|node| node.addresses.iter().find(|ip| IpFamily::of(**ip) == family)).copied();
            let primary = facts.primary.iter().copied().find(|ip| IpFamily::of(*ip) == family);
            NodePortAddresses::These(named.or(primary).or_else(|| own.first().copied()).into_iter().collect())
        }
    }
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(_) => false,
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

/// Where the API servers answer: the endpoints of `default/kubernetes`.
pub fn api_servers(snapshot: &Snapshot) -> BTreeSet<SocketAddr> {
    let slices = snapshot.slices.get(&ServiceName::new("default", "kubernetes"));
    let of_slice = |slice: &EndpointSlice| -> Vec<SocketAddr> {
        let ports = slice.ports.iter().map(|port| port.port);
        ports.flat_map(|port| slice.endpoints.iter().map(move |one| SocketAddr::new(one.address, port))).collect()
    };
    slices.into_iter().flat_map(|slices| slices.values()).flat_map(|slice| of_slice(&slice)).collect()
}

/// Addresses that must never become ours: other nodes', the API servers' and the gateways'. (Our own node's are local
/// already and are served without being bound.)
pub fn never_captured<'a>(
    nodes: impl Iterator<Item = &'a Node>,
    api_servers: &BTreeSet<SocketAddr>,
    own: &str,
    facts: &NodeFacts,
) -> BTreeSet<IpAddr> {
    let others = nodes.filter(|node| &*node.name != own).flat_map(|node| node.addresses.iter().copied());
    let servers = api_servers.iter().map(SocketAddr::ip);
    let mut addresses: BTreeSet<IpAddr> = others.chain(servers).chain(facts.gateways.iter().copied()).collect();
    for own in &facts.addresses {
        addresses.remove(own);
    }
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> NodeFacts {
        let addresses = ["127.0.0.1", "192.168.0.2", "192.168.1.2", "::1", "2001:db8::2", "fe80::1"];
        NodeFacts {
            addresses: addresses.iter().map(|ip| ip.parse().unwrap()).collect(),
            primary: vec!["192.168.0.2".parse().unwrap()],
            gateways: vec!["192.168.0.1".parse().unwrap()],
        }
    }

    #[test]
    fn all_addresses_but_loopback_and_link_local() {
        let rules = NodeRules::derive(&Settings::default(), &facts(), None, &[], IpFamily::V4);
        assert_eq!(rules.node_port_ips(), ["192.168.0.2".parse::<IpAddr>().unwrap(), "192.168.1.2".parse().unwrap()]);
        assert!(rules.localhost_node_ports);
        let rules = NodeRules::derive(&Settings::default(), &facts(), None, &[], IpFamily::V6);
        assert_eq!(rules.node_port_ips(), ["2001:db8::2".parse::<IpAddr>().unwrap()]);
        assert!(!rules.localhost_node_ports);
    }

    #[test]
    fn cidrs_choose_and_exclude_loopback() {
        let cidrs = vec!["192.168.1.0/24".parse().unwrap()];
        let settings = Settings { node_port_addresses: NodePortSelector::Cidrs(cidrs), ..Settings::default() };
        let rules = NodeRules::derive(&settings, &facts(), None, &[], IpFamily::V4);
        assert_eq!(rules.node_port_ips(), ["192.168.1.2".parse::<IpAddr>().unwrap()]);
        assert!(!rules.localhost_node_ports);
    }

    #[test]
    fn gateways_api_servers_and_other_nodes_are_never_captured() {
        let node = |name: &str, ip: &str| Node {
            name: name.into(),
            zone: None,
            addresses: vec![ip.parse().unwrap()],
            pod_cidrs: Vec::new(),
            leaving: false,
        };
        let nodes = [node("me", "192.168.0.2"), node("other", "192.168.0.3")];
        let servers = ["192.168.0.2:6443", "192.168.7.1:6443"].map(|server| server.parse().unwrap()).into();
        let never = never_captured(nodes.iter(), &servers, "me", &facts());
        let wanted: BTreeSet<IpAddr> =
            ["192.168.0.1", "192.168.0.3", "192.168.7.1"].iter().map(|ip| ip.parse().unwrap()).collect();
        assert_eq!(never, wanted);
    }
}
