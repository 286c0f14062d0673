//! kube-proxy's metrics: names, types, labels, buckets and HELP texts of pkg/proxy/metrics/metrics.go, Kubernetes 1.36.
//! Those that the kernel counts are in `rules`. Gauges that are named `…_total` are gauges there as well.

use super::Described;
use prometheus::core::{Collector, Desc};
use prometheus::{
    Counter, CounterVec, Error, Gauge, GaugeVec, HistogramOpts, HistogramVec, Opts, Registry, exponential_buckets,
};

/// The release whose metrics and behaviour these are.
const RELEASE: (&str, &str) = ("1", "36");

/// The metrics.
#[derive(Debug)]
pub struct Upstream {
    pub sync_duration: HistogramVec,
    pub sync_full_duration: HistogramVec,
    pub sync_partial_duration: HistogramVec,
    pub sync_last_timestamp: GaugeVec,
    pub sync_last_queued_timestamp: GaugeVec,
    pub network_programming_duration: HistogramVec,
    pub endpoint_changes_pending: Gauge,
    pub endpoint_changes: Counter,
    pub service_changes_pending: Gauge,
    pub service_changes: Counter,
    pub no_local_endpoints: GaugeVec,
    pub proxy_healthz: CounterVec,
    pub proxy_livez: CounterVec,
    pub conntrack_duration: HistogramVec,
    pub conntrack_deleted: CounterVec,
    pub restore_failures: CounterVec,
    pub partial_restore_failures: CounterVec,
    pub rules_total: GaugeVec,
    pub rules_last: GaugeVec,
    pub build_info: GaugeVec,
    described: Vec<Described>,
}

impl Upstream {
    /// Makes and registers all.
    #[expect(clippy::too_many_lines, reason = "a list: an entry for each metric")]
    pub(super) fn register(registry: &Registry) -> Result<Self, Error> {
        let mut make = Maker { registry, described: Vec::new() };
        let durations = exponential_buckets(0.001, 2.0, 15)?;
        let family = &["ip_family"][..];
        let table = &["table", "ip_family"][..];
        let upstream = Self {
            sync_duration: make.histogram(
                "sync_proxy_rules_duration_seconds",
                "SyncProxyRules latency in seconds",
                &durations,
            )?,
            sync_full_duration: make.histogram(
                "sync_full_proxy_rules_duration_seconds",
                "SyncProxyRules latency in seconds for full resyncs",
                &durations,
            )?,
            sync_partial_duration: make.histogram(
                "sync_partial_proxy_rules_duration_seconds",
                "SyncProxyRules latency in seconds for partial resyncs",
                &durations,
            )?,
            sync_last_timestamp: make.gauges(
                "sync_proxy_rules_last_timestamp_seconds",
                "The last time proxy rules were successfully synced",
                family,
            )?,
            sync_last_queued_timestamp: make.gauges(
                "sync_proxy_rules_last_queued_timestamp_seconds",
                "The last time a sync of proxy rules was queued",
                family,
            )?,
            network_programming_duration: make.histogram(
                "network_programming_duration_seconds",
                "In Cluster Network Programming Latency in seconds",
                &network_buckets(),
            )?,
            endpoint_changes_pending: make
                .gauge("sync_proxy_rules_endpoint_changes_pending", "Pending proxy rules Endpoint changes")?,
            endpoint_changes: make
                .counter("sync_proxy_rules_endpoint_changes_total", "Cumulative proxy rules Endpoint changes")?,
            service_changes_pending: make
                .gauge("sync_proxy_rules_service_changes_pending", "Pending proxy rules Service changes")?,
            service_changes: make
                .counter("sync_proxy_rules_service_changes_total", "Cumulative proxy rules Service changes")?,
            no_local_endpoints: make.gauges(
                "sync_proxy_rules_no_local_endpoints_total",
                "Number of services with a Local traffic policy and no endpoints",
                &["traffic_policy", "ip_family"],
            )?,
            proxy_healthz: make.counters("proxy_healthz_total", "Cumulative proxy healthz HTTP status", &["code"])?,
            proxy_livez: make.counters("proxy_livez_total", "Cumulative proxy livez HTTP status", &["code"])?,
            conntrack_duration: make.histogram(
                "conntrack_reconciler_sync_duration_seconds",
                "ReconcileConntrackFlowsLatency latency in seconds",
                &durations,
            )?,
            conntrack_deleted: make.counters(
                "conntrack_reconciler_deleted_entries_total",
                "Cumulative conntrack flows deleted by conntrack reconciler",
                family,
            )?,
            restore_failures: make.counters(
                "sync_proxy_rules_iptables_restore_failures_total",
                "Cumulative proxy iptables restore failures",
                family,
            )?,
            partial_restore_failures: make.counters(
                "sync_proxy_rules_iptables_partial_restore_failures_total",
                "Cumulative proxy iptables partial restore failures",
                family,
            )?,
            rules_total: make.gauges(
                "sync_proxy_rules_iptables_total",
                "Total number of iptables rules owned by kube-proxy",
                table,
            )?,
            rules_last: make.gauges(
                "sync_proxy_rules_iptables_last",
                "Number of iptables rules written by kube-proxy in last sync",
                table,
            )?,
            build_info: make.build_info()?,
            described: make.described,
        };
        upstream.tell_build();
        Ok(upstream)
    }

