//! Chains and jumps of ours in iptables: what is found, the steps between that and what is wanted, and carrying them
//! out. Used by iptables mode for everything and by IPVS mode for its constant helpers.

mod chains;
mod compare;
mod count;
mod found;
mod masquerade;
mod plan;
mod reader;
mod write;

pub use compare::Comparison;
pub use found::{Found, Ownership, target_chain};
pub use masquerade::{block_localnet, forward, if_local, masquerade_if_not_local, off_cluster, postrouting};
pub use plan::{adds_only, plan_additions, plan_chain, plan_jumps, plan_removal, plan_shared};
pub use reader::FoundReader;
pub use write::{OwnershipDebug, Recorder, Refusal, Run, Writer, scratch};

use iptables::{Chain, ChainName, Position, Rule, Table};
use std::fmt;
use std::sync::Arc;

/// A function for each chain of ours, which makes its name.
macro_rules! chain_names {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        $($(#[$doc])* pub fn $name() -> ::iptables::ChainName { ::iptables::ChainName::from_static($text) })*
    };
}
pub(in crate::backend) use chain_names;

/// A jump from a chain of the kernel into one of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Jump {
    /// Table.
    pub table: Table,
    /// The kernel's chain.
    pub from: ChainName,
    /// The rule.
    pub rule: Rule,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuleOp {
    /// Make a chain, or replace its whole content.
    Write {
        /// Table.
        table: Table,
        /// Chain.
        chain: Arc<Chain>,
        /// It was there before.
        replaces: bool,
    },
    /// Add one rule to a chain.
    Insert {
        /// Table.
        table: Table,
        /// Chain.
        chain: ChainName,
        /// Before or after all others.
        position: Position,
        /// Rule.
        rule: Rule,
    },
    /// Take one rule out of a chain.
    Remove {
        /// Table.
        table: Table,
        /// Chain.
        chain: ChainName,
        /// Rule.
        rule: Rule,
    },
    /// Delete a chain that nothing jumps to any more.
    Delete {
        /// Table.
        table: Table,
        /// Chain.
        name: ChainName,
    },
}

impl RuleOp {
    /// The chain that the step is about.
    pub fn chain(&self) -> ChainName {
        match self {
            Self::Write { chain, .. } => chain.name,
            Self::Insert { chain, .. } | Self::Remove { chain, .. } => *chain,
            Self::Delete { name, .. } => *name,
        }
    }

    /// The table that the step is about.
    pub fn table(&self) -> Table {
        match self {
            Self::Write { table, .. } | Self::Insert { table, .. } | Self::Remove { table, .. } => *table,
            Self::Delete { table, .. } => *table,
        }
    }
}

impl fmt::Display for RuleOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let table = self.table();
        match self {
            Self::Write { chain, replaces, .. } => {
                let verb = if *replaces { "rewrite" } else { "create" };
                let count = chain.rules.len();
                write!(
                    f,
                    "{verb} chain {table}/{} with {count} {}",
                    chain.name,
                    if count == 1 { "rule" } else { "rules" }
                )
            }
            Self::Insert { chain, rule, .. } => write!(f, "add to {table}/{chain}: {rule}"),
            Self::Remove { chain, rule, .. } => write!(f, "remove from {table}/{chain}: {rule}"),
            Self::Delete { name, .. } => write!(f, "delete chain {table}/{name}"),
        }
    }
}
