//! The mode is switched under traffic, and nobody notices; a switch that cannot be done changes nothing; a daemon that is
//! killed in the midst of one ends in one mode.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests may fail loudly, too"
)]

mod support;

use std::net::UdpSocket;
use std::process::Command;
use std::thread;
use std::time::Duration;
use support::switching::{
    CALLERS, Traffic, addresses, assert_only, cluster, modes, names, refused, start, status, sticky, switch, text,
    wait_draining, wait_gone,
};
use support::{Cluster, Flow, Mode, State, emulated, may_run, no_ipvs, wait_until};

#[test]
fn there_and_back_under_traffic() {
    if !may_run(Mode::Ipvs) {
        return;
    }
    let cluster = cluster(Mode::Ipvs);
    let proxy = start(&cluster, &[]);
    assert_eq!(modes(&cluster), ["ipvs", "ipvs"]);
    let traffic = Traffic::start(&cluster);
    traffic.goes_on();
    for mode in ["iptables", "ipvs", "iptables"] {
        let told = switch(&cluster, &[mode, "--no-wait"]);
        for line in ["has 3 service ports", &format!("{mode} mode is complete"), "serves what is new"] {
            assert_eq!(told.matches(line).count(), 2, "{line}:\n{told}");
        }
        traffic.goes_on();
        assert_eq!(modes(&cluster), [mode, mode]);
        if mode == "iptables" {
            wait_draining(&cluster, 2);
            eprintln!("{}", text(&cluster.program(&["status"])));
        }
    }
    // What talks holds IPVS mode; back there it goes on, and then iptables mode is the one that is gone.
    switch(&cluster, &["ipvs"]);
    traffic.goes_on();
    assert_only(&cluster, Mode::Ipvs);
    eprintln!("connections, requests, datagrams, requests with affinity: {:?}", traffic.end());
    assert!(!proxy.says(&["ERROR"]), "{}", proxy.log());
    // Nobody talks any more: after the drain nothing of IPVS mode is left.
    let told = switch(&cluster, &["iptables", "--drain", "3s"]);
    assert_eq!(told.matches("nothing of ipvs mode is left").count(), 2, "{told}");
    assert!(told.ends_with("done\n"), "{told}");
    eprintln!("{told}");
    assert_only(&cluster, Mode::Iptables);
    proxy.stop();
}

/// Datagrams to the same address from the same port, all the time, until after the end of the old mode.
#[test]
fn udp_flows_outlive_the_old_mode() {
    if !may_run(Mode::Ipvs) {
        return;
    }
    let cluster = cluster(Mode::Ipvs);
    let proxy = start(&cluster, &[]);
    let to = names().addresses();
    let each = |from: &'static str| to.iter().map(move |to| (from, to));
    let flows = CALLERS.into_iter().flat_map(each);
    let flows: Vec<Flow> = flows.map(|(from, to)| Flow::start(&cluster.host(from).ns, from, to)).collect();
    thread::sleep(Duration::from_secs(1));
    switch(&cluster, &["iptables", "--drain", "2s"]);
    thread::sleep(Duration::from_secs(1));
    switch(&cluster, &["ipvs", "--drain", "2s"]);
    thread::sleep(Duration::from_secs(1));
    let few = if emulated() { 3 } else { 1 };
    for (what, names, lost, _) in flows.into_iter().map(Flow::end) {
        eprintln!("{what}: answered by {names:?}, {lost} lost");
        assert!(lost <= few, "{what}: {lost} lost");
    }
    proxy.stop();
}

#[test]
fn one_family_after_the_other() {
    if !may_run(Mode::Ipvs) {
        return;
    }
    let cluster = cluster(Mode::Ipvs);
    let proxy = start(&cluster, &[]);
    let traffic = Traffic::start(&cluster);
    switch(&cluster, &["iptables", "--family", "4", "--no-wait"]);
    assert_eq!(modes(&cluster), ["iptables", "ipvs"]);
    traffic.goes_on();
    traffic.end();
    // The same once more with less patience.
    let told = switch(&cluster, &["iptables", "--family", "4", "--drain", "1s"]);
    assert!(told.contains("nothing of ipvs mode is left"), "{told}");
    assert!(status(&cluster)[0]["retiring"].is_null());
    addresses().iter().for_each(|address| assert!(cluster.answered_by("client", address).is_some()));
    // What was switched to is what a restart starts with.
    proxy.kill();
    let proxy = start(&cluster, &[]);
    assert_eq!(modes(&cluster), ["iptables", "ipvs"]);
    addresses().iter().for_each(|address| assert!(cluster.answered_by("client", address).is_some()));
    proxy.stop();
}

