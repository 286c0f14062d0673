//! Traffic by service port and by endpoint, out of IPVS's own counters. Read when somebody asks, and not oftener than every
//! few seconds (the kernel sums up every two).
//!
//! The kernel counts for virtual servers and destinations, which come and go; a metric must never go back. So what is told
//! is summed up here from what was added between two readings. With many services only so many have a line of their own;
//! the others' traffic is summed in one, and how many these are is told as well.

use super::OnDemand;
use super::family::{Description, Kind, number, size};
use crate::backend::{Counters, Sample, TrafficSource};
use crate::desired::{Desired, ServicePortKey};
use crate::model::PerFamily;
use crate::reconcile::{Mode, State as Leaving, Status};
use foldhash::quality::RandomState;
use foldhash::{HashMap, HashSet};
use prometheus::proto::MetricFamily;
use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hash};
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tracing::debug;

/// What was read is told again for so long.
const KEEP: Duration = Duration::from_secs(5);
/// All labels of the line that sums up what has none of its own. No object of Kubernetes can have this name.
const OTHERS: &str = "_other";

const SERVICE: &[&str] = &["namespace", "service", "port", "protocol"];
const ENDPOINT: &[&str] = &["namespace", "service", "port", "protocol", "endpoint"];

const fn counter(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Description {
    Description { name, kind: Kind::Counter, help, labels }
}

type Field = fn(&Counters) -> u64;

const SERVICES: [(Description, Field); 5] = [
    (counter("kube_ipvs_service_connections_total", "Connections to a service port (IPVS mode).", SERVICE), |c| {
        c.connections
    }),
    (counter("kube_ipvs_service_incoming_packets_total", "Packets of clients to a service port.", SERVICE), |c| {
        c.incoming_packets
    }),
    (counter("kube_ipvs_service_outgoing_packets_total", "Packets of a service port to clients.", SERVICE), |c| {
        c.outgoing_packets
    }),
    (counter("kube_ipvs_service_incoming_bytes_total", "Bytes of clients to a service port.", SERVICE), |c| {
        c.incoming_bytes
    }),
    (counter("kube_ipvs_service_outgoing_bytes_total", "Bytes of a service port to clients.", SERVICE), |c| {
        c.outgoing_bytes
    }),
];
const ENDPOINTS: [(Description, Field); 5] = [
    (
        counter("kube_ipvs_service_endpoint_connections_total", "Connections to an endpoint (IPVS mode).", ENDPOINT),
        |c| c.connections,
    ),
    (
        counter("kube_ipvs_service_endpoint_incoming_packets_total", "Packets of clients to an endpoint.", ENDPOINT),
        |c| c.incoming_packets,
    ),
    (
        counter("kube_ipvs_service_endpoint_outgoing_packets_total", "Packets of an endpoint to clients.", ENDPOINT),
        |c| c.outgoing_packets,
    ),
    (counter("kube_ipvs_service_endpoint_incoming_bytes_total", "Bytes of clients to an endpoint.", ENDPOINT), |c| {
        c.incoming_bytes
    }),
    (counter("kube_ipvs_service_endpoint_outgoing_bytes_total", "Bytes of an endpoint to clients.", ENDPOINT), |c| {
        c.outgoing_bytes
    }),
];
const CUT: Description = Description {
    name: "kube_ipvs_traffic_cut",
    kind: Kind::Gauge,
    help: "Service ports or endpoints without a line of their own, because there are more than the limit.",
    labels: &["kind"],
};
const READ_SECONDS: Description = Description {
    name: "kube_ipvs_traffic_read_seconds",
    kind: Kind::Gauge,
    help: "How long the last reading of the traffic counters took.",
    labels: &[],
};
const READ_ERRORS: Description =
    counter("kube_ipvs_traffic_read_errors_total", "Readings of the traffic counters that failed.", &[]);

pub(super) const DESCRIPTIONS: &[Description] = &[
    SERVICES[0].0,
    SERVICES[1].0,
    SERVICES[2].0,
    SERVICES[3].0,
    SERVICES[4].0,
    ENDPOINTS[0].0,
    ENDPOINTS[1].0,
    ENDPOINTS[2].0,
    ENDPOINTS[3].0,
    ENDPOINTS[4].0,
    CUT,
    READ_SECONDS,
    READ_ERRORS,
];

/// How much is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Endpoints as well.
    pub endpoints: bool,
    /// So many service ports have lines of their own, and so many endpoints.
    pub most: usize,
}

