//! What others made in the same kernel survives everything, and `cleanup` leaves all as it was before `run`.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests may fail loudly, too"
)]

mod support;

use std::process::Command;

use kube_ipvs::lab::NetNs;
use support::web::Numbers;
use support::{Cluster, Mode, Service, State, in_both_modes, may_run, wait_until};

in_both_modes!(everything_of_others_survives, an_empty_node_is_empty_again);

/// Rules of another program in every table that is used, in both families.
const RULES: &str = r#"
for it in iptables ip6tables; do
  $it -w -t nat -N THEIRS
  $it -w -t nat -A THEIRS -p tcp --dport 4711 -j RETURN
  $it -w -t nat -A PREROUTING -m comment --comment "their rule" -j THEIRS
  $it -w -t nat -A POSTROUTING -p udp --dport 4712 -j ACCEPT
  $it -w -t mangle -A PREROUTING -p tcp --dport 4713 -j MARK --set-xmark 0x10/0x10
  $it -w -N THEIRS-INPUT
  $it -w -A THEIRS-INPUT -p tcp --dport 4714 -m mark --mark 0x10/0x10 -j DROP
  $it -w -A INPUT -j THEIRS-INPUT
  $it -w -A FORWARD -p tcp --dport 4715 -j REJECT
done
iptables -w -A FORWARD -m set --match-set THEIRS dst -j ACCEPT
"#;

/// Sets and addresses, one of them on the device that the proxy uses.
const SETS_AND_ADDRESSES: &str = "
ipset create THEIRS hash:net
ipset add THEIRS 203.0.113.128/25
ipset create THEIRS-TOO hash:ip,port family inet6
ipset add THEIRS-TOO fd00::1,tcp:80
ip address add 192.168.0.77/24 dev eth0
ip address add 2001:db8::77/64 dev eth0 nodad
ip route add 198.18.0.0/24 via 192.168.0.1
ip route add local 198.18.1.1 dev lo
sysctl -q net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0
";

/// The device of IPVS mode with somebody's addresses on it. A bridge where the kernel has no dummy device: nothing of
/// iptables mode looks at it.
const DEVICE: &str = "
ip link add kube-ipvs0 type dummy 2>/dev/null || ip link add kube-ipvs0 type bridge
ip link set kube-ipvs0 addrgenmode none
ip link set kube-ipvs0 up
ip address add 198.18.2.1/32 dev kube-ipvs0
ip address add 2001:db8:18::1/128 dev kube-ipvs0 nodad
";

/// Virtual servers elsewhere, on a node address, on an address of the service range with a port of no Service, and one
/// by mark.
const VIRTUAL_SERVERS: &str = "
ipvsadm -A -t 198.18.2.1:80 -s wlc
ipvsadm -a -t 198.18.2.1:80 -r 10.180.0.1:80 -m -w 7
ipvsadm -A -t 192.168.0.2:4716 -s rr
ipvsadm -a -t 192.168.0.2:4716 -r 10.180.0.2:80 -m
ipvsadm -A -u 172.30.0.20:4717 -s sh
ipvsadm -a -u 172.30.0.20:4717 -r 10.180.0.2:53 -m
ipvsadm -A -t 172.30.77.1:80 -s rr -p 300
ipvsadm -A -t [2001:db8::2]:4716 -s rr
ipvsadm -a -t [2001:db8::2]:4716 -r [fd00:10:180::2]:80 -m
ipvsadm -A -f 77 -s rr
ipvsadm -a -f 77 -r 10.180.0.3 -m
";

fn prepare(cluster: &Cluster) -> State {
    cluster.shell(SETS_AND_ADDRESSES);
    cluster.shell(RULES);
    cluster.shell(DEVICE);
    if cluster.mode == Mode::Ipvs {
        cluster.shell(VIRTUAL_SERVERS);
    }
    State::of(cluster)
}

