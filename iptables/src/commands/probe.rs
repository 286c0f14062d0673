//! Does this kernel have what a rule needs?

use super::Commands;
use crate::{Chain, ChainName, Rule, Table, Transaction};

impl Commands {
    /// Tries a rule in an own chain that nothing jumps to, and takes it away again. Writing is the only question that
    /// both variants answer: `--test` does not ask the kernel. `None` when the rule works, otherwise what the program
    /// said.
    ///
    /// `scratch` must be a chain of the caller's own; it is emptied and deleted.
    #[must_use]
    pub fn missing_for(&self, table: Table, scratch: ChainName, rule: &Rule) -> Option<String> {
        let mut write = Transaction::new();
        write.add_chain(table, Chain::new(scratch, vec![rule.clone()]));
        let mut remove = Transaction::new();
        remove.delete_chain(table, scratch);
        let written = self.restore(&write);
        let removed = self.restore(&remove);
        let error = written.and(removed).err()?;
        let said = error.stderr().trim();
        Some(if said.is_empty() { error.to_string() } else { said.to_owned() })
    }

    /// Whether a rule works in this kernel; see [`missing_for`](Self::missing_for).
    #[must_use]
    pub fn supports(&self, table: Table, scratch: ChainName, rule: &Rule) -> bool {
        self.missing_for(table, scratch, rule).is_none()
    }
}
