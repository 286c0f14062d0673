//! Destinations (real servers) of a virtual server: configuration ([`Destination`]) and report ([`DestinationEntry`]).

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use netlink_packet_core::DefaultNla;

use crate::{AddressFamily, Stats};

/// How packets reach a destination.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ForwardMethod {
    /// Network address translation; the only one that can change the port.
    #[default]
    Masquerade,
    /// Deliver on this node.
    Local,
    /// Encapsulate ([`Destination::tunnel`] says how).
    Tunnel,
    /// Direct routing: the packet unchanged to the destination's link-layer address.
    DirectRoute,
    /// Cache bypass; the kernel uses it for its own connections.
    Bypass,
    /// One of the three values that the kernel has no meaning for (5 to 7).
    Other(u8),
}

impl ForwardMethod {
    /// `IP_VS_CONN_F_FWD_MASK`
    const MASK: u32 = 0x7;

    /// The kernel's number (`IP_VS_CONN_F_*`).
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::Masquerade => 0,
            Self::Local => 1,
            Self::Tunnel => 2,
            Self::DirectRoute => 3,
            Self::Bypass => 4,
            Self::Other(number) => number as u32 & Self::MASK,
        }
    }

    /// The method in a word of connection flags, whose other bits do not matter.
    #[must_use]
    pub const fn from_connection_flags(flags: u32) -> Self {
        match flags & Self::MASK {
            0 => Self::Masquerade,
            1 => Self::Local,
            2 => Self::Tunnel,
            3 => Self::DirectRoute,
            4 => Self::Bypass,
            5 => Self::Other(5),
            6 => Self::Other(6),
            _ => Self::Other(7),
        }
    }
}

/// `Masq`, `Local`, `Tunnel`, `Route`, `Bypass`: as `ipvsadm -Ln` and `/proc/net/ip_vs` name it.
impl fmt::Display for ForwardMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Masquerade => f.pad("Masq"),
            Self::Local => f.pad("Local"),
            Self::Tunnel => f.pad("Tunnel"),
            Self::DirectRoute => f.pad("Route"),
            Self::Bypass => f.pad("Bypass"),
            Self::Other(number) => f.pad(&format!("Forward{number}")),
        }
    }
}

/// Kind of encapsulation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TunnelKind {
    /// IP in IP, also IPv6 in IPv4 and the other way round.
    #[default]
    Ipip,
    /// Generic UDP encapsulation, to [`Tunnel::port`].
    Gue,
    /// Generic routing encapsulation.
    Gre,
    /// Another number.
    Other(u8),
}

impl TunnelKind {
    /// The kernel's number (`IP_VS_CONN_F_TUNNEL_TYPE_*`).
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Ipip => 0,
            Self::Gue => 1,
            Self::Gre => 2,
            Self::Other(number) => number,
        }
    }

    /// The kind with this number.
    #[must_use]
    pub const fn from_number(number: u8) -> Self {
        match number {
            0 => Self::Ipip,
            1 => Self::Gue,
            2 => Self::Gre,
            other => Self::Other(other),
        }
    }
}

impl fmt::Display for TunnelKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ipip => f.pad("ipip"),
            Self::Gue => f.pad("gue"),
            Self::Gre => f.pad("gre"),
            Self::Other(number) => f.pad(&number.to_string()),
        }
    }
}

bitflags::bitflags! {
    /// Flags of an encapsulation (`IP_VS_TUNNEL_ENCAP_FLAG_*`). Unknown bits are kept.
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
    pub struct TunnelFlags: u16 {
        /// With a checksum (GUE, GRE).
        const CHECKSUM = 0x1;
        /// Remote checksum offload (GUE).
        const REMOTE_CHECKSUM = 0x2;
        const _ = !0;
    }
}

/// Encapsulation of a destination whose method is [`ForwardMethod::Tunnel`] (kernel 5.3 and later; before it is
/// always IP in IP). The kernel keeps the values for the other methods, too, where they mean nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tunnel {
    /// Kind of encapsulation.
    pub kind: TunnelKind,
    /// UDP port of GUE, which the kernel wants to be other than 0 there.
    pub port: u16,
    /// Flags.
    pub flags: TunnelFlags,
}

