//! What the tests of the live switch share: a cluster with services of all kinds, traffic, and asking the daemon.

use super::{Cluster, Mode, Proxy, Service, State, Stream, Talks, Witness, emulated, no_ipvs, wait_until};
use kube_ipvs::lab::Protocol;
use serde_json::Value;
use std::process::Output;
use std::sync::Arc;

pub const CALLERS: [&str; 3] = ["client", "demo-node", "pod-3"];

pub fn web() -> Service {
    Service { node_port: Some(30080), ..Service::new("web", 20) }
}

pub fn names() -> Service {
    Service { protocol: "UDP", port: 53, target: 53, ..Service::new("names", 21) }
}

/// With a target port of its own: see docs/packet-path.md, "What IPVS can't tell apart".
pub fn sticky() -> Service {
    Service { sticky: true, target: 8080, ..Service::new("sticky", 22) }
}

/// All addresses of [`web`].
pub fn addresses() -> Vec<String> {
    web().all_addresses()
}

pub fn cluster(mode: Mode) -> Cluster {
    let cluster = Cluster::new(mode);
    [web(), names(), sticky()].iter().for_each(|service| cluster.apply(service));
    cluster
}

pub fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// `kube-ipvs switch` succeeds. Returns what it told.
pub fn switch(cluster: &Cluster, arguments: &[&str]) -> String {
    let output = cluster.program(&[&["switch"], arguments].concat());
    assert!(output.status.success(), "{arguments:?}: {}", text(&output));
    text(&output)
}

/// `kube-ipvs switch` fails. Returns what it told.
pub fn refused(cluster: &Cluster, arguments: &[&str]) -> String {
    let output = cluster.program(&[&["switch"], arguments].concat());
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", text(&output));
    text(&output)
}

/// The families as `kube-ipvs status -o json` tells them.
pub fn status(cluster: &Cluster) -> Vec<Value> {
    let output = cluster.program(&["status", "-o", "json"]);
    let status: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output)));
    status["families"].as_array().unwrap().clone()
}

pub fn modes(cluster: &Cluster) -> Vec<String> {
    status(cluster).iter().map(|family| family["mode"].as_str().unwrap().to_owned()).collect()
}

pub fn wait_gone(cluster: &Cluster) {
    let gone = |family: &Value| family["retiring"].is_null() && family["retiring_known"] == true;
    wait_until("the old mode to be gone", || status(cluster).iter().all(gone));
}

/// Waits until the mode that retires has so many open connections in each family.
pub fn wait_draining(cluster: &Cluster, least: u64) {
    let counted = |family: &Value| family["retiring"]["connections"].as_u64() >= Some(least);
    wait_until("open connections to be counted", || status(cluster).iter().all(counted));
}

/// Somebody answers at every address of [`web`].
pub fn assert_works(cluster: &Cluster) {
    addresses().iter().for_each(|address| assert!(cluster.answered_by("client", address).is_some(), "{address}"));
}

/// Nothing of the mode that does not serve is in the kernel.
pub fn assert_only(cluster: &Cluster, mode: Mode) {
    let state = State::of(cluster);
    let rules = |prefix: &str| {
        let variants = ["iptables-nft-save", "ip6tables-nft-save", "iptables-legacy-save", "ip6tables-legacy-save"];
        variants.iter().any(|command| state.printed(command).lines().any(|line| line.starts_with(prefix)))
    };
    assert_eq!(rules(":KUBE-IPVS-SERVICES"), mode == Mode::Ipvs, "chains of IPVS mode");
    assert_eq!(rules(":KUBE-SERVICES"), mode == Mode::Iptables, "chains of iptables mode");
    assert_eq!(state.printed("ipset save").contains("KUBE-IPVS-"), mode == Mode::Ipvs, "sets");
    assert_eq!(state.printed("ip link show").contains("kube-ipvs"), mode == Mode::Ipvs, "devices");
    if no_ipvs().is_none() {
        assert_eq!(state.printed("ipvsadm -Sn").contains("172.30.0.20"), mode == Mode::Ipvs, "virtual servers");
    }
}

/// Long-lived connections, new ones, UDP and clients with affinity, all the time.
pub struct Traffic {
    talks: Talks,
    requests: Stream,
    datagrams: Stream,
    clients: Stream,
}

impl Traffic {
    pub fn start(cluster: &Cluster) -> Self {
        // All of it passes here.
        let witness = Arc::new(Witness::start(&cluster.host("demo-node").ns));
        Self {
            talks: Talks::start(cluster, &CALLERS, &addresses(), 2),
            requests: Stream::start_with(cluster, &CALLERS, &addresses(), Protocol::Tcp, Some(&witness)),
            datagrams: Stream::start_with(cluster, &CALLERS, &names().addresses(), Protocol::Udp, Some(&witness)),
            clients: Stream::start_with(cluster, &CALLERS, &sticky().addresses(), Protocol::Tcp, Some(&witness)),
        }
    }

    pub fn goes_on(&self) {
        // An emulated machine takes its time for each; what is judged is all of them, at the end.
        let least = if emulated() { 4 } else { 1 };
        self.talks.wait_for_more(5);
        self.requests.wait_for_more(40 / least);
        self.datagrams.wait_for_more(20 / least);
        self.clients.wait_for_more(20 / least);
    }

    /// No connection broke, no request failed.
    pub fn end(self) -> [usize; 4] {
        [self.talks.end().len(), self.requests.end(), self.datagrams.end(), self.clients.end()]
    }
}

pub fn start(cluster: &Cluster, further: &[&str]) -> Proxy {
    let proxy = cluster.start(further);
    wait_until("the control socket", || cluster.program(&["status"]).status.success());
    proxy
}
