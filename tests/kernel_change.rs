//! Services, endpoints and flags change: new traffic follows, open connections live on.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests may fail loudly, too"
)]

mod support;

use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use support::{Cluster, Mode, Service, State, Stream, Talks, in_both_modes, may_run, wait_until};

in_both_modes!(
    endpoints_come_and_go_under_traffic,
    an_endpoint_that_returns_keeps_its_connections,
    a_service_changes_its_numbers,
    affinity_is_switched_on_and_off,
);

const CALLERS: [&str; 3] = ["client", "demo-node", "pod-3"];

/// Connections to endpoints that stay live, new ones always find one that serves.
fn endpoints_come_and_go_under_traffic(mode: Mode) {
    let cluster = Cluster::new(mode);
    let web = Service::new("web", 20);
    cluster.apply(&web.clone().on(&[1]));
    let proxy = cluster.start(&[]);
    let to = web.addresses();
    // All of them are with pod-1, which stays throughout.
    let talks = Talks::start(&cluster, &CALLERS, &to, 1);
    let requests = Stream::start(&cluster, &CALLERS, &to, kube_ipvs::lab::Protocol::Tcp);
    let steps: [(&[u8], &[&str]); 4] = [
        (&[1, 2, 11], &["far-pod-1", "pod-1", "pod-2"]),
        (&[1, 12], &["far-pod-2", "pod-1"]),
        (&[1, 2, 3, 11, 12], &["far-pod-1", "far-pod-2", "pod-1", "pod-2", "pod-3"]),
        (&[1], &["pod-1"]),
    ];
    for (endpoints, answerers) in steps {
        cluster.apply(&web.clone().on(endpoints));
        to.iter().for_each(|address| cluster.wait_answerers(address, answerers));
    }
    talks.wait_for_more(2);
    assert!(talks.end().iter().all(|name| name == "pod-1"));
    requests.end();
    // Without any endpoint callers are told at once.
    cluster.apply(&web.clone().on(&[]));
    for from in CALLERS {
        to.iter().for_each(|address| cluster.wait_refused(from, address));
    }
    assert!(!proxy.says(&["ERROR"]), "{}", proxy.log());
    proxy.stop();
}

/// Not ready: no new connections, but those that are open go on; ready again: new ones as well. In IPVS mode the
/// destination stays the same throughout, with weight 0 in between.
fn an_endpoint_that_returns_keeps_its_connections(mode: Mode) {
    let cluster = Cluster::new(mode);
    let web = Service::new("web", 20).on(&[1]);
    cluster.apply(&web);
    let proxy = cluster.start(&[]);
    let to = web.addresses();
    let talks = Talks::start(&cluster, &CALLERS, &to, 1);
    let away = Service { endpoints: vec![(1, false), (2, true)], ..web.clone() };
    cluster.apply(&away);
    to.iter().for_each(|address| cluster.wait_answerers(address, &["pod-2"]));
    if mode == Mode::Ipvs {
        let table = cluster.on_node("ipvsadm -Ln");
        let weight = |pod: &str| {
            let row = table.lines().find(|line| line.contains(pod)).unwrap_or_else(|| panic!("no {pod}:\n{table}"));
            row.split_whitespace().nth(3).unwrap().to_owned()
        };
        assert_eq!([weight("-> 10.180.0.1:80"), weight("-> 10.180.0.2:80")], ["0", "1"], "{table}");
    }
    talks.wait_for_more(3);
    let back = Service { endpoints: vec![(1, true), (2, true)], ..web.clone() };
    cluster.apply(&back);
    to.iter().for_each(|address| cluster.wait_answerers(address, &["pod-1", "pod-2"]));
    talks.wait_for_more(3);
    // The same for one that is taken out of the slice and comes back.
    cluster.apply(&web.clone().on(&[2]));
    to.iter().for_each(|address| cluster.wait_answerers(address, &["pod-2"]));
    talks.wait_for_more(3);
    cluster.apply(&web);
    to.iter().for_each(|address| cluster.wait_answerers(address, &["pod-1"]));
    talks.wait_for_more(3);
    assert!(talks.end().iter().all(|name| name == "pod-1"));
    // Whoever left goes as soon as its last connection has: at one of the next looks, some seconds apart.
    cluster.wait_in_sync(&[]);
    proxy.stop();
}

