//! What is written in one go: chains with their whole content, jumps in built-in chains, chains to delete.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::sync::Arc;

use crate::{Chain, ChainName, Rule, Table};

/// Room for the line with which a piece of the text ends.
const LINE: usize = 512;

/// Where a rule goes in a built-in chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Position {
    /// Before all others. Of several such rules the one given first comes to stand first.
    First,
    /// After all others.
    Last,
}

/// Input for one run of iptables-restore. The kernel takes each table as a whole or not at all.
///
/// A chain that is replaced need not exist; a chain that is deleted need not either. A jump that is deleted must be
/// there, or the whole table is refused: delete what was read back.
///
/// ```
/// use iptables::{Chain, ChainName, Position, Rule, Table, Transaction};
/// let marks = Chain::new(ChainName::from_static("KUBE-MARK-MASQ"), vec![Rule::new().or_mark(0x4000)]);
/// let mut transaction = Transaction::new();
/// transaction.replace_chain(Table::Nat, &marks);
/// assert_eq!(
///     transaction.render(),
///     "*nat\n:KUBE-MARK-MASQ - [0:0]\n-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000\nCOMMIT\n"
/// );
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Transaction {
    pub(crate) tables: BTreeMap<Table, TableChanges>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct TableChanges {
    /// Shared with who planned them: chains are large.
    pub(crate) replaced: Vec<Arc<Chain>>,
    pub(crate) deleted_jumps: Vec<(ChainName, Rule)>,
    pub(crate) inserted_jumps: Vec<(ChainName, Position, Rule)>,
    /// Emptied in this transaction; deleted too where the flag says so.
    pub(crate) dropped: Vec<(ChainName, bool)>,
}

impl TableChanges {
    fn len(&self) -> usize {
        self.replaced.len() + self.deleted_jumps.len() + self.inserted_jumps.len() + self.dropped.len()
    }
}

impl Transaction {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The chain is made if it is missing, and has exactly these rules afterwards. Chains that are jumped to must
    /// exist or be in the transaction too.
    pub fn replace_chain(&mut self, table: Table, chain: &Chain) -> &mut Self {
        self.add_chain(table, chain.clone())
    }

    /// [`replace_chain`](Self::replace_chain) without the copy.
    pub fn add_chain(&mut self, table: Table, chain: impl Into<Arc<Chain>>) -> &mut Self {
        self.table(table).replaced.push(chain.into());
        self
    }

    /// Adds a rule to a chain that is not ours.
    pub fn insert_jump(&mut self, table: Table, builtin: ChainName, position: Position, rule: Rule) -> &mut Self {
        self.table(table).inserted_jumps.push((builtin, position, rule));
        self
    }

    /// Deletes a rule, which must be there, from a chain that is not ours.
    pub fn delete_jump(&mut self, table: Table, builtin: ChainName, rule: Rule) -> &mut Self {
        self.table(table).deleted_jumps.push((builtin, rule));
        self
    }

    /// Deletes a chain, which nothing may refer to any more once this transaction is done.
    pub fn delete_chain(&mut self, table: Table, name: ChainName) -> &mut Self {
        self.table(table).dropped.push((name, true));
        self
    }

    /// Whether there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of chains and jumps written or deleted.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tables.values().map(TableChanges::len).sum()
    }

    /// Number of rules written.
    #[must_use]
    pub fn rule_count(&self) -> usize {
        let rules = |table: &TableChanges| {
            table.inserted_jumps.len() + table.replaced.iter().map(|chain| chain.rules.len()).sum::<usize>()
        };
        self.tables.values().map(rules).sum()
    }

    /// Number of chains written or deleted: what iptables-nft-restore's time grows with, squared.
    #[must_use]
    pub fn chain_count(&self) -> usize {
        self.tables.values().map(|table| table.replaced.len() + table.dropped.len()).sum()
    }

    /// The tables that are touched, in the order in which they are written.
    pub fn tables(&self) -> impl Iterator<Item = Table> {
        Table::WRITE_ORDER.into_iter().filter(|table| self.tables.get(table).is_some_and(|changes| changes.len() > 0))
    }

    /// The input for `iptables-restore --noflush`; nothing at all for an empty transaction.
    #[must_use]
    pub fn render(&self) -> String {
        self.to_string()
    }

    /// The same in pieces of about so many bytes: a large transaction need not be in memory as text.
    pub fn pieces(&self, bytes: usize) -> impl Iterator<Item = String> {
        let mut lines = self.lines().peekable();
        std::iter::from_fn(move || {
            lines.peek()?;
            let mut piece = String::with_capacity(bytes + LINE);
            while piece.len() < bytes
                && let Some(line) = lines.next()
            {
                // Writing into a String does not fail.
                let _ = line.write(&mut piece);
            }
            Some(piece)
        })
    }

    fn lines(&self) -> impl Iterator<Item = Line<'_>> {
        let touched = self.tables().filter_map(|table| self.tables.get(&table).map(|changes| (table, changes)));
        touched.flat_map(|(table, changes)| lines_of(table, changes))
    }

    pub(crate) fn table(&mut self, table: Table) -> &mut TableChanges {
        self.tables.entry(table).or_default()
    }
}