/// Every line that was there is still there, whatever has come besides.
fn assert_kept(cluster: &Cluster, before: &State, when: &str) {
    let now = State::of(cluster);
    let mut commands =
        vec!["ip address show", "ip -4 route show table all", "ip -6 route show table all", "ipset save"];
    commands.extend(["iptables-nft-save", "ip6tables-nft-save"]);
    if cluster.mode == Mode::Ipvs {
        commands.push("ipvsadm -Sn");
    }
    for command in commands {
        let mut lines = now.printed(command).lines();
        for line in before.printed(command).lines() {
            let what = format!("{when}: {command} no longer prints, in this order: {line}\n{}", now.printed(command));
            // The order of rules is kept, too; tables of addresses are sorted by the kernel.
            if command.contains("tables") {
                assert!(lines.any(|found| found == line), "{what}");
            } else {
                assert!(now.printed(command).lines().any(|found| found == line), "{what}");
            }
        }
    }
}

/// Changes the manifests in several ways, waiting after each until the change is in the kernel.
fn many_syncs(cluster: &Cluster, before: &State, flags: &[&str]) {
    let web = Service { node_port: Some(30080), ..Service::new("web", 20) };
    cluster.apply(&web);
    let proxy = cluster.start(flags);
    assert_kept(cluster, before, "after the first sync");
    let changes = [
        ("endpoints", vec![web.clone().on(&[1, 12])]),
        ("another Service", vec![web.clone(), Service::new("other", 21)]),
        ("an external IP", vec![Service { external_ips: vec!["192.168.99.1".to_owned()], ..web.clone() }]),
        ("port and node port", vec![Service { port: 81, node_port: Some(30081), ..web.clone() }]),
        ("no endpoints", vec![web.clone().on(&[])]),
    ];
    for (what, services) in changes {
        services.iter().for_each(|service| cluster.apply(service));
        cluster.wait_in_sync(flags);
        assert_kept(cluster, before, &format!("after a change of {what}"));
    }
    cluster.delete(&web);
    cluster.wait_in_sync(flags);
    assert_kept(cluster, before, "after a Service went");
    proxy.stop();
}

fn everything_of_others_survives(mode: Mode) {
    let cluster = Cluster::new(mode);
    let before = prepare(&cluster);
    many_syncs(&cluster, &before, &["--sync-period", "1s"]);
    cluster.cleanup();
    State::of(&cluster).assert_same(&before, "after cleanup");
    if mode == Mode::Ipvs {
        let service = Service::new("web", 20);
        cluster.delete(&Service::new("other", 21));
        cluster.apply(&service);
        many_syncs(&cluster, &before, &["--sync-period", "1s", "--vip-binding", "address"]);
        cluster.cleanup();
        State::of(&cluster).assert_same(&before, "after cleanup with --vip-binding=address");
    }
    // A second cleanup finds nothing and does nothing.
    cluster.cleanup();
    State::of(&cluster).assert_same(&before, "after a second cleanup");
}

/// Without anything of others `cleanup` takes the device away, too.
fn an_empty_node_is_empty_again(mode: Mode) {
    let cluster = Cluster::new(mode);
    // Tables appear with their first rule and stay.
    cluster.shell(
        "for it in iptables ip6tables; do for t in nat filter mangle; do $it -w -t $t -N X; $it -w -t $t -X X; done; done",
    );
    let before = State::of(&cluster);
    cluster.write_examples();
    let proxy = cluster.start(&[]);
    cluster.assert_in_sync(&[]);
    proxy.kill();
    assert_ne!(State::of(&cluster), before);
    cluster.cleanup();
    State::of(&cluster).assert_same(&before, "after cleanup");
    let (status, text) = cluster.plan(&[]);
    assert_eq!(status, 2, "{text}");
}

/// The kernel's table is shared by all network namespaces, and what it tells of one depends on the others.
#[test]
fn virtual_servers_of_another_namespace_hide_none_of_ours() {
    if !may_run(Mode::Ipvs) {
        return;
    }
    let cluster = Cluster::new(Mode::Ipvs);
    let other = NetNs::create("other").unwrap();
    let script = "for port in $(seq 1 200); do echo \"-A -t 198.18.5.1:$port -s rr\"; done | ipvsadm -R";
    let mut command = Command::new("sh");
    command.args(["-ec", script]);
    assert!(other.spawn_process(command).unwrap().wait().unwrap().success());
    for number in 20..50 {
        cluster.apply(&Service::new(&format!("web-{number}"), number));
    }
    let proxy = cluster.start(&["--sync-period", "1s"]);
    cluster.assert_in_sync(&[]);
    proxy.stop();
    let proxy = cluster.start(&["--sync-period", "1s"]);
    assert!(!proxy.says(&["ERROR"]), "{}", proxy.log());
    cluster.assert_in_sync(&[]);
    // It would put back what cleanup takes away.
    proxy.stop();
    cluster.cleanup();
    let left = cluster.on_node("ipvsadm -Sn");
    assert_eq!(left, "");
}

