//! The source that follows an API server, its snapshots, and what it logs.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kube_ipvs::model::{Events, ServiceName, Snapshot};
use kube_ipvs::source::Snapshots;
use kube_ipvs::source::cluster::{self, Access, Cluster, Interest, Timing};
use serde_json::{Value, json};
use tracing::subscriber::DefaultGuard;

use super::Api;

/// Everything happens within a test's patience.
pub fn quick() -> Timing {
    Timing {
        retry_min: Duration::from_millis(20),
        retry_max: Duration::from_millis(200),
        patience: Duration::from_secs(2),
        idle: Duration::from_secs(10),
        steady: Duration::from_millis(100),
        resume_within: Duration::from_secs(2),
        renew_every: Duration::from_millis(200),
        absent_retry: Duration::from_millis(200),
    }
}

/// A source at work on this thread's runtime.
pub struct Followed {
    pub snapshots: Snapshots,
    pub cluster: Cluster,
    log: Log,
    _guard: DefaultGuard,
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Followed {
    /// Follows a server, with short periods.
    pub async fn start(api: &Api) -> Self {
        Self::start_with(api, quick()).await
    }

    /// Follows a server.
    pub async fn start_with(api: &Api, timing: Timing) -> Self {
        Self::start_on(Access { kubeconfig: None, master: Some(api.url()) }, timing).await
    }

    /// Follows a server as the daemon does: what a new node needs comes first.
    pub async fn start_ahead(api: &Api) -> Self {
        let access = Access { kubeconfig: None, master: Some(api.url()) };
        Self::open(access, quick(), true).await
    }

    /// Follows the server that is found so.
    pub async fn start_on(access: Access, timing: Timing) -> Self {
        Self::open(access, timing, false).await
    }

    async fn open(access: Access, timing: Timing, head_start: bool) -> Self {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter("info,kube_client=off")
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        let guard = tracing::subscriber::set_default(subscriber);
        let interest = Interest { node_name: "demo-node".into(), proxy_name: None };
        let cluster = cluster::start(access.open().await.unwrap(), &interest, timing, Events::default(), head_start);
        Self { snapshots: cluster.snapshots.clone(), cluster, log, _guard: guard }
    }

    /// Waits for a snapshot that is so.
    pub async fn until(&self, what: &str, wanted: impl Fn(&Snapshot) -> bool) -> Snapshot {
        let mut snapshots = self.snapshots.clone();
        let found = tokio::time::timeout(super::patience(), snapshots.wait_for(|snapshot| wanted(snapshot))).await;
        match found {
            Ok(found) => found.unwrap().clone(),
            Err(_) => {
                let (now, log) = (self.now(), self.log());
                panic!("still waiting for {what}; {} services, complete: {}\n{log}", now.services.len(), now.complete)
            }
        }
    }

    /// Waits until everything is listed.
    pub async fn complete(&self) -> Snapshot {
        self.until("the first lists", |snapshot| snapshot.complete).await
    }

    /// Waits until the server was asked for something.
    pub async fn until_true(&self, what: &str, wanted: impl Fn() -> bool) {
        let waiting = async {
            while !wanted() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let done = tokio::time::timeout(super::patience(), waiting).await;
        assert!(done.is_ok(), "still waiting for {what}\n{}", self.log());
    }

    /// The newest snapshot.
    pub fn now(&self) -> Snapshot {
        self.snapshots.borrow().clone()
    }

    /// The log so far.
    pub fn log(&self) -> String {
        String::from_utf8(self.log.0.lock().unwrap().clone()).unwrap()
    }

    /// How many lines of the log have these words.
    pub fn said(&self, words: &str) -> usize {
        self.log().lines().filter(|line| line.contains(words)).count()
    }
}

/// The name of Service number N.
pub fn name(number: usize) -> ServiceName {
    ServiceName::new("default", format!("svc-{number:04}"))
}

/// Service number N.
pub fn service(number: usize) -> Value {
    let ip = format!("172.30.{}.{}", number / 250, number % 250 + 1);
    json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": &*name(number).name, "namespace": "default", "annotations": {"note": "x".repeat(2000)}},
        "spec": {"clusterIP": ip, "clusterIPs": [ip], "ports": [{"name": "web", "port": 80}]}})
}

/// The slice of Service number N, with one endpoint.
pub fn slice(number: usize, endpoint: &str) -> Value {
    let service = name(number).name;
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": format!("{service}-x"), "namespace": "default",
            "labels": {"kubernetes.io/service-name": &*service}},
        "ports": [{"name": "web", "port": 80}],
        "endpoints": [{"addresses": [endpoint], "conditions": {"ready": true}}]})
}

/// The Node under test.
pub fn node(zone: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Node",
        "metadata": {"name": "demo-node", "labels": {"topology.kubernetes.io/zone": zone}}})
}

/// Puts Services with their slices into a server, and the node.
pub fn fill(api: &Api, services: std::ops::Range<usize>) {
    api.put(node("z1"));
    for number in services {
        api.put(service(number));
        api.put(slice(number, "10.180.0.1"));
    }
}
