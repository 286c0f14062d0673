//! Reads what iptables-save prints as it arrives, so that a table of any size takes the memory of one line.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};

use crate::quote::{self, Word};
use crate::save::{Counters, ParseError, Policy};
use crate::{ChainName, Rule, Table, parse_rule};

/// A rule that was read.
#[derive(Debug)]
pub struct SavedRule<'a> {
    /// In normal form.
    pub rule: Rule,
    /// The line, as it was printed.
    pub line: &'a str,
    /// What it has seen, if that was asked for.
    pub counters: Option<Counters>,
}

/// Takes what is read. All rules of a chain come one after the other, and after the chain itself.
pub trait SaveSink {
    /// A chain; only the kernel's own have a policy.
    fn chain(&mut self, table: Table, name: ChainName, policy: Option<Policy>);

    /// The next rule of a chain.
    fn rule(&mut self, table: Table, chain: ChainName, rule: SavedRule<'_>);
}

/// A reader in the midst of a text. Tables that this crate has no name for (`security`) are passed over.
#[derive(Debug, Default)]
pub struct SaveReader {
    open: Option<Open>,
    tables: BTreeSet<Table>,
    /// The beginning of a line of which the end has not come.
    partial: Vec<u8>,
    line: usize,
    last: String,
}

#[derive(Debug)]
struct Open {
    table: Option<Table>,
    /// Tells a jump to a chain from a target of the kernel.
    chains: Declared,
}

/// The chains of a table: a number of 64 bits each, as there may be a hundred thousand. Two are as good as never the same, and
/// nobody can make them be.
#[derive(Debug, Default)]
struct Declared {
    numbers: Vec<u64>,
    sorted: bool,
    hasher: RandomState,
}

impl Declared {
    fn insert(&mut self, name: &ChainName) {
        self.numbers.push(self.hasher.hash_one(name));
        self.sorted = false;
    }

    /// Before anything is looked for. As a rule all chains come first.
    fn complete(&mut self) {
        if !std::mem::replace(&mut self.sorted, true) {
            self.numbers.sort_unstable();
        }
    }

    fn contains(&self, name: &ChainName) -> bool {
        self.numbers.binary_search(&self.hasher.hash_one(name)).is_ok()
    }
}

impl SaveReader {
    /// Takes in the next piece of the text, which may end anywhere.
    ///
    /// # Errors
    /// When a line is neither a table, a chain, a rule, `COMMIT` nor a comment. What comes after it is of no use.
    pub fn feed(&mut self, bytes: &[u8], sink: &mut dyn SaveSink) -> Result<(), ParseError> {
        let mut pieces = bytes.split(|byte| *byte == b'\n');
        // What stands behind the last line feed is the beginning of a line.
        let rest = pieces.next_back().unwrap_or_default();
        for piece in pieces {
            if self.partial.is_empty() {
                self.line(&String::from_utf8_lossy(piece), sink)?;
            } else {
                self.partial.extend_from_slice(piece);
                let whole = std::mem::take(&mut self.partial);
                self.line(&String::from_utf8_lossy(&whole), sink)?;
            }
        }
        self.partial.extend_from_slice(rest);
        Ok(())
    }

    /// The text is over. Returns the tables that were in it.
    ///
    /// # Errors
    /// As [`feed`](Self::feed), and when a table has no `COMMIT`: iptables-nft-save can fail half-way and still exit
    /// with 0.
    pub fn finish(mut self, sink: &mut dyn SaveSink) -> Result<BTreeSet<Table>, ParseError> {
        if !self.partial.is_empty() {
            let whole = std::mem::take(&mut self.partial);
            self.line(&String::from_utf8_lossy(&whole), sink)?;
        }
        match self.open {
            None => Ok(self.tables),
            Some(_) => Err(ParseError { line: self.line, problem: "no COMMIT after it", text: self.last }),
        }
    }

    fn line(&mut self, line: &str, sink: &mut dyn SaveSink) -> Result<(), ParseError> {
        self.line += 1;
        self.last.clear();
        self.last.push_str(line);
        self.take(line.trim_end(), sink).map_err(|problem| ParseError {
            line: self.line,
            problem,
            text: line.to_owned(),
        })
    }

