//! What the kernel should do, per IP family: the only vocabulary that the reconciler and the backends share.
//!
//! Pure data, computed from a [`crate::model::Snapshot`] and the node's facts by [`Builder`]. A [`Desired`] is always
//! complete; [`Touched`] is a hint that keeps the work of a change small and never changes the result.

mod builder;
mod claims;
mod drain;
mod endpoints;
mod flows;
mod health;
mod node;
mod ranges;
mod scheduling;
mod settings;
mod topology;
pub mod verdict;

pub use builder::{Builder, Change, Extent, Refusal};
pub(crate) use drain::deadline;
pub use flows::{UdpFlows, UdpWatch};
pub use health::{HealthCheck, HealthChecks};
pub use node::{NodeFacts, NodePortAddresses, NodeRules};
pub use scheduling::Scheduling;
pub use settings::{ConnectionTimeouts, DetectLocal, NodePortSelector, ServiceChains, Settings};

use crate::model::{AffinityTimeout, IpFamily, Protocol, ServiceName};
use imbl::OrdMap;
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

/// One port of one Service. Upstream calls it ServicePortName.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServicePortKey {
    /// Namespace and name of the Service.
    pub service: ServiceName,
    /// Name of the port, empty for a single nameless one.
    pub port: Arc<str>,
    /// Its protocol.
    pub protocol: Protocol,
}

impl ServicePortKey {
    /// No key of that Service comes before this one, and all of them before those of Services behind it.
    pub fn first_of(service: ServiceName) -> Self {
        Self { service, port: "".into(), protocol: Protocol::Tcp }
    }
}

impl fmt::Display for ServicePortKey {
    /// Upstream's form, `ns/name:port`, which is also what chain names are hashed from.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.service)?;
        if self.port.is_empty() { Ok(()) } else { write!(f, ":{}", self.port) }
    }
}

/// What an endpoint is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Gets new connections, in proportion to the weight.
    Serve {
        /// Relative share; 1 unless the user asked otherwise.
        weight: u32,
    },
    /// Gets no new connection; what is open goes on until it ends or until the deadline.
    Drain {
        /// When open connections are given up.
        until: Instant,
    },
}

impl Role {
    /// Whether it means new connections.
    pub fn serves(self) -> bool {
        matches!(self, Self::Serve { .. })
    }

    /// Until when it drains; `None` if it serves.
    pub fn drains_until(self) -> Option<Instant> {
        match self {
            Self::Serve { .. } => None,
            Self::Drain { until } => Some(until),
        }
    }
}

/// An endpoint of a service port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Where it listens.
    pub address: SocketAddr,
    /// What it is to do for the `Cluster` traffic policy; `None` if it is not in that list.
    pub cluster: Option<Role>,
    /// What it is to do for the `Local` traffic policy; `None` if it is not in that list.
    pub local: Option<Role>,
    /// It runs on this node.
    pub on_this_node: bool,
    /// It is said to run on another node. Of some endpoints nobody says where they run.
    pub elsewhere: bool,
    /// The pod behind it, for people, where they want to know ([`Builder::naming_pods`]).
    pub pod: Option<Arc<str>>,
}

impl Endpoint {
    /// Whether it may get new connections.
    pub fn serves(&self) -> bool {
        [self.cluster, self.local].into_iter().flatten().any(Role::serves)
    }

    /// Its share of new connections where it serves; 0 where it does nowhere.
    pub fn weight(&self) -> u32 {
        let weight = |role| if let Role::Serve { weight } = role { weight } else { 0 };
        [self.cluster, self.local].into_iter().flatten().map(weight).max().unwrap_or_default()
    }

    /// Whether it drains in any list.
    pub fn drains(&self) -> bool {
        [self.cluster, self.local].into_iter().flatten().any(|role| !role.serves())
    }
}

/// The addresses on which clients find a service port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FrontendKind {
    /// `spec.clusterIPs`.
    ClusterIp,
    /// `spec.externalIPs`.
    ExternalIp,
    /// `status.loadBalancer.ingress`.
    LoadBalancerIp,
    /// A port on the node's addresses.
    NodePort,
}