/// The configuration of a destination. Address and port identify it within its virtual server.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Destination {
    /// Address. A family other than the virtual server's works for [`ForwardMethod::Tunnel`] only (kernel 3.18).
    pub address: IpAddr,
    /// Port. Without masquerading the kernel uses the virtual server's port whatever stands here.
    pub port: u16,
    /// How packets get there.
    pub forward: ForwardMethod,
    /// Weight; 0 means no new connections. The kernel refuses more than `i32::MAX` with `ERANGE`.
    pub weight: u32,
    /// From this many connections on it gets no new ones; 0: no limit.
    pub upper_threshold: u32,
    /// Below this many it gets new ones again; 0: three quarters of the upper. At most the upper, else `ERANGE`.
    pub lower_threshold: u32,
    /// Encapsulation.
    pub tunnel: Tunnel,
}

impl Destination {
    /// A destination that is reached by masquerading, without thresholds.
    #[must_use]
    pub fn new(address: IpAddr, port: u16, weight: u32) -> Self {
        Self {
            address,
            port,
            forward: ForwardMethod::Masquerade,
            weight,
            upper_threshold: 0,
            lower_threshold: 0,
            tunnel: Tunnel::default(),
        }
    }

    /// Family of its address.
    #[must_use]
    pub const fn family(&self) -> AddressFamily {
        AddressFamily::of(&self.address)
    }

    /// Address and port.
    #[must_use]
    pub const fn socket_address(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.port)
    }

    /// The same with another forwarding method.
    #[must_use]
    pub fn with_forward(mut self, forward: ForwardMethod) -> Self {
        self.forward = forward;
        self
    }

    /// The same with another weight.
    #[must_use]
    pub fn with_weight(mut self, weight: u32) -> Self {
        self.weight = weight;
        self
    }
}

/// `10.1.0.1:8080 Masq weight 1`, followed by what is not the default.
impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} weight {}", self.socket_address(), self.forward, self.weight)?;
        if (self.upper_threshold, self.lower_threshold) != (0, 0) {
            write!(f, " thresholds {}/{}", self.upper_threshold, self.lower_threshold)?;
        }
        if self.tunnel != Tunnel::default() {
            let Tunnel { kind, port, flags } = self.tunnel;
            write!(f, " tunnel {kind} port {port} flags {:#x}", flags.bits())?;
        }
        Ok(())
    }
}

/// A destination as the kernel reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DestinationEntry {
    /// Its configuration.
    pub destination: Destination,
    /// Connections that are established.
    pub active_connections: u32,
    /// Connections in any other state, for example waiting for their end; all UDP "connections".
    pub inactive_connections: u32,
    /// Clients that persistence binds to it.
    pub persistent_connections: u32,
    /// Its traffic.
    pub stats: Stats,
    /// Attributes that this crate does not know, as the kernel sent them.
    pub other: Vec<DefaultNla>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwarding_methods_ignore_the_other_connection_flags() {
        for number in 0..8 {
            let method = ForwardMethod::from_connection_flags(number | 0x0001_2100);
            assert_eq!(method.number(), number);
        }
        assert_eq!(ForwardMethod::from_connection_flags(0x103), ForwardMethod::DirectRoute);
    }

    #[test]
    fn display_shows_what_is_not_the_default() {
        let mut destination = Destination::new("2001:db8::1".parse().unwrap(), 80, 3);
        assert_eq!(destination.to_string(), "[2001:db8::1]:80 Masq weight 3");
        destination.forward = ForwardMethod::Tunnel;
        destination.tunnel = Tunnel { kind: TunnelKind::Gue, port: 6080, flags: TunnelFlags::CHECKSUM };
        destination.upper_threshold = 10;
        assert_eq!(
            destination.to_string(),
            "[2001:db8::1]:80 Tunnel weight 3 thresholds 10/0 tunnel gue port 6080 flags 0x1"
        );
    }
}
