//! `kube-ipvs plan`: what `run` would change, in words, changing nothing.

use super::source::Opened;
use super::{dataplane, duties, node, require_root};
use crate::config::Config;
use crate::desired::{Builder, Desired};
use crate::exit::Exit;
use anyhow::Context;
use std::io::Write;
use std::time::Instant;
use tracing::warn;

/// Prints the steps.
///
/// # Errors
/// When the mode does not work here, or the kernel cannot be read.
pub fn run(config: &Config) -> anyhow::Result<Exit> {
    require_root("plan")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let source = runtime.block_on(Opened::open(config))?;
    let mut planes = dataplane::choose(config)?;
    let snapshot = runtime.block_on(source.look())?;
    let now = Instant::now();
    let mut builder = Builder::new(duties::settings(config));
    builder.update(&snapshot, &node::facts().context("reading the node's addresses")?, now);
    for refusal in builder.refusals() {
        warn!("{refusal}");
    }
    let (mut lines, nothing) = (Vec::new(), Desired::default());
    for family in planes.families.clone() {
        let wishes = [
            (*planes.active.get(family), builder.desired().get(family)),
            (planes.active.get(family).other(), &nothing),
        ];
        for (mode, wish) in wishes {
            let Some(plane) = planes.at(mode) else { continue };
            let steps = plane.preview(family, wish, now)?;
            lines.extend(steps.into_iter().map(|step| format!("{family} {mode}: {step}")));
        }
        if let Some(plane) = planes.leftovers.as_mut() {
            let steps = plane.preview(family, &nothing, now)?;
            lines.extend(steps.into_iter().map(|step| format!("{family} {}: {step}", plane.name())));
        }
    }
    print(&lines)
}

fn print(lines: &[String]) -> anyhow::Result<Exit> {
    let mut text = lines.join("\n");
    text.push_str(match lines.len() {
        0 => "in sync: nothing would change\n",
        1 => "\n1 step\n",
        _ => "\n",
    });
    if lines.len() > 1 {
        text.push_str(&format!("{} steps\n", lines.len()));
    }
    match std::io::stdout().write_all(text.as_bytes()) {
        // A reader that has seen enough is no error.
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => return Err(error.into()),
        _ => {}
    }
    Ok(if lines.is_empty() { Exit::Success } else { Exit::Changes })
}
