//! The fixed surroundings of every scenario, from tests/scenarios/topology.yaml.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result, anyhow};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use kube_ipvs::lab::{HostSpec, Interface, Place, Topology};
use kube_ipvs::source::yaml;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The file is part of the program: scenarios elsewhere play in the same surroundings.
const TOPOLOGY: &str = include_str!("../../tests/scenarios/topology.yaml");

/// What the node answers as.
pub const NODE: &str = "node";

/// What answers as this has left the node untranslated.
pub const SINK: &str = "sink";

/// The surroundings as they are written.
#[derive(Debug, Clone, Deserialize)]
pub struct Surroundings {
    node: Node,
    pods: BTreeMap<String, Addresses>,
    outside: BTreeMap<String, Address>,
    ranges: Ranges,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Node {
    node_name: String,
    zone: String,
    interfaces: BTreeMap<String, Nets>,
    #[serde(rename = "podCIDRs")]
    pod_cidrs: Vec<IpNet>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Nets {
    ipv4: Ipv4Net,
    ipv6: Ipv6Net,
    #[serde(default)]
    default_route: bool,
}

#[derive(Debug, Clone, Deserialize)]
struct Address {
    ipv4: Ipv4Addr,
    ipv6: Ipv6Addr,
}

#[derive(Debug, Clone, Deserialize)]
struct Addresses {
    ipv4: Vec<Ipv4Addr>,
    ipv6: Vec<Ipv6Addr>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Ranges {
    cluster: Vec<IpNet>,
    services: Vec<IpNet>,
    #[serde(rename = "externalIPs")]
    external_ips: Vec<IpNet>,
    #[serde(rename = "loadBalancerIPs")]
    load_balancer_ips: Vec<IpNet>,
}

impl Surroundings {
    /// Reads the file.
    pub fn load() -> Result<Self> {
        let problem = |error: yaml::SyntaxError| anyhow!("topology.yaml, line {}: {}", error.line, error.message);
        let documents = yaml::documents(TOPOLOGY).map_err(problem)?;
        let value = documents.first().context("topology.yaml is empty")?.value().map_err(problem)?;
        serde_json::from_value(value).context("topology.yaml")
    }

    /// The name of the node in the cluster.
    pub fn node_name(&self) -> &str {
        &self.node.node_name
    }

    /// Where pods live.
    pub fn cluster_ranges(&self) -> &[IpNet] {
        &self.ranges.cluster
    }

    /// Where cluster IPs are from.
    pub fn service_ranges(&self) -> &[IpNet] {
        &self.ranges.services
    }

    /// The addresses of the node's interfaces.
    pub fn node_addresses(&self) -> Vec<IpAddr> {
        let both = |nets: &Nets| [nets.ipv4.addr().into(), nets.ipv6.addr().into()];
        self.node.interfaces.values().flat_map(both).collect()
    }

    /// The lab for these surroundings. The sink takes the service ranges, and `strangers` besides: addresses that nobody
    /// has and that a packet must leave for.
    pub fn topology(&self, strangers: &[IpAddr]) -> Result<Topology> {
        let mut topology = Topology::with_node(NODE);
        for (name, nets) in &self.node.interfaces {
            let interface = Interface { name: name.clone(), ipv4: nets.ipv4, ipv6: nets.ipv6 };
            if nets.default_route {
                topology.uplink = interface;
            } else {
                topology.idle_interfaces.push(interface);
            }
        }
        for (node, pods) in &self.pods {
            let (kind, place) =
                if node == "local" { ("pod", Place::OnNode) } else { ("remote-pod", Place::BeyondEth0) };
            for (ipv4, ipv6) in pods.ipv4.iter().zip(&pods.ipv6) {
                topology.hosts.push(HostSpec::new(format!("{kind}:{ipv4}"), place, *ipv4, *ipv6));
            }
        }
        for (name, address) in &self.outside {
            topology.hosts.push(HostSpec::new(name, Place::BeyondEth0, address.ipv4, address.ipv6));
        }
        let ranges = &self.ranges;
        topology.sink = [&ranges.services, &ranges.external_ips, &ranges.load_balancer_ips]
            .into_iter()
            .flatten()
            .copied()
            .collect();
        let taken: Vec<IpAddr> = topology
            .hosts
            .iter()
            .flat_map(|host| [IpAddr::from(host.ipv4), IpAddr::from(host.ipv6)])
            .chain(self.node_addresses())
            .chain([topology.gateway.0.into(), topology.gateway.1.into()])
            .collect();
        for stranger in strangers {
            let known = taken.contains(stranger) || topology.sink.iter().any(|range| range.contains(stranger));
            if !known && !stranger.is_loopback() {
                topology.sink.push(IpNet::from(*stranger));
            }
        }
        Ok(topology)
    }

    /// The Node object of the node.
    pub fn node_object(&self) -> Value {
        let uplink = self.node.interfaces.values().find(|nets| nets.default_route);
        let addresses: Vec<_> = uplink
            .into_iter()
            .flat_map(|nets| [nets.ipv4.addr().to_string(), nets.ipv6.addr().to_string()])
            .map(|address| json!({"type": "InternalIP", "address": address}))
            .collect();
        json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {
                "name": self.node.node_name,
                "labels": {
                    "kubernetes.io/hostname": self.node.node_name,
                    "topology.kubernetes.io/zone": self.node.zone,
                },
            },
            "spec": {
                "podCIDR": self.node.pod_cidrs.first(),
                "podCIDRs": self.node.pod_cidrs,
            },
            "status": {"addresses": addresses},
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_read() {
        let surroundings = Surroundings::load().unwrap();
        let topology = surroundings.topology(&[IpAddr::from([9, 9, 9, 9]), IpAddr::from([172, 30, 0, 1])]).unwrap();
        assert_eq!(topology.hosts.len(), 17);
        assert_eq!(topology.uplink.name, "eth0");
        assert_eq!(topology.idle_interfaces.len(), 1);
        assert_eq!(topology.sink.len(), 7);
        assert_eq!(surroundings.node_addresses().len(), 4);
    }
}
