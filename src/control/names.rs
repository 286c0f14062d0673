//! The Services as people know them, on the wire: what the daemon answers to `names`, a line of JSON each. Made from the
//! newest snapshot and the status, beside the reconciler. docs/control-socket.md says the same for people.

use crate::model::{EndpointSlice, Protocol, Service, ServiceName, Snapshot};
use crate::reconcile::Status;
use bytestring::ByteString;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

/// A Service with its endpoints.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedService {
    /// Its namespace.
    pub namespace: ByteString,
    /// Its name.
    pub name: ByteString,
    /// Its labels, as `a=1,b=2`.
    #[serde(default, skip_serializing_if = "is_empty")]
    pub labels: ByteString,
    /// Its addresses.
    pub addresses: Vec<NamedAddress>,
    /// Its ports.
    pub ports: Vec<NamedPort>,
    /// Its EndpointSlices.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub slices: Vec<NamedSlice>,
    /// Endpoints that take nothing new, as long as the kernel still has them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub draining: Vec<NamedDrain>,
}

/// What kind of address clients use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum AddressKind {
    /// `spec.clusterIPs`.
    #[serde(rename = "ClusterIP")]
    ClusterIp,
    /// `spec.externalIPs`.
    #[serde(rename = "ExternalIP")]
    ExternalIp,
    /// `status.loadBalancer.ingress`.
    LoadBalancer,
    /// A port on the node's own addresses.
    NodePort,
}

impl AddressKind {
    /// As Kubernetes spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ClusterIp => "ClusterIP",
            Self::ExternalIp => "ExternalIP",
            Self::LoadBalancer => "LoadBalancer",
            Self::NodePort => "NodePort",
        }
    }
}

/// An address of a Service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedAddress {
    /// Where it comes from.
    pub kind: AddressKind,
    /// The address.
    pub address: IpAddr,
}

impl NamedAddress {
    /// The addresses of a Service, but for its node ports.
    #[must_use]
    pub fn all_of(service: &Service) -> Vec<Self> {
        let of_kind = |kind| move |address: &IpAddr| Self { kind, address: *address };
        let addresses = service.cluster_ips.iter().map(of_kind(AddressKind::ClusterIp));
        let addresses = addresses.chain(service.external_ips.iter().map(of_kind(AddressKind::ExternalIp)));
        addresses.chain(service.load_balancer_ips.iter().map(of_kind(AddressKind::LoadBalancer))).collect()
    }
}

/// A port of a Service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedPort {
    /// Its name; none if the Service has a single nameless port.
    #[serde(default, skip_serializing_if = "is_empty")]
    pub name: ByteString,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: Transport,
    /// On the Service's addresses.
    pub port: u16,
    /// On the node's addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_port: Option<u16>,
}

/// A transport protocol, as Kubernetes spells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Transport {
    /// Its number in the IP header.
    #[must_use]
    pub fn number(self) -> u16 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

impl From<Protocol> for Transport {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Tcp => Self::Tcp,
            Protocol::Udp => Self::Udp,
            Protocol::Sctp => Self::Sctp,
        }
    }
}

/// An EndpointSlice: each of its ports on each of its endpoints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedSlice {
    /// Ports; their names are those of the Service's.
    pub ports: Vec<NamedPort>,
    /// Endpoints.
    pub endpoints: Vec<NamedEndpoint>,
}

/// An endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedEndpoint {
    /// Its address.
    pub address: IpAddr,
    /// The pod behind it.
    #[serde(default, skip_serializing_if = "is_empty")]
    pub pod: ByteString,
    /// The node that it runs on.
    #[serde(default, skip_serializing_if = "is_empty")]
    pub node: ByteString,
    /// The zone of that node.
    #[serde(default, skip_serializing_if = "is_empty")]
    pub zone: ByteString,
    /// It may get new connections.
    pub ready: bool,
    /// It answers, whether or not it is terminating.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub serving: bool,
    /// The pod is being deleted.
    #[serde(default, skip_serializing_if = "is_false")]
    pub terminating: bool,
}

fn is_empty(text: &ByteString) -> bool {
    (**text).is_empty()
}

fn yes() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over references")]
fn is_true(value: &bool) -> bool {
    *value
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over references")]
fn is_false(value: &bool) -> bool {
    !*value
}

/// An endpoint that takes nothing new.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedDrain {
    /// Name of the Service's port.
    #[serde(default, skip_serializing_if = "is_empty")]
    pub port: ByteString,
    /// Its protocol.
    pub protocol: Transport,
    /// The endpoint's address and port.
    pub endpoint: SocketAddr,
    /// How long its open connections may go on.
    pub left_ms: u64,
}

/// What drains, by Service.
#[derive(Debug, Default)]
pub struct Draining(HashMap<ServiceName, Vec<NamedDrain>>);

