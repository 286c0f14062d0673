//! Which UDP flows no longer go where they should: the frontends of UDP service ports, and the endpoints to which the
//! flows that the kernel remembers for each of them may go.
//!
//! UDP has no end of a connection. What the kernel once decided for a client's port holds for as long as the client goes
//! on sending, also where the endpoint is gone, or where there was none and the packets went their way untranslated.
//! Upstream: `pkg/proxy/conntrack/cleanup.go`, `CleanStaleEntries`; it looks at all services with every sync, this only
//! at what changed.

use super::{Desired, Endpoint, FrontendKind, NodeRules, Role, ServicePort, ServicePortKey, Touched};
use crate::model::Protocol;
use imbl::OrdMap;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

/// UDP frontends, and the endpoints to which flows of each may go; without any, it has to forget all of its flows.
///
/// Node ports on loopback stand under 127.0.0.1, whichever address of 127.0.0.0/8 the client took.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UdpFlows(BTreeMap<SocketAddr, BTreeSet<SocketAddr>>);

impl UdpFlows {
    /// Whether there is no frontend.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The frontends.
    pub fn frontends(&self) -> impl Iterator<Item = SocketAddr> {
        self.0.keys().copied()
    }

    /// Whether a flow to `destination`, which `answerer` answers, has to be forgotten.
    pub fn is_stale(&self, destination: SocketAddr, answerer: SocketAddr) -> bool {
        let ip = match destination.ip() {
            IpAddr::V4(ip) if ip.is_loopback() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            ip => ip,
        };
        let endpoints = self.0.get(&SocketAddr::new(ip, destination.port()));
        endpoints.is_some_and(|endpoints| !endpoints.contains(&answerer))
    }

    /// Whether it is one of the frontends.
    pub fn is_frontend(&self, destination: SocketAddr) -> bool {
        self.0.contains_key(&destination)
    }

    /// Those of one port.
    fn add(&mut self, port: &ServicePort, rules: &NodeRules) {
        for (kind, address, number) in frontends(port, rules) {
            let endpoints = port.endpoints.iter().filter(|endpoint| may_serve(port, kind, endpoint));
            // Of two kinds on one address the union: no flow that one of them may have is disturbed.
            self.0.entry(SocketAddr::new(address, number)).or_default().extend(endpoints.map(|e| e.address));
        }
    }
}

impl FromIterator<(SocketAddr, BTreeSet<SocketAddr>)> for UdpFlows {
    fn from_iter<T: IntoIterator<Item = (SocketAddr, BTreeSet<SocketAddr>)>>(frontends: T) -> Self {
        Self(frontends.into_iter().collect())
    }
}

/// Follows what is wanted in one family, and keeps the frontends whose flows are still to be looked at.
#[derive(Debug, Clone, Default)]
pub struct UdpWatch {
    /// What was wanted at the last look; `None` before the first.
    known: Option<Known>,
    due: UdpFlows,
}

#[derive(Debug, Clone)]
struct Known {
    ports: OrdMap<ServicePortKey, Arc<ServicePort>>,
    rules: Arc<NodeRules>,
}

impl UdpWatch {
    /// Frontends whose flows have to be looked at, since something changed: an endpoint does not serve any more, the
    /// first one came, the frontend itself came or went. After the start: all of them.
    pub fn due(&self) -> &UdpFlows {
        &self.due
    }

    /// Everything that was wanted at the last look.
    pub fn all(&self) -> UdpFlows {
        self.known.as_ref().map(Known::all_flows).unwrap_or_default()
    }

    /// All that was due was looked at.
    pub fn done(&mut self) {
        self.due = UdpFlows::default();
    }

