//! What of ours is in the kernel's tables, as far as we know.

use super::{Jump, RuleOp};
use iptables::{ChainName, Position, Rule, Saved, Table, Target};
use std::collections::{HashMap, HashSet, VecDeque};

/// A chain of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundChain {
    /// Digest of its rules.
    pub hash: u64,
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
                    found.chains.insert((*table, *name), FoundChain { hash: chain.hash(), rules });
                    continue;
                }
                for rule in &chain.rules {
                    // In a chain that somebody made it is his rule: CNI plugins jump to KUBE-MARK-MASQ.
                    if !chain.is_builtin() {
                        found.referenced.extend(target_chain(rule).filter(|target| ownership.is_ours(*table, target)));
                    } else if target_chain(rule).is_some_and(|target| ownership.is_ours(*table, target)) {
                        found.jumps.push(Jump { table: *table, from: *name, rule: rule.clone() });
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
                self.chains.insert((*table, chain.name), FoundChain { hash: chain.hash(), rules });
            }
            RuleOp::Insert { table, chain, position, rule } => {
                let rule = rule.normalised();
                if let Some(rules) = self.shared_rules(*table, chain) {
                    match position {
                        Position::First => rules.push_front(rule),
                        Position::Last => rules.push_back(rule),
                    }
                } else {
                    self.jumps.push(Jump { table: *table, from: *chain, rule });
                }
            }
            RuleOp::Remove { table, chain, rule } => {
                let rule = rule.normalised();
                if let Some(rules) = self.shared_rules(*table, chain) {
                    if let Some(index) = rules.iter().position(|found| *found == rule) {
                        rules.remove(index);
                    }
                } else {
                    let same = |jump: &Jump| jump.table == *table && jump.from == *chain && jump.rule == rule;
                    if let Some(index) = self.jumps.iter().position(same) {
                        self.jumps.remove(index);
                    }
                }
            }
            RuleOp::Delete { table, name } => {
                self.chains.remove(&(*table, *name));
            }
        }
    }

    fn shared_rules(&mut self, table: Table, chain: &ChainName) -> Option<&mut VecDeque<Rule>> {
        self.chains.get_mut(&(table, *chain))?.rules.as_mut()
    }
}

/// The chain to which a rule passes packets.
pub fn target_chain(rule: &Rule) -> Option<&ChainName> {
    match &rule.target {
        Some(Target::Jump(chain) | Target::Goto(chain)) => Some(chain),
        _ => None,
    }
}
