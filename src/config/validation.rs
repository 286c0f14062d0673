//! What kube-proxy's configuration must be, with the paths and words of pkg/proxy/apis/config/validation/validation.go
//! of kube-proxy 1.36. Paths name upstream's internal types (`KubeProxyLinuxConfiguration` and so on), as its messages do.
//!
//! More is accepted than upstream in three places: mode `auto`, feature gates of any name, and an empty address for
//! metrics, which disables them, as upstream's flag promises. One thing less: a scheduler that IPVS does not have.

use super::duration::GoDuration;
use super::field::FieldError;
use super::kubeproxy::{ConntrackSection, IpvsSection, KubeProxyConfiguration, Logging};
use crate::model::{SCHEDULERS, parse_address, parse_network};
use serde_json::Value;

const ROOT: &str = "KubeProxyConfiguration";
const MAX_INT32: u32 = i32::MAX.unsigned_abs();
const NOT_NEGATIVE: &str = "must be greater than or equal to 0";
const POSITIVE: &str = "must be greater than 0";
const MASQUERADE_BIT: &str = "must be within the range [0, 31]";
const CIDR: &str = "must be a valid CIDR";
const CIDR_BLOCK: &str = "must be a valid CIDR block (e.g. 10.100.0.0/16 or fde4:8dba:82e1::/48)";
const ONE_OR_PAIR: &str =
    "must be a either a single CIDR or dual-stack pair of CIDRs (e.g. [10.100.0.0/16, fde4:8dba:82e1::/48]";
const MODES: &str = "must be iptables, ipvs, nftables or blank (blank means the best-available proxy [currently \
                     iptables]); auto takes ipvs where it works";

/// Modes that local traffic can be told by.
pub const DETECT_LOCAL_MODES: [&str; 5] = ["ClusterCIDR", "NodeCIDR", "BridgeInterface", "InterfaceNamePrefix", ""];

/// Everything that is wrong; defaults have been filled in.
#[must_use]
pub fn validate(config: &KubeProxyConfiguration) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let path = |name: &str| format!("{ROOT}.{name}");
    masquerade_bit(config.iptables.masquerade_bit, &path("KubeProxyIPTablesConfiguration"), &mut errors);
    match &*config.mode {
        "ipvs" | "auto" => ipvs(&config.ipvs, &path("KubeProxyIPVSConfiguration"), &mut errors),
        "nftables" => {
            masquerade_bit(config.nftables.masquerade_bit, &path("KubeProxyNFTablesConfiguration"), &mut errors);
        }
        _ => {}
    }
    conntrack(&config.conntrack, &path("KubeProxyLinuxConfiguration.KubeProxyConntrackConfiguration"), &mut errors);
    if let Some(score) = config.oom_score_adj.filter(|score| !(-1000..=1000).contains(score)) {
        let path = path("KubeProxyLinuxConfiguration.OOMScoreAdj");
        errors.push(FieldError::invalid(path, score, "must be within the range [-1000, 1000]"));
    }
    if !["", "auto", "ipvs", "iptables", "nftables"].contains(&&*config.mode) {
        errors.push(FieldError::invalid(path("Mode.ProxyMode"), &*config.mode, MODES));
    }
    if config.client_connection.burst < 0 {
        errors.push(FieldError::invalid(path("ClientConnection.Burst"), config.client_connection.burst, NOT_NEGATIVE));
    }
    positive(config.config_sync_period, path("ConfigSyncPeriod"), &mut errors);
    periods(config, &mut errors);
    if parse_address(&config.bind_address).is_err() {
        let problem = "not a valid textual representation of an IP address";
        errors.push(FieldError::invalid(path("BindAddress"), &*config.bind_address, problem));
    }
    for (address, name) in
        [(&config.healthz_bind_address, "HealthzBindAddress"), (&config.metrics_bind_address, "MetricsBindAddress")]
    {
        if !address.is_empty() {
            host_port(address, &path(name), &mut errors);
        }
    }
    if !is_port_range(&config.port_range) {
        let problem = "must be a valid port range (e.g. 300-2000)";
        errors.push(FieldError::invalid(path("PortRange"), &*config.port_range, problem));
    }
    node_port_addresses(&config.node_port_addresses, &path("NodePortAddresses"), &mut errors);
    hidden_metrics(&config.show_hidden_metrics_for_version, path("ShowHiddenMetricsForVersion"), &mut errors);
    detect_local(config, &mut errors);
    logging(&config.logging, config.feature_gates.get("LoggingAlphaOptions"), &path("logging"), &mut errors);
    errors
}

fn invalid_duration(path: String, value: GoDuration, problem: &str) -> FieldError {
    FieldError::invalid(path, value.to_string(), problem)
}

fn positive(value: GoDuration, path: String, errors: &mut Vec<FieldError>) {
    if value.is_zero() || value.is_negative() {
        errors.push(invalid_duration(path, value, POSITIVE));
    }
}

