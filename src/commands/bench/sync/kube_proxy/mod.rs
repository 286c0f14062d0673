//! One run of a kube-proxy, in a namespace like ours and beside an API server that has the same cluster: from the start of
//! its process to the end of its first sync, single changes, memory. What it fails at is a result as well.
//!
//! | file | what |
//! |---|---|
//! | `config.rs` | what it is started with |
//! | `metrics.rs` | what it says of its syncs |
//! | `kernel.rs` | whether everything is in the kernel |
//! | `process.rs` | its process and its log |
//! | `compare.rs` | all runs, beside those of our whole program |

mod compare;
mod config;
mod kernel;
mod metrics;
mod process;

pub use compare::{Comparison, Figures, measure};

use crate::commands::bench::daemon::server::Server;
use crate::commands::bench::in_namespace;
use crate::commands::bench::program::Usage;
use crate::commands::bench::synthetic::Synthetic;
use crate::lab::NetNs;
use anyhow::Context;
use clap::ValueEnum;
use metrics::Syncs;
use process::Process;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Its mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// iptables.
    Iptables,
    /// IPVS.
    Ipvs,
    /// nftables.
    Nftables,
}

impl Mode {
    /// As its configuration has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Iptables => "iptables",
            Self::Ipvs => "ipvs",
            Self::Nftables => "nftables",
        }
    }
}

/// What to do in a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Run {
    /// Its file.
    pub program: PathBuf,
    /// Its mode.
    pub mode: Mode,
    /// How many services.
    pub services: u32,
    /// How many endpoints each.
    pub endpoints: u32,
    /// How many endpoints are replaced.
    pub changes: u32,
    /// Seconds after which it is given up: for the first sync, and for every change.
    pub patience: u32,
    /// Where its configuration and its log are left.
    pub folder: PathBuf,
}

/// What came of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Found {
    /// It got at least as far as the first sync.
    Done(Measured),
    /// It did not.
    Failed {
        /// Why, and the last it said.
        reason: String,
    },
}

/// What was measured.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Measured {
    /// From the start of its process to the end of the first sync, in seconds.
    pub first_sync_s: f64,
    /// The sync itself, by its own clock (`kubeproxy_sync_proxy_rules_duration_seconds`), which stops a little later.
    pub first_sync_own_s: f64,
    /// Processor seconds until then, of the process and of the programs that it ran.
    pub processor_s: f64,
    /// The most memory until then, in bytes.
    pub cold_rss: u64,
    /// The most memory until the end, in bytes.
    pub peak_rss: u64,
    /// One endpoint replaced.
    pub changes: Vec<Change>,
    /// Why there are not as many changes as were asked for.
    pub stopped: Option<String>,
}

/// One endpoint replaced.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Change {
    /// From the changed EndpointSlice at the API server to the end of the sync, in milliseconds.
    pub total_ms: f64,
    /// The sync itself, by kube-proxy's own clock.
    pub sync_ms: f64,
}

/// For so long no sync begins before a change is made, so that the change does not wait for kube-proxy's pause between
/// two syncs (`minSyncPeriod`, a second).
const QUIET: Duration = Duration::from_millis(2500);

impl Run {
    /// Does it, in a namespace of its own.
    ///
    /// # Errors
    /// When the namespace or the API server could not be made.
    pub fn run(&self) -> anyhow::Result<Found> {
        in_namespace(|node| self.measure(node))
    }

    fn measure(&self, node: &NetNs) -> anyhow::Result<Found> {
        let cluster = Synthetic { services: self.services, endpoints: self.endpoints };
        let server = Server::start(cluster).context("starting an API server")?;
        let started = SystemTime::now();
        let process = Process::start(self, node, &server)?;
        let mut subject = Subject { run: self, cluster, server, process, replaced: BTreeMap::new() };
        let mut measured = match subject.first_sync(started) {
            Ok(measured) => measured,
            Err(error) => return Ok(Found::Failed { reason: subject.process.last_words(&error) }),
        };
        if let Err(error) = subject.changes(&mut measured.changes) {
            measured.stopped = Some(subject.process.last_words(&error));
        }
        measured.peak_rss = subject.process.usage().peak_memory.max(measured.cold_rss);
        Ok(Found::Done(measured))
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(self.patience.into())
    }
}

/// A kube-proxy that is measured, and its API server.
struct Subject<'a> {
    run: &'a Run,
    cluster: Synthetic,
    server: Server,
    process: Process,
    /// The numbers of new endpoints by service.
    replaced: BTreeMap<u32, u32>,
}

impl Subject<'_> {
    fn first_sync(&mut self, started: SystemTime) -> anyhow::Result<Measured> {
        let (syncs, usage) = self.synced(|syncs| syncs.last > 0.0 && syncs.count > 0.0)?;
        Ok(Measured {
            first_sync_s: syncs.last - seconds(started),
            first_sync_own_s: syncs.seconds,
            processor_s: usage.own + usage.programs,
            cold_rss: usage.peak_memory,
            peak_rss: usage.peak_memory,
            changes: Vec::new(),
            stopped: None,
        })
    }

    fn changes(&mut self, changes: &mut Vec<Change>) -> anyhow::Result<()> {
        for number in 0..self.run.changes {
            let before = self.settled()?;
            let (service, new) = (self.cluster.spread(number, self.run.changes), self.run.services + number);
            self.replaced.insert(service, new);
            let changed = seconds(SystemTime::now());
            self.server.replace_endpoint(service, new);
            let (after, _) = self
                .synced(|syncs| syncs.last > changed && syncs.count > before.count)
                .with_context(|| format!("change {}", number + 1))?;
            changes.push(Change {
                total_ms: (after.last - changed) * 1000.0,
                sync_ms: (after.seconds - before.seconds) * 1000.0,
            });
        }
        Ok(())
    }

    /// Waits until a sync has ended that is as wanted, and everything is in the kernel. Returns what it had used by then, too.
    fn synced(&mut self, wanted: impl Fn(&Syncs) -> bool) -> anyhow::Result<(Syncs, Usage)> {
        let (started, patience) = (Instant::now(), self.run.patience());
        let mut looked_at = 0.0;
        let mut lack = None;
        loop {
            self.process.ensure_it_runs()?;
            let syncs = Syncs::ask(self.process.metrics).ok().filter(|syncs| wanted(syncs) && syncs.last > looked_at);
            if let Some(syncs) = syncs {
                let usage = self.process.usage();
                lack = kernel::missing(self.run.mode, self.cluster, &self.replaced)?;
                if lack.is_none() {
                    return Ok((syncs, usage));
                }
                looked_at = syncs.last;
            }
            let elapsed = started.elapsed();
            if elapsed > patience {
                let lack = lack.map(|lack| format!("; {lack}")).unwrap_or_default();
                anyhow::bail!("not done after {} s, stopped{lack}", self.run.patience);
            }
            // It says itself when it was done, so nothing is lost by looking seldom.
            std::thread::sleep((elapsed / 20).clamp(Duration::from_millis(50), Duration::from_secs(2)));
        }
    }

    /// Waits until no sync has ended for a while; not for long, as one that looks after what drains never rests.
    fn settled(&mut self) -> anyhow::Result<Syncs> {
        let started = Instant::now();
        let mut before = Syncs::ask(self.process.metrics)?;
        let mut since = Instant::now();
        while since.elapsed() < QUIET && started.elapsed() < QUIET * 2 {
            std::thread::sleep(QUIET / 5);
            let now = Syncs::ask(self.process.metrics)?;
            if now.count > before.count {
                (before, since) = (now, Instant::now());
            }
        }
        Ok(before)
    }
}

fn seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
