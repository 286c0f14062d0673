//! The steps from the rules that are found to those that are wanted. Pure.

use super::found::{KeptRules, RuleDigest};
use super::{Found, Jump, RuleOp};
use iptables::{Chain, ChainName, Position, Rule, Table};
use std::collections::{HashMap, HashSet};

/// More single rules than this are not worth it: the chain is written as a whole.
const SINGLE_RULES: usize = 200;

/// A chain that has exactly these rules.
pub fn plan_chain(found: &Found, table: Table, chain: Chain) -> Option<RuleOp> {
    match found.chains.get(table, &chain.name) {
        Some(known) if known.hash == chain.hash() => None,
        known => Some(RuleOp::Write { table, replaces: known.is_some(), chain: chain.into() }),
    }
}

/// A chain that has these rules in any order, followed by `tail`.
pub fn plan_shared(found: &Found, table: Table, name: ChainName, rules: Vec<Rule>, tail: Vec<Rule>) -> Vec<RuleOp> {
    let whole = |rules: Vec<Rule>, tail: Vec<Rule>| {
        let mut all = rules;
        all.extend(tail);
        let chain = Chain { name, rules: all }.into();
        vec![RuleOp::Write { table, replaces: found.has(table, &name), chain }]
    };
    let Some(known) = found.shared.get(&(table, name)) else { return whole(rules, tail) };
    let tail_stands = known.len() >= tail.len()
        && known
            .digests()
            .skip(known.len() - tail.len())
            .zip(&tail)
            .all(|(found, wanted)| found == RuleDigest::of(wanted));
    if !tail_stands {
        return whole(rules, tail);
    }
    let entries = known.len() - tail.len();
    let mut surplus: HashMap<RuleDigest, usize> = HashMap::with_capacity(entries);
    for rule in known.digests().take(entries) {
        *surplus.entry(rule).or_default() += 1;
    }
    let mut missing = Vec::new();
    for rule in &rules {
        match surplus.get_mut(&RuleDigest::of(rule)) {
            Some(count) if *count > 0 => *count -= 1,
            _ => missing.push(rule),
        }
    }
    surplus.retain(|_, count| *count > 0);
    if missing.len() + surplus.values().sum::<usize>() > SINGLE_RULES {
        return whole(rules, tail);
    }
    let missing: Vec<Rule> = missing.into_iter().cloned().collect();
    let Some(surplus) = rules_of(known.texts().take(entries), surplus) else { return whole(rules, tail) };
    let insert = |rule| RuleOp::Insert { table, chain: name, position: Position::First, rule };
    let remove = |rule| RuleOp::Remove { table, chain: name, rule };
    missing.into_iter().map(insert).chain(surplus.into_iter().map(remove)).collect()
}

/// The rules that a chain lacks, to be added to what it has.
pub fn plan_additions(found: &Found, table: Table, name: ChainName, rules: Vec<Rule>) -> Vec<RuleOp> {
    let known: HashSet<RuleDigest> =
        found.shared.get(&(table, name)).into_iter().flat_map(KeptRules::digests).collect();
    let missing = rules.into_iter().filter(|rule| !known.contains(&RuleDigest::of(rule)));
    missing.map(|rule| RuleOp::Insert { table, chain: name, position: Position::First, rule }).collect()
}

/// Whether a chain has none but these rules.
pub fn adds_only(found: &Found, table: Table, name: ChainName, rules: &[Rule]) -> bool {
    let Some(known) = found.shared.get(&(table, name)).filter(|known| known.len() > 0) else { return true };
    let wanted: HashSet<RuleDigest> = rules.iter().map(RuleDigest::of).collect();
    known.digests().all(|rule| wanted.contains(&rule))
}

/// So many of each of these rules; nothing if the text of any is not known.
fn rules_of<'a>(
    texts: impl Iterator<Item = (RuleDigest, Option<&'a str>)>,
    mut counts: HashMap<RuleDigest, usize>,
) -> Option<Vec<Rule>> {
    let mut rules = Vec::new();
    for (digest, text) in texts {
        if let Some(count) = counts.remove(&digest) {
            rules.extend(std::iter::repeat_n(Rule::parse(text?), count));
        }
    }
    Some(rules)
}

/// Exactly these jumps: missing ones are put first, surplus ones (left by an older version, or doubled) removed.
pub fn plan_jumps(found: &Found, wanted: &[Jump]) -> (Vec<RuleOp>, Vec<RuleOp>) {
    let mut surplus: Vec<&Jump> = found.jumps.iter().collect();
    let mut missing = Vec::new();
    for jump in wanted {
        let rule = jump.rule.normalised();
        let same = |known: &&Jump| known.table == jump.table && known.from == jump.from && known.rule == rule;
        match surplus.iter().position(same) {
            Some(index) => {
                surplus.remove(index);
            }
            None => missing.push(RuleOp::Insert {
                table: jump.table,
                chain: jump.from,
                position: Position::First,
                rule: jump.rule.clone(),
            }),
        }
    }
    let remove = |jump: &Jump| RuleOp::Remove { table: jump.table, chain: jump.from, rule: jump.rule.clone() };
    (missing, surplus.into_iter().map(remove).collect())
}

