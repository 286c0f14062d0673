//! `bench sync`: what it costs to bring the kernel to N services of M endpoints, and to follow a change.
//!
//! The real thing runs: what is desired is built from a snapshot by [`crate::desired::Builder`], and the mode's driver
//! brings the kernel there as in `run`. Beside it, in the same call, another program writes the very same table.
//!
//! | file | what |
//! |---|---|
//! | `trial.rs` | one run of ours, in a process and a network namespace of its own |
//! | `peer.rs` | one run of another program, likewise |
//! | `floor.rs` | the very messages of our run, sent by a bare loop |
//! | `kube_proxy/` | a kube-proxy that is given by its path, and our whole program beside it |
//! | `audit.rs` | the comparison with the kernel, in slices |
//! | `churn.rs` | changes that never end |
//! | `headline.rs` | the figures that count, one each |
//! | `report.rs`, `page.rs` | all results of a call, as a table and as an HTML page |

mod audit;
mod churn;
pub mod floor;
mod headline;
pub mod kube_proxy;
mod page;
pub mod peer;
mod report;
pub mod trial;

pub use churn::percentile;
pub use report::mebibytes;

use super::child::{self, Task};
use super::machine::Machine;
use super::synthetic::Synthetic;
use super::{Mode, Output};
use anyhow::Context;
use clap::Args;
use report::{PeerRuns, Report, Size};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use trial::{Found, Trial};

/// Arguments of `bench sync`.
#[derive(Debug, Clone, Args)]
pub struct SyncArgs {
    /// How many services; several sizes one after the other
    #[arg(long, value_name = "N[,N…]", value_delimiter = ',', default_value = "1000",
          value_parser = clap::value_parser!(u32).range(1..=i64::from(Synthetic::MOST_SERVICES)))]
    services: Vec<u32>,
    /// How many endpoints each service has
    #[arg(long, value_name = "M", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    endpoints: u32,
    /// The mode to measure
    #[arg(long, value_enum, default_value_t)]
    mode: Mode,
    /// How often everything is done from the start; medians are shown
    #[arg(long, value_name = "R", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    runs: u32,
    /// How many single changes of each kind are made in a run
    #[arg(long, value_name = "C", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    changes: u32,
    /// For how many seconds endpoints change without end, after the single changes; 0: not at all
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    churn: u32,
    /// How many endpoints change in a second of that
    #[arg(long, value_name = "PER SECOND", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    churn_rate: u32,
    /// Don't tell the proxy the service range, so that in IPVS mode every cluster IP costs a route
    #[arg(long)]
    unknown_range: bool,
    /// Measure without other programs beside it
    #[arg(long)]
    no_peers: bool,
    /// A kube-proxy to measure beside it, with the same services from an API server; so is our own whole program then
    #[arg(long, value_name = "PATH", conflicts_with = "no_peers")]
    kube_proxy: Option<PathBuf>,
    /// The mode of that kube-proxy; without it the one that is measured
    #[arg(long, value_enum, value_name = "MODE", requires = "kube_proxy")]
    kube_proxy_mode: Option<kube_proxy::Mode>,
    /// Seconds after which another program is stopped
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    peer_timeout: u32,
    /// How the results are printed
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// Measures all sizes.
///
/// # Errors
/// When the mode does not work here or a sync of ours failed. What another program fails at is part of the result.
pub fn run(args: &SyncArgs) -> anyhow::Result<ExitCode> {
    for services in &args.services {
        let all = u64::from(*services) * u64::from(args.endpoints);
        let most = Synthetic::MOST_ENDPOINTS;
        anyhow::ensure!(
            all <= u64::from(most),
            "{services} services of {} endpoints: at most {most} endpoints",
            args.endpoints
        );
    }
    let scratch = Scratch::create()?;
    let mut report =
        Report { machine: Machine::read(), runs: args.runs, unknown_range: args.unknown_range, sizes: Vec::new() };
    report.machine.introduce();
    warm_up(args)?;
    for services in &args.services {
        report.sizes.push(size(args, *services, &scratch)?);
    }
    match args.output {
        Output::Table => print!("{}", report.table()),
        Output::Json => {
            let headline = headline::Headline::of(&report);
            println!("{}", serde_json::to_string_pretty(&headline).context("writing the results")?);
        }
        Output::Html => print!("{}", report.page()),
    }
    Ok(ExitCode::SUCCESS)
}

