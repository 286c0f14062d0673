//! What was found out about a packet.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use super::Packet;
use crate::{ChainName, Rule, Table};

/// All that can happen to a packet.
#[derive(Debug, Clone, PartialEq)]
pub struct Trace {
    /// The packet as it was given.
    pub packet: Packet,
    /// The branches; their probabilities add up to 1.
    pub outcomes: Vec<Outcome>,
}

/// One way that a packet can go.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// How often, from 0 to 1.
    pub probability: f64,
    /// Passed or not.
    pub verdict: Verdict,
    /// Where it goes in the end.
    pub destination: SocketAddr,
    /// Whether a DNAT made that its destination.
    pub translated: bool,
    /// Whether IPVS made that its destination.
    pub balanced: bool,
    /// Whether the source becomes the node's (MASQUERADE or SNAT).
    pub masqueraded: bool,
    /// Whether it ends on the node itself.
    pub delivered_locally: bool,
    /// The mark at the end.
    pub mark: u32,
    /// Lists of `-m recent` into which an address was put.
    pub remembered: Vec<Arc<str>>,
    /// The rules that matched, in order.
    pub steps: Vec<Step>,
    /// What else was decided on the way, and after how many of the steps.
    pub remarks: Vec<Remark>,
    /// Tests and targets that the tracer cannot follow; a rule with such a test was taken not to match.
    pub unknown: Vec<String>,
}

/// A rule that matched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Table.
    pub table: Table,
    /// Chain.
    pub chain: ChainName,
    /// Place in the chain, from 1.
    pub number: usize,
    /// The rule.
    pub rule: Rule,
}

/// Something that no rule decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remark {
    /// After so many rules that matched.
    pub after: usize,
    /// What happened.
    pub what: String,
}

/// What became of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It passed.
    Accept,
    /// It vanished.
    Drop,
    /// It was answered with an error; `None` is port-unreachable.
    Reject(Option<Arc<str>>),
    /// Routing had nowhere to send it, for this reason.
    Unroutable(Arc<str>),
}

impl Trace {
    /// Where packets that pass after a DNAT or through IPVS go, and how often.
    #[must_use]
    pub fn destinations(&self) -> BTreeMap<SocketAddr, f64> {
        let mut destinations = BTreeMap::new();
        let moved = |outcome: &&Outcome| outcome.translated || outcome.balanced;
        for outcome in self.outcomes.iter().filter(|outcome| outcome.verdict == Verdict::Accept).filter(moved) {
            *destinations.entry(outcome.destination).or_insert(0.0) += outcome.probability;
        }
        destinations
    }

    /// The verdict, where all branches have the same.
    #[must_use]
    pub fn verdict(&self) -> Option<&Verdict> {
        self.agreed(|outcome| &outcome.verdict)
    }

    /// Whether the source is translated, where all branches agree.
    #[must_use]
    pub fn masqueraded(&self) -> Option<bool> {
        self.agreed(|outcome| &outcome.masqueraded).copied()
    }

    /// Whether a chain was gone through in any branch.
    #[must_use]
    pub fn visits(&self, chain: ChainName) -> bool {
        let entered = |step: &Step| {
            step.chain == chain || step.rule.target.as_ref().and_then(crate::Target::chain) == Some(chain)
        };
        self.outcomes.iter().any(|outcome| outcome.steps.iter().any(entered))
    }

    fn agreed<T: PartialEq>(&self, of: impl Fn(&Outcome) -> &T) -> Option<&T> {
        let (first, rest) = self.outcomes.split_first()?;
        rest.iter().all(|outcome| of(outcome) == of(first)).then(|| of(first))
    }
}

impl Outcome {
    /// Rules and remarks in the order in which they came, in words.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        let at = |after: usize| self.remarks.iter().filter(move |remark| remark.after == after).map(|r| r.what.clone());
        let steps = self.steps.iter().enumerate();
        at(0).chain(steps.flat_map(move |(index, step)| std::iter::once(step.to_string()).chain(at(index + 1))))
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} #{}: {}", self.table, self.chain, self.number, self.rule)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accept => f.write_str("accept"),
            Self::Drop => f.write_str("drop"),
            Self::Reject(None) => f.write_str("reject"),
            Self::Reject(Some(with)) => write!(f, "reject with {with}"),
            Self::Unroutable(reason) => write!(f, "unroutable: {reason}"),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1}% {} {}", self.probability * 100.0, self.verdict, self.destination)?;
        for (flag, word) in [
            (self.translated, "translated"),
            (self.balanced, "balanced"),
            (self.masqueraded, "masqueraded"),
            (self.delivered_locally, "delivered to the node"),
        ] {
            if flag {
                write!(f, ", {word}")?;
            }
        }
        if self.mark != 0 {
            write!(f, ", mark 0x{:x}", self.mark)?;
        }
        for line in self.lines() {
            write!(f, "\n    {line}")?;
        }
        for unknown in &self.unknown {
            write!(f, "\n    not followed: {unknown}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.packet)?;
        for outcome in &self.outcomes {
            write!(f, "\n  {outcome}")?;
        }
        Ok(())
    }
}
