//! Single histories that went wrong once: what each of them must never do again.

use super::ipvs::FakeIpvs;
use super::{Shared, dataplane, kernel};
use crate::backend::ipvs::{Context, FoundDestination, FoundServer, Observed, VipBinding, plan_for_tests};
use crate::desired::{Builder, Desired, NodeFacts, Settings, Touched};
use crate::model::{
    Endpoint, EndpointPort, EndpointSlice, IpFamily, Protocol, Service, ServiceName, ServicePort, ServiceType, Snapshot,
};
use ::ipvs::{Scheduler, ServiceId};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn builder() -> Builder {
    Builder::new(Arc::new(Settings { node_name: "me".into(), ..Settings::default() }))
}

pub fn facts() -> NodeFacts {
    let own = vec![ip("192.168.0.2")];
    NodeFacts { addresses: own.clone(), primary: own, gateways: Vec::new() }
}

pub fn service(name: &str, cluster_ip: &str, port: u16, node_port: Option<u16>, external: &[&str]) -> Service {
    let port = ServicePort { name: "a".into(), protocol: Protocol::Tcp, port, node_port, target: None };
    Service {
        service_type: ServiceType::NodePort,
        cluster_ips: vec![ip(cluster_ip)],
        external_ips: external.iter().map(|text| ip(text)).collect(),
        ports: vec![port],
        ..Service::for_test("ns", name)
    }
}

pub fn endpoint(address: &str, node: &str, terminating: bool) -> Endpoint {
    Endpoint {
        address: ip(address),
        ready: !terminating,
        serving: true,
        terminating,
        node: Some(node.into()),
        zone: None,
        hints: None,
        pod: None,
        weight: None,
    }
}

pub fn put(snapshot: &mut Snapshot, service: Service, endpoints: Vec<Endpoint>) {
    let (name, protocol) = (service.name.clone(), service.ports[0].protocol);
    let ports = vec![EndpointPort { name: "a".into(), protocol, port: 8080 }];
    let slice = EndpointSlice {
        name: "s".into(),
        proxy_name: None,
        family: IpFamily::V4,
        ports,
        endpoints,
        triggers: Vec::new(),
    };
    snapshot.services.insert(name.clone(), Arc::new(service));
    snapshot.slices.entry(name).or_default().insert(&slice);
}

pub fn complete() -> Snapshot {
    Snapshot { complete: true, ..Snapshot::default() }
}

/// Somebody else's virtual server.
fn foreign(kernel: &Shared, address: &str, port: u16) -> ServiceId {
    let id = ServiceId::Address { protocol: ::ipvs::Protocol::Tcp, address: ip(address), port };
    let found = FoundDestination { weight: 7, masqueraded: true, connections: 3, drained_since: None };
    let destinations = litemap::LiteMap::from_iter([("10.9.9.9:99".parse().unwrap(), found)]);
    let server = FoundServer { service: ::ipvs::Service::new(id, Scheduler::Wlc), destinations };
    kernel.lock().unwrap().v4.servers.insert(id, server);
    id
}

fn context() -> Context {
    Context {
        family: IpFamily::V4,
        binding: VipBinding::Route,
        now: Instant::now(),
        drain_timeout: Duration::from_secs(900),
        missing: Arc::default(),
    }
}

/// Brings a belief to what is desired, everything acknowledged, and returns the steps in words.
pub fn settle(desired: &Desired, observed: &mut Observed, touched: Touched<'_>) -> Vec<String> {
    let plan = plan_for_tests(context(), desired, observed, touched);
    plan.iter().for_each(|op| observed.acknowledge(op));
    observed.remember(desired, touched, &|port, rules| context().shared(port, rules));
    plan.iter().map(ToString::to_string).collect()
}

pub fn connect_all(observed: &mut Observed) {
    let destinations = observed.servers.values_mut().flat_map(|server| server.destinations.iter_mut());
    destinations.for_each(|(_, destination)| destination.connections = 5);
}

/// A Service asks for a place at which somebody else has a virtual server: by a node port, and by an external IP.
fn in_the_way(test: impl Fn(&Shared, ServiceId, Builder, Snapshot)) {
    for (node_port, external, address, port) in
        [(Some(30080), &[][..], "192.168.0.2", 30080), (None, &["192.168.99.1"][..], "192.168.99.1", 80)]
    {
        let shared = kernel(0, 1);
        let id = foreign(&shared, address, port);
        let (mut builder, mut snapshot) = (builder(), complete());
        let service = service("a", "172.30.0.1", 80, node_port, external);
        put(&mut snapshot, service, vec![endpoint("10.180.0.1", "me", false)]);
        builder.update(&snapshot, &facts(), Instant::now());
        test(&shared, id, builder, snapshot);
    }
}