/// One service port in one family, with everything that a backend needs to forward its traffic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// Its identity.
    pub key: ServicePortKey,
    /// The cluster IP of this family.
    pub cluster_ip: IpAddr,
    /// The port on cluster, external and load-balancer IPs.
    pub port: u16,
    /// The port on the node's addresses.
    pub node_port: Option<u16>,
    /// External IPs.
    pub external_ips: Vec<IpAddr>,
    /// Load-balancer IPs.
    pub load_balancer_ips: Vec<IpAddr>,
    /// Senders that may use the load-balancer IPs; empty = everybody.
    pub source_ranges: Vec<IpNet>,
    /// Clients stay with their endpoint for this long after their last connection.
    pub affinity: Option<AffinityTimeout>,
    /// The cluster IP uses endpoints of this node only.
    pub internal_policy_local: bool,
    /// Node port, external and load-balancer IPs use endpoints of this node only, for senders from outside.
    pub external_policy_local: bool,
    /// Port of the health check server, where the external policy is Local.
    pub health_check_port: Option<u16>,
    /// IPVS scheduler.
    pub scheduler: Arc<str>,
    /// How the scheduler is to work.
    pub scheduling: Scheduling,
    /// Endpoints, sorted by address; those that serve and those that drain.
    pub endpoints: Vec<Endpoint>,
    /// Some endpoint somewhere could serve, even if no policy lets this node use it. Decides refuse against drop.
    pub has_any_endpoints: bool,
    /// The external policy was Local a while ago: what the cluster's own senders have open then goes on until this instant.
    pub left_local: Option<Instant>,
}

impl ServicePort {
    /// Endpoints that get new connections under the `Cluster` policy.
    pub fn cluster_endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.endpoints.iter().filter(|endpoint| endpoint.cluster.is_some_and(Role::serves))
    }

    /// Endpoints that get new connections under the `Local` policy.
    pub fn local_endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.endpoints.iter().filter(|endpoint| endpoint.local.is_some_and(Role::serves))
    }

    /// Whether anybody outside the cluster may reach it.
    pub fn externally_accessible(&self) -> bool {
        self.node_port.is_some() || !self.external_ips.is_empty() || !self.load_balancer_ips.is_empty()
    }

    /// All service addresses (not node ports) with their kind.
    pub fn service_addresses(&self) -> impl Iterator<Item = (FrontendKind, IpAddr)> {
        std::iter::once((FrontendKind::ClusterIp, self.cluster_ip))
            .chain(self.external_ips.iter().map(|ip| (FrontendKind::ExternalIp, *ip)))
            .chain(self.load_balancer_ips.iter().map(|ip| (FrontendKind::LoadBalancerIp, *ip)))
    }
}

/// Everything that is wanted in one family. The default wishes for nothing, which is how a mode leaves.
#[derive(Debug, Clone, Default)]
pub struct Desired {
    /// Service ports by identity.
    pub ports: OrdMap<ServicePortKey, Arc<ServicePort>>,
    /// What holds for the whole node; `None` wishes that no helper of ours exists either.
    pub rules: Option<Arc<NodeRules>>,
    /// The source has not listed everything yet: what is found and not wanted may be wanted by what is still to come.
    pub incomplete: bool,
    /// This mode hands over to another one: what is open goes on, nothing new is taken or refused.
    pub retiring: bool,
}

impl Desired {
    /// Whether it is the very same as another one: it costs nothing to find out.
    pub fn is_same(&self, other: &Self) -> bool {
        let rules = match (&self.rules, &other.rules) {
            (Some(own), Some(other)) => Arc::ptr_eq(own, other),
            (None, None) => true,
            _ => false,
        };
        let flags = (self.incomplete, self.retiring) == (other.incomplete, other.retiring);
        rules && flags && self.ports.ptr_eq(&other.ports)
    }

    /// The wish of a mode that hands over: all that is open may go on until the deadline, nothing new is accepted.
    #[must_use]
    pub fn retired(&self, until: Instant) -> Self {
        let retire = |port: &Arc<ServicePort>| {
            let mut port = ServicePort::clone(port);
            for endpoint in &mut port.endpoints {
                for role in [&mut endpoint.cluster, &mut endpoint.local].into_iter().flatten() {
                    if role.serves() {
                        *role = Role::Drain { until };
                    }
                }
            }
            Arc::new(port)
        };
        let ports = self.ports.iter().map(|(key, port)| (key.clone(), retire(port))).collect();
        Self { ports, rules: self.rules.clone(), retiring: true, incomplete: self.incomplete }
    }
}

/// Which service ports differ from the last `Desired` that was handed over.
#[derive(Debug, Clone, Copy)]
pub enum Touched<'a> {
    /// Possibly all of them, and what holds for the whole node.
    All,
    /// These and no others; what holds for the whole node is unchanged.
    Ports(&'a BTreeSet<ServicePortKey>),
}

/// Keeps the part of a list that belongs to a family.
pub(crate) fn of_family(addresses: &[IpAddr], family: IpFamily) -> Vec<IpAddr> {
    let mut kept: Vec<IpAddr> = addresses.iter().copied().filter(|ip| IpFamily::of(*ip) == family).collect();
    kept.sort_unstable();
    kept.dedup();
    kept
}
