//! `kube-ipvs bench`: measures on this machine's kernel, touching nothing outside of network namespaces of its own.
//!
//! Every run is a process of its own in namespaces of its own: memory does not add up, and IPVS's list of deleted
//! destinations (which the kernel walks with every new one for two minutes) starts empty.
//!
//! | file | what |
//! |---|---|
//! | `measure.rs` | time, processor time, memory: the vocabulary of all benchmarks |
//! | `machine.rs` | what it was measured on |
//! | `synthetic.rs` | a cluster of any size, in memory |
//! | `child.rs` | this program started again for one run |
//! | `program.rs` | other programs, run and measured |
//! | `field.rs` | a cluster of network namespaces in which every endpoint answers |
//! | `proxy.rs` | the proxy as a process of its own, asked by its control socket |
//! | `load/` | traffic that goes on, and what it met |
//! | `columns.rs`, `chart.rs`, `page.rs` | results in a terminal, as plots, and as one HTML file |
//! | `mode_switch/` | `bench mode-switch`: the mode is switched under traffic |
//! | `datapath/` | `bench datapath`: first packets and requests a second against the number of services |
//! | `daemon/` | `bench daemon`: the whole program beside an API server |
//! | `pure.rs` | `bench instructions`: what deciding costs, without kernel and clock |
//! | `list.rs` | `bench list`: listing the table, beside `ipvsadm -Ln` |
//! | `sync/` | `bench sync`: bringing the kernel to what is desired, and changing it |
//! | `table/` | `bench table`: all of these figures at several sizes |

mod chart;
mod child;
mod columns;
mod daemon;
mod datapath;
mod field;
mod list;
mod load;
mod machine;
mod measure;
mod mode_switch;
mod page;
mod program;
mod proxy;
mod pure;
mod sync;
mod synthetic;
mod table;

pub use load::Drops;
pub use synthetic::Synthetic;

use super::require_root;
use crate::config::ProxyMode;
use crate::lab::{Lab, NetNs, Topology};
use anyhow::Context;
use clap::{Subcommand, ValueEnum};
use std::process::ExitCode;

/// What to measure.
#[derive(Debug, Clone, Subcommand)]
pub enum BenchCommand {
    /// Bringing the kernel to N services of M endpoints each, and changing one of them; beside it `ipvsadm -R` or
    /// `iptables-restore` of the same table, and kube-proxy where a binary of it is given
    Sync(sync::SyncArgs),
    /// Switching the mode back and forth under traffic: open connections, new ones, UDP flows, clients with affinity. On a
    /// kernel with one mode only: restarts of the daemon
    ModeSwitch(mode_switch::ModeSwitchArgs),
    /// What a packet pays for the number of services: first packets and requests a second to the last of N, in each mode
    Datapath(datapath::DatapathArgs),
    /// The whole program beside an API server of N services: cold start, memory, changes, and what the server is asked
    Daemon(daemon::DaemonArgs),
    /// What the proxies of many nodes cost an API server: requests, watches, bytes, and their return after a cut
    Fanout(daemon::FanoutArgs),
    /// Instructions of our own code for a change among few and among many services, counted by valgrind; needs no root
    Instructions(pure::InstructionsArgs),
    /// Internal: what is counted
    #[command(hide = true)]
    Pure(pure::PureArgs),
    /// Listing N services of M endpoints each, beside `ipvsadm -Ln`; needs IPVS
    List(list::ListBenchArgs),
    /// All of these figures of one mode at several sizes, in one table: cold start, changes, churn, audit, memory, listing, first
    /// packets, beside a bare loop and other programs
    Table(table::TableArgs),
    /// Internal: one run
    #[command(hide = true)]
    Child {
        /// The run, as JSON
        task: String,
    },
}

/// Which mode to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// IPVS where it works, otherwise iptables.
    #[default]
    Auto,
    /// IPVS or nothing.
    Ipvs,
    /// iptables.
    Iptables,
}

/// A mode, whether it works here or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SingleMode {
    /// IPVS.
    Ipvs,
    /// iptables.
    Iptables,
}

impl SingleMode {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ipvs => "ipvs",
            Self::Iptables => "iptables",
        }
    }
}

impl From<Mode> for ProxyMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Auto => Self::Auto,
            Mode::Ipvs => Self::Ipvs,
            Mode::Iptables => Self::Iptables,
        }
    }
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Table,
    /// Everything that was measured, as one JSON object.
    Json,
    /// With plots, as one HTML file that needs nothing else.
    Html,
}

/// How results without plots are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum PlainOutput {
    /// For people.
    #[default]
    Table,
    /// Everything that was measured, as one JSON object.
    Json,
}

/// Measures and prints.
///
/// # Errors
/// When it could not be measured: not root, a mode that does not work here, a step that the kernel refused.
pub fn run(command: &BenchCommand) -> anyhow::Result<ExitCode> {
    let privileged = || require_root("bench");
    match command {
        BenchCommand::Instructions(args) => pure::count(args),
        BenchCommand::Fanout(args) => daemon::run_fanout(args),
        BenchCommand::Pure(args) => Ok(pure::run(args)),
        BenchCommand::Sync(args) => privileged().and_then(|()| sync::run(args)),
        BenchCommand::Daemon(args) => privileged().and_then(|()| daemon::run(args)),
        BenchCommand::ModeSwitch(args) => privileged().and_then(|()| mode_switch::run(args)),
        BenchCommand::Datapath(args) => privileged().and_then(|()| datapath::run(args)),
        BenchCommand::Child { task } => privileged().and_then(|()| child::become_task(task)),
        BenchCommand::List(args) => privileged().and_then(|()| list::run(args)),
        BenchCommand::Table(args) => privileged().and_then(|()| table::run(args)),
    }
}

/// Does what is measured in a network namespace of its own, which is gone afterwards.
///
/// # Errors
/// When the namespace could not be made, and those of the work.
fn in_namespace<T: Send>(work: impl FnOnce(&NetNs) -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
    let lab = Lab::build(&Topology::with_node("bench")).context("making a network namespace")?;
    let node = &lab.node().ns;
    node.run(|| work(node))?
}
