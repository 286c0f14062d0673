//! Packets and their fates, for one Service of each kind.

use super::*;
use crate::desired::NodeFacts;
use crate::desired::{Role, ServicePortKey, Settings};
use crate::model::{AffinityTimeout, ServiceName};

fn port() -> ServicePort {
    let endpoint = |address: &str, here: bool| Endpoint {
        address: address.parse().unwrap(),
        cluster: Some(Role::Serve { weight: 1 }),
        local: here.then_some(Role::Serve { weight: 1 }),
        on_this_node: here,
        elsewhere: !here,
        pod: Some("pod".into()),
    };
    ServicePort {
        key: ServicePortKey { service: ServiceName::new("ns", "web"), port: "http".into(), protocol: Protocol::Tcp },
        cluster_ip: "172.30.0.10".parse().unwrap(),
        port: 80,
        node_port: Some(30_080),
        external_ips: vec!["198.51.100.1".parse().unwrap()],
        load_balancer_ips: vec!["198.51.100.2".parse().unwrap()],
        source_ranges: vec!["203.0.113.0/25".parse().unwrap()],
        affinity: None,
        internal_policy_local: false,
        external_policy_local: false,
        health_check_port: None,
        scheduler: "rr".into(),
        scheduling: crate::desired::Scheduling::default(),
        endpoints: vec![endpoint("10.180.0.1:8080", true), endpoint("10.180.1.1:8080", false)],
        has_any_endpoints: true,
        left_local: None,
    }
}

fn desired(port: ServicePort) -> Desired {
    let facts = NodeFacts {
        addresses: vec!["192.168.0.2".parse().unwrap(), "127.0.0.1".parse().unwrap()],
        ..NodeFacts::default()
    };
    let settings = Settings {
        detect_local: DetectLocal::Cidrs(vec!["10.180.0.0/16".parse().unwrap()]),
        service_ranges: vec!["172.30.0.0/16".parse().unwrap()],
        ..Settings::default()
    };
    let rules = NodeRules::derive(&settings, &facts, None, &settings.service_ranges, IpFamily::V4);
    let ports = [(port.key.clone(), Arc::new(port))].into_iter().collect();
    Desired { ports, rules: Some(Arc::new(rules)), ..Desired::default() }
}

fn of(port: &ServicePort, from: &str, to: &str) -> Verdict {
    let (source, input) = match from {
        "node" => ("192.168.0.2", None),
        "loopback" => ("127.0.0.1", None),
        address => (address, Some("eth0".into())),
    };
    let destination = to.parse().unwrap();
    let packet = Packet { protocol: Protocol::Tcp, source: source.parse().unwrap(), input, destination };
    verdict(&desired(port.clone()), &packet, true)
}

/// The fate, the endpoints' last numbers, and who is masqueraded.
fn brief(verdict: &Verdict) -> (Fate, usize, Vec<bool>) {
    (verdict.fate, verdict.endpoints.len(), verdict.endpoints.iter().map(|one| one.masqueraded).collect())
}

#[test]
fn cluster_ips_masquerade_strangers_and_hairpins() {
    let port = port();
    assert_eq!(brief(&of(&port, "10.180.0.7", "172.30.0.10:80")), (Fate::Balanced, 2, vec![false, false]));
    assert_eq!(brief(&of(&port, "10.180.0.1", "172.30.0.10:80")), (Fate::Balanced, 2, vec![true, false]));
    assert_eq!(brief(&of(&port, "203.0.113.9", "172.30.0.10:80")), (Fate::Balanced, 2, vec![true, true]));
    assert_eq!(of(&port, "10.180.0.7", "172.30.0.10:81").fate, Fate::Refused);
    assert_eq!(of(&port, "10.180.0.7", "172.30.9.9:80").fate, Fate::Refused);
    assert_eq!(of(&port, "10.180.0.7", "192.0.2.1:80").fate, Fate::Untouched);
}

#[test]
fn policy_local_tells_strangers_from_the_cluster() {
    let port = ServicePort { external_policy_local: true, ..port() };
    let to = "198.51.100.1:80";
    assert_eq!(brief(&of(&port, "203.0.113.9", to)), (Fate::Balanced, 1, vec![false]));
    assert_eq!(brief(&of(&port, "10.180.0.7", to)), (Fate::Balanced, 2, vec![false, false]));
    assert_eq!(brief(&of(&port, "node", to)), (Fate::Balanced, 2, vec![true, true]));
    let elsewhere = ServicePort { endpoints: vec![port.endpoints[1].clone()], ..port.clone() };
    assert_eq!(of(&elsewhere, "203.0.113.9", to).fate, Fate::Dropped);
    let nobody = ServicePort { endpoints: Vec::new(), has_any_endpoints: false, ..port };
    assert_eq!(of(&nobody, "203.0.113.9", to).fate, Fate::Refused);
}

#[test]
fn source_ranges_hold_on_load_balancer_ips_only() {
    let port = port();
    assert_eq!(of(&port, "203.0.113.200", "198.51.100.2:80").fate, Fate::Dropped);
    assert_eq!(of(&port, "203.0.113.9", "198.51.100.2:80").fate, Fate::Balanced);
    assert_eq!(of(&port, "203.0.113.200", "198.51.100.1:80").fate, Fate::Balanced);
}

#[test]
fn node_ports_stand_on_the_nodes_addresses_and_for_the_node_on_localhost() {
    let port = ServicePort { affinity: Some(AffinityTimeout::clamped(60)), ..port() };
    assert_eq!(brief(&of(&port, "203.0.113.9", "192.168.0.2:30080")), (Fate::Balanced, 2, vec![true, true]));
    let local = of(&port, "loopback", "127.0.0.1:30080");
    assert_eq!((local.fate, local.affinity), (Fate::Balanced, Some(60)));
    assert_eq!(of(&port, "203.0.113.9", "192.168.0.2:80").fate, Fate::Untouched);
    assert_eq!(of(&port, "203.0.113.9", "127.0.0.1:30080").fate, Fate::Dropped);
    assert!(local.steps.iter().any(|step| step.contains("60 s")), "{:?}", local.steps);
}
