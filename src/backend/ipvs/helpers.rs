//! The constant rules of IPVS mode: what IPVS itself cannot decide. Their number depends on neither services nor
//! endpoints; the sets do.

use super::names::{self, Set};
use super::shadow;
use crate::backend::rules::{
    Jump, block_localnet, forward, if_local, masquerade_if_not_local, off_cluster, postrouting,
};
use crate::desired::NodeRules;
use crate::model::IpFamily;
use iptables::{AddrType, AnyOf, Chain, ChainName, ConntrackMatch, CtState, Protocol, Rule, SetDir, Table, Target};
use std::net::IpAddr;

const TO_ADDRESS_AND_PORT: [SetDir; 2] = [SetDir::Dst, SetDir::Dst];

/// The chains, leaves first.
pub fn chains(node: &NodeRules, family: IpFamily, localnet_guard: bool) -> Vec<(Table, Chain)> {
    let chain = |name, rules| Chain { name, rules };
    let mark_masq = chain(names::mark_masq(), vec![Rule::new().or_mark(node.masquerade_mark)]);
    let off_cluster = off_cluster(&node.detect_local, names::mark_masq());
    let mut chains = vec![(Table::Nat, mark_masq)];
    if !off_cluster.is_empty() {
        chains.push((Table::Nat, chain(names::off_cluster(), off_cluster)));
    }
    chains.extend([
        (Table::Nat, chain(names::services(), mark_rules(node, family))),
        (Table::Nat, chain(names::postrouting(), postrouting_rules(node, family))),
        (Table::Filter, chain(names::forward(), forward(node.masquerade_mark, node.drop_invalid))),
        (Table::Filter, chain(names::guard(), guard_rules(family))),
        (Table::Mangle, chain(names::firewall(), firewall_rules(node, family))),
    ]);
    if localnet_guard {
        chains.push((Table::Filter, chain(names::localnet_guard(), vec![block_localnet()])));
    }
    chains
}

/// The jumps into them.
pub fn jumps(family: IpFamily, localnet_guard: bool) -> Vec<Jump> {
    let jump = |table, from, rule: Rule, to: ChainName| Jump {
        table,
        from: ChainName::from_static(from),
        rule: rule.jump(to),
    };
    let portals = || Rule::new().comment("kubernetes service portals");
    let guarded = Rule::new().comment("kubernetes service addresses").set(Set::Addresses.name(family), &[SetDir::Dst]);
    let firewall = || Rule::new().comment("kubernetes load balancer firewall");
    let mut jumps = vec![
        jump(Table::Mangle, "INPUT", firewall(), names::firewall()),
        jump(Table::Mangle, "OUTPUT", firewall(), names::firewall()),
        jump(Table::Filter, "INPUT", guarded, names::guard()),
        jump(Table::Filter, "FORWARD", Rule::new().comment("kubernetes forwarding rules"), names::forward()),
        jump(Table::Nat, "OUTPUT", portals(), names::services()),
        jump(Table::Nat, "PREROUTING", portals(), names::services()),
        jump(Table::Nat, "POSTROUTING", Rule::new().comment("kubernetes postrouting rules"), names::postrouting()),
    ];
    if localnet_guard {
        let comment = Rule::new().comment("kubernetes localnet guard");
        jumps.push(jump(Table::Filter, "INPUT", comment, names::localnet_guard()));
    }
    jumps
}

/// Who is masqueraded, on what kind of address: as kube-proxy's KUBE-SVC and KUBE-EXT chains decide it.
fn mark_rules(node: &NodeRules, family: IpFamily) -> Vec<Rule> {
    let to = |set: Set| Rule::new().set(set.name(family), &TO_ADDRESS_AND_PORT);
    let external = to(Set::External).comment("masquerade traffic for external destinations");
    let mut rules = vec![external.jump(names::mark_masq())];
    let cluster = to(Set::ClusterIp).comment("masquerade traffic for cluster IPs");
    rules.extend(if node.masquerade_all {
        Some(cluster.jump(names::mark_masq()))
    } else {
        masquerade_if_not_local(cluster, &node.detect_local, names::mark_masq(), names::off_cluster())
    });
    let own = to(Set::ExternalLocal).comment("masquerade LOCAL traffic for external destinations");
    rules.push(own.src_type(AddrType::Local).jump(names::mark_masq()));
    rules.extend(divert_rules(node, family));
    rules
}