/// Deletes every chain of ours that is not wanted, in the order of `depth`: a chain goes before those that it jumps
/// to, or the kernel would refuse.
pub fn plan_removal(
    found: &Found,
    is_wanted: impl Fn(Table, &ChainName) -> bool,
    depth: impl Fn(&ChainName) -> u8,
) -> Vec<RuleOp> {
    let mut names: Vec<(Table, ChainName)> = found
        .chains
        .keys()
        .filter(|(table, name)| !is_wanted(*table, name) && !found.referenced.contains(name))
        .collect();
    names.sort_unstable_by_key(|(table, name)| (depth(name), *table, *name));
    names.into_iter().map(|(table, name)| RuleOp::Delete { table, name }).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{FoundReader, Ownership};
    use super::*;
    use iptables::{SaveSink as _, SavedRule};

    struct All;

    impl Ownership for All {
        fn is_ours(&self, _: Table, chain: &ChainName) -> bool {
            chain.starts_with("KUBE-")
        }
        fn is_shared(&self, _: Table, chain: &ChainName) -> bool {
            chain.as_str() == "KUBE-SERVICES"
        }
    }

    fn rule(comment: &str) -> Rule {
        Rule::new().comment(comment.to_owned()).accept()
    }

    /// What stands in the chain, read from the kernel.
    fn read<'a>(rules: impl Iterator<Item = &'a Rule>) -> Found {
        let mut reader = FoundReader::new(All);
        reader.chain(Table::Nat, services(), None);
        for rule in rules {
            reader.rule(Table::Nat, services(), SavedRule { rule: rule.clone(), line: "", counters: None });
        }
        reader.finish()
    }

    fn services() -> ChainName {
        ChainName::from_static("KUBE-SERVICES")
    }

    #[test]
    fn one_more_service_is_one_more_rule() {
        let mut found = Found::default();
        let rules: Vec<Rule> = (0..300).map(|n| rule(&format!("ns/{n}"))).collect();
        let tail = vec![rule("node ports")];
        let first = plan_shared(&found, Table::Nat, services(), rules.clone(), tail.clone());
        assert_eq!(first[0].to_string(), "create chain nat/KUBE-SERVICES with 301 rules");
        first.iter().for_each(|op| found.acknowledge(op, &All));
        assert!(plan_shared(&found, Table::Nat, services(), rules.clone(), tail.clone()).is_empty());
        let mut more = rules.clone();
        more.push(rule("ns/new"));
        more.remove(7);
        // What we wrote ourselves and nobody wants any more is told by who wanted it; where he does not, all is written.
        let next = plan_shared(&found, Table::Nat, services(), more.clone(), tail.clone());
        assert_eq!(next[0].to_string(), "rewrite chain nat/KUBE-SERVICES with 301 rules");
        let mut found = read(rules.iter().chain(&tail));
        let next = plan_shared(&found, Table::Nat, services(), more.clone(), tail.clone());
        let text: Vec<String> = next.iter().map(ToString::to_string).collect();
        assert_eq!(
            text,
            [
                "add to nat/KUBE-SERVICES: -m comment --comment \"ns/new\" -j ACCEPT",
                "remove from nat/KUBE-SERVICES: -m comment --comment \"ns/7\" -j ACCEPT",
            ]
        );
        next.iter().for_each(|op| found.acknowledge(op, &All));
        assert!(plan_shared(&found, Table::Nat, services(), more.clone(), tail).is_empty());
        let other = plan_shared(&found, Table::Nat, services(), more, vec![rule("other tail")]);
        assert_eq!(other[0].to_string(), "rewrite chain nat/KUBE-SERVICES with 301 rules");
    }

    #[test]
    fn jumps_are_made_once_and_doubled_ones_go() {
        let jump =
            Jump { table: Table::Nat, from: ChainName::from_static("OUTPUT"), rule: Rule::new().jump(services()) };
        let mut found = Found::default();
        let (missing, surplus) = plan_jumps(&found, std::slice::from_ref(&jump));
        assert_eq!((missing.len(), surplus.len()), (1, 0));
        found.acknowledge(&missing[0], &All);
        found.acknowledge(&missing[0], &All);
        let (missing, surplus) = plan_jumps(&found, &[jump]);
        assert_eq!((missing.len(), surplus.len()), (0, 1));
        found.acknowledge(&surplus[0], &All);
        assert_eq!(found.jumps.len(), 1);
    }
}
