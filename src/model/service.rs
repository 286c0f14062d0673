//! A Service, reduced to what forwarding needs.

use super::{Balancing, Uid};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

/// Namespace and name of a Service.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServiceName {
    /// The namespace.
    pub namespace: Arc<str>,
    /// The name within it.
    pub name: Arc<str>,
}

impl ServiceName {
    /// The namespace of [`Self::KUBERNETES`].
    pub const KUBERNETES_NAMESPACE: &str = "default";
    /// The name of the API server's Service.
    pub const KUBERNETES: &str = "kubernetes";

    /// A name from its two parts.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// Whether it is `default/kubernetes`, the API server, which a new node needs before anything else.
    pub fn is_kubernetes(&self) -> bool {
        &*self.namespace == Self::KUBERNETES_NAMESPACE && &*self.name == Self::KUBERNETES
    }
}

impl PartialOrd for ServiceName {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ServiceName {
    /// By namespace, then by name. Namespaces are interned, so that most comparisons read one text of each only.
    fn cmp(&self, other: &Self) -> Ordering {
        compare(&self.namespace, &other.namespace).then_with(|| compare(&self.name, &other.name))
    }
}

fn compare(one: &Arc<str>, other: &Arc<str>) -> Ordering {
    if Arc::ptr_eq(one, other) { Ordering::Equal } else { one.cmp(other) }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Transport protocol of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// The word that Kubernetes uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }

    /// The lower-case word that kube-proxy hashes and iptables uses.
    pub fn as_lower(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }

    /// Reads the word of the Kubernetes API.
    pub fn from_api(text: &str) -> Option<Self> {
        match text {
            "" | "TCP" => Some(Self::Tcp),
            "UDP" => Some(Self::Udp),
            "SCTP" => Some(Self::Sctp),
            _ => None,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// `spec.type`, as far as it changes forwarding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceType {
    /// Cluster IPs and external IPs only.
    ClusterIp,
    /// Node ports as well.
    NodePort,
    /// Load-balancer addresses as well.
    LoadBalancer,
    /// A DNS alias; nothing to forward.
    ExternalName,
}

/// What a Service port calls the port of its endpoints. The EndpointSlice has resolved it already; it is kept because
/// it is what a user recognises.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetPort {
    /// A number.
    Number(u16),
    /// The name of a container port.
    Name(Arc<str>),
}

/// Seconds for which a client stays with its endpoint, 1 to 86,400.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AffinityTimeout(u32);

impl AffinityTimeout {
    /// Upstream's default: three hours.
    pub const DEFAULT: Self = Self(10_800);

    /// Upstream's bounds are 1 s to a day; values outside come only from unvalidated input and are clamped.
    pub fn clamped(seconds: i64) -> Self {
        Self(u32::try_from(seconds.clamp(1, 86_400)).unwrap_or(86_400))
    }

    /// The seconds.
    pub fn seconds(self) -> u32 {
        self.0
    }
}

/// The IPVS schedulers that a Service can ask for (`net/netfilter/ipvs/Kconfig`).
pub const SCHEDULERS: [&str; 14] =
    ["rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "sed", "nq", "fo", "ovf", "mh", "twos"];

/// One port of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name; empty when the Service has a single nameless port.
    pub name: Arc<str>,
    /// Its protocol.
    pub protocol: Protocol,
    /// The port that clients use on the Service's addresses.
    pub port: u16,
    /// The port that clients use on the node's addresses.
    pub node_port: Option<u16>,
    /// What the endpoints' port is called.
    pub target: Option<TargetPort>,
}

/// A Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Namespace and name.
    pub name: ServiceName,
    /// The identity of this very object, for events about it.
    pub uid: Option<Uid>,
    /// Its type.
    pub service_type: ServiceType,
    /// Cluster IPs, at most one a family; empty for headless Services.
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// Load-balancer addresses that the node has to serve itself (`ipMode: VIP` or none).
    pub load_balancer_ips: Vec<IpAddr>,
    /// Senders that may use the load-balancer addresses; empty = everybody.
    pub source_ranges: Vec<IpNet>,
    /// Ports.
    pub ports: Vec<ServicePort>,
    /// `sessionAffinity: ClientIP` and its timeout.
    pub affinity: Option<AffinityTimeout>,
    /// `externalTrafficPolicy: Local`.
    pub external_policy_local: bool,
    /// `internalTrafficPolicy: Local`.
    pub internal_policy_local: bool,
    /// Port of the health check server, with `externalTrafficPolicy: Local`.
    pub health_check_node_port: Option<u16>,
    /// Label `service.kubernetes.io/service-proxy-name`: which proxy is responsible.
    pub proxy_name: Option<Arc<str>>,
    /// Label `service.kubernetes.io/headless`: no proxy forwards it, even if it has a cluster IP.
    pub labelled_headless: bool,
    /// What our own annotations ask for.
    pub balancing: Balancing,
    /// All labels as `a=1,b=2`, by name, for people who select by them. One string, since a node holds them all.
    pub labels: Option<Arc<str>>,
}

impl Service {
    /// Whether there is anything to forward: headless Services and aliases have nothing.
    pub fn is_forwarded(&self) -> bool {
        self.service_type != ServiceType::ExternalName && !self.cluster_ips.is_empty()
    }

    /// All addresses that it asks for.
    pub fn addresses(&self) -> impl Iterator<Item = &IpAddr> {
        self.cluster_ips.iter().chain(&self.external_ips).chain(&self.load_balancer_ips)
    }

    /// Whether the proxy of this name (none: the node's default one) forwards it.
    pub fn is_served_by(&self, proxy_name: Option<&str>) -> bool {
        self.is_forwarded() && !self.labelled_headless && self.proxy_name.as_deref() == proxy_name
    }

    /// A Service with nothing in it.
    #[cfg(test)]
    pub fn for_test(namespace: &str, name: &str) -> Self {
        Self {
            name: ServiceName::new(namespace, name),
            uid: None,
            service_type: ServiceType::ClusterIp,
            cluster_ips: Vec::new(),
            external_ips: Vec::new(),
            load_balancer_ips: Vec::new(),
            source_ranges: Vec::new(),
            ports: Vec::new(),
            affinity: None,
            external_policy_local: false,
            internal_policy_local: false,
            health_check_node_port: None,
            proxy_name: None,
            labelled_headless: false,
            balancing: Balancing::default(),
            labels: None,
        }
    }
}
