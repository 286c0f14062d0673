//! `-o wide`: columns for people. Widths follow the names, not the kernel's table, so that lines come out as it is read.

use super::super::args::Colors;
use super::super::columns;
use super::row::{RealRow, ServerRow};
use crate::commands::names::Names;
use crate::commands::output;
use crate::model::Widths;
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
    /// The end of the last line, and of what: most real servers of a table have the same.
    end: (Option<(&'static str, [u32; 3])>, String),
}

impl Wide {
    /// Wide enough for every endpoint that has a name.
    pub fn new(colored: bool, names: &Names) -> Self {
        let end = (None, String::new());
        let mut wide =
            Self { colored, service: 7, kind: 4, place: 7, scheduler: 9, endpoint: 21, pod: 3, node: 4, zone: 4, end };
        let Widths { pod, node, zone, ipv6 } = names.widths();
        if ipv6 {
            wide.endpoint = 29;
        }
        widen(&mut wide.pod, pod);
        widen(&mut wide.node, node);
        widen(&mut wide.zone, zone);
        wide
    }

    /// Wide enough for this virtual server, too. `text` is for measuring.
    pub fn expect(&mut self, row: &ServerRow<'_>, text: &mut String) {
        let mut written = |write: &dyn Fn(&mut String)| {
            text.clear();
            write(text);
            text.len()
        };
        widen(&mut self.service, written(&|text| row.name(text)));
        widen(&mut self.kind, row.kind_name().len());
        widen(&mut self.place, written(&|text| row.place(text)));
        widen(&mut self.scheduler, row.scheduler.len());
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
    pub fn server(&mut self, row: &ServerRow<'_>, text: &mut String) {
        let Self { service, kind, place, scheduler, .. } = *self;
        self.begin_color(text, if row.kind == "foreign" { DIM } else { BOLD });
        let start = text.len();
        row.name(text);
        if text.len() == start {
            text.push('-');
        }
        columns::pad(text, text.len() - start, service);
        text.push(' ');
        columns::left(text, &row.kind_name(), kind);
        self.end_color(text);
        text.push(' ');
        let start = text.len();
        row.place(text);
        columns::pad(text, text.len() - start, place);
        text.push(' ');
        columns::left(text, &row.scheduler, scheduler);
        let _ = write!(text, " {:>10}", row.connections);
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

    fn real_server(&mut self, real: &RealRow<'_>, text: &mut String) {
        text.push_str("  -> ");
        let start = text.len();
        columns::place(text, real.address, real.port);
        columns::pad(text, text.len() - start, self.endpoint);
        for (word, width) in [(&real.pod, self.pod), (&real.node, self.node), (&real.zone, self.zone)] {
            text.push(' ');
            columns::left(text, dash(word), width);
        }
        text.push(' ');
        let color = match real.state {
            "serving" => GREEN,
            "draining" | "terminating" => YELLOW,
            "not-ready" | "unlisted" => RED,
            _ => DIM,
        };
        self.begin_color(text, color);
        columns::left(text, real.state, 11);
        self.end_color(text);
        let numbers = [real.weight, real.active, real.inactive];
        let (of, end) = &mut self.end;
        if *of != Some((real.forward, numbers)) {
            *of = Some((real.forward, numbers));
            end.clear();
            let (forward, [weight, active, inactive]) = (real.forward, numbers);
            let _ = write!(end, " {forward:<7} {weight:>6} {active:>7} {inactive:>8}");
        }
        text.push_str(end);
        if let Some(left) = real.drain_left {
            let _ = write!(text, "  {}m{:02}s left", left / 60, left % 60);
        }
        text.push('\n');
    }

    fn paint(&self, text: &mut String, color: &str, what: &str) {
        self.begin_color(text, color);
        text.push_str(what);
        self.end_color(text);
    }

    fn begin_color(&self, text: &mut String, color: &str) {
        if self.colored {
            text.extend(["\x1b[", color, "m"]);
        }
    }

    fn end_color(&self, text: &mut String) {
        if self.colored {
            text.push_str("\x1b[0m");
        }
    }
}

fn widen(width: &mut usize, text: usize) {
    *width = (*width).max(text);
}

fn dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}
