//! The results as an HTML page.

use super::report::{Report, Run};
use crate::commands::bench::chart::{Bars, Lines, Series};
use crate::commands::bench::columns::figure;
use crate::commands::bench::load::Second;
use crate::commands::bench::page::Page;

impl Report {
    /// One file with plots.
    pub fn page(&self) -> String {
        let title = if self.switches > 0 { "Switching the mode under traffic" } else { "Restarting under traffic" };
        let machine = &self.machine;
        let mut page = Page::new(
            title,
            &format!("kube-ipvs {}, {} build, {}", machine.version, machine.build, machine.describe()),
        );
        page.verdict(self.is_clean(), &self.verdict());
        if let Some(reason) = &self.ended_early {
            page.verdict(false, &format!("It ended early: {reason}"));
        }
        if let Some(starved) = self.starved() {
            page.verdict(false, &starved);
        }
        let zero = |count: u64| (count.to_string(), Some(count == 0));
        let tile = |name, (value, good)| (name, value, good);
        let done = if self.switches > 0 { ("switches", self.switches) } else { ("restarts", self.restarts) };
        page.tiles(&[
            (done.0, done.1.to_string(), None),
            ("services", self.services.to_string(), None),
            ("requests", self.requests.to_string(), None),
            tile("failed", zero(self.failed)),
            tile("reset", zero(self.reset)),
            tile("timed out", zero(self.timed_out)),
            ("affinity broken", self.affinity_broken.to_string(), (self.affinity_unexplained > 0).then_some(false)),
            ("ms longest gap", figure(self.longest_gap_ms), Some(self.longest_gap_ms < 1000.0)),
        ]);
        let plan = &self.traffic;
        page.text(&format!(
            "{} TCP connections that send a message every {} ms, {} new connections a second, {} UDP flows with a datagram \
             every {} ms, {} clients with session affinity.",
            plan.connections, plan.message_ms, plan.rate, plan.flows, plan.datagram_ms, plan.clients
        ));
        if self.runs.len() > 1 {
            self.by_size(&mut page);
        }
        for run in &self.runs {
            run.show(&mut page);
        }
        page.finish()
    }

    /// Against N.
    fn by_size(&self, page: &mut Page) {
        page.heading("Against the number of services");
        let groups = |of: &dyn Fn(&Run) -> Vec<Option<f64>>| {
            self.runs.iter().map(|run| (run.services.to_string(), of(run))).collect::<Vec<_>>()
        };
        let programme = |run: &Run, to: &str| {
            let times = run.switches.iter().filter(|switched| switched.to.name() == to);
            times.map(|switched| switched.programmed_ms / 1000.0).reduce(f64::max)
        };
        if self.switches > 0 {
            let bars = Bars {
                unit: "s",
                series: vec![("to iptables", "c2"), ("to IPVS", "c1")],
                groups: groups(&|run| vec![programme(run, "iptables"), programme(run, "ipvs")]),
            };
            page.figure("Time to programme", "the longest of the switches, both families together", &bars.svg());
        } else {
            let longest = |run: &Run| run.restarts.iter().map(|one| one.in_sync_ms / 1000.0).reduce(f64::max);
            let bars =
                Bars { unit: "s", series: vec![("until in sync", "c3")], groups: groups(&|run| vec![longest(run)]) };
            page.figure("Restart", "the longest, from the new process's start", &bars.svg());
        }
        let bars = Bars {
            unit: "ms",
            series: vec![("longest gap", "c5")],
            groups: groups(&|run| vec![Some(run.longest_gap_ms())]),
        };
        page.figure("Longest gap", "between two answers on one connection or flow", &bars.svg());
    }
}

