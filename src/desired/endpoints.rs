//! From the slices of a Service to the endpoints of one of its ports.

use super::topology::{Place, Policies, categorize};
use super::{Endpoint, Role, ServicePortKey};
use crate::model::{self, EndpointSlice, IpFamily, Weights};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// The endpoints of a port in one family, sorted by address, and whether any of them could serve anywhere. A slice's word
/// about weights comes before the Service's; `None` where the scheduler knows none.
pub fn of_port(
    slices: &[EndpointSlice],
    key: &ServicePortKey,
    family: IpFamily,
    policies: Policies,
    place: &Place,
    weights: Option<&Weights>,
) -> (Vec<Endpoint>, bool) {
    let found = collect(slices, key, family, place);
    let list: Vec<&model::Endpoint> = found.values().copied().collect();
    let (uses, has_any) = categorize(&list, policies, place);
    let mut endpoints = Vec::with_capacity(list.len());
    for ((address, endpoint), verdict) in found.iter().zip(uses) {
        if verdict.cluster || verdict.local {
            let weight = weights.map_or(1, |weights| endpoint.weight.or_else(|| weights.of(endpoint)).unwrap_or(1));
            endpoints.push(Endpoint {
                address: *address,
                cluster: verdict.cluster.then_some(Role::Serve { weight }),
                local: verdict.local.then_some(Role::Serve { weight }),
                on_this_node: place.has(endpoint),
                elsewhere: endpoint.node.is_some() && !place.has(endpoint),
                pod: endpoint.pod.clone(),
            });
        }
    }
    (endpoints, has_any)
}

/// All slices' endpoints that serve the port. An endpoint may be in two slices at once while it moves between them: it
/// counts once: as in upstream's endpointslicecache where it is said to run here, and else in its best state.
fn collect<'a>(
    slices: &'a [EndpointSlice],
    key: &ServicePortKey,
    family: IpFamily,
    place: &Place,
) -> BTreeMap<SocketAddr, &'a model::Endpoint> {
    let mut found: BTreeMap<SocketAddr, &model::Endpoint> = BTreeMap::new();
    let rank =
        |endpoint: &model::Endpoint| (place.has(endpoint), endpoint.ready, endpoint.serving, endpoint.terminating);
    for slice in slices.iter().filter(|slice| slice.family == family) {
        let ports = slice.ports.iter().filter(|port| port.name == key.port && port.protocol == key.protocol);
        for port in ports {
            for endpoint in slice.endpoints.iter().filter(|endpoint| IpFamily::of(endpoint.address) == family) {
                let address = SocketAddr::new(endpoint.address, port.port);
                let known = found.get(&address);
                if known.is_none_or(|known| rank(known) < rank(endpoint)) {
                    found.insert(address, endpoint);
                }
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{EndpointPort, Protocol, ServiceName};
    use std::sync::Arc;

    fn slice(name: &str, addresses: &[(&str, bool)]) -> EndpointSlice {
        let endpoints = addresses.iter().map(|(ip, ready)| model::Endpoint {
            ready: *ready,
            serving: *ready,
            ..model::Endpoint::for_test(ip.parse().unwrap())
        });
        EndpointSlice {
            name: name.into(),
            proxy_name: None,
            family: IpFamily::V4,
            ports: vec![EndpointPort { name: "http".into(), protocol: Protocol::Tcp, port: 80 }],
            endpoints: endpoints.collect(),
            triggers: Vec::new(),
        }
    }

    #[test]
    fn an_endpoint_in_two_slices_counts_once_and_ready_wins() {
        let slices = [slice("a", &[("10.0.0.1", false), ("10.0.0.2", true)]), slice("b", &[("10.0.0.1", true)])];
        let key = ServicePortKey { service: ServiceName::new("ns", "a"), port: "http".into(), protocol: Protocol::Tcp };
        let policies = Policies { internal_local: false, external_local: false, externally_accessible: false };
        let (endpoints, any) = of_port(&slices, &key, IpFamily::V4, policies, &Place::default(), None);
        let addresses: Vec<String> = endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect();
        assert_eq!(addresses, ["10.0.0.1:80", "10.0.0.2:80"]);
        assert!(any);
        let udp = ServicePortKey { protocol: Protocol::Udp, ..key };
        assert!(of_port(&slices, &udp, IpFamily::V4, policies, &Place::default(), None).0.is_empty());
    }

    #[test]
    fn of_two_words_about_an_address_the_one_from_here_counts() {
        let here: Arc<str> = "here".into();
        let place = Place { node: here.clone(), zone: None };
        let mut local = slice("a", &[("10.0.0.1", false)]);
        local.endpoints[0].node = Some(here);
        let slices = [local, slice("b", &[("10.0.0.1", true)])];
        let key = ServicePortKey { service: ServiceName::new("ns", "a"), port: "http".into(), protocol: Protocol::Tcp };
        let found = collect(&slices, &key, IpFamily::V4, &place);
        assert_eq!(found.values().map(|endpoint| endpoint.ready).collect::<Vec<_>>(), [false]);
    }
}
