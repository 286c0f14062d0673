//! The settings of a service proxy, each with its reason.

use super::KernelVersion;

/// When a setting is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum When {
    /// In both modes.
    Always,
    /// In both modes, where the node has IPv6.
    Ipv6,
    /// In IPVS mode.
    Ipvs,
    /// In IPVS mode on kernels `from..below`.
    IpvsOnKernels(KernelVersion, KernelVersion),
    /// In IPVS mode with strict ARP.
    StrictArp,
    /// When node ports are to be reached on 127.0.0.1.
    LocalhostNodePorts,
}

/// What the node is configured for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Needs {
    /// IPVS mode is in use.
    pub ipvs: bool,
    /// The node serves IPv6.
    pub ipv6: bool,
    /// Answer ARP for addresses of other interfaces only on those (needed by load balancers such as MetalLB).
    pub strict_arp: bool,
    /// Node ports on 127.0.0.1.
    pub localhost_node_ports: bool,
}

/// A setting: where, what, why and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Setting {
    /// The path below `/proc/sys`, with slashes.
    pub path: &'static str,
    /// The value that we need.
    pub value: &'static str,
    /// Why, in a sentence.
    pub why: &'static str,
    /// When it is wanted.
    pub when: When,
    /// Whether a greater number serves as well.
    pub at_least: bool,
}

impl Setting {
    const fn new(path: &'static str, value: &'static str, when: When, why: &'static str) -> Self {
        Self { path, value, why, when, at_least: false }
    }

    /// Whether a value that is there serves.
    #[must_use]
    pub fn is_satisfied_by(&self, found: &str) -> bool {
        let numbers = || Some((found.parse::<u64>().ok()?, self.value.parse::<u64>().ok()?));
        found == self.value || self.at_least && numbers().is_some_and(|(found, wanted)| found >= wanted)
    }

    fn is_wanted(&self, needs: &Needs, kernel: KernelVersion) -> bool {
        match self.when {
            When::Always => true,
            When::Ipv6 => needs.ipv6,
            When::Ipvs => needs.ipvs,
            When::IpvsOnKernels(from, below) => needs.ipvs && (from..below).contains(&kernel),
            When::StrictArp => needs.ipvs && needs.strict_arp,
            When::LocalhostNodePorts => needs.localhost_node_ports,
        }
    }
}

/// Lets packets from and to 127.0.0.0/8 pass by all devices.
pub const ROUTE_LOCALNET: &str = "net/ipv4/conf/all/route_localnet";

/// All settings that there are, in the order to apply them: `vs/conntrack` has to be set before the first virtual
/// server.
pub const ALL: &[Setting] = &[
    Setting::new(
        "net/ipv4/ip_forward",
        "1",
        When::Always,
        "packets for services go on to pods on this and other nodes",
    ),
    Setting::new(
        "net/ipv6/conf/all/forwarding",
        "1",
        When::Ipv6,
        "packets for services go on to pods on this and other nodes",
    ),
    Setting::new(
        "net/ipv4/vs/conntrack",
        "1",
        When::Ipvs,
        "IPVS connections are tracked, so that iptables can masquerade them; connections made before cannot be",
    ),
    Setting::new(
        "net/ipv4/vs/conn_reuse_mode",
        "0",
        When::IpvsOnKernels(KernelVersion::new(4, 1), KernelVersion::new(5, 9)),
        "with mode 1 these kernels drop the first packet of a connection whose client port is used again, which \
         costs the client a second; from 5.9 on mode 1 is right, and mode 0 would send new connections to \
         endpoints that drain",
    ),
    Setting::new(
        "net/ipv4/vs/expire_nodest_conn",
        "1",
        When::Ipvs,
        "packets of a connection whose endpoint was deleted end it instead of vanishing",
    ),
    Setting::new(
        "net/ipv4/vs/expire_quiescent_template",
        "1",
        When::Ipvs,
        "session affinity does not hold clients at an endpoint that drains (weight 0)",
    ),
    Setting {
        at_least: true,
        ..Setting::new(
            "net/ipv4/conf/all/arp_ignore",
            "1",
            When::StrictArp,
            "the node answers ARP only for addresses of the interface asked, not for service addresses",
        )
    },
    Setting {
        at_least: true,
        ..Setting::new(
            "net/ipv4/conf/all/arp_announce",
            "2",
            When::StrictArp,
            "the node does not announce service addresses as its own in ARP requests",
        )
    },
    Setting::new(
        ROUTE_LOCALNET,
        "1",
        When::LocalhostNodePorts,
        "packets from 127.0.0.1 may leave to pods after translation",
    ),
];

/// The settings wanted on a node with that kernel, in the order to apply them.
#[must_use]
pub fn settings(needs: &Needs, kernel: KernelVersion) -> Vec<Setting> {
    ALL.iter().filter(|setting| setting.is_wanted(needs, kernel)).copied().collect()
}
