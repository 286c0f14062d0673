//! The comparison of what is believed with the kernel, beside the work: iptables-save runs and is read little by little,
//! while changes are written as ever. It prints one state of the table, of before a change or of after it; so whatever was
//! written meanwhile is left out of the comparison.

use crate::backend::rules::{Comparison, Found, OwnershipDebug, RuleOp};
use iptables::{Commands, SaveError, Saving, Table};
use std::time::Instant;

/// Rules that are being read.
#[derive(Debug)]
pub struct Reading {
    saving: Saving,
    comparison: Comparison<&'static dyn OwnershipDebug>,
}

/// What a step came to.
#[derive(Debug)]
pub enum Step {
    /// There is more.
    Unfinished(Box<Reading>),
    /// All was read, and is as believed or not.
    Compared(bool),
}

impl Reading {
    /// Starts to read, to pick out what this takes for ours.
    pub fn start(commands: &Commands, ownership: &'static dyn OwnershipDebug, believed: &Found) -> Box<Self> {
        let saving = commands.start_saving(&[Table::Nat, Table::Filter]);
        Box::new(Self { saving, comparison: Comparison::new(ownership, believed) })
    }

    /// A step that is carried out meanwhile.
    pub fn passed_over(&mut self, op: &RuleOp) {
        self.comparison.passed_over(op);
    }

    /// Reads until that instant, and compares what is read.
    ///
    /// # Errors
    /// When the rules cannot be read.
    pub fn step(mut self: Box<Self>, believed: &Found, until: Instant) -> Result<Step, SaveError> {
        if !self.saving.step(until, &mut self.comparison.beside(believed))? {
            return Ok(Step::Unfinished(self));
        }
        Ok(Step::Compared(self.comparison.holds(believed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::iptables::{Ours, names};
    use crate::backend::rules::FoundReader;
    use iptables::{Chain, ChainName, Position, Rule, SaveReader};

    fn found(text: &str) -> Found {
        let (mut reader, mut found) = (SaveReader::default(), FoundReader::new(Ours));
        reader.feed(text.as_bytes(), &mut found).unwrap();
        reader.finish(&mut found).unwrap();
        found.finish()
    }

    /// Whether the text is as believed, if these steps are carried out after so much of it was read, and the belief moves with
    /// them.
    fn holds_after(place: usize, text: &str, [before, after]: [&Found; 2], written: &[RuleOp]) -> bool {
        let (mut reader, mut comparison) = (SaveReader::default(), Comparison::new(Ours, before));
        let (head, tail) = text.split_at(place);
        reader.feed(head.as_bytes(), &mut comparison.beside(before)).unwrap();
        written.iter().for_each(|op| comparison.passed_over(op));
        reader.feed(tail.as_bytes(), &mut comparison.beside(after)).unwrap();
        reader.finish(&mut comparison.beside(after)).unwrap();
        comparison.holds(after)
    }

    fn holds(text: &str, believed: &Found, written: &[RuleOp]) -> bool {
        holds_after(0, text, [believed; 2], written)
    }

    const TEXT: &str = "*nat\n:OUTPUT ACCEPT [0:0]\n:KUBE-SERVICES - [0:0]\n:KUBE-SVC-A - [0:0]\n:KUBE-SVC-Z - [0:0]\n\
        -A OUTPUT -j KUBE-SERVICES\n-A KUBE-SERVICES -d 10.0.0.1/32 -j KUBE-SVC-A\n\
        -A KUBE-SERVICES -d 10.0.0.2/32 -j KUBE-SVC-A\n-A KUBE-SVC-A -j ACCEPT\nCOMMIT\n";

    #[test]
    fn what_somebody_changed_is_seen_and_what_we_wrote_is_not() {
        let believed = found(TEXT);
        assert!(holds(TEXT, &believed, &[]));
        let swapped =
            TEXT.replace("10.0.0.1", "10.0.0.3").replace("10.0.0.2", "10.0.0.1").replace("10.0.0.3", "10.0.0.2");
        assert!(holds(&swapped, &believed, &[]), "the order of single rules is nobody's concern");
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
            assert!(!holds(&changed, &believed, &[]), "{changed}");
            assert!(holds(&changed, &believed, std::slice::from_ref(ours)), "{changed}");
        }
        let more = TEXT.replace(":KUBE-SVC-A", ":KUBE-SVC-B - [0:0]\n:KUBE-SVC-A");
        let fewer = TEXT.replace(":KUBE-SVC-Z - [0:0]\n", "");
        let filled = TEXT.replace("COMMIT", "-A KUBE-SVC-Z -j DROP\nCOMMIT");
        let less = TEXT.replace("-A OUTPUT -j KUBE-SERVICES\n", "");
        let doubled =
            TEXT.replace("-A OUTPUT -j KUBE-SERVICES\n", "-A OUTPUT -j KUBE-SERVICES\n-A OUTPUT -j KUBE-SERVICES\n");
        for changed in [more, fewer, filled, less, doubled, String::new()] {
            assert!(!holds(&changed, &believed, &[chain.clone(), single.clone()]), "{changed}");
        }
    }

    #[test]
    fn it_does_not_matter_when_something_is_written() {
        let name = |text: &'static str| ChainName::from_static(text);
        let write = |chain: &'static str, rules: Vec<Rule>| {
            let chain = Chain::new(name(chain), rules).into();
            RuleOp::Write { table: Table::Nat, replaces: true, chain }
        };
        let steps = [
            write("KUBE-SVC-A", vec![Rule::new().drop()]),
            write("KUBE-SVC-Z", vec![Rule::new().drop()]),
            write("KUBE-SVC-NEW", vec![Rule::new().drop()]),
            RuleOp::Delete { table: Table::Nat, name: name("KUBE-SVC-A") },
        ];
        for step in steps {
            let mut after = found(TEXT);
            after.acknowledge(&step, &Ours);
            for place in 0..=TEXT.len() {
                let holds = holds_after(place, TEXT, [&found(TEXT), &after], std::slice::from_ref(&step));
                assert!(holds, "{step} after {place}");
            }
        }
    }
}
