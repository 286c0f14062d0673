//! How traffic of pods is told from traffic of strangers, which is masqueraded: every `--detect-local-mode`, with packets.
//!
//! In the lab pods of this node hang on interfaces called `veth…`; what pods elsewhere and the client send comes in on
//! `eth0`.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests may fail loudly, too"
)]

mod support;

use kube_ipvs::lab::{Outcome, Protocol};
use serde_json::json;
use support::{Cluster, Mode, Service, in_both_modes, wait_until};

in_both_modes!(cluster_ranges, node_ranges_follow_the_node, interface_names, a_bridge);

/// Whose address the endpoint sees in the requests of each sender.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    /// The sender's own.
    Own,
    /// The node's.
    Node,
}
use Seen::{Node, Own};

fn web() -> Service {
    // The endpoint is elsewhere: what is not masqueraded comes back through the node as well.
    Service::new("web", 20).on(&[11])
}

/// What the endpoint sees of a sender, for IPv4 and IPv6.
fn seen(cluster: &Cluster, from: &str) -> [Option<Seen>; 2] {
    web().addresses().map(|address| {
        let Outcome::Answered(answer) = cluster.ask(from, &address, Protocol::Tcp) else { return None };
        let sees = |name: &str| cluster.host(name).addresses.contains(&answer.peer.ip());
        match (sees(from), sees("demo-node")) {
            (true, false) => Some(Own),
            (false, true) => Some(Node),
            _ => panic!("{from} to {address} is seen as {}", answer.peer),
        }
    })
}

fn wait_to_see(cluster: &Cluster, expected: [(&str, Seen); 4]) {
    for (from, expected) in expected {
        let mut last = [None, None];
        wait_until(&format!("{from} to be seen as {expected:?}"), || {
            let now = seen(cluster, from);
            let fits = now.iter().all(|seen| seen.as_ref() == Some(&expected));
            if now != last {
                eprintln!("{from}: {now:?}, wanted {expected:?}");
                last = now;
            }
            fits
        });
    }
}

fn cluster_ranges(mode: Mode) {
    let cluster = Cluster::new(mode);
    cluster.apply(&web());
    let proxy = cluster.start(&["--detect-local-mode", "ClusterCIDR"]);
    wait_to_see(&cluster, [("pod-2", Own), ("pod-3", Own), ("far-pod-2", Own), ("client", Node)]);
    proxy.stop();
}

fn node_ranges_follow_the_node(mode: Mode) {
    let cluster = Cluster::new(mode);
    let node = |cidrs: [&str; 2]| {
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "demo-node"},
            "spec": {"podCIDR": cidrs[0], "podCIDRs": cidrs}});
        cluster.write("node.json", &node.to_string());
    };
    cluster.apply(&web());
    node(["10.180.0.0/24", "fd00:10:180::/64"]);
    let proxy = cluster.start(&["--detect-local-mode", "NodeCIDR"]);
    wait_to_see(&cluster, [("pod-2", Own), ("pod-3", Own), ("far-pod-2", Node), ("client", Node)]);
    // kube-proxy ends when its node gets other ranges; here they are taken over.
    node(["10.180.1.0/24", "fd00:10:180:1::/64"]);
    wait_to_see(&cluster, [("pod-2", Node), ("pod-3", Node), ("far-pod-2", Own), ("client", Node)]);
    // A node of which nothing is known any more: nobody can be told from strangers, as with no ranges at all.
    std::fs::remove_file(cluster.folder.join("node.json")).unwrap();
    wait_to_see(&cluster, [("pod-2", Own), ("pod-3", Own), ("far-pod-2", Own), ("client", Own)]);
    proxy.stop();
}

fn interface_names(mode: Mode) {
    let cluster = Cluster::new(mode);
    cluster.apply(&web());
    let proxy = cluster.start(&["--detect-local-mode", "InterfaceNamePrefix", "--pod-interface-name-prefix", "veth"]);
    wait_to_see(&cluster, [("pod-2", Own), ("pod-3", Own), ("far-pod-2", Node), ("client", Node)]);
    proxy.stop();
}

/// The interface of pod-3, the third of the lab's pods, becomes a port of a bridge, and the way to it leads there.
const BRIDGE: &str = "
link=$(ip -o route get 10.180.0.3 | sed 's/.* dev \\([^ ]*\\) .*/\\1/')
mac=$(ip neigh show to 10.180.0.3 dev $link | sed 's/.*lladdr \\([^ ]*\\) .*/\\1/')
ip link add cni0 type bridge
ip link set cni0 address $(ip -o link show dev $link | sed 's/.*link.ether \\([^ ]*\\) .*/\\1/')
ip link set cni0 up
ip link set $link master cni0
ip route replace 10.180.0.3/32 dev cni0
ip -6 route replace fd00:10:180::3/128 dev cni0
ip neigh replace 10.180.0.3 lladdr $mac dev cni0 nud permanent
ip -6 neigh replace fd00:10:180::3 lladdr $mac dev cni0 nud permanent
";

fn a_bridge(mode: Mode) {
    let cluster = Cluster::new(mode);
    cluster.shell(BRIDGE);
    cluster.apply(&web());
    let proxy = cluster.start(&["--detect-local-mode", "BridgeInterface", "--pod-bridge-interface", "cni0"]);
    wait_to_see(&cluster, [("pod-3", Own), ("pod-2", Node), ("far-pod-2", Node), ("client", Node)]);
    proxy.stop();
}