impl Draining {
    /// What the reconciler says of it.
    #[must_use]
    pub fn of(status: &Status, now: Instant) -> Self {
        let mut all: HashMap<ServiceName, Vec<NamedDrain>> = HashMap::new();
        for drain in status.families.v4.draining.iter().chain(&status.families.v6.draining) {
            let left = drain.until.saturating_duration_since(now).as_millis();
            all.entry(drain.service.service.clone()).or_default().push(NamedDrain {
                port: (&*drain.service.port).into(),
                protocol: drain.service.protocol.into(),
                endpoint: drain.address,
                left_ms: u64::try_from(left).unwrap_or(u64::MAX),
            });
        }
        Self(all)
    }

    /// Of a Service.
    #[must_use]
    pub fn of_service(&self, name: &ServiceName) -> &[NamedDrain] {
        self.0.get(name).map(Vec::as_slice).unwrap_or_default()
    }
}

impl NamedService {
    /// All Services of a snapshot, by namespace and name, made one by one.
    pub fn all<'a>(snapshot: &'a Snapshot, draining: &'a Draining) -> impl Iterator<Item = Self> + 'a {
        snapshot.services.iter().map(|(name, service)| {
            let slices = snapshot.slices.get(name);
            let slices = slices.into_iter().flat_map(|slices| slices.values()).map(|slice| NamedSlice::of(&slice));
            Self { slices: slices.collect(), draining: draining.of_service(name).to_vec(), ..Self::of(service) }
        })
    }

    fn of(service: &Service) -> Self {
        let ports = service.ports.iter().map(|port| NamedPort {
            name: (&*port.name).into(),
            protocol: port.protocol.into(),
            port: port.port,
            node_port: port.node_port,
        });
        Self {
            namespace: (&*service.name.namespace).into(),
            name: (&*service.name.name).into(),
            labels: service.labels.as_deref().unwrap_or_default().into(),
            addresses: NamedAddress::all_of(service),
            ports: ports.collect(),
            slices: Vec::new(),
            draining: Vec::new(),
        }
    }
}

impl NamedSlice {
    fn of(slice: &EndpointSlice) -> Self {
        let text = |text: &Option<std::sync::Arc<str>>| ByteString::from(text.as_deref().unwrap_or_default());
        let ports = slice.ports.iter().map(|port| NamedPort {
            name: (&*port.name).into(),
            protocol: port.protocol.into(),
            port: port.port,
            node_port: None,
        });
        let endpoints = slice.endpoints.iter().map(|endpoint| NamedEndpoint {
            address: endpoint.address,
            pod: text(&endpoint.pod),
            node: text(&endpoint.node),
            zone: text(&endpoint.zone),
            ready: endpoint.ready,
            serving: endpoint.serving,
            terminating: endpoint.terminating,
        });
        Self { ports: ports.collect(), endpoints: endpoints.collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Endpoint, EndpointPort, IpFamily, ServicePort};
    use std::sync::Arc;

    #[test]
    fn a_service_goes_over_the_wire_and_comes_back() {
        let mut service = Service::for_test("shop", "web");
        service.cluster_ips = vec!["10.96.0.1".parse().unwrap()];
        service.labels = Some("app=web".into());
        let port = ServicePort {
            name: "http".into(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: Some(30080),
            target: None,
        };
        service.ports = vec![port];
        let mut slice = EndpointSlice { family: IpFamily::V4, ..EndpointSlice::for_test("web-1") };
        slice.ports = vec![EndpointPort { name: "http".into(), protocol: Protocol::Tcp, port: 8080 }];
        slice.endpoints = vec![Endpoint {
            address: "10.0.0.1".parse().unwrap(),
            ready: false,
            serving: true,
            terminating: true,
            weight: None,
            node: Some("node-1".into()),
            zone: None,
            hints: None,
            pod: Some("web-0".into()),
        }];
        let mut snapshot = Snapshot::default();
        let name = service.name.clone();
        snapshot.slices.entry(name.clone()).or_default().insert(&slice);
        snapshot.services.insert(name, Arc::new(service));
        let named = NamedService::all(&snapshot, &Draining::default()).next().unwrap();
        let line = serde_json::to_string(&named).unwrap();
        let expected = concat!(
            r#"{"namespace":"shop","name":"web","labels":"app=web","addresses":[{"kind":"ClusterIP","address":"10.96.0.1"}],"#,
            r#""ports":[{"name":"http","protocol":"TCP","port":80,"node_port":30080}],"slices":[{"ports":"#,
            r#"[{"name":"http","protocol":"TCP","port":8080}],"endpoints":[{"address":"10.0.0.1","pod":"web-0","#,
            r#""node":"node-1","ready":false,"terminating":true}]}]}"#
        );
        assert_eq!(line, expected);
        assert_eq!(serde_json::from_str::<NamedService>(&line).unwrap(), named);
    }
}
