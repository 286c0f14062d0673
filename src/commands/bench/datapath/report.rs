//! All results of a call: as JSON, for a terminal, and as a page.

use crate::commands::bench::chart::Bars;
use crate::commands::bench::columns::{aligned, cells, figure};
use crate::commands::bench::load::Period;
use crate::commands::bench::machine::Machine;
use crate::commands::bench::page::Page;
use serde::Serialize;
use std::time::Duration;

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Always `datapath`.
    pub benchmark: &'static str,
    /// The running kernel.
    pub kernel: String,
    /// Services of the largest size.
    pub services: u32,
    /// Requests that ended.
    pub requests: u64,
    /// Of those, the ones that were not answered, for whatever reason.
    pub failed: u64,
    /// Connections at once while requests a second were counted.
    pub parallel: u32,
    /// Seconds for which each figure was measured.
    pub seconds: f64,
    /// Why only one mode was measured.
    pub only_mode_because: Option<String>,
    /// On what it was measured.
    pub machine: Machine,
    /// Each size in each mode.
    pub measured: Vec<Measured>,
}

/// One size in one mode.
#[derive(Debug, Serialize)]
pub struct Measured {
    /// Services.
    pub services: u32,
    /// Endpoints of each.
    pub endpoints: u32,
    /// The mode.
    pub mode: String,
    /// From a connection's first packet to its answer, in milliseconds, one connection at a time: the middle one.
    pub first_packet_p50_ms: f64,
    /// 99 of a hundred took no longer.
    pub first_packet_p99_ms: f64,
    /// Requests a second, one connection each, one at a time.
    pub alone_per_second: f64,
    /// Requests a second, one connection each, several at once.
    pub requests_per_second: f64,
    /// Requests in all.
    pub requests: u64,
    /// Those that were not answered.
    pub not_answered: u64,
}

impl Measured {
    /// What two loops found: one connection at a time, and several.
    pub fn of(services: u32, endpoints: u32, mode: &str, alone: &Period, together: &Period) -> Self {
        let (first, many) = (&alone.connections, &together.connections);
        Self {
            services,
            endpoints,
            mode: mode.to_owned(),
            first_packet_p50_ms: first.p50_ms,
            first_packet_p99_ms: first.p99_ms,
            alone_per_second: alone.answers_per_second(),
            requests_per_second: together.answers_per_second(),
            requests: first.requests + many.requests,
            not_answered: first.requests + many.requests - first.answered - many.answered,
        }
    }

    /// In a line.
    pub fn in_short(&self) -> String {
        format!(
            "{} services, {} mode: first packet {} ms, {} requests/s, {} of {} not answered",
            self.services,
            self.mode,
            figure(self.first_packet_p50_ms),
            figure(self.requests_per_second),
            self.not_answered,
            self.requests
        )
    }
}

impl Report {
    /// Nothing yet.
    pub fn new(machine: Machine, parallel: u32, duration: Duration) -> Self {
        Self {
            benchmark: "datapath",
            kernel: machine.kernel.clone(),
            services: 0,
            requests: 0,
            failed: 0,
            parallel,
            seconds: duration.as_secs_f64(),
            only_mode_because: None,
            machine,
            measured: Vec::new(),
        }
    }

    /// Enters a size in a mode.
    pub fn enter(&mut self, measured: Measured) {
        self.services = self.services.max(measured.services);
        self.requests += measured.requests;
        self.failed += measured.not_answered;
        self.measured.push(measured);
    }

    fn rows(&self) -> Vec<Vec<String>> {
        let parallel = format!("{} at once /s", self.parallel);
        let header =
            cells(["services", "mode", "first packet p50 ms", "p99 ms", "one at a time /s", &parallel, "not answered"]);
        let row = |one: &Measured| {
            vec![
                format!("{} × {}", one.services, one.endpoints),
                one.mode.clone(),
                figure(one.first_packet_p50_ms),
                figure(one.first_packet_p99_ms),
                figure(one.alone_per_second),
                figure(one.requests_per_second),
                one.not_answered.to_string(),
            ]
        };
        std::iter::once(header).chain(self.measured.iter().map(row)).collect()
    }

    fn about_modes(&self) -> String {
        self.only_mode_because.as_ref().map_or(String::new(), |because| format!("iptables mode only: {because}"))
    }

    /// For people.
    pub fn table(&self) -> String {
        let (version, build) = (self.machine.version, self.machine.build);
        let about = self.about_modes();
        let about = if about.is_empty() { about } else { format!("\n{about}\n") };
        format!(
            "kube-ipvs {version} bench datapath, {build} build\n{}\n\n{}{about}\n\
             new connections from a pod to the last service, one question each; first packet: until its answer\n",
            self.machine.describe(),
            aligned(&self.rows())
        )
    }

    /// One file with plots.
    pub fn page(&self) -> String {
        let machine = &self.machine;
        let beneath = format!("kube-ipvs {}, {} build, {}", machine.version, machine.build, machine.describe());
        let mut page = Page::new("What a packet pays for the number of services", &beneath);
        if self.only_mode_because.is_some() {
            page.text(&self.about_modes());
        }
        let groups = |of: &dyn Fn(&Measured) -> Vec<f64>| {
            let name = |one: &Measured| format!("{}, {}", one.services, one.mode);
            self.measured.iter().map(|one| (name(one), of(one).into_iter().map(Some).collect())).collect()
        };
        let bars = Bars {
            unit: "ms",
            series: vec![("p50", "c1"), ("p99", "c4")],
            groups: groups(&|one| vec![one.first_packet_p50_ms, one.first_packet_p99_ms]),
        };
        page.figure("First packet", "until its answer, one connection at a time", &bars.svg());
        let bars = Bars {
            unit: "/s",
            series: vec![("one at a time", "c3"), ("several at once", "c2")],
            groups: groups(&|one| vec![one.alone_per_second, one.requests_per_second]),
        };
        page.figure("Requests a second", "a connection each, to the last service", &bars.svg());
        page.table(&self.rows());
        page.finish()
    }
}
