//! `kube-ipvs switch`: asks the running daemon for another mode and shows how it goes.

use crate::config::parse_duration;
use crate::control::protocol::{Ask, Event, Families, Family, WishName};
use crate::control::{self, Client};
use crate::exit::Exit;
use clap::Args;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Connections come to their end all the time; people read more slowly.
const DRAINS_EVERY: Duration = Duration::from_secs(5);

/// Flags of `switch`.
#[derive(Debug, Args)]
pub struct SwitchArgs {
    /// The mode to serve with from now on
    #[arg(value_enum)]
    mode: WishName,
    /// In which families
    #[arg(long, value_enum, default_value_t, value_name = "4|6|both")]
    family: Families,
    /// How long open connections of the old mode may go on [default: the daemon's --drain-timeout]
    #[arg(long, value_parser = parse_duration, value_name = "DURATION")]
    drain: Option<Duration>,
    /// Return as soon as the new mode serves, while the old one still drains
    #[arg(long)]
    no_wait: bool,
    /// The daemon's socket [default: that of the daemon in this network namespace]
    #[arg(long, value_name = "PATH")]
    control_socket: Option<PathBuf>,
}

/// Switches. Interrupting the command does not interrupt the switch.
///
/// # Errors
/// When no daemon answers, or the switch failed: the former mode serves on then.
pub fn run(args: &SwitchArgs) -> anyhow::Result<Exit> {
    let socket = args.control_socket.clone().unwrap_or_else(control::default_socket);
    let mut client = Client::connect(&socket)?;
    let drain_ms = args.drain.map(|drain| u64::try_from(drain.as_millis()).unwrap_or(u64::MAX));
    client.ask(Ask::Switch { mode: args.mode, family: args.family, drain_ms })?;
    // The new mode is verified in all families before it serves in any.
    let (mut verified, mut in_force) = (0, 0);
    let mut drains_told: Vec<(Family, Instant)> = Vec::new();
    loop {
        let event = client.answer()?;
        if let Event::Draining { family, .. } = &event {
            if drains_told.iter().any(|(told, at)| told == family && at.elapsed() < DRAINS_EVERY) {
                continue;
            }
            drains_told.retain(|(told, _)| told != family);
            drains_told.push((*family, Instant::now()));
        }
        if let Some(line) = describe(&event) {
            // Who does not read on may still want the exit status.
            let _ = writeln!(std::io::stdout(), "{line}");
        }
        match event {
            Event::Done => return Ok(Exit::Success),
            Event::Failed { reason } => anyhow::bail!("{reason}"),
            Event::Verified { .. } => verified += 1,
            Event::InForce { .. } => in_force += 1,
            _ => {}
        }
        if args.no_wait && in_force > 0 && in_force >= verified {
            return Ok(Exit::Success);
        }
    }
}

/// What an event is for people.
fn describe(event: &Event) -> Option<String> {
    Some(match event {
        Event::Programming { family, mode } => format!("{family}: writing {mode} mode beside the one that serves"),
        Event::Programmed { family, mode, services, steps, duration_ms } => {
            format!("{family}: {mode} mode has {services} service ports ({steps} steps, {duration_ms} ms)")
        }
        Event::Verified { family, mode } => format!("{family}: {mode} mode is complete"),
        Event::InForce { family, mode } => format!("{family}: {mode} mode serves what is new"),
        Event::Draining { family, mode, connections, endpoints, left_ms } => {
            let left = left_ms / 1000;
            format!("{family}: {mode} mode drains: {connections} connections, {endpoints} endpoints, at most {left} s")
        }
        Event::Gone { family, mode } => format!("{family}: nothing of {mode} mode is left"),
        Event::Done => "done".to_owned(),
        Event::Failed { .. } | Event::Status { .. } | Event::Names { .. } => return None,
    })
}
