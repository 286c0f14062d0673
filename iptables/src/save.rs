//! What iptables-save prints, as typed rules.

use std::collections::BTreeMap;

use thiserror::Error;

use crate::save_reader::{SaveReader, SaveSink, SavedRule};
use crate::{Chain, ChainName, Rule, Table, hash_rules};

/// The content of some tables.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Saved {
    /// By table. A table that does not exist in the kernel is missing or empty.
    pub tables: BTreeMap<Table, SavedTable>,
}

/// One table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SavedTable {
    /// All chains, the kernel's own and those that programs made.
    pub chains: BTreeMap<ChainName, SavedChain>,
}

/// One chain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SavedChain {
    /// What happens to a packet that no rule decides; only the kernel's own chains have one.
    pub policy: Option<Policy>,
    /// The rules in normal form.
    pub rules: Vec<Rule>,
    /// The lines of a built-in chain as they were printed, one for each rule; empty for other chains.
    pub raw: Vec<String>,
    /// One for each rule where they were asked for (`iptables-save -c`), else empty.
    pub counters: Vec<Counters>,
}

/// Verdict at the end of a built-in chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Policy {
    /// The packet passes.
    Accept,
    /// The packet is dropped.
    Drop,
}

/// What a rule has seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Text that iptables-save would not print.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("line {line} of iptables-save: {problem}: {text:?}")]
pub struct ParseError {
    /// Line number from 1.
    pub line: usize,
    /// What is wrong with it.
    pub problem: &'static str,
    /// The line.
    pub text: String,
}

impl SavedChain {
    /// Digest to compare with [`Chain::hash`](crate::Chain::hash).
    #[must_use]
    pub fn hash(&self) -> u64 {
        hash_rules(&self.rules)
    }

    /// Whether the kernel provides the chain.
    #[must_use]
    pub const fn is_builtin(&self) -> bool {
        self.policy.is_some()
    }

    /// Whether the chain holds this rule.
    #[must_use]
    pub fn contains(&self, rule: &Rule) -> bool {
        let rule = rule.normalised();
        self.rules.contains(&rule)
    }
}

impl Saved {
    /// A table's chain, if it is there.
    #[must_use]
    pub fn chain(&self, table: Table, name: ChainName) -> Option<&SavedChain> {
        self.tables.get(&table)?.chains.get(&name)
    }

    /// Whether a chain is there with exactly the rules of `chain`.
    #[must_use]
    pub fn holds(&self, table: Table, chain: &Chain) -> bool {
        self.chain(table, chain.name).is_some_and(|saved| {
            saved.rules.len() == chain.rules.len()
                && saved.rules.iter().zip(&chain.rules).all(|(saved, wanted)| *saved == wanted.normalised())
        })
    }

    /// The chains of a table whose name begins with `prefix`.
    pub fn chains_named<'a>(
        &'a self,
        table: Table,
        prefix: &'a str,
    ) -> impl Iterator<Item = (ChainName, &'a SavedChain)> + 'a {
        let chains = self.tables.get(&table).into_iter().flat_map(|table| &table.chains);
        chains.filter(move |(name, _)| name.starts_with(prefix)).map(|(name, chain)| (*name, chain))
    }

    /// Adds the tables of another reading.
    pub fn merge(&mut self, other: Self) {
        self.tables.extend(other.tables);
    }
}

/// Reads the output of iptables-save, with or without counters. Tables that this crate has no name for (`security`)
/// are passed over.
///
/// # Errors
/// When a line is neither a table, a chain, a rule, `COMMIT` nor a comment, or when the text ends within a table:
/// iptables-nft-save can fail half-way and still exit with 0.
pub fn parse_save(text: &str) -> Result<Saved, ParseError> {
    let (mut saved, mut reader) = (Saved::default(), SaveReader::default());
    reader.feed(text.as_bytes(), &mut saved)?;
    for table in reader.finish(&mut saved)? {
        saved.tables.entry(table).or_default();
    }
    Ok(saved)
}

impl SaveSink for Saved {
    fn chain(&mut self, table: Table, name: ChainName, policy: Option<Policy>) {
        self.tables.entry(table).or_default().chains.entry(name).or_default().policy = policy;
    }

