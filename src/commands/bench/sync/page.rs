//! The results as an HTML page: plots, and the table as it is in a terminal.

use super::report::{Report, Size};
use super::trial::{Found, Step};
use crate::commands::bench::chart::Bars;
use crate::commands::bench::measure::spread;
use crate::commands::bench::page::Page;

impl Report {
    /// One file with plots.
    pub fn page(&self) -> String {
        let machine = &self.machine;
        let beneath = format!("kube-ipvs {}, {} build, {}", machine.version, machine.build, machine.describe());
        let mut page = Page::new("Bringing the kernel to what is desired", &beneath);
        let groups = |of: &[fn(&Found) -> f64]| -> Vec<(String, Vec<Option<f64>>)> {
            let values = |size: &Size| of.iter().map(|of| median(&size.trials, *of)).collect();
            self.sizes
                .iter()
                .map(|size| (format!("{} × {}, {}", size.services, size.endpoints, size.mode), values(size)))
                .collect()
        };
        let all = Bars {
            unit: "s",
            series: vec![("cold start", "c1"), ("its processor time", "c6"), ("read all, compare", "c3")],
            groups: groups(&[
                |found| found.cold.cost.wall,
                |found| found.cold.cost.processor(),
                |found| found.audit.cost.wall,
            ]),
        };
        page.figure("All services at once", "median of the runs", &all.svg());
        let changes = Bars {
            unit: "ms",
            series: vec![("endpoint replaced", "c1"), ("service added", "c3"), ("service removed", "c2")],
            groups: groups(&[
                |found| one(&found.endpoint_changed),
                |found| one(&found.service_added),
                |found| one(&found.service_removed),
            ]),
        };
        page.figure("One change", "from the new snapshot to the kernel's last word; median", &changes.svg());
        page.preformatted(&self.table());
        page.finish()
    }
}

fn median(trials: &[Found], of: fn(&Found) -> f64) -> Option<f64> {
    let mut values: Vec<f64> = trials.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len().checked_sub(1)? / 2).copied()
}

/// The middle one of several changes, in milliseconds.
fn one(steps: &[Step]) -> f64 {
    spread(steps, |step| step.cost.wall).map_or(0.0, |spread| spread.median.cost.wall * 1000.0)
}
