//! A client's port comes again after a switch, while IPVS still remembers the connection that it was used for before. When
//! IPVS forgets one, it deletes what connection tracking has of its address and port, whoever made that
//! (`ip_vs_conn_drop_conntrack`).

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests may fail loudly, too"
)]

mod support;

use ipvs::connections;
use std::ops::Range;
use std::thread;
use std::time::{Duration, Instant};
use support::switching::{addresses, assert_only, cluster, start, switch, wait_gone};
use support::{Cluster, Mode, Proxy, Talks, may_run, wait_until};

/// Enough that some get another endpoint the second time.
const PORTS: Range<u16> = 41_000..41_008;
/// The same for others.
const LATER: Range<u16> = 42_000..42_008;
/// The same for ports that are used one after the other while IPVS forgets: for some seconds.
const IN_TURN: Range<u16> = 43_000..43_032;
/// IPVS remembers a reset for ten seconds.
const LONGER_THAN_A_RESET: Duration = Duration::from_secs(20);

/// The cluster IPs and load balancer IPs of both families.
fn targets() -> Vec<String> {
    addresses().into_iter().filter(|address| !address.contains(":30080")).collect()
}

fn on_every_target(open: impl Fn(&str) -> Talks) -> Vec<Talks> {
    targets().iter().map(|to| open(to)).collect()
}

/// Nothing is left of IPVS mode, nobody listens, and nothing was to be warned of.
fn assert_gone_quietly(cluster: &Cluster, proxy: Proxy) {
    wait_gone(cluster);
    assert_eq!(cluster.shell("ipvsadm -L --daemon").trim(), "");
    assert_only(cluster, Mode::Iptables);
    assert!(!proxy.says(&["WARN"]), "{}", proxy.log());
    proxy.stop();
}

/// Closed before the switch; used again at once after it, and a little later.
#[test]
fn a_port_that_comes_again() {
    if !may_run(Mode::Ipvs) {
        return;
    }
    let cluster = cluster(Mode::Ipvs);
    let proxy = start(&cluster, &[]);
    let from =
        |ports: &Range<u16>| on_every_target(|to| Talks::start_from(&cluster, "client", ports.clone(), to, None));
    let both = [PORTS, LATER];
    both.iter().flat_map(from).for_each(|talks| drop(talks.end()));
    switch(&cluster, &["iptables", "--drain", "10m", "--no-wait"]);
    let mut talks = from(&PORTS);
    wait_until("ports to be forgotten", || !remembers(&cluster, &LATER));
    talks.extend(from(&LATER));
    thread::sleep(LONGER_THAN_A_RESET);
    talks.into_iter().for_each(|talks| eprintln!("{:?}", talks.end()));
    // What is over does not hold IPVS mode for the two minutes that it could.
    let ended = Instant::now();
    wait_gone(&cluster);
    eprintln!("IPVS mode was gone {:?} after the last connection", ended.elapsed());
    assert_gone_quietly(&cluster, proxy);
}

/// Closed before the switch; used again while IPVS is told to forget them, each at another instant.
#[test]
fn ports_that_come_again_one_after_the_other() {
    if !may_run(Mode::Ipvs) {
        return;
    }
    let cluster = cluster(Mode::Ipvs);
    let proxy = start(&cluster, &[]);
    let from = |ports: Range<u16>| on_every_target(|to| Talks::start_from(&cluster, "client", ports.clone(), to, None));
    from(IN_TURN).into_iter().for_each(|talks| drop(talks.end()));
    switch(&cluster, &["iptables", "--drain", "10m", "--no-wait"]);
    let talks: Vec<_> = IN_TURN.flat_map(|port| from(port..port + 1)).collect();
    thread::sleep(LONGER_THAN_A_RESET);
    eprintln!("{:?}", Talks::end_all(talks));
    assert_gone_quietly(&cluster, proxy);
}

/// Whether IPVS knows any of these ports.
fn remembers(cluster: &Cluster, ports: &Range<u16>) -> bool {
    let mut any = false;
    let read = || connections::for_each(connections::PATH, |found| any |= ports.contains(&found.client.port()));
    cluster.host("demo-node").ns.run(read).unwrap().unwrap();
    any
}

/// Used again at once, before, while and after the mode is switched.
#[test]
fn ports_that_come_again_all_the_time() {
    if !may_run(Mode::Ipvs) {
        return;
    }
    let cluster = cluster(Mode::Ipvs);
    let proxy = start(&cluster, &[]);
    let each = Duration::from_secs(3);
    let talks = on_every_target(|to| Talks::start_from(&cluster, "client", PORTS, to, Some(each)));
    for mode in ["iptables", "ipvs", "iptables"] {
        switch(&cluster, &[mode, "--drain", "10m", "--no-wait"]);
        thread::sleep(LONGER_THAN_A_RESET);
    }
    talks.into_iter().for_each(|talks| eprintln!("{:?}", talks.end()));
    // Connection tracking remembers a reset for ten seconds as well.
    assert_gone_quietly(&cluster, proxy);
}

/// There can be one backup daemon only.
#[test]
fn the_daemon_of_somebody_else_is_left_alone() {
    if !may_run(Mode::Ipvs) {
        return;
    }
    let cluster = cluster(Mode::Ipvs);
    let mut proxy = start(&cluster, &[]);
    on_every_target(|to| Talks::start_from(&cluster, "client", PORTS, to, None))
        .into_iter()
        .for_each(|talks| drop(talks.end()));
    cluster.on_node("ipvsadm --start-daemon backup --mcast-interface eth0 --syncid 7");
    switch(&cluster, &["iptables", "--no-wait"]);
    proxy.wait_to_say(&["WARN", "the kernel does not listen", "a client whose port comes again"]);
    // What was reset ends by itself.
    wait_gone(&cluster);
    assert!(cluster.shell("ipvsadm -L --daemon").contains("backup sync daemon (mcast=eth0, syncid=7"));
    assert_only(&cluster, Mode::Iptables);
    assert_eq!(proxy.log().matches("the kernel does not listen").count(), 2, "once a family:\n{}", proxy.log());
    proxy.stop();
}
