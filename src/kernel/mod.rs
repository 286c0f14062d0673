//! What the data plane needs from the kernel besides IPVS itself: kube-ipvs0 and the routes to it, the node's own
//! addresses, ipsets, connection tracking, sysctls, and news about changes that others make.
//!
//! Everything but [`monitor`] blocks and speaks netlink directly: no forks, no external binaries. Changes go to the
//! kernel about a hundred messages a system call; each has a result of its own. A socket belongs to the network
//! namespace of the thread that opened it.

pub mod addresses;
mod attribute;
pub mod conntrack;
pub mod interface;
pub mod ipset;
pub mod monitor;
mod netfilter;
mod netlink;
mod rtnetlink;
pub mod sysctl;

use std::fmt;
use std::net::IpAddr;

pub use netlink::NetlinkError;

/// An IP family, as routes, addresses, sets and connections are kept apart by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IpFamily {
    /// IPv4, `AF_INET`.
    V4,
    /// IPv6, `AF_INET6`.
    V6,
}

impl IpFamily {
    /// The family of an address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// `AF_INET` (2) or `AF_INET6` (10).
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::V4 => 2,
            Self::V6 => 10,
        }
    }

    /// The family of an `AF_…` number, `None` for anything but IPv4 and IPv6.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        match number {
            2 => Some(Self::V4),
            10 => Some(Self::V6),
            _ => None,
        }
    }
}

impl fmt::Display for IpFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}
