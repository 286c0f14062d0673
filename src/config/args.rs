//! The flags of everything that works on Services. Names and defaults are kube-proxy's where it has the flag.

use super::duration;
use clap::{ArgAction, Args, ValueEnum};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// How the kernel is programmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum ProxyMode {
    /// IPVS where it works, otherwise iptables
    #[default]
    Auto,
    /// IPVS, or an error where it does not work
    Ipvs,
    /// iptables
    Iptables,
}

/// How local traffic is told from traffic of strangers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DetectLocalMode {
    /// By the pod ranges of --cluster-cidr
    #[value(name = "ClusterCIDR", alias = "clustercidr")]
    ClusterCidr,
    /// By the pod ranges of this node's Node object
    #[value(name = "NodeCIDR", alias = "nodecidr")]
    NodeCidr,
    /// By the bridge that pods hang on
    #[value(name = "BridgeInterface", alias = "bridgeinterface")]
    BridgeInterface,
    /// By the beginning of the names of the pods' interfaces
    #[value(name = "InterfaceNamePrefix", alias = "interfacenameprefix")]
    InterfaceNamePrefix,
}

/// How service addresses become local to the node in IPVS mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum VipBindingArg {
    /// Local routes on kube-ipvs0: one for each --service-cidr, one for each other address
    Route,
    /// An address each on kube-ipvs0, as kube-proxy does; slow beyond a few thousand
    Address,
}

/// The way to the API server.
#[derive(Debug, Clone, Default, Args)]
pub struct ClusterArgs {
    /// The file with address and credentials of the API server; KUBECONFIG is not read [default: as a pod]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<OsString>,
    /// The address of the API server, instead of the one in --kubeconfig
    #[arg(long, value_name = "URL")]
    pub master: Option<String>,
    /// Accepted for kube-proxy's sake: there are four watches and nothing to limit
    #[arg(long, value_name = "NUMBER")]
    pub kube_api_qps: Option<f32>,
    /// Accepted for kube-proxy's sake, as --kube-api-qps
    #[arg(long, value_name = "NUMBER")]
    pub kube_api_burst: Option<i32>,
}

/// What is proxied, and how.
#[derive(Debug, Clone, Args)]
pub struct ProxyArgs {
    /// Manifest files or folders with Services and EndpointSlices, YAML or JSON, instead of an API server; "-" is standard input
    #[arg(long, num_args = 1.., value_name = "PATH", conflicts_with_all = ["kubeconfig", "master"])]
    pub manifests: Vec<PathBuf>,
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// How the kernel is programmed
    #[arg(long, value_enum, default_value_t)]
    pub proxy_mode: ProxyMode,
    /// The name of this node in the cluster [default: the host name]
    #[arg(long, value_name = "NAME")]
    pub hostname_override: Option<String>,
    /// How traffic of pods is told from traffic of strangers, which is masqueraded
    #[arg(long, value_enum, default_value = "ClusterCIDR", value_name = "MODE", ignore_case = true)]
    pub detect_local_mode: DetectLocalMode,
    /// The cluster's pod ranges, one or more for each family. Without it strangers cannot be told
    #[arg(long, value_delimiter = ',', value_name = "CIDR,…")]
    pub cluster_cidr: Vec<String>,
    /// The bridge of --detect-local-mode BridgeInterface
    #[arg(long, value_name = "NAME")]
    pub pod_bridge_interface: Option<String>,
    /// The prefix of --detect-local-mode InterfaceNamePrefix
    #[arg(long, value_name = "PREFIX")]
    pub pod_interface_name_prefix: Option<String>,
    /// The cluster's service ranges: in IPVS mode one route then serves a whole range [default: what the API server announces]
    #[arg(long, value_delimiter = ',', value_name = "CIDR,…")]
    pub service_cidr: Vec<String>,
    /// Masquerade all traffic that is sent to cluster IPs
    #[arg(long, action = ArgAction::Set, default_value_t = false, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub masquerade_all: bool,
    /// The bit of the packet mark that asks for masquerading
    #[arg(long, default_value_t = 14, value_name = "BIT")]
    pub iptables_masquerade_bit: u32,
    /// Serve node ports on 127.0.0.1 as well
    #[arg(long, action = ArgAction::Set, default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub iptables_localhost_nodeports: bool,
    /// Where node ports are served: networks of node addresses, or "primary" [default: all addresses]
    #[arg(long, value_delimiter = ',', value_name = "CIDR,…")]
    pub nodeport_addresses: Vec<String>,
    /// IPVS scheduler: rr, wrr, lc, wlc, lblc, lblcr, dh, sh, sed, nq, fo, ovf, mh, twos
    #[arg(long, default_value = "rr", value_name = "NAME")]
    pub ipvs_scheduler: String,
    /// Answer ARP only for addresses of the interface asked
    #[arg(long, action = ArgAction::Set, default_value_t = false, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub ipvs_strict_arp: bool,
    /// How service addresses become local in IPVS mode
    #[arg(long, value_enum, default_value = "route")]
    pub vip_binding: VipBindingArg,
    /// How long open connections to an endpoint that left may go on in IPVS mode
    #[arg(long, default_value = "15m", value_parser = duration::parse, value_name = "DURATION")]
    pub drain_timeout: Duration,
    /// How often the kernel is compared with what is wanted although nothing changed
    #[arg(long, default_value = "30s", value_parser = duration::parse, value_name = "DURATION")]
    pub sync_period: Duration,
    /// Serve only Services labelled with this service-proxy-name [default: those without the label]
    #[arg(long, value_name = "NAME")]
    pub service_proxy_name: Option<String>,
}
