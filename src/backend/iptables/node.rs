//! The rules that don't depend on services, and the jumps into ours from the kernel's chains.

use super::names;
use crate::backend::rules::{Found, Jump, block_localnet, forward, off_cluster, postrouting, target_chain};
use crate::desired::{NodePortAddresses, NodeRules, ServiceChains};
use crate::kernel::sysctl::{ROUTE_LOCALNET, Setting};
use crate::model::IpFamily;
use iptables::{AddrType, Chain, ChainName, CtState, MaskedAddress, Rule, Table};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The jumps, in the order in which they come to stand when each is put first (upstream prepends them too).
pub fn jumps(localnet_guard: bool) -> Vec<Jump> {
    let jump = |table, from, to: ChainName, comment: &str, new_only: bool| {
        let rule = if new_only { Rule::new().ctstate(&[CtState::New]) } else { Rule::new() };
        Jump { table, from: ChainName::from_static(from), rule: rule.comment(comment.to_owned()).jump(to) }
    };
    let external = "kubernetes externally-visible service portals";
    let firewall = "kubernetes load balancer firewall";
    let portals = "kubernetes service portals";
    let cluster_ips = "kubernetes cluster IPs";
    let mut jumps = vec![
        jump(Table::Filter, "INPUT", names::external_services(), external, true),
        jump(Table::Filter, "FORWARD", names::external_services(), external, true),
        // Upstream has it not, and lets what the node sends to an address without endpoints go to the gateway.
        jump(Table::Filter, "OUTPUT", names::external_services(), external, true),
        jump(Table::Filter, "INPUT", names::node_ports(), "kubernetes health check service ports", false),
        jump(Table::Filter, "FORWARD", names::services(), portals, true),
        jump(Table::Filter, "OUTPUT", names::services(), portals, true),
        jump(Table::Filter, "FORWARD", names::forward(), "kubernetes forwarding rules", false),
        jump(Table::Filter, "INPUT", names::proxy_firewall(), firewall, true),
        jump(Table::Filter, "OUTPUT", names::proxy_firewall(), firewall, true),
        jump(Table::Filter, "FORWARD", names::proxy_firewall(), firewall, true),
        // After KUBE-SERVICES, which drops where a policy says so.
        jump(Table::Filter, "FORWARD", names::untranslated(), cluster_ips, true),
        jump(Table::Filter, "OUTPUT", names::untranslated(), cluster_ips, true),
        jump(Table::Nat, "OUTPUT", names::services(), portals, false),
        jump(Table::Nat, "PREROUTING", names::services(), portals, false),
        jump(Table::Nat, "POSTROUTING", names::postrouting(), "kubernetes postrouting rules", false),
    ];
    if localnet_guard {
        jumps.push(jump(Table::Filter, "INPUT", names::localnet_guard(), "kubernetes localnet guard", false));
    }
    jumps
}

/// Whether a setting is safe with the localnet guard only.
pub fn needs_guard(setting: &Setting) -> bool {
    setting.path == ROUTE_LOCALNET
}

/// Whether the localnet guard is there, and packets meet it.
pub fn is_guarded(found: &Found) -> bool {
    let jump = |jump: &Jump| jump.table == Table::Filter && target_chain(&jump.rule) == Some(&names::localnet_guard());
    found.has(Table::Filter, &names::localnet_guard()) && found.jumps.iter().any(jump)
}

/// The way to KUBE-CLUSTER-IPS, which has to exist before. What was translated to an endpoint needs no look at it, however
/// many services there are; echo requests are nobody's port.
pub fn untranslated(family: IpFamily) -> Chain {
    let icmp = match family {
        IpFamily::V4 => iptables::Protocol::Icmp,
        IpFamily::V6 => iptables::Protocol::Icmpv6,
    };
    let rules = vec![
        Rule::parse("-m conntrack --ctstate DNAT -j RETURN"),
        Rule::new().protocol(icmp).return_(),
        Rule::new().jump(names::cluster_ips()),
    ];
    Chain { name: names::untranslated(), rules }
}

