//! The flags of everything that works on Services: kube-proxy's and our own.

use super::duration;
use super::duration::GoDuration;
use super::extension::KubeIpvsConfiguration;
use super::flags::KubeProxyFlags;
use super::logging_flags::LoggingFlags;
use clap::{Args, ValueEnum};
use std::path::PathBuf;
use std::time::Duration;

/// How service addresses become local to the node in IPVS mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum VipBindingArg {
    /// Local routes on kube-ipvs0: one for each --service-cidr, one for each other address
    Route,
    /// An address each on kube-ipvs0, as kube-proxy does; slow beyond a few thousand
    Address,
}

/// How iptables mode finds a Service by its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ServiceChainsArg {
    /// One list, KUBE-SERVICES, as kube-proxy has it; the first packet of every connection goes through it
    Plain,
    /// A list for each value of the last eight bits of the address, which KUBE-SERVICES leads to
    Address,
}

/// As it is given, which is how the file has it.
fn name_of(value: &impl ValueEnum) -> Option<String> {
    value.to_possible_value().map(|value| value.get_name().to_owned())
}

/// What is proxied, and how.
#[derive(Debug, Clone, Default, Args)]
pub struct ProxyArgs {
    /// kube-proxy's configuration file, followed while we run; most other flags of kube-proxy have no effect beside it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What kube-proxy has no field for, as a KubeIPVSConfiguration (kube-ipvs.io/v1alpha1); comes before the flags
    #[arg(long, value_name = "FILE")]
    pub kube_ipvs_config: Option<PathBuf>,
    /// Manifest files or folders with Services and EndpointSlices, YAML or JSON, instead of an API server; "-" is standard input
    #[arg(long, num_args = 1.., value_name = "PATH", conflicts_with_all = ["kubeconfig", "master"])]
    pub manifests: Vec<PathBuf>,
    /// The address of the API server, instead of the one in the kubeconfig; also with --config
    #[arg(long, value_name = "URL")]
    pub master: Option<String>,
    #[command(flatten)]
    pub kube_proxy: KubeProxyFlags,
    /// The cluster's service ranges: in IPVS mode one route then serves a whole range [default: what the API server announces]
    #[arg(long, value_delimiter = ',', value_name = "CIDR,…")]
    pub service_cidr: Option<Vec<String>>,
    /// How service addresses become local in IPVS mode [default: route]
    #[arg(long, value_enum)]
    pub vip_binding: Option<VipBindingArg>,
    /// How iptables mode finds a Service: in one list as kube-proxy, or by the end of its address [default: plain]
    #[arg(long, value_enum)]
    pub service_chains: Option<ServiceChainsArg>,
    /// How long open connections to an endpoint that left may go on in IPVS mode [default: 15m]
    #[arg(long, value_parser = duration::parse, value_name = "DURATION")]
    pub drain_timeout: Option<Duration>,
    /// Both --iptables-sync-period and --ipvs-sync-period
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub sync_period: Option<GoDuration>,
    /// Serve only Services labelled with this service-proxy-name [default: those without the label]
    #[arg(long, value_name = "NAME")]
    pub service_proxy_name: Option<String>,
    #[command(flatten)]
    pub logging: LoggingFlags,
}

impl ProxyArgs {
    /// Our own settings; those of the file come first, as with kube-proxy's own file.
    #[must_use]
    pub fn extended(&self, file: KubeIpvsConfiguration) -> KubeIpvsConfiguration {
        let own = |texts: &[PathBuf]| -> Option<Vec<String>> {
            (!texts.is_empty()).then(|| texts.iter().map(|path| path.to_string_lossy().into_owned()).collect())
        };
        let given = |texts: &Vec<String>| texts.iter().filter(|text| !text.trim().is_empty()).cloned().collect();
        KubeIpvsConfiguration {
            manifests: file.manifests.or_else(|| own(&self.manifests)),
            vip_binding: file.vip_binding.or_else(|| self.vip_binding.as_ref().and_then(name_of)),
            service_chains: file.service_chains.or_else(|| self.service_chains.as_ref().and_then(name_of)),
            drain_timeout: file.drain_timeout.or_else(|| self.drain_timeout.map(GoDuration::from)),
            service_cidrs: file.service_cidrs.or_else(|| self.service_cidr.as_ref().map(given)),
            service_proxy_name: file.service_proxy_name.or_else(|| self.service_proxy_name.clone()),
            traffic_metrics: file.traffic_metrics,
            traffic_metrics_limit: file.traffic_metrics_limit,
        }
    }
}
