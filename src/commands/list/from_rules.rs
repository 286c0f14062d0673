//! The rules of iptables mode as a [`Table`]: what `ipvsadm -Ln` would print if IPVS did the same.
//!
//! A virtual server is a rule with a destination port in KUBE-SERVICES or KUBE-NODEPORTS that leads to a service's
//! chain, or one that refuses because there are no endpoints. Its real servers are the DNAT targets that a sender from
//! outside can reach. Where the rules do otherwise than IPVS:
//!
//! - the scheduler is `random`; a weight is 1 where the rule's comment says nothing else;
//! - open connections are 0: nobody counts them. New ones are: a rule of nat sees the first packet of a connection only. Those
//!   of a virtual server are its own, those of a real server are of all virtual servers of its Service port. Where rules
//!   refuse, the packets are counted;
//! - a node port stands once for each address of the node that the rules admit;
//! - under the traffic policy Local, external addresses show the node's own endpoints, which is what senders from
//!   outside get; the node and its pods get all.
//!
//! kube-proxy's rules are read just as well: they have the same structure and names.

use super::sort;
use super::table::{Details, Forward, Frontend, Netmask, Persistence, RealServer, Table, Traffic, VirtualServer};
use crate::backend::iptables::names;
use crate::backend::iptables::service::WEIGHT_COMMENT;
use iptables::{
    AddrType, ChainName, DnatTo, Family, Match, PortRange, Protocol, RecentAction, Rule, Saved, SavedChain,
    Table as RuleTable, Target,
};
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

/// Chains that lead to one service's endpoints: `KUBE-FW-` → `KUBE-EXT-` → `KUBE-SVC-` or `KUBE-SVL-`.
const SERVICE_CHAINS: [&str; 4] = ["KUBE-SVC-", "KUBE-SVL-", "KUBE-EXT-", "KUBE-FW-"];

/// The table of the rules of both families, of which nat and filter are needed. `addresses` are the node's. Sorted.
#[must_use]
pub fn table(saved: &[(Family, Saved)], addresses: &[IpAddr]) -> Table {
    let mut servers = Vec::new();
    let mut seen = HashSet::new();
    for (family, saved) in saved {
        let of_family = |address: &IpAddr| address.is_ipv4() == (*family == Family::V4);
        let reader = Reader { saved, addresses: addresses.iter().copied().filter(of_family).collect() };
        for server in reader.servers() {
            if seen.insert(server.frontend) {
                servers.push(server);
            }
        }
    }
    let mut table = Table { header: None, servers };
    sort::sort(&mut table);
    table
}

/// Reads the rules of one family.
struct Reader<'a> {
    saved: &'a Saved,
    addresses: Vec<IpAddr>,
}

/// Endpoints behind a chain.
#[derive(Default)]
struct Backends {
    /// Each with its weight, and how many connections it was given.
    endpoints: Vec<(DnatTo, u32, u64)>,
    /// Seconds of session affinity.
    affinity: Option<u32>,
}

