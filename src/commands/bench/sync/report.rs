//! All results of a call, and their table.

use super::super::machine::Machine;
use super::super::measure::{Cost, Spread, Talk, spread};
use super::super::program::Outcome;
use super::audit::Audited;
use super::churn::Churn;
use super::floor::Floors;
use super::kube_proxy::Comparison;
use super::trial::{Found, Step};
use serde::Serialize;
use std::fmt::Write as _;

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub struct Report {
    /// On what.
    pub machine: Machine,
    /// How often.
    pub runs: u32,
    /// The proxy did not know the service range.
    pub unknown_range: bool,
    /// By size.
    pub sizes: Vec<Size>,
}

/// The results of one size.
#[derive(Debug, Serialize)]
pub struct Size {
    /// Services.
    pub services: u32,
    /// Endpoints of each.
    pub endpoints: u32,
    /// The mode that was measured.
    pub mode: String,
    /// Runs of ours.
    pub trials: Vec<Found>,
    /// The same messages by a bare loop.
    pub floors: Vec<Floors>,
    /// Runs of other programs.
    pub peers: Vec<PeerRuns>,
    /// Runs of a kube-proxy, if one was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kube_proxy: Option<Comparison>,
}

/// The runs of one other program.
#[derive(Debug, Serialize)]
pub struct PeerRuns {
    /// Its name.
    pub name: &'static str,
    /// What it did.
    pub what: &'static str,
    /// Each run; those after one that failed were not made.
    pub outcomes: Vec<Outcome>,
}

const HEADER: [&str; 10] =
    ["", "seconds", "min", "max", "own code", "kernel", "programs", "messages", "syscalls", "restores"];

impl Report {
    /// For people.
    pub fn table(&self) -> String {
        let Machine { version, build, .. } = &self.machine;
        let mut text = format!("kube-ipvs {version} bench sync, {build} build\n{}\n", self.machine.describe());
        let runs = if self.runs == 1 { "1 run".to_owned() } else { format!("median of {} runs", self.runs) };
        for size in &self.sizes {
            let range = match (size.mode.as_str(), self.unknown_range) {
                ("ipvs", true) => ", service range unknown",
                ("ipvs", false) => ", service range known",
                _ => "",
            };
            let Size { services, endpoints, mode, .. } = size;
            let _ = write!(
                text,
                "\n{services} services × {endpoints} endpoints, {mode} mode{range}, {runs}, a fresh network namespace each\n\n{}",
                size.table()
            );
        }
        text.push_str(LEGEND);
        for what in self.peers_explained() {
            text.push_str(&what);
        }
        text
    }

    fn peers_explained(&self) -> Vec<String> {
        let all = self.sizes.iter().flat_map(|size| &size.peers);
        let mut lines: Vec<String> = all.map(|peer| format!("{}: {}\n", peer.name, peer.what)).collect();
        lines.extend(self.sizes.iter().filter_map(|size| size.kube_proxy.as_ref()).map(Comparison::explained));
        let mut seen = std::collections::BTreeSet::new();
        lines.retain(|line| seen.insert(line.clone()));
        lines
    }
}

const LEGEND: &str = "\n\
    own code, kernel: processor seconds of this program, in its code and in the kernel on its behalf; programs: those of\n\
    the programs that it ran (iptables-restore, iptables-save) and of the kernel on theirs\n\
    cold start: from a snapshot to the kernel's last word, deciding what is desired included; in IPVS mode that is done beside the rest\n\
    read all, compare: a restart with nothing to do\n\
    single changes: from the new snapshot to the kernel's last word, building what is desired included\n";

impl Size {
    /// The churn of its worst run.
    pub fn churn(&self) -> Option<Churn> {
        Churn::worst(self.trials.iter().filter_map(|found| found.churn))
    }

    /// The audit that would have delayed a change the most.
    pub fn audited(&self) -> Option<Audited> {
        Audited::worst(self.trials.iter().map(|found| found.audited))
    }

