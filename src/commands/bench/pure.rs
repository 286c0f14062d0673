//! `bench instructions`: what deciding costs, without kernel and clock: instructions of our own code for a change among few
//! and among many services, counted by valgrind. The count hardly depends on the machine or on what else it does, so that CI
//! sees work that grows with the number of services.
//!
//! `bench pure` is what is counted: what is desired, the plan, the texts and messages, what is remembered; everything but
//! talking to the kernel.

use super::synthetic::Synthetic;
use super::{SingleMode, program};
use crate::backend::{iptables, ipvs};
use crate::desired::{Builder, NodeFacts, Touched};
use crate::model::IpFamily;
use ::iptables::{Commands, Family, Variant};
use anyhow::Context;
use clap::Args;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::sync::Arc;
use std::time::Instant;

const FAMILY: IpFamily = IpFamily::V4;

/// Arguments of `bench pure`.
#[derive(Debug, Clone, Args)]
pub struct PureArgs {
    /// How many services
    #[arg(long, value_name = "N", default_value_t = 1000)]
    services: u32,
    /// How many endpoints each service has
    #[arg(long, value_name = "M", default_value_t = 5)]
    endpoints: u32,
    /// Of which mode
    #[arg(long, value_enum)]
    mode: SingleMode,
    /// How many endpoints are replaced after the cold start
    #[arg(long, value_name = "C", default_value_t = 0)]
    changes: u32,
}

/// Decides on a cold start and changes, and throws the result away.
pub fn run(args: &PureArgs) -> ExitCode {
    let cluster = Synthetic { services: args.services.max(1), endpoints: args.endpoints };
    let mut builder = Builder::new(Arc::new(cluster.settings(true)));
    let (mut snapshot, facts) = (cluster.snapshot(), NodeFacts::default());
    builder.update(&snapshot, &facts, Instant::now());
    let mut rehearsal = Rehearsal::new(args.mode);
    rehearsal.sync(&builder, Touched::All);
    for number in 0..args.changes {
        cluster.replace_with(&mut snapshot, number * 7 % cluster.services, cluster.services + number);
        let change = builder.update(&snapshot, &facts, Instant::now());
        rehearsal.sync(&builder, Touched::Ports(change.ports.get(FAMILY)));
    }
    ExitCode::SUCCESS
}

enum Rehearsal {
    Ipvs(Box<ipvs::Rehearsal>, Commands),
    Iptables(Box<iptables::Rehearsal>, Commands),
}

impl Rehearsal {
    fn new(mode: SingleMode) -> Self {
        // Never run.
        let commands = Commands::new(Family::V4, Variant::Nft, "iptables-restore".into(), "iptables-save".into());
        match mode {
            SingleMode::Ipvs => Self::Ipvs(Box::default(), commands),
            SingleMode::Iptables => Self::Iptables(Box::default(), commands),
        }
    }

    fn sync(&mut self, builder: &Builder, touched: Touched<'_>) {
        let desired = builder.desired().get(FAMILY);
        match self {
            Self::Ipvs(rehearsal, commands) => {
                drop(std::hint::black_box(rehearsal.sync(commands, FAMILY, desired, touched).encoded()));
            }
            Self::Iptables(rehearsal, commands) => {
                std::hint::black_box(rehearsal.sync(commands, FAMILY, desired, touched));
            }
        }
    }
}

/// Arguments of `bench instructions`. The result is one JSON object; exit status 1 if a bar is not met.
#[derive(Debug, Clone, Args)]
pub struct InstructionsArgs {
    /// Of one mode only
    #[arg(long, value_enum)]
    mode: Option<SingleMode>,
    /// Few services
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    few: u32,
    /// Many services
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    many: u32,
    /// How many endpoints each service has
    #[arg(long, value_name = "M", default_value_t = 5)]
    endpoints: u32,
    /// What an earlier call printed, with the same build and numbers: no count may be a fifth above it
    #[arg(long, value_name = "FILE")]
    bars: Option<PathBuf>,
    /// A change may cost so many times as much among many services as among few
    #[arg(long, value_name = "TIMES", default_value_t = 1.3)]
    ratio: f64,
}

/// A count may be so many times what it was: another compiler alone makes a few hundredths.
const GROWTH: f64 = 1.2;

/// Changes that are counted together.
const CHANGES: u32 = 50;

/// What was counted of a mode.
#[derive(Debug, Serialize, Deserialize)]
struct Count {
    mode: SingleMode,
    /// Instructions of one endpoint replaced, among few services and among many.
    change_few: u64,
    change_many: u64,
    ratio: f64,
    /// Instructions of a cold start of many services, for each service.
    cold_start_per_service: u64,
}