impl Reader<'_> {
    /// All virtual servers; those with endpoints first, as a refusal can stand beside them.
    fn servers(&self) -> Vec<VirtualServer> {
        let services = self.rules(RuleTable::Nat, "KUBE-SERVICES");
        let chains = self.saved.tables.get(&RuleTable::Nat).into_iter().flat_map(|table| &table.chains);
        let by_address = chains.filter(|(name, _)| names::is_of_addresses(RuleTable::Nat, name));
        let by_address = by_address.flat_map(|(_, chain)| counted(chain));
        let by_address: Vec<(&Rule, u64)> = by_address.collect();
        let mut found = Vec::new();
        for (rule, packets) in services.iter().chain(&by_address) {
            found.extend(self.server(rule, *packets, &destination(rule).into_iter().collect::<Vec<_>>()));
        }
        let node_addresses = self.node_port_addresses(&services);
        for (rule, packets) in self.rules(RuleTable::Nat, "KUBE-NODEPORTS") {
            found.extend(self.server(rule, packets, &node_addresses));
        }
        for chain in ["KUBE-SERVICES", "KUBE-EXTERNAL-SERVICES"] {
            for (rule, packets) in self.rules(RuleTable::Filter, chain) {
                if !matches!(rule.target, Some(Target::Reject { .. } | Target::Drop)) {
                    continue;
                }
                let of_node = tests_for_local(rule) && destination(rule).is_none();
                let addresses = if of_node { node_addresses.clone() } else { destination(rule).into_iter().collect() };
                let refusing = servers_on(rule, &addresses, &Backends::default());
                found.extend(refusing.into_iter().map(|server| VirtualServer { refused: packets, ..server }));
            }
        }
        found
    }

    fn chain(&self, table: RuleTable, name: ChainName) -> Option<&SavedChain> {
        self.saved.chain(table, name)
    }

    /// The rules of a chain, and how many packets each has seen.
    fn rules(&self, table: RuleTable, name: &'static str) -> Vec<(&Rule, u64)> {
        let chain = self.chain(table, ChainName::from_static(name));
        chain.into_iter().flat_map(counted).collect()
    }

    /// The virtual servers of a rule that leads to a service's chain.
    fn server(&self, rule: &Rule, packets: u64, addresses: &[IpAddr]) -> Vec<VirtualServer> {
        let Some(chain) = service_chain(rule) else { return Vec::new() };
        let mut backends = Backends::default();
        self.collect(chain, &mut backends, SERVICE_CHAINS.len());
        let traffic = Traffic { connections: packets, ..Traffic::default() };
        servers_on(rule, addresses, &backends).into_iter().map(|server| VirtualServer { traffic, ..server }).collect()
    }

    /// The node's addresses on which KUBE-SERVICES hands over to KUBE-NODEPORTS.
    fn node_port_addresses(&self, services: &[(&Rule, u64)]) -> Vec<IpAddr> {
        let node_ports = Target::Jump(ChainName::from_static("KUBE-NODEPORTS"));
        let jumps: Vec<&Rule> =
            services.iter().map(|(rule, _)| *rule).filter(|rule| rule.target.as_ref() == Some(&node_ports)).collect();
        let admits = |rule: &&Rule, address: IpAddr| {
            destination_tests(rule).all(|(net, negated)| net.contains(&address) != negated)
        };
        self.addresses.iter().copied().filter(|address| jumps.iter().any(|rule| admits(rule, *address))).collect()
    }

    /// Adds what a sender from outside reaches through `chain`. `depth` ends it should the chains form a ring.
    fn collect(&self, chain: ChainName, backends: &mut Backends, depth: usize) {
        let Some(rules) = self.chain(RuleTable::Nat, chain).map(|chain| &chain.rules) else { return };
        if chain.starts_with("KUBE-EXT-") {
            // Those with a test are for the node's own and the pods' traffic.
            let mut for_all =
                rules.iter().rev().filter(|rule| rule.matches.iter().all(|test| matches!(test, Match::Comment(_))));
            if let (Some(next), Some(depth)) = (for_all.find_map(service_chain), depth.checked_sub(1)) {
                self.collect(next, backends, depth);
            }
        } else if chain.starts_with("KUBE-FW-") {
            // One for each admitted range, all to the same chain.
            if let (Some(next), Some(depth)) = (rules.iter().find_map(service_chain), depth.checked_sub(1)) {
                self.collect(next, backends, depth);
            }
        } else {
            self.endpoints(rules, backends);
        }
    }

    /// The rules of a policy chain. With affinity each endpoint appears twice.
    fn endpoints(&self, rules: &[Rule], backends: &mut Backends) {
        let mut seen = HashMap::new();
        for rule in rules {
            let Some(chain) = rule.target.as_ref().and_then(Target::chain) else { continue };
            if !chain.starts_with("KUBE-SEP-") {
                continue;
            }
            backends.affinity = backends.affinity.or_else(|| affinity(rule));
            let index = *seen.entry(chain).or_insert_with(|| {
                let chain = self.chain(RuleTable::Nat, chain)?;
                let translation = counted(chain).find_map(|(rule, packets)| dnat(rule).map(|to| (to, 1, packets)));
                backends.endpoints.push(translation?);
                Some(backends.endpoints.len() - 1)
            });
            let known = index.and_then(|index| backends.endpoints.get_mut(index));
            if let (Some((_, known, _)), Some(weight)) = (known, weight(rule)) {
                *known = weight;
            }
        }
    }
}

