//! Entries of sets: typed, ordered, written as `ipset` writes them.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

/// A transport protocol by its IANA number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Protocol(pub u8);

impl Protocol {
    /// TCP.
    pub const TCP: Self = Self(6);
    /// UDP.
    pub const UDP: Self = Self(17);
    /// SCTP.
    pub const SCTP: Self = Self(132);
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::TCP => f.write_str("tcp"),
            Self::UDP => f.write_str("udp"),
            Self::SCTP => f.write_str("sctp"),
            Self(136) => f.write_str("udplite"),
            Self(number) => write!(f, "{number}"),
        }
    }
}

/// An entry; which kind a set holds is decided by its type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Entry {
    /// Of `hash:ip`.
    Ip(IpAddr),
    /// Of `hash:ip,port`.
    IpPort {
        /// The first address.
        address: IpAddr,
        /// The protocol, which the kernel requires.
        protocol: Protocol,
        /// The port.
        port: u16,
    },
    /// Of `hash:ip,port,ip`.
    IpPortIp {
        /// The first address.
        address: IpAddr,
        /// The protocol, which the kernel requires.
        protocol: Protocol,
        /// The port.
        port: u16,
        /// The second address.
        second: IpAddr,
    },
    /// Of `hash:ip,port,net`.
    IpPortNet {
        /// The first address.
        address: IpAddr,
        /// The protocol, which the kernel requires.
        protocol: Protocol,
        /// The port.
        port: u16,
        /// The network; not of length 0, see [`storable_networks`].
        net: IpNet,
    },
    /// Of `hash:net`; not of length 0, see [`storable_networks`].
    Net(IpNet),
    /// Of `hash:net,port`.
    NetPort {
        /// The network; not of length 0, see [`storable_networks`].
        net: IpNet,
        /// The protocol, which the kernel requires.
        protocol: Protocol,
        /// The port.
        port: u16,
    },
    /// Of `bitmap:port`, which knows no protocol: a set for each.
    Port(u16),
}

/// A network as hash sets can hold it: they refuse length 0 (`IPSET_ERR_INVALID_CIDR`), so that "everywhere" takes two
/// entries.
pub fn storable_networks(net: IpNet) -> impl Iterator<Item = IpNet> {
    let halves = if net.prefix_len() == 0 { 1 } else { net.prefix_len() };
    net.trunc().subnets(halves).into_iter().flatten()
}

/// ipset leaves the length of a single address away.
struct Network(IpNet);

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.prefix_len() == self.0.max_prefix_len() { self.0.addr().fmt(f) } else { self.0.fmt(f) }
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => write!(f, "{address}"),
            Self::IpPort { address, protocol, port } => write!(f, "{address},{protocol}:{port}"),
            Self::IpPortIp { address, protocol, port, second } => write!(f, "{address},{protocol}:{port},{second}"),
            Self::IpPortNet { address, protocol, port, net } => {
                write!(f, "{address},{protocol}:{port},{}", Network(*net))
            }
            Self::Net(net) => Network(*net).fmt(f),
            Self::NetPort { net, protocol, port } => write!(f, "{},{protocol}:{port}", Network(*net)),
            Self::Port(port) => write!(f, "{port}"),
        }
    }
}

/// A firewall mark, as far as the mask covers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mark {
    /// The bits.
    pub value: u32,
    /// Which bits count; the others of a packet's mark stay.
    pub mask: u32,
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.value)?;
        if self.mask == u32::MAX { Ok(()) } else { write!(f, "/{:#x}", self.mask) }
    }
}

/// An entry with the mark that `-j SET --map-set … --map-mark` gives to packets that match it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryWithMark {
    /// The entry.
    pub entry: Entry,
    /// The mark; the set needs `skbinfo` for it.
    pub mark: Option<Mark>,
}

impl From<Entry> for EntryWithMark {
    fn from(entry: Entry) -> Self {
        Self { entry, mark: None }
    }
}

impl fmt::Display for EntryWithMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.entry.fmt(f)?;
        match self.mark {
            Some(mark) => write!(f, " skbmark {mark}"),
            None => Ok(()),
        }
    }
}