    fn table(&self) -> String {
        let mut rows = vec![HEADER.map(str::to_owned)];
        let single = |of: fn(&Found) -> Step| -> Vec<Step> { self.trials.iter().map(of).collect() };
        let many = |of: fn(&Found) -> &Vec<Step>| -> Vec<Step> { self.trials.iter().flat_map(of).copied().collect() };
        let cold = spread(&single(|found| found.cold), |step| step.cost.wall);
        rows.extend(cold.map(|cold| step_row("cold start", cold)));
        if let Some(Spread { median, .. }) = cold {
            for (name, seconds) in [("read", median.observe), ("plan", median.plan), ("write", median.apply)] {
                rows.push(one_figure(&format!("  of that: {name}"), seconds));
            }
        }
        for (name, steps) in [
            ("read all, compare", single(|found| found.audit)),
            ("one endpoint replaced", many(|found| &found.endpoint_changed)),
            ("one service added", many(|found| &found.service_added)),
            ("one service removed", many(|found| &found.service_removed)),
        ] {
            rows.extend(spread(&steps, |step| step.cost.wall).map(|steps| step_row(name, steps)));
        }
        let mut text = aligned(&rows);
        text.push_str(&self.memory());
        if let Some(line) = self.floor(cold.map(|cold| cold.median.cost.wall)) {
            text.push_str(&line);
        }
        if let Some(Audited { seconds, slices, longest_ms }) = self.audited() {
            let _ = writeln!(
                text,
                "audit beside other work (the worst run): {} s in {slices} slices, the longest {longest_ms:.1} ms",
                figure(seconds)
            );
        }
        if let Some(churn) = self.churn() {
            let Churn { changes, syncs, p50_ms, p99_ms, max_ms, longest_queue, lost } = churn;
            let _ = writeln!(
                text,
                "churn (the worst run): {changes} endpoints replaced in {syncs} syncs; from the change to the kernel's word {p50_ms:.0} ms \
                 (median), {p99_ms:.0} ms (99 in 100), {max_ms:.0} ms (all); at most {longest_queue} waited; {lost} lost"
            );
        }
        for peer in &self.peers {
            text.push_str(&peer.line(cold.map(|cold| cold.median.cost)));
        }
        if let Some(kube_proxy) = &self.kube_proxy {
            text.push_str(&kube_proxy.lines());
        }
        text
    }

    fn floor(&self, cold: Option<f64>) -> Option<String> {
        let all: Vec<f64> = self.floors.iter().map(|floor| floor.cold.wall).collect();
        let floor = spread(&all, |value| *value)?.median;
        let single: Vec<f64> = self.floors.iter().flat_map(|floor| &floor.changes).map(|cost| cost.wall).collect();
        let table: Vec<f64> = self.floors.iter().filter_map(|floor| Some(floor.table?.wall)).collect();
        let table = spread(&table, |value| *value)
            .map_or_else(String::new, |table| format!(" (of that the IPVS table {} s)", figure(table.median)));
        let change = spread(&single, |value| *value)
            .map_or_else(String::new, |change| format!("; one endpoint replaced {} s", figure(change.median)));
        Some(format!(
            "beside it the same messages by a bare loop: {} s{table}{change}; our cold start is {} of that\n",
            figure(floor),
            times(cold? / floor)
        ))
    }

    fn memory(&self) -> String {
        let all: Vec<_> = self.trials.iter().map(|found| found.memory).collect();
        let Some(Spread { median, .. }) = spread(&all, |memory| mebibytes(memory.end)) else { return String::new() };
        format!(
            "peak memory: {:.1} MiB at the end, {:.1} after the cold start, {:.1} with the snapshot alone\n",
            mebibytes(median.end),
            mebibytes(median.cold),
            mebibytes(median.snapshot)
        )
    }
}

impl PeerRuns {
    fn line(&self, ours: Option<Cost>) -> String {
        let done = |outcome: &Outcome| match outcome {
            Outcome::Done { cost, peak_memory } => Some((*cost, *peak_memory)),
            _ => None,
        };
        let runs: Vec<(Cost, u64)> = self.outcomes.iter().filter_map(done).collect();
        let failed = self.outcomes.iter().find(|outcome| done(outcome).is_none());
        match (failed, spread(&runs, |run| run.0.wall)) {
            (None, Some(Spread { median: (cost, memory), min, max })) => {
                let ratio = ours.map(|ours| {
                    let (wall, processor) = (ours.wall / cost.wall, ours.processor() / cost.processor());
                    format!("; our cold start is {} of that, {} of its processor time", times(wall), times(processor))
                });
                format!(
                    "beside it {}: {} s ({} to {}), {} s of processor time, peak memory {:.1} MiB{}\n",
                    self.name,
                    figure(cost.wall),
                    figure(min),
                    figure(max),
                    figure(cost.processor()),
                    mebibytes(memory),
                    ratio.unwrap_or_default()
                )
            }
            (Some(outcome), _) => {
                let ratio = match (outcome, ours) {
                    (Outcome::TooLong { after }, Some(ours)) => {
                        format!("; our cold start is less than {} of that", times(ours.wall / after))
                    }
                    _ => String::new(),
                };
                format!("beside it {}: {}{ratio}\n", self.name, in_short(outcome))
            }
            (None, None) => String::new(),
        }
    }
}

