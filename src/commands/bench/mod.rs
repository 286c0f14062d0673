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
//! | `list.rs` | `bench list`: listing the table, beside `ipvsadm -Ln` |
//! | `sync/` | `bench sync`: bringing the kernel to what is desired, and changing it |

mod child;
mod list;
mod machine;
mod measure;
mod program;
mod sync;
mod synthetic;

use super::require_root;
use crate::config::ProxyMode;
use clap::{Subcommand, ValueEnum};
use std::process::ExitCode;

/// What to measure.
#[derive(Debug, Clone, Subcommand)]
pub enum BenchCommand {
    /// Bringing the kernel to N services of M endpoints each, and changing one of them; beside it `ipvsadm -R` or
    /// `iptables-restore` of the same table
    Sync(sync::SyncArgs),
    /// Listing N services of M endpoints each, beside `ipvsadm -Ln`; needs IPVS
    List(list::ListBenchArgs),
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
}

/// Measures and prints.
///
/// # Errors
/// When it could not be measured: not root, a mode that does not work here, a step that the kernel refused.
pub fn run(command: &BenchCommand) -> anyhow::Result<ExitCode> {
    require_root("bench")?;
    match command {
        BenchCommand::Sync(args) => sync::run(args),
        BenchCommand::List(args) => list::run(args),
        BenchCommand::Child { task } => child::become_task(task),
    }
}
