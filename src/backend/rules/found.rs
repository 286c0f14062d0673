//! What of ours is in the kernel's tables, as far as we know.

use super::chains::Chains;
use super::count::Counter;
use super::{Jump, RuleOp};
use crate::backend::RuleCounts;
use iptables::{Chain, ChainName, Position, Rule, Table, Target, hash_rules};
use sha2::{Digest as _, Sha256};
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::LazyLock;

/// A rule in a chain to which single rules are added. There are tens of thousands.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    digest: RuleDigest,
    /// In normal form, where it was read: what is found and not wanted can be removed by its text only. What we wrote
    /// ourselves is known to who wanted it.
    text: Option<Box<str>>,
}

/// Tells a rule from every other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleDigest([u64; 2]);

impl RuleDigest {
    /// Of a rule, however it is written.
    pub fn of(rule: &Rule) -> Self {
        Self::of_text(&rule.to_string())
    }

    fn of_text(text: &str) -> Self {
        // Who may name Services must not be able to make two rules look the same.
        let digest = Sha256::digest(text.as_bytes());
        let number = |bytes: &[u8]| bytes.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte));
        Self([number(&digest), number(digest.get(8..).unwrap_or_default())])
    }
}

impl Kept {
    pub(super) fn read(rule: &Rule) -> Self {
        let text = rule.to_string().into_boxed_str();
        Self { digest: RuleDigest::of_text(&text), text: Some(text) }
    }

    pub(super) fn written(rule: &Rule) -> Self {
        Self { digest: RuleDigest::of(rule), text: None }
    }
}

/// The rules of a chain to which single rules are added, in their order.
#[derive(Debug, Clone, Default)]
pub struct KeptRules(pub(super) VecDeque<Kept>);

impl KeptRules {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether a rule is among them.
    pub fn contains(&self, rule: &Rule) -> bool {
        let digest = RuleDigest::of(rule);
        self.digests().any(|known| known == digest)
    }

    /// What each rule is told by.
    pub fn digests(&self) -> impl Iterator<Item = RuleDigest> {
        self.0.iter().map(|kept| kept.digest)
    }

    /// The same with the text of each rule in normal form, which [`Rule::parse`] reads back; nothing where it is not kept.
    pub fn texts(&self) -> impl Iterator<Item = (RuleDigest, Option<&str>)> {
        self.0.iter().map(|kept| (kept.digest, kept.text.as_deref()))
    }

    fn sorted(&self) -> Vec<RuleDigest> {
        let mut digests: Vec<RuleDigest> = self.digests().collect();
        digests.sort_unstable();
        digests
    }

    fn is_as(&self, other: &Self) -> bool {
        self.digests().eq(other.digests()) || self.sorted() == other.sorted()
    }

    fn forget_texts(&mut self) {
        self.0.iter_mut().for_each(|kept| kept.text = None);
    }

    /// Whether there was such a rule.
    fn remove(&mut self, rule: &Rule) -> bool {
        let gone = RuleDigest::of(rule);
        let index = self.digests().position(|digest| digest == gone);
        index.is_some_and(|index| self.0.remove(index).is_some())
    }
}

/// The rules of a chain, of which only this is kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FoundChain {
    /// Their digest.
    pub hash: u64,
    /// How many there are.
    pub rules: u32,
}

impl FoundChain {
    /// One without rules.
    pub(super) fn empty() -> Self {
        // Every chain begins like that while tables are read.
        static HASH: LazyLock<u64> = LazyLock::new(|| hash_rules(&[]));
        Self { hash: *HASH, rules: 0 }
    }

    fn of(chain: &Chain) -> Self {
        Self { hash: chain.hash(), rules: as_u32(chain.rules.len()) }
    }
}

/// Chains of ours, and the jumps into them.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// What is kept of each chain's rules, by table and name. Of a chain to which single rules are added that is of its last
    /// whole writing.
    pub chains: Chains,
    /// The rules of the chains to which single rules are added.
    pub shared: HashMap<(Table, ChainName), KeptRules>,
    /// Jumps from the kernel's chains into ours.
    pub jumps: Vec<Jump>,
    /// Chains of ours that chains of others jump to: these can't be deleted.
    pub referenced: HashSet<ChainName>,
    pub(super) counter: Counter,
    /// The texts of rules are still there.
    pub(super) has_texts: bool,
}

/// Tells which chains are ours and of which of those the rules are kept.
pub trait Ownership {
    /// Whether a chain is ours.
    fn is_ours(&self, table: Table, chain: &ChainName) -> bool;
    /// Whether single rules are added to a chain of ours.
    fn is_shared(&self, table: Table, chain: &ChainName) -> bool;
    /// Whether a chain of ours is a single service's.
    fn is_of_one(&self, _: Table, _: &ChainName) -> bool {
        false
    }
}

impl<T: Ownership + ?Sized> Ownership for &T {
    fn is_ours(&self, table: Table, chain: &ChainName) -> bool {
        (**self).is_ours(table, chain)
    }

    fn is_shared(&self, table: Table, chain: &ChainName) -> bool {
        (**self).is_shared(table, chain)
    }

    fn is_of_one(&self, table: Table, chain: &ChainName) -> bool {
        (**self).is_of_one(table, chain)
    }
}

impl Found {
    /// Whether the kernel has the same as another state, but for the chains that are `ignored`. The order of single rules
    /// and of jumps does not count.
    pub fn is_as(&self, other: &Self, ignored: impl Fn(Table, &ChainName) -> bool) -> bool {
        let counts = |key: &(Table, ChainName)| !ignored(key.0, &key.1);
        // Of a chain with single rules it is these that count; it has to be there all the same.
        let same = |key: (Table, ChainName)| {
            let in_both = |has: fn(&Self, &(Table, ChainName)) -> bool| has(self, &key) && has(other, &key);
            in_both(|found, key| found.shared.contains_key(key)) && in_both(|found, key| found.has(key.0, &key.1))
        };
        self.chains.differing(&other.chains).into_iter().filter(counts).all(same) && self.rest_is_as(other, ignored)
    }

