//! Shadow addresses: the second destination list of an address.
//!
//! A virtual server has one list, but an address with `externalTrafficPolicy: Local` needs two: this node's endpoints
//! for strangers, all endpoints for pods and the node itself. Their packets are mapped to the address's shadow
//! (`-j NETMAP`, one rule for all services) before IPVS sees them, and a virtual server stands there. Why not a firewall
//! mark: docs/decisions/0014-shadow-addresses.md.

use crate::model::IpFamily;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Nobody sends to these: "reserved for future use" (RFC 1112), and routed by Linux like any other unicast.
const V4: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(240, 0, 0, 0), 4);
/// Not assigned to anybody (RFC 4291, 2.4: reserved by IETF); in the kernel's eyes global unicast.
const V6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0x4000, 0, 0, 0, 0, 0, 0, 0), 3);

/// Where node ports on localhost are served: the shadow of 127.0.0.1.
pub const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::new(255, 0, 0, 1));
/// What 127.0.0.0/8 is translated to, so that packets take the way over the loop (`kernel/interface/detour.rs`).
pub const LOCALHOST_OUT: Ipv4Addr = Ipv4Addr::new(255, 0, 0, 2);
/// Their source on that way: IPVS lets no packet from 127.0.0.1 leave the node (`crosses_local_route_boundary`).
pub const LOCALHOST_SOURCE: Ipv4Addr = Ipv4Addr::new(255, 0, 0, 3);

/// The range that shadows lie in.
pub fn range(family: IpFamily) -> IpNet {
    match family {
        IpFamily::V4 => IpNet::V4(V4),
        IpFamily::V6 => IpNet::V6(V6),
    }
}

/// Whether an address is a shadow.
pub fn is_one(address: IpAddr) -> bool {
    range(IpFamily::of(address)).contains(&address)
}

/// The shadow of an address, as `-j NETMAP --to` [`range`] computes it: the first 4 (or 3) bits are the range's. Addresses
/// that differ in nothing else share a shadow, which takes addresses such as 10.0.0.5 and 26.0.0.5 in one cluster, both
/// with that policy and with the same port.
pub fn of(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(ip) => IpAddr::V4((V4.network().to_bits() | (ip.to_bits() & V4.hostmask().to_bits())).into()),
        IpAddr::V6(ip) => IpAddr::V6((V6.network().to_bits() | (ip.to_bits() & V6.hostmask().to_bits())).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shadows_keep_all_but_the_first_bits() {
        for (address, shadow) in [
            ("192.168.0.2", "240.168.0.2"),
            ("10.96.0.1", "250.96.0.1"),
            ("172.16.5.6", "252.16.5.6"),
            ("198.51.100.18", "246.51.100.18"),
            ("2001:db8:9999::18", "4001:db8:9999::18"),
            ("fd00:172:30::1", "5d00:172:30::1"),
        ] {
            assert_eq!(of(address.parse().unwrap()), shadow.parse::<IpAddr>().unwrap(), "{address}");
        }
        assert_eq!(of(Ipv4Addr::LOCALHOST.into()), LOCALHOST);
        assert_eq!(range(IpFamily::V4).to_string(), "240.0.0.0/4");
        assert_eq!(range(IpFamily::V6).to_string(), "4000::/3");
    }
}
