//! `bench daemon`: the whole program beside an API server, as on a node: from its start to the kernel's word, the memory it
//! takes at most, how soon a changed EndpointSlice is in the kernel, and what all this costs the API server.
//!
//! | file | what |
//! |---|---|
//! | `churn.rs` | changes without end |
//! | `fanout.rs` | `bench fanout`: the sources of many nodes beside it |
//! | `server.rs` | the API server |

mod churn;
mod fanout;
pub mod server;

pub use fanout::{FanoutArgs, run as run_fanout};

use super::Mode;
use super::child::{self, Task};
use super::in_namespace;
use super::machine::Machine;
use super::program::{self, peak_memory_of, usage_of};
use super::sync::percentile;
use super::synthetic::Synthetic;
use crate::lab::NetNs;
use anyhow::Context;
use churn::Churn;
use clap::{Args, ValueEnum as _};
use serde::{Deserialize, Serialize};
use server::Server;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

/// Where the program tells its metrics.
const METRICS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 10249);

/// Between two requests for its metrics.
const SCRAPES: Duration = Duration::from_secs(10);

/// Arguments of `bench daemon`. The result is one JSON object.
#[derive(Debug, Clone, Args)]
pub struct DaemonArgs {
    /// How many services
    #[arg(long, value_name = "N", default_value_t = 1000,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(Synthetic::MOST_SERVICES)))]
    services: u32,
    /// How many endpoints each service has
    #[arg(long, value_name = "M", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    endpoints: u32,
    /// The mode to measure
    #[arg(long, value_enum, default_value_t)]
    mode: Mode,
    /// How many endpoints are replaced, one after the other
    #[arg(long, value_name = "C", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    changes: u32,
    /// After that: endpoints that change without end, for so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=600))]
    churn: u32,
    /// How many endpoints change in a second then
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    churn_rate: u32,
    /// And at the end: seconds in which nothing changes, so that the kernel is compared with what is wanted, and metrics are
    /// asked for. The first audit comes 30 s after the start
    #[arg(long, value_name = "SECONDS", default_value_t = 45, value_parser = clap::value_parser!(u32).range(..=600))]
    rest: u32,
    /// Seconds after which it is given up
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    patience: u32,
}

/// What to do in the run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Run {
    /// How many services.
    pub services: u32,
    /// How many endpoints each.
    pub endpoints: u32,
    /// The mode.
    pub mode: Mode,
    /// How many endpoints are replaced.
    pub changes: u32,
    /// Changes without end.
    pub churn: Option<churn::Load>,
    /// Seconds at the end in which nothing changes, and metrics are asked for.
    pub rest: u32,
    /// Seconds after which it is given up.
    pub patience: u32,
}

/// Measures.
///
/// # Errors
/// When the program did not come to be in sync.
pub fn run(args: &DaemonArgs) -> anyhow::Result<ExitCode> {
    let DaemonArgs { services, endpoints, mode, changes, churn, churn_rate, rest, patience } = args.clone();
    eprintln!("bench: {}", Machine::read().describe());
    let churn = (churn > 0).then_some(churn::Load { seconds: churn, per_second: churn_rate });
    let run = Run { services, endpoints, mode, changes, churn, rest, patience };
    let found: serde_json::Value = child::run(&Task::Daemon(run))?;
    println!("{}", serde_json::to_string_pretty(&found).context("writing the results")?);
    Ok(ExitCode::SUCCESS)
}

/// What came of it.
#[derive(Debug, Serialize)]
pub struct Found {
    services: u32,
    endpoints: u32,
    mode: Mode,
    /// From the start of the process to the kernel's last word.
    cold_start_s: f64,
    /// Processor seconds until then, of the process and of the programs that it ran.
    cold_processor_s: f64,
    /// From a changed EndpointSlice at the API server to the kernel's word.
    change_ms: f64,
    change_p99_ms: f64,
    /// The most memory, in MiB: after the cold start, after the changes, and at the end.
    cold_rss_mb: f64,
    changed_rss_mb: f64,
    peak_rss_mb: f64,
    /// Changes without end.
    #[serde(skip_serializing_if = "Option::is_none")]
    churn: Option<Churn>,
    /// What the API server was asked, and what it sent.
    api: server::Traffic,
    machine: Machine,
}

impl Run {
    /// Does it, in a namespace of its own.
    ///
    /// # Errors
    /// When the namespace could not be made or the program did not come to be in sync.
    pub fn run(&self) -> anyhow::Result<Found> {
        in_namespace(|node| self.measure(node))
    }

