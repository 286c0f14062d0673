//! What a listing shows, wherever it comes from: virtual servers with their real servers. Pure data; the reading
//! ([`super::from_ipvs`]) and the printing ([`super::format`]) know only this.

use crate::model::IpFamily;
use std::net::{IpAddr, Ipv4Addr};

/// A listing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// The kernel's IPVS; none where the table does not come from IPVS.
    pub header: Option<Header>,
    /// The virtual servers, in the order in which they are printed.
    pub servers: Vec<VirtualServer>,
}

/// The first line of an IPVS listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Version of the kernel's IPVS.
    pub version: (u8, u8, u8),
    /// Buckets of its connection table.
    pub size: u32,
}

/// A virtual server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VirtualServer {
    /// What it serves.
    pub frontend: Frontend,
    /// Name of the scheduler, for example `rr`.
    pub scheduler: String,
    /// The three flags that each scheduler may give a meaning, in the kernel's order.
    pub scheduler_flags: [bool; 3],
    /// Stickiness of clients.
    pub persistence: Option<Persistence>,
    /// Every packet is scheduled on its own.
    pub one_packet: bool,
    /// Where it sends to, in the order in which they are printed.
    pub real_servers: Vec<RealServer>,
}

/// What a virtual server serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Frontend {
    /// A protocol, address and port.
    Address {
        /// Protocol number of the IP header.
        protocol: u16,
        /// Virtual address.
        address: IpAddr,
        /// Virtual port.
        port: u16,
    },
    /// Packets with a firewall mark.
    Fwmark {
        /// The mark.
        mark: u32,
        /// Family of the packets.
        family: IpFamily,
    },
}

impl Frontend {
    /// Its family.
    #[must_use]
    pub fn family(&self) -> IpFamily {
        match *self {
            Self::Address { address, .. } => IpFamily::of(address),
            Self::Fwmark { family, .. } => family,
        }
    }
}

/// Clients stay with their real server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Persistence {
    /// For so many seconds.
    pub seconds: u32,
    /// Clients that are equal under it count as one.
    pub netmask: Netmask,
    /// Persistence engine, for example `sip`.
    pub engine: Option<String>,
}

/// Granularity of persistence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Netmask {
    /// Each address by itself.
    Host,
    /// IPv4 mask.
    V4(Ipv4Addr),
    /// IPv6 prefix length.
    V6(u32),
}

/// A real server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RealServer {
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// How packets get there.
    pub forward: Forward,
    /// Its share of new connections.
    pub weight: u32,
    /// Established connections.
    pub active_connections: u32,
    /// Connections in other states.
    pub inactive_connections: u32,
}

/// How packets get to a real server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Forward {
    /// Address translation.
    Masquerade,
    /// On this node.
    Local,
    /// Encapsulated.
    Tunnel,
    /// Unchanged, to its link-layer address.
    Route,
    /// A method for which `ipvsadm` has no name.
    Unnamed,
}
