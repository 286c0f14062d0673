//! Plays scenario files against the proxy with real packets: `conformance --proxy FILE DIR…`.
//!
//! What a scenario is, and what its words mean, stands in tests/scenarios/README.md. `cargo xtask conformance` builds both
//! programs and runs this one, here or in a virtual machine.
//!
//! | file | what |
//! |---|---|
//! | `scenario.rs`, `flow.rs` | the format |
//! | `surroundings.rs`, `world.rs` | the lab that a scenario plays in |
//! | `manifests.rs`, `proxy.rs` | the proxy under test and what it is fed with |
//! | `play.rs` | one scenario from beginning to end |
//! | `check.rs`, `held.rs`, `inject.rs` | sending packets: in rounds, across a step, by hand |
//! | `judge.rs` | whether what came is what was expected |
//! | `explained.rs` | whether `kube-ipvs explain` says the same |
//! | `state.rs` | what the kernel holds, before and after |
//! | `evidence.rs`, `report.rs` | what is shown |

mod check;
mod evidence;
mod explained;
mod flow;
mod held;
mod inject;
mod judge;
mod manifests;
mod play;
mod proxy;
mod report;
mod scenario;
mod state;
mod surroundings;
mod trace;
mod world;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, ValueEnum};
use nix::libc::IPPROTO_SCTP;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::{Domain, Socket, Type};

use check::Patience;
use play::{Stage, play};
use proxy::Mode;
use report::Entry;
use scenario::Scenario;
use surroundings::Surroundings;

