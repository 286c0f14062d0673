//! The steps from the rules in the kernel to kube-proxy's rules for what is desired. Pure.

use super::service::{self, Rendered};
use super::{Observed, Op, names, node};
use crate::backend::Ahead;
use crate::backend::rules::{
    Found, RuleOp, adds_only, plan_additions, plan_chain, plan_jumps, plan_removal, plan_shared,
};
use crate::desired::{Desired, NodeRules, ServicePort, ServicePortKey, Touched};
use crate::kernel::sysctl::Setting;
use crate::model::IpFamily;
use imbl::OrdMap;
use iptables::{Chain, ChainName, Position, Rule, Table};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::Bound;
use std::sync::Arc;

/// Plans everything, or only what is touched where it is known what was there before.
pub fn plan(family: IpFamily, desired: &Desired, observed: &Observed, touched: Touched<'_>) -> Vec<Op> {
    let Some(rules) = desired.rules.as_deref() else { return everything_goes(observed) };
    if desired.retiring {
        return refusals_go(observed);
    }
    let mut ops = sysctls(observed, rules);
    let steps = match (touched, &observed.previous) {
        (Touched::Ports(keys), Some(previous)) if *previous.rules == *rules => {
            // What drains is looked at every second and is the same, as a rule: hundreds of services at times.
            let same = |key: &ServicePortKey| match (previous.ports.get(key), desired.ports.get(key)) {
                (Some(old), Some(new)) => Arc::ptr_eq(old, new),
                (old, new) => old.is_none() && new.is_none(),
            };
            let keys: Vec<&ServicePortKey> = keys.iter().filter(|key| !same(key)).collect();
            let old = keys.iter().filter_map(|key| previous.ports.get(*key).map(|port| &**port));
            let new = keys.iter().filter_map(|key| desired.ports.get(*key).map(|port| &**port));
            changed(old, new, rules, observed)
        }
        _ => whole(family, desired, rules, observed),
    };
    ops.extend(steps.into_iter().map(Op::Rule));
    ops
}

/// The chains of a cold start, piece by piece. Nothing jumps to them before the plan as a whole, so that nothing is ever
/// half there; but for `default/kubernetes`, which is served before anything else is written: a new node needs its API
/// server. Not `beside` another mode that serves.
pub fn ahead(
    family: IpFamily,
    desired: &Desired,
    observed: &Observed,
    beside: bool,
    ahead: &mut Ahead,
) -> Option<Vec<Op>> {
    // A run of iptables-restore is waited for: nothing is won before everything is known.
    let rules = desired.rules.as_deref().filter(|_| !desired.retiring && ahead.extent.is_none())?;
    let found = &observed.rules;
    // What stands there in good part is compared as a whole.
    if ahead.pieces == 0 && (found.chains.len() >= desired.ports.len() || desired.ports.len() < WORTHWHILE) {
        return None;
    }
    ahead.pieces += 1;
    if ahead.pieces == 1 {
        let head = desired.ports.iter().filter(|(key, _)| key.service.is_kubernetes());
        let ports: OrdMap<_, _> = head.map(|(key, port)| (key.clone(), port.clone())).collect();
        if beside || ports.is_empty() || found.has(Table::Nat, &names::services()) {
            let chains = observed.node_chains(rules).filter_map(|(table, chain)| plan_chain(found, table, chain));
            return Some(chains.map(Op::Rule).collect());
        }
        // Only additions: what stands there belongs to what is still to come.
        let head = Desired { ports, incomplete: true, ..desired.clone() };
        return Some(plan(family, &head, observed, Touched::All));
    }
    if ahead.ended {
        return None;
    }
    let mut steps = Vec::new();
    let from = ahead.last.take().map_or(Bound::Unbounded, Bound::Excluded);
    for (key, port) in desired.ports.range((from, Bound::Unbounded)) {
        let chains = service::render_chains(port, rules);
        steps.extend(chains.into_iter().filter_map(|chain| plan_chain(found, Table::Nat, chain)).map(Op::Rule));
        if steps.len() >= PIECE {
            ahead.last = Some(key.clone());
            return Some(steps);
        }
    }
    ahead.ended = true;
    // Refusals come before the translation anyway, and are half of the largest chains: the plan as a whole need not hold both.
    // What goes, goes after the translation has come, with that plan.
    for (name, entries) in shared(Table::Filter, desired, rules) {
        if !desired.incomplete && adds_only(found, Table::Filter, name, &entries) {
            let chain = shared_chain(family, desired, rules, found, (Table::Filter, name), entries);
            steps.extend(chain.into_iter().map(Op::Rule));
        }
    }
    Some(steps)
}

/// Steps of a piece: as many as go into one run of iptables-restore. Tests have few services and want pieces all the same.
const PIECE: usize = if cfg!(test) { 2 } else { 600 };

/// Service ports for which pieces are worthwhile.
const WORTHWHILE: usize = if cfg!(test) { 2 } else { 100 };

