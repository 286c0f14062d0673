//! The sets and chains of IPVS mode. None of them has a name that iptables mode or kube-proxy uses, so that retiring
//! one mode cannot touch the other.

use crate::backend::rules::chain_names;
use crate::kernel::ipset::{SetSpec, SetType};
use crate::model::IpFamily;
use iptables::{ChainName, Table};

/// The device that service addresses are routed to.
pub const INTERFACE: &str = "kube-ipvs0";

/// The two ends of the detour that packets to node ports on localhost take.
pub const DETOUR: [&str; 2] = ["kube-ipvs-lo0", "kube-ipvs-lo1"];

/// What a set of ours is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Set {
    /// Cluster IP and port: masqueraded for senders from outside the cluster.
    ClusterIp,
    /// External address (node ports too) and port with Cluster policy: always masqueraded.
    External,
    /// External address and port with Local policy: senders keep their address.
    ExternalLocal,
    /// Endpoint address, port, and the address once more: a pod that reaches itself is masqueraded.
    LoopBack,
    /// Addresses and ranges that are served here: whatever no service has on them is refused.
    Addresses,
    /// Load-balancer address and port that only some senders may use.
    Restricted,
    /// Load-balancer address and port, and a network whose senders may use it.
    Admitted,
    /// Shadow address and port: what pods and the node are sent to where strangers get [`Set::ExternalLocal`].
    Shadow,
    /// Address and port whose policy forbids all endpoints that there are: dropped, not refused.
    Dropped,
    /// Address and port that pods and the node are sent on from, to the shadow.
    Mapped,
    /// 127.0.0.0/8 and a node port: node ports that are served on localhost.
    Localhost,
    /// Client, its port, and service address whose earlier connection IPVS is made to forget at this instant. Its entries come
    /// and go within one; no plan has them.
    Forgotten,
}

impl Set {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::ClusterIp,
        Self::External,
        Self::ExternalLocal,
        Self::LoopBack,
        Self::Addresses,
        Self::Restricted,
        Self::Admitted,
        Self::Shadow,
        Self::Dropped,
        Self::Mapped,
        Self::Localhost,
        Self::Forgotten,
    ];

    /// Those that say what becomes of packets and record nothing; each entry is asked for by one service port.
    pub const VERDICTS: [Self; 5] = [Self::Restricted, Self::Admitted, Self::Dropped, Self::Mapped, Self::Localhost];

    /// Those whose entries are an address and port of a virtual server of ours: together they are the ledger of what
    /// we own.
    pub const LEDGER: [Self; 4] = [Self::ClusterIp, Self::External, Self::ExternalLocal, Self::Shadow];

    /// Whether its entries send packets elsewhere, which must be ready for them.
    pub fn diverts(self) -> bool {
        matches!(self, Self::Mapped | Self::Localhost)
    }

    /// The name in the kernel, at most 31 bytes.
    pub fn name(self, family: IpFamily) -> &'static str {
        match (self, family) {
            (Self::ClusterIp, IpFamily::V4) => "KUBE-IPVS-CLUSTER-IP",
            (Self::ClusterIp, IpFamily::V6) => "KUBE-IPVS-CLUSTER-IP-6",
            (Self::External, IpFamily::V4) => "KUBE-IPVS-EXTERNAL",
            (Self::External, IpFamily::V6) => "KUBE-IPVS-EXTERNAL-6",
            (Self::ExternalLocal, IpFamily::V4) => "KUBE-IPVS-EXTERNAL-LOCAL",
            (Self::ExternalLocal, IpFamily::V6) => "KUBE-IPVS-EXTERNAL-LOCAL-6",
            (Self::LoopBack, IpFamily::V4) => "KUBE-IPVS-LOOP-BACK",
            (Self::LoopBack, IpFamily::V6) => "KUBE-IPVS-LOOP-BACK-6",
            (Self::Addresses, IpFamily::V4) => "KUBE-IPVS-ADDRESSES",
            (Self::Addresses, IpFamily::V6) => "KUBE-IPVS-ADDRESSES-6",
            (Self::Restricted, IpFamily::V4) => "KUBE-IPVS-RESTRICTED",
            (Self::Restricted, IpFamily::V6) => "KUBE-IPVS-RESTRICTED-6",
            (Self::Admitted, IpFamily::V4) => "KUBE-IPVS-ADMITTED",
            (Self::Admitted, IpFamily::V6) => "KUBE-IPVS-ADMITTED-6",
            (Self::Shadow, IpFamily::V4) => "KUBE-IPVS-SHADOW",
            (Self::Shadow, IpFamily::V6) => "KUBE-IPVS-SHADOW-6",
            (Self::Dropped, IpFamily::V4) => "KUBE-IPVS-DROPPED",
            (Self::Dropped, IpFamily::V6) => "KUBE-IPVS-DROPPED-6",
            (Self::Mapped, IpFamily::V4) => "KUBE-IPVS-MAPPED",
            (Self::Mapped, IpFamily::V6) => "KUBE-IPVS-MAPPED-6",
            (Self::Localhost, IpFamily::V4) => "KUBE-IPVS-LOCALHOST",
            (Self::Localhost, IpFamily::V6) => "KUBE-IPVS-LOCALHOST-6",
            (Self::Forgotten, IpFamily::V4) => "KUBE-IPVS-FORGOTTEN",
            (Self::Forgotten, IpFamily::V6) => "KUBE-IPVS-FORGOTTEN-6",
        }
    }

    /// How it is made.
    pub fn spec(self, family: IpFamily) -> SetSpec {
        let set_type = match self {
            Self::ClusterIp | Self::External | Self::ExternalLocal => SetType::HashIpPort,
            Self::Restricted | Self::Shadow | Self::Dropped | Self::Mapped => SetType::HashIpPort,
            Self::Localhost => SetType::HashNetPort,
            Self::Admitted => SetType::HashIpPortNet,
            Self::LoopBack | Self::Forgotten => SetType::HashIpPortIp,
            Self::Addresses => SetType::HashNet,
        };
        let spec = SetSpec::new(self.name(family), set_type, family);
        // Whatever becomes of us, nobody is held back for longer than that.
        if self == Self::Forgotten { spec.with_timeout(2) } else { spec }
    }
}

