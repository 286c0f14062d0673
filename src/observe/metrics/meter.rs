//! What the reconciler tells, as numbers. All of it is a few atomic additions.

use super::Metrics;
use super::family::{number, size};
use crate::model::{Changes, IpFamily, PerFamily};
use crate::observe::health::Health;
use crate::reconcile::{Meter, Mode, Synced, WithoutLocal};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// Takes down what it is told.
#[derive(Debug)]
pub struct Recorder {
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    told: Changes,
    /// The tables that were counted, so that those of a mode that is gone do not stay.
    tables: PerFamily<Vec<&'static str>>,
}

impl Recorder {
    pub fn new(metrics: Arc<Metrics>, health: Arc<Health>) -> Self {
        Self { metrics, health, told: Changes::default(), tables: PerFamily::default() }
    }

    fn count_rules(&mut self, family: IpFamily, sync: &Synced<'_>) {
        let (name, upstream) = (label(family), &self.metrics.upstream);
        for gone in self.tables.get(family).iter().filter(|table| !sync.report.rules.contains_key(*table)) {
            for gauges in [&upstream.rules_total, &upstream.rules_last] {
                // It is not there only if it never was.
                let _ = gauges.remove_label_values(&[gone, name]);
            }
        }
        for (table, count) in &sync.report.rules {
            upstream.rules_total.with_label_values(&[table, name]).set(number(count.total));
            upstream.rules_last.with_label_values(&[table, name]).set(number(count.written));
        }
        *self.tables.get_mut(family) = sync.report.rules.keys().copied().collect();
    }
}

/// The label of a family: upstream's words.
pub fn label(family: IpFamily) -> &'static str {
    match family {
        IpFamily::V4 => "IPv4",
        IpFamily::V6 => "IPv6",
    }
}

/// Seconds since 1970.
pub fn timestamp(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

impl Meter for Recorder {
    fn queued(&mut self, family: IpFamily, changed: bool, now: Instant) {
        self.health.queued(family, now);
        if changed {
            let gauge = &self.metrics.upstream.sync_last_queued_timestamp;
            gauge.with_label_values(&[label(family)]).set(timestamp(SystemTime::now()));
        }
    }

    fn synced(&mut self, family: IpFamily, sync: &Synced<'_>) {
        let (name, report) = ([label(family)], sync.report);
        let upstream = &self.metrics.upstream;
        let seconds = report.duration.as_secs_f64();
        upstream.sync_duration.with_label_values(&name).observe(seconds);
        let refused = number(report.effort.refused);
        upstream.restore_failures.with_label_values(&name).inc_by(refused);
        if sync.mode == Mode::Iptables {
            let (full, partial) = (&upstream.sync_full_duration, &upstream.sync_partial_duration);
            (if sync.full { full } else { partial }).with_label_values(&name).observe(seconds);
            let partial = if sync.full { 0.0 } else { refused };
            upstream.partial_restore_failures.with_label_values(&name).inc_by(partial);
        }
        if report.is_clean() {
            upstream.sync_last_timestamp.with_label_values(&name).set(timestamp(SystemTime::now()));
        }
        let counted = &self.metrics.counted;
        let labels = [sync.mode.name(), label(family)];
        counted.syncs.with_label_values(&labels).inc();
        counted.failed_syncs.with_label_values(&labels).inc_by(if report.is_clean() { 0.0 } else { 1.0 });
        counted.steps.with_label_values(&labels).inc_by(size(report.done));
        counted.kernel_reads.with_label_values(&labels).inc_by(if report.observed { 1.0 } else { 0.0 });
        self.count_rules(family, sync);
    }

    fn serving(&mut self, family: IpFamily, now: Instant) {
        self.health.updated(family, now);
    }

    fn in_force(&mut self, family: IpFamily, triggers: &[SystemTime], now: Instant) {
        self.health.updated(family, now);
        let (latencies, present) = (&self.metrics.upstream.network_programming_duration, SystemTime::now());
        for trigger in triggers {
            // A clock of the control plane that is ahead of ours makes it 0, as it does in upstream's lowest bucket.
            let latency = present.duration_since(*trigger).unwrap_or_default();
            latencies.with_label_values(&[label(family)]).observe(latency.as_secs_f64());
        }
    }

    fn changes(&mut self, seen: Changes, pending: Changes) {
        let upstream = &self.metrics.upstream;
        upstream.service_changes.inc_by(number(seen.services.saturating_sub(self.told.services)));
        upstream.endpoint_changes.inc_by(number(seen.slices.saturating_sub(self.told.slices)));
        upstream.service_changes_pending.set(number(pending.services));
        upstream.endpoint_changes_pending.set(number(pending.slices));
        self.told = seen;
    }

    fn without_local(&mut self, family: IpFamily, count: WithoutLocal) {
        let gauges = &self.metrics.upstream.no_local_endpoints;
        gauges.with_label_values(&["internal", label(family)]).set(size(count.internal));
        gauges.with_label_values(&["external", label(family)]).set(size(count.external));
    }

    fn flows(&mut self, family: IpFamily, duration: Duration, deleted: usize) {
        let (name, upstream) = ([label(family)], &self.metrics.upstream);
        upstream.conntrack_duration.with_label_values(&name).observe(duration.as_secs_f64());
        upstream.conntrack_deleted.with_label_values(&name).inc_by(size(deleted));
    }

    fn node(&mut self, eligible: bool) {
        self.health.set_eligible(eligible);
    }

    fn period(&mut self, sync: Duration) {
        self.health.set_sync_period(sync);
    }
}