/// Counts, for both modes.
///
/// # Errors
/// When valgrind is not installed or the program failed under it, or the bars cannot be read.
pub fn count(args: &InstructionsArgs) -> anyhow::Result<ExitCode> {
    let bars = args.bars.as_deref().map(read_bars).transpose()?.unwrap_or_default();
    let mut counts = Vec::new();
    let both = [SingleMode::Ipvs, SingleMode::Iptables];
    for mode in both.into_iter().filter(|mode| args.mode.is_none_or(|only| only == *mode)) {
        let of = |services, changes| instructions(args, mode, services, changes);
        let (few, few_start) = per_change(&of, args.few)?;
        let (many, many_start) = per_change(&of, args.many)?;
        let start = many_start.saturating_sub(few_start) / u64::from(args.many.saturating_sub(args.few).max(1));
        let ratio = ratio(many, few);
        counts.push(Count { mode, change_few: few, change_many: many, ratio, cold_start_per_service: start });
    }
    println!("{}", serde_json::to_string_pretty(&counts).context("writing the counts")?);
    let mut faults = Vec::new();
    for Count { mode, ratio, .. } in counts.iter().filter(|count| count.ratio > args.ratio) {
        let (many, few) = (args.many, args.few);
        faults.push(format!("{mode:?}: a change among {many} services costs {ratio:.2} times as much as among {few}"));
    }
    faults.extend(bars.iter().flat_map(|bar| grown(bar, &counts)));
    faults.iter().for_each(|fault| eprintln!("bench: {fault}"));
    Ok(if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn ratio(one: u64, other: u64) -> f64 {
    let float = |count: u64| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    float(one) / float(other.max(1))
}

fn read_bars(file: &Path) -> anyhow::Result<Vec<Count>> {
    let text = std::fs::read_to_string(file).with_context(|| format!("--bars: reading {}", file.display()))?;
    serde_json::from_str(&text)
        .with_context(|| format!("--bars: {} is not what an earlier call printed", file.display()))
}

/// What costs more than it did.
fn grown(bar: &Count, counts: &[Count]) -> Vec<String> {
    let Some(count) = counts.iter().find(|count| count.mode == bar.mode) else { return Vec::new() };
    let kinds = [
        ("a change", count.change_many, bar.change_many),
        ("a cold start, for each service,", count.cold_start_per_service, bar.cold_start_per_service),
    ];
    let above = kinds.into_iter().filter(|(_, now, before)| ratio(*now, *before) > GROWTH);
    let tell = |(what, now, before)| {
        let mode = count.mode;
        format!(
            "{mode:?}: {what} costs {now} instructions instead of {before}; where that is meant, renew the file of --bars"
        )
    };
    above.map(tell).collect()
}

/// Instructions of one change, and of everything before it.
fn per_change(of: &dyn Fn(u32, u32) -> anyhow::Result<u64>, services: u32) -> anyhow::Result<(u64, u64)> {
    let (start, all) = (of(services, 0)?, of(services, CHANGES)?);
    Ok((all.saturating_sub(start) / u64::from(CHANGES), start))
}

fn instructions(args: &InstructionsArgs, mode: SingleMode, services: u32, changes: u32) -> anyhow::Result<u64> {
    let program = std::env::current_exe().context("finding this program's own file")?;
    let mode = mode.name();
    let mut command = program::command("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(program);
    command.args(["bench", "pure", "--mode", mode]);
    for (flag, value) in [("--services", services), ("--endpoints", args.endpoints), ("--changes", changes)] {
        command.args([flag, &value.to_string()]);
    }
    let output =
        command.stdin(Stdio::null()).output().context("running valgrind (Debian: apt-get install valgrind)")?;
    let text = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "valgrind: {}: {}", output.status, text.trim());
    collected(&text).with_context(|| format!("valgrind told no count: {}", text.trim()))
}

/// `==7== Collected : 12345`
fn collected(text: &str) -> Option<u64> {
    let (_, count) = text.lines().find_map(|line| line.split_once("Collected : "))?;
    count.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_costs_more_than_it_did_is_told() {
        let count = |change, start| Count {
            mode: SingleMode::Ipvs,
            change_few: 1,
            change_many: change,
            ratio: 1.0,
            cold_start_per_service: start,
        };
        assert!(grown(&count(100, 1000), &[count(120, 1200)]).is_empty());
        assert!(grown(&count(100, 1000), &[count(1, 1)]).is_empty());
        let told = grown(&count(100, 1000), &[count(121, 1300)]);
        assert!(told.len() == 2 && told[0].contains("a change costs 121 instructions instead of 100"), "{told:?}");
    }

    #[test]
    fn the_count_is_found_in_what_valgrind_says() {
        assert_eq!(collected("==7== Events    : Ir\n==7== Collected : 1234567\n==7== \n"), Some(1_234_567));
        assert_eq!(collected("valgrind: no such tool"), None);
    }
}