fn a_service_changes_its_numbers(mode: Mode) {
    let cluster = Cluster::new(mode);
    let web = Service { node_port: Some(30080), ..Service::new("web", 20) };
    let stays = Service::new("stays", 30).on(&[2]);
    [&web, &stays].into_iter().for_each(|service| cluster.apply(service));
    let proxy = cluster.start(&[]);
    let requests = Stream::start(&cluster, &CALLERS, &stays.addresses(), kube_ipvs::lab::Protocol::Tcp);
    let all = ["far-pod-1", "pod-1", "pod-2"];
    let node_port = |port: u16| [format!("192.168.0.2:{port}"), format!("[2001:db8::2]:{port}")];
    node_port(30080).iter().for_each(|address| cluster.wait_answerers(address, &all));
    let changes = [
        ("cluster IP", Service { number: 21, ..web.clone() }),
        ("port", Service { number: 21, port: 8088, ..web.clone() }),
        ("node port", Service { number: 21, port: 8088, node_port: Some(30081), ..web.clone() }),
        ("target port", Service { number: 21, port: 8088, node_port: Some(30081), target: 8080, ..web.clone() }),
        ("type", Service { number: 21, port: 8088, target: 8080, ..Service::new("web", 21) }),
    ];
    let addresses = |service: &Service| -> Vec<String> {
        service.addresses().into_iter().chain(service.node_port.into_iter().flat_map(node_port)).collect()
    };
    let mut before = web;
    for (what, service) in changes {
        eprintln!("--- {what}");
        cluster.apply(&service);
        addresses(&service).iter().for_each(|address| cluster.wait_answerers(address, &all));
        let gone = addresses(&before).into_iter().filter(|old| !addresses(&service).contains(old));
        gone.for_each(|address| cluster.wait_refused("client", &address));
        before = service;
    }
    cluster.delete(&before);
    before.addresses().iter().for_each(|address| cluster.wait_refused("client", address));
    requests.end();
    assert!(!proxy.says(&["ERROR"]), "{}", proxy.log());
    cluster.wait_in_sync(&[]);
    proxy.stop();
}

fn affinity_is_switched_on_and_off(mode: Mode) {
    let cluster = Cluster::new(mode);
    let web = Service { sticky: true, ..Service::new("web", 20) };
    cluster.apply(&web);
    let proxy = cluster.start(&[]);
    let one_only = |address: &str| CALLERS.iter().all(|from| cluster.answerers(from, address, 20).len() == 1);
    for address in web.addresses() {
        wait_until("affinity", || one_only(&address));
        let first = cluster.answerers("client", &address, 1);
        assert_eq!(cluster.answerers("client", &address, 30), first);
    }
    cluster.apply(&Service { sticky: false, ..web.clone() });
    web.addresses().iter().for_each(|address| cluster.wait_answerers(address, &["far-pod-1", "pod-1", "pod-2"]));
    cluster.apply(&web);
    web.addresses().iter().for_each(|address| wait_until("affinity again", || one_only(address)));
    cluster.wait_in_sync(&[]);
    proxy.stop();
}

#[test]
fn another_scheduler_at_restart() {
    if !may_run(Mode::Ipvs) {
        return;
    }
    let cluster = Cluster::new(Mode::Ipvs);
    let web = Service::new("web", 20).on(&[1]);
    cluster.apply(&web);
    let proxy = cluster.start(&[]);
    assert!(cluster.on_node("ipvsadm -Ln").contains("TCP  172.30.0.20:80 rr\n"));
    let talks = Talks::start(&cluster, &CALLERS, &web.addresses(), 1);
    proxy.stop();
    for scheduler in ["wlc", "sh", "mh", "rr"] {
        let flags = ["--ipvs-scheduler", scheduler];
        let proxy = cluster.start(&flags);
        let table = cluster.on_node("ipvsadm -Ln");
        assert!(table.contains(&format!("TCP  172.30.0.20:80 {scheduler}")), "{table}");
        web.addresses().iter().for_each(|address| cluster.wait_answerers(address, &["pod-1"]));
        cluster.assert_in_sync(&flags);
        talks.wait_for_more(2);
        proxy.stop();
    }
    talks.end();
}

