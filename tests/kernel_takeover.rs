//! Started on a node where kube-proxy has run, in whichever mode: no open connection breaks, no new one fails, and nothing
//! of kube-proxy is left; what is the kubelet's stays. And the way back.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests may fail loudly, too"
)]

mod support;

use kube_ipvs::lab::Protocol;
use std::time::Duration;
use support::leftovers::{self, Peer};
use support::{Cluster, Mode, Service, State, Stream, Talks, emulated, may_run, wait_until};

const CALLERS: [&str; 3] = ["client", "demo-node", "pod-3"];

fn web() -> Service {
    Service { node_port: Some(30080), ..Service::new("web", 20) }
}

/// All addresses of [`web`].
fn addresses() -> Vec<String> {
    web().all_addresses()
}

/// New requests that have to be answered after a change.
const ASKED: usize = 24;

/// Open connections that are used all the time, and new ones. An emulated processor is to do something else as well.
fn traffic(cluster: &Cluster) -> (Talks, Stream) {
    let (each, callers) = if emulated() { (1, &CALLERS[..1]) } else { (2, &CALLERS[..]) };
    let talks = Talks::start(cluster, &CALLERS, &addresses(), each);
    let requests = Stream::start(cluster, callers, &addresses(), Protocol::Tcp);
    talks.wait_for_more(3);
    (talks, requests)
}

/// What of kube-proxy is on the node: lines of the tools' output.
fn left(cluster: &Cluster, mode: Mode) -> Vec<String> {
    let state = State::of(cluster);
    let mut left = Vec::new();
    let rules = ["iptables-nft-save", "ip6tables-nft-save", "iptables-legacy-save", "ip6tables-legacy-save"];
    let foreign = |line: &str| {
        let old =
            ["KUBE-PROXY-CANARY", "KUBE-NODE-PORT", "KUBE-LOAD-BALANCER", "KUBE-SOURCE-RANGES", "-FILTER", "GONE"];
        let taken_over = [":KUBE-SERVICES", ":KUBE-SVC-", ":KUBE-SEP-", ":KUBE-FORWARD", ":KUBE-MARK-MASQ"];
        old.iter().any(|name| line.contains(name))
            || (mode == Mode::Ipvs && taken_over.iter().any(|name| line.starts_with(name)))
    };
    for command in rules {
        left.extend(state.printed(command).lines().filter(|line| foreign(line)).map(str::to_owned));
    }
    let ours = |line: &str| line.contains(" KUBE-IPVS-") && !line.contains(" KUBE-IPVS-IPS ");
    let set = |line: &&str| line.starts_with("create KUBE-") && !ours(line);
    left.extend(state.printed("ipset save").lines().filter(set).map(str::to_owned));
    let bound = |line: &&str| line.contains("172.30.0.") || line.contains("fd00:172:30::");
    left.extend(state.printed("ip address show").lines().filter(bound).map(str::to_owned));
    left.extend(
        cluster.on_node("nft list tables").lines().filter(|line| line.contains("kube-proxy")).map(str::to_owned),
    );
    if support::no_ipvs().is_none() {
        let mine = ["172.30.0.99", "fd00:172:30::63", ":30081"];
        let gone = |line: &&str| mine.iter().any(|text| line.contains(text));
        let servers = cluster.on_node("ipvsadm -Sn");
        left.extend(servers.lines().filter(gone).map(str::to_owned));
        let any = servers.lines().filter(|_| mode == Mode::Iptables);
        left.extend(any.map(str::to_owned));
    }
    left
}

fn assert_kubelet(cluster: &Cluster) {
    for program in ["iptables-save", "ip6tables-save"] {
        let rules = cluster.on_node(program);
        for line in [
            ":KUBE-KUBELET-CANARY",
            ":KUBE-IPTABLES-HINT",
            ":KUBE-FIREWALL",
            ":KUBE-MARK-DROP",
            "-A INPUT -j KUBE-FIREWALL",
            "-A KUBE-FIREWALL -m mark",
        ] {
            assert!(rules.contains(line), "{program}: {line} is gone:\n{rules}");
        }
    }
}

fn take_over(peer: Peer, mode: Mode, further: &[&str]) {
    if !may_run(mode) || (peer == Peer::Ipvs && !may_run(Mode::Ipvs)) {
        return;
    }
    let cluster = Cluster::new(mode);
    cluster.apply(&web());
    leftovers::kubelet(&cluster);
    leftovers::sysctls(&cluster, peer);
    let before = State::of(&cluster);
    leftovers::leave(&cluster, peer, &web());
    assert!(!left(&cluster, mode).is_empty(), "the leftovers can be seen");
    let (talks, requests) = traffic(&cluster);

    // The dry run says what would go, and touches nothing.
    let standing = State::of(&cluster);
    let (status, text) = cluster.plan(further);
    assert_eq!(status, 2, "{text}");
    let words: &[&str] = match (peer, mode) {
        (Peer::Nftables, _) => &["kube-proxy: delete nftables table ip kube-proxy", "table ip6 kube-proxy"],
        (Peer::Iptables, _) => &["delete chain mangle/KUBE-PROXY-CANARY", "delete chain nat/KUBE-SVC-GONE"],
        (Peer::Ipvs, Mode::Ipvs) => &["ipvs: delete service TCP 172.30.0.99:80", "destroy set KUBE-CLUSTER-IP"],
        (Peer::Ipvs, Mode::Iptables) => &["ipvs: delete service TCP 172.30.0.20:80", "destroy set KUBE-CLUSTER-IP"],
    };
    assert!(words.iter().all(|word| text.contains(word)), "{words:?}:\n{text}");
    State::of(&cluster).assert_same(&standing, "after plan");

    let mut proxy = cluster.start(further);
    talks.wait_for_more(5);
    requests.wait_for_more(ASKED);
    let open = talks.end().len();
    let asked = requests.end();
    if peer == Peer::Ipvs && mode == Mode::Iptables {
        // What was open may go on for as long as it likes, and with it its virtual server. Now nothing is.
        proxy.stop();
        proxy = cluster.start(&[further, &["--drain-timeout", "1s"]].concat());
    }
    wait_until("the end of kube-proxy's leftovers", || {
        let left = left(&cluster, mode);
        if let Some(first) = left.first() {
            eprintln!("left: {} lines, the first one {first}", left.len());
        }
        left.is_empty()
    });
    eprintln!("{peer:?} to {mode:?}: {open} open connections, {asked} requests, none failed; nothing is left");
    let told = proxy
        .log()
        .lines()
        .filter(|line| line.contains("in sync") || line.contains("left"))
        .collect::<Vec<_>>()
        .join("\n");
    eprintln!("{told}");
    assert!(!proxy.says(&["ERROR"]) && !proxy.says(&["would not go"]), "{}", proxy.log());
    assert_kubelet(&cluster);
    cluster.assert_in_sync(further);
    proxy.stop();
    cluster.cleanup();
    State::of(&cluster).assert_same(&before, "after cleanup");
}