/// Who answers each caller on each address of [`sticky`].
fn answerers(cluster: &Cluster) -> Vec<(&'static str, String, Vec<String>)> {
    let pairs = CALLERS.iter().flat_map(|from| sticky().addresses().map(|to| (*from, to)));
    pairs.map(|(from, to)| (from, to.clone(), cluster.answerers(from, &to, 6))).collect()
}

/// From IPVS to iptables clients stay with their endpoints.
#[test]
fn affinity_is_taken_along() {
    if !may_run(Mode::Ipvs) {
        return;
    }
    let cluster = cluster(Mode::Ipvs);
    let proxy = start(&cluster, &[]);
    let before = answerers(&cluster);
    assert!(before.iter().all(|(_, _, names)| names.len() == 1), "{before:?}");
    switch(&cluster, &["iptables", "--no-wait"]);
    assert_eq!(answerers(&cluster), before);
    switch(&cluster, &["ipvs"]);
    let after = answerers(&cluster);
    assert!(after.iter().all(|(_, _, names)| names.len() == 1), "{after:?}");
    switch(&cluster, &["iptables", "--no-wait"]);
    assert_eq!(answerers(&cluster), after);
    assert!(!proxy.says(&["WARN"]), "{}", proxy.log());
    proxy.stop();
}

/// A scheduler that the kernel does not have is asked for by the daemon's flags.
#[test]
fn what_is_missing_is_told_and_nothing_changes() {
    if !may_run(Mode::Iptables) {
        return;
    }
    let cluster = cluster(Mode::Iptables);
    let proxy = start(&cluster, &["--ipvs-scheduler", "twos"]);
    let before = State::of(&cluster);
    let traffic = Traffic::start(&cluster);
    let told = refused(&cluster, &["ipvs"]);
    let expected = if no_ipvs().is_some() { "IPVS" } else { "twos" };
    assert!(told.contains("ipvs does not work on this node") && told.contains(expected), "{told}");
    traffic.goes_on();
    traffic.end();
    State::of(&cluster).assert_same(&before, "after a switch that could not be");
    assert_eq!(modes(&cluster), ["iptables", "iptables"]);
    assert!(switch(&cluster, &["iptables"]).contains("done"), "it serves already");
    let text = text(&cluster.program(&["status"]));
    for line in
        ["IPv4: mode iptables", "IPv6: mode iptables", "in sync", "drift repaired: 0 steps", "nothing of the other"]
    {
        assert!(text.contains(line), "{line}:\n{text}");
    }
    proxy.stop();
    let gone = text_of_failure(&cluster, &["status"]);
    assert!(gone.contains("no daemon answers") && gone.contains("kube-ipvs run"), "{gone}");
}

fn text_of_failure(cluster: &Cluster, arguments: &[&str]) -> String {
    let output = cluster.program(arguments);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    text(&output)
}

/// Two daemons in one network namespace would work against each other; what a killed one left is no obstacle.
#[test]
fn a_second_daemon_is_refused() {
    if !may_run(Mode::Iptables) {
        return;
    }
    let cluster = cluster(Mode::Iptables);
    let first = start(&cluster, &[]);
    let mut second = cluster.launch(&[]);
    let ended = second.wait();
    assert_eq!(ended.code(), Some(1));
    assert!(second.says(&["another kube-ipvs", "nothing was changed"]), "{}", second.log());
    assert_eq!(modes(&cluster), ["iptables", "iptables"]);
    first.kill();
    let third = start(&cluster, &[]);
    third.stop();
}