#[test]
fn addresses_instead_of_routes_and_back_at_restart() {
    if !may_run(Mode::Ipvs) {
        return;
    }
    let cluster = Cluster::new(Mode::Ipvs);
    let external_ips = vec!["192.168.99.20".to_owned(), "2001:db8:9999::20".to_owned()];
    let web = Service { external_ips, ..Service::new("web", 20).on(&[1]) };
    cluster.apply(&web);
    let mut to = web.addresses().to_vec();
    to.extend(["192.168.99.20:80".to_owned(), "[2001:db8:9999::20]:80".to_owned()]);
    let binding = |kind: &'static str| ["--vip-binding", kind];
    cluster.start(&binding("route")).stop();
    let routes = |cluster: &Cluster| {
        let both = cluster.shell("ip route show table local proto 75; ip -6 route show table local proto 75");
        both.lines().map(|line| line.split_whitespace().nth(1).unwrap().to_owned()).collect::<Vec<_>>()
    };
    let addresses = |cluster: &Cluster| {
        let lines = cluster.on_node("ip -o address show dev kube-ipvs0 scope global");
        lines.lines().map(|line| line.split_whitespace().nth(3).unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(routes(&cluster), ["172.30.0.0/16", "192.168.99.20", "2001:db8:9999::20", "fd00:172:30::/108"]);
    assert!(addresses(&cluster).is_empty());
    let before = State::of(&cluster);
    let talks = Talks::start(&cluster, &CALLERS, &to, 1);
    for _ in 0..2 {
        let proxy = cluster.start(&binding("address"));
        let mut found = addresses(&cluster);
        found.sort();
        assert_eq!(found, ["172.30.0.20/32", "192.168.99.20/32", "2001:db8:9999::20/128", "fd00:172:30::14/128"]);
        assert!(routes(&cluster).is_empty(), "{:?}", routes(&cluster));
        cluster.assert_in_sync(&binding("address"));
        talks.wait_for_more(2);
        proxy.stop();
        cluster.start(&binding("route")).stop();
        assert!(addresses(&cluster).is_empty(), "{:?}", addresses(&cluster));
        cluster.assert_in_sync(&binding("route"));
        talks.wait_for_more(2);
    }
    talks.end();
    State::of(&cluster).assert_same(&before, "after two changes there and back");
}

#[test]
fn another_mode_at_restart() {
    if !may_run(Mode::Ipvs) {
        return;
    }
    let cluster = Cluster::new(Mode::Ipvs);
    let web = Service { node_port: Some(30080), ..Service::new("web", 20).on(&[1, 2]) };
    cluster.apply(&web);
    let to = web.all_addresses();
    let flags = |mode: &'static str| ["--proxy-mode", mode, "--drain-timeout", "1s"];
    let mut proxy = cluster.start(&flags("ipvs"));
    let requests = Stream::start(&cluster, &CALLERS, &to, kube_ipvs::lab::Protocol::Tcp);
    for mode in ["iptables", "ipvs"] {
        proxy.stop();
        proxy = cluster.start(&flags(mode));
        cluster.wait_in_sync(&flags(mode));
        let state = State::of(&cluster);
        let all = ["iptables-nft-save", "ip6tables-nft-save", "ipset save", "ipvsadm -Sn", "ip link show"];
        let all: String = all.iter().map(|command| state.printed(command)).collect();
        let foreign: &[&str] = match mode {
            "ipvs" => &["KUBE-SERVICES", "KUBE-SVC-", "KUBE-SEP-", "KUBE-POSTROUTING", "KUBE-MARK-MASQ"],
            _ => &["KUBE-IPVS-", "kube-ipvs0", "-A -t"],
        };
        for name in foreign {
            let left: Vec<&str> = all.lines().filter(|line| line.contains(name)).collect();
            assert!(left.is_empty(), "{mode}: {left:#?}");
        }
        to.iter().for_each(|address| cluster.wait_answerers(address, &["pod-1", "pod-2"]));
    }
    assert!(!proxy.says(&["ERROR"]), "{}", proxy.log());
    let done = requests.done();
    proxy.stop();
    eprintln!("{done} requests during two switches");
    requests.end();
}

/// Whether a host gets an answer to ICMP echo requests.
fn answers_ping(cluster: &Cluster, from: &str, to: &str) -> bool {
    let to: IpAddr = to.parse().unwrap();
    // The kernel hands out IPv4 with its header, and fills in the checksum of ICMPv6 only.
    let (domain, protocol, request, answer, header, checksum) = match to {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, 8, 0, 20, !(0x0800 + 0x4b4b + 1_u16)),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, 128, 129, 0, 0),
    };
    let [high, low] = checksum.to_be_bytes();
    let ping = || {
        let mut socket = Socket::new(domain, Type::RAW, Some(protocol)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        let question = [request, 0, high, low, 0x4b, 0x4b, 0, 1];
        socket.send_to(&question, &SocketAddr::new(to, 0).into()).unwrap();
        let mut packet = [0; 256];
        // Whatever else comes by as ICMP is read, too.
        while let Ok(length) = socket.read(&mut packet) {
            if packet[..length].get(header..).is_some_and(|icmp| icmp[0] == answer && icmp[4..6] == [0x4b, 0x4b]) {
                return true;
            }
        }
        false
    };
    (0..5).any(|_| cluster.host(from).ns.run(ping).unwrap())
}

/// As with kube-proxy's IPVS mode: an address of a Service is the node's own, and operators ping it.
#[test]
fn a_service_address_answers_ping() {
    if !may_run(Mode::Ipvs) {
        return;
    }
    let cluster = Cluster::new(Mode::Ipvs);
    let external_ips = vec!["192.168.99.20".to_owned(), "2001:db8:9999::20".to_owned()];
    cluster.apply(&Service { external_ips, ..Service::new("web", 20).on(&[1]) });
    let proxy = cluster.start(&[]);
    for from in CALLERS {
        for to in ["172.30.0.20", "192.168.99.20", "fd00:172:30::14", "2001:db8:9999::20"] {
            assert!(answers_ping(&cluster, from, to), "{from} to {to}");
        }
    }
    proxy.stop();
}