/// One small run that does not count: the kernel loads its modules with the first use, which took ten seconds in an
/// emulated machine.
fn warm_up(args: &SyncArgs) -> anyhow::Result<()> {
    let range_known = !args.unknown_range;
    let trial = Trial { mode: args.mode, services: 2, endpoints: 2, changes: 1, churn: None, range_known, save: None };
    child::run::<Found>(&Task::SyncTrial(trial)).map(drop)
}

fn size(args: &SyncArgs, services: u32, scratch: &Scratch) -> anyhow::Result<Size> {
    let mut trials: Vec<Found> = Vec::new();
    for run in 1..=args.runs {
        let save = (run == 1 && !args.no_peers).then(|| scratch.0.clone());
        let trial = Trial {
            mode: args.mode,
            services,
            endpoints: args.endpoints,
            changes: args.changes,
            churn: (args.churn > 0).then_some(churn::Load { seconds: args.churn, per_second: args.churn_rate }),
            range_known: !args.unknown_range,
            save,
        };
        let found: Found = child::run(&Task::SyncTrial(trial))?;
        let seconds = found.cold.cost.wall;
        eprintln!("bench: {services} × {}, {} mode, run {run}: cold start {seconds:.3} s", args.endpoints, found.mode);
        trials.push(found);
    }
    let mode = trials.first().map(|found| found.mode.clone()).unwrap_or_default();
    let (mut peers, mut floors) = (Vec::new(), Vec::new());
    if !args.no_peers {
        for run in 1..=args.runs {
            let floor =
                floor::Floor { ipvs: mode == "ipvs", services, endpoints: args.endpoints, changes: args.changes };
            let found: floor::Floors = child::run(&Task::SyncFloor(floor))?;
            eprintln!("bench: {services} × {}, bare loop, run {run}: {:.3} s", args.endpoints, found.cold.wall);
            floors.push(found);
        }
        let single_routes = args.unknown_range && mode == "ipvs";
        for kind in peer::kinds(&mode, single_routes) {
            peers.push(peer_runs(args, services, *kind, scratch)?);
        }
    }
    let kube_proxy = args.kube_proxy.as_deref().map(|program| {
        let own_mode = if mode == "ipvs" { kube_proxy::Mode::Ipvs } else { kube_proxy::Mode::Iptables };
        let run = kube_proxy::Run {
            program: program.to_owned(),
            mode: args.kube_proxy_mode.unwrap_or(own_mode),
            services,
            endpoints: args.endpoints,
            changes: args.changes,
            patience: args.peer_timeout,
            folder: scratch.0.clone(),
        };
        kube_proxy::measure(&run, if mode == "ipvs" { Mode::Ipvs } else { Mode::Iptables }, args.runs)
    });
    let kube_proxy = kube_proxy.transpose()?;
    Ok(Size { services, endpoints: args.endpoints, mode, trials, floors, peers, kube_proxy })
}

fn peer_runs(args: &SyncArgs, services: u32, kind: peer::Kind, scratch: &Scratch) -> anyhow::Result<PeerRuns> {
    let mut outcomes = Vec::new();
    for run in 1..=args.runs {
        let peer = peer::Peer {
            kind,
            services,
            endpoints: args.endpoints,
            saved: scratch.0.clone(),
            patience: args.peer_timeout,
        };
        let outcome = child::run(&Task::SyncPeer(peer))?;
        eprintln!("bench: {services} × {}, {}, run {run}: {}", args.endpoints, kind.name(), report::in_short(&outcome));
        let done = matches!(outcome, super::program::Outcome::Done { .. });
        outcomes.push(outcome);
        if !done {
            break;
        }
    }
    Ok(PeerRuns { name: kind.name(), what: kind.what(), outcomes })
}

/// A folder that goes when the benchmark ends.
#[derive(Debug)]
struct Scratch(PathBuf);

impl Scratch {
    fn create() -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(format!("kube-ipvs-bench-{}", std::process::id()));
        std::fs::create_dir(&path).with_context(|| format!("creating {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("bench: {} could not be removed: {error}", self.0.display());
        }
    }
}

/// Where a run leaves what it wrote, for other programs to write it again.
fn saved_table(folder: &Path) -> PathBuf {
    folder.join("table")
}

/// Likewise the routes.
fn saved_routes(folder: &Path) -> PathBuf {
    folder.join("routes")
}
