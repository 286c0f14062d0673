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
    /// Since when something is wanted that the kernel has not taken, although trying again may help.
    pub behind_since: Option<Instant>,
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
    /// How often the kernel is compared with what is wanted although nothing changed.
    pub sync_period: Duration,
    /// Rounds so far.
    pub rounds: u64,
    /// Since when a round is under way; `None` between two rounds.
    pub busy_since: Option<Instant>,
    /// Per family.
    pub families: PerFamily<FamilyStatus>,
}

impl Status {
    /// Whether every family that is programmed is as desired.
    pub fn families_in_sync(&self) -> bool {
        self.programmed.iter().all(|family| self.families.get(*family).in_sync)
    }

    /// Whether nothing that is wanted has been waiting for the kernel for longer than `patience`. Upstream:
    /// `ProxyHealthServer.IsHealthy`.
    pub fn keeps_up(&self, now: Instant, patience: Duration) -> bool {
        let behind = self.programmed.iter().filter_map(|family| self.families.get(*family).behind_since);
        behind.chain(self.busy_since).all(|since| now.saturating_duration_since(since) < patience)
    }

    /// Whether trying again would change nothing in any family.
    pub fn families_settled(&self) -> bool {
        self.programmed.iter().all(|family| self.families.get(*family).settled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::IpFamily;

    #[test]
    fn it_keeps_up_until_patience_ends() {
        let (start, patience) = (Instant::now(), Duration::from_secs(60));
        let mut status = Status { programmed: vec![IpFamily::V4], ..Status::default() };
        let late = start + patience;
        assert!(status.keeps_up(late, patience), "nothing waits");
        status.busy_since = Some(start);
        assert!(status.keeps_up(start + Duration::from_secs(59), patience));
        assert!(!status.keeps_up(late, patience), "a round hangs");
        status.busy_since = None;
        status.families.v6.behind_since = Some(start);
        assert!(status.keeps_up(late, patience), "a family that is not programmed");
        status.families.v4.behind_since = Some(start);
        assert!(!status.keeps_up(late, patience), "syncs fail");
    }
}
