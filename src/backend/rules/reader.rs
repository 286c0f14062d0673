//! Picks out what is ours while the kernel's tables are read.

use super::found::{FoundChain, Kept, KeptRules};
use super::{Found, Jump, Ownership, target_chain};
use iptables::{ChainName, Policy, Rule, RulesDigest, SaveSink, Saved, SavedRule, Table};
use std::collections::HashMap;

/// Tells whose each chain is, and sees to what stands in those of ours.
#[derive(Debug)]
pub(super) struct ChainReader<O> {
    ownership: O,
    /// Chains of others, and whether they are the kernel's own.
    others: HashMap<(Table, ChainName), bool>,
    /// The chain of ours whose rules come just now.
    current: Option<(Table, ChainName)>,
    digest: RulesDigest,
    rules: u32,
}

/// Who is told of what is ours.
pub(super) trait Keeper {
    /// A chain is there. Its rules come later, if it has any.
    fn chain(&mut self, table: Table, name: ChainName, is_shared: bool);
    /// A rule of a chain.
    fn rule(&mut self, key: &(Table, ChainName), rule: &Rule);
    /// These were all rules of a chain that has some.
    fn filled(&mut self, key: (Table, ChainName), chain: FoundChain);
    /// A jump from one of the kernel's chains.
    fn jump(&mut self, jump: Jump);
    /// A chain of ours to which somebody else's jumps.
    fn referenced(&mut self, name: ChainName);
}

impl<O: Ownership> ChainReader<O> {
    pub fn new(ownership: O) -> Self {
        let (digest, rules) = (RulesDigest::default(), 0);
        Self { ownership, others: HashMap::new(), current: None, digest, rules }
    }

    pub fn chain(&mut self, table: Table, name: ChainName, policy: Option<Policy>, keeper: &mut impl Keeper) {
        if self.ownership.is_ours(table, &name) {
            keeper.chain(table, name, self.ownership.is_shared(table, &name));
        } else {
            self.others.insert((table, name), policy.is_some());
        }
    }

    pub fn rule(&mut self, table: Table, chain: ChainName, rule: Rule, keeper: &mut impl Keeper) {
        let key = (table, chain);
        if let Some(builtin) = self.others.get(&key) {
            let target = target_chain(&rule).filter(|target| self.ownership.is_ours(table, target));
            match (target.copied(), builtin) {
                (None, _) => {}
                (Some(_), true) => keeper.jump(Jump { table, from: chain, rule }),
                // In a chain that somebody made it is his rule: CNI plugins jump to KUBE-MARK-MASQ.
                (Some(target), false) => keeper.referenced(target),
            }
            return;
        }
        if self.current != Some(key) {
            // Rules of a chain stand together. If ever they did not, the digest would fit nothing that is wanted, and the
            // chain would be written anew.
            self.close(keeper);
            self.current = Some(key);
        }
        keeper.rule(&key, &rule);
        self.digest.add(&rule);
        self.rules = self.rules.saturating_add(1);
    }

    /// Everything was read.
    pub fn close(&mut self, keeper: &mut impl Keeper) {
        if let Some(key) = self.current.take() {
            keeper.filled(key, FoundChain { hash: self.digest.finish(), rules: std::mem::take(&mut self.rules) });
        }
    }
}

/// Picks out what is ours while tables are read. Of most chains only a digest is kept, whatever their size.
#[derive(Debug)]
pub struct FoundReader<O> {
    reader: ChainReader<O>,
    found: Found,
}

impl<O: Ownership> FoundReader<O> {
    /// A reader that has seen nothing.
    pub fn new(ownership: O) -> Self {
        Self { reader: ChainReader::new(ownership), found: Found::default() }
    }

    /// Everything was read.
    pub fn finish(mut self) -> Found {
        self.reader.close(&mut self.found);
        self.found
    }
}

impl<O: Ownership> SaveSink for FoundReader<O> {
    fn chain(&mut self, table: Table, name: ChainName, policy: Option<Policy>) {
        self.reader.chain(table, name, policy, &mut self.found);
    }

    fn rule(&mut self, table: Table, chain: ChainName, SavedRule { rule, .. }: SavedRule<'_>) {
        self.reader.rule(table, chain, rule, &mut self.found);
    }
}

impl Keeper for Found {
    fn chain(&mut self, table: Table, name: ChainName, is_shared: bool) {
        self.chains.insert(table, name, FoundChain::empty());
        if is_shared {
            self.shared.insert((table, name), KeptRules::default());
        }
    }

    fn rule(&mut self, key: &(Table, ChainName), rule: &Rule) {
        if let Some(kept) = self.shared.get_mut(key) {
            self.has_texts = true;
            kept.0.push_back(Kept::read(rule));
        }
        self.counter.came(key.0, 1);
    }

    fn filled(&mut self, (table, name): (Table, ChainName), chain: FoundChain) {
        self.chains.insert(table, name, chain);
    }

    fn jump(&mut self, jump: Jump) {
        self.add_jump(jump);
    }

    fn referenced(&mut self, name: ChainName) {
        self.referenced.insert(name);
    }
}

impl Found {
    /// Picks out what is ours of tables that were read as a whole.
    pub fn from_saved<O: Ownership>(saved: &Saved, ownership: O) -> Self {
        let mut reader = FoundReader::new(ownership);
        for (table, content) in &saved.tables {
            for (name, chain) in &content.chains {
                reader.chain(*table, *name, chain.policy);
            }
            for (name, chain) in &content.chains {
                for rule in &chain.rules {
                    reader.rule(*table, *name, SavedRule { rule: rule.clone(), line: "", counters: None });
                }
            }
        }
        reader.finish()
    }
}
