//! `kube-ipvs plan`: what `run` would change, in words, changing nothing.

use super::output::{self, Form, Paint, Style};
use super::source::Opened;
use super::{dataplane, duties, node, require_root};
use crate::config::{Config, ProxyArgs};
use crate::desired::{Builder, Desired};
use crate::exit::Exit;
use crate::model::IpFamily;
use anyhow::Context;
use clap::Args;
use serde::Serialize;
use std::fmt::Display;
use std::time::Instant;
use tracing::warn;

/// Flags of `plan`.
#[derive(Debug, Clone, Args)]
pub struct PlanArgs {
    /// What is proxied, and how.
    #[command(flatten)]
    pub proxy: ProxyArgs,
    /// How it is printed; as JSON: steps with family, mode, kind and text, and counts by kind
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Form,
}

/// What a step does to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    /// Something comes.
    Add,
    /// Something becomes other.
    Change,
    /// Something goes.
    Remove,
    /// Nothing: somebody else's object is in the way.
    Leave,
}

impl Kind {
    /// By the verb with which every step begins.
    fn of(step: &str) -> Self {
        match step.split(' ').next().unwrap_or_default() {
            "set" | "rewrite" | "zero" => Self::Change,
            "delete" | "remove" | "destroy" | "stop" | "flush" => Self::Remove,
            "leave" => Self::Leave,
            _ => Self::Add,
        }
    }

    fn style(self) -> Style {
        match self {
            Self::Add => Style::Good,
            Self::Change | Self::Leave => Style::Warning,
            Self::Remove => Style::Bad,
        }
    }
}

/// A step, as it is printed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Line {
    family: String,
    mode: String,
    kind: Kind,
    step: String,
}

impl Line {
    fn of(family: IpFamily, mode: impl Display, step: String) -> Self {
        Self { family: family.to_string(), mode: mode.to_string(), kind: Kind::of(&step), step }
    }
}

/// How many steps there are of each kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
struct Counts {
    add: usize,
    change: usize,
    remove: usize,
    leave: usize,
}

/// Prints the steps.
///
/// # Errors
/// When the mode does not work here, or the kernel cannot be read.
pub fn run(args: &PlanArgs, config: &Config) -> anyhow::Result<Exit> {
    require_root("plan")?;
    let lines = steps(config)?;
    let counts = count(&lines);
    let text = match args.output {
        Form::Text => text(&lines, counts, Paint::of_stdout()),
        Form::Json => serde_json::to_string_pretty(&serde_json::json!({ "steps": lines, "counts": counts }))? + "\n",
    };
    output::print(&text)?;
    Ok(if lines.is_empty() { Exit::Success } else { Exit::Changes })
}

fn steps(config: &Config) -> anyhow::Result<Vec<Line>> {
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
            lines.extend(plane.preview(family, wish, now)?.into_iter().map(|step| Line::of(family, mode, step)));
        }
        if let Some(plane) = planes.leftovers.as_mut() {
            let (steps, name) = (plane.preview(family, &nothing, now)?, plane.name());
            lines.extend(steps.into_iter().map(|step| Line::of(family, name, step)));
        }
    }
    Ok(lines)
}

fn count(lines: &[Line]) -> Counts {
    let of = |kind| lines.iter().filter(|line| line.kind == kind).count();
    Counts { add: of(Kind::Add), change: of(Kind::Change), remove: of(Kind::Remove), leave: of(Kind::Leave) }
}

fn text(lines: &[Line], counts: Counts, paint: Paint) -> String {
    if lines.is_empty() {
        return "in sync: nothing would change\n".into();
    }
    let line = |line: &Line| {
        let step = paint.paint(line.kind.style(), &line.step);
        format!("{} {}: {step}\n", line.family, line.mode)
    };
    let mut text: String = lines.iter().map(line).collect();
    let parts = [
        (counts.add, "to add"),
        (counts.change, "to change"),
        (counts.remove, "to remove"),
        (counts.leave, "to leave alone"),
    ];
    let parts: Vec<String> =
        parts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
    let steps = if lines.len() == 1 { "step" } else { "steps" };
    text.push_str(&format!("{} {steps}: {}\n", lines.len(), parts.join(", ")));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_counted_by_kind() {
        let steps =
            ["create chain nat/A with 2 rules", "rewrite chain nat/B with 4 rules", "route 10.0.0.1/32 to kube-ipvs0"];
        let more = ["stop routing 10.0.0.2/32 to kube-ipvs0", "leave virtual server TCP 10.0.0.3:80 alone"];
        let line = |step: &&str| Line {
            family: "IPv4".into(),
            mode: "ipvs".into(),
            kind: Kind::of(step),
            step: (*step).to_owned(),
        };
        let lines: Vec<Line> = steps.iter().chain(&more).map(line).collect();
        let counts = count(&lines);
        assert_eq!(counts, Counts { add: 2, change: 1, remove: 1, leave: 1 });
        let text = text(&lines, counts, Paint::plain());
        assert!(text.ends_with("5 steps: 2 to add, 1 to change, 1 to remove, 1 to leave alone\n"), "{text}");
        assert!(text.starts_with("IPv4 ipvs: create chain nat/A"), "{text}");
    }
}