    pub(super) fn described(&self) -> Vec<Described> {
        self.described.clone()
    }

    /// The release that is followed, and our own version behind it. There is no Go in it.
    fn tell_build(&self) {
        let (major, minor) = RELEASE;
        let version = format!("v{major}.{minor}.0+kube-ipvs.{}", env!("CARGO_PKG_VERSION"));
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let platform = format!("{}/{architecture}", std::env::consts::OS);
        // In the order of `build_info`.
        let values = ["", "rustc", "", "", &version, "", major, minor, &platform];
        self.build_info.with_label_values(&values).set(1.0);
    }
}

/// 0.25 s and 0.5 s, then every second to a minute, every 5 s to two, every 30 s to five. Upstream's way of putting them
/// together (`MergeBuckets`) begins with a bucket of 0.
fn network_buckets() -> Vec<f64> {
    let steps = |from: u32, step: u32, count: u32| (0..count).map(move |index| f64::from(from + index * step));
    [0.0, 0.25, 0.5].into_iter().chain(steps(1, 1, 59)).chain(steps(60, 5, 12)).chain(steps(120, 30, 7)).collect()
}

/// Makes metrics of the subsystem and registers them.
struct Maker<'a> {
    registry: &'a Registry,
    described: Vec<Described>,
}

impl Maker<'_> {
    /// As component-base puts it together: all of kube-proxy's own are of this stability.
    fn opts(name: &str, help: &str) -> Opts {
        Opts::new(format!("kubeproxy_{name}"), format!("[ALPHA] {help}"))
    }

    fn register<C: Collector + Clone + 'static>(&mut self, kind: &'static str, metric: C) -> Result<C, Error> {
        self.described.extend(metric.desc().into_iter().map(|desc| described(kind, desc)));
        self.registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn histogram(&mut self, name: &str, help: &str, buckets: &[f64]) -> Result<HistogramVec, Error> {
        let opts = HistogramOpts::from(Self::opts(name, help)).buckets(buckets.to_vec());
        self.register("histogram", HistogramVec::new(opts, &["ip_family"])?)
    }

    fn gauges(&mut self, name: &str, help: &str, labels: &[&str]) -> Result<GaugeVec, Error> {
        self.register("gauge", GaugeVec::new(Self::opts(name, help), labels)?)
    }

    fn gauge(&mut self, name: &str, help: &str) -> Result<Gauge, Error> {
        self.register("gauge", Gauge::with_opts(Self::opts(name, help))?)
    }

    fn counters(&mut self, name: &str, help: &str, labels: &[&str]) -> Result<CounterVec, Error> {
        self.register("counter", CounterVec::new(Self::opts(name, help), labels)?)
    }

    fn counter(&mut self, name: &str, help: &str) -> Result<Counter, Error> {
        self.register("counter", Counter::with_opts(Self::opts(name, help))?)
    }

    fn build_info(&mut self) -> Result<GaugeVec, Error> {
        let help = "[BETA] A metric with a constant '1' value labeled by major, minor, git version, git commit, git tree \
                    state, build date, Go version, and compiler from which Kubernetes was built, and platform on which it \
                    is running.";
        let labels = [
            "build_date",
            "compiler",
            "git_commit",
            "git_tree_state",
            "git_version",
            "go_version",
            "major",
            "minor",
            "platform",
        ];
        self.register("gauge", GaugeVec::new(Opts::new("kubernetes_build_info", help), &labels)?)
    }
}

/// What a registered metric is called.
pub(super) fn described(kind: &'static str, desc: &Desc) -> Described {
    let mut labels = desc.variable_labels.clone();
    labels.sort();
    Described { name: desc.fq_name.clone(), kind, labels, help: desc.help.clone() }
}
