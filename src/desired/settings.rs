//! The validated settings that shape what is desired. Made by `config`, used by nothing that touches the kernel.

use ipnet::IpNet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// How traffic of this node's pods is told from traffic of strangers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DetectLocal {
    /// It cannot be told.
    None,
    /// By source address: this node's pod ranges, as its Node object tells them.
    NodeCidrs,
    /// By source address: the cluster's pod ranges, or this node's.
    Cidrs(Vec<IpNet>),
    /// By the bridge that pods hang on.
    BridgeInterface(Arc<str>),
    /// By the prefix of the pods' interface names.
    InterfacePrefix(Arc<str>),
}

/// On which of the node's addresses node ports are served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodePortSelector {
    /// On all of them.
    All,
    /// On those within these networks.
    Cidrs(Vec<IpNet>),
    /// On the primary addresses: the one per family that the Node object, or the default route, names.
    Primary,
}

/// How long IPVS keeps connections on which nothing happens, in seconds; 0 leaves it as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ConnectionTimeouts {
    /// Established TCP connections.
    pub tcp: u32,
    /// TCP connections after a FIN.
    pub tcp_fin: u32,
    /// UDP flows.
    pub udp: u32,
}

/// How iptables mode finds a Service by its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ServiceChains {
    /// As kube-proxy: one list, `KUBE-SERVICES`. The first packet of every connection goes through it, whoever it is for.
    #[default]
    Plain,
    /// By the last eight bits of the address, a list for each value.
    ByAddress,
}

/// Settings of the service semantics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The name of this node in the cluster.
    pub node_name: Arc<str>,
    /// Only Services with this `service-proxy-name` label are ours; `None` = only those without the label.
    pub proxy_name: Option<Arc<str>>,
    /// How local traffic is recognised.
    pub detect_local: DetectLocal,
    /// Masquerade everything that is sent to a cluster IP.
    pub masquerade_all: bool,
    /// The packet mark that asks for masquerading: a single bit (0x4000 upstream).
    pub masquerade_mark: u32,
    /// Where node ports are served.
    pub node_port_addresses: NodePortSelector,
    /// What the user says is the node's primary address; comes before what its Node object says.
    pub node_ip: Option<IpAddr>,
    /// Serve node ports on 127.0.0.1 as well (IPv4 only).
    pub localhost_node_ports: bool,
    /// The cluster's service ranges, where known: one route serves a whole range.
    pub service_ranges: Vec<IpNet>,
    /// IPVS scheduler of Services that do not choose one.
    pub scheduler: Arc<str>,
    /// How long connections to an endpoint that left may go on.
    pub drain_timeout: Duration,
    /// Drop what connection tracking calls invalid.
    pub drop_invalid: bool,
    /// Where virtual servers that we did not make are left alone, whatever a Service asks for.
    pub excluded: Vec<IpNet>,
    /// IPVS's timeouts.
    pub timeouts: ConnectionTimeouts,
    /// How iptables mode finds a Service by its address.
    pub service_chains: ServiceChains,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            node_name: "".into(),
            proxy_name: None,
            detect_local: DetectLocal::None,
            masquerade_all: false,
            masquerade_mark: 0x4000,
            node_port_addresses: NodePortSelector::All,
            node_ip: None,
            localhost_node_ports: true,
            service_ranges: Vec::new(),
            scheduler: "rr".into(),
            // Upstream's rsGracefulDeletePeriod (pkg/proxy/ipvs/graceful_termination.go).
            drain_timeout: Duration::from_secs(15 * 60),
            drop_invalid: true,
            excluded: Vec::new(),
            timeouts: ConnectionTimeouts::default(),
            service_chains: ServiceChains::default(),
        }
    }
}
