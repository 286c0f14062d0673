//! `bench datapath`: what a packet pays for the number of services: the first packet of a connection and requests a second, to
//! the last of N services, in each mode that this kernel has.
//!
//! The caller is a pod on the node and so is whoever answers: what is between them is the proxy's rules and little else.

mod report;

use super::Output;
use super::field::{FEWEST_SERVICES, Field};
use super::load::closed_loop;
use super::machine::Machine;
use super::proxy::Daemon;
use super::synthetic::Synthetic;
use crate::config::parse_duration;
use crate::control::protocol::{Event, WishName};
use anyhow::{Context, bail};
use clap::Args;
use report::{Measured, Report};
use std::process::ExitCode;
use std::time::Duration;

/// Arguments of `bench datapath`.
#[derive(Debug, Clone, Args)]
pub struct DatapathArgs {
    /// How many services; several sizes one after the other
    #[arg(long, value_name = "N[,N…]", value_delimiter = ',', default_value = "10,1000",
          value_parser = clap::value_parser!(u32).range(i64::from(FEWEST_SERVICES)..=i64::from(Synthetic::MOST_SERVICES)))]
    services: Vec<u32>,
    /// How many endpoints each service has
    #[arg(long, value_name = "M", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    endpoints: u32,
    /// For how long each figure is measured
    #[arg(long, value_parser = parse_duration, value_name = "DURATION", default_value = "5s")]
    duration: Duration,
    /// Connections at once while requests a second are counted
    #[arg(long, value_name = "C", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1000))]
    parallel: u32,
    /// How the results are printed
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// Longest time for the daemon's start and for a switch.
const PATIENCE: Duration = Duration::from_secs(900);
/// Requests before anything is measured: caches, neighbours, modules.
const WARM_UP: Duration = Duration::from_millis(500);

/// Measures all sizes in all modes and prints.
///
/// # Errors
/// When it could not be measured.
pub fn run(args: &DatapathArgs) -> anyhow::Result<ExitCode> {
    let machine = Machine::read();
    machine.introduce();
    let mut report = Report::new(machine, args.parallel, args.duration);
    for services in &args.services {
        let all = u64::from(*services) * u64::from(args.endpoints);
        let most = Synthetic::MOST_ENDPOINTS;
        anyhow::ensure!(all <= u64::from(most), "{services} services: at most {most} endpoints in all");
        size(args, *services, &mut report)?;
    }
    match args.output {
        Output::Table => print!("{}", report.table()),
        Output::Json => println!("{}", serde_json::to_string_pretty(&report)?),
        Output::Html => print!("{}", report.page()),
    }
    Ok(ExitCode::SUCCESS)
}

fn size(args: &DatapathArgs, services: u32, report: &mut Report) -> anyhow::Result<()> {
    let field = Field::build(Synthetic { services, endpoints: args.endpoints })?;
    let (daemon, _) = Daemon::start(&field, "auto", PATIENCE)?;
    let first = daemon.mode()?;
    measure(args, services, &field, &first, report)?;
    if first == "ipvs" {
        switch(&daemon)?;
        measure(args, services, &field, "iptables", report)?;
    } else {
        report.only_mode_because = daemon.about_mode();
    }
    daemon.stop()?;
    // Where the kernel has iptables mode it is looked at in its other form as well.
    let by_address = ["--service-chains", "address"];
    let (daemon, _) = Daemon::start_with(&field, "iptables", PATIENCE, &by_address)?;
    measure(args, services, &field, "iptables, by address", report)?;
    daemon.stop()
}

fn measure(args: &DatapathArgs, services: u32, field: &Field, mode: &str, report: &mut Report) -> anyhow::Result<()> {
    let run = |parallel, duration| closed_loop(field.inside()?, field.last(), parallel, duration);
    run(1, WARM_UP)?;
    let alone = run(1, args.duration)?;
    let together = run(args.parallel, args.duration)?;
    let measured = Measured::of(services, args.endpoints, mode, &alone, &together);
    eprintln!("bench: {}", measured.in_short());
    report.enter(measured);
    Ok(())
}

/// To iptables mode, and nothing of IPVS mode is left.
fn switch(daemon: &Daemon) -> anyhow::Result<()> {
    let events = daemon.switch(WishName::Iptables, Duration::from_secs(30))?;
    loop {
        match events.recv_timeout(PATIENCE).context("waiting for the switch to iptables")? {
            (_, Event::Done) => return Ok(()),
            (_, Event::Failed { reason }) => bail!("switching to iptables: {reason}"),
            _ => {}
        }
    }
}
