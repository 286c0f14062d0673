//! The servers on `healthCheckNodePort`: they tell load balancers whether this node has endpoints of a Service.
//! Upstream: `pkg/proxy/healthcheck/service_health.go`.

use super::http::{Answer, Handler, Server};
use crate::desired::{HealthChecks, NodePortAddresses};
use crate::model::{Event, Events, IpFamily, Reason, ServiceName};
use crate::reconcile::Status;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::{Request, Response, StatusCode};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tracing::{debug, info, warn};

/// How many endpoints are here, for load balancers that share traffic out by it.
const WEIGHT: HeaderName = HeaderName::from_static("x-load-balancing-endpoint-weight");
/// The first wait after a port that could not be opened; it doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(250);
/// The longest such wait.
const RETRY_MAX: Duration = Duration::from_secs(30);

/// What is told, and whether it may be believed.
#[derive(Debug, Clone)]
pub struct Sources {
    /// The endpoints of this node.
    pub checks: watch::Receiver<HealthChecks>,
    /// What the reconciler is doing.
    pub status: watch::Receiver<Status>,
    /// Where it is told that a port cannot be opened.
    pub events: Events,
}

impl Sources {
    /// Whether the kernel follows what is wanted.
    fn healthy(&self) -> bool {
        // Without the reconciler nothing follows any more.
        let status = self.status.borrow();
        self.status.has_changed().is_ok() && status.keeps_up(Instant::now(), patience(status.sync_period))
    }
}

/// For how long something may wait for the kernel before load balancers are told to avoid this node: as upstream, two
/// sync periods; but no short hiccup.
fn patience(sync_period: Duration) -> Duration {
    sync_period.saturating_mul(2).max(Duration::from_secs(10))
}

/// A port to be open for a Service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    service: ServiceName,
    address: SocketAddr,
}

/// A port that could not be opened.
#[derive(Debug, Clone, Copy)]
struct Refused {
    wait: Duration,
    again: Instant,
}