/// The belief knows of it, and must not take it for what the Service left behind.
#[test]
fn a_virtual_server_in_the_way_of_a_service_outlives_it() {
    if !may_run(Mode::Ipvs) {
        return;
    }
    let cluster = Cluster::new(Mode::Ipvs);
    cluster.shell("ipvsadm -A -t 192.168.99.1:80 -s wlc; ipvsadm -a -t 192.168.99.1:80 -r 10.180.0.9:80 -m");
    let theirs = cluster.on_node("ipvsadm -Sn");
    let web = Service { external_ips: vec!["192.168.99.1".to_owned()], ..Service::new("web", 20) };
    cluster.apply(&web);
    let mut proxy = cluster.launch(&[]);
    proxy.wait_to_say(&["leave virtual server TCP 192.168.99.1:80 alone"]);
    cluster.delete(&web);
    wait_until("all but theirs to go", || cluster.on_node("ipvsadm -Sn") == theirs);
    cluster.wait_in_sync(&[]);
    proxy.stop();
    assert_eq!(cluster.on_node("ipvsadm -Sn"), theirs);
}

/// Nobody knows when it goes, so that the audit goes on; but the kernel is not read by each of them as after a failure, which
/// would keep changes waiting.
#[test]
fn a_virtual_server_in_the_way_costs_no_readings() {
    if !may_run(Mode::Ipvs) {
        return;
    }
    let cluster = Cluster::new(Mode::Ipvs);
    cluster.shell("ipvsadm -A -t 192.168.99.1:80 -s wlc");
    cluster.apply(&Service { external_ips: vec!["192.168.99.1".to_owned()], ..Service::new("web", 20) });
    let mut proxy = cluster.launch(&["--sync-period", "1s"]);
    proxy.wait_to_say(&["leave virtual server TCP 192.168.99.1:80 alone"]);
    let count = |what: &str| Numbers::scrape(&cluster).get(what, &[("ip_family", "IPv4")]).unwrap_or_default();
    let audits = |wanted: f64| {
        let before = count("kube_ipvs_syncs_total");
        wait_until("audits that try again", || count("kube_ipvs_syncs_total") >= before + wanted);
        count("kube_ipvs_kernel_reads_total")
    };
    // The first one sees what the other family's first sync did to the device that both have.
    let reads = audits(2.0);
    assert_eq!(audits(3.0), reads);
    cluster.shell("ipvsadm -D -t 192.168.99.1:80");
    wait_until("ours to take its place", || cluster.on_node("ipvsadm -Sn").contains("-a -t 192.168.99.1:80"));
    cluster.wait_in_sync(&[]);
    proxy.stop();
}

/// It was not there when the kernel was read last, and the Service that asks for its place comes before the next reading.
#[test]
fn a_virtual_server_that_has_just_come_is_not_taken_over() {
    if !may_run(Mode::Ipvs) {
        return;
    }
    let cluster = Cluster::new(Mode::Ipvs);
    let web = Service::new("web", 20);
    cluster.apply(&web);
    let mut proxy = cluster.start(&["--sync-period", "1h"]);
    let ours = cluster.on_node("ipvsadm -Sn");
    cluster.shell("ipvsadm -A -t 192.168.99.1:80 -s wlc; ipvsadm -a -t 192.168.99.1:80 -r 10.180.0.1:80 -m -w 7");
    let with_theirs = cluster.on_node("ipvsadm -Sn");
    assert_ne!(with_theirs, ours);
    cluster.apply(&Service { external_ips: vec!["192.168.99.1".to_owned()], ..web.clone() });
    proxy.wait_to_say(&["virtual server TCP 192.168.99.1:80 is another program's"]);
    proxy.wait_to_say(&["leave virtual server TCP 192.168.99.1:80 alone"]);
    assert_eq!(cluster.on_node("ipvsadm -Sn"), with_theirs);
    cluster.apply(&web);
    cluster.wait_in_sync(&[]);
    assert_eq!(cluster.on_node("ipvsadm -Sn"), with_theirs);
    proxy.stop();
}