/// An outcome in a few words.
pub fn in_short(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Done { cost, .. } => format!("{} s", figure(cost.wall)),
        Outcome::NotInstalled => "not installed".to_owned(),
        Outcome::TooLong { after } => format!("not done after {after} s, stopped"),
        Outcome::Failed { reason } => format!("failed: {}", reason.trim()),
    }
}

pub fn times(ratio: f64) -> String {
    if ratio < 0.095 { format!("{ratio:.3}×") } else { format!("{ratio:.2}×") }
}

pub fn mebibytes(bytes: u64) -> f64 {
    // Tenths of a mebibyte are shown, so that kibibytes are fine enough to stay within what f64 holds exactly.
    f64::from(u32::try_from(bytes / 1024).unwrap_or(u32::MAX)) / 1024.0
}

/// Seconds, as fine as they are worth.
pub fn figure(seconds: f64) -> String {
    match seconds {
        s if s < 0.1 => format!("{s:.4}"),
        s if s < 10.0 => format!("{s:.3}"),
        s => format!("{s:.1}"),
    }
}

fn step_row(name: &str, steps: Spread<Step>) -> [String; 10] {
    row(name, steps.median.cost, (steps.min, steps.max), Some(steps.median.talk))
}

fn row(name: &str, cost: Cost, range: (f64, f64), talk: Option<Talk>) -> [String; 10] {
    let count = |of: fn(&Talk) -> u64| talk.as_ref().map(|talk| of(talk).to_string()).unwrap_or_default();
    [
        name.to_owned(),
        figure(cost.wall),
        figure(range.0),
        figure(range.1),
        figure(cost.user),
        figure(cost.system),
        figure(cost.children),
        count(|talk| talk.messages),
        count(|talk| talk.syscalls),
        count(|talk| talk.restores),
    ]
}

fn one_figure(name: &str, seconds: f64) -> [String; 10] {
    let mut row = [const { String::new() }; 10];
    let [first, second, ..] = &mut row;
    *first = name.to_owned();
    *second = figure(seconds);
    row
}

/// Names to the left, figures to the right.
fn aligned(rows: &[[String; 10]]) -> String {
    let mut widths = [0; 10];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
            let _ = if column == 0 { write!(line, "{cell:width$}") } else { write!(line, "  {cell:>width$}") };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(outcomes: Vec<Outcome>) -> String {
        let ours = Cost { wall: 0.5, user: 0.1, system: 0.2, children: 0.3 };
        PeerRuns { name: "ipvsadm -R", what: "", outcomes }.line(Some(ours))
    }

    #[test]
    fn what_could_not_be_compared_is_said() {
        assert_eq!(peer(vec![Outcome::NotInstalled]), "beside it ipvsadm -R: not installed\n");
        let failed = Outcome::Failed { reason: "exit status: 3: why\n".into() };
        assert_eq!(peer(vec![failed]), "beside it ipvsadm -R: failed: exit status: 3: why\n");
        assert_eq!(
            peer(vec![Outcome::TooLong { after: 300.0 }]),
            "beside it ipvsadm -R: not done after 300 s, stopped; our cold start is less than 0.002× of that\n"
        );
    }

    #[test]
    fn the_ratio_is_that_of_the_medians() {
        let done =
            |wall| Outcome::Done { cost: Cost { wall, children: wall, ..Cost::default() }, peak_memory: 3 << 20 };
        assert_eq!(
            peer(vec![done(2.0), done(1.0), done(1.25)]),
            "beside it ipvsadm -R: 1.250 s (1.000 to 2.000), 1.250 s of processor time, peak memory 3.0 MiB; our cold \
             start is 0.40× of that, 0.48× of its processor time\n"
        );
    }
}
