//! What was typed, validated into settings. Nothing here touches the kernel, and nothing touches the kernel before
//! everything here is valid.

mod args;
mod duration;

pub use args::{ClusterArgs, DetectLocalMode, ProxyArgs, ProxyMode, VipBindingArg};

use crate::backend::ipvs::{Options, VipBinding};
use crate::desired::{DetectLocal, NodePortSelector, Settings};
use crate::model::{SCHEDULERS, parse_network};
use crate::reconcile::Timing;
use crate::source::cluster::Access;
use crate::source::manifests::Input;
use ipnet::IpNet;
use std::path::PathBuf;
use std::sync::Arc;

/// Everything that a run goes by.
#[derive(Debug, Clone)]
pub struct Config {
    /// Which mode was asked for.
    pub mode: ProxyMode,
    /// The service semantics.
    pub settings: Arc<Settings>,
    /// Periods.
    pub timing: Timing,
    /// What only IPVS mode needs.
    pub ipvs: Options,
    /// Where Services come from.
    pub source: Source,
}

/// Where Services come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Manifest files.
    Manifests(Vec<Input>),
    /// The API server.
    Cluster(Access),
}

/// A setting that cannot be used: which one, why, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{setting}: {problem}")]
pub struct ConfigError {
    setting: String,
    problem: String,
}

fn invalid(setting: impl Into<String>, problem: impl Into<String>) -> ConfigError {
    ConfigError { setting: setting.into(), problem: problem.into() }
}

impl ProxyArgs {
    /// Validates what was typed.
    ///
    /// # Errors
    /// The first setting that cannot be used.
    pub fn validate(&self) -> Result<Config, ConfigError> {
        if !SCHEDULERS.contains(&self.ipvs_scheduler.as_str()) {
            let problem = format!("{:?} is not one of {}", self.ipvs_scheduler, SCHEDULERS.join(", "));
            return Err(invalid("--ipvs-scheduler", problem));
        }
        if self.iptables_masquerade_bit > 31 {
            let problem = format!("{} is not within 0 to 31", self.iptables_masquerade_bit);
            return Err(invalid("--iptables-masquerade-bit", problem));
        }
        let settings = Settings {
            node_name: self.node_name()?.into(),
            proxy_name: self.service_proxy_name.as_deref().filter(|name| !name.is_empty()).map(Arc::from),
            detect_local: self.detect_local()?,
            masquerade_all: self.masquerade_all,
            masquerade_mark: 1 << self.iptables_masquerade_bit,
            node_port_addresses: self.node_port_addresses()?,
            localhost_node_ports: self.iptables_localhost_nodeports,
            service_ranges: networks("--service-cidr", &self.service_cidr)?,
            scheduler: self.ipvs_scheduler.as_str().into(),
            drain_timeout: self.drain_timeout,
        };
        let binding = match self.vip_binding {
            VipBindingArg::Route => VipBinding::Route,
            VipBindingArg::Address => VipBinding::Address,
        };
        if self.sync_period.is_zero() {
            return Err(invalid("--sync-period", "must be greater than 0"));
        }
        Ok(Config {
            mode: self.proxy_mode,
            timing: Timing { audit: self.sync_period, ..Timing::default() },
            ipvs: Options { binding, drain_timeout: self.drain_timeout, strict_arp: self.ipvs_strict_arp },
            source: self.source(),
            settings: Arc::new(settings),
        })
    }

    fn source(&self) -> Source {
        if self.manifests.is_empty() {
            let ClusterArgs { kubeconfig, master, kube_api_qps, kube_api_burst } = &self.cluster;
            for (flag, given) in
                [("--kube-api-qps", kube_api_qps.is_some()), ("--kube-api-burst", kube_api_burst.is_some())]
            {
                if given {
                    tracing::warn!("{flag} has no meaning here: there are four watches and nothing to limit");
                }
            }
            // kube-proxy takes an empty value for none, and its manifests may hold one.
            let kubeconfig = kubeconfig.clone().filter(|path| !path.is_empty()).map(PathBuf::from);
            return Source::Cluster(Access { kubeconfig, master: master.clone().filter(|master| !master.is_empty()) });
        }
        let input = |path: &PathBuf| {
            if path.as_os_str() == "-" { Input::Stdin } else { Input::Path(path.clone()) }
        };
        Source::Manifests(self.manifests.iter().map(input).collect())
    }

    fn node_name(&self) -> Result<String, ConfigError> {
        let name = match &self.hostname_override {
            Some(name) => name.clone(),
            None => nix::unistd::gethostname()
                .map_err(|error| invalid("--hostname-override", format!("needed, as the host has no name: {error}")))?
                .to_string_lossy()
                .into_owned(),
        };
        let name = name.trim().to_lowercase();
        if name.is_empty() { Err(invalid("--hostname-override", "must not be empty")) } else { Ok(name) }
    }