impl Run {
    fn show(&self, page: &mut Page) {
        page.heading(&format!("{} services × {} endpoints", self.services, self.endpoints));
        if let Some(because) = &self.only_mode_because {
            page.text(&format!("This kernel has one mode only: {because}. Measured were restarts of the daemon."));
        }
        let over_time =
            |of: fn(&Second) -> f64| self.timeline.iter().map(|one| (one.at_ms / 1000.0, of(one))).collect();
        let series = |name: &str, class, points| Series { name: name.to_owned(), class, points };
        let answers = Lines {
            unit: "/s",
            height: 260.0,
            series: vec![
                series("answers a second", "c3", over_time(|one| f64::from(one.answered) * 4.0)),
                series("not answered", "bad", over_time(|one| f64::from(one.not_answered) * 4.0)),
            ],
            bands: self.bands(),
            marks: self.marks(),
        };
        page.figure("Answers", "all traffic together; shaded by the mode that serves new connections, dashed where somebody asked for a switch or restart", &answers.svg());
        let gaps = Lines {
            unit: "ms",
            height: 220.0,
            series: vec![
                series("longest gap", "c5", over_time(|one| one.longest_gap_ms)),
                series("the load generator itself stood still for", "c6", over_time(|one| one.late_ms)),
            ],
            bands: self.bands(),
            marks: self.marks(),
        };
        page.figure("Gaps", "between two answers of one connection, the pause between two messages included; a new connection's is all of its time", &gaps.svg());
        self.switching(page);
        let bars = Bars {
            unit: "ms",
            series: vec![
                ("first packet p50", "c1"),
                ("first packet p99", "c4"),
                ("message p50", "c3"),
                ("message p99", "c2"),
            ],
            groups: self
                .periods
                .iter()
                .filter(|named| named.name == "before" || named.name.starts_with("after"))
                .map(|named| {
                    let (new, talk) = (&named.period.connections, &named.period.messages);
                    let values = [new.p50_ms, new.p99_ms, talk.p50_ms, talk.p99_ms].map(Some).to_vec();
                    (format!("{}: {}", named.name, named.mode.name()), values)
                })
                .collect(),
        };
        page.figure("Latency in each mode", "before and after each switch", &bars.svg());
        page.table(&self.total_rows());
        page.table(&self.period_rows());
        for (cause, count) in &self.affinity_causes {
            page.text(&format!("Affinity broken {count} times: {cause}."));
        }
        for (problem, count) in self.problems.iter().take(10) {
            page.text(&format!("{count} × {problem}"));
        }
    }

    fn switching(&self, page: &mut Page) {
        if !self.switches.is_empty() {
            let bars = Bars {
                unit: "s",
                series: vec![("programme", "c1"), ("until it serves", "c3"), ("processor time", "c6")],
                groups: self
                    .switches
                    .iter()
                    .map(|switched| {
                        let serves = switched.in_force_ms.map(|ms| ms / 1000.0);
                        let values = vec![Some(switched.programmed_ms / 1000.0), serves, Some(switched.processor)];
                        (format!("{} to {}", switched.number, switched.to.name()), values)
                    })
                    .collect(),
            };
            page.figure("What a switch costs", "the old mode serves until the new one does", &bars.svg());
            page.table(&self.switch_rows());
        }
        if !self.restarts.is_empty() {
            let bars = Bars {
                unit: "s",
                series: vec![("until in sync", "c3"), ("processor time", "c6")],
                groups: self
                    .restarts
                    .iter()
                    .map(|one| {
                        (
                            format!("{}: {}", one.number, one.how),
                            vec![Some(one.in_sync_ms / 1000.0), Some(one.processor)],
                        )
                    })
                    .collect(),
            };
            page.figure("What a restart costs", "from the new process's start", &bars.svg());
            page.table(&self.restart_rows());
        }
    }

    /// Which mode served when, in seconds.
    fn bands(&self) -> Vec<(f64, f64, &'static str, String)> {
        let band = |named: &super::report::Named| {
            let from = named.period.from_ms / 1000.0;
            (from, from + named.period.seconds, named.mode.name())
        };
        let mut bands: Vec<(f64, f64, &'static str, String)> = Vec::new();
        for (from, to, mode) in self.periods.iter().map(band) {
            match bands.last_mut() {
                Some(last) if last.2 == mode => last.1 = to,
                _ => bands.push((from, to, mode, mode.to_owned())),
            }
        }
        bands
    }

    fn marks(&self) -> Vec<(f64, String)> {
        let switches = self.switches.iter().map(|one| (one.at_ms / 1000.0, format!("switch {} asked for", one.number)));
        let restarts = self.restarts.iter().map(|one| (one.at_ms / 1000.0, format!("restart {}", one.number)));
        switches.chain(restarts).collect()
    }
}