impl fmt::Display for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines().try_for_each(|line| line.write(f))
    }
}

/// A line of the input.
enum Line<'a> {
    Table(Table),
    Chain(ChainName),
    Rule(&'static str, ChainName, &'a Rule),
    Delete(ChainName),
    Commit,
}

impl Line<'_> {
    fn write(&self, f: &mut dyn Write) -> fmt::Result {
        match self {
            Self::Table(table) => writeln!(f, "*{table}"),
            Self::Chain(name) => writeln!(f, ":{name} - [0:0]"),
            Self::Rule(command, chain, rule) => {
                write!(f, "{command} {chain}")?;
                rule.write(f)?;
                f.write_char('\n')
            }
            Self::Delete(name) => writeln!(f, "-X {name}"),
            Self::Commit => f.write_str("COMMIT\n"),
        }
    }
}

fn lines_of(table: Table, changes: &TableChanges) -> impl Iterator<Item = Line<'_>> {
    // With --noflush such a line makes the chain, or empties it if it exists. Chains that are deleted are emptied
    // first, so that they no longer refer to each other.
    let named = changes.replaced.iter().map(|chain| chain.name).chain(changes.dropped.iter().map(|(name, _)| *name));
    let rules = |chain: &'_ Arc<Chain>| {
        let name = chain.name;
        move |rule| Line::Rule("-A", name, rule)
    };
    let replaced = changes.replaced.iter().flat_map(move |chain| chain.rules.iter().map(rules(chain)));
    let deleted_jumps = changes.deleted_jumps.iter().map(|(builtin, rule)| Line::Rule("-D", *builtin, rule));
    // Each -I goes on top of the one before: the last written stands first.
    let first = changes.inserted_jumps.iter().rev().filter(|(_, at, _)| *at == Position::First);
    let last = changes.inserted_jumps.iter().filter(|(_, at, _)| *at == Position::Last);
    let deleted = changes.dropped.iter().filter(|(_, delete)| *delete);
    std::iter::once(Line::Table(table))
        .chain(named.map(Line::Chain))
        .chain(replaced)
        .chain(deleted_jumps)
        .chain(first.map(|(builtin, _, rule)| Line::Rule("-I", *builtin, rule)))
        .chain(last.map(|(builtin, _, rule)| Line::Rule("-A", *builtin, rule)))
        .chain(deleted.map(|(name, _)| Line::Delete(*name)))
        .chain(std::iter::once(Line::Commit))
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ChainName = ChainName::from_static("A");
    const B: ChainName = ChainName::from_static("B");
    const OUTPUT: ChainName = ChainName::from_static("OUTPUT");

    #[test]
    fn all_kinds_of_changes_in_their_order() {
        let mut transaction = Transaction::new();
        transaction
            .insert_jump(Table::Nat, OUTPUT, Position::First, Rule::new().comment("one").jump(A))
            .insert_jump(Table::Nat, OUTPUT, Position::First, Rule::new().comment("two").jump(A))
            .insert_jump(Table::Nat, OUTPUT, Position::Last, Rule::new().jump(A))
            .delete_chain(Table::Nat, B)
            .delete_jump(Table::Nat, OUTPUT, Rule::new().jump(B))
            .replace_chain(Table::Nat, &Chain::new(A, vec![Rule::new().accept(), Rule::new()]))
            .replace_chain(Table::Filter, &Chain::new(A, vec![]));
        let expected = "*filter\n:A - [0:0]\nCOMMIT\n\
            *nat\n:A - [0:0]\n:B - [0:0]\n-A A -j ACCEPT\n-A A\n-D OUTPUT -j B\n\
            -I OUTPUT -m comment --comment two -j A\n-I OUTPUT -m comment --comment one -j A\n\
            -A OUTPUT -j A\n-X B\nCOMMIT\n";
        assert_eq!(transaction.render(), expected);
        for bytes in [1, 40, 100, 10_000] {
            assert_eq!(transaction.pieces(bytes).collect::<String>(), expected);
        }
        assert_eq!(transaction.to_string(), expected);
        assert_eq!((transaction.len(), transaction.rule_count(), transaction.chain_count()), (7, 5, 3));
    }

    #[test]
    fn nothing_renders_as_nothing() {
        let mut transaction = Transaction::new();
        transaction.table(Table::Nat);
        assert!(transaction.is_empty());
        assert_eq!(transaction.render(), "");
    }
}