    fn detect_local(&self) -> Result<DetectLocal, ConfigError> {
        let needed = |value: &Option<String>, flag: &str| {
            let value = value.as_deref().filter(|value| !value.is_empty());
            value.map(Arc::<str>::from).ok_or_else(|| invalid("--detect-local-mode", format!("this mode needs {flag}")))
        };
        Ok(match self.detect_local_mode {
            DetectLocalMode::ClusterCidr => match networks("--cluster-cidr", &self.cluster_cidr)? {
                nets if nets.is_empty() => DetectLocal::None,
                nets => DetectLocal::Cidrs(nets),
            },
            DetectLocalMode::NodeCidr => DetectLocal::NodeCidrs,
            DetectLocalMode::BridgeInterface => {
                DetectLocal::BridgeInterface(needed(&self.pod_bridge_interface, "--pod-bridge-interface")?)
            }
            DetectLocalMode::InterfaceNamePrefix => {
                DetectLocal::InterfacePrefix(needed(&self.pod_interface_name_prefix, "--pod-interface-name-prefix")?)
            }
        })
    }

    fn node_port_addresses(&self) -> Result<NodePortSelector, ConfigError> {
        let flag = "--nodeport-addresses";
        match self.nodeport_addresses.as_slice() {
            [] => Ok(NodePortSelector::All),
            [only] if only == "primary" => Ok(NodePortSelector::Primary),
            all if all.iter().any(|text| text == "primary") => {
                Err(invalid(flag, "\"primary\" stands alone or not at all"))
            }
            all => networks(flag, all).map(NodePortSelector::Cidrs),
        }
    }
}

fn networks(flag: &str, texts: &[String]) -> Result<Vec<IpNet>, ConfigError> {
    let texts = texts.iter().filter(|text| !text.trim().is_empty());
    texts.map(|text| parse_network(text).map_err(|error| invalid(flag, error.to_string()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        proxy: ProxyArgs,
    }

    fn validate(line: &str) -> Result<Config, String> {
        let line = format!("x --manifests /tmp {line}");
        let line = Line::try_parse_from(line.split_whitespace()).map_err(|error| error.to_string())?;
        line.proxy.validate().map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_are_upstreams() {
        let config = validate("--hostname-override Node-1").unwrap();
        let expected = Settings { node_name: "node-1".into(), ..Settings::default() };
        assert_eq!(*config.settings, expected);
    }

    #[test]
    fn without_manifests_it_is_the_api_server() {
        let source = |line: &str| {
            let line = format!("x --hostname-override n {line}");
            Line::try_parse_from(line.split_whitespace()).unwrap().proxy.validate().unwrap().source
        };
        assert_eq!(source(""), Source::Cluster(Access::default()));
        assert_eq!(source("--kubeconfig= --master="), Source::Cluster(Access::default()));
        let given = Access { kubeconfig: Some("/k".into()), master: Some("https://m".into()) };
        assert_eq!(
            source("--kubeconfig /k --master https://m --kube-api-qps 5 --kube-api-burst 10"),
            Source::Cluster(given)
        );
        assert_eq!(source("--manifests -"), Source::Manifests(vec![Input::Stdin]));
    }

    #[test]
    fn each_invalid_setting_is_named() {
        for (line, message) in [
            ("--cluster-cidr 10.0.0.0", "--cluster-cidr: \"10.0.0.0\" is not a network in CIDR notation"),
            ("--ipvs-scheduler fastest", "--ipvs-scheduler: \"fastest\" is not one of rr, wrr"),
            ("--iptables-masquerade-bit 32", "--iptables-masquerade-bit: 32 is not within 0 to 31"),
            ("--nodeport-addresses primary,10.0.0.0/8", "--nodeport-addresses: \"primary\" stands alone"),
            ("--detect-local-mode BridgeInterface", "--detect-local-mode: this mode needs --pod-bridge-interface"),
            ("--sync-period 0s", "--sync-period: must be greater than 0"),
            ("--drain-timeout soon", "\"soon\" is no duration"),
        ] {
            let error = validate(line).map(|_| ()).unwrap_err();
            assert!(error.contains(message), "{line}: {error}");
        }
    }

    #[test]
    fn ranges_and_lists() {
        let config = validate("--cluster-cidr 10.180.0.0/16,fd00:10:180::/48 --service-cidr 172.30.0.0/16").unwrap();
        assert!(matches!(&config.settings.detect_local, DetectLocal::Cidrs(nets) if nets.len() == 2));
        assert_eq!(config.settings.service_ranges.len(), 1);
    }
}
