//! Compares what is believed with the kernel's tables while they are read, whatever is written meanwhile. Of a chain a number is
//! kept, so that a comparison takes hardly any room.

use super::found::{FoundChain, Kept, KeptRules};
use super::reader::{ChainReader, Keeper};
use super::{Found, Jump, Ownership, RuleOp};
use foldhash::quality::RandomState;
use iptables::{ChainName, Policy, Rule, SaveSink, SavedRule, Table};
use std::collections::HashSet;
use std::hash::BuildHasher;

/// A comparison that is under way.
#[derive(Debug)]
pub struct Comparison<O> {
    reader: ChainReader<O>,
    seen: Seen,
}

/// What was seen so far. What is read is the kernel's state of before a step of ours or of after it: chains that were written
/// since the beginning don't count.
#[derive(Debug, Default)]
struct Seen {
    numbers: RandomState,
    written: HashSet<(Table, ChainName)>,
    /// Chains that are there, and of those the ones that have rules and no single ones.
    chains: Vec<u64>,
    filled: Vec<u64>,
    /// What of all this has to be compared as a whole: single rules, jumps.
    rest: Found,
    differs: bool,
}

/// Takes in what is read.
struct Comparing<'a, O> {
    reader: &'a mut ChainReader<O>,
    beside: Beside<'a>,
}

struct Beside<'a> {
    seen: &'a mut Seen,
    believed: &'a Found,
}

impl<O: Ownership> Comparison<O> {
    /// A comparison of what is believed now and then.
    pub fn new(ownership: O, believed: &Found) -> Self {
        let chains = believed.chains.len();
        let seen = Seen { chains: Vec::with_capacity(chains), filled: Vec::with_capacity(chains), ..Seen::default() };
        Self { reader: ChainReader::new(ownership), seen }
    }

    /// A step that is about to be carried out.
    pub fn passed_over(&mut self, op: &RuleOp) {
        self.seen.written.insert((op.table(), op.chain()));
    }

    /// What is read goes there.
    pub fn beside<'a>(&'a mut self, believed: &'a Found) -> impl SaveSink + 'a {
        Comparing { reader: &mut self.reader, beside: Beside { seen: &mut self.seen, believed } }
    }

    /// All was read: whether it is as believed. The order of single rules and of jumps does not count.
    pub fn holds(mut self, believed: &Found) -> bool {
        self.reader.close(&mut Beside { seen: &mut self.seen, believed });
        self.seen.holds(believed)
    }
}

impl Seen {
    /// As good as never the same for two. Were it, the kernel would be read for nothing.
    fn number(&self, key: &(Table, ChainName)) -> u64 {
        self.numbers.hash_one(key)
    }

    fn counts(&self, table: Table, name: &ChainName) -> bool {
        !self.written.contains(&(table, *name))
    }

    fn holds(mut self, believed: &Found) -> bool {
        self.chains.sort_unstable();
        self.filled.sort_unstable();
        let (mut chains, mut filled) = (self.chains.len(), self.filled.len());
        let (mut expected, mut expected_filled) = (believed.chains.len(), believed.filled());
        // They may have been seen before they were written, or after.
        for key in &self.written {
            let number = self.number(key);
            chains = chains.saturating_sub(usize::from(self.chains.binary_search(&number).is_ok()));
            filled = filled.saturating_sub(usize::from(self.filled.binary_search(&number).is_ok()));
            expected -= usize::from(believed.has(key.0, &key.1));
            expected_filled -= usize::from(believed.is_filled(key));
        }
        let counted = |table, name: &ChainName| !self.counts(table, name);
        !self.differs && (chains, filled) == (expected, expected_filled) && self.rest.rest_is_as(believed, counted)
    }
}

impl<O: Ownership> SaveSink for Comparing<'_, O> {
    fn chain(&mut self, table: Table, name: ChainName, policy: Option<Policy>) {
        self.reader.chain(table, name, policy, &mut self.beside);
    }

    fn rule(&mut self, table: Table, chain: ChainName, SavedRule { rule, .. }: SavedRule<'_>) {
        self.reader.rule(table, chain, rule, &mut self.beside);
    }
}

impl Keeper for Beside<'_> {
    fn chain(&mut self, table: Table, name: ChainName, is_shared: bool) {
        self.seen.differs |= self.seen.counts(table, &name) && !self.believed.has(table, &name);
        let number = self.seen.number(&(table, name));
        self.seen.chains.push(number);
        if is_shared {
            self.seen.rest.shared.insert((table, name), KeptRules::default());
        }
    }

    fn rule(&mut self, key: &(Table, ChainName), rule: &Rule) {
        if let Some(kept) = self.seen.rest.shared.get_mut(key) {
            kept.0.push_back(Kept::written(rule));
        }
    }

    fn filled(&mut self, key: (Table, ChainName), chain: FoundChain) {
        if self.seen.rest.shared.contains_key(&key) {
            return;
        }
        let believed = self.believed.chains.get(key.0, &key.1);
        self.seen.differs |= self.seen.counts(key.0, &key.1) && believed != Some(chain);
        let number = self.seen.number(&key);
        self.seen.filled.push(number);
    }

    fn jump(&mut self, jump: Jump) {
        self.seen.rest.add_jump(jump);
    }

    fn referenced(&mut self, name: ChainName) {
        self.seen.rest.referenced.insert(name);
    }
}
