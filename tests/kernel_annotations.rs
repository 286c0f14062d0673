//! Our own annotations on a running kernel: weights in both modes, schedulers and one-packet scheduling in IPVS mode.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    reason = "helpers of tests may fail loudly, too"
)]

mod support;

use std::net::UdpSocket;
use std::time::Duration;

use kube_ipvs::lab::{Outcome, Probe, Prober, Protocol};
use support::{Cluster, Mode, Service, Talks, in_both_modes, may_run, wait_until};

in_both_modes!(weights_share_out_new_connections, an_endpoint_that_returns_has_its_own_weight);

const WEIGHTS: &str = "kube-ipvs.io/weights";
const SCHEDULER: &str = "kube-ipvs.io/scheduler";
const FLAGS: &str = "kube-ipvs.io/scheduler-flags";
const ONE_PACKET: &str = "kube-ipvs.io/one-packet";

/// Requests to tell shares by. Of random ones five standard deviations are 0.11.
const REQUESTS: usize = 400;

/// The share of an endpoint in new connections from the client.
fn share(cluster: &Cluster, to: &str, of: &str) -> f64 {
    let prober = Prober::start(&cluster.host("client").ns).unwrap();
    let probe = Probe { reset: true, ..Probe::ask(to.parse().unwrap(), Protocol::Tcp, Duration::from_secs(20)) };
    let answers = prober.probe_all(vec![probe; REQUESTS], 8).unwrap();
    let is_of = |outcome: &Outcome| match outcome {
        Outcome::Answered(answer) => answer.name == of,
        other => panic!("{to}: {other}"),
    };
    answers.iter().filter(|finished| is_of(&finished.outcome)).count() as f64 / REQUESTS as f64
}

fn assert_share(cluster: &Cluster, to: &str, of: &str, wanted: f64) {
    let found = share(cluster, to, of);
    eprintln!("{to}: {of} has {found} of the connections, wanted {wanted}");
    let tolerance = if cluster.mode == Mode::Ipvs { 0.03 } else { 0.11 };
    assert!((found - wanted).abs() <= tolerance, "{to}: {of} has {found}, not {wanted}");
}

/// One endpoint on the node, one elsewhere with three times its weight.
fn web() -> Service {
    Service::new("web", 20).on(&[1, 11]).annotated(WEIGHTS, "node:far-node=3")
}

fn weights_share_out_new_connections(mode: Mode) {
    let cluster = Cluster::new(mode);
    cluster.apply(&web());
    let proxy = cluster.start(&[]);
    let to = web().addresses();
    to.iter().for_each(|address| assert_share(&cluster, address, "far-pod-1", 0.75));
    let list = String::from_utf8(cluster.program(&["list"]).stdout).unwrap();
    let weight = |pod: &str| {
        let row = list.lines().find(|line| line.contains(pod)).unwrap_or_else(|| panic!("no {pod}:\n{list}"));
        row.split_whitespace().nth(3).unwrap().to_owned()
    };
    assert_eq!([weight("-> 10.180.0.1:80"), weight("-> 10.180.1.1:80")], ["1", "3"], "{list}");
    cluster.assert_in_sync(&[]);

    // Another word takes effect on new connections and leaves open ones alone; what makes no sense is as if not said.
    let talks = Talks::start(&cluster, &["client", "pod-3"], &to, 1);
    cluster.apply(&web().annotated(WEIGHTS, "10.180.0.1=9, fd00:10:180::1=9"));
    cluster.wait_in_sync(&[]);
    to.iter().for_each(|address| assert_share(&cluster, address, "far-pod-1", 0.1));
    cluster.apply(&web().annotated(WEIGHTS, "node:far-node=heavy"));
    wait_until("the problem to be told", || proxy.says(&["Service default/web", WEIGHTS, "all weights are ignored"]));
    cluster.wait_in_sync(&[]);
    to.iter().for_each(|address| assert_share(&cluster, address, "far-pod-1", 0.5));
    talks.wait_for_more(1);
    talks.end();
    proxy.stop();
}

/// Not ready for a while, with a connection that goes on: weight 0, and then its own again.
fn an_endpoint_that_returns_has_its_own_weight(mode: Mode) {
    let cluster = Cluster::new(mode);
    let to = web().addresses();
    cluster.apply(&web().on(&[11]));
    let proxy = cluster.start(&[]);
    let talks = Talks::start(&cluster, &["client", "pod-3"], &to, 1);
    cluster.apply(&Service { endpoints: vec![(1, true), (11, false)], ..web() });
    to.iter().for_each(|address| cluster.wait_answerers(address, &["pod-1"]));
    let weight = || {
        let table = cluster.on_node("ipvsadm -Ln");
        let row = table.lines().find(|line| line.contains("-> 10.180.1.1:80")).unwrap_or_else(|| panic!("{table}"));
        row.split_whitespace().nth(3).unwrap().to_owned()
    };
    if mode == Mode::Ipvs {
        assert_eq!(weight(), "0");
    }
    talks.wait_for_more(2);
    cluster.apply(&web());
    cluster.wait_in_sync(&[]);
    if mode == Mode::Ipvs {
        assert_eq!(weight(), "3");
    }
    to.iter().for_each(|address| assert_share(&cluster, address, "far-pod-1", 0.75));
    talks.wait_for_more(1);
    assert!(talks.end().iter().all(|name| name == "far-pod-1"));
    proxy.stop();
}

/// The line of a virtual server in `ipvsadm -Sn`.
fn server(cluster: &Cluster, address: &str) -> String {
    let table = cluster.on_node("ipvsadm -Sn");
    let line = table.lines().find(|line| line.starts_with("-A") && line.contains(address));
    line.unwrap_or_else(|| panic!("no {address}:\n{table}")).trim().to_owned()
}

