//! `kube-ipvs demo`: a small cluster in network namespaces, the example services, this very program as their proxy, and
//! real requests from everywhere to every address of every service.
//!
//! | file | what |
//! |---|---|
//! | `manifests.rs` | the manifests that the proxy reads, and the change made to them |
//! | `services.rs` | what they say: which addresses to ask and who may answer |
//! | `proxy.rs` | the proxy under test as a child process |
//! | `traffic.rs` | making the requests |
//! | `tally.rs` | counting answers and judging them |
//! | `report.rs`, `progress.rs` | what is shown |
//! | `interrupt.rs` | Ctrl-C |

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};

use crate::lab::{Lab, Protocol, Topology};

mod interrupt;
mod manifests;
mod progress;
mod proxy;
mod report;
mod services;
mod tally;
mod traffic;

use interrupt::{Interrupt, Interrupted};
use manifests::{Change, Manifests};
use progress::Progress;
use proxy::Proxy;
use services::Target;
use tally::Verdict;
use traffic::{Amounts, Traffic};

/// Time for the proxy to serve all addresses, and to follow a change. Generous for emulated machines.
const PATIENCE: Duration = Duration::from_secs(120);

/// Requests for each service whose spread is judged. With three endpoints and a random choice the standard deviation of a
/// share of 1,000 is 4.5 % of it: 20 % off happens once in a hundred thousand times by chance.
const FOR_SPREAD: u32 = 1000;

/// Requests for each service after the change, where only who answers is judged.
const AFTER_CHANGE: Amounts = Amounts { tcp: 240, udp: 240, sticky: 160 };

/// How the proxy under test is to program the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum DemoMode {
    /// IPVS where it works, otherwise iptables.
    #[default]
    Auto,
    /// IPVS or nothing.
    Ipvs,
    /// iptables.
    Iptables,
}

impl DemoMode {
    fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Ipvs => "ipvs",
            Self::Iptables => "iptables",
        }
    }
}

/// Builds a small cluster out of network namespaces, serves example services in it, and shows who answers.
///
/// Needs root. Touches nothing outside of its own namespaces and leaves nothing behind.
#[derive(Debug, Clone, Args)]
pub struct DemoArgs {
    /// How the proxy programs the kernel.
    #[arg(long, value_enum, default_value_t)]
    pub proxy_mode: DemoMode,

    /// TCP requests to make at least, over all services; more are made where a sound judgement of the spread needs them.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub requests: u32,

    /// A folder of Service and EndpointSlice manifests to use instead of the built-in examples (deploy/examples). Their
    /// endpoints must be pods of the demo: 10.180.0.1 to .3, 10.180.1.1 and .2, and their IPv6 addresses.
    #[arg(long, value_name = "DIR")]
    pub manifests: Option<PathBuf>,

    /// Show no progress, only the report.
    #[arg(short, long)]
    pub quiet: bool,

    /// Internal: become the given subcommand of this program, and die with the process of this id.
    #[arg(long, hide = true, value_name = "PID", requires = "command")]
    tied_to: Option<i32>,

    /// Internal: what to become.
    #[arg(last = true, hide = true)]
    command: Vec<OsString>,
}

/// Runs the demo. Exit status 0 means that every request was answered by an endpoint of its service, evenly spread,
/// affinity kept, and that traffic followed a change; 1 that it was not so; 130 that it was interrupted.
///
/// # Errors
/// When the demo could not be held: not root, no namespaces, the proxy did not start.
pub fn run(args: &DemoArgs) -> anyhow::Result<ExitCode> {
    if let Some(parent) = args.tied_to {
        return proxy::become_tied(parent, &args.command);
    }
    if !nix::unistd::geteuid().is_root() {
        bail!(
            "the demo makes network namespaces and programs the kernel in them, which needs root: sudo kube-ipvs demo"
        );
    }
    let interrupt = Interrupt::catch()?;
    match hold(args, &interrupt) {
        Err(error) if error.is::<Interrupted>() => {
            eprintln!("interrupted; nothing is left behind");
            Ok(ExitCode::from(130))
        }
        other => other,
    }
}

