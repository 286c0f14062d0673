//! Counting answers, and judging them.

use std::collections::{BTreeMap, BTreeSet};

use crate::lab::{Outcome, Protocol};

use super::manifests::Change;
use super::services::{Frontend, Target};

/// How far an endpoint's share may be from equal, as a part of the equal share.
const TOLERANCE: f64 = 0.2;

/// Failures that are described; the others are only counted.
const DESCRIBED: usize = 5;

/// Requests from one client to one address of one target.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Group {
    /// Index of the target.
    pub(super) target: usize,
    /// The address asked.
    pub(super) frontend: Frontend,
    /// Name of the host that asked.
    pub(super) client: &'static str,
}

/// What came of the requests of one group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Row {
    /// Requests answered, by name of the endpoint.
    pub(super) answered: BTreeMap<String, u32>,
    /// Requests not answered, or answered by someone who is no endpoint of the service.
    pub(super) failed: u32,
}

impl Row {
    /// All requests.
    pub(super) fn requests(&self) -> u32 {
        self.answered.values().sum::<u32>() + self.failed
    }

    fn add(&mut self, other: &Self) {
        self.failed += other.failed;
        for (name, count) in &other.answered {
            *self.answered.entry(name.clone()).or_default() += count;
        }
    }
}

/// All requests of one round over all targets.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    rows: BTreeMap<Group, Row>,
    failures: Vec<String>,
}

impl Ledger {
    /// Enters one result; says whether an endpoint of the target answered.
    pub(super) fn record(&mut self, group: &Group, target: &Target, outcome: &Outcome) -> bool {
        let row = self.rows.entry(group.clone()).or_default();
        let endpoint = match outcome {
            Outcome::Answered(answer) => target.endpoints.get(&answer.local).filter(|name| **name == answer.name),
            _ => None,
        };
        if let Some(name) = endpoint {
            *row.answered.entry(name.clone()).or_default() += 1;
            return true;
        }
        row.failed += 1;
        if self.failures.len() < DESCRIBED {
            let (address, protocol) = (group.frontend.address, target.protocol);
            self.failures.push(format!("{} to {address}/{protocol} of {}: {outcome}", group.client, target.name));
        }
        false
    }

    /// Adds everything of another round.
    pub(super) fn absorb(&mut self, other: Self) {
        for (group, row) in other.rows {
            self.rows.entry(group).or_default().add(&row);
        }
        let room = DESCRIBED.saturating_sub(self.failures.len());
        self.failures.extend(other.failures.into_iter().take(room));
    }

    /// The groups of target number `target`.
    pub(super) fn rows_of(&self, target: usize) -> impl Iterator<Item = (&Group, &Row)> {
        self.rows.iter().filter(move |(group, _)| group.target == target)
    }

    /// The groups that `keep` wants, as one.
    pub(super) fn sum(&self, keep: impl Fn(&Group) -> bool) -> Row {
        let mut sum = Row::default();
        self.rows.iter().filter(|(group, _)| keep(group)).for_each(|(_, row)| sum.add(row));
        sum
    }
}

/// The judgement over the whole demo.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    /// TCP requests made.
    pub(super) tcp: u32,
    /// UDP requests made.
    pub(super) udp: u32,
    /// SCTP requests made.
    pub(super) sctp: u32,
    /// Requests that failed.
    pub(super) failed: u32,
    /// Whether there was anything whose affinity could be judged, and likewise for a change.
    pub(super) judged_affinity: bool,
    /// Whether a change was made.
    pub(super) judged_change: bool,
    uneven: Vec<String>,
    unfaithful: Vec<String>,
    stale: Vec<String>,
    other: Vec<String>,
}

impl Verdict {
    /// Whether all was as it should be.
    pub(super) fn is_good(&self) -> bool {
        self.failed == 0 && self.complaints().next().is_none()
    }

    /// Everything that was wrong, in words.
    pub(super) fn complaints(&self) -> impl Iterator<Item = &String> {
        [&self.other, &self.uneven, &self.unfaithful, &self.stale].into_iter().flatten()
    }

    /// Whether endpoints got equal shares.
    pub(super) fn is_even(&self) -> bool {
        self.uneven.is_empty()
    }

