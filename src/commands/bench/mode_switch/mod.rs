//! `bench mode-switch`: the mode is switched back and forth under traffic, through the real daemon and its control socket.
//!
//! | file | what |
//! |---|---|
//! | `script.rs` | one size: what is done, in which order, and what is measured meanwhile |
//! | `restarts.rs` | the same on a kernel with one mode only: the daemon is killed or ended and started again |
//! | `report.rs` | all results of a call |
//! | `table.rs`, `page.rs` | the same for people, in a terminal and in a browser |

mod causes;
mod page;
mod report;
mod restarts;
mod script;
mod table;

use super::Output;
use super::field::{FEWEST_SERVICES, Field};
use super::load::{Load, Plan};
use super::machine::Machine;
use super::proxy::Daemon;
use super::synthetic::Synthetic;
use crate::config::parse_duration;
use crate::reconcile::Mode;
use clap::Args;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use report::{Report, Run};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Arguments of `bench mode-switch`.
#[derive(Debug, Clone, Args)]
pub struct ModeSwitchArgs {
    /// How many services; several sizes one after the other
    #[arg(long, value_name = "N[,N…]", value_delimiter = ',', default_value = "1000",
          value_parser = clap::value_parser!(u32).range(i64::from(FEWEST_SERVICES)..=i64::from(Synthetic::MOST_SERVICES)))]
    services: Vec<u32>,
    /// How many endpoints each service has
    #[arg(long, value_name = "M", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    endpoints: u32,
    /// TCP connections that keep talking through all switches
    #[arg(long, value_name = "C", default_value_t = 200, value_parser = clap::value_parser!(u32).range(0..=20_000))]
    connections: u32,
    /// How often each of them sends a message
    #[arg(long, value_parser = parse_duration, value_name = "DURATION", default_value = "50ms")]
    message_interval: Duration,
    /// New connections a second
    #[arg(long, value_name = "R", default_value_t = 200, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    rate: u32,
    /// UDP flows, from one port each
    #[arg(long, value_name = "FLOWS", default_value_t = 100, value_parser = clap::value_parser!(u32).range(0..=20_000))]
    udp_flows: u32,
    /// How often each of them sends a datagram
    #[arg(long, value_parser = parse_duration, value_name = "DURATION", default_value = "200ms")]
    datagram_interval: Duration,
    /// Clients with session affinity, an address each
    #[arg(long, value_name = "CLIENTS", default_value_t = 50, value_parser = clap::value_parser!(u32).range(0..=60_000))]
    clients: u32,
    /// How often each of them makes a connection
    #[arg(long, value_parser = parse_duration, value_name = "DURATION", default_value = "500ms")]
    client_interval: Duration,
    /// After how long without an answer a request has timed out
    #[arg(long, value_parser = parse_duration, value_name = "DURATION", default_value = "10s")]
    timeout: Duration,
    /// How many switches, there and back; where the kernel has one mode only: how many restarts
    #[arg(long, value_name = "SWITCHES", default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..=1000))]
    switches: u32,
    /// How long traffic goes on after each of them before it is judged, and before the first
    #[arg(long, value_parser = parse_duration, value_name = "DURATION", default_value = "5s")]
    hold: Duration,
    /// How the results are printed
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

impl ModeSwitchArgs {
    fn plan(&self) -> Plan {
        let ms = |duration: Duration| u32::try_from(duration.as_millis()).unwrap_or(u32::MAX).max(1);
        Plan {
            connections: self.connections,
            message_ms: ms(self.message_interval),
            rate: self.rate,
            flows: self.udp_flows,
            datagram_ms: ms(self.datagram_interval),
            clients: self.clients,
            client_ms: ms(self.client_interval),
            timeout_ms: ms(self.timeout),
        }
    }
}

/// Longest time for the daemon's start and for the end of an old mode.
const PATIENCE: Duration = Duration::from_secs(900);
/// So late at most it is noticed that somebody wants an end.
const GLANCE: Duration = Duration::from_millis(200);

