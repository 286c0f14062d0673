//! Changes without end at the API server, followed by the whole program: how long each took until the kernel had it, as the
//! program itself tells it (`kubeproxy_network_programming_duration_seconds`: from the time that the slice bears to the
//! kernel's word).

use super::server::Server;
use crate::commands::bench::program;
use anyhow::Context;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const METRIC: &str = "kubeproxy_network_programming_duration_seconds";

/// How much changes.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Load {
    /// For how long.
    pub seconds: u32,
    /// How many endpoints in a second.
    pub per_second: u32,
}

/// What came of it.
#[derive(Debug, Serialize)]
pub struct Churn {
    /// Slices that were changed.
    changes: u32,
    /// Of those, the ones that the kernel had in the end: the others were lost.
    arrived: u64,
    /// In parts of one, those that took a quarter of a second at most.
    within_250_ms: f64,
    /// The smallest of the metric's bounds within which 99 of 100 were, in seconds.
    p99_at_most_s: f64,
    /// All together through their number, in seconds.
    mean_s: f64,
}

/// Changes by how long they took, up to now.
#[derive(Debug, Default, PartialEq)]
struct Latencies {
    /// Upper bounds in seconds, and how many were below.
    buckets: Vec<(f64, f64)>,
    count: f64,
    seconds: f64,
}

impl Load {
    /// Replaces endpoints, each of another service as long as there are any, and waits until all are in the kernel.
    ///
    /// # Errors
    /// When the program does not tell its metrics.
    pub fn run(self, server: &Server, services: u32, metrics: SocketAddr, patience: Duration) -> anyhow::Result<Churn> {
        let before = Latencies::ask(metrics)?;
        let (changes, started) = (self.seconds * self.per_second, Instant::now());
        for number in 0..changes {
            let due = started + Duration::from_secs(1) * number / self.per_second.max(1);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            server.replace_endpoint(number % services, 2 * services + number);
        }
        let deadline = Instant::now() + patience;
        loop {
            std::thread::sleep(Duration::from_millis(500));
            let found = Latencies::ask(metrics)?.since(&before);
            if found.count >= f64::from(changes) || Instant::now() > deadline {
                return Ok(found.told(changes));
            }
        }
    }
}

impl Latencies {
    fn ask(address: SocketAddr) -> anyhow::Result<Self> {
        Ok(Self::read(&program::page(address, "/metrics").context("the program's metrics")?))
    }

    fn read(page: &str) -> Self {
        let mut all = Self::default();
        for line in page.lines().filter_map(|line| line.strip_prefix(METRIC)) {
            let Some((name, value)) = line.rsplit_once(' ') else { continue };
            let (Ok(value), true) = (value.trim().parse(), name.contains("ip_family=\"IPv4\"")) else { continue };
            let bound = name.split("le=\"").nth(1).and_then(|rest| rest.split('"').next());
            match bound {
                Some(bound) => all.buckets.push((bound.parse().unwrap_or(f64::INFINITY), value)),
                None if name.starts_with("_sum") => all.seconds = value,
                None if name.starts_with("_count") => all.count = value,
                None => {}
            }
        }
        all
    }

    fn since(self, before: &Self) -> Self {
        let earlier = |bound: f64| {
            let known = before.buckets.iter().find(|(known, _)| known.total_cmp(&bound).is_eq());
            known.map_or(0.0, |(_, count)| *count)
        };
        let buckets = self.buckets.into_iter().map(|(bound, count)| (bound, count - earlier(bound))).collect();
        Self { buckets, count: self.count - before.count, seconds: self.seconds - before.seconds }
    }

    fn told(self, changes: u32) -> Churn {
        let part = |count: f64| if self.count > 0.0 { count / self.count } else { 0.0 };
        let within =
            |bound: f64| self.buckets.iter().filter(|(at, _)| *at <= bound).map(|(_, count)| *count).next_back();
        let p99 = self.buckets.iter().find(|(_, count)| part(*count) >= 0.99).map_or(f64::INFINITY, |(at, _)| *at);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
        let arrived = self.count.max(0.0) as u64;
        Churn {
            changes,
            arrived,
            within_250_ms: part(within(0.25).unwrap_or(0.0)),
            p99_at_most_s: p99,
            mean_s: part(self.seconds),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_since_is_told() {
        let page = |quarter: u32, half: u32, all: u32, sum: f64| {
            let bucket =
                |bound: &str, count: u32| format!("{METRIC}_bucket{{ip_family=\"IPv4\",le=\"{bound}\"}} {count}\n");
            let other = format!("{METRIC}_count{{ip_family=\"IPv6\"}} 7\n");
            let sums =
                format!("{METRIC}_sum{{ip_family=\"IPv4\"}} {sum}\n{METRIC}_count{{ip_family=\"IPv4\"}} {all}\n");
            bucket("0.25", quarter) + &bucket("0.5", half) + &bucket("+Inf", all) + &other + &sums
        };
        let before = Latencies::read(&page(10, 10, 10, 1.0));
        let churn = Latencies::read(&page(108, 109, 110, 11.0)).since(&before).told(101);
        assert_eq!((churn.changes, churn.arrived), (101, 100));
        assert!((churn.within_250_ms - 0.98).abs() < 1e-9, "{churn:?}");
        assert!((churn.p99_at_most_s - 0.5).abs() < 1e-9, "{churn:?}");
        assert!((churn.mean_s - 0.1).abs() < 1e-9, "{churn:?}");
    }
}
