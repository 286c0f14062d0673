//! How many rules of ours each table has, kept up with every step, so that nobody has to count them.

use crate::backend::{RuleCount, RuleCounts};
use iptables::Table;

/// The counts of all tables.
#[derive(Debug, Clone, Default)]
pub struct Counter(RuleCounts);

impl Counter {
    /// Rules that are there now and were not before.
    pub fn came(&mut self, table: Table, rules: usize) {
        let count = self.of(table);
        count.total = count.total.saturating_add(as_u64(rules));
    }

    /// Rules that are there no more.
    pub fn went(&mut self, table: Table, rules: usize) {
        let count = self.of(table);
        count.total = count.total.saturating_sub(as_u64(rules));
    }

    /// Rules that were handed to the kernel.
    pub fn written(&mut self, table: Table, rules: usize) {
        let count = self.of(table);
        count.written = count.written.saturating_add(as_u64(rules));
    }

    /// The counts, and how many rules were written since the last call.
    pub fn take(&mut self) -> RuleCounts {
        let counts = self.0.clone();
        self.0.values_mut().for_each(|count| count.written = 0);
        counts
    }

    fn of(&mut self, table: Table) -> &mut RuleCount {
        self.0.entry(table.as_str()).or_default()
    }
}

fn as_u64(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