#[test]
fn a_foreign_virtual_server_stays_foreign_across_audits_and_cleanup() {
    in_the_way(|shared, id, builder, _| {
        let before = shared.lock().unwrap().v4.servers[&id].clone();
        let mut plane = dataplane::<FakeIpvs>(shared);
        for _ in 0..3 {
            plane.distrust(IpFamily::V4);
            plane.sync(IpFamily::V4, builder.desired().get(IpFamily::V4), Touched::All, Instant::now());
            assert_eq!(shared.lock().unwrap().v4.servers[&id], before);
        }
        plane.distrust(IpFamily::V4);
        plane.sync(IpFamily::V4, &Desired::default(), Touched::All, Instant::now());
        assert_eq!(shared.lock().unwrap().v4.servers.values().collect::<Vec<_>>(), [&before]);
    });
}

#[test]
fn a_foreign_virtual_server_outlives_the_service_that_it_stood_in_the_way_of() {
    in_the_way(|shared, id, mut builder, mut snapshot| {
        let before = shared.lock().unwrap().v4.servers[&id].clone();
        let mut plane = dataplane::<FakeIpvs>(shared);
        let mut sync = |builder: &Builder, touched: Touched<'_>| {
            plane.sync(IpFamily::V4, builder.desired().get(IpFamily::V4), touched, Instant::now())
        };
        sync(&builder, Touched::All);
        snapshot.services.remove(&ServiceName::new("ns", "a"));
        let change = builder.update(&snapshot, &facts(), Instant::now());
        let report = sync(&builder, Touched::Ports(&change.ports.v4));
        assert!(!report.observed, "the belief told what to do");
        assert_eq!(shared.lock().unwrap().v4.servers.values().collect::<Vec<_>>(), [&before]);
    });
}

#[test]
fn a_fall_back_in_one_list_does_not_cut_connections_of_the_other() {
    let (mut builder, mut snapshot) = (builder(), complete());
    let service = Service { external_policy_local: true, ..service("a", "172.30.0.1", 80, Some(30080), &[]) };
    let other = endpoint("10.180.0.2", "other", false);
    put(&mut snapshot, service.clone(), vec![endpoint("10.180.0.1", "me", false), other.clone()]);
    builder.update(&snapshot, &facts(), Instant::now());
    let mut observed = Observed::default();
    settle(builder.desired().get(IpFamily::V4), &mut observed, Touched::All);
    connect_all(&mut observed);
    put(&mut snapshot, service, vec![endpoint("10.180.0.1", "me", true), other]);
    let change = builder.update(&snapshot, &facts(), Instant::now());
    let steps = settle(builder.desired().get(IpFamily::V4), &mut observed, Touched::Ports(&change.ports.v4));
    assert!(!steps.is_empty() && steps.iter().all(|step| !step.starts_with("delete destination")), "{steps:?}");
}

#[test]
fn what_was_found_draining_after_a_restart_goes_on_when_something_else_changes() {
    let (mut first, mut snapshot) = (builder(), complete());
    let service = service("a", "172.30.0.1", 80, None, &[]);
    let stays = endpoint("10.180.0.2", "other", false);
    put(&mut snapshot, service.clone(), vec![endpoint("10.180.0.1", "me", false), stays.clone()]);
    first.update(&snapshot, &facts(), Instant::now());
    let mut observed = Observed::default();
    settle(first.desired().get(IpFamily::V4), &mut observed, Touched::All);
    connect_all(&mut observed);
    // Killed; one endpoint leaves meanwhile; started again.
    observed.previous = None;
    let mut second = builder();
    put(&mut snapshot, service.clone(), vec![stays.clone()]);
    second.update(&snapshot, &facts(), Instant::now());
    settle(second.desired().get(IpFamily::V4), &mut observed, Touched::All);
    put(&mut snapshot, service, vec![stays, endpoint("10.180.0.3", "other", false)]);
    let change = second.update(&snapshot, &facts(), Instant::now());
    let steps = settle(second.desired().get(IpFamily::V4), &mut observed, Touched::Ports(&change.ports.v4));
    assert!(!steps.is_empty() && steps.iter().all(|step| !step.contains("10.180.0.1")), "{steps:?}");
}