/// Keeps the ports open that are wanted, until the reconciler ends or the future is dropped; then all are closed.
pub async fn run(sources: Sources) {
    let mut changes = sources.checks.clone();
    let mut servers = Servers { sources, open: BTreeMap::new(), refused: BTreeMap::new() };
    loop {
        let wanted = places(&changes.borrow_and_update());
        servers.close_all_but(&wanted).await;
        servers.open(&wanted, Instant::now());
        let again = servers.refused.values().map(|refused| refused.again).min();
        let retry = async {
            match again {
                Some(again) => tokio::time::sleep_until(again.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = retry => {}
        }
    }
}

struct Servers {
    sources: Sources,
    open: BTreeMap<Place, Server>,
    refused: BTreeMap<Place, Refused>,
}

impl Servers {
    /// First of all, and to the end: a port may go from one Service to another.
    async fn close_all_but(&mut self, wanted: &BTreeSet<Place>) {
        self.refused.retain(|place, _| wanted.contains(place));
        let surplus: Vec<Place> = self.open.keys().filter(|place| !wanted.contains(place)).cloned().collect();
        for place in surplus {
            debug!(service = %place.service, address = %place.address, "closing a health check port");
            if let Some(server) = self.open.remove(&place) {
                server.close().await;
            }
        }
    }

    fn open(&mut self, wanted: &BTreeSet<Place>, now: Instant) {
        for place in wanted {
            let refused = self.refused.get(place).copied();
            if self.open.contains_key(place) || refused.is_some_and(|refused| refused.again > now) {
                continue;
            }
            let check = Check { service: place.service.clone(), address: place.address, sources: self.sources.clone() };
            match Server::listen(place.address, Arc::new(check)) {
                Ok(server) => {
                    if self.refused.remove(place).is_some() {
                        info!(service = %place.service, address = %place.address, "the health check port is open now");
                    }
                    self.open.insert(place.clone(), server);
                }
                Err(error) => {
                    if refused.is_none() {
                        warn_refused(place, &error);
                        self.sources.events.tell(refused_event(place, &error));
                    }
                    let wait = refused.map_or(RETRY_MIN, |refused| (refused.wait * 2).min(RETRY_MAX));
                    self.refused.insert(place.clone(), Refused { wait, again: now + wait });
                }
            }
        }
    }
}

fn warn_refused(place: &Place, error: &std::io::Error) {
    let port = place.address.port();
    let remedy = match error.kind() {
        std::io::ErrorKind::AddrInUse => format!(
            "Stop what listens there (ss -ltnp 'sport = :{port}' names it) or give the Service another \
             healthCheckNodePort"
        ),
        std::io::ErrorKind::AddrNotAvailable => "The address is not the node's, or not yet".to_owned(),
        _ => "Look at what the kernel says".to_owned(),
    };
    warn!(
        service = %place.service, address = %place.address,
        "the health check port cannot be opened: {error}. Load balancers will not send traffic of this Service to this \
         node. {remedy}; it is tried again"
    );
}

/// The words of upstream's event.
fn refused_event(place: &Place, error: &std::io::Error) -> Event {
    let (service, address) = (&place.service, place.address);
    let note = format!("failed to start healthcheck {service} on {address}: {error}");
    Event::of_service(service, Reason::FailedToStartServiceHealthcheck, note)
}

/// Where which Service's health check is answered.
fn places(checks: &HealthChecks) -> BTreeSet<Place> {
    let mut places = BTreeSet::new();
    for (service, check) in &checks.services {
        let has = |family| check.local_endpoints.get(family).is_some();
        let everywhere = |family| *checks.addresses.get(family) == NodePortAddresses::All;
        for (family, other) in [(IpFamily::V4, IpFamily::V6), (IpFamily::V6, IpFamily::V4)] {
            // As upstream, which listens on all addresses of both families for a Service of one, unless it was told
            // where to listen.
            let as_well = everywhere(family) && everywhere(other);
            if !(has(family) || as_well) {
                continue;
            }
            let ips = match checks.addresses.get(family) {
                NodePortAddresses::All => vec![wildcard(family)],
                NodePortAddresses::These(ips) => ips.clone(),
            };
            let place = |ip| Place { service: service.clone(), address: SocketAddr::new(ip, check.port) };
            places.extend(ips.into_iter().map(place));
        }
    }
    places
}

fn wildcard(family: IpFamily) -> IpAddr {
    match family {
        IpFamily::V4 => Ipv4Addr::UNSPECIFIED.into(),
        IpFamily::V6 => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// Answers for one Service, out of what is known at that instant.
struct Check {
    service: ServiceName,
    address: SocketAddr,
    sources: Sources,
}

impl Handler for Check {
    fn answer(&self, _request: &Request<Incoming>) -> Answer {
        let family = IpFamily::of(self.address.ip());
        let checks = self.sources.checks.borrow();
        let count = checks.services.get(&self.service).map_or(0, |check| check.count(family));
        drop(checks);
        answer(&self.service, count, self.sources.healthy())
    }
}

fn answer(service: &ServiceName, count: usize, healthy: bool) -> Answer {
    // Byte for byte upstream's, as somebody may search it instead of parsing it.
    let (namespace, name) = (&service.namespace, &service.name);
    let body = format!(
        "{{\n\t\"service\": {{\n\t\t\"namespace\": {namespace:?},\n\t\t\"name\": {name:?}\n\t}},\n\
         \t\"localEndpoints\": {count},\n\t\"serviceProxyHealthy\": {healthy}\n}}"
    );
    let mut answer = Response::new(Full::from(body));
    if count == 0 || !healthy {
        *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(WEIGHT, HeaderValue::from(count));
    answer
}

#[cfg(test)]
#[path = "health_check_tests.rs"]
mod tests;
