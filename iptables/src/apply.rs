//! A transaction carried out on saved tables rather than in the kernel, with the kernel's refusals.
//!
//! For tests without a kernel: plan, apply here, trace packets.

use std::collections::btree_map::Entry;

use thiserror::Error;

use crate::transaction::{Position, TableChanges};
use crate::{ChainName, Policy, Rule, Saved, SavedChain, SavedTable, Table, Transaction};

/// What the kernel would refuse.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ApplyError {
    /// A rule goes to a chain that does not exist.
    #[error("{table}: a rule of {from} goes to chain {to}, which does not exist")]
    MissingTarget {
        /// Table.
        table: Table,
        /// Chain with the rule.
        from: ChainName,
        /// Chain that is missing.
        to: ChainName,
    },
    /// A rule in, or added to, a chain that does not exist.
    #[error("{table}: no chain {chain}")]
    MissingChain {
        /// Table.
        table: Table,
        /// Chain that is missing.
        chain: ChainName,
    },
    /// A rule to delete is not there.
    #[error("{table}: no rule {rule} in {chain}")]
    MissingRule {
        /// Table.
        table: Table,
        /// Chain.
        chain: ChainName,
        /// The rule's text.
        rule: String,
    },
    /// A chain to delete is still in use.
    #[error("{table}: chain {chain} is still used by {by}")]
    InUse {
        /// Table.
        table: Table,
        /// Chain to delete.
        chain: ChainName,
        /// Chain that goes there.
        by: ChainName,
    },
}

impl Saved {
    /// Carries out a transaction as iptables-restore would: each table as a whole or not at all, in the order in which
    /// they are written. Built-in chains come into being with the table.
    ///
    /// # Errors
    /// What the kernel would refuse; tables before the failing one keep their changes.
    pub fn apply(&mut self, transaction: &Transaction) -> Result<(), ApplyError> {
        for table in transaction.tables() {
            let Some(changes) = transaction.tables.get(&table) else { continue };
            let mut content = self.tables.get(&table).cloned().unwrap_or_default();
            for builtin in table.builtin_chains() {
                let builtin = ChainName::from_static(builtin);
                let policy = Some(Policy::Accept);
                content.chains.entry(builtin).or_insert_with(|| SavedChain { policy, ..SavedChain::default() });
            }
            change(table, &mut content, changes)?;
            self.tables.insert(table, content);
        }
        Ok(())
    }
}

fn change(table: Table, content: &mut SavedTable, changes: &TableChanges) -> Result<(), ApplyError> {
    for chain in &changes.replaced {
        set_rules(content, chain.name, chain.rules.iter().map(Rule::normalised).collect());
    }
    for (name, _) in &changes.dropped {
        set_rules(content, *name, Vec::new());
    }
    for (builtin, rule) in &changes.deleted_jumps {
        let rule = rule.normalised();
        let chain = chain_mut(table, content, *builtin)?;
        let missing = || ApplyError::MissingRule { table, chain: *builtin, rule: rule.to_string() };
        let at = chain.rules.iter().position(|found| *found == rule).ok_or_else(missing)?;
        chain.rules.remove(at);
    }
    for (builtin, _, rule) in changes.inserted_jumps.iter().rev().filter(|(_, at, _)| *at == Position::First) {
        chain_mut(table, content, *builtin)?.rules.insert(0, rule.normalised());
    }
    for (builtin, _, rule) in changes.inserted_jumps.iter().filter(|(_, at, _)| *at == Position::Last) {
        chain_mut(table, content, *builtin)?.rules.push(rule.normalised());
    }
    for chain in content.chains.values_mut().filter(|chain| chain.is_builtin()) {
        chain.raw.clear();
    }
    let dropped: Vec<ChainName> = changes.dropped.iter().filter(|(_, delete)| *delete).map(|(name, _)| *name).collect();
    check(table, content, &dropped)?;
    content.chains.retain(|name, _| !dropped.contains(name));
    write_raw(content);
    Ok(())
}

fn set_rules(content: &mut SavedTable, name: ChainName, rules: Vec<Rule>) {
    match content.chains.entry(name) {
        Entry::Occupied(mut chain) => chain.get_mut().rules = rules,
        Entry::Vacant(place) => {
            place.insert(SavedChain { rules, ..SavedChain::default() });
        }
    }
}

fn chain_mut(table: Table, content: &mut SavedTable, chain: ChainName) -> Result<&mut SavedChain, ApplyError> {
    content.chains.get_mut(&chain).ok_or(ApplyError::MissingChain { table, chain })
}

/// Every target exists, and nothing goes to a chain that is deleted.
fn check(table: Table, content: &SavedTable, dropped: &[ChainName]) -> Result<(), ApplyError> {
    for (from, chain) in &content.chains {
        for to in chain.rules.iter().filter_map(|rule| rule.target.as_ref()?.chain()) {
            if !content.chains.contains_key(&to) {
                return Err(ApplyError::MissingTarget { table, from: *from, to });
            }
            if dropped.contains(&to) {
                return Err(ApplyError::InUse { table, chain: to, by: *from });
            }
        }
    }
    Ok(())
}

/// The lines that iptables-save would print for built-in chains.
fn write_raw(content: &mut SavedTable) {
    for (name, chain) in content.chains.iter_mut().filter(|(_, chain)| chain.is_builtin()) {
        chain.raw = chain.rules.iter().map(|rule| format!("-A {name} {rule}").trim_end().to_owned()).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Chain;

    const A: ChainName = ChainName::from_static("A");
    const B: ChainName = ChainName::from_static("B");
    const OUTPUT: ChainName = ChainName::from_static("OUTPUT");

    #[test]
    fn what_the_kernel_refuses_is_refused_and_changes_nothing() {
        let mut saved = Saved::default();
        let mut fine = Transaction::new();
        fine.add_chain(Table::Nat, Chain::new(A, vec![Rule::new().jump(B)]))
            .add_chain(Table::Nat, Chain::new(B, vec![]));
        fine.insert_jump(Table::Nat, OUTPUT, Position::Last, Rule::new().jump(A));
        saved.apply(&fine).unwrap();
        let before = saved.clone();
        let mut busy = Transaction::new();
        busy.delete_chain(Table::Nat, B);
        assert_eq!(saved.apply(&busy), Err(ApplyError::InUse { table: Table::Nat, chain: B, by: A }));
        let mut missing = Transaction::new();
        missing.delete_jump(Table::Nat, OUTPUT, Rule::new().jump(B));
        assert!(matches!(saved.apply(&missing), Err(ApplyError::MissingRule { .. })));
        let mut nowhere = Transaction::new();
        nowhere.add_chain(Table::Filter, Chain::new(A, vec![Rule::new().jump(B)]));
        assert!(matches!(saved.apply(&nowhere), Err(ApplyError::MissingTarget { .. })));
        assert_eq!(saved, before);
        let mut gone = Transaction::new();
        gone.delete_jump(Table::Nat, OUTPUT, Rule::new().jump(A))
            .delete_chain(Table::Nat, B)
            .delete_chain(Table::Nat, A);
        saved.apply(&gone).unwrap();
        assert_eq!(saved.tables[&Table::Nat].chains.len(), 4);
    }
}
