//! What the checks look at. Pure data: [`super::gather`] reads it from the node, tests write it down.

use crate::kernel::sysctl::KernelVersion;
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

/// Which modes the node is to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Modes {
    /// IPVS mode is wanted, or serves.
    pub ipvs: bool,
    /// iptables mode is wanted, or serves.
    pub iptables: bool,
}

/// Everything that was read. What could not be read is `None` or empty, and no check makes anything of it.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// The kernel's version.
    pub kernel: Option<KernelVersion>,
    /// The modes that count.
    pub modes: Modes,
    /// What keeps IPVS from working, tried in a network namespace of its own.
    pub ipvs_missing: Option<String>,
    /// The scheduler that is configured.
    pub scheduler: String,
    /// What keeps iptables from working, by family.
    pub iptables_missing: Vec<String>,
    /// Settings below `/proc/sys`, by path with slashes.
    pub sysctls: BTreeMap<String, String>,
    /// The node serves IPv6.
    pub ipv6: bool,
    /// Node ports on 127.0.0.1 are wanted.
    pub localhost_node_ports: bool,
    /// Connections that are tracked.
    pub tracked: Option<u64>,
    /// Rules of each variant of iptables: family and program, then their number.
    pub rules: Vec<VariantRules>,
    /// Tables of nf_tables that iptables-nft cannot show whole.
    pub incompatible: Vec<String>,
    /// All virtual servers, and those of them that are ours.
    pub virtual_servers: Servers,
    /// Cluster's service ranges.
    pub service_ranges: Vec<IpNet>,
    /// The node's addresses with their interfaces.
    pub addresses: Vec<(IpAddr, String)>,
    /// Running processes that program Services: number and name.
    pub proxies: Vec<(u32, String)>,
    /// What kube-proxy left behind, or has: devices and chains.
    pub proxy_traces: Vec<String>,
    /// Who answers on kube-proxy's health port.
    pub healthz: Option<String>,
    /// Whether a daemon of ours runs in this network namespace.
    pub own_daemon: Option<u32>,
    /// MTU of the interfaces that are up, without loopback and our own.
    pub mtus: BTreeMap<String, u32>,
    /// Kernel threads that estimate rates.
    pub estimators: usize,
    /// Where the state lies, and why it cannot be written.
    pub state: (PathBuf, Option<String>),
    /// The policy of filter FORWARD, by family, if it drops.
    pub forward_drops: Vec<&'static str>,
}

/// The rules of a variant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VariantRules {
    /// `iptables` or `ip6tables`.
    pub program: &'static str,
    /// `nft` or `legacy`.
    pub variant: &'static str,
    /// How many there are.
    pub rules: usize,
    /// Whether chains of a service proxy are among them.
    pub services: bool,
}

/// The virtual servers of the node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Servers {
    /// How many there are.
    pub all: usize,
    /// Those that nobody recorded as ours.
    pub foreign: BTreeSet<String>,
    /// Schedulers in use.
    pub schedulers: BTreeSet<String>,
}

impl Facts {
    /// A setting, if the kernel has it.
    pub fn sysctl(&self, path: &str) -> Option<&str> {
        self.sysctls.get(path).map(String::as_str)
    }

    /// A setting that is a number.
    pub fn number(&self, path: &str) -> Option<u64> {
        self.sysctl(path)?.parse().ok()
    }
}
