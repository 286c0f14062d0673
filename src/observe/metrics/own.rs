//! Our own metrics of the program itself: what it counts, and how it stands.

use super::family::{Description, Kind, number, size};
use super::meter::{label, timestamp};
use super::upstream::described;
use super::{Described, OnDemand};
use crate::model::IpFamily;
use crate::reconcile::{FamilyStatus, Mode, State, Status};
use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{CounterVec, Error, Opts, Registry};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::watch;

/// What is counted as it happens.
#[derive(Debug)]
pub struct Counted {
    pub syncs: CounterVec,
    pub failed_syncs: CounterVec,
    pub steps: CounterVec,
    pub kernel_reads: CounterVec,
}

impl Counted {
    pub(super) fn register(registry: &Registry) -> Result<Self, Error> {
        let make = |name: &str, help: &str| {
            let counter = CounterVec::new(Opts::new(format!("kube_ipvs_{name}"), help), &["mode", "ip_family"])?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, Error>(counter)
        };
        Ok(Self {
            syncs: make("syncs_total", "Syncs so far.")?,
            failed_syncs: make("failed_syncs_total", "Syncs that left something undone.")?,
            steps: make("sync_steps_total", "Changes that the kernel took.")?,
            kernel_reads: make(
                "kernel_reads_total",
                "Syncs that read the kernel first: audits, and what follows a failure.",
            )?,
        })
    }

    pub(super) fn described(&self) -> Vec<Described> {
        let all = [&self.syncs, &self.failed_syncs, &self.steps, &self.kernel_reads];
        all.into_iter().flat_map(|counter| counter.desc()).map(|desc| described("counter", desc)).collect()
    }
}

const FAMILY: &[&str] = &["ip_family"];
const MODE: &[&str] = &["mode", "ip_family"];

const fn gauge(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Description {
    Description { name, kind: Kind::Gauge, help, labels }
}

const BUILD: Description = gauge("kube_ipvs_build_info", "Always 1; the version is in the label.", &["version"]);
const PROXY_MODE: Description = gauge("kube_ipvs_proxy_mode", "1 for the mode that serves, 0 for the other one.", MODE);
const MODE_SINCE: Description =
    gauge("kube_ipvs_proxy_mode_since_timestamp_seconds", "Since when the mode has served.", FAMILY);
const IN_SYNC: Description =
    gauge("kube_ipvs_in_sync", "1 if the last sync left nothing undone, and there was one.", FAMILY);
const SERVICE_PORTS: Description = gauge("kube_ipvs_service_ports", "Service ports that are programmed.", FAMILY);
const FAILURES: Description = gauge("kube_ipvs_failing_steps", "Changes that the last sync could not make.", FAMILY);
const BEHIND: Description = gauge(
    "kube_ipvs_behind_seconds",
    "For how long the kernel has not taken something that is wanted; 0: it has taken everything.",
    FAMILY,
);
const REPAIRED: Description = Description {
    name: "kube_ipvs_drift_repaired_steps_total",
    kind: Kind::Counter,
    help: "Changes that put back what somebody else had changed.",
    labels: FAMILY,
};
const DRAINING: Description = gauge(
    "kube_ipvs_draining_endpoints",
    "Endpoints that get no new connections while others of their Service do.",
    FAMILY,
);
const DRAINING_CONNECTIONS: Description = gauge(
    "kube_ipvs_draining_connections",
    "Connections that endpoints still have which get no new ones; 0 in iptables mode, where only connection tracking knows.",
    FAMILY,
);
const RETIRING: Description =
    gauge("kube_ipvs_retiring", "1 while something of the mode is left that does not serve any more.", MODE);
const RETIRING_CONNECTIONS: Description =
    gauge("kube_ipvs_retiring_connections", "Open connections of the mode that does not serve any more.", MODE);
const ROUNDS: Description = Description {
    name: "kube_ipvs_rounds_total",
    kind: Kind::Counter,
    help: "Rounds of the loop so far.",
    labels: &[],
};
const BUSY: Description =
    gauge("kube_ipvs_round_seconds", "For how long the round under way has been so; 0 between two rounds.", &[]);

pub(super) const DESCRIPTIONS: &[Description] = &[
    BUILD,
    PROXY_MODE,
    MODE_SINCE,
    IN_SYNC,
    SERVICE_PORTS,
    FAILURES,
    BEHIND,
    REPAIRED,
    DRAINING,
    DRAINING_CONNECTIONS,
    RETIRING,
    RETIRING_CONNECTIONS,
    ROUNDS,
    BUSY,
];

/// How the reconciler stands.
#[derive(Debug)]
pub struct Standing(pub watch::Receiver<Status>);

impl OnDemand for Standing {
    fn each_family(&self, each: &mut dyn FnMut(MetricFamily)) {
        let status = self.0.borrow().clone();
        families(&status, Instant::now()).into_iter().for_each(each);
    }
}

fn families(status: &Status, now: Instant) -> Vec<MetricFamily> {
    let elapsed = |since: Option<Instant>| {
        since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since)).as_secs_f64()
    };
    let each = |description: &Description, value: &dyn Fn(&FamilyStatus) -> f64| {
        let sample = |family: &IpFamily| (vec![label(*family).to_owned()], value(status.families.get(*family)));
        description.with(status.programmed.iter().map(sample))
    };
    let modes = |description: &Description, value: &dyn Fn(&FamilyStatus, Mode) -> f64| {
        let sample = |family: &IpFamily, mode: Mode| {
            let labels = vec![mode.name().to_owned(), label(*family).to_owned()];
            (labels, value(status.families.get(*family), mode))
        };
        description.with(
            status.programmed.iter().flat_map(|family| [Mode::Ipvs, Mode::Iptables].map(|mode| sample(family, mode))),
        )
    };
    let yes = |is: bool| f64::from(u8::from(is));
    let retires =
        |family: &FamilyStatus, mode| family.mode != Some(mode) && matches!(family.retirement.state, State::Until(_));
    let since = |family: &FamilyStatus| {
        let ago = family.mode_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        SystemTime::now().checked_sub(ago).map_or(0.0, timestamp)
    };
    [
        BUILD.with([(vec![env!("CARGO_PKG_VERSION").to_owned()], 1.0)]),
        modes(&PROXY_MODE, &|family, mode| yes(family.mode == Some(mode))),
        each(&MODE_SINCE, &since),
        each(&IN_SYNC, &|family| yes(family.in_sync)),
        each(&SERVICE_PORTS, &|family| size(family.ports)),
        each(&FAILURES, &|family| size(family.failures.len())),
        each(&BEHIND, &|family| elapsed(family.behind_since)),
        each(&REPAIRED, &|family| number(family.repaired)),
        each(&DRAINING, &|family| size(family.draining().count())),
        each(&DRAINING_CONNECTIONS, &|family| number(family.connections)),
        modes(&RETIRING, &|family, mode| yes(retires(family, mode))),
        modes(&RETIRING_CONNECTIONS, &|family, mode| {
            if retires(family, mode) { number(family.retirement.connections) } else { 0.0 }
        }),
        ROUNDS.single(number(status.rounds)),
        BUSY.single(elapsed(status.busy_since)),
    ]
    .concat()
}