#[test]
fn from_iptables_mode_to_iptables_mode() {
    take_over(Peer::Iptables, Mode::Iptables, &[]);
}

#[test]
fn from_nftables_mode_to_iptables_mode() {
    take_over(Peer::Nftables, Mode::Iptables, &[]);
}

#[test]
fn from_ipvs_mode_to_iptables_mode() {
    take_over(Peer::Ipvs, Mode::Iptables, &[]);
}

#[test]
fn from_iptables_mode_to_ipvs_mode() {
    take_over(Peer::Iptables, Mode::Ipvs, &[]);
}

#[test]
fn from_nftables_mode_to_ipvs_mode() {
    take_over(Peer::Nftables, Mode::Ipvs, &[]);
}

#[test]
fn from_ipvs_mode_to_ipvs_mode() {
    take_over(Peer::Ipvs, Mode::Ipvs, &[]);
}

/// A virtual server of somebody else stays, on whichever address, and so do others' tables, sets and addresses.
#[test]
fn what_is_nobody_elses_goes_and_nothing_more() {
    if !may_run(Mode::Ipvs) {
        return;
    }
    let cluster = Cluster::new(Mode::Ipvs);
    cluster.apply(&web());
    leftovers::sysctls(&cluster, Peer::Ipvs);
    leftovers::leave(&cluster, Peer::Ipvs, &web());
    cluster.shell(
        "ipvsadm -A -t 192.168.0.2:5000 -s wrr; ipvsadm -a -t 192.168.0.2:5000 -r 10.180.0.1:80 -m\n\
         ipset create MINE hash:ip; ipset add MINE 192.0.2.1; nft add table ip mine; nft add table inet kube-proxy",
    );
    let proxy = cluster.start(&[]);
    wait_until("the end of the leftovers", || !cluster.on_node("ipset save").contains("KUBE-CLUSTER-IP "));
    let servers = cluster.on_node("ipvsadm -Sn");
    assert!(servers.contains("-t 192.168.0.2:5000 -s wrr"), "{servers}");
    assert!(cluster.on_node("ipset save").contains("add MINE 192.0.2.1"));
    let tables = cluster.on_node("nft list tables");
    assert!(tables.contains("table ip mine") && tables.contains("table inet kube-proxy"), "{tables}");
    proxy.stop();
    cluster.cleanup();
    assert!(cluster.on_node("ipvsadm -Sn").contains("192.168.0.2:5000"));
}

/// kube-proxy has taken over again: `cleanup --keep-kube-proxy` takes away only what it does not use.
fn give_back(peer: Peer, mode: Mode) {
    if !may_run(mode) {
        return;
    }
    let cluster = Cluster::new(mode);
    cluster.apply(&web());
    leftovers::kubelet(&cluster);
    leftovers::sysctls(&cluster, peer);
    let proxy = cluster.start(&[]);
    let (talks, requests) = traffic(&cluster);
    proxy.stop();
    match peer {
        // It edits the virtual servers that are there, and adds what is missing.
        Peer::Ipvs => leftovers::leave_over(&cluster, &web()),
        _ => leftovers::leave(&cluster, peer, &web()),
    }
    let output = cluster.program(&["cleanup", "--keep-kube-proxy"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::thread::sleep(Duration::from_secs(1));
    talks.wait_for_more(5);
    requests.wait_for_more(ASKED);
    eprintln!("{mode:?} to {peer:?}: {} open connections, {} requests, none failed", talks.end().len(), requests.end());
    let state = State::of(&cluster);
    for ours in
        ["KUBE-IPVS-SERVICES", "KUBE-IPVS-GUARD", "KUBE-UNTRANSLATED", "KUBE-CLUSTER-IPS", "KUBE-IPVS-CLUSTER-IP"]
    {
        for command in ["iptables-nft-save", "ip6tables-nft-save", "ipset save"] {
            assert!(!state.printed(command).contains(ours), "{command} has {ours}");
        }
    }
    assert!(!state.printed("ip -4 route show table all").contains("proto 75"), "routes of ours");
    assert_kubelet(&cluster);
}

#[test]
fn back_to_ipvs_mode() {
    give_back(Peer::Ipvs, Mode::Ipvs);
}

#[test]
fn back_to_iptables_mode() {
    give_back(Peer::Iptables, Mode::Iptables);
}
