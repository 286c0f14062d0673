//! Whose connections are counted again before a plan. Pure.

use super::observed::{FoundServer, Observed};
use super::wanted;
use crate::desired::{Desired, Endpoint, ServicePort, Touched};
use foldhash::HashSet;
use ipvs::ServiceId;
use std::net::SocketAddr;

/// The virtual servers whose connections have to be counted again: those of touched ports of which something drains that the
/// kernel still has, or that have a destination which is not wanted any more. What was idle is gone, though it may be said to
/// drain for a quarter of an hour.
pub fn draining(desired: &Desired, touched: Touched<'_>, observed: &Observed) -> HashSet<ServiceId> {
    let Some(rules) = desired.rules.as_deref() else { return HashSet::default() };
    let ports: Vec<&ServicePort> = match touched {
        Touched::All => desired.ports.values().map(|port| &**port).collect(),
        Touched::Ports(keys) => keys.iter().filter_map(|key| desired.ports.get(key)).map(|port| &**port).collect(),
    };
    let mut servers = HashSet::default();
    for port in ports {
        let drains = port.endpoints.iter().any(Endpoint::drains);
        let serves = |address: &SocketAddr| {
            let place = port.endpoints.binary_search_by_key(address, |endpoint| endpoint.address);
            place.ok().and_then(|place| port.endpoints.get(place)).is_some_and(|endpoint| !endpoint.drains())
        };
        let has_any = |id: &ServiceId| {
            let leaves = |found: &FoundServer| found.destinations.keys().any(|address| !serves(address));
            drains && observed.drains.contains(id) || observed.servers.get(id).is_some_and(leaves)
        };
        servers.extend(wanted::server_ids(port, rules).into_iter().filter(has_any));
    }
    servers
}

#[cfg(test)]
mod tests {
    use super::super::observed::FoundDestination;
    use super::*;
    use crate::desired::{Builder, NodeFacts, Settings};
    use crate::model::{IpFamily, Protocol, Service, ServicePort, Snapshot};
    use std::sync::Arc;
    use std::time::Instant;

    /// Its name is new, so that it has no endpoints yet; but the kernel has them, and they have connections.
    #[test]
    fn what_is_not_wanted_any_more_is_counted_before_it_goes() {
        let port =
            ServicePort { name: "http".into(), protocol: Protocol::Tcp, port: 80, node_port: None, target: None };
        let service = Service {
            cluster_ips: vec!["172.30.0.1".parse().unwrap()],
            ports: vec![port],
            ..Service::for_test("ns", "a")
        };
        let mut snapshot = Snapshot { complete: true, ..Snapshot::default() };
        snapshot.services.insert(service.name.clone(), Arc::new(service));
        let mut builder = Builder::new(Arc::new(Settings::default()));
        builder.update(&Snapshot { complete: true, ..Snapshot::default() }, &NodeFacts::default(), Instant::now());
        let keys = builder.update(&snapshot, &NodeFacts::default(), Instant::now()).ports.v4;
        let desired = builder.desired().get(IpFamily::V4);
        let id = ServiceId::new(ipvs::Protocol::Tcp, "172.30.0.1".parse().unwrap(), 80);
        let found = FoundDestination { weight: 1, masqueraded: true, connections: 0, drained_since: None };
        let mut observed = Observed::default();
        let counted = |observed: &Observed| draining(desired, Touched::Ports(&keys), observed).len();
        let server = |destinations| FoundServer { service: ipvs::Service::new(id, ipvs::Scheduler::Rr), destinations };
        observed.servers.insert(id, server(litemap::LiteMap::new()));
        assert_eq!(counted(&observed), 0, "there is nothing to count");
        let destinations = litemap::LiteMap::from_iter([("10.180.0.1:8080".parse().unwrap(), found)]);
        observed.servers.insert(id, server(destinations));
        assert_eq!(counted(&observed), 1);
    }
}
