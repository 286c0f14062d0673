//! Node ports follow the addresses of the node while it runs.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests may fail loudly, too"
)]

mod support;

use support::{Cluster, Mode, Service, in_both_modes, wait_until};

in_both_modes!(on_all_addresses, on_those_of_a_network);

const NEW: [&str; 2] = ["192.168.0.77:30080", "[2001:db8::77]:30080"];
const FIRST: [&str; 2] = ["192.168.0.2:30080", "[2001:db8::2]:30080"];

fn web() -> Service {
    Service { node_port: Some(30080), ..Service::new("web", 20).on(&[1, 11]) }
}

const ADD: &str = "ip address add 192.168.0.77/24 dev eth0; ip address add 2001:db8::77/64 dev eth0 nodad";
const REMOVE: &str = "ip address del 192.168.0.77/24 dev eth0; ip address del 2001:db8::77/64 dev eth0";

fn wait_served(cluster: &Cluster, addresses: &[&str]) {
    addresses.iter().for_each(|address| cluster.wait_answerers(address, &["far-pod-1", "pod-1"]));
}

fn on_all_addresses(mode: Mode) {
    let cluster = Cluster::new(mode);
    cluster.apply(&web());
    let proxy = cluster.start(&[]);
    wait_served(&cluster, &FIRST);
    for _ in 0..2 {
        cluster.shell(ADD);
        wait_served(&cluster, &NEW);
        cluster.shell(REMOVE);
        wait_until("nobody to answer", || NEW.iter().all(|address| cluster.answered_by("client", address).is_none()));
        cluster.wait_in_sync(&[]);
    }
    // An interface that comes up later, with an address of its own.
    cluster.shell("ip link add late0 type veth peer name late1; ip link set late0 up; ip link set late1 up");
    cluster.shell("ip address add 192.168.0.78/32 dev late0");
    wait_served(&cluster, &["192.168.0.78:30080"]);
    cluster.shell("ip link del late0");
    wait_until("nobody to answer", || cluster.answered_by("client", "192.168.0.78:30080").is_none());
    wait_served(&cluster, &FIRST);
    cluster.wait_in_sync(&[]);
    proxy.stop();
}

fn on_those_of_a_network(mode: Mode) {
    let cluster = Cluster::new(mode);
    cluster.apply(&web());
    let proxy = cluster.start(&["--nodeport-addresses", "192.168.0.64/26,2001:db8::40/122"]);
    for address in FIRST {
        assert!(cluster.answered_by("client", address).is_none(), "{address} is not among them");
    }
    cluster.shell(ADD);
    wait_served(&cluster, &NEW);
    for address in FIRST {
        assert!(cluster.answered_by("client", address).is_none(), "{address} is not among them");
    }
    cluster.shell(REMOVE);
    wait_until("nobody to answer", || NEW.iter().all(|address| cluster.answered_by("client", address).is_none()));
    proxy.stop();
}
