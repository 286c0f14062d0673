//! The results for a terminal.

use super::report::{Named, Report, Restarted, Run, Switched};
use crate::commands::bench::columns::{aligned, cells, figure, mebibytes};
use crate::commands::bench::load::Tally;
use std::fmt::Write as _;

const LEGEND: &str = "\n\
    times in milliseconds. first packet: from a new connection's first packet to its answer; message: question to answer on a\n\
    connection that keeps talking; longest gap: between two answers on one connection or flow, its own pause included\n";

impl Report {
    /// For people.
    pub fn table(&self) -> String {
        let (version, build) = (self.machine.version, self.machine.build);
        let mut text = format!("kube-ipvs {version} bench mode-switch, {build} build\n{}\n", self.machine.describe());
        let plan = &self.traffic;
        let _ = writeln!(
            text,
            "traffic: {} connections (a message every {} ms), {} new ones a second, {} UDP flows (a datagram every {} ms), \
             {} clients with affinity",
            plan.connections, plan.message_ms, plan.rate, plan.flows, plan.datagram_ms, plan.clients
        );
        for run in &self.runs {
            run.write(&mut text);
        }
        text.push_str(LEGEND);
        let _ = writeln!(text, "\n{}", self.verdict());
        if let Some(starved) = self.starved() {
            let _ = writeln!(text, "{starved}");
        }
        text
    }

    /// How it came out, in a sentence.
    pub fn verdict(&self) -> String {
        let what = if self.switches > 0 {
            format!("{} switches", self.switches)
        } else {
            format!("{} restarts (this kernel has one mode only)", self.restarts)
        };
        format!(
            "{what}, {} requests: {} failed, {} reset, {} timed out; affinity broken {} times, {} of them unexplained; \
             longest gap {} ms",
            self.requests,
            self.failed,
            self.reset,
            self.timed_out,
            self.affinity_broken,
            self.affinity_unexplained,
            figure(self.longest_gap_ms)
        )
    }
}

impl Run {
    fn write(&self, text: &mut String) {
        let modes = self.modes.join(" and ");
        let _ = writeln!(text, "\n{} services × {} endpoints, modes: {modes}", self.services, self.endpoints);
        if let Some(because) = &self.only_mode_because {
            let _ = writeln!(text, "no switch is possible: {because}\nmeasured instead: restarts of the daemon");
        }
        let _ = writeln!(text, "cold start {} s\n", figure(self.cold_start_seconds));
        if !self.switches.is_empty() {
            text.push_str(&aligned(&self.switch_rows()));
        }
        if !self.restarts.is_empty() {
            text.push_str(&aligned(&self.restart_rows()));
        }
        let _ = write!(text, "\n{}\n{}", aligned(&self.period_rows()), aligned(&self.total_rows()));
        for (cause, count) in &self.affinity_causes {
            let _ = writeln!(text, "affinity broken {count} times: {cause}");
        }
        if let Some(reason) = &self.ended_early {
            let _ = writeln!(text, "ended before its time: {reason}");
        }
        for (problem, count) in self.problems.iter().take(10) {
            let _ = writeln!(text, "{count} × {problem}");
        }
    }

    /// One row a switch.
    pub fn switch_rows(&self) -> Vec<Vec<String>> {
        let header =
            ["switch", "programme", "steps", "verified", "serves", "old gone", "carried", "cpu s", "memory MiB"];
        let row = |switched: &Switched| {
            let ms = |value: Option<f64>| value.map_or("drains".to_owned(), figure);
            let gone = match switched.ended_ms {
                Some(ended) => {
                    format!("{} after its end", figure(switched.at_ms + switched.gone_ms.unwrap_or(0.0) - ended))
                }
                None => ms(switched.gone_ms),
            };
            vec![
                format!("{} to {}", switched.number, switched.to.name()),
                figure(switched.programmed_ms),
                switched.steps.to_string(),
                ms(switched.verified_ms),
                ms(switched.in_force_ms),
                gone,
                switched.drained_most.to_string(),
                figure(switched.processor),
                figure(mebibytes(switched.memory)),
            ]
        };
        std::iter::once(cells(header)).chain(self.switches.iter().map(row)).collect()
    }

    /// One row a restart.
    pub fn restart_rows(&self) -> Vec<Vec<String>> {
        let row = |restarted: &Restarted| {
            vec![
                format!("{} ({})", restarted.number, restarted.how),
                figure(restarted.ended_ms),
                figure(restarted.in_sync_ms),
                figure(restarted.processor),
                figure(mebibytes(restarted.peak_memory)),
            ]
        };
        let header = cells(["restart", "ended", "in sync", "cpu s", "peak MiB"]);
        std::iter::once(header).chain(self.restarts.iter().map(row)).collect()
    }

    /// One row a stretch of time.
    pub fn period_rows(&self) -> Vec<Vec<String>> {
        let header = [
            "",
            "mode",
            "seconds",
            "answers/s",
            "first packet p50",
            "p99",
            "message p50",
            "p99",
            "longest gap",
            "not answered",
            "generator late",
        ];
        let row = |named: &Named| {
            let period = &named.period;
            let all = period.all();
            vec![
                named.name.clone(),
                named.mode.name().to_owned(),
                figure(period.seconds),
                figure(named.answers_per_second),
                figure(period.connections.p50_ms),
                figure(period.connections.p99_ms),
                figure(period.messages.p50_ms),
                figure(period.messages.p99_ms),
                figure(all.longest_gap_ms),
                (all.failed + all.reset + all.timed_out).to_string(),
                figure(period.generator.max_ms),
            ]
        };
        std::iter::once(cells(header)).chain(self.periods.iter().map(row)).collect()
    }

    /// One row a kind of traffic.
    pub fn total_rows(&self) -> Vec<Vec<String>> {
        let totals = &self.totals;
        let kinds = [
            ("messages", &totals.messages),
            ("new connections", &totals.connections),
            ("datagrams", &totals.datagrams),
            ("with affinity", &totals.affinity),
        ];
        let row = |(name, tally): (&str, &Tally)| {
            let counts = [tally.requests, tally.answered, tally.failed, tally.reset, tally.timed_out];
            let figures = counts.iter().map(u64::to_string).chain([figure(tally.longest_gap_ms)]);
            std::iter::once(name.to_owned()).chain(figures).collect()
        };
        let header = cells(["all", "requests", "answered", "failed", "reset", "timed out", "longest gap"]);
        std::iter::once(header).chain(kinds.into_iter().map(row)).collect()
    }
}
