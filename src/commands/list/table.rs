//! What a listing shows, wherever it comes from: virtual servers with their real servers. Pure data; the reading
//! ([`super::from_ipvs`]) and the printing ([`super::format`]) know only this.

use crate::model::IpFamily;
use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr};

pub use ipvs::{Stats as Traffic, Tunnel};

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
    pub scheduler: Cow<'static, str>,
    /// The three flags that each scheduler may give a meaning, in the kernel's order.
    pub scheduler_flags: [bool; 3],
    /// Stickiness of clients.
    pub persistence: Option<Persistence>,
    /// Persistence engine, for example `sip`.
    pub engine: Option<String>,
    /// Every packet is scheduled on its own.
    pub one_packet: bool,
    /// Its traffic.
    pub traffic: Traffic,
    /// Packets that rules refused as it has no real servers; 0 in IPVS mode, where nobody counts them.
    pub refused: u64,
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Persistence {
    /// For so many seconds.
    pub seconds: u32,
    /// Clients that are equal under it count as one.
    pub netmask: Netmask,
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
#[derive(Debug, Clone, PartialEq, Eq)]
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
    /// What only some listings show; not read for the others.
    pub details: Option<Box<Details>>,
}

/// What only some listings show of a real server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Details {
    /// Its traffic.
    pub traffic: Traffic,
    /// Clients that persistence binds to it.
    pub persistent_connections: u32,
    /// From this many connections on it gets no new ones; 0: no limit.
    pub upper_threshold: u32,
    /// Below this many it gets new ones again.
    pub lower_threshold: u32,
    /// Encapsulation, with [`Forward::Tunnel`].
    pub tunnel: Tunnel,
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
