//! The names, types, labels and buckets are upstream's; what the reconciler tells becomes these numbers; a parser takes the
//! text.

use super::*;
use crate::backend::{Effort, Report, RuleCount};
use crate::model::{Changes, IpFamily};
use crate::reconcile::{Mode, Synced, WithoutLocal};
use prometheus_parse::{Sample, Scrape, Value};
use std::time::{Duration, Instant, SystemTime};

/// pkg/proxy/metrics/metrics.go of Kubernetes 1.36, for ipvs and iptables mode: name, type, labels.
const UPSTREAM: &[(&str, &str, &[&str])] = &[
    ("sync_proxy_rules_duration_seconds", "histogram", &["ip_family"]),
    ("sync_full_proxy_rules_duration_seconds", "histogram", &["ip_family"]),
    ("sync_partial_proxy_rules_duration_seconds", "histogram", &["ip_family"]),
    ("sync_proxy_rules_last_timestamp_seconds", "gauge", &["ip_family"]),
    ("sync_proxy_rules_last_queued_timestamp_seconds", "gauge", &["ip_family"]),
    ("network_programming_duration_seconds", "histogram", &["ip_family"]),
    ("sync_proxy_rules_endpoint_changes_pending", "gauge", &[]),
    ("sync_proxy_rules_service_changes_pending", "gauge", &[]),
    ("sync_proxy_rules_endpoint_changes_total", "counter", &[]),
    ("sync_proxy_rules_service_changes_total", "counter", &[]),
    ("sync_proxy_rules_no_local_endpoints_total", "gauge", &["ip_family", "traffic_policy"]),
    ("proxy_healthz_total", "counter", &["code"]),
    ("proxy_livez_total", "counter", &["code"]),
    ("conntrack_reconciler_sync_duration_seconds", "histogram", &["ip_family"]),
    ("conntrack_reconciler_deleted_entries_total", "counter", &["ip_family"]),
    ("sync_proxy_rules_iptables_restore_failures_total", "counter", &["ip_family"]),
    ("sync_proxy_rules_iptables_partial_restore_failures_total", "counter", &["ip_family"]),
    ("sync_proxy_rules_iptables_total", "gauge", &["ip_family", "table"]),
    ("sync_proxy_rules_iptables_last", "gauge", &["ip_family", "table"]),
    ("iptables_ct_state_invalid_dropped_packets_total", "counter", &[]),
    ("iptables_localhost_nodeports_accepted_packets_total", "counter", &[]),
];

fn scrape(metrics: &Metrics) -> Scrape {
    let text = metrics.text().unwrap();
    let lines = text.lines().map(|line| Ok(line.to_owned()));
    Scrape::parse(lines).unwrap_or_else(|error| panic!("{error}:\n{text}"))
}

fn find<'a>(scrape: &'a Scrape, name: &str, labels: &[(&str, &str)]) -> Option<&'a Sample> {
    let fits = |sample: &&Sample| {
        sample.metric == name && labels.iter().all(|(key, value)| sample.labels.get(key) == Some(*value))
    };
    scrape.samples.iter().find(fits)
}

fn value(scrape: &Scrape, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    match find(scrape, name, labels)?.value {
        Value::Counter(value) | Value::Gauge(value) | Value::Untyped(value) => Some(value),
        Value::Histogram(_) | Value::Summary(_) => None,
    }
}

#[test]
fn none_of_upstreams_is_missing() {
    let described = Metrics::new().unwrap().described();
    for (name, kind, labels) in UPSTREAM {
        let name = format!("kubeproxy_{name}");
        let found = described.iter().find(|metric| metric.name == name);
        let found = found.unwrap_or_else(|| panic!("{name} is missing"));
        assert_eq!((found.kind, found.labels.iter().map(String::as_str).collect::<Vec<_>>()), (*kind, labels.to_vec()));
        assert!(found.help.starts_with("[ALPHA] "), "{name}: {}", found.help);
    }
    let kubeproxy = described.iter().filter(|metric| metric.name.starts_with("kubeproxy_")).count();
    assert_eq!(kubeproxy, UPSTREAM.len(), "and none is made up");
    let mut names: Vec<&str> = described.iter().map(|metric| &*metric.name).collect();
    names.dedup();
    assert_eq!(names.len(), described.len(), "each once");
}

