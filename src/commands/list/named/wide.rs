//! `-o wide`: columns for people. Widths follow the names, not the kernel's table, so that lines come out as it is read.

use super::super::args::Colors;
use super::row::{RealRow, ServerRow};
use crate::commands::names::Names;
use crate::commands::output;
use std::fmt::Write;

const GREEN: &str = "32";
const YELLOW: &str = "33";
const RED: &str = "31";
const DIM: &str = "2";
const BOLD: &str = "1";

/// Whether there are colours.
pub fn colored(when: Colors) -> bool {
    match when {
        Colors::Always => true,
        Colors::Never => false,
        Colors::Auto => output::colors_fit(),
    }
}

/// The columns.
#[derive(Debug)]
pub struct Wide {
    colored: bool,
    service: usize,
    kind: usize,
    place: usize,
    scheduler: usize,
    endpoint: usize,
    pod: usize,
    node: usize,
    zone: usize,
}

impl Wide {
    /// Wide enough for these virtual servers and for every endpoint that has a name.
    pub fn new<'a>(colored: bool, names: &Names, rows: impl Iterator<Item = &'a ServerRow>) -> Self {
        let mut wide =
            Self { colored, service: 7, kind: 4, place: 7, scheduler: 9, endpoint: 21, pod: 3, node: 4, zone: 4 };
        let widen = |width: &mut usize, text: usize| *width = (*width).max(text);
        for row in rows {
            widen(&mut wide.service, row.name().len());
            widen(&mut wide.kind, row.kind_name().len());
            widen(&mut wide.place, row.place().len());
            widen(&mut wide.scheduler, row.scheduler.len());
        }
        let slices = names.services().iter().flat_map(|service| &service.slices);
        for endpoint in slices.flat_map(|slice| &slice.endpoints) {
            if endpoint.address.is_ipv6() {
                wide.endpoint = 29;
            }
            widen(&mut wide.pod, endpoint.pod.len());
            widen(&mut wide.node, endpoint.node.len());
            widen(&mut wide.zone, endpoint.zone.len());
        }
        wide
    }

    /// The titles.
    pub fn begin(&self, text: &mut String) {
        let Self { service, kind, place, scheduler, endpoint, pod, node, zone, .. } = *self;
        let start = text.len();
        let _ = writeln!(
            text,
            "{:<service$} {:<kind$} {:<place$} {:<scheduler$} {:>10}",
            "SERVICE", "KIND", "ADDRESS", "SCHEDULER", "CONNS"
        );
        let _ = writeln!(
            text,
            "  -> {:<endpoint$} {:<pod$} {:<node$} {:<zone$} {:<11} {:<7} {:>6} {:>7} {:>8}",
            "ENDPOINT", "POD", "NODE", "ZONE", "STATE", "FORWARD", "WEIGHT", "ACTIVE", "INACTIVE"
        );
        if self.colored {
            let titles = text.split_off(start);
            titles.lines().for_each(|line| {
                let _ = writeln!(text, "\x1b[{BOLD}m{line}\x1b[0m");
            });
        }
    }

    /// A virtual server with its real servers.
    pub fn server(&self, row: &ServerRow, text: &mut String) {
        let Self { service, kind, place, scheduler, .. } = *self;
        let name = row.name();
        let name = if name.is_empty() { "-" } else { &name };
        let color = if row.kind == "foreign" { DIM } else { BOLD };
        self.paint(text, color, &format!("{name:<service$} {:<kind$}", row.kind_name()));
        let _ = write!(text, " {:<place$} {:<scheduler$} {:>10}", row.place(), row.scheduler, row.connections);
        if let Some(seconds) = row.persistent {
            let _ = write!(text, "  persistent {seconds}");
        }
        if row.refused > 0 {
            let _ = write!(text, "  refused {}", row.refused);
        }
        text.push('\n');
        for real in &row.real_servers {
            self.real_server(real, text);
        }
        if row.real_servers.is_empty() {
            text.push_str("  -> ");
            self.paint(text, RED, "no endpoints");
            text.push('\n');
        }
    }

    fn real_server(&self, real: &RealRow, text: &mut String) {
        let Self { endpoint, pod, node, zone, .. } = *self;
        let place = std::net::SocketAddr::new(real.address, real.port).to_string();
        let _ = write!(
            text,
            "  -> {place:<endpoint$} {:<pod$} {:<node$} {:<zone$} ",
            dash(&real.pod),
            dash(&real.node),
            dash(&real.zone)
        );
        let color = match real.state {
            "serving" => GREEN,
            "draining" | "terminating" => YELLOW,
            "not-ready" | "unlisted" => RED,
            _ => DIM,
        };
        self.paint(text, color, &format!("{:<11}", real.state));
        let _ = write!(text, " {:<7} {:>6} {:>7} {:>8}", real.forward, real.weight, real.active, real.inactive);
        if let Some(left) = real.drain_left {
            let _ = write!(text, "  {}m{:02}s left", left / 60, left % 60);
        }
        text.push('\n');
    }

    fn paint(&self, text: &mut String, color: &str, what: &str) {
        let _ = if self.colored { write!(text, "\x1b[{color}m{what}\x1b[0m") } else { write!(text, "{what}") };
    }
}

fn dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}