/// The demo from beginning to end.
fn hold(args: &DemoArgs, interrupt: &Interrupt) -> anyhow::Result<ExitCode> {
    let started = Instant::now();
    let progress = Progress::new(args.quiet);
    progress.say("building a cluster of network namespaces: a node, three pods on it, two elsewhere, a client outside");
    let lab = Lab::build(&Topology::demo()).context("building the demo's cluster")?;
    let mut manifests = Manifests::prepare(args.manifests.as_deref())?;
    let mut targets = services::targets(&manifests.objects(), &lab)?;
    let traffic = Traffic::start(&lab, &targets, interrupt, &progress)?;

    progress.say(&format!("starting the proxy: kube-ipvs run --proxy-mode {}", args.proxy_mode.as_str()));
    let mut proxy = Proxy::start(&lab, manifests.folder(), args.proxy_mode.as_str())?;
    let ready = traffic.wait_until_served(&targets, &mut proxy, PATIENCE)?;
    let mode = proxy::mode_in_kernel(&lab)?;
    progress.say(&format!("every address answers after {:.1} s, mode {mode}", ready.as_secs_f64()));
    if let Some(line) = proxy.line_about_mode() {
        progress.say(&format!("  the proxy says: {line}"));
    }

    let before = traffic.ask_everywhere(&targets, amounts(args.requests, &targets))?;
    progress.print(&report::services(&targets, &before, mode))?;
    progress.print(&report::listing(&proxy::list(&lab)?))?;

    let mut verdict = Verdict::default();
    verdict.count(&targets, &before);
    verdict.judge_spread(&targets, &before);
    verdict.judge_affinity(&targets, &before);
    if let Some(change) = manifests.replace_an_endpoint(&lab)? {
        progress.say(&format!("changing the manifests: {change}"));
        let old = std::mem::replace(&mut targets, services::targets(&manifests.objects(), &lab)?);
        let followed = wait_for_change(&traffic, &old, &targets, &change, &mut proxy, &mut verdict)?;
        progress.print(&report::change(&change, followed))?;
        let after = traffic.ask_everywhere(&targets, AFTER_CHANGE)?;
        progress.print(&report::after_change(&targets, &after))?;
        verdict.count(&targets, &after);
        verdict.judge_affinity(&targets, &after);
        verdict.judge_change(&targets, &before, &after, &change);
    }
    if let Some(status) = proxy.ended()? {
        verdict.complain(format!("the proxy ended during the demo: {status}"));
    }
    proxy.stop();
    progress.print(&report::verdict(&verdict, mode, started.elapsed()))?;
    if !verdict.is_good() {
        eprintln!("the proxy's last words:\n{}", proxy.last_lines(30));
    }
    Ok(if verdict.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// How many requests to make of each target so that there are `requests` over TCP and all judgements are sound.
fn amounts(requests: u32, targets: &[Target]) -> Amounts {
    let spread = targets.iter().filter(|target| !target.sticky && target.protocol == Protocol::Tcp).count();
    let each = requests.div_ceil(u32::try_from(spread.max(1)).unwrap_or(u32::MAX));
    Amounts { tcp: each.max(FOR_SPREAD), udp: FOR_SPREAD, sticky: 240 }
}

/// Asks until traffic follows a change of the manifests. Until it does, the old endpoint may answer: it is still there.
/// Returns how long it took.
fn wait_for_change(
    traffic: &Traffic<'_>,
    old: &[Target],
    new: &[Target],
    change: &Change,
    proxy: &mut Proxy,
    verdict: &mut Verdict,
) -> anyhow::Result<Option<Duration>> {
    let mut both = new.to_vec();
    for (both, old) in both.iter_mut().zip(old) {
        both.endpoints.extend(old.endpoints.clone());
    }
    let (followed, meanwhile) = traffic.wait_until_followed(&both, change, proxy, PATIENCE)?;
    verdict.count(&both, &meanwhile);
    if followed.is_none() {
        verdict.complain_about_change(format!("{change}: not seen within {} s", PATIENCE.as_secs()));
    }
    Ok(followed)
}
