//! `KubeIPVSConfiguration`, kube-ipvs.io/v1alpha1: what kube-proxy has no field for. A file of its own
//! (`--kube-ipvs-config`), so that kube-proxy's stays one that kube-proxy reads, too.

use super::decode::{self, DecodeError};
use super::duration::GoDuration;
use super::field::FieldError;
use crate::model::parse_network;
use serde::{Deserialize, Serialize};

/// The group and version of the file.
pub const API_VERSION: &str = "kube-ipvs.io/v1alpha1";
/// The kind of the file.
pub const KIND: &str = "KubeIPVSConfiguration";
/// How service addresses can become local.
pub const VIP_BINDINGS: [&str; 2] = ["route", "address"];

/// How iptables mode can find a Service by its address.
pub const SERVICE_CHAINS: [&str; 2] = ["plain", "address"];

/// What there can be metrics of traffic of.
pub const TRAFFIC_METRICS: [&str; 3] = ["off", "services", "endpoints"];
/// More lines than this nobody could store: there are up to ten metrics of each.
const MOST_TRAFFIC: i64 = 100_000;

const YEAR: i64 = 366 * 86_400;

/// What kube-proxy has no field for; `None` is the default of the flag of that name.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct KubeIpvsConfiguration {
    /// Manifest files or folders.
    pub manifests: Option<Vec<String>>,
    /// `route` or `address`.
    pub vip_binding: Option<String>,
    /// `plain` or `address`.
    pub service_chains: Option<String>,
    /// How long connections to an endpoint that left may go on.
    pub drain_timeout: Option<GoDuration>,
    /// The cluster's service ranges.
    #[serde(rename = "serviceCIDRs")]
    pub service_cidrs: Option<Vec<String>>,
    /// Only Services of this proxy.
    pub service_proxy_name: Option<String>,
    /// `off`, `services` or `endpoints`.
    pub traffic_metrics: Option<String>,
    /// So many service ports, and endpoints, have metrics of their own.
    pub traffic_metrics_limit: Option<i64>,
}

impl KubeIpvsConfiguration {
    /// Reads a file's text.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn read(text: &str) -> Result<Self, DecodeError> {
        decode::object(text, API_VERSION, KIND, &[]).map(|decoded| decoded.object)
    }

    /// Everything that is wrong.
    #[must_use]
    pub fn validate(&self) -> Vec<FieldError> {
        let mut errors = Vec::new();
        if let Some(binding) = self.vip_binding.as_deref().filter(|name| !VIP_BINDINGS.contains(name)) {
            errors.push(FieldError::unsupported(format!("{KIND}.vipBinding"), binding, &VIP_BINDINGS));
        }
        if let Some(layout) = self.service_chains.as_deref().filter(|name| !SERVICE_CHAINS.contains(name)) {
            errors.push(FieldError::unsupported(format!("{KIND}.serviceChains"), layout, &SERVICE_CHAINS));
        }
        if let Some(level) = self.traffic_metrics.as_deref().filter(|name| !TRAFFIC_METRICS.contains(name)) {
            errors.push(FieldError::unsupported(format!("{KIND}.trafficMetrics"), level, &TRAFFIC_METRICS));
        }
        if let Some(limit) = self.traffic_metrics_limit.filter(|limit| !(1..=MOST_TRAFFIC).contains(limit)) {
            let problem = format!("must be between 1 and {MOST_TRAFFIC}, inclusive");
            errors.push(FieldError::invalid(format!("{KIND}.trafficMetricsLimit"), limit.to_string(), problem));
        }
        if let Some(timeout) = self.drain_timeout {
            let path = format!("{KIND}.drainTimeout");
            if timeout.is_negative() {
                let problem = "must be greater than or equal to 0";
                errors.push(FieldError::invalid(path, timeout.to_string(), problem));
            } else if timeout > GoDuration::from_secs(YEAR) {
                errors.push(FieldError::invalid(path, timeout.to_string(), "must not be longer than a year"));
            }
        }
        for (index, cidr) in self.service_cidrs.iter().flatten().enumerate() {
            if parse_network(cidr).is_err() {
                let path = format!("{KIND}.serviceCIDRs[{index}]");
                errors.push(FieldError::invalid(path, &**cidr, "must be a valid CIDR"));
            }
        }
        for (index, path) in self.manifests.iter().flatten().enumerate() {
            if path.is_empty() {
                errors.push(FieldError::required(format!("{KIND}.manifests[{index}]"), "must not be empty"));
            }
        }
        errors
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "apiVersion: kube-ipvs.io/v1alpha1\nkind: KubeIPVSConfiguration\n";

    #[test]
    fn all_fields() {
        let text = "vipBinding: address\nserviceChains: address\ndrainTimeout: 1m\nserviceCIDRs: [10.96.0.0/12]\nmanifests: [/a]\n\
                    serviceProxyName: mine\ntrafficMetrics: endpoints\ntrafficMetricsLimit: 50\n";
        let config = KubeIpvsConfiguration::read(&format!("{HEAD}{text}")).unwrap();
        assert_eq!(config.drain_timeout, Some(GoDuration::from_secs(60)));
        assert_eq!(config.validate(), []);
    }

    #[test]
    fn each_invalid_field_is_named() {
        for (text, expected) in [
            ("vipBinding: tunnel", "KubeIPVSConfiguration.vipBinding: Unsupported value: \"tunnel\": supported values"),
            ("serviceChains: set", "KubeIPVSConfiguration.serviceChains: Unsupported value: \"set\": supported values"),
            ("drainTimeout: -1s", "KubeIPVSConfiguration.drainTimeout: Invalid value: \"-1s\": must be greater"),
            ("drainTimeout: 90000h", "KubeIPVSConfiguration.drainTimeout: Invalid value: \"90000h0m0s\": must not"),
            ("serviceCIDRs: [10.0.0.0/8, x]", "KubeIPVSConfiguration.serviceCIDRs[1]: Invalid value: \"x\": must be"),
            (
                "trafficMetrics: pods",
                "KubeIPVSConfiguration.trafficMetrics: Unsupported value: \"pods\": supported values",
            ),
            (
                "trafficMetricsLimit: 0",
                "KubeIPVSConfiguration.trafficMetricsLimit: Invalid value: \"0\": must be between",
            ),
            ("manifests: [\"\"]", "KubeIPVSConfiguration.manifests[0]: Required value"),
        ] {
            let errors = KubeIpvsConfiguration::read(&format!("{HEAD}{text}\n")).unwrap().validate();
            assert_eq!(errors.len(), 1, "{text}");
            assert!(errors[0].to_string().starts_with(expected), "{}", errors[0]);
        }
        let error = KubeIpvsConfiguration::read(&format!("{HEAD}mode: ipvs\n")).unwrap_err();
        assert_eq!(error.to_string(), "line 3: unknown field \"mode\"");
    }
}
