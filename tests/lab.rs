//! The lab itself, with real packets: does the network that tests and the demo stand on do what its description says?

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test")]

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use kube_ipvs::lab::{Answer, Host, Lab, NetNs, Outcome, Probe, Prober, Protocol, Request, Responder, Topology};

const TIMEOUT: Duration = Duration::from_secs(5);

/// Whether tests that make namespaces can run; says why not, and fails where they must.
fn may_run(test: &str) -> bool {
    if nix::unistd::geteuid().is_root() {
        return true;
    }
    assert!(std::env::var_os("KUBE_IPVS_REQUIRE_IPTABLES").is_none(), "{test}: needs root");
    eprintln!("SKIPPED: {test}: needs root to make network namespaces");
    false
}

fn demo_lab() -> Lab {
    Lab::build(&Topology::demo()).unwrap()
}

fn host<'a>(lab: &'a Lab, name: &str) -> &'a Host {
    lab.host(name).unwrap()
}

fn answer_from(prober: &Prober, probe: Probe) -> Answer {
    let (to, protocol) = (probe.to, probe.protocol);
    match prober.probe(probe).unwrap() {
        Outcome::Answered(answer) => answer,
        other => panic!("{to}/{protocol}: {other}"),
    }
}

fn command_succeeds(ns: &NetNs, program: &str, arguments: &[&str]) {
    let mut command = Command::new(program);
    command.args(arguments).stdout(Stdio::null());
    let status = ns.spawn_process(command).unwrap().wait().unwrap();
    assert!(status.success(), "{program} {arguments:?}: {status}");
}

#[test]
fn everyone_reaches_everyone_over_both_families_and_both_protocols() {
    if !may_run("everyone_reaches_everyone") {
        return;
    }
    let lab = demo_lab();
    let all: Vec<&Host> = std::iter::once(lab.node()).chain(lab.hosts()).collect();
    let ports = [(Protocol::Tcp, 80), (Protocol::Udp, 53)];
    let _responders: Vec<_> = all.iter().map(|host| Responder::start(&host.ns, &host.name, &ports).unwrap()).collect();
    for from in &all {
        let prober = Prober::start(&from.ns).unwrap();
        for to in &all {
            for (family, address) in to.addresses.into_iter().enumerate() {
                for (protocol, port) in ports {
                    let target = SocketAddr::from((address, port));
                    let answer = answer_from(&prober, Probe::ask(target, protocol, TIMEOUT));
                    assert_eq!(answer.name, to.name, "{} to {target}/{protocol}", from.name);
                    assert_eq!(answer.local, target);
                    assert_eq!(answer.peer.ip(), from.addresses[family], "{} to {target}/{protocol}", from.name);
                }
            }
        }
    }
}

#[test]
fn a_host_with_two_addresses_answers_datagrams_from_the_one_that_was_asked() {
    if !may_run("a_host_with_two_addresses_answers") {
        return;
    }
    let mut topology = Topology::demo();
    let mut second = topology.uplink.clone();
    second.name = "eth1".to_owned();
    second.ipv4 = "192.168.1.2/24".parse().unwrap();
    second.ipv6 = "2001:db8:1::2/64".parse().unwrap();
    topology.idle_interfaces.push(second);
    let lab = Lab::build(&topology).unwrap();
    let ports = [(Protocol::Tcp, 7000), (Protocol::Udp, 7000)];
    let _responder = Responder::start(&lab.node().ns, "node", &ports).unwrap();
    for from in ["client", "pod-1", "demo-node"] {
        let prober = Prober::start(&host(&lab, from).ns).unwrap();
        for to in ["192.168.0.2", "192.168.1.2", "2001:db8::2", "2001:db8:1::2"] {
            let target = SocketAddr::new(to.parse().unwrap(), 7000);
            for (protocol, _) in ports {
                assert_eq!(answer_from(&prober, Probe::ask(target, protocol, TIMEOUT)).local, target, "from {from}");
            }
        }
    }
    let prober = Prober::start(&lab.node().ns).unwrap();
    for to in ["127.0.0.1:7000", "[::1]:7000"] {
        assert_eq!(
            answer_from(&prober, Probe::ask(to.parse().unwrap(), Protocol::Udp, TIMEOUT)).local,
            to.parse().unwrap()
        );
    }
}

