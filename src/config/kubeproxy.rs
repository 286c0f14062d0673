//! `KubeProxyConfiguration`, kubeproxy.config.k8s.io/v1alpha1: every field of kube-proxy 1.36, with the names and types
//! of k8s.io/kube-proxy/config/v1alpha1/types.go. The default is the empty object; `defaults.rs` fills it in.

use super::duration::GoDuration;
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;

/// The group and version of the file.
pub const API_VERSION: &str = "kubeproxy.config.k8s.io/v1alpha1";
/// The kind of the file.
pub const KIND: &str = "KubeProxyConfiguration";

/// Everything that kube-proxy is configured with.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct KubeProxyConfiguration {
    /// Features that are switched on and off.
    pub feature_gates: BTreeMap<String, bool>,
    /// The way to the API server.
    pub client_connection: ClientConnection,
    /// How is logged.
    pub logging: Logging,
    /// The name of this node in the cluster.
    pub hostname_override: String,
    /// The node's primary address; nothing is bound to it.
    pub bind_address: String,
    /// Where health checks are answered.
    pub healthz_bind_address: String,
    /// Where metrics are served.
    pub metrics_bind_address: String,
    /// Whether a port that cannot be bound ends the program.
    pub bind_address_hard_fail: bool,
    /// Whether profiles are served.
    pub enable_profiling: bool,
    /// The release whose hidden metrics are shown.
    pub show_hidden_metrics_for_version: String,
    /// The mode.
    pub mode: String,
    /// What iptables mode needs.
    pub iptables: IptablesSection,
    /// What IPVS mode needs.
    pub ipvs: IpvsSection,
    /// What nftables mode needs.
    pub nftables: NftablesSection,
    /// What Windows needs.
    pub winkernel: WinkernelSection,
    /// How local traffic is told.
    pub detect_local_mode: String,
    /// By what it is told.
    pub detect_local: DetectLocalSection,
    /// The pod ranges, one or two with a comma between.
    #[serde(rename = "clusterCIDR")]
    pub cluster_cidr: String,
    /// Where node ports are served.
    pub node_port_addresses: Vec<String>,
    /// How willingly the kernel kills us when memory is short.
    pub oom_score_adj: Option<i32>,
    /// Connection tracking.
    pub conntrack: ConntrackSection,
    /// How often everything is read from the API server again.
    pub config_sync_period: GoDuration,
    /// Of the userspace mode, which is gone.
    pub port_range: String,
    /// Windows.
    pub windows_run_as_service: bool,
}

/// The way to the API server.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ClientConnection {
    /// The file with address and credentials; empty: as a pod.
    pub kubeconfig: String,
    /// What is accepted, if not the content type.
    pub accept_content_types: String,
    /// How objects travel.
    pub content_type: String,
    /// Requests a second.
    pub qps: f32,
    /// Requests at once.
    pub burst: i32,
}

/// iptables mode, and what IPVS mode shares with it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct IptablesSection {
    /// The bit of the mark that asks for masquerading.
    pub masquerade_bit: Option<i32>,
    /// Masquerade everything that is sent to cluster IPs.
    pub masquerade_all: bool,
    /// Node ports on 127.0.0.1.
    pub localhost_node_ports: Option<bool>,
    /// How often the kernel is read again.
    pub sync_period: GoDuration,
    /// The least time between two syncs.
    pub min_sync_period: GoDuration,
}

/// IPVS mode.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct IpvsSection {
    /// How often the kernel is read again.
    pub sync_period: GoDuration,
    /// The least time between two syncs.
    pub min_sync_period: GoDuration,
    /// The scheduler.
    pub scheduler: String,
    /// Where virtual servers of others are left alone.
    #[serde(rename = "excludeCIDRs")]
    pub exclude_cidrs: Vec<String>,
    /// Answer ARP only for addresses of the interface asked.
    #[serde(rename = "strictARP")]
    pub strict_arp: bool,
    /// Idle TCP connections.
    pub tcp_timeout: GoDuration,
    /// TCP connections after a FIN.
    pub tcp_fin_timeout: GoDuration,
    /// Idle UDP flows.
    pub udp_timeout: GoDuration,
}

/// nftables mode.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct NftablesSection {
    /// As in iptables mode.
    pub masquerade_bit: Option<i32>,
    /// As in iptables mode.
    pub masquerade_all: bool,
    /// As in iptables mode.
    pub sync_period: GoDuration,
    /// As in iptables mode.
    pub min_sync_period: GoDuration,
}

/// Windows.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct WinkernelSection {
    pub network_name: String,
    pub source_vip: String,
    #[serde(rename = "enableDSR")]
    pub enable_dsr: bool,
    pub root_hns_endpoint_name: String,
    pub forward_health_check_vip: bool,
}

/// By what local traffic is told.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct DetectLocalSection {
    /// The bridge of mode BridgeInterface.
    pub bridge_interface: String,
    /// The prefix of mode InterfaceNamePrefix.
    pub interface_name_prefix: String,
}

/// Connection tracking.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ConntrackSection {
    /// Entries for each processor; 0 leaves the limit alone.
    pub max_per_core: Option<i32>,
    /// Entries at least.
    pub min: Option<i32>,
    /// Idle established TCP connections.
    pub tcp_established_timeout: Option<GoDuration>,
    /// TCP connections in CLOSE_WAIT.
    pub tcp_close_wait_timeout: Option<GoDuration>,
    /// Packets outside of the window are not invalid.
    pub tcp_be_liberal: bool,
    /// UDP flows without an answer.
    pub udp_timeout: GoDuration,
    /// UDP flows with answers.
    pub udp_stream_timeout: GoDuration,
}

/// How is logged: `LoggingConfiguration` of k8s.io/component-base/logs/api/v1.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Logging {
    /// `text` or `json`.
    pub format: String,
    /// How long lines may be kept back.
    #[serde(deserialize_with = "text_or_nanoseconds")]
    pub flush_frequency: GoDuration,
    /// klog's level.
    pub verbosity: u32,
    /// Levels of single source files.
    pub vmodule: Vec<VmoduleItem>,
    /// Of each format.
    pub options: LoggingOptions,
}

/// The level of source files whose names fit.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct VmoduleItem {
    /// File name without `.rs`; `*` and `?` stand for others.
    pub file_pattern: String,
    /// klog's level.
    pub verbosity: u32,
}

/// Of each format.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct LoggingOptions {
    /// Of text.
    pub text: FormatOptions,
    /// Of JSON.
    pub json: FormatOptions,
}

/// Options of a format.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct FormatOptions {
    /// Errors to stderr, all else to stdout.
    pub split_stream: bool,
    /// How much may be kept back.
    #[serde(deserialize_with = "text_or_number")]
    pub info_buffer_size: String,
}

/// `TimeOrMetaDuration`: text, or a number of nanoseconds.
fn text_or_nanoseconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<GoDuration, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Number(i64),
        Text(String),
    }
    match Either::deserialize(deserializer)? {
        Either::Number(nanoseconds) => Ok(GoDuration::from_nanos(nanoseconds)),
        Either::Text(text) => text.parse().map_err(serde::de::Error::custom),
    }
}

/// `resource.QuantityValue`: text, or a number.
fn text_or_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Number(i64),
        Text(String),
    }
    Ok(match Either::deserialize(deserializer)? {
        Either::Number(number) => number.to_string(),
        Either::Text(text) => text,
    })
}
