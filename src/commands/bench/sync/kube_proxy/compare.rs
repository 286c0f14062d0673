//! All runs of a kube-proxy, beside runs of our whole program with an API server of the same kind: the figures that count,
//! and lines for the table.

use super::process::version;
use super::{Found, Measured, Run};
use crate::commands::bench::child::{self, Task};
use crate::commands::bench::measure::spread;
use crate::commands::bench::sync::report::{figure, mebibytes, times};
use crate::commands::bench::{self, daemon};
use serde::{Deserialize, Serialize};

/// Seconds after which our own program has failed.
const PATIENCE: u32 = 600;

/// Both.
#[derive(Debug, Serialize)]
pub struct Comparison {
    /// What the kube-proxy calls itself, and its mode.
    pub name: String,
    /// Its runs; none is made after one that failed.
    pub runs: Vec<Measured>,
    /// Why there are not as many as were asked for, or why one has no changes.
    pub missing: Option<String>,
    /// Runs of our whole program.
    pub ours: Vec<Ours>,
}

/// What counts of a run of `bench daemon`.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Ours {
    cold_start_s: f64,
    cold_processor_s: f64,
    change_ms: f64,
    cold_rss_mb: f64,
    peak_rss_mb: f64,
}

/// The figures that count, one each: medians of the runs.
#[derive(Debug, Serialize)]
pub struct Figures<'a> {
    /// Who the peer is.
    peer: &'a str,
    /// The sync itself, by kube-proxy's own clock, which stops a little after the moment that counts for `peer_s`.
    peer_sync_s: Option<f64>,
    /// Processor seconds until the end of the first sync.
    peer_processor_s: Option<f64>,
    /// One endpoint replaced: from the API server to the end of the sync.
    peer_change_ms: Option<f64>,
    /// The sync itself.
    peer_change_sync_ms: Option<f64>,
    /// `VmHWM` at the end.
    peer_peak_rss_mb: Option<f64>,
    /// The same of our whole program: from the start of its process,
    daemon_cold_start_s: Option<f64>,
    /// processor seconds until then,
    daemon_processor_s: Option<f64>,
    /// from the API server,
    daemon_change_ms: Option<f64>,
    /// at the end.
    daemon_peak_rss_mb: Option<f64>,
}

/// Measures both, in turns.
///
/// # Errors
/// When ours failed. What the kube-proxy fails at is part of the result.
pub fn measure(run: &Run, mode: bench::Mode, runs: u32) -> anyhow::Result<Comparison> {
    let (name, mut missing) = match version(&run.program) {
        Ok(name) => (name, None),
        Err(error) => ("kube-proxy".to_owned(), Some(format!("{error:#}"))),
    };
    let name = format!("{name}, {} mode", run.mode.name());
    let mut comparison = Comparison { name, runs: Vec::new(), missing: None, ours: Vec::new() };
    let at = format!("bench: {} × {}", run.services, run.endpoints);
    for number in 1..=runs {
        if missing.is_none() {
            match child::run(&Task::SyncKubeProxy(run.clone()))? {
                Found::Done(measured) => {
                    eprintln!("{at}, {}, run {number}: {} s", comparison.name, figure(measured.first_sync_s));
                    missing.clone_from(&measured.stopped);
                    comparison.runs.push(measured);
                }
                Found::Failed { reason } => missing = Some(reason),
            }
            if let Some(reason) = &missing {
                eprintln!("{at}, {}, run {number}: {reason}", comparison.name);
            }
        }
        let daemon = daemon::Run {
            services: run.services,
            endpoints: run.endpoints,
            mode,
            changes: run.changes,
            patience: PATIENCE,
            churn: None,
            rest: 0,
        };
        let ours: Ours = child::run(&Task::Daemon(daemon))?;
        eprintln!("{at}, our whole program, run {number}: {} s", figure(ours.cold_start_s));
        comparison.ours.push(ours);
    }
    comparison.missing = missing;
    Ok(comparison)
}

impl Comparison {
    /// From its start to the end of the first sync; and why that or the changes are missing.
    pub fn first_sync_s(&self) -> (Option<f64>, Option<String>) {
        let missing = self.missing.as_ref().map(|reason| format!("{}: {reason}", self.name));
        (median(self.runs.iter().map(|run| run.first_sync_s)), missing)
    }

    /// The figures that count.
    pub fn figures(&self) -> Figures<'_> {
        let peer = |of: fn(&Measured) -> f64| median(self.runs.iter().map(of));
        let ours = |of: fn(&Ours) -> f64| median(self.ours.iter().map(of));
        let changes = || self.runs.iter().flat_map(|run| &run.changes);
        Figures {
            peer: &self.name,
            peer_sync_s: peer(|run| run.first_sync_own_s),
            peer_processor_s: peer(|run| run.processor_s),
            peer_change_ms: median(changes().map(|change| change.total_ms)),
            peer_change_sync_ms: median(changes().map(|change| change.sync_ms)),
            peer_peak_rss_mb: peer(|run| mebibytes(run.peak_rss)),
            daemon_cold_start_s: ours(|run| run.cold_start_s),
            daemon_processor_s: ours(|run| run.cold_processor_s),
            daemon_change_ms: ours(|run| run.change_ms),
            daemon_peak_rss_mb: ours(|run| run.peak_rss_mb),
        }
    }

    /// What the lines mean.
    pub fn explained(&self) -> String {
        format!(
            "{}: from the start of its process beside an API server of the same services to the end of its first sync, by\n\
             its metrics, and with every Service in the kernel; a change from the API server to the end of its sync. Our whole\n\
             program: the same by its log, beside an API server of the same kind\n",
            self.name
        )
    }

    /// For people.
    pub fn lines(&self) -> String {
        let (figures, (first, _)) = (self.figures(), self.first_sync_s());
        let mut parts = figures.peer(first);
        parts.extend(self.missing.as_deref().map(|reason| reason.trim_end().to_owned()));
        format!("beside it {}: {}\n{}", self.name, parts.join("; "), figures.ours(first).unwrap_or_default())
    }
}

