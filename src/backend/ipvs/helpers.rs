//! The constant rules of IPVS mode: what IPVS itself cannot decide. Their number depends on neither services nor
//! endpoints; the sets do.

use super::names::{self, Set};
use crate::backend::rules::{Jump, forward, masquerade_if_not_local, off_cluster, postrouting};
use crate::desired::NodeRules;
use crate::model::IpFamily;
use iptables::{Chain, ChainName, CtState, Protocol, Rule, SetDir, Table};

const TO_ADDRESS_AND_PORT: [SetDir; 2] = [SetDir::Dst, SetDir::Dst];

/// The chains, leaves first.
pub fn chains(node: &NodeRules, family: IpFamily) -> Vec<(Table, Chain)> {
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
        (Table::Mangle, chain(names::firewall(), vec![drop_not_admitted(family)])),
    ]);
    chains
}

/// The jumps into them.
pub fn jumps(family: IpFamily) -> Vec<Jump> {
    let jump = |table, from, rule: Rule, to: ChainName| Jump {
        table,
        from: ChainName::from_static(from),
        rule: rule.jump(to),
    };
    let portals = || Rule::new().comment("kubernetes service portals");
    let guarded = Rule::new().comment("kubernetes service addresses").set(Set::Addresses.name(family), &[SetDir::Dst]);
    let firewall = || Rule::new().comment("kubernetes load balancer firewall");
    vec![
        jump(Table::Mangle, "INPUT", firewall(), names::firewall()),
        jump(Table::Mangle, "OUTPUT", firewall(), names::firewall()),
        jump(Table::Filter, "INPUT", guarded, names::guard()),
        jump(Table::Filter, "FORWARD", Rule::new().comment("kubernetes forwarding rules"), names::forward()),
        jump(Table::Nat, "OUTPUT", portals(), names::services()),
        jump(Table::Nat, "PREROUTING", portals(), names::services()),
        jump(Table::Nat, "POSTROUTING", Rule::new().comment("kubernetes postrouting rules"), names::postrouting()),
    ]
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
    rules.push(own.src_type(iptables::AddrType::Local).jump(names::mark_masq()));
    rules
}

/// In mangle, because IPVS takes the node's own packets in OUTPUT before filter sees them. What is established was
/// admitted once; a range that shrinks ends it, as a firewall does.
fn drop_not_admitted(family: IpFamily) -> Rule {
    Rule::new()
        .comment("senders that loadBalancerSourceRanges does not admit")
        .set(Set::Restricted.name(family), &TO_ADDRESS_AND_PORT)
        .not_set(Set::Admitted.name(family), &[SetDir::Dst, SetDir::Dst, SetDir::Src])
        .drop()
}

fn postrouting_rules(node: &NodeRules, family: IpFamily) -> Vec<Rule> {
    let loop_back = Rule::new()
        .comment("a pod that reaches itself through a service")
        .set(Set::LoopBack.name(family), &[SetDir::Dst, SetDir::Dst, SetDir::Src])
        .masquerade(true);
    std::iter::once(loop_back).chain(postrouting(node.masquerade_mark)).collect()
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
