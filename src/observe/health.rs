//! `/healthz` and `/livez`: whether the kernel follows what is wanted, and whether this node stays. Upstream:
//! pkg/proxy/healthcheck/proxy_health.go, the answers of which these are.

use super::http::{Answer, Handler};
use super::metrics::Metrics;
use crate::model::{IpFamily, PerFamily};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::{Request, Response, StatusCode};
use jiff::Timestamp;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What Go writes for a time that was never set.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// What is known of the proxy's health.
#[derive(Debug)]
pub struct Health {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// How long something may wait for the kernel.
    timeout: Duration,
    families: PerFamily<FamilyState>,
    eligible: bool,
}

#[derive(Debug, Clone, Copy, Default)]
struct FamilyState {
    /// When the kernel last had everything.
    updated: Option<(Instant, Timestamp)>,
    /// Since when something has waited for it.
    queued: Option<Instant>,
}

/// The answer, as upstream's `ProxyHealth` is encoded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    last_updated: String,
    current_time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_eligible: Option<bool>,
    healthy: bool,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    status: BTreeMap<&'static str, FamilyReport>,
}

/// Of one family: upstream's `ProxierHealth`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct FamilyReport {
    last_updated: String,
    healthy: bool,
}

impl Health {
    /// Healthy while it starts: nothing is known yet, and nothing waits for longer than `2 × sync_period` may be waited.
    #[must_use]
    pub fn new(sync_period: Duration) -> Arc<Self> {
        let timeout = sync_period.saturating_mul(2);
        Arc::new(Self { state: Mutex::new(State { timeout, families: PerFamily::default(), eligible: true }) })
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often the kernel is compared with what is wanted, from now on.
    pub fn set_sync_period(&self, sync_period: Duration) {
        self.state().timeout = sync_period.saturating_mul(2);
    }

    /// Something is to be brought to the kernel.
    pub fn queued(&self, family: IpFamily, now: Instant) {
        self.state().families.get_mut(family).queued.get_or_insert(now);
    }

    /// The kernel has taken everything, or everything but single Services that it refuses.
    pub fn updated(&self, family: IpFamily, now: Instant) {
        let mut state = self.state();
        *state.families.get_mut(family) = FamilyState { updated: Some((now, Timestamp::now())), queued: None };
    }

    /// Whether load balancers may send traffic to this node.
    pub fn set_eligible(&self, eligible: bool) {
        self.state().eligible = eligible;
    }

    /// Answers to `/livez` (whether the proxy works) …
    pub fn live(&self, now: Instant) -> Report {
        let state = self.state();
        let (mut healthy, mut latest) = (true, None);
        let mut status = BTreeMap::new();
        for (name, family) in [("IPv4", &state.families.v4), ("IPv6", &state.families.v6)] {
            // As upstream, a family that never had everything is starting up: a first sync may take its time, and who is
            // restarted for that never ends it.
            let Some((at, time)) = family.updated else { continue };
            let late = family.queued.is_some_and(|since| now.saturating_duration_since(since) >= state.timeout);
            healthy &= !late;
            latest = latest.max(Some((at, time)));
            status.insert(name, FamilyReport { last_updated: text(time), healthy: !late });
        }
        let current = Timestamp::now();
        // As upstream and as ever: of who is healthy it is as if it had synced just now.
        let last = if healthy { Some(current) } else { latest.map(|(_, time)| time) };
        Report {
            last_updated: last.map_or_else(|| NEVER.to_owned(), text),
            current_time: text(current),
            node_eligible: None,
            healthy,
            status,
        }
    }

    /// … and to `/healthz` (and whether this node is to have traffic), with its status.
    pub fn ready(&self, now: Instant) -> (Report, bool) {
        let mut report = self.live(now);
        let eligible = self.state().eligible;
        report.node_eligible = Some(eligible);
        let ready = report.healthy && eligible;
        if !ready && report.healthy {
            // `healthy` stays that of the proxy; the time is the kernel's.
            let state = self.state();
            let latest = [state.families.v4, state.families.v6].into_iter().filter_map(|family| family.updated).max();
            report.last_updated = latest.map_or_else(|| NEVER.to_owned(), |(_, time)| text(time));
        }
        (report, ready)
    }
}

fn text(time: Timestamp) -> String {
    // As Go's RFC3339Nano: as many digits as are needed.
    time.to_string()
}

/// Answers on the port for health checks.
#[derive(Debug)]
pub struct HealthPages {
    /// What is known.
    pub health: Arc<Health>,
    /// Counts the answers.
    pub metrics: Arc<Metrics>,
}

impl Handler for HealthPages {
    fn answer(&self, request: &Request<Incoming>) -> Answer {
        let now = Instant::now();
        let upstream = &self.metrics.upstream;
        let (report, good, counter) = match request.uri().path() {
            "/healthz" => {
                let (report, ready) = self.health.ready(now);
                (report, ready, &upstream.proxy_healthz)
            }
            "/livez" => {
                let report = self.health.live(now);
                let live = report.healthy;
                (report, live, &upstream.proxy_livez)
            }
            _ => return super::pages::not_found(),
        };
        let status = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        counter.with_label_values(&[status.as_str()]).inc();
        let mut answer = Response::new(Full::from(serde_json::to_string(&report).unwrap_or_default()));
        *answer.status_mut() = status;
        answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        answer.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        answer
    }
}

#[cfg(test)]
#[path = "health_tests.rs"]
mod tests;
