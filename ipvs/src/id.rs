//! What a virtual server is known by: protocol, address and port, or a firewall mark.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// Transport protocol of a virtual server. The kernel balances TCP, UDP and SCTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
    /// Another protocol number. The kernel accepts it for a virtual server but never balances it.
    Other(u16),
}

impl Protocol {
    /// The protocol's number in the IP header, for example 6.
    #[must_use]
    pub const fn number(self) -> u16 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
            Self::Other(number) => number,
        }
    }

    /// The protocol with this number.
    #[must_use]
    pub const fn from_number(number: u16) -> Self {
        match number {
            6 => Self::Tcp,
            17 => Self::Udp,
            132 => Self::Sctp,
            other => Self::Other(other),
        }
    }
}

impl From<u16> for Protocol {
    fn from(number: u16) -> Self {
        Self::from_number(number)
    }
}

/// `TCP`, `UDP`, `SCTP`; otherwise `IP_` and the number, as the kernel names it in `/proc/net/ip_vs`.
impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp => f.pad("TCP"),
            Self::Udp => f.pad("UDP"),
            Self::Sctp => f.pad("SCTP"),
            Self::Other(number) => f.pad(&format!("IP_{number}")),
        }
    }
}

/// IPv4 or IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AddressFamily {
    /// `AF_INET`.
    Ipv4,
    /// `AF_INET6`.
    Ipv6,
}

impl AddressFamily {
    /// `AF_INET` (2) or `AF_INET6` (10).
    #[must_use]
    pub const fn number(self) -> u16 {
        match self {
            Self::Ipv4 => 2,
            Self::Ipv6 => 10,
        }
    }

    /// The family with this number, if it is one of the two.
    #[must_use]
    pub const fn from_number(number: u16) -> Option<Self> {
        match number {
            2 => Some(Self::Ipv4),
            10 => Some(Self::Ipv6),
            _ => None,
        }
    }

    /// The family of an address.
    #[must_use]
    pub const fn of(address: &IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::Ipv4,
            IpAddr::V6(_) => Self::Ipv6,
        }
    }
}

impl fmt::Display for AddressFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ipv4 => "IPv4",
            Self::Ipv6 => "IPv6",
        })
    }
}

/// The identity of a virtual server: what makes two of them the same. It cannot be changed, only deleted and added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ServiceId {
    /// Packets to this protocol, address and port.
    Address {
        /// Transport protocol.
        protocol: Protocol,
        /// Virtual address.
        address: IpAddr,
        /// Virtual port; 0 means every port, which the kernel uses for persistent services only.
        port: u16,
    },
    /// Packets of one family that carry this firewall mark, whatever their destination. The whole mark is compared,
    /// without a mask.
    Fwmark {
        /// The mark. 0 is not a mark: the kernel refuses it.
        mark: u32,
        /// Family of the packets and by default of the destinations. One mark can have a service in each family.
        family: AddressFamily,
    },
}

impl ServiceId {
    /// A virtual server on `address`:`port`.
    #[must_use]
    pub const fn new(protocol: Protocol, address: IpAddr, port: u16) -> Self {
        Self::Address { protocol, address, port }
    }

    /// A virtual server for a firewall mark.
    #[must_use]
    pub const fn fwmark(mark: u32, family: AddressFamily) -> Self {
        Self::Fwmark { mark, family }
    }

    /// Family of the virtual server.
    #[must_use]
    pub const fn family(&self) -> AddressFamily {
        match self {
            Self::Address { address, .. } => AddressFamily::of(address),
            Self::Fwmark { family, .. } => *family,
        }
    }
}

/// `TCP 10.0.0.1:80`, `UDP [2001:db8::1]:53`, `FWM 7`, `FWM 7 IPv6`: as `ipvsadm -Ln` names it, single spaces.
impl fmt::Display for ServiceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address { protocol, address, port } => write!(f, "{protocol} {}", SocketAddr::new(*address, *port)),
            Self::Fwmark { mark, family: AddressFamily::Ipv4 } => write!(f, "FWM {mark}"),
            Self::Fwmark { mark, family: AddressFamily::Ipv6 } => write!(f, "FWM {mark} IPv6"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_read_like_ipvsadm() {
        let v4 = ServiceId::new(Protocol::Tcp, "10.0.0.1".parse().unwrap(), 80);
        let v6 = ServiceId::new(Protocol::Udp, "2001:db8::1".parse().unwrap(), 53);
        assert_eq!(v4.to_string(), "TCP 10.0.0.1:80");
        assert_eq!(v6.to_string(), "UDP [2001:db8::1]:53");
        assert_eq!(ServiceId::fwmark(7, AddressFamily::Ipv4).to_string(), "FWM 7");
        assert_eq!(ServiceId::fwmark(7, AddressFamily::Ipv6).to_string(), "FWM 7 IPv6");
        assert_eq!(v6.family(), AddressFamily::Ipv6);
    }

    #[test]
    fn protocol_numbers_go_both_ways() {
        for number in 0..=300 {
            assert_eq!(Protocol::from_number(number).number(), number);
        }
        assert_eq!(Protocol::from(132), Protocol::Sctp);
    }
}
