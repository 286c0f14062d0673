//! Compares what is believed with the kernel's tables while they are read, whatever is written meanwhile. Of a chain a number is
//! kept, so that a comparison takes hardly any room.

use super::found::{FoundChain, Kept, KeptRules};
use super::reader::{ChainReader, Keeper};
use super::{Found, Jump, Ownership, RuleOp};
use crate::backend::seen::Seen;
use iptables::{ChainName, Policy, Rule, SaveSink, SavedRule, Table};
use std::collections::HashSet;

/// A comparison that is under way.
#[derive(Debug)]
pub struct Comparison<O> {
    reader: ChainReader<O>,
    state: State,
}

/// What was read so far. What is read is the kernel's state of before a step of ours or of after it: chains that were written
/// since the beginning don't count.
#[derive(Debug, Default)]
struct State {
    written: HashSet<(Table, ChainName)>,
    /// Chains that are there, and of those the ones that have rules and no single ones.
    chains: Seen,
    filled: Seen,
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
    state: &'a mut State,
    believed: &'a Found,
}

impl<O: Ownership> Comparison<O> {
    /// A comparison of what is believed now and then.
    pub fn new(ownership: O, believed: &Found) -> Self {
        let chains = believed.chains.len();
        let (chains, filled) = (Seen::with_capacity(chains), Seen::with_capacity(chains));
        Self { reader: ChainReader::new(ownership), state: State { chains, filled, ..State::default() } }
    }

    /// A step that is about to be carried out.
    pub fn passed_over(&mut self, op: &RuleOp) {
        self.state.written.insert((op.table(), op.chain()));
    }

    /// What is read goes there.
    pub fn beside<'a>(&'a mut self, believed: &'a Found) -> impl SaveSink + 'a {
        Comparing { reader: &mut self.reader, beside: Beside { state: &mut self.state, believed } }
    }

    /// All was read: whether it is as believed. The order of single rules and of jumps does not count.
    pub fn holds(mut self, believed: &Found) -> bool {
        self.reader.close(&mut Beside { state: &mut self.state, believed });
        self.state.holds(believed)
    }
}

impl State {
    fn counts(&self, table: Table, name: &ChainName) -> bool {
        !self.written.contains(&(table, *name))
    }

    fn holds(mut self, believed: &Found) -> bool {
        let among = |is: &dyn Fn(&(Table, ChainName)) -> bool| self.written.iter().filter(|key| is(key)).count();
        let chains = believed.chains.len() - among(&|key| believed.has(key.0, &key.1));
        let filled = believed.filled() - among(&|key| believed.is_filled(key));
        let seen = (self.chains.others(self.written.iter()), self.filled.others(self.written.iter()));
        let counted = |table, name: &ChainName| !self.counts(table, name);
        !self.differs && seen == (chains, filled) && self.rest.rest_is_as(believed, counted)
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
        self.state.differs |= self.state.counts(table, &name) && !self.believed.has(table, &name);
        self.state.chains.insert(&(table, name));
        if is_shared {
            self.state.rest.shared.insert((table, name), KeptRules::default());
        }
    }

    fn rule(&mut self, key: &(Table, ChainName), rule: &Rule) {
        if let Some(kept) = self.state.rest.shared.get_mut(key) {
            kept.0.push_back(Kept::written(rule));
        }
    }

    fn filled(&mut self, key: (Table, ChainName), chain: FoundChain) {
        if self.state.rest.shared.contains_key(&key) {
            return;
        }
        let believed = self.believed.chains.get(key.0, &key.1);
        self.state.differs |= self.state.counts(key.0, &key.1) && believed != Some(chain);
        self.state.filled.insert(&key);
    }

    fn jump(&mut self, jump: Jump) {
        self.state.rest.add_jump(jump);
    }

    fn referenced(&mut self, name: ChainName) {
        self.state.rest.referenced.insert(name);
    }
}
