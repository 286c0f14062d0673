//! `auto` on a kernel that has IPVS: when IPVS breaks under the daemon it moves to iptables and says why, and moves back once
//! IPVS works again, under traffic and without flapping.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests may fail loudly, too"
)]

mod support;

use support::switching::{Traffic, assert_only, assert_works, cluster, modes, text, wait_gone};
use support::{Cluster, Mode, may_run, wait_until};

const BROKE: &str = "IPVS does not work any more";
const WORKS: &str = "IPVS has become available";

/// Somebody else's device takes the name of ours. The daemon makes its own again at once, so that there is little time for it.
fn take_the_name(cluster: &Cluster) {
    cluster.shell("ip link add foreign0 type veth peer foreign1");
    cluster.shell(
        "for try in $(seq 100); do
             printf 'link del kube-ipvs0\\nlink set foreign0 name kube-ipvs0\\n' | ip -batch - && exit
         done
         exit 1",
    );
}

#[test]
fn it_moves_when_ipvs_breaks_and_back() {
    if !may_run(Mode::Ipvs) {
        return;
    }
    let cluster = cluster(Mode::Ipvs);
    let mut proxy = cluster.launch(&["--proxy-mode", "auto"]);
    proxy.wait_in_sync();
    assert_eq!(modes(&cluster), ["ipvs", "ipvs"]);
    assert_works(&cluster);
    take_the_name(&cluster);
    wait_until("auto to move to iptables", || modes(&cluster) == ["iptables", "iptables"]);
    assert!(proxy.says(&[BROKE, "kube-ipvs0", "moving to iptables"]), "{}", proxy.log());
    assert_works(&cluster);
    let status = text(&cluster.program(&["status"]));
    eprintln!("{status}");
    let traffic = Traffic::start(&cluster);
    traffic.goes_on();
    cluster.shell("ip link del kube-ipvs0");
    wait_until("auto to move back", || modes(&cluster) == ["ipvs", "ipvs"]);
    assert!(proxy.says(&[WORKS, "moving to it"]), "{}", proxy.log());
    traffic.goes_on();
    eprintln!("connections, requests, datagrams, requests with affinity: {:?}", traffic.end());
    wait_gone(&cluster);
    assert_only(&cluster, Mode::Ipvs);
    assert_eq!((proxy.said(BROKE), proxy.said(WORKS)), (1, 1), "it flaps: {}", proxy.log());
    proxy.stop();
}
