//! What the cluster says of a node.

use ipnet::IpNet;
use std::net::IpAddr;
use std::sync::Arc;

/// A Node object, reduced to what forwarding needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: Arc<str>,
    /// Label `topology.kubernetes.io/zone`.
    pub zone: Option<Arc<str>>,
    /// All addresses of type InternalIP and ExternalIP: these are never captured.
    pub addresses: Vec<IpAddr>,
    /// `spec.podCIDRs`.
    pub pod_cidrs: Vec<IpNet>,
    /// It is being deleted, or the cluster autoscaler is about to: load balancers are to look elsewhere.
    pub leaving: bool,
}
