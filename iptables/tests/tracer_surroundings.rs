//! The tracer with what stands beside the rules: IPVS behind filter INPUT and before filter OUTPUT, routes that are asked for,
//! NETMAP, and a cable that leads back into the node.

#![expect(clippy::unwrap_used, reason = "a test")]

use iptables::tracer::{Balancing, Packet, Route, Tracer, Verdict};
use iptables::{Protocol, Saved, parse_save};
use std::net::{IpAddr, SocketAddr};

const NODE: &str = "192.168.0.2";

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn tcp(from: &str, to: &str) -> Packet {
    Packet::new(Protocol::Tcp, at(from), at(to))
}

/// Marks what is sent to the service, refuses other ports of it, masquerades what is marked; drops in filter OUTPUT what
/// still bears the service's address, which IPVS has taken before.
fn rules() -> Saved {
    parse_save(
        "*nat\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n:MARK - [0:0]\n\
         -A PREROUTING -d 172.30.0.10/32 -j MARK --set-xmark 0x4000/0x4000\n\
         -A PREROUTING -d 192.168.0.2/32 -p tcp -m tcp --dport 81 -j NETMAP --to 240.0.0.0/4\n\
         -A PREROUTING -d 255.0.0.2/32 -i back -j DNAT --to-destination 255.0.0.1\n\
         -A OUTPUT -d 172.30.0.10/32 -j MARK --set-xmark 0x4000/0x4000\n\
         -A OUTPUT -d 127.0.0.0/8 -j DNAT --to-destination 255.0.0.2\n\
         -A POSTROUTING -o out -j SNAT --to-source 255.0.0.3\n\
         -A POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE\nCOMMIT\n\
         *filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n\
         -A INPUT -d 172.30.0.10/32 -p tcp -m tcp ! --dport 80 -j REJECT\n\
         -A OUTPUT -d 172.30.0.10/32 -j DROP\nCOMMIT\n",
    )
    .unwrap()
}

fn is_local(address: IpAddr) -> bool {
    ["172.30.0.10", NODE, "127.0.0.1", "240.168.0.2", "255.0.0.1"].iter().any(|own| own.parse() == Ok(address))
}

fn tracer(rules: &Saved) -> Tracer<'_> {
    let routing = |packet: &Packet| match packet.destination {
        own if is_local(own) => Route::Local,
        lost if lost == at("203.0.113.66:1").ip() => Route::Nowhere("no route".into()),
        detour if detour == at("255.0.0.2:1").ip() => Route::Via("out".into()),
        _ => Route::Via("cni0".into()),
    };
    let balancer = |packet: &Packet| {
        let destinations = match (packet.destination.to_string().as_str(), packet.destination_port) {
            ("172.30.0.10", 80) => vec![(at("10.180.0.1:8080"), 0.75), (at("10.180.0.2:8080"), 0.25)],
            ("240.168.0.2", 81) | ("255.0.0.1", 82) => vec![(at("10.180.0.3:8080"), 1.0)],
            ("192.168.0.2", 83) => Vec::new(),
            _ => return None,
        };
        Some(Balancing { server: packet.destination.to_string(), destinations })
    };
    Tracer::new(rules).locals(is_local).routing(routing).balancer(balancer).cable("out", "back")
}

#[test]
fn ipvs_takes_packets_behind_the_guard_and_masquerading_follows() {
    let rules = rules();
    let trace = tracer(&rules).trace(&tcp("203.0.113.9:4000", "172.30.0.10:80").arriving_at("eth0"));
    let expected = [(at("10.180.0.1:8080"), 0.75), (at("10.180.0.2:8080"), 0.25)];
    assert_eq!(trace.destinations(), expected.into(), "{trace}");
    assert_eq!(trace.masqueraded(), Some(true), "{trace}");
    assert!(trace.outcomes.iter().all(|outcome| outcome.balanced && !outcome.translated), "{trace}");
    let lines: Vec<String> = trace.outcomes[0].lines().collect();
    let place = |text: &str| lines.iter().position(|line| line.contains(text)).unwrap();
    assert!(place("to the node itself") < place("IPVS: virtual server"), "{trace}");
    assert!(place("IPVS: virtual server") < place("out by cni0"), "{trace}");
    let guarded = tracer(&rules).trace(&tcp("203.0.113.9:4000", "172.30.0.10:22").arriving_at("eth0"));
    assert_eq!(guarded.verdict(), Some(&Verdict::Reject(None)), "{guarded}");
}

#[test]
fn the_nodes_own_packets_are_taken_before_filter_sees_them() {
    let rules = rules();
    let trace = tracer(&rules).trace(&tcp("192.168.0.2:4000", "172.30.0.10:80"));
    assert_eq!((trace.destinations().len(), trace.masqueraded()), (2, Some(true)), "{trace}");
}

#[test]
fn a_virtual_server_without_destinations_refuses() {
    let rules = rules();
    let trace = tracer(&rules).trace(&tcp("203.0.113.9:4000", "192.168.0.2:83").arriving_at("eth0"));
    assert_eq!(trace.verdict(), Some(&Verdict::Reject(None)), "{trace}");
    let other = tracer(&rules).trace(&tcp("203.0.113.9:4000", "192.168.0.2:84").arriving_at("eth0"));
    assert!(other.outcomes[0].delivered_locally && other.verdict() == Some(&Verdict::Accept), "{other}");
}

#[test]
fn netmap_leads_to_the_shadow_and_the_cable_back_into_the_node() {
    let rules = rules();
    let mapped = tracer(&rules).trace(&tcp("10.180.0.7:4000", "192.168.0.2:81").arriving_at("cni0"));
    assert_eq!(mapped.destinations().into_keys().collect::<Vec<_>>(), [at("10.180.0.3:8080")], "{mapped}");
    let detour = tracer(&rules).trace(&tcp("127.0.0.1:4000", "127.0.0.1:82"));
    assert_eq!(detour.destinations().into_keys().collect::<Vec<_>>(), [at("10.180.0.3:8080")], "{detour}");
    assert_eq!(detour.masqueraded(), Some(true), "{detour}");
}

#[test]
fn a_packet_without_a_route_ends_there() {
    let rules = rules();
    let trace = tracer(&rules).trace(&tcp("192.168.0.2:4000", "203.0.113.66:80"));
    assert_eq!(trace.verdict(), Some(&Verdict::Unroutable("no route".into())), "{trace}");
}
