//! What kube-proxy calls its objects, of Kubernetes 1.36 and before: `ipsetInfo` and `iptablesChains` in
//! pkg/proxy/ipvs, `kubeProxyTable` in pkg/proxy/nftables, the accounting objects and the canary of pkg/proxy/iptables.
//!
//! Names that it shares with others are not here: `KUBE-FIREWALL` and `KUBE-MARK-DROP` are the kubelet's as well,
//! `KUBE-KUBELET-CANARY` and `KUBE-IPTABLES-HINT` the kubelet's alone.

use crate::kernel::ipset::Protocol;
use crate::model::IpFamily;
use iptables::{ChainName, Table};

/// The table of nftables mode, one for each family.
pub const TABLE: &str = "kube-proxy";

/// Accounting objects of iptables mode, which are of no family.
pub const ACCOUNTS: [&str; 2] = ["ct_state_invalid_dropped_pkts", "localhost_nps_accepted_pkts"];

/// Sets whose entries are the address and port of a virtual server that kube-proxy made.
pub const SERVERS: [&str; 4] = ["KUBE-CLUSTER-IP", "KUBE-EXTERNAL-IP", "KUBE-EXTERNAL-IP-LOCAL", "KUBE-LOAD-BALANCER"];

/// Sets of ports that have a virtual server on every node address. Those of SCTP have the addresses in them.
pub const NODE_PORTS: [(&str, Protocol); 8] = [
    ("KUBE-NODE-PORT-TCP", Protocol::TCP),
    ("KUBE-NODE-PORT-LOCAL-TCP", Protocol::TCP),
    ("KUBE-NODE-PORT-UDP", Protocol::UDP),
    ("KUBE-NODE-PORT-LOCAL-UDP", Protocol::UDP),
    ("KUBE-NODE-PORT-SCTP-HASH", Protocol::SCTP),
    ("KUBE-NODE-PORT-LOCAL-SCTP-HASH", Protocol::SCTP),
    // Before 1.13.
    ("KUBE-NODE-PORT-SCTP", Protocol::SCTP),
    ("KUBE-NODE-PORT-LOCAL-SCTP", Protocol::SCTP),
];

/// The other sets.
const REST: [&str; 7] = [
    "KUBE-LOOP-BACK",
    "KUBE-LOAD-BALANCER-FW",
    "KUBE-LOAD-BALANCER-LOCAL",
    "KUBE-LOAD-BALANCER-SOURCE-IP",
    "KUBE-LOAD-BALANCER-SOURCE-CIDR",
    "KUBE-HEALTH-CHECK-NODE-PORT",
    "KUBE-IPVS-IPS",
];

/// The longest name that a set can have.
const LONGEST: usize = 31;

/// The name of a set in a family: that of IPv6 has a 6 in it and is cut off (`NewIPSet`).
pub fn set_name(name: &str, family: IpFamily) -> String {
    match family {
        IpFamily::V4 => name.to_owned(),
        IpFamily::V6 => name.replacen("KUBE-", "KUBE-6-", 1).chars().take(LONGEST).collect(),
    }
}

/// The names of all sets of a family.
pub fn sets(family: IpFamily) -> Vec<String> {
    let all = SERVERS.into_iter().chain(NODE_PORTS.into_iter().map(|(name, _)| name)).chain(REST);
    all.map(|name| set_name(name, family)).collect()
}

/// The chain by which kube-proxy notices that somebody flushed the rules, in the table that neither mode of ours reads.
pub fn canary() -> ChainName {
    ChainName::from_static("KUBE-PROXY-CANARY")
}

/// Chains of kube-proxy that iptables mode does not have: those of its IPVS mode, and the canary. Beside them kube-proxy
/// has the names that iptables mode took over.
pub fn chains() -> [(Table, ChainName); 9] {
    let chain = ChainName::from_static;
    [
        (Table::Nat, chain("KUBE-NODE-PORT")),
        (Table::Nat, chain("KUBE-LOAD-BALANCER")),
        // Before 1.25; the kubelet's chain of this name is in filter.
        (Table::Nat, chain("KUBE-FIREWALL")),
        (Table::Nat, canary()),
        (Table::Filter, chain("KUBE-NODE-PORT")),
        (Table::Filter, chain("KUBE-SOURCE-RANGES-FIREWALL")),
        (Table::Filter, chain("KUBE-IPVS-FILTER")),
        (Table::Filter, chain("KUBE-IPVS-OUT-FILTER")),
        (Table::Filter, canary()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_named_as_kube_proxy_names_them() {
        assert_eq!(set_name("KUBE-CLUSTER-IP", IpFamily::V4), "KUBE-CLUSTER-IP");
        assert_eq!(set_name("KUBE-CLUSTER-IP", IpFamily::V6), "KUBE-6-CLUSTER-IP");
        assert_eq!(set_name("KUBE-NODE-PORT-LOCAL-SCTP-HASH", IpFamily::V6), "KUBE-6-NODE-PORT-LOCAL-SCTP-HAS");
        assert_eq!(set_name("KUBE-LOAD-BALANCER-SOURCE-CIDR", IpFamily::V6), "KUBE-6-LOAD-BALANCER-SOURCE-CID");
        assert!(sets(IpFamily::V6).iter().all(|name| name.len() <= LONGEST));
        // 17 in 1.36, and two of before.
        assert_eq!(sets(IpFamily::V4).len(), 19);
    }
}