/// The chains that hold for the whole node.
pub fn chains(node: &NodeRules, localnet_guard: bool) -> Vec<(Table, Chain)> {
    let mark = node.masquerade_mark;
    let chain = |name, rules| Chain { name, rules };
    let mut chains = vec![
        (Table::Nat, chain(names::mark_masq(), vec![Rule::new().or_mark(mark)])),
        (Table::Nat, chain(names::postrouting(), counted_postrouting(node))),
        (Table::Filter, chain(names::forward(), forward(mark, node.drop_invalid))),
    ];
    let off_cluster = off_cluster(&node.detect_local, names::mark_masq());
    if !off_cluster.is_empty() {
        chains.push((Table::Nat, chain(names::off_cluster(), off_cluster)));
    }
    if localnet_guard {
        chains.push((Table::Filter, chain(names::localnet_guard(), vec![block_localnet()])));
    }
    chains
}

/// Masquerading, with a rule that only counts: first packets of connections to node ports on localhost, all of which are
/// marked. What other programs translate on localhost has marks of its own.
fn counted_postrouting(node: &NodeRules) -> Vec<Rule> {
    let mut rules = postrouting(node.masquerade_mark);
    if node.localhost_node_ports {
        rules.insert(rules.len().min(1), count_localhost());
    }
    rules
}

/// The rule that counts.
pub fn count_localhost() -> Rule {
    Rule::parse("-m conntrack --ctstate DNAT --ctorigdst 127.0.0.0/8 -m comment --comment \"node ports on localhost\"")
}

/// The rules that end KUBE-SERVICES: services are found by their address, where that is asked for, and everything to an
/// address of the node goes on to the node ports.
pub fn services_tail(node: &NodeRules, family: IpFamily) -> Vec<Rule> {
    let by_address = (0..=u8::MAX).filter(|_| node.service_chains == ServiceChains::ByAddress);
    let jump = |bits| Rule::new().destination_bits(ending_with(bits, family)).jump(names::addresses(bits));
    by_address.map(jump).chain(node_port_tail(node, family)).collect()
}

/// The addresses that end with these bits.
fn ending_with(bits: u8, family: IpFamily) -> MaskedAddress {
    let last = |bits: u8| match family {
        IpFamily::V4 => IpAddr::V4(Ipv4Addr::from_bits(bits.into())),
        IpFamily::V6 => IpAddr::V6(Ipv6Addr::from_bits(bits.into())),
    };
    MaskedAddress { value: last(bits), mask: last(u8::MAX) }
}

fn node_port_tail(node: &NodeRules, family: IpFamily) -> Vec<Rule> {
    let note = "kubernetes service nodeports; NOTE: this must be the last rule in this chain";
    let rules = to_node_ports(&Rule::new().comment(note), node, family);
    rules.into_iter().map(|rule| rule.jump(names::node_ports())).collect()
}

/// Adds the test "to an address on which node ports are served": several rules where there are several addresses.
pub fn to_node_ports(rule: &Rule, node: &NodeRules, family: IpFamily) -> Vec<Rule> {
    match &node.node_port_addresses {
        NodePortAddresses::These(addresses) => {
            let localhost = node.localhost_node_ports.then_some(IpAddr::V4(Ipv4Addr::LOCALHOST));
            addresses.iter().copied().chain(localhost).map(|ip| rule.clone().destination(ip)).collect()
        }
        NodePortAddresses::All => {
            let rule = rule.clone().dst_type(AddrType::Local);
            vec![match family {
                IpFamily::V6 => rule.not_destination(IpAddr::from(Ipv6Addr::LOCALHOST)),
                IpFamily::V4 if !node.localhost_node_ports => rule.not_destination(ipnet::IpNet::V4(loopback_net())),
                IpFamily::V4 => rule,
            }]
        }
    }
}

fn loopback_net() -> ipnet::Ipv4Net {
    ipnet::Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8)
}
