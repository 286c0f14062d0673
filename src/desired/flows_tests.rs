//! What has to be forgotten after which change.

use super::*;
use crate::desired::{Builder, NodeFacts, Settings};
use crate::model::{self, EndpointPort, EndpointSlice, IpFamily, Service, ServiceType, Snapshot};
use std::time::Instant;

/// A cluster of Services on paper, and the watch that follows it.
struct Paper {
    builder: Builder,
    watch: UdpWatch,
    snapshot: Snapshot,
    facts: NodeFacts,
}

fn paper() -> Paper {
    Paper {
        builder: Builder::new(Arc::new(Settings::default())),
        watch: UdpWatch::default(),
        snapshot: Snapshot { complete: true, ..Snapshot::default() },
        facts: NodeFacts { addresses: vec![ip("192.168.0.2")], ..NodeFacts::default() },
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

impl Paper {
    /// A Service on 10.96.0.10 with one port, 53 to 5353, and these endpoints, all ready.
    fn service(&mut self, port: &str, protocol: Protocol, node_port: Option<u16>, endpoints: &[&str]) {
        let mut service = Service::for_test("ns", "dns");
        (service.service_type, service.cluster_ips) = (ServiceType::NodePort, vec![ip("10.96.0.10")]);
        service.ports = vec![model::ServicePort { name: port.into(), protocol, port: 53, node_port, target: None }];
        let mut slice = EndpointSlice::for_test("slice");
        slice.ports = vec![EndpointPort { name: port.into(), protocol, port: 5353 }];
        slice.endpoints = endpoints.iter().map(|address| endpoint(address)).collect();
        let slices = [&slice].into_iter().collect();
        self.snapshot.slices.insert(service.name.clone(), slices);
        self.snapshot.services.insert(service.name.clone(), Arc::new(service));
    }

    /// What the last change makes due, and then is done.
    fn due(&mut self) -> BTreeMap<String, Vec<String>> {
        self.look();
        let due = self.due_already();
        self.watch.done();
        due
    }

    fn look(&mut self) -> bool {
        let change = self.builder.update(&self.snapshot, &self.facts, Instant::now());
        let touched = if change.node.v4 { Touched::All } else { Touched::Ports(&change.ports.v4) };
        self.watch.look(self.builder.desired().get(IpFamily::V4), touched)
    }

    fn due_already(&self) -> BTreeMap<String, Vec<String>> {
        let text = |(frontend, endpoints): (&SocketAddr, &BTreeSet<SocketAddr>)| {
            (frontend.to_string(), endpoints.iter().map(ToString::to_string).collect())
        };
        self.watch.due.0.iter().map(text).collect()
    }
}

fn endpoint(address: &str) -> model::Endpoint {
    model::Endpoint::for_test(ip(address))
}

fn due(expected: &[(&str, &[&str])]) -> BTreeMap<String, Vec<String>> {
    let owned = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
    expected.iter().map(|(frontend, endpoints)| ((*frontend).to_owned(), owned(endpoints))).collect()
}

const VIP: &str = "10.96.0.10:53";

#[test]
fn only_what_left_somebody_behind_is_due() {
    let mut paper = paper();
    paper.service("q", Protocol::Udp, None, &["10.0.0.1", "10.0.0.2"]);
    assert_eq!(paper.due(), due(&[(VIP, &["10.0.0.1:5353", "10.0.0.2:5353"])]), "at the start: everything");
    assert_eq!(paper.due(), due(&[]));
    paper.service("q", Protocol::Udp, None, &["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
    assert_eq!(paper.due(), due(&[]), "one more disturbs nobody");
    paper.service("q", Protocol::Udp, None, &["10.0.0.2", "10.0.0.3"]);
    assert_eq!(paper.due(), due(&[(VIP, &["10.0.0.2:5353", "10.0.0.3:5353"])]));
    paper.service("renamed", Protocol::Udp, None, &["10.0.0.2", "10.0.0.3"]);
    assert_eq!(paper.due(), due(&[]), "another key for the same frontend and endpoints");
    paper.service("renamed", Protocol::Udp, None, &[]);
    assert_eq!(paper.due(), due(&[(VIP, &[])]));
    paper.service("renamed", Protocol::Udp, None, &["10.0.0.1"]);
    assert_eq!(paper.due(), due(&[(VIP, &["10.0.0.1:5353"])]), "the first one");
    paper.service("renamed", Protocol::Tcp, None, &["10.0.0.1"]);
    assert_eq!(paper.due(), due(&[(VIP, &[])]), "gone");
    paper.service("renamed", Protocol::Tcp, None, &["10.0.0.2"]);
    assert_eq!(paper.due(), due(&[]), "TCP is none of its business");
}

#[test]
fn node_ports_count_on_every_address_that_serves_them() {
    let mut paper = paper();
    paper.service("q", Protocol::Udp, Some(30053), &["10.0.0.1"]);
    let one: &[&str] = &["10.0.0.1:5353"];
    assert_eq!(paper.due(), due(&[(VIP, one), ("127.0.0.1:30053", one), ("192.168.0.2:30053", one)]));
    paper.facts.addresses.push(ip("192.168.1.2"));
    assert_eq!(paper.due(), due(&[("192.168.1.2:30053", one)]), "an address more");
    paper.service("q", Protocol::Udp, Some(30054), &["10.0.0.1"]);
    paper.look();
    let expected = ["127.0.0.1", "192.168.0.2", "192.168.1.2"];
    let expected = expected.iter().flat_map(|ip| [format!("{ip}:30053"), format!("{ip}:30054")]);
    assert_eq!(paper.due_already().into_keys().collect::<Vec<_>>(), {
        let mut all: Vec<String> = expected.collect();
        all.sort();
        all
    });
    let to = |text: &str| text.parse().unwrap();
    let flows = paper.watch.due();
    assert!(flows.is_stale(to("127.0.0.5:30054"), to("10.0.0.2:5353")), "all of loopback is one");
    assert!(!flows.is_stale(to("127.0.0.5:30054"), to("10.0.0.1:5353")));
    assert!(flows.is_stale(to("192.168.0.2:30053"), to("10.0.0.1:5353")), "not served any more");
    assert!(!flows.is_stale(to("192.168.0.2:53"), to("10.0.0.1:5353")), "not ours");
}

#[test]
fn what_is_due_follows_later_changes() {
    let mut paper = paper();
    paper.service("q", Protocol::Udp, None, &["10.0.0.1", "10.0.0.2"]);
    paper.due();
    paper.service("q", Protocol::Udp, None, &["10.0.0.2"]);
    assert!(paper.look());
    paper.service("q", Protocol::Udp, None, &["10.0.0.2", "10.0.0.3"]);
    assert!(!paper.look(), "nothing new");
    assert_eq!(paper.due_already(), due(&[(VIP, &["10.0.0.2:5353", "10.0.0.3:5353"])]), "but nobody is disturbed");
}

#[test]
fn nothing_is_judged_before_everything_is_listed() {
    let mut paper = paper();
    paper.snapshot.complete = false;
    paper.service("q", Protocol::Udp, None, &[]);
    assert_eq!(paper.due(), due(&[]));
    paper.snapshot.complete = true;
    paper.service("q", Protocol::Udp, None, &["10.0.0.1"]);
    assert_eq!(paper.due(), due(&[(VIP, &["10.0.0.1:5353"])]));
}
