//! What policies and node ports on localhost ask for besides the plain virtual servers.

use super::super::helpers;
use super::*;
use crate::desired::{ConnectionTimeouts, DetectLocal, NodePortAddresses, ServicePortKey};
use crate::model::ServiceName;
use std::sync::Arc;
use std::time::Duration;

fn context() -> Context {
    Context {
        family: IpFamily::V4,
        binding: VipBinding::Route,
        now: Instant::now(),
        drain_timeout: Duration::from_secs(900),
        missing: Arc::default(),
    }
}

fn node(localhost_node_ports: bool) -> NodeRules {
    NodeRules {
        detect_local: DetectLocal::Cidrs(vec!["10.180.0.0/16".parse().unwrap()]),
        masquerade_all: false,
        masquerade_mark: 0x4000,
        node_port_addresses: NodePortAddresses::All,
        localhost_node_ports,
        primary: Some("192.168.0.2".parse().unwrap()),
        node_addresses: vec!["192.168.0.2".parse().unwrap()],
        service_ranges: vec!["172.30.0.0/16".parse().unwrap()],
        drop_invalid: true,
        excluded: Vec::new(),
        timeouts: ConnectionTimeouts::default(),
        service_chains: Default::default(),
    }
}

fn endpoint(address: &str, local: bool) -> Endpoint {
    let serve = Some(Role::Serve { weight: 1 });
    Endpoint {
        address: address.parse().unwrap(),
        cluster: serve,
        local: serve.filter(|_| local),
        on_this_node: local,
        elsewhere: false,
        pod: None,
    }
}

fn port(external_policy_local: bool, endpoints: Vec<Endpoint>) -> ServicePort {
    let key = ServicePortKey { service: ServiceName::new("ns", "a"), port: "".into(), protocol: Protocol::Tcp };
    ServicePort {
        key,
        cluster_ip: "172.30.0.1".parse().unwrap(),
        port: 80,
        node_port: Some(30080),
        external_ips: Vec::new(),
        load_balancer_ips: vec!["198.51.100.1".parse().unwrap()],
        source_ranges: Vec::new(),
        affinity: None,
        internal_policy_local: false,
        external_policy_local,
        health_check_port: None,
        scheduler: "rr".into(),
        scheduling: crate::desired::Scheduling::default(),
        has_any_endpoints: !endpoints.is_empty(),
        left_local: None,
        endpoints,
    }
}

/// The virtual servers, each with its set and its destinations.
fn servers(wanted: &Wanted) -> Vec<String> {
    let mut servers: Vec<&Server> = wanted.servers.iter().collect();
    servers.sort_by_key(|server| server.service.id);
    let text = |server: &Server| {
        let id = &server.service.id;
        let recorded = |(_, entry): &&(Set, Entry)| *entry == entry_of(id).unwrap();
        let (set, _) = wanted.ledger.iter().find(recorded).unwrap();
        let addresses: Vec<String> = server.weights.keys().map(ToString::to_string).collect();
        format!("{id} {set:?} {}", addresses.join(" "))
    };
    servers.into_iter().map(text).collect()
}

fn verdicts(wanted: &Wanted) -> Vec<String> {
    wanted.verdicts.iter().map(|(set, entry)| format!("{set:?} {entry}")).collect()
}

#[test]
fn strangers_and_the_cluster_have_a_list_each_where_the_policy_tells_them_apart() {
    let endpoints = vec![endpoint("10.180.0.1:8080", true), endpoint("10.180.1.1:8080", false)];
    let wanted = render(&context(), &port(true, endpoints.clone()), &node(false));
    let expected = [
        "TCP 172.30.0.1:80 ClusterIp 10.180.0.1:8080 10.180.1.1:8080",
        "TCP 192.168.0.2:30080 ExternalLocal 10.180.0.1:8080",
        "TCP 198.51.100.1:80 ExternalLocal 10.180.0.1:8080",
        "TCP 240.168.0.2:30080 Shadow 10.180.0.1:8080 10.180.1.1:8080",
        "TCP 246.51.100.1:80 Shadow 10.180.0.1:8080 10.180.1.1:8080",
    ];
    assert_eq!(servers(&wanted), expected);
    assert_eq!(verdicts(&wanted), ["Mapped 192.168.0.2,tcp:30080", "Mapped 198.51.100.1,tcp:80"]);
    let bindings: Vec<String> = wanted.shared.bindings.iter().map(ToString::to_string).collect();
    assert_eq!(bindings, ["198.51.100.1", "246.51.100.1", "240.168.0.2"], "the node's own address is local already");
    let wanted = render(&context(), &port(false, endpoints), &node(false));
    assert_eq!(wanted.servers.len(), 3, "policy Cluster: one list for all");
    assert_eq!(verdicts(&wanted), [""; 0]);
    let left = ServicePort { left_local: Some(Instant::now()), ..port(false, Vec::new()) };
    let wanted = render(&context(), &left, &node(false));
    assert_eq!(wanted.servers.len(), 5, "what is open at the shadows goes on");
    assert_eq!(verdicts(&wanted), [""; 0], "and nobody new is sent there");
}