    /// The same but for what is told of whole chains.
    pub(super) fn rest_is_as(&self, other: &Self, ignored: impl Fn(Table, &ChainName) -> bool) -> bool {
        let counts = |key: &(Table, ChainName)| !ignored(key.0, &key.1);
        let shared_as = |here: &Self, there: &Self| {
            let mut compared = here.shared.iter().filter(|(key, _)| counts(key));
            compared.all(|(key, rules)| there.shared.get(key).is_some_and(|others| rules.is_as(others)))
        };
        let jumps = |found: &Self| {
            let compared = found.jumps.iter().filter(|jump| !ignored(jump.table, &jump.from));
            let mut texts: Vec<_> = compared.map(|jump| (jump.table, jump.from, jump.rule.to_string())).collect();
            texts.sort_unstable();
            texts
        };
        shared_as(self, other)
            && other.shared.keys().filter(|key| counts(key)).all(|key| self.shared.contains_key(key))
            && jumps(self) == jumps(other)
            && self.referenced == other.referenced
    }

    /// Whether a chain is there.
    pub fn has(&self, table: Table, name: &ChainName) -> bool {
        self.chains.contains(table, name)
    }

    /// Takes note of a step that the kernel acknowledged.
    pub fn acknowledge(&mut self, op: &RuleOp, ownership: &dyn Ownership) {
        match op {
            RuleOp::Write { table, chain, .. } => {
                let key = (*table, chain.name);
                self.counter.went(*table, self.rules_in(&key));
                if ownership.is_shared(*table, &chain.name) {
                    self.shared.insert(key, KeptRules(chain.rules.iter().map(Kept::written).collect()));
                }
                self.chains.insert(key.0, key.1, FoundChain::of(chain));
                self.counter.came(*table, chain.rules.len());
                self.counter.written(*table, chain.rules.len());
            }
            RuleOp::Insert { table, chain, position, rule } => {
                self.counter.written(*table, 1);
                if let Some(rules) = self.shared.get_mut(&(*table, *chain)) {
                    match position {
                        Position::First => rules.0.push_front(Kept::written(rule)),
                        Position::Last => rules.0.push_back(Kept::written(rule)),
                    }
                    self.counter.came(*table, 1);
                } else {
                    self.add_jump(Jump { table: *table, from: *chain, rule: rule.normalised() });
                }
            }
            RuleOp::Remove { table, chain, rule } => {
                if let Some(rules) = self.shared.get_mut(&(*table, *chain)) {
                    self.counter.went(*table, usize::from(rules.remove(rule)));
                } else {
                    let rule = rule.normalised();
                    let same = |jump: &Jump| jump.table == *table && jump.from == *chain && jump.rule == rule;
                    if let Some(index) = self.jumps.iter().position(same) {
                        self.jumps.remove(index);
                        self.counter.went(*table, 1);
                    }
                }
            }
            RuleOp::Delete { table, name } => {
                let key = (*table, *name);
                self.counter.went(*table, self.rules_in(&key));
                self.chains.remove(key.0, &key.1);
                self.shared.remove(&key);
            }
        }
    }

    /// All is as wanted: what is not wanted any more some day is known by who wanted it.
    pub fn forget_texts(&mut self) {
        if std::mem::take(&mut self.has_texts) {
            self.shared.values_mut().for_each(KeptRules::forget_texts);
        }
    }

    /// How many rules of ours each table has, kept up with every step; and how many were written since the last call.
    pub fn take_counts(&mut self) -> RuleCounts {
        self.counter.take()
    }

    /// How many chains have rules, and no single ones.
    pub(super) fn filled(&self) -> usize {
        let shared =
            self.shared.keys().filter(|key| self.chains.get(key.0, &key.1).is_some_and(|chain| chain.rules > 0));
        self.chains.values().filter(|chain| chain.rules > 0).count().saturating_sub(shared.count())
    }

    /// Whether a chain is one of those.
    pub(super) fn is_filled(&self, key: &(Table, ChainName)) -> bool {
        !self.shared.contains_key(key) && self.chains.get(key.0, &key.1).is_some_and(|chain| chain.rules > 0)
    }

    fn rules_in(&self, key: &(Table, ChainName)) -> usize {
        let whole =
            || self.chains.get(key.0, &key.1).and_then(|chain| usize::try_from(chain.rules).ok()).unwrap_or_default();
        self.shared.get(key).map_or_else(whole, KeptRules::len)
    }

    pub(super) fn add_jump(&mut self, jump: Jump) {
        self.counter.came(jump.table, 1);
        self.jumps.push(jump);
    }
}

fn as_u32(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
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
    use crate::backend::RuleCount;

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
        let rules: usize = found.chains.keys().filter(|key| key.0 == table).map(|key| found.rules_in(&key)).sum();
        u64::try_from(rules + found.jumps.iter().filter(|jump| jump.table == table).count()).unwrap()
    }

    #[test]
    fn rules_are_counted_with_every_step() {
        let name = |text: &'static str| ChainName::from_static(text);
        let rule = |number: u16| Rule::new().protocol(iptables::Protocol::Tcp).destination_port(number).accept();
        let write = |to, count: u16| {
            let chain = Chain { name: name(to), rules: (1..=count).map(rule).collect() };
            RuleOp::Write { table: Table::Nat, chain: chain.into(), replaces: false }
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
