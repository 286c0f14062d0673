//! Which hosts a lab has and where they are. Data only; `cluster.rs` builds it.
//!
//! ```text
//!   local pods ──veth──┐                              ┌──veth── pods of other nodes
//!   (/32 and /128,     │                              │
//!    default route     ├── node ──eth0──────── router ┤         (everything they send
//!    to the node)      │        └─eth1─(nothing)      │          goes to the node first)
//!   local pods ──veth──┘                              └──veth── clients outside
//! ```
//!
//! The router stands for the network beyond `eth0`. Whatever a host there sends has the node as its next hop, so
//! that answers to connections that the node translated without masquerading find their way back through it. What
//! comes from the node goes straight to its host.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Where a host lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// On the node: a pod with a routed veth.
    OnNode,
    /// Beyond `eth0`: a pod of another node or a client.
    BeyondEth0,
}

/// A host with one address per family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostSpec {
    /// Unique name; what it answers with when asked who it is.
    pub name: String,
    /// Where it is attached.
    pub place: Place,
    /// Its IPv4 address, a /32.
    pub ipv4: Ipv4Addr,
    /// Its IPv6 address, a /128.
    pub ipv6: Ipv6Addr,
    /// Further addresses that it takes packets for and may send from, without having any of them on a link.
    pub ranges: Vec<IpNet>,
}

impl HostSpec {
    /// A host called `name` at `place`.
    #[must_use]
    pub fn new(name: impl Into<String>, place: Place, ipv4: Ipv4Addr, ipv6: Ipv6Addr) -> Self {
        Self { name: name.into(), place, ipv4, ipv6, ranges: Vec::new() }
    }
}

/// An interface of the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Such as `eth0`.
    pub name: String,
    /// Address and prefix length.
    pub ipv4: Ipv4Net,
    /// Address and prefix length.
    pub ipv6: Ipv6Net,
}

/// A whole lab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology {
    /// Name of the node's namespace and what the node answers with.
    pub node: String,
    /// The interface with the default route; everything that is not a local pod is behind it.
    pub uplink: Interface,
    /// The router's addresses on the uplink: the node's default gateways.
    pub gateway: (Ipv4Addr, Ipv6Addr),
    /// Further interfaces with addresses and nobody behind them.
    pub idle_interfaces: Vec<Interface>,
    /// All other hosts.
    pub hosts: Vec<HostSpec>,
    /// Ranges that a host beyond `eth0` takes packets for when they leave the node untranslated; empty: no such host, and
    /// the router calls them unreachable.
    pub sink: Vec<IpNet>,
}

impl Topology {
    /// A node with `eth0` 192.168.0.2/24 and 2001:db8::2/64, and no other host yet.
    #[must_use]
    pub fn with_node(name: &str) -> Self {
        let documentation = |last| Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last);
        Self {
            node: name.to_owned(),
            uplink: Interface {
                name: "eth0".to_owned(),
                ipv4: net4(Ipv4Addr::new(192, 168, 0, 2), 24),
                ipv6: net6(documentation(2), 64),
            },
            gateway: (Ipv4Addr::new(192, 168, 0, 1), documentation(1)),
            idle_interfaces: Vec::new(),
            hosts: Vec::new(),
            sink: Vec::new(),
        }
    }

    /// The demo's cluster: three pods on `demo-node`, two on another node, one client outside.
    #[must_use]
    pub fn demo() -> Self {
        let mut topology = Self::with_node("demo-node");
        for number in 1..=3_u8 {
            let ipv6 = Ipv6Addr::new(0xfd00, 0x10, 0x180, 0, 0, 0, 0, number.into());
            let ipv4 = Ipv4Addr::new(10, 180, 0, number);
            topology.hosts.push(HostSpec::new(format!("pod-{number}"), Place::OnNode, ipv4, ipv6));
        }
        for number in 1..=2_u8 {
            let ipv6 = Ipv6Addr::new(0xfd00, 0x10, 0x180, 1, 0, 0, 0, number.into());
            let ipv4 = Ipv4Addr::new(10, 180, 1, number);
            topology.hosts.push(HostSpec::new(format!("far-pod-{number}"), Place::BeyondEth0, ipv4, ipv6));
        }
        let client = Ipv6Addr::new(0x2001, 0xdb8, 0x99, 0, 0, 0, 0, 2);
        topology.hosts.push(HostSpec::new("client", Place::BeyondEth0, Ipv4Addr::new(203, 0, 113, 2), client));
        topology
    }
}

/// `address/length`, or the address alone if `length` is out of range.
fn net4(address: Ipv4Addr, length: u8) -> Ipv4Net {
    Ipv4Net::new(address, length).unwrap_or_else(|_| Ipv4Net::from(address))
}

/// `address/length`, or the address alone if `length` is out of range.
fn net6(address: Ipv6Addr, length: u8) -> Ipv6Net {
    Ipv6Net::new(address, length).unwrap_or_else(|_| Ipv6Net::from(address))
}