/// The traffic, where IPVS serves.
#[derive(Debug)]
pub struct Traffic {
    status: watch::Receiver<Status>,
    desired: watch::Receiver<PerFamily<Desired>>,
    limits: Limits,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    source: Box<dyn TrafficSource>,
    totals: Totals,
    read: Option<Instant>,
    took: Duration,
    errors: u64,
}

impl Traffic {
    /// What the kernel has counted until now is of before: it is taken as the beginning. Blocking.
    #[must_use]
    pub fn begin(
        mut source: Box<dyn TrafficSource>,
        limits: Limits,
        status: watch::Receiver<Status>,
        desired: watch::Receiver<PerFamily<Desired>>,
    ) -> Self {
        let mut totals = Totals::new(limits.most);
        // Without IPVS there is nothing from before, and it can't be read.
        let _ = source.read(&PerFamily::default(), limits.endpoints, &mut |sample| totals.begin(&sample));
        let state = State { source, totals, read: None, took: Duration::ZERO, errors: 0 };
        Self { status, desired, limits, state: Mutex::new(state) }
    }

    /// Whether IPVS has, or may still have, anything of ours: elsewhere the kernel would look for its module each time.
    fn is_served(&self) -> bool {
        let status = self.status.borrow();
        let mut families = status.programmed.iter().map(|family| status.families.get(*family));
        families.any(|family| family.mode == Some(Mode::Ipvs) || matches!(family.retirement.state, Leaving::Until(_)))
    }
}

impl OnDemand for Traffic {
    fn each_family(&self, each: &mut dyn FnMut(MetricFamily)) {
        if !self.is_served() {
            return;
        }
        let desired = self.desired.borrow().clone();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.read.is_none_or(|at| at.elapsed() >= KEEP) {
            let (started, State { source, totals, .. }) = (Instant::now(), &mut *state);
            let read = source.read(&desired, self.limits.endpoints, &mut |sample| totals.add(&sample));
            totals.end(read.is_ok());
            if let Err(error) = read {
                debug!("{error}");
                state.errors += 1;
            }
            (state.read, state.took) = (Some(Instant::now()), started.elapsed());
        }
        state.totals.each_family(self.limits.endpoints, each);
        let told = [READ_SECONDS.single(state.took.as_secs_f64()), READ_ERRORS.single(number(state.errors))];
        told.into_iter().flatten().for_each(each);
    }
}

/// What was added since the last reading; all of it, if the kernel began anew.
fn added(now: Counters, last: Counters) -> Counters {
    let all = [
        (now.connections, last.connections),
        (now.incoming_packets, last.incoming_packets),
        (now.outgoing_packets, last.outgoing_packets),
        (now.incoming_bytes, last.incoming_bytes),
        (now.outgoing_bytes, last.outgoing_bytes),
    ];
    if all.iter().any(|(now, last)| now < last) {
        return now;
    }
    let [connections, incoming_packets, outgoing_packets, incoming_bytes, outgoing_bytes] =
        all.map(|(now, last)| now - last);
    Counters { connections, incoming_packets, outgoing_packets, incoming_bytes, outgoing_bytes }
}

fn add(total: &mut Counters, more: Counters) {
    total.connections += more.connections;
    total.incoming_packets += more.incoming_packets;
    total.outgoing_packets += more.outgoing_packets;
    total.incoming_bytes += more.incoming_bytes;
    total.outgoing_bytes += more.outgoing_bytes;
}

/// The sums, and what they were made of.
#[derive(Debug)]
struct Totals {
    /// What each place had at the last reading, and whether this one has it. Of a place a number is kept, as good as never the
    /// same for two: there may be as many as endpoints.
    last: HashMap<u64, (Counters, bool)>,
    numbers: RandomState,
    services: Lines<ServicePortKey>,
    endpoints: Lines<(ServicePortKey, SocketAddr)>,
}

impl Totals {
    fn new(most: usize) -> Self {
        Self {
            last: HashMap::default(),
            numbers: RandomState::default(),
            services: Lines::new(most),
            endpoints: Lines::new(most),
        }
    }

    /// From before.
    fn begin(&mut self, sample: &Sample<'_>) {
        self.last.insert(self.numbers.hash_one(sample.place), (sample.counters, false));
    }

