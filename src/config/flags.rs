//! kube-proxy's flags, complete, as cmd/kube-proxy/app/options.go of kube-proxy 1.36 has them. None has a default here:
//! what was not given is left to the configuration's own default, so that flags and files mean the same.

use super::duration::GoDuration;
use super::kubeproxy::KubeProxyConfiguration;
use super::pflag::{FeatureGate, boolean};
use clap::Args;

/// Flags that set what `--config` sets.
#[derive(Debug, Clone, Default, Args)]
pub struct KubeProxyFlags {
    /// How the kernel is programmed: auto takes ipvs where it works, otherwise iptables [default: auto; of kube-proxy: iptables]
    #[arg(long, value_name = "auto|ipvs|iptables")]
    pub proxy_mode: Option<String>,
    /// The name of this node in the cluster; also with --config [default: the host name]
    #[arg(long, value_name = "NAME")]
    pub hostname_override: Option<String>,
    /// The file with address and credentials of the API server; KUBECONFIG is not read [default: as a pod]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<String>,
    /// No effect: objects travel as JSON
    #[arg(long, value_name = "TYPE", hide = true)]
    pub kube_api_content_type: Option<String>,
    /// No effect: there are four watches and nothing to limit
    #[arg(long, value_name = "NUMBER", hide = true, allow_hyphen_values = true)]
    pub kube_api_burst: Option<i32>,
    /// No effect, as --kube-api-burst
    #[arg(long, value_name = "NUMBER", hide = true, allow_hyphen_values = true)]
    pub kube_api_qps: Option<f32>,
    /// No effect: what was read once is followed, and the kernel is compared with it at every sync period
    #[arg(long, value_name = "DURATION", hide = true, allow_hyphen_values = true)]
    pub config_sync_period: Option<GoDuration>,
    /// The node's primary address; nothing is bound to it [default: as its Node object says]
    #[arg(long, value_name = "IP")]
    pub bind_address: Option<String>,
    /// Where health checks are answered; empty: nowhere [default: 0.0.0.0:10256]
    #[arg(long, value_name = "IP:PORT")]
    pub healthz_bind_address: Option<String>,
    /// Where metrics are served; empty: nowhere [default: 127.0.0.1:10249]
    #[arg(long, value_name = "IP:PORT")]
    pub metrics_bind_address: Option<String>,
    /// Deprecated: the port of --healthz-bind-address; 0: none
    #[arg(long, value_name = "PORT", hide = true, allow_hyphen_values = true)]
    pub healthz_port: Option<i32>,
    /// Deprecated: the port of --metrics-bind-address; 0: none
    #[arg(long, value_name = "PORT", hide = true, allow_hyphen_values = true)]
    pub metrics_port: Option<i32>,
    /// End if a port cannot be bound [default: false]
    #[arg(long, value_name = "BOOL", value_parser = boolean, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub bind_address_hard_fail: Option<bool>,
    /// Serve profiles beside the metrics [default: false]
    #[arg(long, value_name = "BOOL", value_parser = boolean, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub profiling: Option<bool>,
    /// No effect: no metric is hidden
    #[arg(long, value_name = "VERSION", hide = true)]
    pub show_hidden_metrics_for_version: Option<String>,
    /// No effect: there are no features to switch, but LoggingAlphaOptions
    #[arg(long, value_name = "NAME=BOOL,…", value_delimiter = ',', hide = true)]
    pub feature_gates: Option<Vec<FeatureGate>>,
    /// How traffic of pods is told from traffic of strangers, which is masqueraded [default: ClusterCIDR]
    #[arg(long, value_name = "ClusterCIDR|NodeCIDR|BridgeInterface|InterfaceNamePrefix")]
    pub detect_local_mode: Option<String>,
    /// The cluster's pod ranges, one or more for each family. Without it strangers cannot be told
    #[arg(long, value_delimiter = ',', value_name = "CIDR,…")]
    pub cluster_cidr: Option<Vec<String>>,
    /// The bridge of --detect-local-mode BridgeInterface
    #[arg(long, value_name = "NAME")]
    pub pod_bridge_interface: Option<String>,
    /// The prefix of --detect-local-mode InterfaceNamePrefix
    #[arg(long, value_name = "PREFIX")]
    pub pod_interface_name_prefix: Option<String>,
    /// Masquerade all traffic that is sent to cluster IPs [default: false]
    #[arg(long, value_name = "BOOL", value_parser = boolean, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub masquerade_all: Option<bool>,
    /// Where node ports are served: networks of node addresses, or "primary" [default: all addresses]
    #[arg(long, value_delimiter = ',', value_name = "CIDR,…")]
    pub nodeport_addresses: Option<Vec<String>>,
    /// The bit of the packet mark that asks for masquerading [default: 14]
    #[arg(long, value_name = "BIT", allow_hyphen_values = true)]
    pub iptables_masquerade_bit: Option<i32>,
    /// Serve node ports on 127.0.0.1 as well [default: true]
    #[arg(long, value_name = "BOOL", value_parser = boolean, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub iptables_localhost_nodeports: Option<bool>,
    /// How often the kernel is compared with what is wanted although nothing changed, in iptables mode [default: 30s]
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub iptables_sync_period: Option<GoDuration>,
    /// The least time between two syncs in iptables mode [default: 0; of kube-proxy: 1s]
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub iptables_min_sync_period: Option<GoDuration>,
    /// The same in IPVS mode [default: 30s]
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub ipvs_sync_period: Option<GoDuration>,
    /// The least time between two syncs in IPVS mode [default: 0]
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub ipvs_min_sync_period: Option<GoDuration>,
    /// IPVS scheduler: rr, wrr, lc, wlc, lblc, lblcr, dh, sh, sed, nq, fo, ovf, mh, twos [default: rr]
    #[arg(long, value_name = "NAME")]
    pub ipvs_scheduler: Option<String>,
    /// Where virtual servers that we did not make are left alone
    #[arg(long, value_delimiter = ',', value_name = "CIDR,…")]
    pub ipvs_exclude_cidrs: Option<Vec<String>>,
    /// Answer ARP only for addresses of the interface asked [default: false]
    #[arg(long, value_name = "BOOL", value_parser = boolean, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub ipvs_strict_arp: Option<bool>,
    /// How long idle TCP connections live in IPVS; 0: as it is [default: 0]
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub ipvs_tcp_timeout: Option<GoDuration>,
    /// How long TCP connections live in IPVS after a FIN; 0: as it is [default: 0]
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub ipvs_tcpfin_timeout: Option<GoDuration>,
    /// How long idle UDP flows live in IPVS; 0: as it is [default: 0]
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub ipvs_udp_timeout: Option<GoDuration>,
    /// How willingly the kernel kills this process when memory is short: -1000 (never) to 1000 [default: -999]
    #[arg(long, value_name = "SCORE", allow_hyphen_values = true)]
    pub oom_score_adj: Option<i32>,
    /// Connections that are tracked at most, for each processor; 0: as it is [default: 32768]
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pub conntrack_max_per_core: Option<i32>,
    /// Connections that can be tracked at least, however few processors there are [default: 131072]
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pub conntrack_min: Option<i32>,
    /// How long idle established TCP connections are tracked; 0: as it is [default: 24h]
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub conntrack_tcp_timeout_established: Option<GoDuration>,
    /// How long TCP connections in CLOSE_WAIT are tracked; 0: as it is [default: 1h]
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub conntrack_tcp_timeout_close_wait: Option<GoDuration>,
    /// Packets outside of the TCP window are not invalid, and what is invalid is not dropped [default: false]
    #[arg(long, value_name = "BOOL", value_parser = boolean, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub conntrack_tcp_be_liberal: Option<bool>,
    /// How long UDP flows without an answer are tracked; 0: as it is [default: 0]
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub conntrack_udp_timeout: Option<GoDuration>,
    /// How long UDP flows with answers are tracked; 0: as it is [default: 0]
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub conntrack_udp_timeout_stream: Option<GoDuration>,
}

