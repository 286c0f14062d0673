//! Against a real API server, given by the environment variable `KUBECONFIG`: the source's snapshot, and what
//! `kube-ipvs plan` makes of it. Makes a namespace of its own and removes it. Changes nothing in this machine's kernel.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests may fail loudly, too"
)]

mod support;

use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, Config, config::KubeConfigOptions, config::Kubeconfig};
use kube_ipvs::model::{Event, Events, Reason, ServiceName, Snapshot};
use kube_ipvs::source::Snapshots;
use kube_ipvs::source::cluster::{Access, EventWriter, Interest, Timing, start};
use serde_json::{Value, json};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The kubeconfig, if one is given. kubectl's list of files is not: one is enough.
fn kubeconfig() -> Option<PathBuf> {
    let path = std::env::var_os("KUBECONFIG").map(PathBuf::from).filter(|path| path.is_file());
    if path.is_none() {
        support::skipped("no API server is given: set KUBECONFIG to a kubeconfig file of one that may be written to");
    }
    path
}

/// Writes to the server as somebody who manages the cluster.
struct Cluster {
    client: Client,
    namespace: String,
}

impl Cluster {
    async fn new(kubeconfig: &Path) -> Self {
        let file = Kubeconfig::read_from(kubeconfig).unwrap();
        let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.unwrap();
        let client = Client::try_from(config).unwrap();
        let namespace = format!("kube-ipvs-test-{}", std::process::id());
        let cluster = Self { client, namespace: namespace.clone() };
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
        let namespaces = cluster.api("", "Namespace");
        namespaces.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
        cluster
    }

    fn api(&self, group: &str, kind: &str) -> Api<DynamicObject> {
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, "v1", kind));
        if kind == "Namespace" {
            return Api::all_with(self.client.clone(), &resource);
        }
        Api::namespaced_with(self.client.clone(), &self.namespace, &resource)
    }

    async fn apply(&self, object: Value) -> DynamicObject {
        let group = if object["kind"] == "Service" { "" } else { "discovery.k8s.io" };
        let (kind, name) = (object["kind"].as_str().unwrap(), object["metadata"]["name"].as_str().unwrap());
        let patch = Patch::Apply(&object);
        self.api(group, kind).patch(name, &PatchParams::apply("kube-ipvs-test").force(), &patch).await.unwrap()
    }

    /// A Service without a selector and its slice.
    async fn put(&self, name: &str, endpoint: &str) -> DynamicObject {
        let service = self
            .apply(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
                "spec": {"ports": [{"name": "web", "protocol": "TCP", "port": 80, "targetPort": 8080}]}}))
            .await;
        self.apply(json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": format!("{name}-1"), "labels": {"kubernetes.io/service-name": name}},
            "ports": [{"name": "web", "port": 8080, "protocol": "TCP"}],
            "endpoints": [{"addresses": [endpoint], "conditions": {"ready": true}}]}))
            .await;
        service
    }

    fn id(&self, name: &str) -> ServiceName {
        ServiceName::new(self.namespace.as_str(), name)
    }

    async fn end(self) {
        // Where nothing but an API server runs, nobody empties a namespace that is deleted.
        for name in ["named", "headless"] {
            self.api("", "Service").delete(name, &DeleteParams::default()).await.unwrap();
        }
        for name in ["named-1", "more-1"] {
            let deleted = self.api("discovery.k8s.io", "EndpointSlice").delete(name, &DeleteParams::default()).await;
            assert!(deleted.is_ok() || matches!(&deleted, Err(kube::Error::Api(status)) if status.is_not_found()));
        }
        self.api("", "Namespace").delete(&self.namespace, &DeleteParams::default()).await.unwrap();
    }
}

