//! The packets of a flow as they pass the node's interfaces, for people who look why it failed.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use crate::check::Check;
use crate::flow::Flow;

/// Packets that are shown at most.
const PACKETS: &str = "40";

/// How long the last packets have time to be written after the request ended.
const LATE: Duration = Duration::from_millis(300);

/// Makes one more connection of the flow and returns what tcpdump saw of it on all interfaces of the node.
pub fn record(check: &Check<'_>, flow: &Flow) -> String {
    if flow.held.is_some() {
        return "the connection that was held is not made again\n".to_owned();
    }
    try_to_record(check, flow).unwrap_or_else(|error| format!("no trace: {error:#}\n"))
}

fn try_to_record(check: &Check<'_>, flow: &Flow) -> Result<String> {
    let mut command = Command::new("tcpdump");
    // Neighbour discovery, and what is no request or answer, would hide what matters.
    command.args(["-i", "any", "-nn", "-l", "-c", PACKETS, "tcp or udp or sctp or icmp or (icmp6 and ip6[40] < 128)"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut watcher = Watcher(check.world.node().spawn_process(command).context("starting tcpdump")?);
    wait_until_it_listens(&mut watcher.0)?;
    let outcome = check.once(flow);
    thread::sleep(LATE);
    let _ = watcher.0.kill();
    let mut packets = String::new();
    let mut stdout = watcher.0.stdout.take().ok_or_else(|| anyhow!("tcpdump has no output"))?;
    stdout.read_to_string(&mut packets).context("reading tcpdump's output")?;
    let outcome = outcome.unwrap_or_else(|error| format!("{error:#}"));
    Ok(format!("{packets}(this time: {outcome})\n"))
}

/// Killed and waited for at the end, however that comes.
struct Watcher(Child);

impl Drop for Watcher {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// tcpdump says on stderr when it has opened its socket; before that it would miss the beginning.
fn wait_until_it_listens(child: &mut Child) -> Result<()> {
    let stderr = child.stderr.take().ok_or_else(|| anyhow!("tcpdump has no error output"))?;
    let mut lines = BufReader::new(stderr);
    let mut said = String::new();
    loop {
        let mut line = String::new();
        if lines.read_line(&mut line)? == 0 {
            return Err(anyhow!("tcpdump ended: {}", said.trim()));
        }
        if line.contains("listening on") {
            // Nobody reads on, but a closed pipe would end it when it counts its packets.
            thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
            return Ok(());
        }
        said.push_str(&line);
    }
}
