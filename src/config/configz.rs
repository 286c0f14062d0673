//! The configuration as kube-proxy's `/configz` shows it: its internal object, in which fields have Go's names and what
//! belongs to one mode in the file is everybody's.

use super::kubeproxy::KubeProxyConfiguration;
use serde_json::{Value, json};

/// The group, under which upstream registers the object.
const GROUP: &str = "kubeproxy.config.k8s.io";

/// The page.
#[must_use]
pub fn configz(config: &KubeProxyConfiguration) -> String {
    json!({ GROUP: internal(config) }).to_string()
}

#[expect(clippy::too_many_lines, reason = "a list: a line for each field")]
fn internal(config: &KubeProxyConfiguration) -> Value {
    let (iptables, ipvs, nftables) = (&config.iptables, &config.ipvs, &config.nftables);
    // As `Convert_v1alpha1_KubeProxyConfiguration_To_config_KubeProxyConfiguration` chooses by mode.
    let (masquerade_all, sync, min) = match &*config.mode {
        "ipvs" => (iptables.masquerade_all, ipvs.sync_period, ipvs.min_sync_period),
        "nftables" => (nftables.masquerade_all, nftables.sync_period, nftables.min_sync_period),
        _ => (iptables.masquerade_all, iptables.sync_period, iptables.min_sync_period),
    };
    let conntrack = &config.conntrack;
    let client = &config.client_connection;
    let winkernel = &config.winkernel;
    let cidrs: Vec<&str> = config.cluster_cidr.split(',').filter(|cidr| !cidr.is_empty()).collect();
    json!({
        "Linux": {
            "Conntrack": {
                "MaxPerCore": conntrack.max_per_core,
                "Min": conntrack.min,
                "TCPEstablishedTimeout": conntrack.tcp_established_timeout,
                "TCPCloseWaitTimeout": conntrack.tcp_close_wait_timeout,
                "TCPBeLiberal": conntrack.tcp_be_liberal,
                "UDPTimeout": conntrack.udp_timeout,
                "UDPStreamTimeout": conntrack.udp_stream_timeout,
            },
            "MasqueradeAll": masquerade_all,
            "OOMScoreAdj": config.oom_score_adj,
        },
        "Windows": { "RunAsService": config.windows_run_as_service },
        "FeatureGates": config.feature_gates,
        "ClientConnection": {
            "Kubeconfig": client.kubeconfig,
            "AcceptContentTypes": client.accept_content_types,
            "ContentType": client.content_type,
            "QPS": client.qps,
            "Burst": client.burst,
        },
        "Logging": config.logging,
        "HostnameOverride": config.hostname_override,
        "BindAddress": config.bind_address,
        "HealthzBindAddress": config.healthz_bind_address,
        "MetricsBindAddress": config.metrics_bind_address,
        "BindAddressHardFail": config.bind_address_hard_fail,
        "EnableProfiling": config.enable_profiling,
        "ShowHiddenMetricsForVersion": config.show_hidden_metrics_for_version,
        "Mode": config.mode,
        "IPTables": {
            "MasqueradeBit": iptables.masquerade_bit,
            "LocalhostNodePorts": iptables.localhost_node_ports,
        },
        "IPVS": {
            "Scheduler": ipvs.scheduler,
            "ExcludeCIDRs": ipvs.exclude_cidrs,
            "StrictARP": ipvs.strict_arp,
            "TCPTimeout": ipvs.tcp_timeout,
            "TCPFinTimeout": ipvs.tcp_fin_timeout,
            "UDPTimeout": ipvs.udp_timeout,
        },
        "Winkernel": {
            "NetworkName": winkernel.network_name,
            "SourceVip": winkernel.source_vip,
            "EnableDSR": winkernel.enable_dsr,
            "RootHnsEndpointName": winkernel.root_hns_endpoint_name,
            "ForwardHealthCheckVip": winkernel.forward_health_check_vip,
        },
        "NFTables": { "MasqueradeBit": nftables.masquerade_bit },
        "DetectLocalMode": config.detect_local_mode,
        "DetectLocal": {
            "BridgeInterface": config.detect_local.bridge_interface,
            "ClusterCIDRs": cidrs,
            "InterfaceNamePrefix": config.detect_local.interface_name_prefix,
        },
        "NodePortAddresses": config.node_port_addresses,
        "SyncPeriod": sync,
        "MinSyncPeriod": min,
        "ConfigSyncPeriod": config.config_sync_period,
    })
}
