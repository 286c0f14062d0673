//! The figures that count, one each, at the top of the JSON: those of the last size that was measured.

use super::super::measure::spread;
use super::super::program::Outcome;
use super::audit::Audited;
use super::churn::{Churn, percentile};
use super::kube_proxy::{Comparison, Figures};
use super::report::{Report, Size};
use super::trial::Step;
use serde::Serialize;

/// Figures of one size, then everything that was measured. Medians of the runs.
#[derive(Debug, Serialize)]
pub struct Headline<'a> {
    services: u32,
    endpoints: u32,
    mode: &'a str,
    /// From nothing to the kernel's last word, building what is desired included.
    cold_start_s: f64,
    /// The same messages by a bare loop.
    floor_s: Option<f64>,
    /// Other programs for the same table, together; or, if one was given, kube-proxy from its start to its first sync.
    peer_s: Option<f64>,
    /// Why there is no such figure, or kube-proxy's changes are missing.
    peer_missing: Option<String>,
    /// The kube-proxy that was given, and our whole program beside it.
    #[serde(flatten)]
    kube_proxy: Option<Figures<'a>>,
    /// One endpoint replaced, from the snapshot to the kernel's word.
    change_ms: f64,
    change_p99_ms: f64,
    /// The same messages by a bare loop.
    change_floor_ms: Option<f64>,
    /// Netlink messages of a change; in iptables mode runs of iptables-restore.
    messages_per_change: u64,
    /// Of the process of a run.
    peak_rss_mb: f64,
    kernel: &'a str,
    /// The audit that would have delayed a change the most.
    audit: Option<Audited>,
    churn: Option<Churn>,
    #[serde(flatten)]
    report: &'a Report,
}

impl<'a> Headline<'a> {
    /// The figures of the last size of a report.
    pub fn of(report: &'a Report) -> Option<Self> {
        let size = report.sizes.last()?;
        let median = |of: &[f64]| spread(of, |value| *value).map(|spread| spread.median);
        let cold: Vec<f64> = size.trials.iter().map(|found| found.cold.cost.wall).collect();
        let steps: Vec<&Step> = size.trials.iter().flat_map(|found| &found.endpoint_changed).collect();
        let mut changes: Vec<f64> = steps.iter().map(|step| step.cost.wall * 1000.0).collect();
        changes.sort_by(f64::total_cmp);
        let floors: Vec<f64> = size.floors.iter().map(|floor| floor.cold.wall).collect();
        let single = size.floors.iter().flat_map(|floor| &floor.changes);
        let change_floors: Vec<f64> = single.map(|cost| cost.wall * 1000.0).collect();
        let memory: Vec<f64> = size.trials.iter().map(|found| super::mebibytes(found.memory.end)).collect();
        let talk = steps.iter().map(|step| step.talk.messages + step.talk.restores).max().unwrap_or(0);
        let kube_proxy = size.kube_proxy.as_ref();
        let (peer_s, peer_missing) = match (kube_proxy, peers(size)) {
            (Some(kube_proxy), _) => kube_proxy.first_sync_s(),
            (None, Ok(seconds)) => (Some(seconds), None),
            (None, Err(reason)) => (None, Some(reason)),
        };
        Some(Self {
            services: size.services,
            endpoints: size.endpoints,
            mode: &size.mode,
            cold_start_s: median(&cold)?,
            floor_s: median(&floors),
            peer_s,
            peer_missing,
            kube_proxy: kube_proxy.map(Comparison::figures),
            change_ms: percentile(&changes, 0.5),
            change_p99_ms: percentile(&changes, 0.99),
            change_floor_ms: median(&change_floors),
            messages_per_change: talk,
            peak_rss_mb: median(&memory)?,
            kernel: &report.machine.kernel,
            audit: size.audited(),
            churn: size.churn(),
            report,
        })
    }
}

/// What the other programs took together.
fn peers(size: &Size) -> Result<f64, String> {
    if size.peers.is_empty() {
        return Err("not asked for".to_owned());
    }
    let mut sum = 0.0;
    for peer in &size.peers {
        let done = |outcome: &Outcome| if let Outcome::Done { cost, .. } = outcome { Some(cost.wall) } else { None };
        let seconds: Vec<f64> = peer.outcomes.iter().filter_map(done).collect();
        let failed = peer.outcomes.iter().find(|outcome| done(outcome).is_none());
        match (failed, spread(&seconds, |value| *value)) {
            (None, Some(spread)) => sum += spread.median,
            (failed, _) => {
                let why = failed.map_or_else(String::new, super::report::in_short);
                return Err(format!("{}: {why}", peer.name));
            }
        }
    }
    Ok(sum)
}
