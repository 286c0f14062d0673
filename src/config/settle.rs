//! From validated configuration objects to what the program goes by.

use super::duration::GoDuration;
use super::extension::KubeIpvsConfiguration;
use super::field::FieldError;
use super::kubeproxy::{ConntrackSection, KubeProxyConfiguration};
use super::{Config, Period, ProxyMode, Source, TrafficLevel, TrafficMetrics, validation};
use crate::backend::ipvs::{Options, VipBinding};
use crate::desired::{ConnectionTimeouts, DetectLocal, NodePortSelector, ServiceChains, Settings};
use crate::kernel::sysctl::ConntrackSettings;
use crate::model::{parse_address, parse_network};
use crate::source::cluster::Access;
use crate::source::manifests::Input;
use ipnet::IpNet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Makes the configuration.
///
/// # Errors
/// What the validation could not see.
pub fn settle(
    kube_proxy: &KubeProxyConfiguration,
    extension: &KubeIpvsConfiguration,
    master: Option<&str>,
) -> Result<Config, FieldError> {
    let settings = settings(kube_proxy, extension)?;
    let binding = match extension.vip_binding.as_deref() {
        Some("address") => VipBinding::Address,
        _ => VipBinding::Route,
    };
    let period = |sync: GoDuration, min: GoDuration| Period { sync: sync.to_std(), min: min.to_std() };
    let (iptables, ipvs, nftables) = (&kube_proxy.iptables, &kube_proxy.ipvs, &kube_proxy.nftables);
    let as_nftables = (kube_proxy.mode == "nftables").then(|| period(nftables.sync_period, nftables.min_sync_period));
    Ok(Config {
        mode: match &*kube_proxy.mode {
            "ipvs" => ProxyMode::Ipvs,
            "iptables" => ProxyMode::Iptables,
            _ => ProxyMode::Auto,
        },
        ipvs: Options { binding, drain_timeout: settings.drain_timeout, strict_arp: kube_proxy.ipvs.strict_arp },
        settings: Arc::new(settings),
        iptables_period: as_nftables.unwrap_or_else(|| period(iptables.sync_period, iptables.min_sync_period)),
        ipvs_period: as_nftables.unwrap_or_else(|| period(ipvs.sync_period, ipvs.min_sync_period)),
        source: source(kube_proxy, extension, master),
        healthz_bind_address: socket_address(&kube_proxy.healthz_bind_address),
        metrics_bind_address: socket_address(&kube_proxy.metrics_bind_address),
        bind_address_hard_fail: kube_proxy.bind_address_hard_fail,
        enable_profiling: kube_proxy.enable_profiling,
        traffic: traffic(extension),
        feature_gates: kube_proxy.feature_gates.clone(),
        logging: kube_proxy.logging.clone(),
        oom_score_adj: kube_proxy.oom_score_adj,
        conntrack: conntrack(&kube_proxy.conntrack),
    })
}

fn traffic(extension: &KubeIpvsConfiguration) -> TrafficMetrics {
    let defaults = TrafficMetrics::default();
    let limit = extension.traffic_metrics_limit.and_then(|limit| usize::try_from(limit).ok());
    TrafficMetrics {
        level: match extension.traffic_metrics.as_deref() {
            Some("off") => TrafficLevel::Off,
            Some("services") => TrafficLevel::Services,
            Some("endpoints") => TrafficLevel::Endpoints,
            _ => defaults.level,
        },
        limit: limit.unwrap_or(defaults.limit),
    }
}

fn settings(kube_proxy: &KubeProxyConfiguration, extension: &KubeIpvsConfiguration) -> Result<Settings, FieldError> {
    let (bit, masquerade_all) = match &*kube_proxy.mode {
        "nftables" => (kube_proxy.nftables.masquerade_bit, kube_proxy.nftables.masquerade_all),
        _ => (kube_proxy.iptables.masquerade_bit, kube_proxy.iptables.masquerade_all),
    };
    let bit = bit.and_then(|bit| u32::try_from(bit).ok()).unwrap_or(14);
    let defaults = Settings::default();
    let scheduler = Some(&*kube_proxy.ipvs.scheduler).filter(|name| !name.is_empty());
    Ok(Settings {
        node_name: node_name(&kube_proxy.hostname_override)?.into(),
        proxy_name: extension.service_proxy_name.as_deref().filter(|name| !name.is_empty()).map(Arc::from),
        detect_local: detect_local(kube_proxy)?,
        masquerade_all,
        masquerade_mark: 1u32.checked_shl(bit).unwrap_or(defaults.masquerade_mark),
        node_port_addresses: match kube_proxy.node_port_addresses.as_slice() {
            [] => NodePortSelector::All,
            [only] if only == "primary" => NodePortSelector::Primary,
            all => NodePortSelector::Cidrs(networks("KubeProxyConfiguration.NodePortAddresses", all)?),
        },
        node_ip: parse_address(&kube_proxy.bind_address).ok().filter(|ip: &IpAddr| !ip.is_unspecified()),
        localhost_node_ports: kube_proxy.iptables.localhost_node_ports.unwrap_or(defaults.localhost_node_ports),
        service_ranges: networks(
            "KubeIPVSConfiguration.serviceCIDRs",
            extension.service_cidrs.as_deref().unwrap_or_default(),
        )?,
        scheduler: scheduler.map_or(defaults.scheduler, Arc::from),
        drain_timeout: extension.drain_timeout.map_or(defaults.drain_timeout, GoDuration::to_std),
        service_chains: match extension.service_chains.as_deref() {
            Some("address") => ServiceChains::ByAddress,
            _ => ServiceChains::Plain,
        },
        drop_invalid: !kube_proxy.conntrack.tcp_be_liberal,
        excluded: networks(
            "KubeProxyConfiguration.KubeProxyIPVSConfiguration.ExcludeCidrs",
            // Upstream looks at them in IPVS mode only, so that nonsense may stand there in another one.
            if kube_proxy.mode == "iptables" { &[] } else { &kube_proxy.ipvs.exclude_cidrs },
        )?,
        timeouts: ConnectionTimeouts {
            tcp: seconds(kube_proxy.ipvs.tcp_timeout),
            tcp_fin: seconds(kube_proxy.ipvs.tcp_fin_timeout),
            udp: seconds(kube_proxy.ipvs.udp_timeout),
        },
    })
}

