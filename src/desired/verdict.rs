//! What is to become of a packet, read out of what is desired: a pure function, step by step, in words.

use super::{Desired, DetectLocal, Endpoint, FrontendKind, NodePortAddresses, NodeRules, ServicePort};
use crate::model::{IpFamily, Protocol};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// The first packet of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Its protocol.
    pub protocol: Protocol,
    /// Its sender.
    pub source: IpAddr,
    /// The interface by which it comes in; `None` for what the node itself sends.
    pub input: Option<Arc<str>>,
    /// The address and port that it asks for.
    pub destination: SocketAddr,
}

/// What becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Its sender is told at once that nobody answers.
    Refused,
    /// It vanishes.
    Dropped,
    /// No Service asks for it: it goes where it would go without us.
    Untouched,
    /// One of the endpoints gets it.
    Balanced,
}

/// An endpoint that may get it.
#[derive(Debug, Clone, PartialEq)]
pub struct Chosen {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its share of new connections, from 0 to 1.
    pub share: f64,
    /// It sees the node as the sender.
    pub masqueraded: bool,
    /// The pod behind it.
    pub pod: Option<Arc<str>>,
}

/// The verdict, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// What becomes of the packet.
    pub fate: Fate,
    /// The Service port that it is for, with the kind of address.
    pub service: Option<(String, FrontendKind)>,
    /// Who may get it.
    pub endpoints: Vec<Chosen>,
    /// For so many seconds its sender stays with the endpoint.
    pub affinity: Option<u32>,
    /// The reasons, in order.
    pub steps: Vec<String>,
}

/// Says what is to become of a packet. In IPVS mode (`bound`) the service addresses are the node's own: a port of theirs that
/// no Service has is refused, where in iptables mode that holds for cluster IPs only.
pub fn verdict(desired: &Desired, packet: &Packet, bound: bool) -> Verdict {
    let Some(rules) = desired.rules.as_deref() else {
        return ended(Fate::Untouched, vec!["nothing is to be served in this family".into()]);
    };
    let case = Case { desired, rules, packet, bound };
    match case.frontend() {
        Some((port, kind)) => case.served(port, kind),
        None => case.unserved(),
    }
}

fn ended(fate: Fate, steps: Vec<String>) -> Verdict {
    Verdict { fate, service: None, endpoints: Vec::new(), affinity: None, steps }
}

struct Case<'a> {
    desired: &'a Desired,
    rules: &'a NodeRules,
    packet: &'a Packet,
    bound: bool,
}