    fn measure(&self, node: &NetNs) -> anyhow::Result<Found> {
        let cluster = Synthetic { services: self.services, endpoints: self.endpoints };
        let server = Server::start(cluster).context("starting an API server")?;
        let started = Instant::now();
        let mut daemon = Daemon::start(node, self.mode, cluster, &server)?;
        let patience = Duration::from_secs(self.patience.into());
        let all = format!("services={}", self.services);
        let cold = daemon.wait_for(&all, patience)?.duration_since(started);
        let (cold_rss_mb, cold_processor_s) = (daemon.memory(), daemon.processor());
        let mut latencies = Vec::new();
        for number in 0..self.changes {
            daemon.settle();
            let service = cluster.spread(number, self.changes);
            let changed = Instant::now();
            server.replace_endpoint(service, self.services + number);
            latencies.push(daemon.wait_for("in sync", patience)?.duration_since(changed).as_secs_f64() * 1000.0);
        }
        latencies.sort_by(f64::total_cmp);
        let changed_rss_mb = daemon.memory();
        let churn = self.churn.map(|load| load.run(&server, self.services, METRICS, patience)).transpose()?;
        self.idle()?;
        Ok(Found {
            services: self.services,
            endpoints: self.endpoints,
            mode: self.mode,
            cold_start_s: cold.as_secs_f64(),
            cold_processor_s,
            change_ms: percentile(&latencies, 0.5),
            change_p99_ms: percentile(&latencies, 0.99),
            cold_rss_mb,
            changed_rss_mb,
            peak_rss_mb: daemon.memory(),
            churn,
            api: server.traffic(),
            machine: Machine::read(),
        })
    }
}

impl Run {
    /// As on a node on which nothing happens: metrics are asked for from time to time, and audits come.
    fn idle(&self) -> anyhow::Result<()> {
        let end = Instant::now() + Duration::from_secs(self.rest.into());
        while Instant::now() < end {
            program::page(METRICS, "/metrics").context("the program's metrics")?;
            std::thread::sleep(SCRAPES.min(end.saturating_duration_since(Instant::now())));
        }
        Ok(())
    }
}

/// The program, and what it says.
struct Daemon {
    child: Child,
    lines: Receiver<(Instant, String)>,
}

impl Daemon {
    fn start(node: &NetNs, mode: Mode, cluster: Synthetic, server: &Server) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("finding this program's own file")?;
        let mode = mode.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        let socket = std::env::temp_dir().join(format!("kube-ipvs-bench-{}.sock", std::process::id()));
        let mut command = Command::new(program);
        command.args(["--log-level", "info", "run", "--hostname-override", "bench", "--proxy-mode", &mode]);
        command.args(["--healthz-bind-address", "", "--metrics-bind-address", &METRICS.to_string()]);
        command.args([
            "--master",
            &format!("http://{}", server.address),
            "--cluster-cidr",
            &Synthetic::pods().to_string(),
        ]);
        command.args(["--service-cidr", &cluster.service_range().to_string()]);
        command.arg("--control-socket").arg(socket);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = node.spawn_process(command).context("starting the program")?;
        let output = child.stderr.take().context("no output of the program")?;
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send((Instant::now(), line)).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, lines })
    }

    /// When it said this.
    fn wait_for(&mut self, text: &str, patience: Duration) -> anyhow::Result<Instant> {
        let deadline = Instant::now() + patience;
        let mut last = String::new();
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok((at, line)) if line.contains("in sync") && line.contains(text) => return Ok(at),
                Ok((_, line)) => last = line,
                Err(RecvTimeoutError::Timeout) => anyhow::bail!("it was not in sync after {patience:?}; last: {last}"),
                Err(RecvTimeoutError::Disconnected) => anyhow::bail!("it ended; last: {last}"),
            }
        }
    }

    /// Waits until nothing happens any more: what drains is looked at once a second.
    fn settle(&mut self) {
        while self.lines.recv_timeout(Duration::from_millis(1500)).is_ok() {}
    }

    fn processor(&self) -> f64 {
        usage_of(self.child.id()).map_or(0.0, |usage| usage.own + usage.programs)
    }

    fn memory(&self) -> f64 {
        super::sync::mebibytes(peak_memory_of(self.child.id()).unwrap_or(0))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Fails only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
