//! EndpointSlices and their endpoints, reduced to what forwarding needs.

use super::{IpFamily, Protocol};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

/// Name of a slice within its namespace.
pub type SliceName = Arc<str>;

/// One address of one pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The first address of the endpoint: the API says that further ones are the same endpoint, and upstream uses the
    /// first only.
    pub address: IpAddr,
    /// May get new connections.
    pub ready: bool,
    /// Answers, whether or not it is terminating.
    pub serving: bool,
    /// The pod is being deleted.
    pub terminating: bool,
    /// The node that it runs on.
    pub node: Option<Arc<str>>,
    /// The zone of that node.
    pub zone: Option<Arc<str>>,
    /// For whom the control plane meant it; one copy for all endpoints of a slice that are meant for the same.
    pub hints: Option<Arc<Hints>>,
    /// The pod behind it.
    pub pod: Option<Arc<str>>,
    /// Its share of new connections, where its slice has our own annotation.
    pub weight: Option<u32>,
}

/// For whom the control plane meant an endpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hints {
    /// Zones (`hints.forZones`).
    pub zones: Vec<Arc<str>>,
    /// Nodes (`hints.forNodes`).
    pub nodes: Vec<Arc<str>>,
}

#[cfg(test)]
impl Endpoint {
    /// A ready one, of which nothing else is known.
    pub fn for_test(address: IpAddr) -> Self {
        Self {
            address,
            ready: true,
            serving: true,
            terminating: false,
            node: None,
            zone: None,
            hints: None,
            pod: None,
            weight: None,
        }
    }
}

/// A port that all endpoints of a slice serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointPort {
    /// Name of the Service port that it belongs to.
    pub name: Arc<str>,
    /// Protocol.
    pub protocol: Protocol,
    /// The port of the pods.
    pub port: u16,
}

/// One EndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Its name.
    pub name: SliceName,
    /// Label `service.kubernetes.io/service-proxy-name`, which controllers copy from the Service.
    pub proxy_name: Option<Arc<str>>,
    /// `addressType`.
    pub family: IpFamily,
    /// Ports.
    pub ports: Vec<EndpointPort>,
    /// Endpoints.
    pub endpoints: Vec<Endpoint>,
    /// When what the slice tells of happened, for its last few states, oldest first
    /// (`endpoints.kubernetes.io/last-change-trigger-time`). States may follow each other faster than they are taken in.
    pub triggers: Vec<SystemTime>,
}

/// As many states of a slice are remembered by their time.
const TRIGGERS: usize = 8;

impl EndpointSlice {
    /// Whether it tells the same as another one; when that happened does not matter.
    pub fn tells_the_same(&self, other: &Self) -> bool {
        let Self { name, proxy_name, family, ports, endpoints, triggers: _ } = self;
        (name, proxy_name, family, ports, endpoints)
            == (&other.name, &other.proxy_name, &other.family, &other.ports, &other.endpoints)
    }

    /// The times of the states that came after another, earlier state.
    pub fn triggers_since<'a>(&'a self, earlier: Option<&'a Self>) -> impl Iterator<Item = SystemTime> + 'a {
        let known = move |time: &&SystemTime| !earlier.is_some_and(|earlier| earlier.triggers.contains(time));
        self.triggers.iter().filter(known).copied()
    }

    /// Takes on the times of the state that it takes the place of.
    pub fn follow(&mut self, former: &Self) {
        let own = std::mem::take(&mut self.triggers);
        self.triggers = former.triggers.iter().copied().chain(own).collect();
        let surplus = self.triggers.len().saturating_sub(TRIGGERS);
        self.triggers.drain(..surplus);
    }

    /// A slice with nothing in it.
    #[cfg(test)]
    pub fn for_test(name: &str) -> Self {
        Self {
            name: name.into(),
            proxy_name: None,
            family: IpFamily::V4,
            ports: Vec::new(),
            endpoints: Vec::new(),
            triggers: Vec::new(),
        }
    }
}