/// Sends packets on to virtual servers of their own: where strangers get this node's endpoints only, pods and the node get
/// all of them; and node ports on localhost.
fn divert_rules(node: &NodeRules, family: IpFamily) -> Vec<Rule> {
    let other = |text: String| Target::Other(text.into());
    let mapped = |what: &str| {
        let comment = format!("{what} traffic to addresses of policy Local gets all endpoints");
        Rule::new().set(Set::Mapped.name(family), &TO_ADDRESS_AND_PORT).comment(comment)
    };
    let senders = std::iter::once(mapped("LOCAL").src_type(AddrType::Local));
    let senders = senders.chain(if_local(&mapped("pod"), &node.detect_local));
    let to_shadow = format!("NETMAP --to {}", shadow::range(family));
    let mut rules: Vec<Rule> = senders.map(|rule| rule.target(other(to_shadow.clone()))).collect();
    if node.localhost_node_ports {
        let localhost = Set::Localhost.name(family);
        let [_, back] = names::DETOUR;
        let out = Rule::new().set(localhost, &TO_ADDRESS_AND_PORT).src_type(AddrType::Local);
        let detour = || Rule::new().destination(IpAddr::V4(shadow::LOCALHOST_OUT)).in_interface(back);
        rules.extend([
            out.comment("node ports on localhost").dnat(IpAddr::V4(shadow::LOCALHOST_OUT)),
            detour().comment("masquerade node ports on localhost").jump(names::mark_masq()),
            detour().comment("node ports on localhost").dnat(shadow::LOCALHOST),
        ]);
    }
    rules
}

/// What never reaches IPVS. In mangle, because IPVS takes the node's own packets in OUTPUT before filter sees them.
fn firewall_rules(node: &NodeRules, family: IpFamily) -> Vec<Rule> {
    let to = |set: Set| Rule::new().set(set.name(family), &TO_ADDRESS_AND_PORT);
    // Sources that stop being admitted lose what is open, too, as with any firewall.
    let not_admitted = to(Set::Restricted)
        .comment("senders that loadBalancerSourceRanges does not admit")
        .not_set(Set::Admitted.name(family), &[SetDir::Dst, SetDir::Dst, SetDir::Src]);
    // New ones only: what is open to an endpoint that drains goes on.
    let dropped = || to(Set::Dropped).comment("a traffic policy forbids all endpoints").ctstate(&[CtState::New]);
    let direct = ConntrackMatch { state: Some(AnyOf::none_of(&[CtState::Dnat])), ..ConntrackMatch::default() };
    // IPVS would send on what connection tracking cannot place (out of window, say), but not masqueraded: the endpoint
    // knows no such connection and resets it (kubernetes issue 74839, which is about answers).
    let invalid = |set: Set| to(set).comment("no part of a known connection").ctstate(&[CtState::Invalid]).drop();
    let ledger = if node.drop_invalid { Set::LEDGER.as_slice() } else { &[] };
    let rules = ledger.iter().copied().map(invalid).chain([
        not_admitted.drop(),
        dropped().set(Set::ClusterIp.name(family), &TO_ADDRESS_AND_PORT).drop(),
        // In OUTPUT packets have not been sent to the shadow yet, and the node may use all endpoints there are.
        dropped().not_src_type(AddrType::Local).drop(),
        to(Set::Shadow).comment("nobody asks for a shadow address").conntrack(direct).drop(),
    ]);
    rules.collect()
}

fn postrouting_rules(node: &NodeRules, family: IpFamily) -> Vec<Rule> {
    let loop_back = Rule::new()
        .comment("a pod that reaches itself through a service")
        .set(Set::LoopBack.name(family), &[SetDir::Dst, SetDir::Dst, SetDir::Src])
        .masquerade(true);
    let [out, _] = names::DETOUR;
    let detour = Rule::new().comment("node ports on localhost").out_interface(out);
    let detour = detour.target(Target::Other(format!("SNAT --to-source {}", shadow::LOCALHOST_SOURCE).into()));
    let detour = node.localhost_node_ports.then_some(detour);
    detour.into_iter().chain([loop_back]).chain(postrouting(node.masquerade_mark)).collect()
}

/// Without this every port on which the node listens would be reachable on every service address (kubernetes issue
/// 72236). Echo requests are answered.
fn guard_rules(family: IpFamily) -> Vec<Rule> {
    let (icmp, answer) = match family {
        IpFamily::V4 => (Protocol::Icmp, "icmp-port-unreachable"),
        IpFamily::V6 => (Protocol::Icmpv6, "icmp6-port-unreachable"),
    };
    let served = |set: Set| Rule::new().set(set.name(family), &TO_ADDRESS_AND_PORT).return_();
    let mut rules: Vec<Rule> = Set::LEDGER.into_iter().map(served).collect();
    rules.push(Rule::new().protocol(icmp).return_());
    rules.push(Rule::new().ctstate(&[CtState::Related, CtState::Established]).return_());
    rules.push(Rule::new().comment("no service has this port").reject_with(answer));
    rules
}
