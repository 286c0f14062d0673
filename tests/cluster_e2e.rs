//! Against a real API server, given by the environment variable `KUBECONFIG`: the source's snapshot, what `kube-ipvs plan`
//! makes of it, and the program at work on it in network namespaces, with packets. No controller need run: Services have no
//! selector, slices are made by hand, the node does not exist. Makes a namespace of its own and removes it. Changes nothing in
//! this machine's own network.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests may fail loudly, too"
)]

mod support;
#[path = "support/tls.rs"]
mod tls;

use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, Config, config::KubeConfigOptions, config::Kubeconfig};
use kube_ipvs::model::{Event, Events, Reason, ServiceName, Snapshot};
use kube_ipvs::source::Snapshots;
use kube_ipvs::source::cluster::{Access, EventWriter, Interest, Timing, start};
use serde_json::{Value, json};
use std::net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use support::{Mode, may_run, no_ipvs, wait_until};
use tls::{Authority, Front};

/// The kubeconfig, if one is given. kubectl's list of files is not: one is enough.
fn kubeconfig() -> Option<PathBuf> {
    let Some(path) = std::env::var_os("KUBECONFIG").filter(|path| !path.is_empty()).map(PathBuf::from) else {
        support::skipped("no API server is given: set KUBECONFIG to a kubeconfig file of one that may be written to");
        return None;
    };
    assert!(path.is_file(), "KUBECONFIG={}: it has to be one file that is there", path.display());
    // Files that it names are looked for beside it, and the program gets it as another file.
    Some(std::path::absolute(path).unwrap())
}

/// The address of the lab's pod of this number in the family that the cluster gives first.
fn pod(number: u8, like: IpAddr) -> String {
    if like.is_ipv6() { format!("fd00:10:180::{number}") } else { format!("10.180.0.{number}") }
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
        // One that was deleted stays where nobody empties it, and a process id comes again.
        let namespace = format!("kube-ipvs-test-{:08x}", fastrand::u32(..));
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

    /// A Service without a selector, its slice with one pod of the lab, and the address that the server gave it.
    async fn put(&self, name: &str, number: u8) -> (DynamicObject, IpAddr) {
        let service = self
            .apply(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
                "spec": {"ports": [{"name": "web", "protocol": "TCP", "port": 80, "targetPort": 8080}]}}))
            .await;
        let address: IpAddr = service.data["spec"]["clusterIP"].as_str().unwrap().parse().unwrap();
        let family = if address.is_ipv6() { "IPv6" } else { "IPv4" };
        self.apply(json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": family,
            "metadata": {"name": format!("{name}-1"), "labels": {"kubernetes.io/service-name": name}},
            "ports": [{"name": "web", "port": 8080, "protocol": "TCP"}],
            "endpoints": [{"addresses": [pod(number, address)], "conditions": {"ready": true}}]}))
            .await;
        (service, address)
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
    let (named, address) = cluster.put("named", 1).await;
    cluster
        .apply(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "headless"},
            "spec": {"clusterIP": "None", "ports": [{"name": "web", "protocol": "TCP", "port": 80}]}}))
        .await;

    let access = Access { kubeconfig: Some(kubeconfig.clone()), master: None };
    let gateway = access.open().await.expect("access to the API server");
    let interest = Interest { node_name: "none-of-this-name".into(), proxy_name: None };
    let source = start(gateway, &interest, Timing::default(), Events::default(), false);
    let mut snapshots = source.snapshots.clone();
    let first = until(&mut snapshots, "the first lists", |snapshot| snapshot.complete).await;
    let service = first.services.get(&cluster.id("named")).expect("the Service is in the snapshot");
    assert_eq!(service.cluster_ips, [address]);
    // The server makes it itself, some time after its start.
    let own = ServiceName::new("default", "kubernetes");
    until(&mut snapshots, "default/kubernetes", |snapshot| snapshot.services.contains_key(&own)).await;
    assert!(!first.services.contains_key(&cluster.id("headless")), "headless Services are not sent");
    assert!(first.service_ranges.is_empty() || first.service_ranges.iter().any(|range| range.contains(&address)));
    eprintln!("{} services, ranges {:?}", first.services.len(), first.service_ranges);

    events(&cluster, &mut source.event_writer(), named.metadata.uid.as_deref().unwrap()).await;

    // An endpoint that changes, a Service that comes, one that goes.
    cluster.put("named", 2).await;
    cluster.put("more", 3).await;
    let endpoint = |snapshot: &Snapshot, name: &str| {
        let slices = snapshot.slices.get(&cluster.id(name))?;
        slices.values().flat_map(|slice| slice.endpoints).map(|endpoint| endpoint.address.to_string()).next()
    };
    until(&mut snapshots, "the changes", |snapshot| {
        endpoint(snapshot, "named") == Some(pod(2, address))
            && endpoint(snapshot, "more") == Some(pod(3, address))
            && snapshot.services.contains_key(&cluster.id("more"))
    })
    .await;
    cluster.api("", "Service").delete("more", &DeleteParams::default()).await.unwrap();
    until(&mut snapshots, "the deletion", |snapshot| !snapshot.services.contains_key(&cluster.id("more"))).await;

    let id = cluster.id("named");
    plan(&kubeconfig, &id, address);
    tokio::task::block_in_place(|| at_work(&kubeconfig, &id, address, "pod-2"));
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