    fn take(&mut self, line: &str, sink: &mut dyn SaveSink) -> Result<(), &'static str> {
        if line.is_empty() || line.starts_with('#') {
            return Ok(());
        }
        if let Some(name) = line.strip_prefix('*') {
            if self.open.is_some() {
                return Err("a table begins within a table");
            }
            self.open = Some(Open { table: name.parse().ok(), chains: Declared::default() });
        } else if line == "COMMIT" {
            let table = self.open.take().ok_or("COMMIT outside a table")?;
            self.tables.extend(table.table);
        } else {
            let table = self.open.as_mut().ok_or("outside a table")?;
            match line.strip_prefix(':') {
                Some(declaration) => table.declare(declaration, sink)?,
                None => table.append(line, sink)?,
            }
        }
        Ok(())
    }
}

impl Open {
    /// `NAME POLICY [packets:bytes]`
    fn declare(&mut self, declaration: &str, sink: &mut dyn SaveSink) -> Result<(), &'static str> {
        let mut words = declaration.split_ascii_whitespace();
        let name = words.next().ok_or("no chain name")?;
        let name = ChainName::new(name).map_err(|_| "no valid chain name")?;
        let policy = match words.next() {
            Some("ACCEPT") => Some(Policy::Accept),
            Some("DROP") => Some(Policy::Drop),
            Some("-") => None,
            _ => return Err("no chain policy"),
        };
        self.chains.insert(&name);
        if let Some(table) = self.table {
            sink.chain(table, name, policy);
        }
        Ok(())
    }

    /// `[packets:bytes] -A NAME …`
    fn append(&mut self, line: &str, sink: &mut dyn SaveSink) -> Result<(), &'static str> {
        let words = quote::split(line);
        let (counters, words) = match words.split_first() {
            Some((first, rest)) if first.text.starts_with('[') => (Some(counters(first).ok_or("no counters")?), rest),
            _ => (None, words.as_slice()),
        };
        let [command, name, rule @ ..] = words else { return Err("no rule") };
        if !command.is("-A") {
            return Err("no rule");
        }
        let name = ChainName::new(&name.text).map_err(|_| "no valid chain name")?;
        self.chains.complete();
        if !self.chains.contains(&name) {
            return Err("a chain that was not declared");
        }
        let Some(table) = self.table else { return Ok(()) };
        let known = |text: &str| ChainName::new(text).is_ok_and(|name| self.chains.contains(&name));
        let rule = parse_rule::from_words(rule, &known);
        sink.rule(table, name, SavedRule { rule, line, counters });
        Ok(())
    }
}

fn counters(word: &Word<'_>) -> Option<Counters> {
    let (packets, bytes) = word.text.strip_prefix('[')?.strip_suffix(']')?.split_once(':')?;
    Some(Counters { packets: packets.parse().ok()?, bytes: bytes.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Saved, parse_save};

    const TEXT: &str = "# Generated\n*nat\n:OUTPUT ACCEPT [1:60]\n:KUBE-A - [0:0]\n[3:180] -A OUTPUT -j KUBE-A\n\
        -A KUBE-A -m comment --comment \"größer\" -j ACCEPT\nCOMMIT\n*filter\n:INPUT DROP [0:0]\nCOMMIT\n";

    proptest! {
        /// However the text is cut, also within a character.
        #[test]
        fn pieces_make_the_same_as_the_whole(size in 1..TEXT.len()) {
            let (mut saved, mut reader) = (Saved::default(), SaveReader::default());
            for piece in TEXT.as_bytes().chunks(size) {
                reader.feed(piece, &mut saved).unwrap();
            }
            prop_assert_eq!(reader.finish(&mut saved).unwrap().len(), 2);
            prop_assert_eq!(saved, parse_save(TEXT).unwrap());
        }
    }

    #[test]
    fn what_broke_off_is_told() {
        let (mut saved, mut reader) = (Saved::default(), SaveReader::default());
        reader.feed(b"*nat\n:OUTPUT ACC", &mut saved).unwrap();
        assert_eq!(reader.finish(&mut saved).unwrap_err().line, 2);
    }
}
