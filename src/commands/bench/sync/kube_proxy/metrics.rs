//! What a kube-proxy says of its syncs on its metrics page. The moment at which a sync ended is told there in microseconds,
//! so that looking seldom costs no accuracy.

use crate::commands::bench::program;
use std::net::SocketAddr;

/// The syncs of IPv4 until now.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Syncs {
    /// How many there were, failed ones included.
    pub count: f64,
    /// How long they took together, in seconds.
    pub seconds: f64,
    /// When the last one that succeeded had ended, in seconds since 1970; 0: none yet.
    pub last: f64,
}

impl Syncs {
    /// Asks.
    ///
    /// # Errors
    /// When nobody answers; a kube-proxy that has just been started does not listen yet.
    pub fn ask(address: SocketAddr) -> anyhow::Result<Self> {
        Ok(Self::read(&program::page(address, "/metrics")?))
    }

    fn read(page: &str) -> Self {
        let value = |name| sample(page, name).unwrap_or(0.0);
        Self {
            count: value("kubeproxy_sync_proxy_rules_duration_seconds_count"),
            seconds: value("kubeproxy_sync_proxy_rules_duration_seconds_sum"),
            last: value("kubeproxy_sync_proxy_rules_last_timestamp_seconds"),
        }
    }
}

/// The value of a metric: that of IPv4, or the only one (not every kube-proxy tells families apart).
fn sample(page: &str, name: &str) -> Option<f64> {
    page.lines().find_map(|line| {
        let rest = line.strip_prefix(name)?;
        let value = rest.strip_prefix("{ip_family=\"IPv4\"}").unwrap_or(rest);
        value.strip_prefix(' ')?.trim().parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "HTTP/1.0 200 OK\r\n\r\n\
        # TYPE kubeproxy_sync_proxy_rules_duration_seconds histogram\n\
        kubeproxy_sync_proxy_rules_duration_seconds_bucket{ip_family=\"IPv4\",le=\"+Inf\"} 3\n\
        kubeproxy_sync_proxy_rules_duration_seconds_sum{ip_family=\"IPv4\"} 1.5\n\
        kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"} 3\n\
        kubeproxy_sync_proxy_rules_duration_seconds_sum{ip_family=\"IPv6\"} 0.25\n\
        kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family=\"IPv6\"} 4\n\
        kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family=\"IPv6\"} 1.7e+09\n\
        kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family=\"IPv4\"} 1.763720249123456e+09\n";

    #[test]
    fn the_syncs_of_ipv4_are_told_from_others() {
        let expected = Syncs { count: 3.0, seconds: 1.5, last: 1_763_720_249.123_456 };
        assert_eq!(Syncs::read(PAGE), expected);
        let one_family = PAGE.replace("{ip_family=\"IPv4\"}", "");
        assert_eq!(Syncs::read(&one_family), expected, "before families were told apart");
    }

    #[test]
    fn before_the_first_sync_there_are_none() {
        assert_eq!(Syncs::read("HTTP/1.0 200 OK\r\n\r\n"), Syncs::default());
        assert_eq!(Syncs::read("kubeproxy_sync_proxy_rules_last_timestamp_seconds 0\n"), Syncs::default());
    }
}
