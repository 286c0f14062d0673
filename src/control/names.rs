//! The Services as people know them, on the wire: what the daemon answers to `names`, a line of JSON each. Made from the
//! newest snapshot and the status, beside the reconciler. docs/control-socket.md says the same for people.

use crate::model::{
    Endpoint, EndpointPort, EndpointSlice, EndpointView, IpFamily, Packed, Protocol, Service, ServiceName, Slices,
    Snapshot, intern,
};
use crate::reconcile::Status;
use bytestring::ByteString;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use std::borrow::Cow;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

/// A Service with its endpoints. Most have one address, port and slice, for which there is room without a list.
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
    pub addresses: SmallVec<[NamedAddress; 1]>,
    /// Its ports.
    pub ports: SmallVec<[NamedPort; 1]>,
    /// Its EndpointSlices; on the wire, each is a [`NamedSlice`].
    #[serde(default, skip_serializing_if = "SmallVec::is_empty", with = "in_words")]
    pub slices: SmallVec<[Packed; 1]>,
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
    pub fn all_of(service: &Service) -> SmallVec<[Self; 1]> {
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

impl From<Transport> for Protocol {
    fn from(protocol: Transport) -> Self {
        match protocol {
            Transport::Tcp => Self::Tcp,
            Transport::Udp => Self::Udp,
            Transport::Sctp => Self::Sctp,
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
pub struct NamedSlice<'a> {
    /// Ports; their names are those of the Service's.
    #[serde(borrow)]
    pub ports: Vec<NamedSlicePort<'a>>,
    /// Endpoints.
    #[serde(borrow)]
    pub endpoints: Vec<NamedEndpoint<'a>>,
}

/// A port of an EndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedSlicePort<'a> {
    /// Its name; none if the Service has a single nameless port.
    #[serde(default, borrow, skip_serializing_if = "str::is_empty")]
    pub name: Cow<'a, str>,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: Transport,
    /// On the endpoints' addresses.
    pub port: u16,
}

/// An endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedEndpoint<'a> {
    /// Its address.
    pub address: IpAddr,
    /// The pod behind it.
    #[serde(default, borrow, skip_serializing_if = "str::is_empty")]
    pub pod: Cow<'a, str>,
    /// The node that it runs on.
    #[serde(default, borrow, skip_serializing_if = "str::is_empty")]
    pub node: Cow<'a, str>,
    /// The zone of that node.
    #[serde(default, borrow, skip_serializing_if = "str::is_empty")]
    pub zone: Cow<'a, str>,
    /// It may get new connections.
    pub ready: bool,
    /// It answers, whether or not it is terminating.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub serving: bool,
    /// The pod is being deleted.
    #[serde(default, skip_serializing_if = "is_false")]
    pub terminating: bool,
}

/// Slices on the wire.
mod in_words {
    use super::{NamedSlice, Packed, SmallVec};
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(slices: &[Packed], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(slices.iter().map(NamedSlice::of))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SmallVec<[Packed; 1]>, D::Error> {
        let slices: Vec<NamedSlice<'de>> = Deserialize::deserialize(deserializer)?;
        Ok(slices.iter().map(NamedSlice::packed).collect())
    }
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
        for drain in status.families.v4.draining().chain(status.families.v6.draining()) {
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
            let slices = slices.into_iter().flat_map(Slices::packed).cloned();
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
            slices: SmallVec::new(),
            draining: Vec::new(),
        }
    }
}

impl<'a> NamedSlice<'a> {
    fn of(slice: &'a Packed) -> Self {
        let view = slice.view();
        let port = |(name, protocol, port): (&'a str, Protocol, u16)| NamedSlicePort {
            name: name.into(),
            protocol: protocol.into(),
            port,
        };
        let endpoint = |endpoint: EndpointView<'a>| NamedEndpoint {
            address: endpoint.address,
            pod: endpoint.pod.into(),
            node: endpoint.node.into(),
            zone: endpoint.zone.into(),
            ready: endpoint.ready,
            serving: endpoint.serving,
            terminating: endpoint.terminating,
        };
        let endpoints = view.endpoints.into_iter().map(endpoint).collect();
        Self { ports: view.ports.into_iter().map(port).collect(), endpoints }
    }

    fn packed(&self) -> Packed {
        let known = |text: &str| (!text.is_empty()).then(|| intern(text));
        let port = |port: &NamedSlicePort<'_>| EndpointPort {
            name: intern(&port.name),
            protocol: port.protocol.into(),
            port: port.port,
        };
        let endpoint = |endpoint: &NamedEndpoint<'_>| Endpoint {
            address: endpoint.address,
            ready: endpoint.ready,
            serving: endpoint.serving,
            terminating: endpoint.terminating,
            node: known(&endpoint.node),
            zone: known(&endpoint.zone),
            hints: None,
            pod: known(&endpoint.pod),
            weight: None,
        };
        let is_v6 = self.endpoints.iter().any(|endpoint| endpoint.address.is_ipv6());
        Packed::from(&EndpointSlice {
            name: intern(""),
            proxy_name: None,
            family: if is_v6 { IpFamily::V6 } else { IpFamily::V4 },
            ports: self.ports.iter().map(port).collect(),
            endpoints: self.endpoints.iter().map(endpoint).collect(),
            triggers: Vec::new(),
        })
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
