//! What a changed annotation makes of the kernel: an edit of what is there, never a new one. And what of it is told when
//! the mode has nothing of the kind.

use super::histories::{builder, complete, connect_all, endpoint, facts, put, service, settle};
use super::switch::{Node, ask, settle as settle_rounds};
use crate::backend::ipvs::Observed;
use crate::desired::Touched;
use crate::model::{Balancing, Events, IpFamily, Protocol, Service, ServicePort, Snapshot, Weights};
use crate::reconcile::Mode;
use std::time::Instant;

fn asked(snapshot: &mut Snapshot, balancing: Balancing) {
    let port =
        |name: &str, protocol, port| ServicePort { name: name.into(), protocol, port, node_port: None, target: None };
    let ports = vec![port("a", Protocol::Tcp, 80), port("b", Protocol::Udp, 53)];
    let service = Service { balancing, ports, ..service("a", "172.30.0.1", 80, None, &[]) };
    put(snapshot, service, vec![endpoint("10.180.0.1", "me", false), endpoint("10.180.1.1", "other", false)]);
}

fn weighted(text: &str) -> Balancing {
    Balancing { weights: Weights::read(text).unwrap(), ..Balancing::default() }
}

#[test]
fn a_changed_annotation_is_an_edit() {
    let named = |name: &str| Balancing { scheduler: Some(name.into()), ..Balancing::default() };
    let history: [(Balancing, &[&str]); 7] = [
        (named("lc"), &["set service TCP 172.30.0.1:80 lc", "set service UDP 172.30.0.1:53 lc"]),
        (named("mh"), &["set service TCP 172.30.0.1:80 mh flags 0x8", "set service UDP 172.30.0.1:53 mh flags 0x8"]),
        (
            Balancing { source_port: true, one_packet: true, ..named("mh") },
            &["set service TCP 172.30.0.1:80 mh flags 0x18", "set service UDP 172.30.0.1:53 mh ops flags 0x18"],
        ),
        (Balancing::default(), &["set service TCP 172.30.0.1:80 rr", "set service UDP 172.30.0.1:53 rr"]),
        (
            weighted("node:other=3"),
            &[
                "set service TCP 172.30.0.1:80 wrr",
                "set destination TCP 172.30.0.1:80 -> 10.180.1.1:8080 Masq weight 3",
                "set service UDP 172.30.0.1:53 wrr",
            ],
        ),
        (weighted("node:other=3,*=2"), &["set destination TCP 172.30.0.1:80 -> 10.180.0.1:8080 Masq weight 2"]),
        // A scheduler that knows no weights.
        (
            Balancing { scheduler: Some("dh".into()), ..weighted("node:other=3,*=2") },
            &[
                "set service TCP 172.30.0.1:80 dh",
                "set destination TCP 172.30.0.1:80 -> 10.180.0.1:8080 Masq weight 1",
                "set destination TCP 172.30.0.1:80 -> 10.180.1.1:8080 Masq weight 1",
                "set service UDP 172.30.0.1:53 dh",
            ],
        ),
    ];
    let (mut builder, mut snapshot, mut observed) = (builder(), complete(), Observed::default());
    asked(&mut snapshot, Balancing::default());
    builder.update(&snapshot, &facts(), Instant::now());
    settle(builder.desired().get(IpFamily::V4), &mut observed, Touched::All);
    connect_all(&mut observed);
    for (balancing, expected) in history {
        asked(&mut snapshot, balancing);
        let change = builder.update(&snapshot, &facts(), Instant::now());
        let steps = settle(builder.desired().get(IpFamily::V4), &mut observed, Touched::Ports(&change.ports.v4));
        assert_eq!(steps, expected);
    }
}

#[test]
fn an_endpoint_that_returns_has_its_own_weight() {
    let (mut builder, mut snapshot, mut observed) = (builder(), complete(), Observed::default());
    asked(&mut snapshot, weighted("node:other=3"));
    builder.update(&snapshot, &facts(), Instant::now());
    settle(builder.desired().get(IpFamily::V4), &mut observed, Touched::All);
    connect_all(&mut observed);
    let mut steps = |here: bool| {
        let balanced = Service { balancing: weighted("node:other=3"), ..service("a", "172.30.0.1", 80, None, &[]) };
        let returns = endpoint("10.180.1.1", "other", false);
        let endpoints = std::iter::once(endpoint("10.180.0.1", "me", false)).chain(here.then_some(returns));
        put(&mut snapshot, balanced, endpoints.collect());
        let change = builder.update(&snapshot, &facts(), Instant::now());
        settle(builder.desired().get(IpFamily::V4), &mut observed, Touched::Ports(&change.ports.v4))
    };
    let left = steps(false);
    assert!(
        left.contains(&"set destination TCP 172.30.0.1:80 -> 10.180.1.1:8080 Masq weight 0".to_owned()),
        "{left:?}"
    );
    let returned: Vec<String> = steps(true).into_iter().filter(|step| step.contains("destination")).collect();
    assert_eq!(returned, ["set destination TCP 172.30.0.1:80 -> 10.180.1.1:8080 Masq weight 3"]);
}

#[tokio::test]
async fn what_has_no_effect_and_what_moves_is_told() {
    let (events, mut queue) = Events::queue();
    let node = Node::new(0, 1);
    let mut reconciler = node.start(Mode::Ipvs).telling(events);
    let mut snapshot = complete();
    asked(&mut snapshot, Balancing { scheduler: Some("mh".into()), ..Balancing::default() });
    reconciler.take_snapshot(&snapshot);
    let mut now = settle_rounds(&mut reconciler, Instant::now());
    for mode in [Mode::Iptables, Mode::Ipvs] {
        drop(ask(&mut reconciler, mode));
        now = settle_rounds(&mut reconciler, now);
    }
    drop(reconciler);
    let mut told = Vec::new();
    while let Some(event) = queue.next().await {
        told.push(event.to_string());
    }
    let without = "Service ns/a: AnnotationWithoutEffect: a scheduler or one-packet scheduling was asked for by annotation; \
                   IPv4 is served in iptables mode, which has neither";
    let expected = [
        "Node: ModeChanged: IPv4: mode iptables serves instead of ipvs; what is open drains",
        without,
        "Node: ModeChanged: IPv4: mode ipvs serves instead of iptables; what is open drains",
    ];
    assert_eq!(told, expected);
}
