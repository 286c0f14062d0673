//! Somebody takes away what the proxy made: it is put back, and traffic goes on.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests may fail loudly, too"
)]

mod support;

use std::time::Instant;

use support::{Cluster, Mode, Proxy, Service, in_both_modes, may_run, wait_until};

in_both_modes!(rules_are_put_back, settings_are_put_back, everything_at_once);

/// With this period nothing but a notification can explain a repair.
const NEVER: [&str; 2] = ["--sync-period", "1h"];
const OFTEN: [&str; 2] = ["--sync-period", "1s"];
const PODS: [&str; 3] = ["far-pod-1", "pod-1", "pod-2"];

/// A cluster with a Service in and one outside of the service range, served.
fn serving(mode: Mode, flags: &[&str]) -> (Cluster, Proxy, Vec<String>) {
    let cluster = Cluster::new(mode);
    let external_ips = vec!["192.168.99.20".to_owned(), "2001:db8:9999::20".to_owned()];
    let web = Service { node_port: Some(30080), external_ips, ..Service::new("web", 20) };
    cluster.apply(&web);
    let proxy = cluster.start(flags);
    let mut addresses = web.all_addresses();
    addresses.extend(["192.168.99.20:80", "[2001:db8:9999::20]:80"].map(String::from));
    assert_served(&cluster, &addresses);
    (cluster, proxy, addresses)
}

fn assert_served(cluster: &Cluster, addresses: &[String]) {
    for address in addresses {
        cluster.wait_answerers(address, &PODS);
    }
}

/// Every address answers callers outside and on the node.
fn assert_answered(cluster: &Cluster, addresses: &[String]) {
    for (from, address) in ["client", "demo-node"].iter().flat_map(|from| addresses.iter().map(move |to| (from, to))) {
        wait_until(&format!("an answer to {from} from {address}"), || cluster.answered_by(from, address).is_some());
    }
}

/// Does the damage, sees it, and waits for the repair.
fn damage_and_repair(mode: Mode, flags: &[&str], damages: &[&str]) {
    let (cluster, proxy, addresses) = serving(mode, flags);
    for damage in damages {
        eprintln!("--- {damage}");
        let started = Instant::now();
        cluster.shell(damage);
        cluster.wait_in_sync(&[]);
        eprintln!("--- repaired after {:?}", started.elapsed());
        assert_answered(&cluster, &addresses);
    }
    assert_served(&cluster, &addresses);
    // A damage of several commands may come between what the proxy reads and what it writes: that is an error, and tried
    // again. None may be left.
    let errors = || proxy.said("ERROR");
    let before = errors();
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert_eq!(errors(), before, "{}", proxy.log());
    assert!(before <= 2 * damages.len(), "{}", proxy.log());
    proxy.stop();
}

#[test]
fn the_device_and_its_routes_are_put_back_at_once() {
    if !may_run(Mode::Ipvs) {
        return;
    }
    let damages = [
        "ip route del local 172.30.0.0/16 dev kube-ipvs0 table local",
        "ip -6 route del local fd00:172:30::/108 dev kube-ipvs0 table local",
        "ip route del local 192.168.99.20 dev kube-ipvs0 table local",
        "ip link set kube-ipvs0 down",
        "ip link del kube-ipvs0",
        "ip link del kube-ipvs0; ip link add kube-ipvs0 type dummy || true",
        // The last address of a device takes all routes along.
        "ip address add 198.18.3.1/32 dev kube-ipvs0; sleep 0.5; ip address del 198.18.3.1/32 dev kube-ipvs0",
    ];
    damage_and_repair(Mode::Ipvs, &NEVER, &damages);
}

#[test]
fn addresses_on_the_device_are_put_back_at_once() {
    if !may_run(Mode::Ipvs) {
        return;
    }
    let flags = [NEVER[0], NEVER[1], "--vip-binding", "address"];
    let (cluster, proxy, addresses) = serving(Mode::Ipvs, &flags);
    let damages = [
        "ip address del 172.30.0.20/32 dev kube-ipvs0",
        "ip -6 address del fd00:172:30::14/128 dev kube-ipvs0",
        "ip address flush dev kube-ipvs0",
        "ip link del kube-ipvs0",
    ];
    for damage in damages {
        cluster.shell(damage);
        cluster.wait_in_sync(&["--vip-binding", "address"]);
        assert_answered(&cluster, &addresses);
    }
    assert_served(&cluster, &addresses);
    proxy.stop();
}