fn not_negative(value: GoDuration, path: String, errors: &mut Vec<FieldError>) {
    if value.is_negative() {
        errors.push(invalid_duration(path, value, NOT_NEGATIVE));
    }
}

/// Upstream looks at the periods of the chosen mode only.
fn periods(config: &KubeProxyConfiguration, errors: &mut Vec<FieldError>) {
    let iptables = (config.iptables.sync_period, config.iptables.min_sync_period);
    let ipvs = (config.ipvs.sync_period, config.ipvs.min_sync_period);
    let nftables = (config.nftables.sync_period, config.nftables.min_sync_period);
    let chosen = match &*config.mode {
        "ipvs" => vec![ipvs],
        "nftables" => vec![nftables],
        "auto" if ipvs != iptables => vec![iptables, ipvs],
        _ => vec![iptables],
    };
    for (period, least) in chosen {
        positive(period, format!("{ROOT}.SyncPeriod"), errors);
        not_negative(least, format!("{ROOT}.MinSyncPeriod"), errors);
        if least > period {
            let problem = format!("must be greater than or equal to {ROOT}.MinSyncPeriod");
            errors.push(invalid_duration(format!("{ROOT}.SyncPeriod"), least, &problem));
        }
    }
}

fn masquerade_bit(bit: Option<i32>, path: &str, errors: &mut Vec<FieldError>) {
    if let Some(bit) = bit.filter(|bit| !(0..=31).contains(bit)) {
        errors.push(FieldError::invalid(format!("{path}.MasqueradeBit"), bit, MASQUERADE_BIT));
    }
}

fn ipvs(section: &IpvsSection, path: &str, errors: &mut Vec<FieldError>) {
    not_negative(section.tcp_timeout, format!("{path}.TCPTimeout"), errors);
    not_negative(section.tcp_fin_timeout, format!("{path}.TCPFinTimeout"), errors);
    not_negative(section.udp_timeout, format!("{path}.UDPTimeout"), errors);
    for (index, cidr) in section.exclude_cidrs.iter().enumerate() {
        if parse_network(cidr).is_err() {
            errors.push(FieldError::invalid(format!("{path}.ExcludeCidrs[{index}]"), &**cidr, CIDR));
        }
    }
    errors.extend(scheduler(&section.scheduler, path));
}

/// What is wrong with the name of a scheduler.
#[must_use]
pub fn scheduler(name: &str, path: &str) -> Option<FieldError> {
    let known = name.is_empty() || SCHEDULERS.contains(&name);
    (!known).then(|| FieldError::unsupported(format!("{path}.Scheduler"), name, &SCHEDULERS))
}

fn conntrack(section: &ConntrackSection, path: &str, errors: &mut Vec<FieldError>) {
    for (value, name) in [(section.max_per_core, "MaxPerCore"), (section.min, "Min")] {
        if let Some(value) = value.filter(|value| *value < 0) {
            errors.push(FieldError::invalid(format!("{path}.{name}"), value, NOT_NEGATIVE));
        }
    }
    for (value, name) in [
        (section.tcp_established_timeout.unwrap_or_default(), "TCPEstablishedTimeout"),
        (section.tcp_close_wait_timeout.unwrap_or_default(), "TCPCloseWaitTimeout"),
        (section.udp_timeout, "UDPTimeout"),
        (section.udp_stream_timeout, "UDPStreamTimeout"),
    ] {
        not_negative(value, format!("{path}.{name}"), errors);
    }
}

/// Go's `net.SplitHostPort`.
#[must_use]
pub fn split_host_port(text: &str) -> Option<(&str, &str)> {
    let (host, port) = text.rsplit_once(':')?;
    match host.strip_prefix('[') {
        Some(host) => host.strip_suffix(']').map(|host| (host, port)),
        None if host.contains(':') => None,
        None => Some((host, port)),
    }
}

fn host_port(address: &str, path: &str, errors: &mut Vec<FieldError>) {
    let Some((host, port)) = split_host_port(address) else {
        return errors.push(FieldError::invalid(path, address, "must be IP:port"));
    };
    if parse_address(host).is_err() {
        errors.push(FieldError::invalid(path, host, "must be a valid IP"));
    }
    if !port.parse::<u16>().is_ok_and(|port| port > 0) {
        errors.push(FieldError::invalid(path, port, "must be a valid port"));
    }
}

/// `utilnet.ParsePortRange`: nothing, `n`, `n-m` or `n+count`.
fn is_port_range(text: &str) -> bool {
    let text = text.trim();
    let number = |text: &str| text.parse::<u16>().ok();
    if text.is_empty() || number(text).is_some() {
        return true;
    }
    let (low, high) = match (text.split_once('-'), text.split_once('+')) {
        (Some((low, high)), _) => (number(low), number(high)),
        (None, Some((low, count))) => {
            (number(low), number(low).zip(number(count)).map(|(low, n)| low.saturating_add(n)))
        }
        (None, None) => return false,
    };
    matches!((low, high), (Some(low), Some(high)) if low <= high)
}

