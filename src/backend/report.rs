//! What a sync tells: what failed, how long it took, how much the kernel was talked to.

use std::collections::BTreeMap;
use std::time::Duration;

/// What is known of the kernel after a failure, and what helps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aftermath {
    /// Nobody knows what the kernel did: it has to be read before anything else.
    Unknown,
    /// Nothing was done, so that what is believed of the kernel holds. Trying again may help.
    Refused,
    /// Nothing was done, and trying again without a change of wish or kernel can't help (somebody else's object is in the way).
    Lasting,
}

/// A step that the kernel did not take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{step}: {reason}")]
pub struct Failure {
    /// The step, as `plan` prints it.
    pub step: String,
    /// What the kernel, or the program that was run, said.
    pub reason: String,
    /// What it leaves behind.
    pub aftermath: Aftermath,
    /// It is about one Service: the others are served all the same.
    pub of_one: bool,
}

/// How much the kernel was talked to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Effort {
    /// Netlink messages sent.
    pub messages: u64,
    /// System calls that sent or received them.
    pub syscalls: u64,
    /// Runs of iptables-restore and its relatives.
    pub restores: u64,
    /// Runs of iptables-restore that the kernel refused.
    pub refused: u64,
}

/// Rules of ours in a table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RuleCount {
    /// How many there are.
    pub total: u64,
    /// How many were written lately.
    pub written: u64,
}

/// Rules of ours, by the table's name.
pub type RuleCounts = BTreeMap<&'static str, RuleCount>;

impl std::ops::AddAssign for Effort {
    fn add_assign(&mut self, other: Self) {
        self.messages += other.messages;
        self.syscalls += other.syscalls;
        self.restores += other.restores;
        self.refused += other.refused;
    }
}

/// Where the time of one sync went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Times {
    /// Reading the kernel, or bringing the belief up to date.
    pub observe: Duration,
    /// Comparing it with what is desired.
    pub plan: Duration,
    /// Carrying the steps out.
    pub apply: Duration,
}

/// What one sync did.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Steps that the kernel took.
    pub done: usize,
    /// Steps that it did not take: those that stand since earlier syncs first.
    pub failures: Vec<Failure>,
    /// How many stand since earlier syncs, and were not tried again by this one.
    pub standing: usize,
    /// Something failed that had not failed before.
    pub news: bool,
    /// Endpoints that still have connections of which the end is awaited.
    pub draining: usize,
    /// How many connections they have together.
    pub connections: u64,
    /// The kernel was read before planning.
    pub observed: bool,
    /// How long it took.
    pub duration: Duration,
    /// Where that time went; what is left was spent on remembering.
    pub times: Times,
    /// How much the kernel was talked to.
    pub effort: Effort,
    /// Rules of ours; nothing where they were not counted.
    pub rules: RuleCounts,
}

impl Report {
    /// Whether the kernel now is as desired, as far as trying again could help.
    pub fn is_clean(&self) -> bool {
        self.failures.is_empty()
    }

    /// Whether nobody knows what the kernel has now.
    pub fn wants_reading(&self) -> bool {
        self.failures.iter().any(|failure| failure.aftermath == Aftermath::Unknown)
    }

    /// Whether this sync itself failed at something.
    pub fn failed_anew(&self) -> bool {
        self.failures.len() > self.standing
    }

    /// Whether trying again may help.
    pub fn wants_retry(&self) -> bool {
        self.failures.iter().any(|failure| failure.aftermath != Aftermath::Lasting)
    }

    /// Whether nearly all of so many service ports are served, though single ones may not be.
    pub fn serves(&self, ports: usize) -> bool {
        // What was refused of one is told in several lines, of each of its endpoints too.
        const SHARE: usize = 10;
        let excused = |failure: &Failure| failure.of_one || failure.aftermath == Aftermath::Lasting;
        let of_single_ones = self.failures.iter().all(excused);
        of_single_ones && self.failures.len().saturating_mul(SHARE) <= ports
    }
}