#[test]
fn a_mode_that_hands_over_makes_nothing() {
    let (mut builder, mut snapshot) = (builder(), complete());
    let service = service("a", "172.30.0.1", 80, Some(30080), &["192.168.99.1"]);
    put(&mut snapshot, service, vec![endpoint("10.180.0.1", "me", false)]);
    builder.update(&snapshot, &facts(), Instant::now());
    let retired = builder.desired().get(IpFamily::V4).retired(Instant::now() + Duration::from_secs(900));
    let observed = Observed { interface: true, interface_up: true, ..Observed::default() };
    let plan = plan_for_tests(context(), &retired, &observed, Touched::All);
    assert!(plan.is_empty(), "{plan:?}");
}

#[test]
fn a_node_port_and_an_external_ip_on_the_node_contend_and_the_first_by_name_holds() {
    let (mut builder, mut snapshot) = (builder(), complete());
    put(&mut snapshot, service("a", "172.30.0.1", 80, Some(30080), &[]), vec![endpoint("10.180.0.1", "me", false)]);
    let external = service("b", "172.30.0.2", 30080, None, &["192.168.0.2"]);
    put(&mut snapshot, external, vec![endpoint("10.180.0.2", "me", false)]);
    builder.update(&snapshot, &facts(), Instant::now());
    assert_eq!(builder.refusals().count(), 1);
    let shared = kernel(0, 1);
    let id = ServiceId::Address { protocol: ::ipvs::Protocol::Tcp, address: ip("192.168.0.2"), port: 30080 };
    let mut plane = dataplane::<FakeIpvs>(&shared);
    plane.sync(IpFamily::V4, builder.desired().get(IpFamily::V4), Touched::All, Instant::now());
    snapshot.services.remove(&ServiceName::new("ns", "b"));
    let change = builder.update(&snapshot, &facts(), Instant::now());
    let touched = Touched::Ports(&change.ports.v4);
    plane.sync(IpFamily::V4, builder.desired().get(IpFamily::V4), touched, Instant::now());
    let servers = &shared.lock().unwrap().v4.servers;
    let serving: Vec<String> = servers[&id].destinations.keys().map(ToString::to_string).collect();
    assert_eq!(serving, ["10.180.0.1:8080"]);
    assert_eq!(builder.refusals().count(), 0);
}

#[test]
fn an_api_server_that_comes_and_goes_touches_those_alone_who_ask_for_its_address() {
    let (mut builder, mut snapshot) = (builder(), complete());
    for (name, cluster_ip, external) in [("a", "172.30.0.1", "192.168.99.1"), ("b", "172.30.0.2", "192.168.99.2")] {
        let service = service(name, cluster_ip, 80, None, &[external]);
        put(&mut snapshot, service, vec![endpoint("10.180.0.1", "me", false)]);
    }
    builder.update(&snapshot, &facts(), Instant::now());
    let with_servers = |addresses: &[&str]| {
        let mut snapshot = snapshot.clone();
        let mut own =
            Service { name: ServiceName::new("default", "kubernetes"), ..service("", "172.30.9.1", 443, None, &[]) };
        own.service_type = ServiceType::ClusterIp;
        put(&mut snapshot, own, addresses.iter().map(|address| endpoint(address, "other", false)).collect());
        snapshot
    };
    let mut touched = |addresses: &[&str]| -> Vec<String> {
        let change = builder.update(&with_servers(addresses), &facts(), Instant::now());
        assert!(!change.node.v4);
        let refused: Vec<String> = builder.refusals().map(|refusal| refusal.port.service.name.to_string()).collect();
        let touched = change.ports.v4.iter().map(|key| key.service.name.to_string());
        touched.chain(refused.into_iter().map(|name| format!("{name} refused"))).collect()
    };
    assert_eq!(touched(&["192.0.2.1"]), ["kubernetes"]);
    assert_eq!(touched(&["192.0.2.1", "192.168.99.1"]), ["kubernetes", "a", "a refused"]);
    assert_eq!(touched(&["192.168.99.2"]), ["kubernetes", "a", "b", "b refused"]);
    assert_eq!(touched(&["192.0.2.1"]), ["kubernetes", "b"]);
}
