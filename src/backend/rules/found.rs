//! What of ours is in the kernel's tables, as far as we know.

use super::{Jump, RuleOp};
use crate::backend::{RuleCount, RuleCounts};
use iptables::{ChainName, Position, Rule, Saved, Table, Target};
use std::collections::{HashMap, HashSet, VecDeque};

/// A chain of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundChain {
    /// Digest of its rules.
    pub hash: u64,
    /// How many rules it has.
    pub count: usize,
    /// The rules, kept only of chains to which single rules are added.
    pub rules: Option<VecDeque<Rule>>,
}

/// Chains of ours, and the jumps into them.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// Chains by table and name.
    pub chains: HashMap<(Table, ChainName), FoundChain>,
    /// Jumps from the kernel's chains into ours.
    pub jumps: Vec<Jump>,
    /// Chains of ours that chains of others jump to: these can't be deleted.
    pub referenced: HashSet<ChainName>,
    counts: RuleCounts,
}

/// Tells which chains are ours and of which of those the rules are kept.
pub trait Ownership {
    /// Whether a chain is ours.
    fn is_ours(&self, table: Table, chain: &ChainName) -> bool;
    /// Whether single rules are added to a chain of ours.
    fn is_shared(&self, table: Table, chain: &ChainName) -> bool;
}

impl Found {
    /// Picks out what is ours.
    pub fn from_saved(saved: &Saved, ownership: &dyn Ownership) -> Self {
        let mut found = Self::default();
        for (table, content) in &saved.tables {
            for (name, chain) in &content.chains {
                if ownership.is_ours(*table, name) {
                    let rules = ownership.is_shared(*table, name).then(|| chain.rules.iter().cloned().collect());
                    let (hash, count) = (chain.hash(), chain.rules.len());
                    found.put(*table, *name, FoundChain { hash, count, rules });
                    continue;
                }
                for rule in &chain.rules {
                    // In a chain that somebody made it is his rule: CNI plugins jump to KUBE-MARK-MASQ.
                    if !chain.is_builtin() {
                        found.referenced.extend(target_chain(rule).filter(|target| ownership.is_ours(*table, target)));
                    } else if target_chain(rule).is_some_and(|target| ownership.is_ours(*table, target)) {
                        found.add_jump(Jump { table: *table, from: *name, rule: rule.clone() });
                    }
                }
            }
        }
        found
    }

    /// Whether a chain is there.
    pub fn has(&self, table: Table, name: &ChainName) -> bool {
        self.chains.contains_key(&(table, *name))
    }

    /// Takes note of a step that the kernel acknowledged.
    pub fn acknowledge(&mut self, op: &RuleOp, ownership: &dyn Ownership) {
        match op {
            RuleOp::Write { table, chain, .. } => {
                let rules = || chain.rules.iter().map(Rule::normalised).collect();
                let rules = ownership.is_shared(*table, &chain.name).then(rules);
                let (hash, count) = (chain.hash(), chain.rules.len());
                self.put(*table, chain.name, FoundChain { hash, count, rules });
                self.count(*table).written += as_u64(count);
            }
            RuleOp::Insert { table, chain, position, rule } => {
                let rule = rule.normalised();
                self.count(*table).written += 1;
                if let Some(rules) = self.shared_rules(*table, chain) {
                    match position {
                        Position::First => rules.push_front(rule),
                        Position::Last => rules.push_back(rule),
                    }
                    self.recount(*table, chain);
                } else {
                    self.add_jump(Jump { table: *table, from: *chain, rule });
                }
            }
            RuleOp::Remove { table, chain, rule } => {
                let rule = rule.normalised();
                if let Some(rules) = self.shared_rules(*table, chain) {
                    if let Some(index) = rules.iter().position(|found| *found == rule) {
                        rules.remove(index);
                    }
                    self.recount(*table, chain);
                } else {
                    let same = |jump: &Jump| jump.table == *table && jump.from == *chain && jump.rule == rule;
                    if let Some(index) = self.jumps.iter().position(same) {
                        self.jumps.remove(index);
                        let count = self.count(*table);
                        count.total = count.total.saturating_sub(1);
                    }
                }
            }
            RuleOp::Delete { table, name } => {
                let gone = self.chains.remove(&(*table, *name)).map_or(0, |chain| chain.count);
                let count = self.count(*table);
                count.total = count.total.saturating_sub(as_u64(gone));
            }
        }
    }

