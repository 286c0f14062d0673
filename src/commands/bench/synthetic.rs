//! A cluster of any size, in memory: N Services of one port, each with M ready endpoints on another node.

use crate::desired::{DetectLocal, Settings};
use crate::model::{
    Balancing, Endpoint, EndpointPort, EndpointSlice, IpFamily, Protocol, Service, ServiceName, ServicePort,
    ServiceType, Snapshot,
};
use ipnet::{IpNet, Ipv4Net};
use std::net::Ipv4Addr;
use std::sync::Arc;

/// Endpoints are within this range.
pub const PODS: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 128, 0, 0), 9);
/// The first cluster IP. The range around it widens with the number of services.
const FIRST_CLUSTER_IP: u32 = 0xac1e_0000;
/// Addresses at the start of the range that real clusters use for DNS and the API server.
const RESERVED: u32 = 16;

/// How large the cluster is.
#[derive(Debug, Clone, Copy)]
pub struct Synthetic {
    /// Services.
    pub services: u32,
    /// Endpoints of each.
    pub endpoints: u32,
}

impl Synthetic {
    /// The largest number of services that addresses are at hand for.
    pub const MOST_SERVICES: u32 = 100_000;
    /// The largest number of endpoints in all.
    pub const MOST_ENDPOINTS: u32 = 4_000_000;

    /// The service range: 172.30.0.0/16, or as much wider as it takes.
    pub fn service_range(self) -> IpNet {
        let first = Ipv4Addr::from(FIRST_CLUSTER_IP);
        let needed = self.services.saturating_mul(2).saturating_add(RESERVED);
        // 172.30.0.0/15 and 172.28.0.0/14 hold the addresses from 172.30.0.0 on; so does every wider one.
        let length = (8..=16).rev().find(|length| room(*length) >= needed).unwrap_or(8);
        Ipv4Net::new(first, length).map_or_else(|_| IpNet::from(std::net::IpAddr::V4(first)), |net| net.trunc().into())
    }

    /// Where the endpoints are.
    pub fn pods() -> IpNet {
        PODS.into()
    }

    /// The cluster IP of a service.
    pub fn cluster_ip(self, index: u32) -> Ipv4Addr {
        Ipv4Addr::from(FIRST_CLUSTER_IP + RESERVED + index)
    }

    /// The endpoints of a service; the first is a new one with that number, if one is given.
    pub fn endpoint_addresses(self, index: u32, replaced: Option<u32>) -> Vec<Ipv4Addr> {
        let mut addresses: Vec<Ipv4Addr> = (0..self.endpoints).map(|endpoint| self.endpoint(index, endpoint)).collect();
        if let (Some(first), Some(number)) = (addresses.first_mut(), replaced) {
            // The last addresses of the range; services never get that far.
            *first = Ipv4Addr::from(u32::from(PODS.broadcast()) - 1 - number);
        }
        addresses
    }

    /// What the proxy is told about this cluster. Without the range every cluster IP costs a route of its own.
    pub fn settings(self, range_known: bool) -> Settings {
        Settings {
            node_name: "bench".into(),
            detect_local: DetectLocal::Cidrs(vec![PODS.into()]),
            service_ranges: if range_known { vec![self.service_range()] } else { Vec::new() },
            ..Settings::default()
        }
    }

    /// Everything at once.
    pub fn snapshot(self) -> Snapshot {
        let mut snapshot = Snapshot { complete: true, ..Snapshot::default() };
        for index in 0..self.services {
            self.add(&mut snapshot, index);
        }
        snapshot
    }

    /// Adds a Service; numbers from [`Self::services`] on are new ones.
    pub fn add(self, snapshot: &mut Snapshot, index: u32) {
        let service = service(index, self.cluster_ip(index));
        set_endpoints(snapshot, index, self.endpoint_addresses(index, None));
        snapshot.services.insert(service.name.clone(), Arc::new(service));
    }

    /// Removes a Service and its endpoints.
    pub fn remove(self, snapshot: &mut Snapshot, index: u32) {
        snapshot.services.remove(&name(index));
        snapshot.slices.remove(&name(index));
    }

    /// Replaces the first endpoint of a Service by one that was never there, as when a pod is made anew.
    pub fn replace_endpoint(self, snapshot: &mut Snapshot, index: u32) {
        self.replace_with(snapshot, index, index);
    }