    /// Something that was read.
    fn add(&mut self, sample: &Sample<'_>) {
        let Sample { place, port, counters } = *sample;
        let last = self.last.insert(self.numbers.hash_one(place), (counters, true)).map(|(last, _)| last);
        let more = added(counters, last.unwrap_or_default());
        let Some(port) = port else { return };
        match place.endpoint {
            None => self.services.add(port, more),
            Some(endpoint) => self.endpoints.add(&(port.clone(), endpoint), more),
        }
    }

    /// That was all; or it was not, and what was not read may be there still.
    fn end(&mut self, all: bool) {
        self.last.retain(|_, (_, seen)| std::mem::take(seen) || !all);
        self.services.end(all);
        self.endpoints.end(all);
    }

    fn each_family(&self, endpoints: bool, each: &mut dyn FnMut(MetricFamily)) {
        for (description, field) in &SERVICES {
            description.with(self.services.samples(4, *field, service_labels)).into_iter().for_each(&mut *each);
        }
        let mut cut = vec![(vec!["service".to_owned()], size(self.services.cut))];
        if endpoints {
            let labels = |(port, endpoint): &(ServicePortKey, SocketAddr)| {
                let mut labels = service_labels(port);
                labels.push(endpoint.to_string());
                labels
            };
            for (description, field) in &ENDPOINTS {
                description.with(self.endpoints.samples(5, *field, labels)).into_iter().for_each(&mut *each);
            }
            cut.push((vec!["endpoint".to_owned()], size(self.endpoints.cut)));
        }
        CUT.with(cut).into_iter().for_each(each);
    }
}

fn service_labels(key: &ServicePortKey) -> Vec<String> {
    let text = |text: &str| text.to_owned();
    vec![text(&key.service.namespace), text(&key.service.name), text(&key.port), text(key.protocol.as_str())]
}

/// The lines of one metric: so many at most, who came first; and one for the rest.
#[derive(Debug)]
struct Lines<K> {
    most: usize,
    own: BTreeMap<K, Line>,
    others: Counters,
    cut: usize,
    /// What was read of those without a line of their own: of the first by name, as many as can get one.
    without: BTreeMap<K, Counters>,
    /// The numbers of those behind them.
    behind: HashSet<u64>,
    numbers: RandomState,
}

#[derive(Debug, Default)]
struct Line {
    total: Counters,
    /// It is among what was read.
    seen: bool,
}

impl<K: Ord + Clone + Hash> Lines<K> {
    fn new(most: usize) -> Self {
        Self {
            most,
            own: BTreeMap::new(),
            others: Counters::default(),
            cut: 0,
            without: BTreeMap::new(),
            behind: HashSet::default(),
            numbers: RandomState::default(),
        }
    }

    fn add(&mut self, key: &K, more: Counters) {
        if let Some(line) = self.own.get_mut(key) {
            add(&mut line.total, more);
            line.seen = true;
            return;
        }
        if let Some(total) = self.without.get_mut(key) {
            return add(total, more);
        }
        self.without.insert(key.clone(), more);
        if self.without.len() > self.most
            && let Some((last, counted)) = self.without.pop_last()
        {
            self.behind.insert(self.numbers.hash_one(&last));
            add(&mut self.others, counted);
        }
    }

    /// Who is gone loses his line; who had none before gets one if there is room.
    fn end(&mut self, all: bool) {
        self.own.retain(|_, line| std::mem::take(&mut line.seen) || !all);
        let mut cut = std::mem::take(&mut self.behind).len();
        for (key, more) in std::mem::take(&mut self.without) {
            if self.own.len() < self.most {
                self.own.insert(key, Line { total: more, seen: false });
            } else {
                cut += 1;
                add(&mut self.others, more);
            }
        }
        self.cut = if all { cut } else { self.cut.max(cut) };
    }

    fn samples(&self, labels: usize, field: Field, names: impl Fn(&K) -> Vec<String>) -> Vec<(Vec<String>, f64)> {
        let mut samples: Vec<(Vec<String>, f64)> =
            self.own.iter().map(|(key, line)| (names(key), number(field(&line.total)))).collect();
        // Once there, it stays: a counter that goes and comes again would count from the start.
        if self.cut > 0 || self.others != Counters::default() {
            samples.push((vec![OTHERS.to_owned(); labels], number(field(&self.others))));
        }
        samples
    }
}

#[cfg(test)]
#[path = "traffic_tests.rs"]
mod tests;