/// Puts what was given where it belongs, and remembers the flag's name.
macro_rules! put {
    ($flags:ident, $names:ident: $($field:ident => $target:expr),* $(,)?) => {
        $(if let Some(value) = &$flags.$field {
            $names.push(concat!("--", stringify!($field)).replace('_', "-"));
            $target = value.clone().into();
        })*
    };
}

impl KubeProxyFlags {
    /// Changes what was given; returns the names of these flags.
    pub fn apply(&self, config: &mut KubeProxyConfiguration) -> Vec<String> {
        let mut names = self.apply_addresses(config);
        put!(self, names:
            proxy_mode => config.mode,
            kubeconfig => config.client_connection.kubeconfig,
            kube_api_content_type => config.client_connection.content_type,
            kube_api_burst => config.client_connection.burst,
            kube_api_qps => config.client_connection.qps,
            config_sync_period => config.config_sync_period,
            bind_address_hard_fail => config.bind_address_hard_fail,
            profiling => config.enable_profiling,
            show_hidden_metrics_for_version => config.show_hidden_metrics_for_version,
            detect_local_mode => config.detect_local_mode,
            pod_bridge_interface => config.detect_local.bridge_interface,
            pod_interface_name_prefix => config.detect_local.interface_name_prefix,
            masquerade_all => config.iptables.masquerade_all,
            nodeport_addresses => config.node_port_addresses,
            iptables_masquerade_bit => config.iptables.masquerade_bit,
            iptables_localhost_nodeports => config.iptables.localhost_node_ports,
            iptables_sync_period => config.iptables.sync_period,
            iptables_min_sync_period => config.iptables.min_sync_period,
            ipvs_sync_period => config.ipvs.sync_period,
            ipvs_min_sync_period => config.ipvs.min_sync_period,
            ipvs_scheduler => config.ipvs.scheduler,
            ipvs_exclude_cidrs => config.ipvs.exclude_cidrs,
            ipvs_strict_arp => config.ipvs.strict_arp,
            ipvs_tcp_timeout => config.ipvs.tcp_timeout,
            ipvs_tcpfin_timeout => config.ipvs.tcp_fin_timeout,
            ipvs_udp_timeout => config.ipvs.udp_timeout,
            oom_score_adj => config.oom_score_adj,
            conntrack_max_per_core => config.conntrack.max_per_core,
            conntrack_min => config.conntrack.min,
            conntrack_tcp_timeout_established => config.conntrack.tcp_established_timeout,
            conntrack_tcp_timeout_close_wait => config.conntrack.tcp_close_wait_timeout,
            conntrack_tcp_be_liberal => config.conntrack.tcp_be_liberal,
            conntrack_udp_timeout => config.conntrack.udp_timeout,
            conntrack_udp_timeout_stream => config.conntrack.udp_stream_timeout,
        );
        // An empty argument is an empty list, as pflag reads it.
        config.node_port_addresses.retain(|address| !address.trim().is_empty());
        config.ipvs.exclude_cidrs.retain(|cidr| !cidr.trim().is_empty());
        if let Some(cidrs) = &self.cluster_cidr {
            names.push("--cluster-cidr".into());
            let cidrs: Vec<&str> = cidrs.iter().map(|cidr| cidr.trim()).filter(|cidr| !cidr.is_empty()).collect();
            config.cluster_cidr = cidrs.join(",");
        }
        if let Some(gates) = &self.feature_gates {
            names.push("--feature-gates".into());
            config.feature_gates.extend(gates.iter().map(|gate| (gate.name.clone(), gate.enabled)));
        }
        names
    }