/// Whole seconds, as the kernel counts; what is less than one but not nothing is one.
fn seconds(duration: GoDuration) -> u32 {
    let duration = duration.to_std();
    match u32::try_from(duration.as_secs()) {
        Ok(0) if !duration.is_zero() => 1,
        Ok(seconds) => seconds,
        Err(_) => u32::MAX,
    }
}

fn conntrack(section: &ConntrackSection) -> ConntrackSettings {
    let number = |value: Option<i32>| value.and_then(|value| u64::try_from(value).ok()).unwrap_or(0);
    let timeout = |duration: GoDuration| Duration::from_secs(seconds(duration).into());
    ConntrackSettings {
        max_per_core: number(section.max_per_core),
        min: number(section.min),
        tcp_established_timeout: timeout(section.tcp_established_timeout.unwrap_or_default()),
        tcp_close_wait_timeout: timeout(section.tcp_close_wait_timeout.unwrap_or_default()),
        tcp_be_liberal: section.tcp_be_liberal,
        udp_timeout: timeout(section.udp_timeout),
        udp_stream_timeout: timeout(section.udp_stream_timeout),
    }
}

/// Manifests, where there are any, come before an API server. An empty value is none, as kube-proxy has it.
fn source(kube_proxy: &KubeProxyConfiguration, extension: &KubeIpvsConfiguration, master: Option<&str>) -> Source {
    let input = |path: &String| if path == "-" { Input::Stdin } else { Input::Path(path.into()) };
    let inputs: Vec<Input> = extension.manifests.iter().flatten().map(input).collect();
    if !inputs.is_empty() {
        return Source::Manifests(inputs);
    }
    let text = |text: &str| Some(text).filter(|text| !text.is_empty()).map(str::to_owned);
    Source::Cluster(Access {
        kubeconfig: text(&kube_proxy.client_connection.kubeconfig).map(PathBuf::from),
        master: master.and_then(text),
    })
}

/// `None`: nothing is served.
fn socket_address(text: &str) -> Option<SocketAddr> {
    let (host, port) = validation::split_host_port(text)?;
    Some(SocketAddr::new(parse_address(host).ok()?, port.parse().ok()?))
}

fn node_name(given: &str) -> Result<String, FieldError> {
    let path = "KubeProxyConfiguration.HostnameOverride";
    let name = if given.is_empty() {
        nix::unistd::gethostname()
            .map_err(|error| FieldError::required(path, format!("the host has no name: {error}")))?
            .to_string_lossy()
            .into_owned()
    } else {
        given.to_owned()
    };
    let name = name.trim().to_lowercase();
    if name.is_empty() { Err(FieldError::invalid(path, given, "must not be empty")) } else { Ok(name) }
}

fn detect_local(config: &KubeProxyConfiguration) -> Result<DetectLocal, FieldError> {
    Ok(match &*config.detect_local_mode {
        "NodeCIDR" => DetectLocal::NodeCidrs,
        "BridgeInterface" => DetectLocal::BridgeInterface(config.detect_local.bridge_interface.as_str().into()),
        "InterfaceNamePrefix" => {
            DetectLocal::InterfacePrefix(config.detect_local.interface_name_prefix.as_str().into())
        }
        _ => {
            let cidrs: Vec<String> =
                config.cluster_cidr.split(',').filter(|cidr| !cidr.is_empty()).map(str::to_owned).collect();
            match networks("KubeProxyConfiguration.DetectLocalConfiguration.ClusterCIDRs", &cidrs)? {
                nets if nets.is_empty() => DetectLocal::None,
                nets => DetectLocal::Cidrs(nets),
            }
        }
    })
}

fn networks(path: &str, texts: &[String]) -> Result<Vec<IpNet>, FieldError> {
    let network = |(index, text): (usize, &String)| {
        parse_network(text)
            .map_err(|_| FieldError::invalid(format!("{path}[{index}]"), text.as_str(), "must be a valid CIDR"))
    };
    texts.iter().enumerate().map(network).collect()
}