#[test]
fn refusals_and_silence_are_told_apart() {
    if !may_run("refusals_and_silence_are_told_apart") {
        return;
    }
    let lab = demo_lab();
    let prober = Prober::start(&host(&lab, "client").ns).unwrap();
    for address in host(&lab, "pod-1").addresses {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let closed = SocketAddr::from((address, 4711));
            assert_eq!(
                prober.probe(Probe::ask(closed, protocol, TIMEOUT)).unwrap(),
                Outcome::Refused,
                "{closed}/{protocol}"
            );
        }
    }
    // Accepted by the kernel but never answered: nobody reads.
    let silent = host(&lab, "pod-2").ns.run(|| std::net::TcpListener::bind("0.0.0.0:4712").unwrap()).unwrap();
    let to = SocketAddr::from((host(&lab, "pod-2").addresses[0], 4712));
    let started = Instant::now();
    let outcome = prober.probe(Probe::ask(to, Protocol::Tcp, Duration::from_millis(300))).unwrap();
    assert_eq!(outcome, Outcome::TimedOut);
    assert!(started.elapsed() < Duration::from_secs(3));
    drop(silent);
    let nowhere = SocketAddr::from(([172, 30, 0, 1], 80));
    let outcome = prober.probe(Probe::ask(nowhere, Protocol::Tcp, TIMEOUT)).unwrap();
    assert!(matches!(outcome, Outcome::Unreachable(_)), "{outcome}");
}

#[test]
fn many_refusals_are_not_rate_limited() {
    if !may_run("many_refusals_are_not_rate_limited") {
        return;
    }
    let lab = demo_lab();
    let prober = Prober::start(&host(&lab, "client").ns).unwrap();
    let probes: Vec<_> = (0..300)
        .flat_map(|_| host(&lab, "pod-1").addresses)
        .map(|address| Probe::ask((address, 4711).into(), Protocol::Udp, TIMEOUT))
        .collect();
    for finished in prober.probe_all(probes, 32).unwrap() {
        assert_eq!(finished.outcome, Outcome::Refused, "{}", finished.probe.to);
    }
}

#[test]
fn source_port_closing_order_and_http_are_as_asked() {
    if !may_run("source_port_closing_order_and_http") {
        return;
    }
    let lab = demo_lab();
    let (pod, client) = (host(&lab, "pod-1"), host(&lab, "client"));
    let _responder = Responder::start(&pod.ns, "pod-1", &[(Protocol::Tcp, 80)]).unwrap();
    let prober = Prober::start(&client.ns).unwrap();
    for address in pod.addresses {
        let ask = Probe::ask((address, 80).into(), Protocol::Tcp, TIMEOUT);
        // Three times the same port: the responder closes first, so TIME_WAIT is not on this side.
        for _ in 0..3 {
            let probe = Probe { source_port: 50123, request: Request::AskAndBye, ..ask.clone() };
            assert_eq!(answer_from(&prober, probe).peer.port(), 50123);
        }
        // And a reset leaves none anywhere.
        for _ in 0..3 {
            let probe = Probe { source_port: 50124, reset: true, ..ask.clone() };
            assert_eq!(answer_from(&prober, probe).peer.port(), 50124);
        }
        let not_http = Probe { request: Request::HttpGet("/".to_owned()), timeout: Duration::from_millis(500), ..ask };
        assert!(matches!(prober.probe(not_http).unwrap(), Outcome::TimedOut), "the responder keeps HTTP open");
    }
}

