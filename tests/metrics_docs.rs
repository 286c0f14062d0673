//! docs/metrics.md names every metric that there can be, with its type and labels, and no other.

use kube_ipvs::observe::metrics::Metrics;
use std::collections::BTreeSet;

#[test]
fn every_metric_is_documented() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");
    let text = std::fs::read_to_string(path).unwrap();
    let documented: BTreeSet<(String, String, String)> = text.lines().filter_map(row).collect();
    let described: BTreeSet<(String, String, String)> = Metrics::new()
        .unwrap()
        .described()
        .into_iter()
        .map(|metric| (metric.name, metric.kind.to_owned(), metric.labels.join(", ")))
        .collect();
    let missing: Vec<_> = described.difference(&documented).collect();
    let wrong: Vec<_> = documented.difference(&described).collect();
    assert!(missing.is_empty() && wrong.is_empty(), "not as documented: {missing:#?}\nnot there: {wrong:#?}");
}

/// A row of a table of metrics: name, type, labels, and more.
fn row(line: &str) -> Option<(String, String, String)> {
    let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
    let [name, kind, labels, ..] = cells.as_slice() else { return None };
    let is_metric = matches!(*kind, "counter" | "gauge" | "histogram");
    let mut labels: Vec<&str> = labels.split(',').map(|label| label.trim().trim_matches('`')).collect();
    labels.sort_unstable();
    labels.retain(|label| !label.is_empty());
    is_metric.then(|| (name.trim_matches('`').to_owned(), (*kind).to_owned(), labels.join(", ")))
}
