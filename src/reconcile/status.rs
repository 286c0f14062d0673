//! What the reconciler tells others of itself.

use crate::model::PerFamily;
use std::time::{Duration, Instant};

/// The state of one family.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FamilyStatus {
    /// The kernel is as desired.
    pub in_sync: bool,
    /// Trying again would change nothing: in sync, or what is left lies with somebody else.
    pub settled: bool,
    /// When the last sync that left nothing undone ended.
    pub last_success: Option<Instant>,
    /// How long the last sync took.
    pub last_duration: Duration,
    /// What the last sync could not do.
    pub failures: Vec<String>,
    /// Service ports that are programmed.
    pub ports: usize,
    /// Service ports of which something drains.
    pub draining: usize,
}

/// The state of the reconciler.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// The active mode.
    pub mode: &'static str,
    /// The families that are programmed.
    pub programmed: Vec<crate::model::IpFamily>,
    /// Rounds so far.
    pub rounds: u64,
    /// Per family.
    pub families: PerFamily<FamilyStatus>,
}

impl Status {
    /// Whether every family that is programmed is as desired.
    pub fn families_in_sync(&self) -> bool {
        self.programmed.iter().all(|family| self.families.get(*family).in_sync)
    }

    /// Whether trying again would change nothing in any family.
    pub fn families_settled(&self) -> bool {
        self.programmed.iter().all(|family| self.families.get(*family).settled)
    }
}