#[test]
fn virtual_servers_and_sets_are_put_back_by_the_audit() {
    if !may_run(Mode::Ipvs) {
        return;
    }
    let damages = [
        "ipvsadm -D -t 172.30.0.20:80",
        "ipvsadm -D -t [fd00:172:30::14]:80",
        "ipvsadm -d -t 172.30.0.20:80 -r 10.180.0.1:80",
        "ipvsadm -e -t 172.30.0.20:80 -r 10.180.0.2:80 -m -w 0",
        "ipvsadm -e -t 172.30.0.20:80 -r 10.180.0.2:80 -g",
        "ipvsadm -E -t 172.30.0.20:80 -s wlc -p 60",
        "ipvsadm -C",
        "ipset del KUBE-IPVS-CLUSTER-IP 172.30.0.20,tcp:80",
        "ipset del KUBE-IPVS-LOOP-BACK 10.180.0.1,tcp:80,10.180.0.1",
        "ipset flush",
        "iptables -w -F; iptables -w -t nat -F; ipset destroy KUBE-IPVS-CLUSTER-IP || true",
    ];
    damage_and_repair(Mode::Ipvs, &OFTEN, &damages);
}

fn rules_are_put_back(mode: Mode) {
    let services = if mode == Mode::Ipvs { "KUBE-IPVS-SERVICES" } else { "KUBE-SERVICES" };
    let postrouting = if mode == Mode::Ipvs { "KUBE-IPVS-POSTROUTING" } else { "KUBE-POSTROUTING" };
    let forward = if mode == Mode::Ipvs { "KUBE-IPVS-FORWARD" } else { "KUBE-FORWARD" };
    let mut damages = vec![
        format!("iptables -w -t nat -F {services}"),
        format!("ip6tables -w -t nat -F {services}"),
        "iptables -w -t nat -F PREROUTING".to_owned(),
        format!(
            "iptables -w -t nat -F POSTROUTING; iptables -w -t nat -F {postrouting}; iptables -w -t nat -X {postrouting} || true"
        ),
        "iptables -w -F; iptables -w -t nat -F; iptables -w -X || true; iptables -w -t nat -X || true".to_owned(),
        format!("iptables -w -I {forward} -j DROP"),
        format!("iptables -w -t nat -A {postrouting} -j ACCEPT"),
    ];
    if mode == Mode::Iptables {
        let service = "$(iptables-save -t nat | sed -n 's/^:\\(KUBE-SVC-[^ ]*\\) .*/\\1/p' | head -n 1)";
        damages.extend([
            format!("iptables -w -t nat -F {service}"),
            format!("iptables -w -t nat -D {service} 3"),
            "for chain in $(iptables-save -t nat | sed -n 's/^:\\(KUBE-SEP-[^ ]*\\) .*/\\1/p'); do iptables -w -t nat -F $chain; done".to_owned(),
            "iptables -w -t nat -F KUBE-NODEPORTS".to_owned(),
        ]);
    }
    let damages: Vec<&str> = damages.iter().map(String::as_str).collect();
    damage_and_repair(mode, &OFTEN, &damages);
}

fn settings_are_put_back(mode: Mode) {
    let mut damages = vec!["sysctl -q net.ipv4.ip_forward=0"];
    if mode == Mode::Ipvs {
        damages.push("sysctl -q net.ipv4.vs.expire_nodest_conn=0");
    }
    damage_and_repair(mode, &OFTEN, &damages);
}

/// As if the node's network had been reset.
fn everything_at_once(mode: Mode) {
    // The repair may begin before the damage is done, and what is in use again is not deleted.
    let mut damage = "set +e; ".to_owned();
    for program in ["iptables", "ip6tables"] {
        for table in ["nat", "filter"] {
            damage += &format!("{program} -w -t {table} -F; {program} -w -t {table} -X; ");
        }
    }
    if mode == Mode::Ipvs {
        damage += "ipvsadm -C; ip link del kube-ipvs0; ipset destroy; ";
    }
    damage += "true";
    let (cluster, proxy, addresses) = serving(mode, &OFTEN);
    cluster.shell(&damage);
    wait_until("all to be there again", || cluster.plan(&[]).0 == 0);
    assert_served(&cluster, &addresses);
    proxy.stop();
}