impl Case<'_> {
    /// The Service port that has this address and port.
    fn frontend(&self) -> Option<(&ServicePort, FrontendKind)> {
        let (ip, number) = (self.packet.destination.ip(), self.packet.destination.port());
        let ports = || self.desired.ports.values().filter(|port| port.key.protocol == self.packet.protocol);
        let on_address = |port: &ServicePort| {
            let mut addresses = port.service_addresses().filter(|_| port.port == number);
            addresses.find(|(_, address)| *address == ip).map(|(kind, _)| kind)
        };
        let found = ports().find_map(|port| Some((&**port, on_address(port)?)));
        let on_node = || self.serves_node_ports(ip).then(|| ports().find(|port| port.node_port == Some(number)));
        found.or_else(|| on_node().flatten().map(|port| (&**port, FrontendKind::NodePort)))
    }

    fn serves_node_ports(&self, ip: IpAddr) -> bool {
        if ip.is_loopback() {
            return self.rules.localhost_node_ports && ip.is_ipv4() && self.is_local(self.packet.source);
        }
        match &self.rules.node_port_addresses {
            NodePortAddresses::All => self.rules.node_addresses.contains(&ip),
            NodePortAddresses::These(addresses) => addresses.contains(&ip),
        }
    }

    fn is_local(&self, ip: IpAddr) -> bool {
        ip.is_loopback() || self.rules.node_addresses.contains(&ip)
    }

    fn is_from_node(&self) -> bool {
        self.packet.input.is_none()
    }

    /// Whether the sender is a pod; `None` if that cannot be told.
    fn is_pod(&self) -> Option<bool> {
        let by_interface = |test: &dyn Fn(&str) -> bool| Some(self.packet.input.as_deref().is_some_and(test));
        match &self.rules.detect_local {
            DetectLocal::None | DetectLocal::NodeCidrs => None,
            DetectLocal::Cidrs(nets) => Some(nets.iter().any(|net| net.contains(&self.packet.source))),
            DetectLocal::BridgeInterface(name) => by_interface(&|input| input == &**name),
            DetectLocal::InterfacePrefix(prefix) => by_interface(&|input| input.starts_with(&**prefix)),
        }
    }

    fn sender(&self) -> String {
        let source = self.packet.source;
        match (self.is_from_node(), self.is_pod()) {
            (true, _) => format!("the sender {source} is the node itself"),
            (_, Some(true)) => format!("the sender {source} is a pod"),
            (_, Some(false)) => format!("the sender {source} is no pod: it comes from outside"),
            (_, None) => format!("whether the sender {source} is a pod cannot be told (no --cluster-cidr)"),
        }
    }

    fn unserved(&self) -> Verdict {
        let (ip, number, protocol) =
            (self.packet.destination.ip(), self.packet.destination.port(), self.packet.protocol);
        let mut steps = vec![format!("no Service has port {number}/{protocol} on {ip}")];
        let whose = |port: &&Arc<ServicePort>| port.service_addresses().any(|(_, address)| address == ip);
        let owner = self.desired.ports.values().find(whose);
        let cluster_ip = owner.is_some_and(|port| port.cluster_ip == ip);
        let ranged = self.rules.service_ranges.iter().any(|range| range.contains(&ip));
        if ip.is_loopback() && !self.is_from_node() {
            steps.push(format!("{ip} is for the node itself: who sends to it from outside gets no answer"));
            return ended(Fate::Dropped, steps);
        }
        if self.is_local(ip) {
            steps.push(format!("{ip} is the node's own address: what listens there answers"));
            return ended(Fate::Untouched, steps);
        }
        if let Some(port) = owner.filter(|_| cluster_ip || self.bound) {
            steps.push(format!("{ip} is an address of the Service {}: its other ports are refused", port.key.service));
            return ended(Fate::Refused, steps);
        }
        if ranged && self.bound {
            steps.push(format!("{ip} is within the service ranges, which are the node's own in IPVS mode: refused"));
            return ended(Fate::Refused, steps);
        }
        steps.push("it takes its normal route".into());
        ended(Fate::Untouched, steps)
    }

    fn served(&self, port: &ServicePort, kind: FrontendKind) -> Verdict {
        let (ip, number) = (self.packet.destination.ip(), self.packet.destination.port());
        let mut steps = vec![
            format!("port {number}/{} on {ip} is {} of {}", port.key.protocol, kind_of(kind), port.key),
            self.sender(),
        ];
        let (fate, endpoints) = self.decide(port, kind, &mut steps);
        let affinity = port.affinity.filter(|_| fate == Fate::Balanced).map(|timeout| timeout.seconds());
        if let Some(seconds) = affinity {
            steps.push(format!("session affinity: the sender stays with its endpoint for {seconds} s"));
        }
        Verdict { fate, service: Some((port.key.to_string(), kind)), endpoints, affinity, steps }
    }

    fn decide(&self, port: &ServicePort, kind: FrontendKind, steps: &mut Vec<String>) -> (Fate, Vec<Chosen>) {
        let restricted = kind == FrontendKind::LoadBalancerIp && !port.source_ranges.is_empty();
        // No mode restricts where nobody could be reached anyhow.
        if restricted && port.has_any_endpoints {
            if !port.source_ranges.iter().any(|net| net.contains(&self.packet.source)) {
                steps.push("loadBalancerSourceRanges does not admit the sender".into());
                return (Fate::Dropped, Vec::new());
            }
            steps.push("loadBalancerSourceRanges admits the sender".into());
        }
        let local = self.uses_local(port, kind, steps);
        let listed: Vec<&Endpoint> =
            if local { port.local_endpoints().collect() } else { port.cluster_endpoints().collect() };
        if listed.is_empty() {
            return if port.has_any_endpoints {
                steps.push("there are endpoints, but none that may be used here: dropped".into());
                (Fate::Dropped, Vec::new())
            } else {
                steps.push("there is no endpoint: refused".into());
                (Fate::Refused, Vec::new())
            };
        }
        let masqueraded = self.masqueraded(port, kind, steps);
        let chosen = listed.iter().map(|endpoint| self.chosen(endpoint, masqueraded, &listed)).collect();
        (Fate::Balanced, chosen)
    }

    /// Whether this node's endpoints only may be used.
    fn uses_local(&self, port: &ServicePort, kind: FrontendKind, steps: &mut Vec<String>) -> bool {
        if kind == FrontendKind::ClusterIp {
            let local = port.internal_policy_local;
            let which = if local { "Local: endpoints of this node only" } else { "Cluster: all endpoints" };
            steps.push(format!("internalTrafficPolicy {which}"));
            return local;
        }
        if !port.external_policy_local {
            steps.push("externalTrafficPolicy Cluster: all endpoints".into());
            return false;
        }
        let inside = self.is_from_node() || self.is_pod() == Some(true);
        steps.push(if inside {
            "externalTrafficPolicy Local, but the sender is within the cluster: all endpoints".into()
        } else {
            "externalTrafficPolicy Local: endpoints of this node only".into()
        });
        !inside
    }

    fn masqueraded(&self, port: &ServicePort, kind: FrontendKind, steps: &mut Vec<String>) -> bool {
        let (masqueraded, why) = match kind {
            FrontendKind::ClusterIp if self.rules.masquerade_all => (true, "--masquerade-all"),
            FrontendKind::ClusterIp => match self.is_pod() {
                Some(false) => (true, "the sender is no pod, and the answer must come back this way"),
                Some(true) => (false, "the sender is a pod"),
                None => (false, "pods cannot be told from others"),
            },
            _ if !port.external_policy_local => (true, "external address with policy Cluster"),
            _ if self.is_from_node() => (true, "the node's own traffic"),
            _ => (false, "policy Local keeps the sender's address"),
        };
        let word = if masqueraded { "masqueraded" } else { "not masqueraded" };
        steps.push(format!("{word}: {why}"));
        masqueraded
    }

    fn chosen(&self, endpoint: &Endpoint, masqueraded: bool, listed: &[&Endpoint]) -> Chosen {
        let hairpin = endpoint.address.ip() == self.packet.source;
        // What comes in and is delivered here does not pass POSTROUTING.
        let stays = !self.is_from_node() && self.is_local(endpoint.address.ip());
        let weights: f64 = listed.iter().map(|endpoint| weight(endpoint)).sum();
        Chosen {
            address: endpoint.address,
            share: weight(endpoint) / weights,
            masqueraded: (masqueraded || hairpin) && !stays,
            pod: endpoint.pod.clone(),
        }
    }
}

fn weight(endpoint: &Endpoint) -> f64 {
    let serves = |role: super::Role| match role {
        super::Role::Serve { weight } => Some(weight),
        super::Role::Drain { .. } => None,
    };
    f64::from([endpoint.cluster, endpoint.local].into_iter().flatten().find_map(serves).unwrap_or(1).max(1))
}

/// The kind of address, in words.
pub fn kind_of(kind: FrontendKind) -> &'static str {
    match kind {
        FrontendKind::ClusterIp => "the cluster IP",
        FrontendKind::ExternalIp => "an external IP",
        FrontendKind::LoadBalancerIp => "a load-balancer IP",
        FrontendKind::NodePort => "a node port",
    }
}

impl Packet {
    /// Its family.
    pub fn family(&self) -> IpFamily {
        IpFamily::of(self.destination.ip())
    }
}

#[cfg(test)]
#[path = "verdict_tests.rs"]
mod tests;
