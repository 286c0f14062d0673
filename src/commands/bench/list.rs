//! `bench list`: how long listing takes, ours and `ipvsadm`'s, of the same table in the same namespace; how soon the first
//! line is there, and how much memory waits with a reader that reads no further.

use super::measure::spread;
use super::program::{self, peak_memory_of};
use super::synthetic::Synthetic;
use super::{PlainOutput, in_namespace};
use crate::control::Server;
use crate::model::Snapshot;
use crate::reconcile::{self, Switcher};
use anyhow::Context;
use clap::Args;
use ipvs::{Client, Command as Change, Destination, Protocol, Scheduler, Service, ServiceId};
use serde::Serialize;
use std::io::{self, BufRead, BufReader};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};

/// A reader that stops stays away for so long.
const AWAY: Duration = Duration::from_secs(1);

/// What to list.
#[derive(Debug, Clone, Args)]
pub struct ListBenchArgs {
    /// How many services
    #[arg(long, default_value_t = 10_000)]
    services: u32,
    /// How many endpoints each has
    #[arg(long, default_value_t = 5)]
    endpoints: u32,
    /// How often each is measured
    #[arg(long, default_value_t = 3)]
    runs: u32,
    /// How results are printed
    #[arg(long, value_enum, default_value_t)]
    output: PlainOutput,
}

/// Measures and prints.
///
/// # Errors
/// There is no IPVS, or a listing failed.
pub fn run(args: &ListBenchArgs) -> anyhow::Result<ExitCode> {
    eprintln!("bench: {}", super::machine::Machine::read().describe());
    in_namespace(|_| measure(args))?;
    Ok(ExitCode::SUCCESS)
}

fn measure(args: &ListBenchArgs) -> anyhow::Result<()> {
    let cluster = Synthetic { services: args.services, endpoints: args.endpoints };
    let snapshot = cluster.snapshot();
    fill(&snapshot)?;
    let socket = std::env::temp_dir().join(format!("kube-ipvs-bench-{}.sock", std::process::id()));
    let daemon = answer_names(&socket, snapshot)?;
    let own = std::env::current_exe().context("finding this program's own file")?;
    let own = own.to_string_lossy();
    let socket = socket.to_string_lossy().into_owned();
    let wide = ["list", "-o", "wide", "--control-socket", &socket];
    let programs: [(&str, &[&str]); 3] = [("ipvsadm", &["-Ln"]), (&own, &["list"]), (&own, &wide)];
    let mut samples: [Samples; 3] = Default::default();
    // In turn: a machine that is slower for a while is so for all.
    for _ in 0..args.runs {
        for ((program, arguments), samples) in programs.iter().zip(&mut samples) {
            samples.take(program, arguments)?;
        }
    }
    let [theirs, ours, named] = samples.map(|samples| samples.median());
    if args.output == PlainOutput::Json {
        let (services, endpoints) = (args.services, args.endpoints);
        let found = Found { services, endpoints, ipvsadm: theirs, list: ours, named };
        println!("{}", serde_json::to_string_pretty(&found).context("writing the results")?);
        return Ok(());
    }
    println!("{} services × {} endpoints, median of {} runs:", args.services, args.endpoints, args.runs);
    let line = |name: &str, found: &Listing| {
        println!(
            "{name:<28} {:>8.3} s   {:>5.1} × as fast   first line after {:>6.3} s   {:>5.1} MiB with a reader that stops",
            found.whole,
            theirs.whole / found.whole,
            found.first,
            found.memory
        );
    };
    line("ipvsadm -Ln", &theirs);
    line("kube-ipvs list", &ours);
    line("kube-ipvs list -o wide", &named);
    drop(daemon);
    Ok(())
}

/// What was found. Medians.
#[derive(Serialize)]
struct Found {
    services: u32,
    endpoints: u32,
    /// `ipvsadm -Ln`.
    ipvsadm: Listing,
    /// `kube-ipvs list`.
    list: Listing,
    /// `kube-ipvs list -o wide`, with names from the daemon.
    named: Listing,
}