fn node_port_addresses(addresses: &[String], path: &str, errors: &mut Vec<FieldError>) {
    for (index, address) in addresses.iter().enumerate() {
        if address == "primary" {
            if addresses.len() != 1 {
                let problem = "can't use both 'primary' and CIDRs";
                errors.push(FieldError::invalid(format!("{path}[{index}]"), &**address, problem));
            }
            return;
        }
        if parse_network(address).is_err() {
            errors.push(FieldError::invalid(format!("{path}[{index}]"), &**address, CIDR));
        }
    }
}

/// Nothing is hidden here, so that any release may be named, as long as it is one.
fn hidden_metrics(version: &str, path: String, errors: &mut Vec<FieldError>) {
    let numbers = version.split_once('.').map(|(major, minor)| (major.parse::<u16>(), minor.parse::<u16>()));
    if !version.is_empty() && !matches!(numbers, Some((Ok(_), Ok(_)))) {
        let problem = "--show-hidden-metrics-for-version must be omitted or have the form <major>.<minor>";
        errors.push(FieldError::invalid(path, version, problem));
    }
}

fn detect_local(config: &KubeProxyConfiguration, errors: &mut Vec<FieldError>) {
    if !DETECT_LOCAL_MODES.contains(&&*config.detect_local_mode) {
        let path = format!("{ROOT}.DetectLocalMode");
        return errors.push(FieldError::unsupported(path, &config.detect_local_mode, &DETECT_LOCAL_MODES));
    }
    let path = |name: &str| format!("{ROOT}.DetectLocalConfiguration.{name}");
    let empty = |path: String| FieldError::invalid(path, "", "must not be empty");
    match &*config.detect_local_mode {
        "BridgeInterface" if config.detect_local.bridge_interface.is_empty() => {
            errors.push(empty(path("InterfaceName")));
        }
        "InterfaceNamePrefix" if config.detect_local.interface_name_prefix.is_empty() => {
            errors.push(empty(path("InterfacePrefix")));
        }
        "ClusterCIDR" | "" if !config.cluster_cidr.is_empty() => {
            let cidrs: Vec<&str> = config.cluster_cidr.split(',').collect();
            cluster_cidrs(&cidrs, &path("ClusterCIDRs"), errors);
        }
        _ => {}
    }
}

fn cluster_cidrs(cidrs: &[&str], path: &str, errors: &mut Vec<FieldError>) {
    let all = || Value::from(cidrs.to_vec());
    if cidrs.len() > 2 {
        return errors.push(FieldError::invalid(path, all(), ONE_OR_PAIR));
    }
    let mut families = Vec::new();
    for (index, cidr) in cidrs.iter().enumerate() {
        match parse_network(cidr) {
            Ok(network) => families.push(network.addr().is_ipv4()),
            Err(_) => errors.push(FieldError::invalid(format!("{path}[{index}]"), *cidr, CIDR_BLOCK)),
        }
    }
    if let [first, second] = families.as_slice()
        && first == second
    {
        errors.push(FieldError::invalid(path, all(), ONE_OR_PAIR));
    }
}

/// `logsapi.Validate`.
fn logging(logging: &Logging, alpha: Option<&bool>, path: &str, errors: &mut Vec<FieldError>) {
    if !["text", "json"].contains(&&*logging.format) {
        errors.push(FieldError::invalid(format!("{path}.format"), &*logging.format, "Unsupported log format"));
    }
    let most = format!("Must be <= {MAX_INT32}");
    if logging.verbosity > MAX_INT32 {
        errors.push(FieldError::invalid(format!("{path}.verbosity"), logging.verbosity, &*most));
    }
    if !logging.vmodule.is_empty() && logging.format != "text" {
        errors.push(FieldError::forbidden(format!("{path}.vmodule"), "Only supported for text log format"));
    }
    for (index, item) in logging.vmodule.iter().enumerate() {
        let path = format!("{path}.vmodule[{index}]");
        if item.file_pattern.is_empty() {
            errors.push(FieldError::required(&*path, "File pattern must not be empty"));
        }
        if item.file_pattern.contains(['=', ',']) {
            let problem = "File pattern must not contain equal sign or comma";
            errors.push(FieldError::invalid(&*path, &*item.file_pattern, problem));
        }
        if item.verbosity > MAX_INT32 {
            errors.push(FieldError::invalid(&*path, item.verbosity, &*most));
        }
    }
    let switched_on = alpha.copied().unwrap_or(false);
    for (options, name) in [(&logging.options.text, "text"), (&logging.options.json, "json")] {
        let disabled = "Feature LoggingAlphaOptions is disabled";
        if options.split_stream && !switched_on {
            errors.push(FieldError::forbidden(format!("{path}.options.{name}.splitStream"), disabled));
        }
        if options.info_buffer_size != "0" && !switched_on {
            errors.push(FieldError::forbidden(format!("{path}.options.{name}.infoBufferSize"), disabled));
        }
    }
}