impl Figures<'_> {
    /// What there is of the kube-proxy.
    fn peer(&self, first: Option<f64>) -> Vec<String> {
        let mut parts = Vec::new();
        if let (Some(first), Some(sync), Some(processor)) = (first, self.peer_sync_s, self.peer_processor_s) {
            let (first, sync, processor) = (figure(first), figure(sync), figure(processor));
            parts.push(format!("{first} s from its start (the sync alone {sync} s)"));
            parts.push(format!("{processor} s of processor time"));
        }
        if let (Some(total), Some(sync)) = (self.peer_change_ms, self.peer_change_sync_ms) {
            let (total, sync) = (figure(total / 1000.0), figure(sync / 1000.0));
            parts.push(format!("one endpoint replaced {total} s (the sync alone {sync} s)"));
        }
        parts.extend(self.peer_peak_rss_mb.map(|memory| format!("peak memory {memory:.1} MiB")));
        parts
    }

    /// Our whole program, and its part of what the kube-proxy takes.
    fn ours(&self, first: Option<f64>) -> Option<String> {
        let part = |ours: f64, peer: Option<f64>| {
            peer.map(|peer| format!(" ({} of that)", times(ours / peer))).unwrap_or_default()
        };
        let (cold, processor) = (self.daemon_cold_start_s?, self.daemon_processor_s?);
        let (change, memory) = (self.daemon_change_ms?, self.daemon_peak_rss_mb?);
        Some(format!(
            "our whole program likewise: {} s from its start{}; {} s of processor time{}; one endpoint replaced {} s{}; \
             peak memory {memory:.1} MiB{}\n",
            figure(cold),
            part(cold, first),
            figure(processor),
            part(processor, self.peer_processor_s),
            figure(change / 1000.0),
            part(change, self.peer_change_ms),
            part(memory, self.peer_peak_rss_mb)
        ))
    }
}

fn median(of: impl Iterator<Item = f64>) -> Option<f64> {
    let all: Vec<f64> = of.collect();
    spread(&all, |value| *value).map(|spread| spread.median)
}

#[cfg(test)]
mod tests {
    use super::super::Change;
    use super::*;

    fn comparison(runs: Vec<Measured>, missing: Option<&str>) -> Comparison {
        let ours =
            Ours { cold_start_s: 0.5, cold_processor_s: 0.25, change_ms: 20.0, cold_rss_mb: 20.0, peak_rss_mb: 24.0 };
        let missing = missing.map(str::to_owned);
        Comparison { name: "kube-proxy 1.36.2, iptables mode".into(), runs, missing, ours: vec![ours] }
    }

    fn measured(first_sync_s: f64, changes: &[f64]) -> Measured {
        Measured {
            first_sync_s,
            first_sync_own_s: first_sync_s - 0.5,
            processor_s: 1.0,
            cold_rss: 60 << 20,
            peak_rss: 80 << 20,
            changes: changes.iter().map(|ms| Change { total_ms: *ms, sync_ms: ms / 2.0 }).collect(),
            stopped: None,
        }
    }

    #[test]
    fn medians_stand_beside_ours() {
        let both = comparison(vec![measured(3.0, &[80.0, 60.0]), measured(2.0, &[100.0]), measured(9.0, &[])], None);
        assert_eq!(both.first_sync_s(), (Some(3.0), None));
        assert_eq!(
            both.lines(),
            "beside it kube-proxy 1.36.2, iptables mode: 3.000 s from its start (the sync alone 2.500 s); 1.000 s of \
             processor time; one endpoint replaced 0.0800 s (the sync alone 0.0400 s); peak memory 80.0 MiB\n\
             our whole program likewise: 0.500 s from its start (0.17× of that); 0.250 s of processor time (0.25× of that); \
             one endpoint replaced 0.0200 s (0.25× of that); peak memory 24.0 MiB (0.30× of that)\n"
        );
        let json = serde_json::to_value(both.figures()).unwrap();
        assert_eq!(
            (&json["peer"], &json["peer_change_ms"]),
            (&"kube-proxy 1.36.2, iptables mode".into(), &80.0.into())
        );
    }

    #[test]
    fn what_is_missing_is_said() {
        let nothing = comparison(Vec::new(), Some("it ended: exit status: 1; the last it said:\nwhy\n"));
        let (first, missing) = nothing.first_sync_s();
        assert_eq!(first, None);
        assert!(missing.unwrap().starts_with("kube-proxy 1.36.2, iptables mode: it ended"));
        let lines = nothing.lines();
        let (peer, ours) = lines.split_once("\nwhy\n").unwrap();
        assert!(peer.ends_with("mode: it ended: exit status: 1; the last it said:"), "{lines}");
        assert!(ours.starts_with("our whole program likewise: 0.500 s from its start; 0.250 s"), "{lines}");
        let no_changes = comparison(vec![measured(2.0, &[])], Some("change 1: not done after 2 s, stopped"));
        assert!(no_changes.lines().contains("peak memory 80.0 MiB; change 1: not done"), "{}", no_changes.lines());
    }
}