fn sysctls(observed: &Observed, rules: &NodeRules) -> Vec<Op> {
    let wanted = |setting: &&Setting| !node::needs_guard(setting) || rules.localhost_node_ports;
    observed.unset.iter().filter(wanted).copied().map(Op::Sysctl).collect()
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
    let mut steps = Vec::new();
    // Of what is found, so many chains are wanted.
    let mut standing = names::shared(rules.service_chains).filter(|(table, name)| found.has(*table, name)).count();
    let mut chain = |table, chain: Chain| {
        standing += usize::from(found.has(table, &chain.name));
        plan_chain(found, table, chain)
    };
    for (table, content) in observed.node_chains(rules) {
        // Somebody's who served before, kube-proxy's maybe, goes with what that one left.
        let theirs = desired.incomplete && found.has(table, &content.name);
        let step = chain(table, content);
        steps.extend(step.filter(|_| !theirs));
    }
    for port in in_order(desired) {
        for content in service::render_chains(port, rules) {
            steps.extend(chain(Table::Nat, content));
        }
    }
    // One table after the other, as these chains are the largest that there are; and the refusals first, which as a rule
    // were written ahead, so that nothing of them is kept.
    for table in [Table::Filter, Table::Nat] {
        for (name, entries) in shared(table, desired, rules) {
            steps.extend(shared_chain(family, desired, rules, found, (table, name), entries));
        }
    }
    steps.extend(chain(Table::Filter, node::untranslated(family)));
    let (missing, surplus) = plan_jumps(found, &node::jumps(observed.needs_guard(rules)));
    steps.extend(missing);
    if desired.incomplete {
        return steps;
    }
    steps.extend(surplus);
    if standing < found.chains.len() {
        let wanted = wanted(family, desired, rules, observed);
        steps.extend(plan_removal(found, |table, name| wanted.contains(&(table, *name)), names::depth));
    }
    steps
}

/// The chains of a table that services share, by name: KUBE-SERVICES jumps to KUBE-NODEPORTS and KUBE-ADDR-…, which therefore
/// have to exist first.
fn shared(table: Table, desired: &Desired, rules: &NodeRules) -> BTreeMap<ChainName, Vec<Rule>> {
    let own = names::shared(rules.service_chains).filter(|(of, _)| *of == table);
    let mut shared: BTreeMap<ChainName, Vec<Rule>> = BTreeMap::new();
    for port in in_order(desired) {
        for (name, rule) in service::render_shared(port, rules, table) {
            // Most chains have no rule or one of each service.
            shared.entry(name).or_insert_with(|| Vec::with_capacity(desired.ports.len())).push(rule);
        }
    }
    for (_, name) in own {
        shared.entry(name).or_default();
    }
    shared
}

fn shared_chain(
    family: IpFamily,
    desired: &Desired,
    rules: &NodeRules,
    found: &Found,
    (table, name): (Table, ChainName),
    entries: Vec<Rule>,
) -> Vec<RuleOp> {
    if desired.incomplete && found.has(table, &name) {
        // Only additions: what stands there may belong to what is still to come.
        return plan_additions(found, table, name, entries);
    }
    let last = (table, name) == (Table::Nat, names::services());
    let tail = if last { node::services_tail(rules, family) } else { Vec::new() };
    plan_shared(found, table, name, entries, tail)
}

/// The names of all chains. Only where something has to go, as it takes time and room.
fn wanted(family: IpFamily, desired: &Desired, rules: &NodeRules, observed: &Observed) -> HashSet<(Table, ChainName)> {
    let mut wanted: HashSet<(Table, ChainName)> = names::shared(rules.service_chains).collect();
    wanted.extend(observed.node_chains(rules).map(|(table, chain)| (table, chain.name)));
    wanted.insert((Table::Filter, node::untranslated(family).name));
    for port in desired.ports.values() {
        wanted.extend(service::render_chains(port, rules).into_iter().map(|chain| (Table::Nat, chain.name)));
    }
    wanted
}

/// `default/kubernetes` first: a new node needs its API server before anything else.
fn in_order(desired: &Desired) -> impl Iterator<Item = &ServicePort> {
    let head = desired.ports.iter().filter(|(key, _)| key.service.is_kubernetes());
    let rest = desired.ports.iter().filter(|(key, _)| !key.service.is_kubernetes());
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
        found.shared.get(&(*table, *chain)).is_some_and(|known| known.contains(rule))
    };
    for (table, chain, rule) in new.shared.iter().filter(|entry| !stands(entry)).cloned() {
        steps.push(RuleOp::Insert { table, chain, position: Position::First, rule });
    }
    for (table, chain, rule) in old.shared.into_iter().filter(|entry| !new.shared.contains(entry) && stands(entry)) {
        steps.push(RuleOp::Remove { table, chain, rule });
    }
    for chain in old.chains {
        let goes = !wanted.contains(&chain.name) && !found.referenced.contains(&chain.name);
        if goes && found.has(Table::Nat, &chain.name) {
            steps.push(RuleOp::Delete { table: Table::Nat, name: chain.name });
        }
    }
    steps
}