#[derive(Debug, Parser)]
#[command(
    name = "conformance",
    about = "Plays scenario files against a service proxy with real packets",
    max_term_width = 110
)]
struct Args {
    /// The proxy's program
    #[arg(long, value_name = "FILE")]
    proxy: PathBuf,
    /// The proxy's mode
    #[arg(long, value_enum, default_value = "both")]
    mode: Modes,
    /// Play only the scenarios of these names; with commas, or several times
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,
    /// Leave out flows that need this: sctp, raw, slow
    #[arg(long, value_name = "NEED", value_delimiter = ',')]
    without: Vec<String>,
    /// Scenarios to play at the same time, each in a lab of its own
    #[arg(long, short, default_value_t = 3, value_name = "N")]
    jobs: usize,
    /// Seconds to wait for an answer that is to come
    #[arg(long, default_value_t = 5.0, value_name = "SECONDS")]
    answer: f64,
    /// Seconds that a step may take to hold
    #[arg(long, default_value_t = 10.0, value_name = "SECONDS")]
    settle: f64,
    /// Seconds to let the proxy take notice of a step before packets are sent
    #[arg(long, default_value_t = 0.6, value_name = "SECONDS")]
    notice: f64,
    /// Connections for each endpoint that is to answer
    #[arg(long, default_value_t = 20, value_name = "N")]
    per_endpoint: usize,
    /// After each step that holds, ask `kube-ipvs explain` about every flow, and fail where it says otherwise
    #[arg(long)]
    explain: bool,
    /// Write results as JUnit's XML
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Write results as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Show notes of scenarios that pass, too
    #[arg(long, short)]
    verbose: bool,
    /// Scenario files, or folders with them
    #[arg(required = true, value_name = "DIR")]
    paths: Vec<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Modes {
    Ipvs,
    Iptables,
    Both,
}

impl Modes {
    fn list(self) -> &'static [Mode] {
        match self {
            Self::Ipvs => &[Mode::Ipvs],
            Self::Iptables => &[Mode::Iptables],
            Self::Both => &[Mode::Iptables, Mode::Ipvs],
        }
    }
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("conformance: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(args: &Args) -> Result<ExitCode> {
    ensure!(nix::unistd::geteuid().is_root(), "network namespaces need root");
    raise_file_limit()?;
    let mut scenarios = scenario::find(&args.paths)?;
    if let Some(missing) = args.only.iter().find(|name| !scenarios.iter().any(|scenario| scenario.name == **name)) {
        bail!("there is no scenario {missing}");
    }
    scenarios.retain(|scenario| args.only.is_empty() || args.only.contains(&scenario.name));
    ensure!(!scenarios.is_empty(), "there are no scenarios in {:?}", args.paths);
    for scenario in &scenarios {
        scenario
            .unknown
            .iter()
            .for_each(|field| eprintln!("{}: unknown field, ignored: {field}", scenario.file.display()));
    }
    // In iptables mode as well: cleanup looks for virtual servers, which loads the module, and that is no difference of state.
    load_module("ip_vs");
    if args.mode.list().contains(&Mode::Ipvs) {
        require_ipvs()?;
    }
    let seconds = |number: f64, what| Duration::try_from_secs_f64(number).with_context(|| format!("--{what}"));
    let patience = Patience {
        answer: seconds(args.answer, "answer")?,
        silence: Duration::from_millis(2500),
        settle: seconds(args.settle, "settle")?,
    };
    let stage = Stage {
        surroundings: &Surroundings::load()?,
        program: &args.proxy.canonicalize().with_context(|| format!("the proxy's program {}", args.proxy.display()))?,
        patience,
        notice: seconds(args.notice, "notice")?,
        per_endpoint: args.per_endpoint.max(1),
        sctp: has_sctp(),
        without: &args.without,
        explain: args.explain,
    };
    let system = nix::sys::utsname::uname().context("uname")?;
    let kernel = system.release().to_string_lossy().into_owned();
    let started = Instant::now();
    let entries = play_all(&stage, &scenarios, args)?;
    if let Some(file) = &args.json {
        report::write_json(file, &kernel, &entries)?;
    }
    if let Some(file) = &args.junit {
        report::write_junit(file, &kernel, &entries)?;
    }
    let failed: Vec<_> = entries.iter().filter(|entry| !entry.passed()).collect();
    let skipped: usize = entries.iter().map(|entry| entry.played.skipped.len()).sum();
    let passed = entries.len() - failed.len();
    failed.iter().for_each(|entry| println!("failed: {} ({})", entry.scenario.name, entry.mode.as_str()));
    println!("on kernel {kernel}: {:.0} s, {skipped} flows skipped", started.elapsed().as_secs_f64());
    let explained: usize = entries.iter().map(|entry| entry.played.explained).sum();
    if args.explain {
        println!("explain agrees with the packets of {explained} flows");
    }
    println!("conformance: {passed} passed, {} failed", failed.len());
    Ok(if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// Plays everything, several at a time, printing each as it ends; returns them in order.
fn play_all<'a>(stage: &Stage<'_>, scenarios: &'a [Scenario], args: &Args) -> Result<Vec<Entry<'a>>> {
    let all = || scenarios.iter().flat_map(|scenario| args.mode.list().iter().map(move |mode| (scenario, *mode)));
    let mut queue: VecDeque<_> = all().enumerate().collect();
    // What takes minutes comes first, so that everything else happens meanwhile.
    queue.make_contiguous().sort_by_key(|(_, (scenario, _))| !scenario.is_slow());
    let queue = Mutex::new(queue);
    let (results, finished) = mpsc::channel();
    let mut entries: Vec<(usize, Entry<'a>)> = thread::scope(|scope| {
        for _ in 0..args.jobs.max(1) {
            let (results, queue) = (results.clone(), &queue);
            scope.spawn(move || {
                loop {
                    let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                    let Some((index, (scenario, mode))) = next else { return };
                    let entry = Entry { scenario, mode, played: play(stage, scenario, mode) };
                    if results.send((index, entry)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(results);
        finished.iter().inspect(|(_, entry)| entry.print(args.verbose)).collect()
    });
    entries.sort_by_key(|(index, _)| *index);
    ensure!(entries.len() == all().count(), "{} scenarios were not played", all().count() - entries.len());
    Ok(entries.into_iter().map(|(_, entry)| entry).collect())
}

/// Every connection is a file, at both its ends, and several scenarios play at once.
fn raise_file_limit() -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).context("reading the limit of open files")?;
    let wanted = most.clamp(1, 65_536);
    setrlimit(Resource::RLIMIT_NOFILE, wanted, most).context("raising the limit of open files")
}

/// Whether there are SCTP sockets; loads the module where it is one.
fn has_sctp() -> bool {
    load_module("sctp");
    Socket::new(Domain::IPV4, Type::STREAM, Some(socket2::Protocol::from(IPPROTO_SCTP))).is_ok()
}

fn require_ipvs() -> Result<()> {
    let found = std::path::Path::new("/proc/net/ip_vs").exists();
    ensure!(found, "this kernel has no IPVS (there is no /proc/net/ip_vs): choose --mode iptables, or another kernel");
    Ok(())
}

/// Tries to; what counts is what is there afterwards.
fn load_module(name: &str) {
    let _ = Command::new("modprobe").args(["-q", name]).stdin(Stdio::null()).stderr(Stdio::null()).status();
}
