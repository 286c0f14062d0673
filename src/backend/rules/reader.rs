//! Picks out what is ours while the kernel's tables are read.

use super::found::{FoundChain, Kept, KeptRules};
use super::{Found, Jump, Ownership, target_chain};
use iptables::{ChainName, Policy, RulesDigest, SaveSink, Saved, SavedRule, Table, hash_rules};
use std::collections::HashMap;

/// Picks out what is ours while tables are read. Of most chains only a digest is kept, whatever their size.
#[derive(Debug)]
pub struct FoundReader<O> {
    ownership: O,
    found: Found,
    /// Chains of others, and whether they are the kernel's own.
    others: HashMap<(Table, ChainName), bool>,
    /// The chain of ours whose rules come just now.
    current: Option<(Table, ChainName)>,
    digest: RulesDigest,
    rules: u32,
    empty: FoundChain,
    /// To compare, and not to plan with.
    without_texts: bool,
}

impl<O: Ownership> FoundReader<O> {
    /// A reader that has seen nothing.
    pub fn new(ownership: O) -> Self {
        Self {
            ownership,
            found: Found::default(),
            others: HashMap::new(),
            current: None,
            digest: RulesDigest::default(),
            rules: 0,
            empty: FoundChain { hash: hash_rules(&[]), rules: 0 },
            without_texts: false,
        }
    }

    /// A reader of what is only to be compared.
    pub fn to_compare(ownership: O) -> Self {
        Self { without_texts: true, ..Self::new(ownership) }
    }

    /// Everything was read.
    pub fn finish(mut self) -> Found {
        self.close();
        self.found
    }

    fn close(&mut self) {
        if let Some(key) = self.current.take() {
            let chain = FoundChain { hash: self.digest.finish(), rules: std::mem::take(&mut self.rules) };
            self.found.chains.insert(key.0, key.1, chain);
        }
    }
}

impl<O: Ownership> SaveSink for FoundReader<O> {
    fn chain(&mut self, table: Table, name: ChainName, policy: Option<Policy>) {
        if !self.ownership.is_ours(table, &name) {
            self.others.insert((table, name), policy.is_some());
            return;
        }
        self.found.chains.insert(table, name, self.empty);
        if self.ownership.is_shared(table, &name) {
            self.found.shared.insert((table, name), KeptRules::default());
        }
    }

    fn rule(&mut self, table: Table, chain: ChainName, SavedRule { rule, .. }: SavedRule<'_>) {
        let key = (table, chain);
        if let Some(builtin) = self.others.get(&key) {
            let target = target_chain(&rule).filter(|target| self.ownership.is_ours(table, target));
            match (target, builtin) {
                (None, _) => {}
                (Some(_), true) => self.found.add_jump(Jump { table, from: chain, rule }),
                // In a chain that somebody made it is his rule: CNI plugins jump to KUBE-MARK-MASQ.
                (Some(target), false) => {
                    self.found.referenced.insert(*target);
                }
            }
            return;
        }
        if self.current != Some(key) {
            // Rules of a chain stand together. If ever they did not, the digest would fit nothing that is wanted, and the
            // chain would be written anew.
            self.close();
            self.current = Some(key);
        }
        if let Some(kept) = self.found.shared.get_mut(&key) {
            self.found.has_texts |= !self.without_texts;
            kept.0.push_back(if self.without_texts { Kept::written(&rule) } else { Kept::read(&rule) });
        }
        self.digest.add(&rule);
        self.rules = self.rules.saturating_add(1);
        self.found.counter.came(table, 1);
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
