//! `kube-ipvs status`: how the running daemon stands.

use super::output::{self, Form};
use crate::control::protocol::{Ask, Event, FamilyStatus, Status};
use crate::control::{self, Client};
use crate::exit::Exit;
use clap::Args;
use std::fmt::Write as _;
use std::path::PathBuf;

/// Endpoints that are listed by name.
const LISTED: usize = 20;

/// Flags of `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// How it is printed; json is what the control socket tells (docs/control-socket.md names the fields)
    #[arg(short, long, value_enum, default_value_t)]
    output: Form,
    /// The daemon's socket [default: that of the daemon in this network namespace]
    #[arg(long, value_name = "PATH")]
    control_socket: Option<PathBuf>,
}

/// Prints the status.
///
/// # Errors
/// When no daemon answers.
pub fn run(args: &StatusArgs) -> anyhow::Result<Exit> {
    let socket = args.control_socket.clone().unwrap_or_else(control::default_socket);
    let mut client = Client::connect(&socket)?;
    client.ask(Ask::Status)?;
    let status = match client.answer()? {
        Event::Status { status } => status,
        Event::Failed { reason } => anyhow::bail!("{reason}"),
        other => anyhow::bail!("the daemon answered with {other:?}"),
    };
    let text = match args.output {
        Form::Json => serde_json::to_string_pretty(&status)? + "\n",
        Form::Text => describe(&status)?,
    };
    output::print(&text)?;
    Ok(Exit::Success)
}

fn describe(status: &Status) -> Result<String, std::fmt::Error> {
    let mut text = format!("kube-ipvs {}, process {}\n", status.daemon, status.pid);
    if let Some(busy) = status.busy_ms.filter(|busy| *busy > 1000) {
        writeln!(text, "a round has been under way for {}", span(busy))?;
    }
    for family in &status.families {
        describe_family(&mut text, family)?;
    }
    Ok(text)
}

fn describe_family(text: &mut String, family: &FamilyStatus) -> std::fmt::Result {
    let asked = if family.asked == family.mode { String::new() } else { format!(" (asked for: {})", family.asked) };
    let since = family.mode_ago_ms.map(|ago| format!(", for {}", span(ago))).unwrap_or_default();
    writeln!(text, "\n{}: mode {}{asked}{since}", family.family, family.mode)?;
    let sync = if family.in_sync { "in sync" } else { "not in sync" };
    let last = family.last_sync_ago_ms.map_or("never synced".to_owned(), |ago| {
        format!("last sync {} ago, took {}", span(ago), span(family.last_sync_duration_ms))
    });
    writeln!(text, "  {} service ports, {sync}; {last}", family.services)?;
    for failure in family.failures.iter().take(LISTED) {
        writeln!(text, "  could not {failure}")?;
    }
    match (&family.last_failure, family.last_failure_ago_ms) {
        (Some(what), Some(ago)) => writeln!(text, "  last failure {} ago: {what}", span(ago))?,
        _ => writeln!(text, "  no failure")?,
    }
    let repaired = family.last_repair_ago_ms.map(|ago| format!(", last {} ago", span(ago))).unwrap_or_default();
    writeln!(text, "  drift repaired: {} steps{repaired}", family.repaired)?;
    match &family.retiring {
        Some(retiring) => {
            let since = retiring.since_ago_ms.map(|ago| format!(" for {}", span(ago))).unwrap_or_default();
            let (connections, endpoints, left) = (retiring.connections, retiring.endpoints, span(retiring.left_ms));
            writeln!(
                text,
                "  {} mode drains{since}: {connections} connections, {endpoints} endpoints, at most {left} left",
                retiring.mode
            )?;
            for failure in retiring.failures.iter().take(LISTED) {
                writeln!(text, "    could not {failure}")?;
            }
        }
        None if family.retiring_known => writeln!(text, "  nothing of the other mode")?,
        None => writeln!(text, "  the other mode was not looked for yet")?,
    }
    if !family.draining.is_empty() {
        writeln!(text, "  draining: {} endpoints, {} connections", family.draining.len(), family.draining_connections)?;
    }
    for drain in family.draining.iter().take(LISTED) {
        writeln!(text, "    {} {}, at most {} left", drain.service, drain.endpoint, span(drain.left_ms))?;
    }
    Ok(())
}

/// A span of time, in two units at most.
fn span(milliseconds: u64) -> String {
    let seconds = milliseconds / 1000;
    match seconds {
        0 => format!("{milliseconds} ms"),
        1..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans() {
        let spans: Vec<String> = [0, 999, 1500, 61_000, 3_661_000].into_iter().map(span).collect();
        assert_eq!(spans, ["0 ms", "999 ms", "1 s", "1 min 1 s", "1 h 1 min"]);
    }
}
