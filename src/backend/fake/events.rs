//! Random histories of a small cluster.

use crate::model::{
    AffinityTimeout, Balancing, Endpoint, EndpointPort, EndpointSlice, IpFamily, Protocol, Service, ServiceName,
    ServicePort, ServiceType, Snapshot, Weights,
};
use proptest::prelude::*;
use std::net::IpAddr;
use std::sync::Arc;

/// Something that happens.
#[derive(Debug, Clone)]
pub enum Event {
    /// A Service is as these choices make it.
    Service(u8, u16),
    /// A Service goes.
    NoService(u8),
    /// The endpoints of a Service are these, each in one of a few states.
    Endpoints(u8, Vec<(u8, u8)>),
    /// The API servers are these, at addresses that Services ask for.
    ApiServers(Vec<u8>),
    /// We are killed and started again.
    Restart,
    /// The node has this many addresses.
    Addresses(u8),
    /// Time passes: drains end.
    Later,
}

pub fn history() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        4 => (0u8..5, any::<u16>()).prop_map(|(service, choices)| Event::Service(service, choices)),
        1 => (0u8..5).prop_map(Event::NoService),
        6 => (0u8..5, prop::collection::vec((0u8..6, 0u8..4), 0..5)).prop_map(|(s, list)| Event::Endpoints(s, list)),
        1 => prop::collection::vec(0u8..3, 0..3).prop_map(Event::ApiServers),
        1 => Just(Event::Restart),
        1 => (1u8..3).prop_map(Event::Addresses),
        1 => Just(Event::Later),
    ];
    prop::collection::vec(event, 1..40)
}

fn name(number: u8) -> ServiceName {
    ServiceName::new("ns", format!("svc-{number}"))
}

/// Changes the snapshot; true if the event was about it.
pub fn apply(event: &Event, snapshot: &mut Snapshot) {
    match event {
        Event::Service(number, choices) => {
            let service = service(*number, *choices);
            snapshot.services.insert(service.name.clone(), Arc::new(service));
        }
        Event::NoService(number) => drop(snapshot.services.remove(&name(*number))),
        Event::Endpoints(number, list) => {
            for (family, suffix) in [(IpFamily::V4, "4"), (IpFamily::V6, "6")] {
                let slice = slice(&format!("svc-{number}-{suffix}"), family, list);
                snapshot.slices.entry(name(*number)).or_default().insert(&slice);
            }
        }
        Event::ApiServers(list) => {
            let endpoints = list.iter().map(|number| endpoint(ip(format!("192.168.99.{number}")), (1, 0))).collect();
            let slice = EndpointSlice { endpoints, ..slice("kubernetes", IpFamily::V4, &[]) };
            snapshot.slices.entry(ServiceName::new("default", "kubernetes")).or_default().insert(&slice);
        }
        Event::Restart | Event::Addresses(_) | Event::Later => {}
    }
}

fn ip(text: String) -> IpAddr {
    text.parse().unwrap()
}

fn service(number: u8, choices: u16) -> Service {
    let bit = |n: u16| choices & (1 << n) != 0;
    // Two of the five share an external IP and a node port, so that claims are fought over.
    let shared = number % 3;
    let mut ports = vec![ServicePort {
        name: "a".into(),
        protocol: if bit(0) { Protocol::Udp } else { Protocol::Tcp },
        port: 80,
        node_port: bit(1).then_some(30_080 + u16::from(shared)),
        target: None,
    }];
    if bit(2) {
        ports.push(ServicePort { name: "b".into(), protocol: Protocol::Tcp, port: 81, node_port: None, target: None });
    }
    let mut cluster_ips = vec![ip(format!("172.30.0.{}", number + 1))];
    if bit(3) {
        cluster_ips.push(ip(format!("fd00:172:30::{}", number + 1)));
    }
    Service {
        name: name(number),
        uid: None,
        service_type: ServiceType::LoadBalancer,
        cluster_ips,
        external_ips: if bit(4) { vec![ip(format!("192.168.99.{shared}"))] } else { Vec::new() },
        load_balancer_ips: if bit(5) { vec![ip(format!("198.51.100.{}", number + 1))] } else { Vec::new() },
        source_ranges: if bit(6) { vec!["203.0.113.0/25".parse().unwrap()] } else { Vec::new() },
        ports,
        affinity: bit(7).then_some(AffinityTimeout::DEFAULT),
        external_policy_local: bit(8),
        internal_policy_local: bit(9),
        health_check_node_port: bit(8).then_some(31_000 + u16::from(number)),
        proxy_name: (bit(11) && bit(12)).then(|| "mesh".into()),
        labelled_headless: false,
        balancing: balancing(choices),
        labels: bit(12).then(|| "app=web".into()),
    }
}

fn balancing(choices: u16) -> Balancing {
    let bit = |n: u16| choices & (1 << n) != 0;
    Balancing {
        scheduler: bit(10).then(|| if bit(13) { "mh".into() } else { "lc".into() }),
        source_port: bit(13),
        one_packet: bit(14),
        weights: Weights::read(if bit(15) { "10.180.0.1=3,node:other=2" } else { "" }).unwrap(),
    }
}

fn endpoint(address: IpAddr, (last, state): (u8, u8)) -> Endpoint {
    Endpoint {
        address,
        ready: state < 2,
        serving: state < 3,
        terminating: state >= 2,
        node: Some(if last % 2 == 0 { "me".into() } else { "other".into() }),
        zone: None,
        hints: None,
        pod: None,
        weight: (last % 3 == 2).then_some(5),
    }
}

fn slice(name: &str, family: IpFamily, list: &[(u8, u8)]) -> EndpointSlice {
    let address = |last: u8| match family {
        IpFamily::V4 => ip(format!("10.180.0.{}", last + 1)),
        IpFamily::V6 => ip(format!("fd00:10:180::{}", last + 1)),
    };
    let port = |name: &str, protocol, port| EndpointPort { name: name.into(), protocol, port };
    EndpointSlice {
        name: name.into(),
        proxy_name: None,
        family,
        ports: vec![port("a", Protocol::Tcp, 8080), port("a", Protocol::Udp, 8080), port("b", Protocol::Tcp, 8081)],
        endpoints: list.iter().map(|(last, state)| endpoint(address(*last), (*last, *state))).collect(),
        triggers: Vec::new(),
    }
}
