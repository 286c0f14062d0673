//! What load balancers are told of the Services whose external policy is Local: how many ready endpoints this node has.
//! Upstream: `pkg/proxy/endpointschangetracker.go`, `LocalReadyEndpoints`.

use super::NodePortAddresses;
use super::topology::Place;
use crate::model::{IpFamily, LentSlice, PerFamily, Service, ServiceName, ServiceType};
use imbl::OrdMap;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// The health check of one Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// `spec.healthCheckNodePort`.
    pub port: u16,
    /// Ready endpoints on this node, in each family that the Service has.
    pub local_endpoints: PerFamily<Option<usize>>,
}

impl HealthCheck {
    /// What somebody who asks over a family is told: of that family, or of the only one that the Service has.
    pub fn count(&self, family: IpFamily) -> usize {
        let PerFamily { v4, v6 } = self.local_endpoints;
        self.local_endpoints.get(family).or(v4).or(v6).unwrap_or_default()
    }
}

/// All health checks of the node. The default has none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthChecks {
    /// By Service.
    pub services: OrdMap<ServiceName, HealthCheck>,
    /// The node's addresses on which they are answered.
    pub addresses: PerFamily<NodePortAddresses>,
}

impl Default for HealthChecks {
    fn default() -> Self {
        let nowhere = |_| NodePortAddresses::These(Vec::new());
        Self { services: OrdMap::new(), addresses: PerFamily::from_fn(nowhere) }
    }
}

/// The port of a Service's health check, if it has one. Upstream: `NeedsHealthCheck`.
pub fn port(service: &Service) -> Option<u16> {
    let needed = service.service_type == ServiceType::LoadBalancer && service.external_policy_local;
    service.health_check_node_port.filter(|_| needed)
}

/// The health check of a Service, if it has one.
pub fn of_service(service: &Service, slices: &[LentSlice<'_>], place: &Place) -> Option<HealthCheck> {
    let port = port(service)?;
    let has = |family| service.cluster_ips.iter().any(|ip| IpFamily::of(*ip) == family);
    let count = |family| has(family).then(|| ready_here(slices, family, place));
    Some(HealthCheck { port, local_endpoints: PerFamily::from_fn(count) })
}

/// Different addresses on this node that are ready. What is terminating still serves, but the load balancer is to look
/// for another node. As upstream, any port of a slice will do, whatever the Service calls its own.
fn ready_here(slices: &[LentSlice<'_>], family: IpFamily, place: &Place) -> usize {
    let slices = slices.iter().filter(|slice| slice.family() == family && !slice.ports.is_empty());
    let ready = slices.flat_map(|slice| &slice.endpoints).filter(|endpoint| endpoint.ready && place.has(endpoint));
    let addresses: BTreeSet<IpAddr> = ready.map(|endpoint| endpoint.address).collect();
    addresses.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Endpoint, EndpointPort, EndpointSlice, Protocol};

    fn service() -> Service {
        Service {
            service_type: ServiceType::LoadBalancer,
            cluster_ips: vec!["172.30.0.1".parse().unwrap()],
            external_policy_local: true,
            health_check_node_port: Some(32_000),
            ..Service::for_test("ns", "lb")
        }
    }

    fn slice(name: &str, endpoints: &[(&str, &str, bool)]) -> EndpointSlice {
        let endpoint = |(ip, node, ready): &(&str, &str, bool)| Endpoint {
            address: ip.parse().unwrap(),
            ready: *ready,
            serving: true,
            terminating: !ready,
            node: Some((*node).into()),
            zone: None,
            hints: None,
            pod: None,
            weight: None,
        };
        let port = |name: &str| EndpointPort { name: name.into(), protocol: Protocol::Tcp, port: 80 };
        EndpointSlice {
            ports: vec![port("http"), port("admin")],
            endpoints: endpoints.iter().map(endpoint).collect(),
            ..EndpointSlice::for_test(name)
        }
    }

    #[test]
    fn ready_addresses_of_this_node_count_once() {
        let a = slice("a", &[("10.0.0.1", "here", true), ("10.0.0.2", "here", false), ("10.0.0.3", "there", true)]);
        let slices = [a, slice("b", &[("10.0.0.1", "here", true), ("10.0.0.4", "here", true)])];
        let place = Place { node: "here".into(), zone: None };
        let check = of_service(&service(), &slices.each_ref().map(LentSlice::from), &place).unwrap();
        assert_eq!(check.local_endpoints, PerFamily { v4: Some(2), v6: None });
        assert_eq!(
            (check.count(IpFamily::V4), check.count(IpFamily::V6)),
            (2, 2),
            "its only family is told everywhere"
        );
    }

    #[test]
    fn only_load_balancers_with_policy_local_have_one() {
        let place = Place::default();
        assert!(of_service(&service(), &[], &place).is_some_and(|check| check.count(IpFamily::V4) == 0));
        let cluster = Service { external_policy_local: false, ..service() };
        let node_port = Service { service_type: ServiceType::NodePort, ..service() };
        let without = Service { health_check_node_port: None, ..service() };
        assert!([cluster, node_port, without].iter().all(|service| of_service(service, &[], &place).is_none()));
    }
}
