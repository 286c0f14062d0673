//! The cluster in which traffic is measured: a node for the proxy, pods that really answer on every endpoint's address, callers
//! on the node and outside. All of it is network namespaces of our own.
//!
//! One namespace has all endpoints' addresses by a local route, so that a thousand services cost one listener. Callers
//! with affinity have an address each, likewise.

use super::load::Drops;
use super::synthetic::{self, Synthetic};
use crate::lab::{HostSpec, Lab, NetNs, Place, Protocol, Responder, Topology};
use anyhow::Context;
use ipnet::{IpNet, Ipv4Net};
use serde_json::{Value, json};
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Where callers with affinity have their addresses; one each.
const CALLERS: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 126, 0, 0), 16);
/// The port of every service.
const PORT: u16 = 80;
/// The port on which every endpoint listens.
const TARGET: u16 = 8080;
/// Services that traffic uses: three of TCP, one of UDP, one with affinity; and one that nobody uses.
pub const FEWEST_SERVICES: u32 = 6;

/// A running cluster, and the proxy's manifests. It goes when this is dropped.
#[derive(Debug)]
pub struct Field {
    lab: Lab,
    cluster: Synthetic,
    folder: PathBuf,
    _responder: Responder,
}

/// What a service is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Stream,
    Datagrams,
    Affinity,
}

impl Field {
    /// Builds it.
    ///
    /// # Errors
    /// The first step that the kernel refused.
    pub fn build(cluster: Synthetic) -> anyhow::Result<Self> {
        let mut topology = Topology::with_node("bench");
        let host = |name, place, ipv4: [u8; 4], last, ranges| HostSpec {
            ranges,
            ..HostSpec::new(name, place, Ipv4Addr::from(ipv4), Ipv6Addr::new(0xfd00, 0x10, 0, 0, 0, 0, 0, last))
        };
        topology.hosts = vec![
            host("pods", Place::OnNode, [10, 127, 0, 1], 1, vec![IpNet::V4(synthetic::PODS)]),
            host("callers", Place::OnNode, [10, 127, 0, 2], 2, vec![IpNet::V4(CALLERS)]),
            host("outside", Place::BeyondEth0, [203, 0, 113, 2], 3, Vec::new()),
        ];
        let lab = Lab::build(&topology).context("making network namespaces")?;
        let pods = lab.host("pods").context("the cluster has no pods")?;
        let responder = Responder::start(&pods.ns, "pods", &[(Protocol::Tcp, TARGET), (Protocol::Udp, TARGET)])?;
        let folder = nix::unistd::mkdtemp(&std::env::temp_dir().join("kube-ipvs-bench-XXXXXX"))
            .context("creating a temporary folder")?;
        let field = Self { lab, cluster, folder, _responder: responder };
        fs::create_dir(field.manifests()).and_then(|()| {
            let text = serde_json::to_vec(&field.objects())?;
            fs::write(field.manifests().join("services.json"), text)
        })?;
        Ok(field)
    }

    /// The folder for what belongs to this run alone.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The proxy's manifests.
    pub fn manifests(&self) -> PathBuf {
        self.folder.join("manifests")
    }

    /// The node's namespace.
    pub fn node(&self) -> &NetNs {
        &self.lab.node().ns
    }

    /// Where callers on the node are.
    ///
    /// # Errors
    /// Never, as long as the topology has it.
    pub fn inside(&self) -> anyhow::Result<&NetNs> {
        Ok(&self.lab.host("callers").context("the cluster has no callers")?.ns)
    }

    /// Where callers from outside are.
    ///
    /// # Errors
    /// Never, as long as the topology has it.
    pub fn outside(&self) -> anyhow::Result<&NetNs> {
        Ok(&self.lab.host("outside").context("the cluster has no outside")?.ns)
    }

    /// Packets that the machine let go so far, on the way to callers, node and endpoints.
    pub fn drops(&self) -> Drops {
        let hosts = ["pods", "callers", "outside"];
        Drops::of(hosts.iter().filter_map(|name| self.lab.host(name).map(|host| &host.ns)).chain([self.node()]))
    }

    /// The addresses of the services for connections: at the start, in the middle and at the end of the table.
    pub fn streams(&self) -> Vec<SocketAddr> {
        self.of_role(Role::Stream)
    }

    /// The address of the last service.
    pub fn last(&self) -> SocketAddr {
        at(self.cluster.services.saturating_sub(1))
    }

