//! kube-proxy's defaults, as `SetDefaults_KubeProxyConfiguration` in pkg/proxy/apis/config/v1alpha1/defaults.go and
//! `SetRecommendedLoggingConfiguration` in component-base set them.

use super::duration::GoDuration;
use super::kubeproxy::KubeProxyConfiguration;
use std::net::IpAddr;

/// The port of health checks.
pub const HEALTHZ_PORT: u16 = 10256;
/// The port of metrics.
pub const METRICS_PORT: u16 = 10249;
/// kube-proxy dies almost last (pkg/kubelet/qos).
const OOM_SCORE_ADJ: i32 = -999;

impl KubeProxyConfiguration {
    /// The object that an empty file means.
    #[must_use]
    pub fn with_defaults() -> Self {
        let mut config = Self::default();
        config.set_defaults();
        config
    }

    /// Fills in what was left out.
    pub fn set_defaults(&mut self) {
        fill(&mut self.bind_address, "0.0.0.0");
        let v6 = self.bind_address.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6());
        let (healthz, metrics) = if v6 { ("[::]", "[::1]") } else { ("0.0.0.0", "127.0.0.1") };
        fill(&mut self.healthz_bind_address, &format!("{healthz}:{HEALTHZ_PORT}"));
        fill(&mut self.metrics_bind_address, &format!("{metrics}:{METRICS_PORT}"));
        self.healthz_bind_address = with_port(&self.healthz_bind_address, HEALTHZ_PORT.into());
        self.metrics_bind_address = with_port(&self.metrics_bind_address, METRICS_PORT.into());
        self.oom_score_adj.get_or_insert(OOM_SCORE_ADJ);
        self.set_mode_defaults();
        self.conntrack.max_per_core.get_or_insert(32 * 1024);
        self.conntrack.min.get_or_insert(128 * 1024);
        self.conntrack.tcp_established_timeout.get_or_insert(GoDuration::from_secs(24 * 3600));
        // Long, because a connection that is half closed and forgotten is no longer translated (kubernetes 32551).
        self.conntrack.tcp_close_wait_timeout.get_or_insert(GoDuration::from_secs(3600));
        fill_duration(&mut self.config_sync_period, 15 * 60);
        fill(&mut self.client_connection.content_type, "application/vnd.kubernetes.protobuf");
        if self.client_connection.qps == 0.0 {
            self.client_connection.qps = 5.0;
        }
        if self.client_connection.burst == 0 {
            self.client_connection.burst = 10;
        }
        fill(&mut self.logging.format, "text");
        fill_duration(&mut self.logging.flush_frequency, 5);
        fill(&mut self.logging.options.text.info_buffer_size, "0");
        fill(&mut self.logging.options.json.info_buffer_size, "0");
    }

    fn set_mode_defaults(&mut self) {
        self.iptables.masquerade_bit.get_or_insert(14);
        self.iptables.localhost_node_ports.get_or_insert(true);
        fill_duration(&mut self.iptables.sync_period, 30);
        fill_duration(&mut self.iptables.min_sync_period, 1);
        fill_duration(&mut self.ipvs.sync_period, 30);
        self.nftables.masquerade_bit.get_or_insert(14);
        fill_duration(&mut self.nftables.sync_period, 30);
        fill_duration(&mut self.nftables.min_sync_period, 1);
    }
}

fn fill(text: &mut String, default: &str) {
    if text.is_empty() {
        default.clone_into(text);
    }
}

fn fill_duration(duration: &mut GoDuration, seconds: i64) {
    if duration.is_zero() {
        *duration = GoDuration::from_secs(seconds);
    }
}

/// `AppendPortIfNeeded`: an address without a port gets one; what is no address is left for the validation.
#[must_use]
pub fn with_port(address: &str, port: i32) -> String {
    match address.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => format!("{address}:{port}"),
        Ok(IpAddr::V6(_)) => format!("[{address}]:{port}"),
        Err(_) => address.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of `TestDefaultsKubeProxyConfiguration`.
    #[test]
    fn addresses() {
        for (bind, healthz, metrics, expected) in [
            ("", "", "", ("0.0.0.0", "0.0.0.0:10256", "127.0.0.1:10249")),
            ("0.0.0.0", "", "", ("0.0.0.0", "0.0.0.0:10256", "127.0.0.1:10249")),
            ("::", "", "", ("::", "[::]:10256", "[::1]:10249")),
            ("", "127.0.0.1", "127.0.0.1", ("0.0.0.0", "127.0.0.1:10256", "127.0.0.1:10249")),
            ("", "127.0.0.1:12345", "127.0.0.1:23456", ("0.0.0.0", "127.0.0.1:12345", "127.0.0.1:23456")),
            ("fd00:1::5", "fd00:1::5", "fd00:1::5", ("fd00:1::5", "[fd00:1::5]:10256", "[fd00:1::5]:10249")),
            ("fd00:1::5", "[fd00:1::5]:12345", "", ("fd00:1::5", "[fd00:1::5]:12345", "[::1]:10249")),
        ] {
            let mut config = KubeProxyConfiguration {
                bind_address: bind.into(),
                healthz_bind_address: healthz.into(),
                metrics_bind_address: metrics.into(),
                ..KubeProxyConfiguration::default()
            };
            config.set_defaults();
            let found = (&*config.bind_address, &*config.healthz_bind_address, &*config.metrics_bind_address);
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn numbers_and_periods() {
        let config = KubeProxyConfiguration::with_defaults();
        assert_eq!(config.oom_score_adj, Some(-999));
        assert_eq!(config.iptables.min_sync_period, GoDuration::from_secs(1));
        assert_eq!(config.ipvs.min_sync_period, GoDuration::default());
        assert_eq!(config.conntrack.max_per_core, Some(32_768));
        assert_eq!(config.conntrack.min, Some(131_072));
        assert_eq!((config.client_connection.qps, config.client_connection.burst), (5.0, 10));
        assert_eq!(config.mode, "", "the mode is filled in later");
    }
}