/// The rules of a chain, and how many packets each has seen.
fn counted(chain: &SavedChain) -> impl Iterator<Item = (&Rule, u64)> {
    let packets = chain.counters.iter().map(|counters| counters.packets).chain(std::iter::repeat(0));
    chain.rules.iter().zip(packets)
}

/// A virtual server on each of the addresses, if the rule is for one port of one protocol.
fn servers_on(rule: &Rule, addresses: &[IpAddr], backends: &Backends) -> Vec<VirtualServer> {
    let (Some(protocol), Some(port)) = (rule.protocol_tested(), destination_port(rule)) else { return Vec::new() };
    addresses.iter().map(|address| virtual_server(protocol, *address, port, backends)).collect()
}

fn virtual_server(protocol: Protocol, address: IpAddr, port: u16, backends: &Backends) -> VirtualServer {
    let real_server = |(to, weight, connections): &(DnatTo, u32, u64)| {
        let traffic = Traffic { connections: *connections, ..Traffic::default() };
        let endpoint = match *to {
            DnatTo::Address(address) => SocketAddr::new(address, port),
            DnatTo::Endpoint(endpoint) => endpoint,
        };
        RealServer {
            address: endpoint.ip(),
            port: endpoint.port(),
            forward: Forward::Masquerade,
            weight: *weight,
            active_connections: 0,
            inactive_connections: 0,
            details: Some(Box::new(Details { traffic, ..Details::default() })),
        }
    };
    let persistence = backends.affinity.map(|seconds| Persistence { seconds, netmask: Netmask::Host });
    VirtualServer {
        frontend: Frontend::Address { protocol: protocol.number().into(), address, port },
        scheduler: "random".into(),
        scheduler_flags: [false; 3],
        persistence,
        engine: None,
        one_packet: false,
        traffic: Traffic::default(),
        refused: 0,
        real_servers: backends.endpoints.iter().map(real_server).collect(),
    }
}

fn service_chain(rule: &Rule) -> Option<ChainName> {
    let chain = rule.target.as_ref()?.chain()?;
    SERVICE_CHAINS.iter().any(|prefix| chain.starts_with(prefix)).then_some(chain)
}

fn destination_tests(rule: &Rule) -> impl Iterator<Item = (ipnet::IpNet, bool)> + '_ {
    rule.matches.iter().filter_map(|test| match test {
        Match::Destination { net, negated } => Some((*net, *negated)),
        _ => None,
    })
}

/// The one address that the rule is for.
fn destination(rule: &Rule) -> Option<IpAddr> {
    let mut whole =
        destination_tests(rule).filter(|(net, negated)| !negated && net.prefix_len() == net.max_prefix_len());
    whole.next().map(|(net, _)| net.addr())
}

fn destination_port(rule: &Rule) -> Option<u16> {
    rule.matches.iter().find_map(|test| match test {
        Match::DestinationPort { ports, negated: false } if *ports == PortRange::from(ports.first()) => {
            Some(ports.first())
        }
        _ => None,
    })
}

fn tests_for_local(rule: &Rule) -> bool {
    rule.matches.iter().any(|test| match test {
        Match::AddrType(types) => {
            types.destination.as_ref().is_some_and(|of| !of.negated && of.members == [AddrType::Local])
        }
        _ => false,
    })
}

fn affinity(rule: &Rule) -> Option<u32> {
    rule.matches.iter().find_map(|test| match test {
        Match::Recent(recent) if recent.action == RecentAction::Rcheck => recent.seconds,
        _ => None,
    })
}

/// What the comment says of it, which is nothing where it is 1.
fn weight(rule: &Rule) -> Option<u32> {
    let comment =
        rule.matches.iter().find_map(|test| if let Match::Comment(text) = test { Some(text) } else { None })?;
    comment.rsplit_once(WEIGHT_COMMENT)?.1.parse().ok()
}

fn dnat(rule: &Rule) -> Option<DnatTo> {
    match rule.target {
        Some(Target::Dnat { to, .. }) => Some(to),
        _ => None,
    }
}

#[cfg(test)]
#[path = "from_rules_tests.rs"]
mod tests;