    /// Likewise; the same number is the same new endpoint.
    pub fn replace_with(self, snapshot: &mut Snapshot, index: u32, number: u32) {
        set_endpoints(snapshot, index, self.endpoint_addresses(index, Some(number)));
    }

    /// The service that the change of that number is made to: all over the table, as a change at its start may be cheaper
    /// than one at its end.
    pub fn spread(self, number: u32, changes: u32) -> u32 {
        let apart = self.services.checked_div(changes.min(self.services)).unwrap_or(0);
        number.checked_rem(self.services).unwrap_or(0) * apart
    }

    /// The address of one endpoint of a Service.
    pub fn endpoint(self, service: u32, endpoint: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(PODS.network()) + 1 + service * self.endpoints + endpoint)
    }
}

/// The cluster IP of a Service.
pub fn cluster_ip(index: u32) -> Ipv4Addr {
    Ipv4Addr::from(FIRST_CLUSTER_IP + RESERVED + index)
}

fn room(length: u8) -> u32 {
    let net = Ipv4Net::new(Ipv4Addr::from(FIRST_CLUSTER_IP), length).unwrap_or_default();
    u32::from(net.broadcast()) - FIRST_CLUSTER_IP
}

fn name(index: u32) -> ServiceName {
    ServiceName::new("bench", format!("service-{index:06}"))
}

fn service(index: u32, cluster_ip: Ipv4Addr) -> Service {
    Service {
        name: name(index),
        uid: None,
        service_type: ServiceType::ClusterIp,
        cluster_ips: vec![cluster_ip.into()],
        external_ips: Vec::new(),
        load_balancer_ips: Vec::new(),
        source_ranges: Vec::new(),
        ports: vec![ServicePort {
            name: "http".into(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: None,
            target: None,
        }],
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

fn set_endpoints(snapshot: &mut Snapshot, index: u32, addresses: Vec<Ipv4Addr>) {
    let node: Arc<str> = "another-node".into();
    let endpoint = |address: Ipv4Addr| Endpoint {
        address: address.into(),
        ready: true,
        serving: true,
        terminating: false,
        node: Some(node.clone()),
        zone: None,
        hints: None,
        pod: None,
        weight: None,
    };
    let slice = EndpointSlice {
        name: format!("service-{index:06}-slice").into(),
        proxy_name: None,
        family: IpFamily::V4,
        ports: vec![EndpointPort { name: "http".into(), protocol: Protocol::Tcp, port: 8080 }],
        endpoints: addresses.into_iter().map(endpoint).collect(),
        triggers: Vec::new(),
    };
    snapshot.slices.entry(name(index)).or_default().insert(&slice);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::{Builder, NodeFacts};

    #[test]
    fn every_service_gets_all_it_asks_for() {
        let synthetic = Synthetic { services: 300, endpoints: 5 };
        let mut builder = Builder::new(Arc::new(synthetic.settings(true)));
        builder.update(&synthetic.snapshot(), &NodeFacts::default(), std::time::Instant::now());
        let ports = &builder.desired().v4.ports;
        assert_eq!(ports.len(), 300);
        assert!(ports.values().all(|port| port.cluster_endpoints().count() == 5));
        assert_eq!(builder.refusals().count(), 0);
    }

    #[test]
    fn the_range_holds_all_cluster_ips() {
        for services in [1, 1_000, 33_000, 44_000, 100_000] {
            let synthetic = Synthetic { services, endpoints: 1 };
            let range = synthetic.service_range();
            let last = synthetic.cluster_ip(2 * services);
            assert!([synthetic.cluster_ip(0), last].iter().all(|ip| range.contains(&std::net::IpAddr::V4(*ip))));
        }
        assert_eq!(Synthetic { services: 1_000, endpoints: 5 }.service_range().to_string(), "172.30.0.0/16");
    }

    #[test]
    fn changes_are_made_all_over_the_table() {
        let spread = |services, changes| -> Vec<u32> {
            (0..changes).map(|number| Synthetic { services, endpoints: 1 }.spread(number, changes)).collect()
        };
        assert_eq!(spread(100, 4), [0, 25, 50, 75]);
        assert_eq!(spread(2, 5), [0, 1, 0, 1, 0]);
    }

    #[test]
    fn a_replaced_endpoint_was_never_there() {
        let synthetic = Synthetic { services: 10, endpoints: 2 };
        let before = synthetic.snapshot();
        let mut after = before.clone();
        synthetic.replace_endpoint(&mut after, 3);
        assert_eq!(before.changed_services(&after), vec![name(3)]);
    }
}