/// What a listing cost.
#[derive(Serialize)]
struct Listing {
    /// Seconds for all of it.
    #[serde(rename = "whole_s")]
    whole: f64,
    /// Seconds until the first line was read.
    #[serde(rename = "first_line_s")]
    first: f64,
    /// Peak of its memory in MiB, a second after its reader stopped there.
    #[serde(rename = "memory_mb")]
    memory: f64,
}

/// The same, of each run.
#[derive(Default)]
struct Samples {
    whole: Vec<f64>,
    first: Vec<f64>,
    memory: Vec<f64>,
}

impl Samples {
    fn take(&mut self, program: &str, arguments: &[&str]) -> anyhow::Result<()> {
        self.whole.push(read_all(program, arguments)?);
        let (seconds, mebibytes) = stop_early(program, arguments)?;
        self.first.push(seconds);
        self.memory.push(mebibytes);
        Ok(())
    }

    fn median(&self) -> Listing {
        let median = |values: &[f64]| spread(values, |value| *value).map(|spread| spread.median).unwrap_or_default();
        Listing { whole: median(&self.whole), first: median(&self.first), memory: median(&self.memory) }
    }
}

fn start(program: &str, arguments: &[&str]) -> anyhow::Result<std::process::Child> {
    let mut command: Command = program::command(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped());
    command.spawn().with_context(|| format!("starting {program}"))
}

fn read_all(program: &str, arguments: &[&str]) -> anyhow::Result<f64> {
    let started = Instant::now();
    let mut child = start(program, arguments)?;
    // Not kept: the reader should cost little beside what it reads.
    let bytes = io::copy(&mut child.stdout.take().context("no output")?, &mut io::sink())?;
    let status = child.wait()?;
    anyhow::ensure!(status.success() && bytes > 0, "{program} {arguments:?}: {status}, {bytes} bytes");
    Ok(started.elapsed().as_secs_f64())
}

fn stop_early(program: &str, arguments: &[&str]) -> anyhow::Result<(f64, f64)> {
    let started = Instant::now();
    let mut child = start(program, arguments)?;
    // As small as a pager's.
    let mut reader = BufReader::with_capacity(128, child.stdout.take().context("no output")?);
    reader.read_line(&mut String::new())?;
    let first = started.elapsed().as_secs_f64();
    std::thread::sleep(AWAY);
    let memory = peak_memory_of(child.id()).unwrap_or(0);
    drop(reader);
    let _ = child.wait()?;
    Ok((first, f64::from(u32::try_from(memory / 1024).unwrap_or(u32::MAX)) / 1024.0))
}

/// The virtual servers of these Services.
fn fill(snapshot: &Snapshot) -> anyhow::Result<()> {
    let mut client = Client::connect()?;
    let mut changes = Vec::new();
    for (name, service) in &snapshot.services {
        let endpoints = snapshot.slices.get(name).into_iter().flat_map(|slices| slices.values());
        let endpoints: Vec<_> = endpoints.flat_map(|slice| slice.endpoints.into_iter().map(|e| e.address)).collect();
        for (address, port) in
            service.cluster_ips.iter().flat_map(|ip| service.ports.iter().map(move |port| (ip, port)))
        {
            let id = ServiceId::new(Protocol::Tcp, *address, port.port);
            changes.push(Change::AddService(Service::new(id, Scheduler::Rr)));
            let add = |address| Change::AddDestination { service: id, destination: Destination::new(address, 8080, 1) };
            changes.extend(endpoints.iter().copied().map(add));
        }
    }
    client.execute_batch(&changes).into_iter().collect::<Result<Vec<()>, _>>()?;
    Ok(())
}

/// What the daemon does for names, on a thread of its own until it is dropped.
fn answer_names(socket: &Path, snapshot: Snapshot) -> anyhow::Result<tokio::runtime::Runtime> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let guard = runtime.enter();
    let server = Server::bind(socket)?;
    drop(guard);
    runtime.spawn(async move {
        let (triggers, _nobody) = mpsc::unbounded_channel();
        let (_status, status) = watch::channel(reconcile::Status::default());
        let (_snapshots, snapshots) = watch::channel(snapshot);
        server.run(Switcher::new(triggers), status, snapshots).await;
    });
    Ok(runtime)
}
