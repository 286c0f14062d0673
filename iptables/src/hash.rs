//! kube-proxy's chain names: a prefix and sixteen characters of the base32 of a SHA-256.
//!
//! The names are part of what operators know; they equal those of `pkg/proxy/iptables/proxier.go`
//! (`portProtoHash`, `servicePortEndpointChainName`), bit for bit.

use data_encoding::BASE32;
use sha2::{Digest, Sha256};

use crate::ChainName;

/// `ns/name:port`, or `ns/name` where the port has no name: kube-proxy's `ServicePortName.String()`.
///
/// ```
/// assert_eq!(iptables::hash::service_port_name("default", "kubernetes", "https"), "default/kubernetes:https");
/// assert_eq!(iptables::hash::service_port_name("default", "web", ""), "default/web");
/// ```
#[must_use]
pub fn service_port_name(namespace: &str, name: &str, port: &str) -> String {
    if port.is_empty() { format!("{namespace}/{name}") } else { format!("{namespace}/{name}:{port}") }
}

/// The sixteen characters for one port of a service. `protocol` in any case.
#[must_use]
pub fn service_hash(service_port_name: &str, protocol: &str) -> String {
    sixteen(&[service_port_name, &protocol.to_ascii_lowercase()])
}

/// The sixteen characters for one endpoint (`ip:port`, `[ip6]:port`) of a service port.
#[must_use]
pub fn endpoint_hash(service_port_name: &str, protocol: &str, endpoint: &str) -> String {
    sixteen(&[service_port_name, &protocol.to_ascii_lowercase(), endpoint])
}

/// `KUBE-SVC-…`: all usable endpoints (traffic policy Cluster).
#[must_use]
pub fn service_chain(service_port_name: &str, protocol: &str) -> ChainName {
    named("KUBE-SVC-", &service_hash(service_port_name, protocol))
}

/// `KUBE-SVL-…`: the node's own endpoints (traffic policy Local).
#[must_use]
pub fn service_local_chain(service_port_name: &str, protocol: &str) -> ChainName {
    named("KUBE-SVL-", &service_hash(service_port_name, protocol))
}

/// `KUBE-EXT-…`: what comes in from outside (node ports, load-balancer and external addresses).
#[must_use]
pub fn external_chain(service_port_name: &str, protocol: &str) -> ChainName {
    named("KUBE-EXT-", &service_hash(service_port_name, protocol))
}

/// `KUBE-FW-…`: load-balancer source ranges.
#[must_use]
pub fn firewall_chain(service_port_name: &str, protocol: &str) -> ChainName {
    named("KUBE-FW-", &service_hash(service_port_name, protocol))
}

/// `KUBE-SEP-…`: one endpoint. `endpoint` as kube-proxy writes it: `10.0.0.1:80`, `[fd00::1]:80`.
#[must_use]
pub fn endpoint_chain(service_port_name: &str, protocol: &str, endpoint: &str) -> ChainName {
    named("KUBE-SEP-", &endpoint_hash(service_port_name, protocol, endpoint))
}

fn sixteen(parts: &[&str]) -> String {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update(part.as_bytes());
    }
    let mut text = BASE32.encode(digest.finalize().as_slice());
    text.truncate(16);
    text
}

fn named(prefix: &'static str, hash: &str) -> ChainName {
    // Nine characters and sixteen: always a valid name.
    ChainName::new(&format!("{prefix}{hash}")).unwrap_or(ChainName::from_static("KUBE-INVALID"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expected names taken from upstream's `proxier_test.go`.
    #[test]
    fn names_equal_kube_proxys() {
        assert_eq!(service_chain("ns1/svc1:p80", "TCP"), "KUBE-SVC-XPGD46QRK7WJZT7O");
        assert_eq!(endpoint_chain("ns1/svc1:p80", "tcp", "10.180.0.1:80"), "KUBE-SEP-SXIVWICOYRO3J4NJ");
        assert_eq!(service_chain("ns2/svc2:p80", "tcp"), "KUBE-SVC-GNZBNJ2PO5MGZ6GT");
        assert_eq!(service_local_chain("ns2/svc2:p80", "tcp"), "KUBE-SVL-GNZBNJ2PO5MGZ6GT");
        assert_eq!(external_chain("ns2/svc2:p80", "tcp"), "KUBE-EXT-GNZBNJ2PO5MGZ6GT");
        assert_eq!(firewall_chain("ns2/svc2:p80", "tcp"), "KUBE-FW-GNZBNJ2PO5MGZ6GT");
        assert_eq!(endpoint_chain("ns2/svc2:p80", "tcp", "10.180.0.2:80"), "KUBE-SEP-RS4RBKLTHTF2IUXJ");
        assert_eq!(service_chain("ns3/svc3:p80", "tcp"), "KUBE-SVC-X27LE4BHSL4DOUIK");
        // Every cluster has these two.
        assert_eq!(service_chain("default/kubernetes:https", "tcp"), "KUBE-SVC-NPX46M4PTMTKRN6Y");
        assert_eq!(service_chain("kube-system/kube-dns:dns", "udp"), "KUBE-SVC-TCOU7JCQXEZGVUNU");
    }
}
