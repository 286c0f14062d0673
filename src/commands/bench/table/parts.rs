//! The benchmarks that a row is made of, and what of theirs goes into it.

use super::TableArgs;
use crate::commands::bench::{SingleMode, program};
use anyhow::Context;
use clap::ValueEnum;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::process::Stdio;

/// A benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// `bench sync`.
    Sync,
    /// `bench daemon`.
    Daemon,
    /// `bench list`.
    List,
    /// `bench datapath`.
    Datapath,
}

impl Part {
    /// Those that a mode has.
    pub fn of(mode: SingleMode) -> Vec<Self> {
        match mode {
            SingleMode::Ipvs => vec![Self::Sync, Self::Daemon, Self::List, Self::Datapath],
            SingleMode::Iptables => vec![Self::Sync, Self::Daemon, Self::Datapath],
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sync => "sync",
            Self::Daemon => "daemon",
            Self::List => "list",
            Self::Datapath => "datapath",
        }
    }

    fn arguments(self, args: &TableArgs) -> Vec<String> {
        let mode = args.mode.name();
        let (runs, changes, churn) = (args.runs, args.changes, args.churn);
        let line = match self {
            Self::Sync => {
                let peers = args.peer_timeout;
                format!(
                    "--mode {mode} --runs {runs} --changes {changes} --churn {churn} --peer-timeout {peers} --output json"
                )
            }
            Self::Daemon => format!("--mode {mode} --changes 3 --rest {}", args.rest),
            Self::List => format!("--runs {runs} --output json"),
            Self::Datapath => "--duration 2s --output json".to_owned(),
        };
        line.split(' ').map(str::to_owned).collect()
    }
}

/// One size. What was not measured is missing.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Row {
    /// Services.
    pub services: u32,
    /// Endpoints of each.
    pub endpoints: u32,
    /// From nothing to the kernel's last word.
    pub cold_start_s: Option<f64>,
    /// The same messages by a bare loop.
    pub floor_s: Option<f64>,
    /// Other programs for the same table.
    pub peer_s: Option<f64>,
    /// One endpoint replaced: half of the changes took at most this.
    pub change_ms: Option<f64>,
    /// 99 in 100 took at most this.
    pub change_p99_ms: Option<f64>,
    /// The same messages by a bare loop.
    pub change_floor_ms: Option<f64>,
    /// Netlink messages of a change; in iptables mode runs of iptables-restore.
    pub messages_per_change: Option<f64>,
    /// Under steady change: 99 in 100 were in the kernel after at most this.
    pub churn_p99_ms: Option<f64>,
    /// The comparison with the kernel beside other work, pauses included.
    pub audit_s: Option<f64>,
    /// As long would a change have waited for it at most.
    pub audit_slice_ms: Option<f64>,
    /// The most memory of the whole program, with its source.
    pub daemon_mib: Option<f64>,
    /// Listing the table with names.
    pub list_s: Option<f64>,
    /// `ipvsadm -Ln` of the same table.
    pub ipvsadm_list_s: Option<f64>,
    /// From a connection's first packet to its answer.
    pub first_packet_ms: Option<f64>,
    /// What could not be measured, and why.
    pub missing: BTreeMap<&'static str, String>,
    /// Everything that the benchmarks told.
    pub told: BTreeMap<&'static str, Value>,
}

impl Row {
    /// A row without figures.
    pub fn new(services: u32, endpoints: u32) -> Self {
        Self { services, endpoints, ..Self::default() }
    }

    /// Runs a benchmark, and keeps what it tells.
    pub fn measure(&mut self, part: Part, args: &TableArgs) {
        let size =
            ["--services".to_owned(), self.services.to_string(), "--endpoints".to_owned(), self.endpoints.to_string()];
        match ask(part, size.into_iter().chain(part.arguments(args))) {
            Ok(told) => {
                self.take(part, args.mode, &told);
                self.told.insert(part.name(), told);
            }
            Err(error) => drop(self.missing.insert(part.name(), format!("{error:#}"))),
        }
    }

    fn take(&mut self, part: Part, mode: SingleMode, told: &Value) {
        let number = |path: &str| told.pointer(path).and_then(Value::as_f64);
        match part {
            Part::Sync => {
                self.cold_start_s = number("/cold_start_s");
                self.floor_s = number("/floor_s");
                self.peer_s = number("/peer_s");
                self.change_ms = number("/change_ms");
                self.change_p99_ms = number("/change_p99_ms");
                self.change_floor_ms = number("/change_floor_ms");
                self.messages_per_change = number("/messages_per_change");
                self.churn_p99_ms = number("/churn/p99_ms");
                self.audit_s = number("/audit/seconds");
                self.audit_slice_ms = number("/audit/longest_ms");
                if let Some(reason) = told.get("peer_missing").and_then(Value::as_str) {
                    self.missing.insert("others", reason.to_owned());
                }
                if let Some(lost) = number("/churn/lost").filter(|lost| *lost > 0.0) {
                    self.missing.insert("churn", format!("{lost} changes were lost"));
                }
            }
            Part::Daemon => self.daemon_mib = number("/peak_rss_mb"),
            Part::List => {
                self.list_s = number("/named/whole_s");
                self.ipvsadm_list_s = number("/ipvsadm/whole_s");
            }
            Part::Datapath => {
                let measured = told.get("measured").and_then(Value::as_array);
                let of_mode = |found: &&Value| found.get("mode").and_then(Value::as_str) == Some(mode.name());
                let found = measured.and_then(|measured| measured.iter().find(of_mode));
                self.first_packet_ms = found.and_then(|found| found.get("first_packet_p50_ms")?.as_f64());
                if self.first_packet_ms.is_none() {
                    let reason = told.get("only_mode_because").and_then(Value::as_str).unwrap_or("it was not told");
                    self.missing.insert("first packet", reason.to_owned());
                }
            }
        }
    }
}

/// What the benchmark prints as JSON.
fn ask(part: Part, arguments: impl Iterator<Item = String>) -> anyhow::Result<Value> {
    let own = std::env::current_exe().context("finding this program's own file")?;
    let mut command = program::command(own);
    command.args(["--log-level", "warn", "bench", part.name()]).args(arguments);
    let output = command.stdin(Stdio::null()).output().context("starting the benchmark")?;
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        let last = error.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
        anyhow::bail!("{}: {last}", output.status);
    }
    serde_json::from_slice(&output.stdout).context("reading what it told")
}
