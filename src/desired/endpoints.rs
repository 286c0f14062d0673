//! From the slices of a Service to the endpoints of one of its ports.

use super::topology::{Found, Place, Policies, categorize};
use super::{Endpoint, Role, ServicePortKey};
use crate::model::{IpFamily, LentEndpoint, LentSlice, Weights};
use smallvec::SmallVec;
use std::net::SocketAddr;
use std::sync::Arc;

/// The endpoints of a port in one family, sorted by address, and whether any of them could serve anywhere. A slice's word
/// about weights comes before the Service's; `None` where the scheduler knows none.
pub fn of_port(
    slices: &[LentSlice<'_>],
    key: &ServicePortKey,
    family: IpFamily,
    policies: Policies,
    place: &Place,
    weights: Option<&Weights>,
    names_pods: bool,
) -> (Vec<Endpoint>, bool) {
    let found = collect(slices, key, family, place);
    let (uses, has_any) = categorize(&found, policies, place);
    let mut endpoints = Vec::with_capacity(found.len());
    for ((address, endpoint), verdict) in found.into_iter().zip(uses) {
        if verdict.cluster || verdict.local {
            let weight = weights.map_or(1, |weights| endpoint.weight.or_else(|| weights.of(endpoint)).unwrap_or(1));
            endpoints.push(Endpoint {
                address,
                cluster: verdict.cluster.then_some(Role::Serve { weight }),
                local: verdict.local.then_some(Role::Serve { weight }),
                on_this_node: place.has(endpoint),
                elsewhere: endpoint.node.is_some() && !place.has(endpoint),
                pod: endpoint.pod.filter(|_| names_pods).map(Arc::from),
            });
        }
    }
    (endpoints, has_any)
}

/// All slices' endpoints that serve the port, by address. An endpoint may be in two slices at once while it moves between
/// them: it counts once: as in upstream's endpointslicecache where it is said to run here, and else in its best state.
fn collect<'a>(
    slices: &'a [LentSlice<'a>],
    key: &ServicePortKey,
    family: IpFamily,
    place: &Place,
) -> SmallVec<[Found<'a>; 8]> {
    let mut found: SmallVec<[Found<'a>; 8]> = SmallVec::new();
    for slice in slices.iter().filter(|slice| slice.family() == family) {
        let ports = slice.ports.iter().filter(|(name, protocol, _)| *name == &*key.port && *protocol == key.protocol);
        for (_, _, port) in ports {
            let own = slice.endpoints.iter().filter(|endpoint| IpFamily::of(endpoint.address) == family);
            found.extend(own.map(|endpoint| (SocketAddr::new(endpoint.address, *port), endpoint)));
        }
    }
    let rank =
        |endpoint: &LentEndpoint<'_>| (place.has(endpoint), endpoint.ready, endpoint.serving, endpoint.terminating);
    let better = |(_, one): &Found<'_>, (_, other): &Found<'_>| rank(other).cmp(&rank(one));
    found.sort_by(|one, other| one.0.cmp(&other.0).then_with(|| better(one, other)));
    found.dedup_by_key(|(address, _)| *address);
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{self, EndpointPort, EndpointSlice, Protocol, ServiceName};

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
        let slices: Vec<LentSlice<'_>> = slices.iter().map(LentSlice::from).collect();
        let key = ServicePortKey { service: ServiceName::new("ns", "a"), port: "http".into(), protocol: Protocol::Tcp };
        let policies = Policies { internal_local: false, external_local: false, externally_accessible: false };
        let (endpoints, any) = of_port(&slices, &key, IpFamily::V4, policies, &Place::default(), None, false);
        let addresses: Vec<String> = endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect();
        assert_eq!(addresses, ["10.0.0.1:80", "10.0.0.2:80"]);
        assert!(any);
        let udp = ServicePortKey { protocol: Protocol::Udp, ..key };
        assert!(of_port(&slices, &udp, IpFamily::V4, policies, &Place::default(), None, false).0.is_empty());
    }

    #[test]
    fn of_two_words_about_an_address_the_one_from_here_counts() {
        let here: Arc<str> = "here".into();
        let place = Place { node: here.clone(), zone: None };
        let mut local = slice("a", &[("10.0.0.1", false)]);
        local.endpoints[0].node = Some(here);
        let slices = [local, slice("b", &[("10.0.0.1", true)])];
        let key = ServicePortKey { service: ServiceName::new("ns", "a"), port: "http".into(), protocol: Protocol::Tcp };
        let slices: Vec<LentSlice<'_>> = slices.iter().map(LentSlice::from).collect();
        let found = collect(&slices, &key, IpFamily::V4, &place);
        assert_eq!(found.iter().map(|(_, endpoint)| endpoint.ready).collect::<Vec<_>>(), [false]);
    }
}
