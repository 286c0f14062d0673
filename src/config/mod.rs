//! What was typed, and what stands in the files that it names, validated into settings. Nothing here touches the kernel,
//! and nothing touches the kernel before everything here is valid.
//!
//! `flags`, `logging_flags`, `args`: the command line. `kubeproxy`, `defaults`, `validation`: kube-proxy's configuration
//! as upstream means it. `extension`: our own. `decode`, `write`: files. `load` puts them together, `settle` makes a
//! [`Config`] of them, `unused` says what has no effect.

mod args;
mod configz;
mod decode;
mod defaults;
mod duration;
mod extension;
mod field;
mod flags;
mod kubeproxy;
mod load;
mod logging_flags;
pub mod pflag;
mod settle;
mod unused;
mod validation;
mod write;

pub use args::{ProxyArgs, VipBindingArg};
pub use configz::configz;
pub use duration::parse as parse_duration;
pub use kubeproxy::{KubeProxyConfiguration, Logging, VmoduleItem};
pub use load::{ConfigError, Invocation, Loaded, Loader};
pub use write::to_yaml;

use crate::backend::ipvs::Options;
use crate::desired::Settings;
use crate::kernel::sysctl::ConntrackSettings;
use crate::reconcile::{Timing, Timings};
use crate::source::cluster::Access;
use crate::source::manifests::Input;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// How the kernel is programmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ProxyMode {
    /// IPVS where it works, otherwise iptables.
    #[default]
    Auto,
    /// IPVS, or an error where it does not work.
    Ipvs,
    /// iptables.
    Iptables,
}

/// How often a mode syncs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Period {
    /// At least this often the kernel is read.
    pub sync: Duration,
    /// Changes that come sooner than this after each other wait.
    pub min: Duration,
}

impl Default for Period {
    fn default() -> Self {
        Self { sync: Timing::default().audit, min: Duration::ZERO }
    }
}

/// Everything that a run goes by.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Config {
    /// Which mode was asked for.
    pub mode: ProxyMode,
    /// The service semantics.
    pub settings: Arc<Settings>,
    /// How often iptables mode syncs.
    pub iptables_period: Period,
    /// How often IPVS mode syncs.
    pub ipvs_period: Period,
    /// What only IPVS mode needs.
    pub ipvs: Options,
    /// Where Services come from.
    pub source: Source,
    /// Where health checks are answered; `None`: nowhere.
    pub healthz_bind_address: Option<SocketAddr>,
    /// Where metrics are served; `None`: nowhere.
    pub metrics_bind_address: Option<SocketAddr>,
    /// Whether a port that cannot be bound ends the program.
    pub bind_address_hard_fail: bool,
    /// Whether profiles are served beside the metrics.
    pub enable_profiling: bool,
    /// What is told of the traffic.
    pub traffic: TrafficMetrics,
    /// Features by name.
    pub feature_gates: BTreeMap<String, bool>,
    /// How is logged.
    pub logging: Logging,
    /// How willingly the kernel kills us when memory is short.
    pub oom_score_adj: Option<i32>,
    /// Connection tracking.
    pub conntrack: ConntrackSettings,
}

/// Which metrics there are of the traffic of Services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrafficMetrics {
    /// Of what.
    pub level: TrafficLevel,
    /// Of so many service ports, and endpoints, each.
    pub limit: usize,
}

/// Of what there are metrics of traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrafficLevel {
    /// None.
    Off,
    /// Of service ports.
    Services,
    /// Of service ports and of their endpoints.
    Endpoints,
}

impl Default for TrafficMetrics {
    fn default() -> Self {
        Self { level: TrafficLevel::Services, limit: 500 }
    }
}

/// Where Services come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Manifest files.
    Manifests(Vec<Input>),
    /// The API server.
    Cluster(Access),
}

impl Default for Source {
    fn default() -> Self {
        Self::Cluster(Access::default())
    }
}

impl Config {
    /// The periods of a mode, by its name.
    #[must_use]
    pub fn timing(&self, mode: &str) -> Timing {
        let period = if mode == "ipvs" { self.ipvs_period } else { self.iptables_period };
        Timing { audit: period.sync, min: period.min, ..Timing::default() }
    }

    /// The periods of both modes.
    #[must_use]
    pub fn timings(&self) -> Timings {
        Timings { ipvs: self.timing("ipvs"), iptables: self.timing("iptables") }
    }

    /// What differs in another configuration that a running program cannot take over; `None`: it can take over all.
    #[must_use]
    pub fn needs_restart(&self, new: &Self) -> Option<&'static str> {
        let mut same = self.clone();
        same.settings = Arc::new(Settings {
            node_name: self.settings.node_name.clone(),
            proxy_name: self.settings.proxy_name.clone(),
            ..Settings::clone(&new.settings)
        });
        same.mode = new.mode;
        (same.iptables_period, same.ipvs_period) = (new.iptables_period, new.ipvs_period);
        (same.oom_score_adj, same.conntrack) = (new.oom_score_adj, new.conntrack);
        if same == *new {
            return None;
        }
        Some(match () {
            () if same.settings != new.settings => "the name of the node or of the proxy",
            () if self.ipvs != new.ipvs => "strict ARP, the binding of addresses or the drain timeout",
            () if self.source != new.source => "the manifests or the way to the API server",
            () if self.logging != new.logging => "logging",
            () if self.healthz_bind_address != new.healthz_bind_address => "the address for health checks",
            () if self.metrics_bind_address != new.metrics_bind_address => "the address for metrics",
            () if self.traffic != new.traffic => "the metrics of traffic",
            () if self.feature_gates != new.feature_gates => "the feature gates",
            () => "what is served beside the metrics",
        })
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod validation_tests;
