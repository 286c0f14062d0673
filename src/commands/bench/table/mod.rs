//! `bench table`: every figure of one mode at several sizes, in one table. Each comes from the benchmark that measures it, started
//! as a program of its own; what it is compared with was measured in the same run.
//!
//! | file | what |
//! |---|---|
//! | `parts.rs` | the benchmarks, and what of theirs goes into a row |

mod parts;

use self::parts::{Part, Row};
use super::columns::{aligned, figure};
use super::machine::Machine;
use super::synthetic::Synthetic;
use super::{PlainOutput, SingleMode};
use anyhow::Context;
use clap::Args;
use serde::Serialize;
use std::process::ExitCode;

/// Arguments of `bench table`. Exit status 1 if anything could not be measured.
#[derive(Debug, Clone, Args)]
pub struct TableArgs {
    /// The mode to measure
    #[arg(long, value_enum)]
    mode: SingleMode,
    /// How many services; several with commas
    #[arg(long, value_name = "N[,N…]", value_delimiter = ',', default_value = "100,1000,10000,44000",
          value_parser = clap::value_parser!(u32).range(6..=i64::from(Synthetic::MOST_SERVICES)))]
    services: Vec<u32>,
    /// How many endpoints each service has; several with commas
    #[arg(long, value_name = "M[,M…]", value_delimiter = ',', default_value = "1,5",
          value_parser = clap::value_parser!(u32).range(1..=100))]
    endpoints: Vec<u32>,
    /// How often each cold start is measured
    #[arg(long, value_name = "R", default_value_t = 1)]
    runs: u32,
    /// Single changes in each
    #[arg(long, value_name = "C", default_value_t = 10)]
    changes: u32,
    /// Seconds of 200 changes a second
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    churn: u32,
    /// Seconds in which the daemon's memory is looked at while nothing changes but audits come
    #[arg(long, value_name = "SECONDS", default_value_t = 45, value_parser = clap::value_parser!(u32).range(..=600))]
    rest: u32,
    /// Seconds for ipvsadm and ip, after which they are given up
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    peer_timeout: u32,
    /// Only these benchmarks; several with commas
    #[arg(long, value_enum, value_name = "PART", value_delimiter = ',')]
    only: Vec<Part>,
    /// How results are printed
    #[arg(long, value_enum, default_value_t)]
    output: PlainOutput,
}

/// Everything that was measured.
#[derive(Debug, Serialize)]
struct Report {
    benchmark: &'static str,
    mode: SingleMode,
    machine: Machine,
    rows: Vec<Row>,
}

/// Measures and prints.
///
/// # Errors
/// When results can't be printed. What could not be measured is told with the others.
pub fn run(args: &TableArgs) -> anyhow::Result<ExitCode> {
    let machine = Machine::read();
    eprintln!("bench: {}", machine.describe());
    let parts: Vec<Part> =
        Part::of(args.mode).into_iter().filter(|part| args.only.is_empty() || args.only.contains(part)).collect();
    anyhow::ensure!(!parts.is_empty(), "{} mode has none of these benchmarks", args.mode.name());
    let mut report = Report { benchmark: "table", mode: args.mode, machine, rows: Vec::new() };
    for services in &args.services {
        for endpoints in &args.endpoints {
            let mut row = Row::new(*services, *endpoints);
            for part in &parts {
                eprintln!("bench: {services} × {endpoints}: {}", part.name());
                row.measure(*part, args);
            }
            report.rows.push(row);
            report.rows.last().into_iter().for_each(|row| eprintln!("bench: {}", report.row(row).join("  ")));
        }
    }
    match args.output {
        PlainOutput::Json => println!("{}", serde_json::to_string_pretty(&report).context("writing the results")?),
        PlainOutput::Table => print!("{}", report.table()),
    }
    let whole = report.rows.iter().all(|row| row.missing.is_empty());
    Ok(if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The columns: what stands above each, the figure, and which of ours it is compared with.
type Column = (&'static str, fn(&Row) -> Option<f64>, Option<fn(&Row) -> Option<f64>>);

const COLUMNS: [Column; 14] = [
    ("cold start s", |row| row.cold_start_s, None),
    ("bare loop s", |row| row.floor_s, Some(|row| row.cold_start_s)),
    ("others s", |row| row.peer_s, Some(|row| row.cold_start_s)),
    ("change ms", |row| row.change_ms, None),
    ("99 in 100", |row| row.change_p99_ms, None),
    ("bare loop ms", |row| row.change_floor_ms, Some(|row| row.change_ms)),
    ("messages", |row| row.messages_per_change, None),
    ("churn p99 ms", |row| row.churn_p99_ms, None),
    ("audit s", |row| row.audit_s, None),
    ("longest slice ms", |row| row.audit_slice_ms, None),
    ("daemon MiB", |row| row.daemon_mib, None),
    ("list s", |row| row.list_s, None),
    ("ipvsadm -Ln s", |row| row.ipvsadm_list_s, Some(|row| row.list_s)),
    ("first packet ms", |row| row.first_packet_ms, None),
];

impl Report {
    fn table(&self) -> String {
        let mut heads = vec!["services × endpoints".to_owned()];
        heads.extend(COLUMNS.iter().filter(|column| self.has(column)).map(|(head, ..)| (*head).to_owned()));
        let rows: Vec<Vec<String>> = std::iter::once(heads).chain(self.rows.iter().map(|row| self.row(row))).collect();
        let mut text = aligned(&rows);
        text.push_str("In brackets: how many times as long, or as fast, as ours in the same run.\n");
        for row in &self.rows {
            for (what, reason) in &row.missing {
                text.push_str(&format!("{} × {}, {what}: {reason}\n", row.services, row.endpoints));
            }
        }
        text
    }

    /// Whether any row has such a figure.
    fn has(&self, (_, figure, _): &Column) -> bool {
        self.rows.iter().any(|row| figure(row).is_some())
    }

    fn row(&self, row: &Row) -> Vec<String> {
        let cell = |(_, value, ours): &Column| {
            let Some(value) = value(row) else { return "-".to_owned() };
            let ours = ours.and_then(|ours| ours(row)).filter(|ours| *ours > 0.0);
            let ratio = ours.map_or_else(String::new, |ours| format!(" ({:.2})", value / ours));
            format!("{}{ratio}", figure(value))
        };
        let cells = COLUMNS.iter().filter(|column| self.has(column)).map(cell);
        std::iter::once(format!("{} × {}", row.services, row.endpoints)).chain(cells).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_stand_with_what_they_are_compared_with() {
        let mut row = Row::new(10_000, 5);
        (row.cold_start_s, row.floor_s, row.change_ms) = (Some(1.3), Some(1.0), Some(2.0));
        row.missing.insert("others", "ip -batch was not done after 60 s".to_owned());
        let report = Report {
            benchmark: "table",
            mode: SingleMode::Ipvs,
            machine: Machine::read(),
            rows: vec![row, Row::new(100, 1)],
        };
        let table = report.table();
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines[0], "services × endpoints  cold start s  bare loop s  change ms");
        assert_eq!(lines[1], "10000 × 5                     1.30  1.00 (0.77)       2.00");
        assert_eq!(lines[2], "100 × 1                          -            -          -");
        assert_eq!(lines[4], "10000 × 5, others: ip -batch was not done after 60 s");
    }
}