chain_names! {
    /// nat: decides who is marked for masquerading.
    services = "KUBE-IPVS-SERVICES";
    /// nat: marks.
    mark_masq = "KUBE-IPVS-MARK-MASQ";
    /// nat: marks what comes from outside of several pod ranges.
    off_cluster = "KUBE-IPVS-OFF-CLUSTER";
    /// nat: masquerades what is marked, and pods that reach themselves.
    postrouting = "KUBE-IPVS-POSTROUTING";
    /// filter: accepts what is forwarded for services.
    forward = "KUBE-IPVS-FORWARD";
    /// mangle: drops senders that the source ranges of a load balancer don't admit.
    firewall = "KUBE-IPVS-FIREWALL";
    /// filter: refuses what no service has on service addresses.
    guard = "KUBE-IPVS-GUARD";
    /// filter: what the `route_localnet` of iptables mode would let in from outside.
    localnet_guard = "KUBE-IPVS-LOCALNET-GUARD";
    /// mangle, while IPVS mode hands over: drops new connections for the instant in which IPVS forgets what their address and
    /// port was used for before.
    pause = "KUBE-IPVS-PAUSE";
}

/// All chains of this mode; the one place where ownership is decided.
pub fn chains() -> [(Table, ChainName); 9] {
    [
        (Table::Mangle, firewall()),
        (Table::Mangle, pause()),
        (Table::Nat, services()),
        (Table::Nat, mark_masq()),
        (Table::Nat, off_cluster()),
        (Table::Nat, postrouting()),
        (Table::Filter, forward()),
        (Table::Filter, guard()),
        (Table::Filter, localnet_guard()),
    ]
}

/// How far from the kernel's chains a chain of ours is: it only jumps to deeper ones.
pub fn depth(chain: &ChainName) -> u8 {
    match chain.as_str() {
        "KUBE-IPVS-OFF-CLUSTER" => 1,
        "KUBE-IPVS-MARK-MASQ" => 2,
        _ => 0,
    }
}