    /// How many rules of ours each table has, kept up with every step; and how many were written since the last call.
    pub fn take_counts(&mut self) -> RuleCounts {
        let counts = self.counts.clone();
        self.counts.values_mut().for_each(|count| count.written = 0);
        counts
    }

    fn count(&mut self, table: Table) -> &mut RuleCount {
        self.counts.entry(table.as_str()).or_default()
    }

    fn put(&mut self, table: Table, name: ChainName, chain: FoundChain) {
        let now = chain.count;
        let before = self.chains.insert((table, name), chain).map_or(0, |chain| chain.count);
        let count = self.count(table);
        count.total = (count.total + as_u64(now)).saturating_sub(as_u64(before));
    }

    fn add_jump(&mut self, jump: Jump) {
        self.count(jump.table).total += 1;
        self.jumps.push(jump);
    }

    /// Single rules of a chain came or went.
    fn recount(&mut self, table: Table, name: &ChainName) {
        let Some(chain) = self.chains.get_mut(&(table, *name)) else { return };
        let now = chain.rules.as_ref().map_or(0, VecDeque::len);
        let before = std::mem::replace(&mut chain.count, now);
        let count = self.count(table);
        count.total = (count.total + as_u64(now)).saturating_sub(as_u64(before));
    }

    fn shared_rules(&mut self, table: Table, chain: &ChainName) -> Option<&mut VecDeque<Rule>> {
        self.chains.get_mut(&(table, *chain))?.rules.as_mut()
    }
}

fn as_u64(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

/// The chain to which a rule passes packets.
pub fn target_chain(rule: &Rule) -> Option<&ChainName> {
    match &rule.target {
        Some(Target::Jump(chain) | Target::Goto(chain)) => Some(chain),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use iptables::Chain;

    struct Shared;

    impl Ownership for Shared {
        fn is_ours(&self, _: Table, chain: &ChainName) -> bool {
            chain.starts_with("KUBE-")
        }
        fn is_shared(&self, _: Table, chain: &ChainName) -> bool {
            chain.as_str() == "KUBE-SERVICES"
        }
    }

    /// Counted anew, rule by rule.
    fn counted(found: &Found, table: Table) -> u64 {
        let chains = found.chains.iter().filter(|((of, _), _)| *of == table);
        let rules: usize = chains.map(|(_, chain)| chain.rules.as_ref().map_or(chain.count, VecDeque::len)).sum();
        as_u64(rules + found.jumps.iter().filter(|jump| jump.table == table).count())
    }

    #[test]
    fn rules_are_counted_with_every_step() {
        let name = |text: &'static str| ChainName::from_static(text);
        let rule = |number: u16| Rule::new().protocol(iptables::Protocol::Tcp).destination_port(number).accept();
        let write = |to, count: u16| {
            let chain = Chain { name: name(to), rules: (1..=count).map(rule).collect() };
            RuleOp::Write { table: Table::Nat, chain, replaces: false }
        };
        let (table, position) = (Table::Nat, Position::First);
        let insert = |chain, number| RuleOp::Insert { table, chain: name(chain), position, rule: rule(number) };
        let remove = |chain, number| RuleOp::Remove { table, chain: name(chain), rule: rule(number) };
        let steps = [
            (write("KUBE-SVC-A", 3), 3, 3),
            (write("KUBE-SERVICES", 2), 5, 2),
            (write("KUBE-SVC-A", 1), 3, 1),
            (insert("KUBE-SERVICES", 9), 4, 1),
            (insert("PREROUTING", 1), 5, 1),
            (remove("KUBE-SERVICES", 9), 4, 0),
            (remove("KUBE-SERVICES", 9), 4, 0),
            (remove("PREROUTING", 1), 3, 0),
            (RuleOp::Delete { table, name: name("KUBE-SVC-A") }, 2, 0),
            (RuleOp::Delete { table, name: name("KUBE-SVC-A") }, 2, 0),
        ];
        let mut found = Found::default();
        for (step, total, written) in steps {
            found.acknowledge(&step, &Shared);
            let counts = found.take_counts();
            assert_eq!(counts.get("nat"), Some(&RuleCount { total, written }), "{step}");
            assert_eq!(counted(&found, table), total, "{step}");
        }
    }
}