    /// Takes in what is wanted now, of which only this was touched since the last time; true if something became due.
    /// Costs nothing for a change that touches no UDP.
    ///
    /// While the source has not listed everything nothing is judged: endpoints may be still to come.
    pub fn look(&mut self, desired: &Desired, touched: Touched<'_>) -> bool {
        let Some(rules) = desired.rules.clone().filter(|_| !desired.incomplete) else { return false };
        let known = self.known.replace(Known { ports: desired.ports.clone(), rules });
        let (Some(now), before) = (&self.known, known.as_ref()) else { return false };
        let (old, new) = match (touched, before) {
            (Touched::Ports(keys), Some(before)) => {
                let keys: Vec<_> = keys.iter().filter(|key| key.protocol == Protocol::Udp).collect();
                (before.flows(keys.iter().copied()), now.flows(keys.iter().copied()))
            }
            (_, before) => (before.map(Known::all_flows).unwrap_or_default(), now.all_flows()),
        };
        self.refresh(&old, &new);
        let found = suspicious(old, new);
        let news = !found.is_empty();
        self.due.0.extend(found.0);
        news
    }

    /// Of what is due already, the newer endpoints count.
    fn refresh(&mut self, old: &UdpFlows, new: &UdpFlows) {
        for (frontend, endpoints) in &mut self.due.0 {
            match new.0.get(frontend) {
                Some(newer) => endpoints.clone_from(newer),
                None if old.0.contains_key(frontend) => endpoints.clear(),
                None => {}
            }
        }
    }
}

impl Known {
    fn flows<'a>(&self, keys: impl Iterator<Item = &'a ServicePortKey>) -> UdpFlows {
        let mut flows = UdpFlows::default();
        keys.filter_map(|key| self.ports.get(key)).for_each(|port| flows.add(port, &self.rules));
        flows
    }

    fn all_flows(&self) -> UdpFlows {
        self.flows(self.ports.keys().filter(|key| key.protocol == Protocol::Udp))
    }
}

/// The frontends that may have flows which do not go to one of the `new` endpoints, and those of `old` that are gone.
fn suspicious(mut old: UdpFlows, new: UdpFlows) -> UdpFlows {
    let mut found = UdpFlows::default();
    for (frontend, endpoints) in new.0 {
        let suspicious = match old.0.remove(&frontend) {
            // It was not ours: packets to it went their way untranslated.
            None => true,
            Some(before) => before.is_empty() != endpoints.is_empty() || !before.is_subset(&endpoints),
        };
        if suspicious {
            found.0.insert(frontend, endpoints);
        }
    }
    found.0.extend(old.0.into_keys().map(|frontend| (frontend, BTreeSet::new())));
    found
}

/// All addresses and ports on which clients find a service port.
fn frontends<'a>(
    port: &'a ServicePort,
    rules: &'a NodeRules,
) -> impl Iterator<Item = (FrontendKind, IpAddr, u16)> + 'a {
    let addresses = port.service_addresses().map(|(kind, address)| (kind, address, port.port));
    let node_ports = port.node_port.into_iter().flat_map(|number| {
        let loopback = rules.localhost_node_ports.then_some(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let addresses = rules.node_port_ips().iter().copied().chain(loopback);
        addresses.map(move |address| (FrontendKind::NodePort, address, number))
    });
    addresses.chain(node_ports)
}

/// Whether flows that came through a frontend of this kind may stay with the endpoint. With the external policy Local
/// senders within the cluster may use all of the `Cluster` list, others that of this node.
fn may_serve(port: &ServicePort, kind: FrontendKind, endpoint: &Endpoint) -> bool {
    let serves = |role: Option<Role>| role.is_some_and(Role::serves);
    match kind {
        FrontendKind::ClusterIp if port.internal_policy_local => serves(endpoint.local),
        FrontendKind::ClusterIp => serves(endpoint.cluster),
        _ if port.external_policy_local => serves(endpoint.local) || serves(endpoint.cluster),
        _ => serves(endpoint.cluster),
    }
}

#[cfg(test)]
#[path = "flows_tests.rs"]
mod tests;
