//! The steps from the rules in the kernel to kube-proxy's rules for what is desired. Pure.

use super::service::{self, Rendered};
use super::{Observed, Op, names, node};
use crate::backend::rules::{RuleOp, plan_chain, plan_jumps, plan_removal, plan_shared};
use crate::desired::{Desired, NodeRules, ServicePort, ServicePortKey, Touched};
use crate::model::IpFamily;
use iptables::{ChainName, Position, Rule, Table};
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// Plans everything, or only what is touched where it is known what was there before.
pub fn plan(family: IpFamily, desired: &Desired, observed: &Observed, touched: Touched<'_>) -> Vec<Op> {
    let Some(rules) = desired.rules.as_deref() else { return everything_goes(observed) };
    if desired.retiring {
        return refusals_go(observed);
    }
    let mut ops = sysctls(observed, rules);
    let steps = match (touched, &observed.previous) {
        (Touched::Ports(keys), Some(previous)) if *previous.rules == *rules => {
            let old = keys.iter().filter_map(|key| previous.ports.get(key).map(|port| &**port));
            let new = keys.iter().filter_map(|key| desired.ports.get(key).map(|port| &**port));
            changed(old, new, rules, observed)
        }
        _ => whole(family, desired, rules, observed),
    };
    ops.extend(steps.into_iter().map(Op::Rule));
    ops
}

fn sysctls(observed: &Observed, rules: &NodeRules) -> Vec<Op> {
    let wanted = |path: &str| !path.ends_with("route_localnet") || rules.localhost_node_ports;
    observed.unset.iter().filter(|setting| wanted(setting.path)).copied().map(Op::Sysctl).collect()
}

/// The jumps first, so that nothing enters half a chain; then the chains.
fn everything_goes(observed: &Observed) -> Vec<Op> {
    let (_, jumps) = plan_jumps(&observed.rules, &[]);
    let chains = plan_removal(&observed.rules, |_, _| false, names::depth);
    jumps.into_iter().chain(chains).map(Op::Rule).collect()
}

/// Handing over: what refuses and drops goes before the translation does, or it would meet what the other mode is to get.
/// Nothing has to drain, as what is open lives on in connection tracking.
fn refusals_go(observed: &Observed) -> Vec<Op> {
    let everything = everything_goes(observed).into_iter();
    everything.filter(|op| matches!(op, Op::Rule(op) if op.table() != Table::Nat)).collect()
}

fn whole(family: IpFamily, desired: &Desired, rules: &NodeRules, observed: &Observed) -> Vec<RuleOp> {
    let found = &observed.rules;
    let mut wanted: HashSet<(Table, ChainName)> = names::shared().into_iter().collect();
    let mut steps = Vec::new();
    for (table, chain) in node::chains(rules) {
        wanted.insert((table, chain.name));
        steps.extend(plan_chain(found, table, chain));
    }
    let mut shared: BTreeMap<(Table, ChainName), Vec<Rule>> =
        names::shared().into_iter().map(|chain| (chain, Vec::new())).collect();
    for port in in_order(desired) {
        let rendered = service::render(port, rules);
        for chain in rendered.chains {
            wanted.insert((Table::Nat, chain.name));
            steps.extend(plan_chain(found, Table::Nat, chain));
        }
        for (table, chain, rule) in rendered.shared {
            shared.entry((table, chain)).or_default().push(rule);
        }
    }
    // KUBE-SERVICES jumps to KUBE-NODEPORTS, which therefore has to exist first: the map's order is that of the names.
    for ((table, name), entries) in shared {
        let tail = if (table, &name) == (Table::Nat, &names::services()) {
            node::node_port_tail(rules, family)
        } else {
            Vec::new()
        };
        let planned = plan_shared(found, table, name, entries, tail);
        if desired.incomplete && found.has(table, &name) {
            // Only additions: what stands there may belong to what is still to come.
            steps.extend(planned.into_iter().filter(|op| matches!(op, RuleOp::Insert { .. })));
        } else {
            steps.extend(planned);
        }
    }
    let untranslated = node::untranslated(family);
    wanted.insert((Table::Filter, untranslated.name));
    steps.extend(plan_chain(found, Table::Filter, untranslated));
    let (missing, surplus) = plan_jumps(found, &node::jumps(rules.localhost_node_ports));
    steps.extend(missing);
    steps.extend(surplus);
    if !desired.incomplete {
        steps.extend(plan_removal(found, |table, name| wanted.contains(&(table, *name)), names::depth));
    }
    steps
}

/// `default/kubernetes` first: a new node needs its API server before anything else.
fn in_order(desired: &Desired) -> impl Iterator<Item = &ServicePort> {
    let first = |key: &ServicePortKey| &*key.service.namespace == "default" && &*key.service.name == "kubernetes";
    let head = desired.ports.iter().filter(move |(key, _)| first(key));
    let rest = desired.ports.iter().filter(move |(key, _)| !first(key));
    head.chain(rest).map(|(_, port)| &**port)
}

fn changed<'a>(
    old: impl Iterator<Item = &'a ServicePort>,
    new: impl Iterator<Item = &'a ServicePort>,
    rules: &NodeRules,
    observed: &Observed,
) -> Vec<RuleOp> {
    let found = &observed.rules;
    let render = |ports: &mut dyn Iterator<Item = &'a ServicePort>| {
        ports.map(|port| service::render(port, rules)).fold(Rendered::default(), |mut all, one| {
            all.chains.extend(one.chains);
            all.shared.extend(one.shared);
            all
        })
    };
    let (mut old, mut new) = (old, new);
    let (old, new) = (render(&mut old), render(&mut new));
    let wanted: BTreeSet<ChainName> = new.chains.iter().map(|chain| chain.name).collect();
    let mut steps: Vec<RuleOp> =
        new.chains.into_iter().filter_map(|chain| plan_chain(found, Table::Nat, chain)).collect();
    let stands = |(table, chain, rule): &(Table, ChainName, Rule)| {
        let known = found.chains.get(&(*table, *chain)).and_then(|chain| chain.rules.as_ref());
        known.is_some_and(|known| known.contains(&rule.normalised()))
    };
    for (table, chain, rule) in new.shared.iter().filter(|entry| !stands(entry)).cloned() {
        steps.push(RuleOp::Insert { table, chain, position: Position::First, rule });
    }
    for (table, chain, rule) in old.shared.into_iter().filter(|entry| !new.shared.contains(entry) && stands(entry)) {
        steps.push(RuleOp::Remove { table, chain, rule });
    }
    for chain in old.chains {
        if !wanted.contains(&chain.name) && found.has(Table::Nat, &chain.name) {
            steps.push(RuleOp::Delete { table: Table::Nat, name: chain.name });
        }
    }
    steps
}