/// Drift is counted.
#[test]
fn repairs_are_counted() {
    if !may_run(Mode::Iptables) {
        return;
    }
    let cluster = cluster(Mode::Iptables);
    let proxy = start(&cluster, &["--sync-period", "1s"]);
    cluster.on_node("iptables -t nat -F KUBE-SERVICES");
    wait_until("the repair", || status(&cluster)[0]["repaired"].as_u64() > Some(0));
    assert_eq!(status(&cluster)[1]["repaired"], 0);
    proxy.stop();
}

/// Killed in the midst of switches, again and again, and started again.
#[test]
fn killed_in_the_midst() {
    if !may_run(Mode::Ipvs) {
        return;
    }
    let cluster = cluster(Mode::Ipvs);
    let mut proxy = start(&cluster, &[]);
    let traffic = Traffic::start(&cluster);
    // Each takes its time where the processor is emulated.
    let (kills, step) = if emulated() { (2, Duration::from_secs(6)) } else { (20, Duration::from_millis(15)) };
    // At last twice just when the new mode has begun to serve and the old one drains, there and back.
    for kill in 0..kills + 2 {
        let other = if modes(&cluster)[0] == "ipvs" { "iptables" } else { "ipvs" };
        if kill < kills {
            let asking = cluster.spawn(&["switch", other, "--no-wait"], "");
            thread::sleep(step * kill);
            proxy.kill();
            drop(asking);
        } else {
            switch(&cluster, &[other, "--no-wait"]);
            proxy.kill();
        }
        traffic.goes_on();
        proxy = start(&cluster, &[]);
        let modes = modes(&cluster);
        assert_eq!(modes[0], modes[1]);
        assert!(kill < kills || modes[0] == other, "what serves is what a restart serves with: {modes:?}");
        eprintln!("kill {kill}, after asking for {other}: {}", modes[0]);
        traffic.goes_on();
    }
    let mode = if modes(&cluster)[0] == "ipvs" { Mode::Ipvs } else { Mode::Iptables };
    eprintln!("connections, requests, datagrams, requests with affinity: {:?}", traffic.end());
    switch(&cluster, &[mode.name(), "--no-wait"]);
    proxy.kill();
    let proxy = start(&cluster, &["--drain-timeout", "1s"]);
    wait_gone(&cluster);
    assert_only(&cluster, mode);
    proxy.stop();
}

/// A pod that has a way of its own to 127.0.0.1, by the node; and somebody on the node who listens there.
fn neighbour(cluster: &Cluster) -> UdpSocket {
    let script = "sysctl -qw net.ipv4.conf.all.route_localnet=1; ip route flush table local root 127.0.0.0/8; \
                  ip route add 127.0.0.1 $(ip -4 route show default | cut -d ' ' -f 2-)";
    let mut command = Command::new("sh");
    command.args(["-ec", script]);
    assert!(cluster.host("pod-3").ns.spawn_process(command).unwrap().wait().unwrap().success());
    let listener = cluster.lab.node().ns.run(|| UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap();
    listener.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    listener
}

fn is_reached(cluster: &Cluster, listener: &UdpSocket) -> bool {
    let to = listener.local_addr().unwrap();
    let send = || UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"who is there?", to).unwrap();
    cluster.host("pod-3").ns.run(send).unwrap();
    listener.recv(&mut [0; 64]).is_ok()
}

/// iptables mode sets `route_localnet` for all devices, and it stays set when that mode leaves.
#[test]
fn neighbours_do_not_get_to_localhost_in_either_mode() {
    if !may_run(Mode::Ipvs) {
        return;
    }
    let cluster = cluster(Mode::Iptables);
    let proxy = start(&cluster, &[]);
    let listener = neighbour(&cluster);
    assert!(!is_reached(&cluster, &listener), "iptables mode");
    switch(&cluster, &["ipvs", "--drain", "1s", "--no-wait"]);
    assert!(!is_reached(&cluster, &listener), "both");
    wait_gone(&cluster);
    assert!(!is_reached(&cluster, &listener), "IPVS mode");
    cluster.shell("for kind in nft legacy; do iptables-$kind -F KUBE-IPVS-LOCALNET-GUARD 2> /dev/null || true; done");
    assert!(is_reached(&cluster, &listener), "it is the guard that keeps them away");
    proxy.stop();
}