/// The packets that came in for a destination of a virtual server.
fn packets(cluster: &Cluster, server: &str, destination: &str) -> u64 {
    let table = cluster.on_node("ipvsadm -Ln --stats --exact");
    let rows = table.lines().skip_while(|line| !line.contains(server)).skip(1).take_while(|line| line.contains("->"));
    let row =
        rows.filter(|line| line.contains(destination)).last().unwrap_or_else(|| panic!("no {destination}:\n{table}"));
    row.split_whitespace().nth(3).unwrap().parse().unwrap()
}

#[test]
fn a_scheduler_is_changed_in_place() {
    if !may_run(Mode::Ipvs) {
        return;
    }
    let cluster = Cluster::new(Mode::Ipvs);
    let plain = Service { annotations: Vec::new(), ..web() };
    cluster.apply(&plain);
    let proxy = cluster.start(&[]);
    let [to, _] = plain.addresses();
    let asked = |annotations: &[(&'static str, &str)], expected: &str| {
        let annotations = annotations.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        cluster.apply(&Service { annotations, ..plain.clone() });
        wait_until(expected, || server(&cluster, &to) == format!("-A -t {to} {expected}"));
    };
    asked(&[], "-s rr");
    let talks = Talks::start(&cluster, &["client", "pod-3"], std::slice::from_ref(&to), 2);
    let conns = || -> u64 {
        let table = cluster.on_node("ipvsadm -Ln --stats --exact");
        let row = table.lines().find(|line| line.contains(&to)).unwrap_or_else(|| panic!("{table}"));
        row.split_whitespace().nth(2).unwrap().parse().unwrap()
    };
    // The kernel shows what it counted two seconds late.
    wait_until("connections in the counters", || conns() >= 4);
    let before = conns();
    asked(&[(SCHEDULER, "sh")], "-s sh -b sh-fallback");
    asked(&[(SCHEDULER, "sh"), (FLAGS, "sh-port")], "-s sh -b sh-fallback,sh-port");
    asked(&[(SCHEDULER, "mh"), (FLAGS, "mh-port,mh-fallback")], "-s mh -b mh-fallback,mh-port");
    asked(&[(SCHEDULER, "nonsense")], "-s rr");
    asked(&[(WEIGHTS, "*=2")], "-s wrr");
    asked(&[(SCHEDULER, "wlc"), (WEIGHTS, "*=2")], "-s wlc");
    asked(&[], "-s rr");
    // A virtual server that was deleted and made again would count from 0.
    assert!(conns() >= before);
    talks.wait_for_more(1);
    talks.end();
    proxy.stop();
}

/// Datagrams of one flow go to one endpoint, and with one-packet scheduling to all in turn.
#[test]
fn one_packet_scheduling_spreads_the_datagrams_of_a_flow() {
    if !may_run(Mode::Ipvs) {
        return;
    }
    let cluster = Cluster::new(Mode::Ipvs);
    let syslog = Service { protocol: "UDP", ..Service::new("syslog", 21).on(&[1, 11]) };
    cluster.apply(&syslog);
    let proxy = cluster.start(&[]);
    let to = syslog.addresses();
    let counted = |address: &str| {
        let ends = if address.contains('[') {
            ["[fd00:10:180::1]:80", "[fd00:10:180:1::1]:80"]
        } else {
            ["10.180.0.1:80", "10.180.1.1:80"]
        };
        ends.map(|end| packets(&cluster, address, end))
    };
    let send = |address: &str| {
        let before = counted(address);
        let answers = cluster.host("client").ns.run(|| one_flow(address)).unwrap();
        wait_until("all datagrams", || counted(address).iter().sum::<u64>() >= before.iter().sum::<u64>() + DATAGRAMS);
        let after = counted(address);
        ([after[0] - before[0], after[1] - before[1]], answers)
    };
    for address in &to {
        let (shares, answers) = send(address);
        eprintln!("{address}: {shares:?}, {answers} answers");
        assert!(shares.contains(&0), "{address}: {shares:?}");
        assert_eq!(answers, DATAGRAMS, "{address}");
    }
    cluster.apply(&syslog.clone().annotated(ONE_PACKET, "true"));
    wait_until("one-packet scheduling", || to.iter().all(|address| server(&cluster, address).contains(" -o")));
    for address in &to {
        let (shares, answers) = send(address);
        eprintln!("{address}, one packet: {shares:?}, {answers} answers");
        assert_eq!(shares, [DATAGRAMS / 2; 2], "{address}");
        // What docs/annotations.md warns of: IPVS knows no connection by which to translate them.
        assert_eq!(answers, 0, "{address}");
    }
    cluster.apply(&syslog);
    wait_until("flows again", || to.iter().all(|address| !server(&cluster, address).contains(" -o")));
    proxy.stop();
}

const DATAGRAMS: u64 = 40;

/// Sends datagrams from one port; how many answers came back to it from where they were sent to.
fn one_flow(to: &str) -> u64 {
    let socket = UdpSocket::bind(if to.contains('[') { "[::]:0" } else { "0.0.0.0:0" }).unwrap();
    socket.connect(to).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let (mut answers, mut buffer) = (0, [0; 1024]);
    for number in 0..DATAGRAMS {
        // An endpoint that nobody answers for any more may make the kernel tell of it here.
        let _ = socket.send(format!("datagram {number}\n").as_bytes());
        answers += u64::from(socket.recv(&mut buffer).is_ok());
    }
    answers
}