/// Measures all sizes and prints.
///
/// # Errors
/// When it could not be measured; what traffic met is part of the result.
pub fn run(args: &ModeSwitchArgs) -> anyhow::Result<ExitCode> {
    raise_file_limit();
    outlive_interrupts()?;
    let machine = Machine::read();
    machine.introduce();
    let mut runs: Vec<Run> = Vec::new();
    for services in &args.services {
        match (size(args, *services), runs.last_mut()) {
            (Ok(run), _) => runs.push(run),
            (Err(error), None) => return Err(error),
            // What was measured of other sizes is worth having.
            (Err(error), Some(last)) => last.ended_early = Some(format!("{services} services: {error:#}")),
        }
        if runs.iter().any(|run| run.ended_early.is_some()) {
            break;
        }
    }
    let report = Report::of(machine, args.plan(), runs);
    match args.output {
        Output::Table => print!("{}", report.table()),
        Output::Json => println!("{}", serde_json::to_string_pretty(&report)?),
        Output::Html => print!("{}", report.page()),
    }
    if let Some(reason) = &report.ended_early {
        anyhow::bail!("it ended before its time; what was measured until then is above: {reason}");
    }
    Ok(ExitCode::SUCCESS)
}

/// One size, on a cluster of its own.
fn size(args: &ModeSwitchArgs, services: u32) -> anyhow::Result<Run> {
    let all = u64::from(services) * u64::from(args.endpoints);
    let most = Synthetic::MOST_ENDPOINTS;
    anyhow::ensure!(
        all <= u64::from(most),
        "{services} services of {} endpoints: at most {most} endpoints",
        args.endpoints
    );
    eprintln!("bench: {services} services × {} endpoints: building the cluster", args.endpoints);
    let field = Field::build(Synthetic { services, endpoints: args.endpoints })?;
    let (daemon, cold) = Daemon::start(&field, "auto", PATIENCE)?;
    let mode = daemon.mode()?;
    eprintln!("bench: {mode} mode serves after {:.1} s; starting the traffic", cold.as_secs_f64());
    let dropped = field.drops();
    let load = Load::start(&field, args.plan())?;
    let mut run = Run::new(services, args.endpoints, cold);
    let (played, last) = if mode == "ipvs" {
        run.modes = vec!["ipvs".into(), "iptables".into()];
        match script::play(args, &daemon, &load, &mut run) {
            // As it is tried, it is known.
            Err(error) if error.is::<script::Refused>() && run.switches.is_empty() => {
                run.only(Mode::Ipvs, format!("{error:#}"));
                (restarts::play(args, &field, (daemon, Mode::Ipvs), &load, &mut run), Mode::Ipvs)
            }
            played => (played, run.switches.last().map_or(Mode::Ipvs, |switched| switched.to)),
        }
    } else {
        run.only(Mode::Iptables, daemon.about_mode().unwrap_or_else(|| "IPVS does not work here".into()));
        (restarts::play(args, &field, (daemon, Mode::Iptables), &load, &mut run), Mode::Iptables)
    };
    // What was measured until then is worth having.
    run.ended_early = played.err().map(|error| format!("{error:#}"));
    let (rest, kept) = load.end();
    run.period("end", last, rest);
    run.keep(kept);
    run.dropped = field.drops().since(dropped);
    Ok(run)
}

/// Somebody wants an end.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Ends the measurement where somebody wants that.
///
/// # Errors
/// Then.
fn go_on() -> anyhow::Result<()> {
    anyhow::ensure!(!INTERRUPTED.load(Ordering::Relaxed), "interrupted");
    Ok(())
}

/// Sleeps, unless somebody wants an end.
///
/// # Errors
/// Then.
fn hold(time: Duration) -> anyhow::Result<()> {
    let end = Instant::now() + time;
    while let Some(left) = end.checked_duration_since(Instant::now()) {
        go_on()?;
        std::thread::sleep(left.min(GLANCE));
    }
    go_on()
}

/// An interrupt ends the measurement in order; the results until then are printed.
fn outlive_interrupts() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    std::thread::Builder::new().name("interrupts".into()).spawn(move || {
        runtime.block_on(async {
            while tokio::signal::ctrl_c().await.is_ok() {
                INTERRUPTED.store(true, Ordering::Relaxed);
            }
        });
    })?;
    Ok(())
}

/// A socket for every connection, at both ends.
fn raise_file_limit() {
    if let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // What is not granted will be told by the first socket that cannot be had.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);
    }
}
