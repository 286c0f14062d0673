//! The comparison of what is believed with the kernel, beside the work: iptables-save runs and is read little by little,
//! while changes are written as ever. It prints one state of the table, of before a change or of after it; so whatever was
//! written meanwhile is left out of the comparison.

use crate::backend::rules::{Found, FoundReader, OwnershipDebug, RuleOp};
use iptables::{ChainName, Commands, SaveError, Saving, Table};
use std::collections::HashSet;
use std::time::Instant;

/// Rules that are being read.
#[derive(Debug)]
pub struct Reading {
    saving: Saving,
    reader: FoundReader<&'static dyn OwnershipDebug>,
    written: HashSet<(Table, ChainName)>,
}

/// What a step came to.
#[derive(Debug)]
pub enum Step {
    /// There is more.
    Unfinished(Box<Reading>),
    /// All was read.
    Read(Box<Read>),
}

/// What was read, and what of it is not to be compared.
#[derive(Debug)]
pub struct Read {
    found: Found,
    written: HashSet<(Table, ChainName)>,
}

impl Reading {
    /// Starts to read, to pick out what this takes for ours.
    pub fn start(commands: &Commands, ownership: &'static dyn OwnershipDebug) -> Box<Self> {
        let saving = commands.start_saving(&[Table::Nat, Table::Filter]);
        Box::new(Self { saving, reader: FoundReader::to_compare(ownership), written: HashSet::new() })
    }

    /// A step that is carried out meanwhile.
    pub fn passed_over(&mut self, op: &RuleOp) {
        self.written.insert((op.table(), op.chain()));
    }

    /// Reads until that instant.
    ///
    /// # Errors
    /// When the rules cannot be read.
    pub fn step(mut self: Box<Self>, until: Instant) -> Result<Step, SaveError> {
        if !self.saving.step(until, &mut self.reader)? {
            return Ok(Step::Unfinished(self));
        }
        Ok(Step::Read(Box::new(Read { found: self.reader.finish(), written: self.written })))
    }
}

impl Read {
    /// Whether it is what is believed, but for what was written meanwhile.
    pub fn is_as(&self, believed: &Found) -> bool {
        self.found.is_as(believed, |table, chain| self.written.contains(&(table, *chain)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::iptables::{Ours, names};
    use iptables::{Chain, Position, Rule, SaveReader};

    fn read(text: &str, written: &[RuleOp]) -> Read {
        let (mut reader, mut found) = (SaveReader::default(), FoundReader::new(Ours));
        reader.feed(text.as_bytes(), &mut found).unwrap();
        reader.finish(&mut found).unwrap();
        let written = written.iter().map(|op| (op.table(), op.chain())).collect();
        Read { found: found.finish(), written }
    }

    const TEXT: &str = "*nat\n:OUTPUT ACCEPT [0:0]\n:KUBE-SERVICES - [0:0]\n:KUBE-SVC-A - [0:0]\n\
        -A OUTPUT -j KUBE-SERVICES\n-A KUBE-SERVICES -d 10.0.0.1/32 -j KUBE-SVC-A\n\
        -A KUBE-SERVICES -d 10.0.0.2/32 -j KUBE-SVC-A\n-A KUBE-SVC-A -j ACCEPT\nCOMMIT\n";

    #[test]
    fn what_somebody_changed_is_seen_and_what_we_wrote_is_not() {
        let found = read(TEXT, &[]).found;
        assert!(read(TEXT, &[]).is_as(&found));
        let swapped =
            TEXT.replace("10.0.0.1", "10.0.0.3").replace("10.0.0.2", "10.0.0.1").replace("10.0.0.3", "10.0.0.2");
        assert!(read(&swapped, &[]).is_as(&found), "the order of single rules is nobody's concern");
        let name = ChainName::from_static("KUBE-SVC-A");
        let chain = RuleOp::Write { table: Table::Nat, replaces: true, chain: Chain::new(name, Vec::new()).into() };
        let single = RuleOp::Insert {
            table: Table::Nat,
            chain: names::services(),
            position: Position::First,
            rule: Rule::new().accept(),
        };
        for (from, to, ours) in [
            ("-A KUBE-SVC-A -j ACCEPT\n", "", &chain),
            ("-A KUBE-SVC-A -j ACCEPT", "-A KUBE-SVC-A -j DROP", &chain),
            ("-A KUBE-SERVICES -d 10.0.0.1/32 -j KUBE-SVC-A\n", "", &single),
        ] {
            let changed = TEXT.replace(from, to);
            assert!(!read(&changed, &[]).is_as(&found), "{changed}");
            assert!(read(&changed, std::slice::from_ref(ours)).is_as(&found), "{changed}");
        }
        let more = TEXT.replace(":KUBE-SVC-A", ":KUBE-SVC-B - [0:0]\n:KUBE-SVC-A");
        let less = TEXT.replace("-A OUTPUT -j KUBE-SERVICES\n", "");
        let doubled =
            TEXT.replace("-A OUTPUT -j KUBE-SERVICES\n", "-A OUTPUT -j KUBE-SERVICES\n-A OUTPUT -j KUBE-SERVICES\n");
        for changed in [more, less, doubled, String::new()] {
            assert!(!read(&changed, &[chain.clone(), single.clone()]).is_as(&found), "{changed}");
        }
    }
}