#[test]
fn what_a_policy_forbids_is_dropped_and_what_nobody_serves_is_not() {
    let elsewhere = vec![endpoint("10.180.1.1:8080", false)];
    let wanted = render(&context(), &port(true, elsewhere.clone()), &node(false));
    let dropped: Vec<String> = verdicts(&wanted).into_iter().filter(|line| line.starts_with("Dropped")).collect();
    assert_eq!(dropped, ["Dropped 192.168.0.2,tcp:30080", "Dropped 198.51.100.1,tcp:80"]);
    let internal = ServicePort { internal_policy_local: true, ..port(false, elsewhere) };
    assert_eq!(verdicts(&render(&context(), &internal, &node(false))), ["Dropped 172.30.0.1,tcp:80"]);
    let nobody = render(&context(), &port(true, Vec::new()), &node(false));
    assert!(verdicts(&nobody).iter().all(|line| line.starts_with("Mapped")), "{:?}", nobody.verdicts);
}

#[test]
fn who_is_restricted_is_restricted_at_the_shadow_as_well() {
    let restricted = |endpoints| {
        let source_ranges = vec!["203.0.113.0/25".parse().unwrap()];
        let wanted = render(&context(), &ServicePort { source_ranges, ..port(true, endpoints) }, &node(false));
        verdicts(&wanted).into_iter().filter(|line| line.starts_with("Restricted")).collect::<Vec<String>>()
    };
    let elsewhere = vec![endpoint("10.180.1.1:8080", false)];
    assert_eq!(restricted(elsewhere), ["Restricted 198.51.100.1,tcp:80", "Restricted 246.51.100.1,tcp:80"]);
    assert_eq!(restricted(Vec::new()), [""; 0], "without any endpoint everybody is refused");
}

#[test]
fn node_ports_on_localhost_have_a_virtual_server_of_their_own() {
    let elsewhere = vec![endpoint("10.180.1.1:8080", false)];
    for local in [false, true] {
        let wanted = render(&context(), &port(local, elsewhere.clone()), &node(true));
        let found = servers(&wanted);
        assert!(found.contains(&"TCP 255.0.0.1:30080 Shadow 10.180.1.1:8080".to_owned()), "{found:?}");
        assert!(verdicts(&wanted).contains(&"Localhost 127.0.0.0/8,tcp:30080".to_owned()));
    }
}

#[test]
fn nothing_is_dropped_for_being_invalid_where_connection_tracking_is_liberal() {
    for family in IpFamily::BOTH {
        for drop_invalid in [true, false] {
            let chains = helpers::chains(&NodeRules { drop_invalid, ..node(true) }, family, true);
            let rules = chains.iter().flat_map(|(_, chain)| chain.rules.iter().map(ToString::to_string));
            assert_eq!(rules.filter(|rule| rule.contains("INVALID")).count() > 1, drop_invalid, "{family}");
        }
    }
}

#[test]
fn the_rules_are_the_same_in_number_whatever_is_served() {
    let text = |localhost| {
        let chains = helpers::chains(&node(localhost), IpFamily::V4, localhost);
        let rules = chains.iter().flat_map(|(_, chain)| chain.rules.iter().map(ToString::to_string));
        rules.collect::<Vec<String>>()
    };
    let (without, with) = (text(false), text(true));
    assert_eq!(with.len() - without.len(), 5, "four of the detour, and the localnet guard");
    let netmap: Vec<&String> = without.iter().filter(|rule| rule.contains("NETMAP --to 240.0.0.0/4")).collect();
    assert_eq!(netmap.len(), 2, "one for the node, one for each range of pods: {netmap:?}");
    let mode = ["SNAT --to-source 255.0.0.3", "DNAT --to-destination 255.0.0.2", "DNAT --to-destination 255.0.0.1"];
    for target in mode {
        assert!(with.iter().any(|rule| rule.contains(target)), "{target}: {with:?}");
        assert!(!without.iter().any(|rule| rule.contains(target)), "{target}");
    }
}

/// What the traffic counters are named by is what there is.
#[test]
fn the_servers_of_a_port_are_those_that_are_rendered() {
    for (policy_local, localhost) in [(false, false), (false, true), (true, false), (true, true)] {
        let port = port(policy_local, vec![endpoint("10.180.0.1:8080", true)]);
        let rendered = render(&context(), &port, &node(localhost)).servers.into_iter();
        let rendered: BTreeSet<ServiceId> = rendered.map(|server| server.service.id).collect();
        let named: BTreeSet<ServiceId> = server_ids(&port, &node(localhost)).into_iter().collect();
        assert_eq!(named, rendered, "{policy_local} {localhost}");
    }
}
