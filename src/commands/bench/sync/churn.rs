//! Changes that never end: so many endpoints replaced in a second, all over the table, each as a new snapshot. As in `run`
//! the newest snapshot is taken after every sync, so that what came meanwhile goes together with the next one.

use super::super::synthetic::Synthetic;
use super::trial::Proxy;
use crate::model::Snapshot;
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// How much changes.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Load {
    /// For how long.
    pub seconds: u32,
    /// How many endpoints in a second.
    pub per_second: u32,
}

/// What came of it.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Churn {
    /// Endpoints that changed.
    pub changes: u32,
    /// Syncs that brought them to the kernel.
    pub syncs: u32,
    /// From the change to the kernel's word, in milliseconds: of half of the changes at most this,
    pub p50_ms: f64,
    /// of 99 in 100 at most this,
    pub p99_ms: f64,
    /// of all at most this.
    pub max_ms: f64,
    /// The most changes that waited at once.
    pub longest_queue: u32,
    /// Steps that were left to do when everything was read back afterwards: changes that were lost.
    pub lost: usize,
}

impl Churn {
    /// The worst of several runs: what lost most, then what took longest.
    pub fn worst(runs: impl Iterator<Item = Self>) -> Option<Self> {
        runs.max_by(|one, other| one.lost.cmp(&other.lost).then(one.p99_ms.total_cmp(&other.p99_ms)))
    }
}

impl Load {
    /// Changes endpoints, and follows.
    ///
    /// # Errors
    /// When a sync failed.
    pub fn run(self, cluster: Synthetic, snapshot: &mut Snapshot, proxy: &mut Proxy<'_>) -> anyhow::Result<Churn> {
        let all = self.seconds * self.per_second;
        let started = Instant::now();
        let due = |number: u32| started + Duration::from_secs(1) * number / self.per_second;
        let mut latencies = Vec::new();
        let (mut next, mut syncs, mut longest_queue) = (0, 0, 0);
        let mut drained = started;
        while next < all {
            std::thread::sleep(due(next).saturating_duration_since(Instant::now()));
            let (first, now) = (next, Instant::now());
            while next < all && due(next) <= now {
                // A step that has no divisor in common with most sizes.
                let service = (u64::from(next) * 7919 % u64::from(cluster.services)).try_into().unwrap_or(0);
                cluster.replace_with(snapshot, service, cluster.services + next);
                next += 1;
            }
            proxy.follow(snapshot)?;
            if drained.elapsed() >= Duration::from_secs(1) {
                proxy.drain()?;
                drained = Instant::now();
            }
            let ended = Instant::now();
            latencies.extend((first..next).map(|number| ended.duration_since(due(number)).as_secs_f64() * 1000.0));
            syncs += 1;
            longest_queue = longest_queue.max(next - first);
        }
        // What the last changes left to drain is no change that was lost.
        proxy.drain()?;
        latencies.sort_by(f64::total_cmp);
        let at = |share: f64| percentile(&latencies, share);
        Ok(Churn {
            changes: all,
            syncs,
            p50_ms: at(0.5),
            p99_ms: at(0.99),
            max_ms: at(1.0),
            longest_queue,
            lost: proxy.left_to_do()?,
        })
    }
}

/// The value below which this share of sorted values lies.
pub fn percentile(sorted: &[f64], share: f64) -> f64 {
    let mut below = sorted.iter().enumerate().skip_while(|(index, _)| {
        let count = f64::from(u32::try_from(index + 1).unwrap_or(u32::MAX));
        count < share * f64::from(u32::try_from(sorted.len()).unwrap_or(u32::MAX))
    });
    below.next().or(sorted.iter().enumerate().next_back()).map_or(0.0, |(_, value)| *value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_seen() {
        let values: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!([0.5, 0.99, 1.0].map(|share| percentile(&values, share)), [100.0, 198.0, 200.0]);
        assert_eq!(percentile(&[7.0], 0.99), 7.0);
        assert_eq!(percentile(&[], 0.99), 0.0);
    }
}