async fn until(snapshots: &mut Snapshots, what: &str, wanted: impl Fn(&Snapshot) -> bool) -> Snapshot {
    let found = tokio::time::timeout(Duration::from_secs(60), snapshots.wait_for(|snapshot| wanted(snapshot))).await;
    found.unwrap_or_else(|_| panic!("still waiting for {what}")).unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_server() {
    let Some(kubeconfig) = kubeconfig() else { return };
    let cluster = Cluster::new(&kubeconfig).await;
    let named = cluster.put("named", "10.180.0.1").await;
    let address: IpAddr = named.data["spec"]["clusterIP"].as_str().unwrap().parse().unwrap();
    cluster
        .apply(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "headless"},
            "spec": {"clusterIP": "None", "ports": [{"name": "web", "protocol": "TCP", "port": 80}]}}))
        .await;

    let access = Access { kubeconfig: Some(kubeconfig.clone()), master: None };
    let gateway = access.open().await.expect("access to the API server");
    let interest = Interest { node_name: "none-of-this-name".into(), proxy_name: None };
    let source = start(gateway, &interest, Timing::default(), Events::default());
    let mut snapshots = source.snapshots.clone();
    let first = until(&mut snapshots, "the first lists", |snapshot| snapshot.complete).await;
    let service = first.services.get(&cluster.id("named")).expect("the Service is in the snapshot");
    assert_eq!(service.cluster_ips, [address]);
    assert!(first.services.contains_key(&ServiceName::new("default", "kubernetes")));
    assert!(!first.services.contains_key(&cluster.id("headless")), "headless Services are not sent");
    assert!(first.service_ranges.is_empty() || first.service_ranges.iter().any(|range| range.contains(&address)));
    eprintln!("{} services, ranges {:?}", first.services.len(), first.service_ranges);

    events(&cluster, &mut source.event_writer(), named.metadata.uid.as_deref().unwrap()).await;

    // An endpoint that changes, a Service that comes, one that goes.
    cluster.put("named", "10.180.0.2").await;
    cluster.put("more", "10.180.0.3").await;
    let endpoint = |snapshot: &Snapshot, name: &str| {
        let slices = snapshot.slices.get(&cluster.id(name))?;
        slices.values().flat_map(|slice| &slice.endpoints).map(|endpoint| endpoint.address.to_string()).next()
    };
    until(&mut snapshots, "the changes", |snapshot| {
        endpoint(snapshot, "named").as_deref() == Some("10.180.0.2")
            && endpoint(snapshot, "more").as_deref() == Some("10.180.0.3")
            && snapshot.services.contains_key(&cluster.id("more"))
    })
    .await;
    cluster.api("", "Service").delete("more", &DeleteParams::default()).await.unwrap();
    until(&mut snapshots, "the deletion", |snapshot| !snapshot.services.contains_key(&cluster.id("more"))).await;

    plan(&kubeconfig, &cluster.id("named"), address);
    cluster.end().await;
}

/// The server takes events, and counts what happens again.
async fn events(cluster: &Cluster, writer: &mut EventWriter, uid: &str) {
    let event = Event::of_service(&cluster.id("named"), Reason::AddressRefused, "a test of kube-ipvs");
    writer.write(&event, 1).await;
    writer.write(&event, 2).await;
    let api = cluster.api("events.k8s.io", "Event");
    let found = api.list(&kube::api::ListParams::default()).await.unwrap().items;
    let ours: Vec<_> = found.iter().filter(|event| event.data["reason"] == "AddressRefused").collect();
    assert_eq!(ours.len(), 1, "{found:#?}");
    assert_eq!(ours[0].data["regarding"]["uid"], uid);
    assert_eq!(ours[0].data["series"]["count"], 3, "{:#?}", ours[0].data);
    api.delete(ours[0].metadata.name.as_deref().unwrap(), &DeleteParams::default()).await.unwrap();
}

/// What `plan` says of the Service; it reads this machine's kernel, and needs root for it.
fn plan(kubeconfig: &Path, service: &ServiceName, address: IpAddr) {
    if !nix::unistd::geteuid().is_root() {
        return support::skipped("plan needs root to read the kernel");
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_kube-ipvs"));
    command.args(["plan", "--proxy-mode", "iptables", "--hostname-override", "none-of-this-name", "--kubeconfig"]);
    let output = command.arg(kubeconfig).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    // Two: it would change something. The rules of a new Service are named after it or hold its address.
    assert_eq!(output.status.code(), Some(2), "{text}\n{errors}");
    assert!(text.contains("create chain nat/KUBE-SVC-"), "{service} on {address}: {text}\n{errors}");
}
