//! The chains of this mode. Names and hashes are kube-proxy's, so that everything written about reading its rules
//! stays true; helpers of IPVS mode never use one of them.

use crate::backend::kube_proxy::names as kube_proxy;
use crate::backend::rules::{chain_names, scratch};
use crate::desired::ServiceChains;
use iptables::{ChainName, Table};
use std::net::IpAddr;

chain_names! {
    /// nat: every service address; filter: refusals on cluster IPs.
    services = "KUBE-SERVICES";
    /// filter: refusals on external addresses and node ports.
    external_services = "KUBE-EXTERNAL-SERVICES";
    /// nat: node ports; filter: health check ports.
    node_ports = "KUBE-NODEPORTS";
    /// nat: masquerades what is marked.
    postrouting = "KUBE-POSTROUTING";
    /// nat: marks for masquerading.
    mark_masq = "KUBE-MARK-MASQ";
    /// nat: marks what comes from outside of several pod ranges.
    off_cluster = "KUBE-MARK-OFF-CLUSTER";
    /// filter: accepts what is forwarded for services.
    forward = "KUBE-FORWARD";
    /// filter: drops what the source ranges of a load balancer don't admit.
    proxy_firewall = "KUBE-PROXY-FIREWALL";
    /// filter: what is sent to service addresses and was not translated. Not one of kube-proxy's.
    untranslated = "KUBE-UNTRANSLATED";
    /// filter: refuses ports that no service has on its cluster IP. Not one of kube-proxy's.
    cluster_ips = "KUBE-CLUSTER-IPS";
    /// filter: what `route_localnet` would let in from outside.
    localnet_guard = "KUBE-LOCALNET-GUARD";
}

/// The prefixes of per-service chains, all in nat.
pub const SERVICE_PREFIXES: [&str; 5] = ["KUBE-SVC-", "KUBE-SVL-", "KUBE-EXT-", "KUBE-FW-", "KUBE-SEP-"];

/// The prefix of the chains of service addresses that end alike, in nat. Not one of kube-proxy's.
const ADDRESSES_PREFIX: &str = "KUBE-ADDR-";

/// The chain of the service addresses that end with these eight bits.
pub fn addresses(last_bits: u8) -> ChainName {
    // Ten characters and two: always a valid name.
    ChainName::new(&format!("{ADDRESSES_PREFIX}{last_bits:02X}")).unwrap_or(services())
}

/// The last eight bits of an address. Cluster IPs are drawn at random from a range of any size: these are as evenly spread.
pub fn last_bits(address: IpAddr) -> u8 {
    let last = match address {
        IpAddr::V4(address) => address.octets().last().copied(),
        IpAddr::V6(address) => address.octets().last().copied(),
    };
    last.unwrap_or_default()
}

/// The chains to which every service port adds rules of its own.
pub fn shared(layout: ServiceChains) -> impl Iterator<Item = (Table, ChainName)> {
    let by_address = (0..=u8::MAX).filter(move |_| layout == ServiceChains::ByAddress);
    shared_always().into_iter().chain(by_address.map(|bits| (Table::Nat, addresses(bits))))
}

fn shared_always() -> [(Table, ChainName); 7] {
    [
        (Table::Nat, services()),
        (Table::Nat, node_ports()),
        (Table::Filter, services()),
        (Table::Filter, external_services()),
        (Table::Filter, node_ports()),
        (Table::Filter, proxy_firewall()),
        (Table::Filter, cluster_ips()),
    ]
}

/// Whether a chain is one of service addresses that end alike.
pub fn is_of_addresses(table: Table, chain: &ChainName) -> bool {
    table == Table::Nat && chain.starts_with(ADDRESSES_PREFIX)
}

/// The chains whose content does not depend on services.
pub fn fixed() -> [(Table, ChainName); 6] {
    [
        (Table::Nat, mark_masq()),
        (Table::Nat, off_cluster()),
        (Table::Nat, postrouting()),
        (Table::Filter, forward()),
        (Table::Filter, localnet_guard()),
        (Table::Filter, untranslated()),
    ]
}

/// Whether a chain belongs to this mode. The one place where ownership is decided. The names are kube-proxy's, so that
/// what it left is ours too: chains of these names are rewritten, and those that only its IPVS mode has are removed.
pub fn is_ours(table: Table, chain: &ChainName) -> bool {
    let is = |(t, name): &(Table, ChainName)| *t == table && name == chain;
    let constant = is_shared(table, chain) || fixed().iter().any(is) || *chain == scratch();
    is_of_one(table, chain) || constant || kube_proxy::chains().iter().any(is)
}

/// Whether a chain is a single service's.
pub fn is_of_one(table: Table, chain: &ChainName) -> bool {
    table == Table::Nat && SERVICE_PREFIXES.iter().any(|prefix| chain.starts_with(prefix))
}

/// Whether a chain of this mode is none of kube-proxy's.
pub fn is_ours_alone(table: Table, chain: &ChainName) -> bool {
    let alone = [
        (Table::Nat, off_cluster()),
        (Table::Filter, untranslated()),
        (Table::Filter, cluster_ips()),
        (Table::Filter, localnet_guard()),
    ];
    *chain == scratch() || is_of_addresses(table, chain) || alone.iter().any(|(t, name)| *t == table && name == chain)
}

/// Whether services add rules of their own to a chain.
pub fn is_shared(table: Table, chain: &ChainName) -> bool {
    is_of_addresses(table, chain) || shared_always().iter().any(|(t, name)| *t == table && name == chain)
}

/// How far from the kernel's chains a chain of ours is: it only jumps to deeper ones.
pub fn depth(chain: &ChainName) -> u8 {
    let prefixes: [(&str, u8); 6] = [
        (ADDRESSES_PREFIX, 1),
        ("KUBE-FW-", 2),
        ("KUBE-EXT-", 3),
        ("KUBE-SVC-", 4),
        ("KUBE-SVL-", 4),
        ("KUBE-SEP-", 5),
    ];
    if let Some((_, depth)) = prefixes.iter().find(|(prefix, _)| chain.starts_with(prefix)) {
        return *depth;
    }
    match chain.as_str() {
        "KUBE-MARK-OFF-CLUSTER" => 6,
        "KUBE-MARK-MASQ" => 7,
        "KUBE-NODEPORTS" | "KUBE-CLUSTER-IPS" => 1,
        "KUBE-NODE-PORT" | "KUBE-LOAD-BALANCER" | "KUBE-SOURCE-RANGES-FIREWALL" => 1,
        "KUBE-FIREWALL" => 2,
        _ => 0,
    }
}