    /// Addresses, and the deprecated flags with their ports alone. Upstream lets these do nothing but switch off with 0,
    /// as its default addresses have ports already; here they do what they say.
    fn apply_addresses(&self, config: &mut KubeProxyConfiguration) -> Vec<String> {
        let mut names = Vec::new();
        let port_alone = |address: &str, port: i32| match port {
            0 => String::new(),
            port => address.rsplit_once(':').map_or_else(String::new, |(host, _)| format!("{host}:{port}")),
        };
        if let Some(port) = self.healthz_port {
            names.push("--healthz-port".into());
            config.healthz_bind_address = port_alone(&config.healthz_bind_address, port);
        }
        if let Some(port) = self.metrics_port {
            names.push("--metrics-port".into());
            config.metrics_bind_address = port_alone(&config.metrics_bind_address, port);
        }
        let (healthz_off, metrics_off) = (self.healthz_port == Some(0), self.metrics_port == Some(0));
        put!(self, names:
            bind_address => config.bind_address,
            healthz_bind_address => config.healthz_bind_address,
            metrics_bind_address => config.metrics_bind_address,
        );
        if healthz_off {
            config.healthz_bind_address.clear();
        }
        if metrics_off {
            config.metrics_bind_address.clear();
        }
        let port = |given: Option<i32>, default: u16| given.unwrap_or_else(|| default.into());
        let healthz_port = port(self.healthz_port, super::defaults::HEALTHZ_PORT);
        let metrics_port = port(self.metrics_port, super::defaults::METRICS_PORT);
        config.healthz_bind_address = super::defaults::with_port(&config.healthz_bind_address, healthz_port);
        config.metrics_bind_address = super::defaults::with_port(&config.metrics_bind_address, metrics_port);
        names
    }
}