/// As many bucket bounds as upstream has, and the same.
#[test]
fn buckets() {
    let (metrics, health) = (Metrics::new().unwrap(), Health::new(Duration::from_secs(30)));
    let mut meter = metrics.meter(health);
    let report = Report::default();
    meter.synced(IpFamily::V4, &Synced { mode: Mode::Iptables, full: true, report: &report });
    meter.in_force(IpFamily::V4, &[SystemTime::now() - Duration::from_millis(300)], Instant::now());
    let scrape = scrape(&metrics);
    let bounds = |name: &str| -> Vec<f64> {
        let Value::Histogram(counts) = &find(&scrape, name, &[("ip_family", "IPv4")]).unwrap().value else { panic!() };
        counts.iter().map(|count| count.less_than).collect()
    };
    let sync = bounds("kubeproxy_sync_proxy_rules_duration_seconds");
    assert_eq!(sync.len(), 16);
    assert_eq!((sync[0], sync[1], sync[14], sync[15]), (0.001, 0.002, 16.384, f64::INFINITY));
    let network = bounds("kubeproxy_network_programming_duration_seconds");
    assert_eq!(network.len(), 1 + 2 + 59 + 12 + 7 + 1);
    assert_eq!(network[..5], [0.0, 0.25, 0.5, 1.0, 2.0]);
    assert_eq!(network[60..64], [58.0, 59.0, 60.0, 65.0]);
    assert_eq!(network[72..], [110.0, 115.0, 120.0, 150.0, 180.0, 210.0, 240.0, 270.0, 300.0, f64::INFINITY]);
}

#[test]
fn what_is_told_becomes_numbers() {
    let (metrics, health) = (Metrics::new().unwrap(), Health::new(Duration::from_secs(30)));
    let mut meter = metrics.meter(health);
    let changes = |services, slices| Changes { services, slices };
    meter.changes(changes(5, 7), changes(5, 7));
    meter.changes(changes(6, 9), changes(1, 2));
    meter.queued(IpFamily::V4, true, Instant::now());
    let rules = [("nat", RuleCount { total: 40, written: 12 })].into();
    let effort = Effort { refused: 2, ..Effort::default() };
    let report = Report { done: 12, rules, effort, duration: Duration::from_millis(3), ..Report::default() };
    meter.synced(IpFamily::V4, &Synced { mode: Mode::Iptables, full: false, report: &report });
    meter.without_local(IpFamily::V4, WithoutLocal { internal: 1, external: 2 });
    meter.flows(IpFamily::V6, Duration::from_millis(1), 4);
    let told = scrape(&metrics);
    let v4 = ("ip_family", "IPv4");
    for (name, labels, expected) in [
        ("kubeproxy_sync_proxy_rules_service_changes_total", &[][..], 6.0),
        ("kubeproxy_sync_proxy_rules_endpoint_changes_total", &[], 9.0),
        ("kubeproxy_sync_proxy_rules_service_changes_pending", &[], 1.0),
        ("kubeproxy_sync_proxy_rules_endpoint_changes_pending", &[], 2.0),
        ("kubeproxy_sync_proxy_rules_iptables_total", &[v4, ("table", "nat")], 40.0),
        ("kubeproxy_sync_proxy_rules_iptables_last", &[v4, ("table", "nat")], 12.0),
        ("kubeproxy_sync_proxy_rules_iptables_restore_failures_total", &[v4], 2.0),
        ("kubeproxy_sync_proxy_rules_iptables_partial_restore_failures_total", &[v4], 2.0),
        ("kubeproxy_sync_proxy_rules_no_local_endpoints_total", &[v4, ("traffic_policy", "external")], 2.0),
        ("kubeproxy_conntrack_reconciler_deleted_entries_total", &[("ip_family", "IPv6")], 4.0),
        ("kube_ipvs_sync_steps_total", &[v4, ("mode", "iptables")], 12.0),
        ("kubernetes_build_info", &[("major", "1"), ("minor", "36")], 1.0),
    ] {
        assert_eq!(value(&told, name, labels), Some(expected), "{name}");
    }
    assert!(value(&told, "kubeproxy_sync_proxy_rules_last_timestamp_seconds", &[v4]).unwrap() > 1e9);
    assert!(find(&told, "kubeproxy_sync_full_proxy_rules_duration_seconds", &[]).is_none(), "it was a partial one");
    // Tables of a mode that is gone are not told any more.
    meter.synced(IpFamily::V4, &Synced { mode: Mode::Ipvs, full: true, report: &Report::default() });
    assert!(find(&scrape(&metrics), "kubeproxy_sync_proxy_rules_iptables_total", &[]).is_none());
}