/// The node translates and does not masquerade; the endpoint is beyond eth0, and so is the client.
#[test]
fn answers_from_beyond_the_node_come_back_through_its_translation() {
    if !may_run("answers_from_beyond_the_node") {
        return;
    }
    let lab = demo_lab();
    let (pod, node) = (host(&lab, "far-pod-1"), lab.node());
    let _responder = Responder::start(&pod.ns, "far-pod-1", &[(Protocol::Tcp, 80)]).unwrap();
    let rule =
        ["-w", "-t", "nat", "-A", "PREROUTING", "-p", "tcp", "--dport", "8081", "-j", "DNAT", "--to-destination"];
    command_succeeds(&node.ns, "iptables", &[&rule[..], &["10.180.1.1:80"]].concat());
    command_succeeds(&node.ns, "ip6tables", &[&rule[..], &["[fd00:10:180:1::1]:80"]].concat());
    for from in ["client", "far-pod-2", "pod-1"] {
        let from = host(&lab, from);
        let prober = Prober::start(&from.ns).unwrap();
        for virtual_ip in ["172.30.0.9", "fd00:172:30::9"] {
            let to = SocketAddr::new(virtual_ip.parse().unwrap(), 8081);
            let answer = answer_from(&prober, Probe::ask(to, Protocol::Tcp, TIMEOUT));
            assert_eq!((answer.name.as_str(), answer.peer.ip()), ("far-pod-1", from.address_like(to.ip())));
        }
    }
}

#[test]
fn the_sink_takes_what_left_the_node_untranslated() {
    if !may_run("the_sink_takes_what_left_the_node_untranslated") {
        return;
    }
    let mut topology = Topology::demo();
    topology.sink = vec!["172.30.0.0/16".parse().unwrap(), "fd00:172:30::/108".parse().unwrap()];
    let lab = Lab::build(&topology).unwrap();
    let _sink = Responder::start(lab.sink().unwrap(), "sink", &[(Protocol::Tcp, 80), (Protocol::Udp, 53)]).unwrap();
    for from in ["client", "pod-1", "demo-node"] {
        let prober = Prober::start(&host(&lab, from).ns).unwrap();
        for virtual_ip in ["172.30.0.9", "fd00:172:30::9"] {
            for (protocol, port) in [(Protocol::Tcp, 80), (Protocol::Udp, 53)] {
                let to = SocketAddr::new(virtual_ip.parse().unwrap(), port);
                assert_eq!(
                    answer_from(&prober, Probe::ask(to, protocol, TIMEOUT)).name,
                    "sink",
                    "{from} to {to}/{protocol}"
                );
            }
        }
    }
}

#[test]
fn thousands_of_requests_take_seconds() {
    if !may_run("thousands_of_requests_take_seconds") {
        return;
    }
    let lab = demo_lab();
    let pod = host(&lab, "far-pod-1");
    let ports = [(Protocol::Tcp, 80), (Protocol::Udp, 80)];
    let _responder = Responder::start(&pod.ns, "far-pod-1", &ports).unwrap();
    let prober = Prober::start(&host(&lab, "pod-1").ns).unwrap();
    for (protocol, _) in ports {
        let started = Instant::now();
        let probes =
            (0..4000).map(|tag| Probe { tag, ..Probe::ask((pod.addresses[tag % 2], 80).into(), protocol, TIMEOUT) });
        let finished = prober.probe_all(probes.collect(), 32).unwrap();
        assert_eq!(finished.len(), 4000);
        for one in finished {
            let Outcome::Answered(answer) = one.outcome else { panic!("{}: {}", one.probe.to, one.outcome) };
            assert_eq!(answer.question, format!("ask {}", one.probe.tag));
        }
        eprintln!("4000 {protocol} requests: {:?}", started.elapsed());
    }
}

#[test]
fn a_program_runs_inside_and_the_namespace_goes_with_the_lab() {
    if !may_run("a_program_runs_inside") {
        return;
    }
    let before = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
    let ns = NetNs::create("alone").unwrap();
    let mut command = Command::new("readlink");
    command.arg("/proc/self/ns/net").stdout(Stdio::piped());
    let child = ns.spawn_process(command).unwrap();
    let printed = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
    let inside = ns.run(|| std::fs::read_link("/proc/thread-self/ns/net").unwrap()).unwrap();
    assert_eq!(printed.trim_end(), inside.to_str().unwrap());
    assert_ne!(inside, before);
    assert_eq!(std::fs::read_link("/proc/thread-self/ns/net").unwrap(), before, "the caller stays where it was");
}