/// The flags that set a field, by the end of the field's path in messages.
const FLAGS_OF: [(&str, &str); 30] = [
    ("IPTablesConfiguration.MasqueradeBit", "--iptables-masquerade-bit"),
    (".Scheduler", "--ipvs-scheduler"),
    ("IPVSConfiguration.TCPTimeout", "--ipvs-tcp-timeout"),
    ("IPVSConfiguration.TCPFinTimeout", "--ipvs-tcpfin-timeout"),
    ("IPVSConfiguration.UDPTimeout", "--ipvs-udp-timeout"),
    (".ExcludeCidrs", "--ipvs-exclude-cidrs"),
    (".MaxPerCore", "--conntrack-max-per-core"),
    ("ConntrackConfiguration.Min", "--conntrack-min"),
    (".TCPEstablishedTimeout", "--conntrack-tcp-timeout-established"),
    (".TCPCloseWaitTimeout", "--conntrack-tcp-timeout-close-wait"),
    ("ConntrackConfiguration.UDPTimeout", "--conntrack-udp-timeout"),
    (".UDPStreamTimeout", "--conntrack-udp-timeout-stream"),
    (".OOMScoreAdj", "--oom-score-adj"),
    (".ProxyMode", "--proxy-mode"),
    (".Burst", "--kube-api-burst"),
    (".ConfigSyncPeriod", "--config-sync-period"),
    (".MinSyncPeriod", "--iptables-min-sync-period, --ipvs-min-sync-period"),
    (".SyncPeriod", "--sync-period, --iptables-sync-period, --ipvs-sync-period"),
    (".HealthzBindAddress", "--healthz-bind-address"),
    (".MetricsBindAddress", "--metrics-bind-address"),
    (".BindAddress", "--bind-address"),
    (".NodePortAddresses", "--nodeport-addresses"),
    (".ShowHiddenMetricsForVersion", "--show-hidden-metrics-for-version"),
    (".DetectLocalMode", "--detect-local-mode"),
    (".InterfaceName", "--detect-local-mode, --pod-bridge-interface"),
    (".InterfacePrefix", "--detect-local-mode, --pod-interface-name-prefix"),
    (".ClusterCIDRs", "--cluster-cidr"),
    (".HostnameOverride", "--hostname-override"),
    (".drainTimeout", "--drain-timeout"),
    (".serviceCIDRs", "--service-cidr"),
];

/// The flags that set the field with this path.
#[must_use]
pub fn of_field(path: &str) -> Option<&'static str> {
    let path = path.split('[').next().unwrap_or(path);
    FLAGS_OF.iter().find(|(end, _)| path.ends_with(end)).map(|(_, flags)| *flags)
}