/// What the test above does with the program, on a server of our own, so that it is known to work.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_our_own() {
    let api = support::Api::start();
    support::follow::fill(&api, 0..3);
    api.put(support::follow::slice(1, "10.180.0.2"));
    let authority = Authority::new("the cluster's own");
    let to = api.url().trim_start_matches("http://").parse().unwrap();
    let front = Front::start(&authority.issue(&["127.0.0.1"]), None, to);
    let data = data_encoding::BASE64.encode(authority.certificate.as_bytes());
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
        "clusters": [{"name": "k", "cluster": {
            "server": format!("https://{}", front.address), "certificate-authority-data": data}}],
        "users": [{"name": "u", "user": {"token": "secret"}}],
    });
    let path = std::env::temp_dir().join(format!("kube-ipvs-e2e-own-{}", std::process::id()));
    std::fs::write(&path, config.to_string()).unwrap();
    let id = support::follow::name(1);
    plan(&path, &id, "172.30.0.2".parse().unwrap());
    tokio::task::block_in_place(|| at_work(&path, &id, "172.30.0.2".parse().unwrap(), "pod-2"));
    assert_eq!(api.header("authorization").as_deref(), Some("Bearer secret"));
    std::fs::remove_file(path).unwrap();
}

/// The program on that server, on the node of a cluster of network namespaces: packets to the Service reach its endpoint.
fn at_work(kubeconfig: &Path, service: &ServiceName, address: IpAddr, endpoint: &str) {
    let mode = if no_ipvs().is_none() { Mode::Ipvs } else { Mode::Iptables };
    if !may_run(mode) {
        return;
    }
    let cluster = support::Cluster::new(mode);
    let (file, _relay) = relayed(kubeconfig, &cluster);
    let mut arguments = vec!["run", "--kubeconfig", &file, "--proxy-mode", mode.name()];
    arguments.extend(["--hostname-override", "none-of-this-name", "--cluster-cidr", "10.180.0.0/16,fd00:10:180::/48"]);
    let mut proxy = cluster.spawn(&arguments, "");
    proxy.wait_in_sync();
    let to = SocketAddr::new(address, 80).to_string();
    for from in ["pod-3", "demo-node", "client"] {
        wait_until(&format!("{endpoint} to answer {from} on {service}, {to}"), || {
            cluster.answered_by(from, &to).as_deref() == Some(endpoint)
        });
    }
    eprintln!("{} mode: {service} on {to} is answered by {endpoint} for a pod, the node and a client", mode.name());
    proxy.stop();
    cluster.cleanup();
}

/// The same kubeconfig with a server that can be reached from the node's network namespace, and what leads there.
fn relayed(kubeconfig: &Path, cluster: &support::Cluster) -> (String, Front) {
    let mut config = Kubeconfig::read_from(kubeconfig).unwrap();
    let context = config.current_context.clone();
    let context = config.contexts.iter().find(|named| Some(&named.name) == context.as_ref()).unwrap();
    let name = context.context.as_ref().unwrap().cluster.clone();
    let named = config.clusters.iter_mut().find(|named| named.name == name).unwrap();
    let server = named.cluster.as_mut().unwrap();
    let url: http::Uri = server.server.as_deref().unwrap().parse().unwrap();
    let host = url.host().unwrap().trim_matches(['[', ']']).to_owned();
    let port = url.port_u16().unwrap_or(if url.scheme_str() == Some("http") { 80 } else { 443 });
    let to = (host.as_str(), port).to_socket_addrs().unwrap().next().unwrap();
    let listener = cluster.lab.node().ns.run(|| TcpListener::bind("127.0.0.1:0")).unwrap().unwrap();
    let relay = Front::relay(listener, to);
    server.server = Some(format!("{}://{}", url.scheme_str().unwrap_or("https"), relay.address));
    server.tls_server_name.get_or_insert(host);
    let file = cluster.folder.join("relayed");
    std::fs::write(&file, serde_json::to_string(&config).unwrap()).unwrap();
    (file.to_str().unwrap().to_owned(), relay)
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