    fn rule(&mut self, table: Table, chain: ChainName, found: SavedRule<'_>) {
        let chain = self.tables.entry(table).or_default().chains.entry(chain).or_default();
        chain.rules.push(found.rule);
        if chain.is_builtin() {
            chain.raw.push(found.line.to_owned());
        }
        // A program may print counters for some rules only.
        if found.counters.is_some() || !chain.counters.is_empty() {
            chain.counters.resize(chain.rules.len() - 1, Counters::default());
            chain.counters.push(found.counters.unwrap_or_default());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Target;

    const TEXT: &str = "# Generated\n*nat\n:OUTPUT ACCEPT [1:60]\n:KUBE-A - [0:0]\n[3:180] -A OUTPUT -j KUBE-A\n\
        -A OUTPUT -j LOGGER\n-A KUBE-A -d 10.0.0.1/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.1.0.1:80\nCOMMIT\n\
        *security\n:INPUT ACCEPT [0:0]\nCOMMIT\n";

    #[test]
    fn tables_chains_rules_and_counters() {
        let saved = parse_save(TEXT).unwrap();
        let output = saved.chain(Table::Nat, ChainName::from_static("OUTPUT")).unwrap();
        assert_eq!(output.policy, Some(Policy::Accept));
        assert_eq!(output.rules[0], Rule::new().jump(ChainName::from_static("KUBE-A")));
        assert_eq!(output.rules[1].target, Some(Target::Other("LOGGER".into())), "no such chain: an extension");
        assert_eq!(output.counters, [Counters { packets: 3, bytes: 180 }, Counters::default()]);
        assert_eq!(output.raw[1], "-A OUTPUT -j LOGGER");
        let ours = saved.chain(Table::Nat, ChainName::from_static("KUBE-A")).unwrap();
        assert_eq!(ours.rules.len(), 1);
        assert!(ours.raw.is_empty());
        assert_eq!(saved.tables.len(), 1);
        assert_eq!(saved.chains_named(Table::Nat, "KUBE-").count(), 1);
    }

    #[test]
    fn broken_text_is_named_by_line() {
        for (text, line) in [
            ("*nat\n:A - [0:0]\n", 2),
            ("-A X -j ACCEPT\n", 1),
            ("*nat\n-A X -j ACCEPT\nCOMMIT\n", 2),
            ("*nat\n*filter\nCOMMIT\n", 2),
            ("COMMIT", 1),
            ("*nat\n:A\nCOMMIT", 2),
            ("*nat\ngarbage\nCOMMIT", 2),
        ] {
            assert_eq!(parse_save(text).unwrap_err().line, line, "{text:?}");
        }
        assert_eq!(parse_save("").unwrap(), Saved::default());
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "(\\*nat\n|\\*filter\n|COMMIT\n|:A - \\[0:0\\]\n|-A A |-m |\"|!|--[a-z]{1,6} |-[a-z] |\\PC{0,8} |\n){0,40}") {
            let _ = parse_save(&text);
        }

        #[test]
        fn any_words_are_read(text in "((-m|-j|-g|-s|-p|!|-c|--[a-z-]{1,8}|mark|set|\"\"|\\PC{0,6}) ){0,12}") {
            let _ = Rule::parse(&text).to_string();
        }

        /// Rule-like lines of known and unknown options with values that fit or do not.
        #[test]
        fn a_normal_form_is_read_back_as_itself(
            tests in prop::collection::vec("(! |)(-[sdiop] [a-z0-9./]{1,8}|-m (tcp|mark|comment|set|recent|limit|conntrack|addrtype|statistic|icmp|physdev|other)( (! |)--(dport|mark|comment|set|rcheck|name|seconds|limit|ctstate|dst-type|mode|every|probability|icmp-type|physdev-in|x) (0x1/2|1:2|10\\.0\\.0\\.1|a,b|NEW|random|nth|\"x y\"|5|5/min)){0,3})", 0..6),
            target in "(|-j [A-Z]{1,6}( --(set-mark|to-destination|reject-with|random|x) [a-z0-9.:/]{1,9}|)|-g X)",
        ) {
            let once = Rule::parse(&format!("{} {target}", tests.join(" ")));
            let again = Rule::parse(&once.to_string());
            prop_assert_eq!(&again.to_string(), &once.to_string());
            prop_assert_eq!(again, once);
        }
    }
}