    /// Whether clients stayed with their endpoints.
    pub(super) fn is_faithful(&self) -> bool {
        self.unfaithful.is_empty()
    }

    /// Whether traffic followed the change.
    pub(super) fn followed(&self) -> bool {
        self.stale.is_empty()
    }

    /// Something else is wrong.
    pub(super) fn complain(&mut self, complaint: String) {
        self.other.push(complaint);
    }

    /// Counts requests; every failure counts against the proxy.
    pub(super) fn count(&mut self, targets: &[Target], ledger: &Ledger) {
        for (number, target) in targets.iter().enumerate() {
            let sum = ledger.sum(|group| group.target == number);
            *match target.protocol {
                Protocol::Tcp => &mut self.tcp,
                Protocol::Udp => &mut self.udp,
                Protocol::Sctp => &mut self.sctp,
            } += sum.requests();
            self.failed += sum.failed;
        }
        let room = DESCRIBED.saturating_sub(self.other.len());
        self.other.extend(ledger.failures.iter().take(room).cloned());
    }

    /// Judges affinity where it is asked for.
    pub(super) fn judge_affinity(&mut self, targets: &[Target], ledger: &Ledger) {
        for (number, target) in targets.iter().enumerate().filter(|(_, target)| target.sticky) {
            for (group, row) in ledger.rows_of(number) {
                self.judged_affinity = true;
                if row.answered.len() > 1 {
                    let address = group.frontend.address;
                    let several = format!("{} to {address}: answered by {:?}", group.client, row.answered);
                    self.unfaithful.push(format!("affinity of {} not kept: {several}", target.name));
                }
            }
        }
    }

    /// Judges how requests without affinity were spread. Each endpoint's equal share is counted per family, since
    /// the families may have different endpoints.
    pub(super) fn judge_spread(&mut self, targets: &[Target], ledger: &Ledger) {
        for (number, target) in targets.iter().enumerate().filter(|(_, target)| !target.sticky) {
            let mut equal: BTreeMap<&str, f64> = BTreeMap::new();
            for (group, row) in ledger.rows_of(number) {
                let names = target.endpoint_names(group.frontend.address);
                let answered = row.requests() - row.failed;
                for name in &names {
                    *equal.entry(name).or_default() += f64::from(answered) / count_as_f64(names.len());
                }
            }
            let sum = ledger.sum(|group| group.target == number);
            for (name, equal) in equal {
                let got = f64::from(sum.answered.get(name).copied().unwrap_or_default());
                if (got - equal).abs() > TOLERANCE * equal {
                    self.uneven
                        .push(format!("{}: {name} answered {got} requests, {equal:.0} would be equal", target.name));
                }
            }
        }
    }

    /// Judges the round after `change`: nothing goes to the old endpoint, and who had another one keeps it.
    pub(super) fn judge_change(&mut self, targets: &[Target], before: &Ledger, after: &Ledger, change: &Change) {
        self.judged_change = true;
        for (number, target) in targets.iter().enumerate() {
            let sum = after.sum(|group| group.target == number);
            let arrived = |name: &String| sum.answered.contains_key(name);
            if arrived(&change.old) {
                self.stale.push(format!("{}: {} still answers", target.name, change.old));
            }
            if !target.sticky && !arrived(&change.new) {
                self.stale.push(format!("{}: {} does not answer", target.name, change.new));
            }
            for (group, row) in after.rows_of(number).filter(|_| target.sticky) {
                let old: BTreeSet<_> =
                    before.rows.get(group).map(|row| row.answered.keys().collect()).unwrap_or_default();
                if !old.contains(&change.old) && !row.answered.keys().all(|name| old.contains(name)) {
                    let address = group.frontend.address;
                    let moved =
                        format!("{} to {address} moved from {old:?} to {:?}", group.client, row.answered.keys());
                    self.unfaithful.push(format!("affinity of {} not kept over the change: {moved}", target.name));
                }
            }
        }
    }

    /// The change did not arrive in time.
    pub(super) fn complain_about_change(&mut self, complaint: String) {
        self.judged_change = true;
        self.stale.push(complaint);
    }
}

fn count_as_f64(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::INFINITY, f64::from)
}

#[cfg(test)]
#[path = "tally_tests.rs"]
mod tests;