    /// The address of the UDP service.
    pub fn datagrams(&self) -> Vec<SocketAddr> {
        self.of_role(Role::Datagrams)
    }

    /// The address of the service with affinity.
    pub fn affinity(&self) -> Vec<SocketAddr> {
        self.of_role(Role::Affinity)
    }

    /// The address of a caller with affinity.
    pub fn caller(number: u32) -> SocketAddr {
        // Not the first ones, which look like networks.
        let address = u32::from(CALLERS.network()) + 256 + number;
        (Ipv4Addr::from(address), 0).into()
    }

    /// The proxy's arguments that go with this cluster.
    pub fn arguments(&self) -> Vec<String> {
        let manifests = self.manifests().display().to_string();
        let range = self.cluster.service_range().to_string();
        let words = ["--hostname-override", "bench", "--cluster-cidr", "10.0.0.0/8", "--service-cidr", &range];
        ["--manifests", &manifests].iter().chain(&words).map(|word| (*word).to_owned()).collect()
    }

    fn of_role(&self, role: Role) -> Vec<SocketAddr> {
        self.used().filter(|(_, own)| *own == role).map(|(index, _)| at(index)).collect()
    }

    /// The services that traffic uses.
    fn used(&self) -> impl Iterator<Item = (u32, Role)> + use<> {
        let last = self.cluster.services.saturating_sub(1);
        [
            (0, Role::Stream),
            (last / 2, Role::Stream),
            (last, Role::Stream),
            (last.saturating_sub(1), Role::Datagrams),
            (last.saturating_sub(2), Role::Affinity),
        ]
        .into_iter()
    }

    fn objects(&self) -> Value {
        let roles: std::collections::HashMap<u32, Role> = self.used().collect();
        let role = |index| roles.get(&index).copied().unwrap_or(Role::Stream);
        let items: Vec<Value> = (0..self.cluster.services).flat_map(|index| self.service(index, role(index))).collect();
        json!({"apiVersion": "v1", "kind": "List", "items": items})
    }

    fn service(&self, index: u32, role: Role) -> [Value; 2] {
        let (name, address) = (format!("service-{index:06}"), synthetic::cluster_ip(index).to_string());
        let protocol = if role == Role::Datagrams { "UDP" } else { "TCP" };
        let affinity = if role == Role::Affinity { "ClientIP" } else { "None" };
        let endpoints: Vec<Value> = (0..self.cluster.endpoints)
            .map(|endpoint| {
                let address = self.cluster.endpoint(index, endpoint).to_string();
                json!({"addresses": [address], "conditions": {"ready": true}, "nodeName": "bench"})
            })
            .collect();
        [
            json!({
                "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "bench"},
                "spec": {
                    "type": "ClusterIP", "clusterIP": address, "clusterIPs": [address], "sessionAffinity": affinity,
                    "ports": [{"name": "talk", "protocol": protocol, "port": PORT, "targetPort": TARGET}],
                },
            }),
            json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
                "metadata": {
                    "name": format!("{name}-slice"), "namespace": "bench",
                    "labels": {"kubernetes.io/service-name": name},
                },
                "ports": [{"name": "talk", "protocol": protocol, "port": TARGET}],
                "endpoints": endpoints,
            }),
        ]
    }
}

fn at(index: u32) -> SocketAddr {
    (synthetic::cluster_ip(index), PORT).into()
}

impl Drop for Field {
    fn drop(&mut self) {
        // What outlives the proxy is named after the namespace, whose number may be used again.
        let forgotten = self.node().run(|| {
            let Ok(namespace) = fs::metadata("/proc/thread-self/ns/net") else { return };
            for name in ["sysctl", "mode", "lock"] {
                let _ = fs::remove_file(format!("/run/kube-ipvs/{name}-{}", namespace.ino()));
            }
            // Kernels before 2026 keep the virtual servers of all namespaces in one table for as long as the namespace
            // takes to go.
            if let Ok(mut client) = ipvs::Client::connect() {
                let _ = client.execute(&ipvs::Command::Flush);
            }
        });
        let removed = fs::remove_dir_all(&self.folder);
        let problems = [forgotten.err().map(|error| error.to_string()), removed.err().map(|error| error.to_string())];
        for problem in problems.into_iter().flatten() {
            eprintln!("bench: cleaning up: {problem}");
        }
    }
}
