//! Messages of `NETLINK_ROUTE`: `netlink-packet-route`'s codec between typed messages and the socket's bytes.

use netlink_packet_core::{NetlinkHeader, NetlinkMessage, NetlinkPayload, ParseableParametrized};
use netlink_packet_route::route::RouteAddress;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use std::net::IpAddr;

use super::IpFamily;
use super::netlink::{NetlinkError, Socket};

/// `NETLINK_ROUTE`.
const PROTOCOL: isize = 0;

impl From<IpFamily> for AddressFamily {
    fn from(family: IpFamily) -> Self {
        match family {
            IpFamily::V4 => Self::Inet,
            IpFamily::V6 => Self::Inet6,
        }
    }
}

pub fn open() -> Result<Socket, NetlinkError> {
    Socket::open(PROTOCOL)
}

/// The bytes of a message; the socket numbers it.
pub fn encode(message: RouteNetlinkMessage, flags: u16) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = flags | super::netfilter::NLM_F_REQUEST;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// A typed message from its type and payload.
pub fn decode(kind: u16, payload: &[u8]) -> Result<RouteNetlinkMessage, NetlinkError> {
    RouteNetlinkMessage::parse_with_param(payload, kind).map_err(|error| NetlinkError::malformed(format!("{error:#}")))
}

/// Sends a request and hands over every answer, typed.
pub fn request(
    socket: &mut Socket,
    message: RouteNetlinkMessage,
    flags: u16,
    mut each: impl FnMut(RouteNetlinkMessage),
) -> Result<(), NetlinkError> {
    socket.request(encode(message, flags), |kind, payload| {
        each(decode(kind, payload)?);
        Ok(())
    })
}

/// An IP address out of a route's attribute.
pub fn ip_address(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::interface::{LocalRoute, local_route};
    use proptest::prelude::*;

    /// A route, an address and a link as the kernel might send them.
    fn messages() -> Vec<(u16, Vec<u8>)> {
        use netlink_packet_route::address::{AddressAttribute, AddressMessage};
        use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
        let route = LocalRoute::new("10.96.0.0/16".parse().unwrap(), Some("192.0.2.1".parse().unwrap()));
        let mut address = AddressMessage::default();
        address.attributes.push(AddressAttribute::Local("192.0.2.1".parse().unwrap()));
        let mut link = LinkMessage::default();
        link.attributes.push(LinkAttribute::IfName("kube-ipvs0".to_owned()));
        link.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Dummy)]));
        [
            RouteNetlinkMessage::NewRoute(route.message(3)),
            RouteNetlinkMessage::NewAddress(address),
            RouteNetlinkMessage::NewLink(link),
        ]
        .into_iter()
        .map(|message| (message.message_type(), encode(message, 0).split_off(16)))
        .collect()
    }

    #[test]
    fn a_route_survives_the_wire() {
        let (kind, payload) = messages().remove(0);
        let RouteNetlinkMessage::NewRoute(route) = decode(kind, &payload).unwrap() else { panic!("a route") };
        let found = local_route(&route, 3).unwrap();
        assert_eq!(found.to_string(), "local 10.96.0.0/16 proto 75 src 192.0.2.1");
        assert_eq!(local_route(&route, 4), None, "another device's");
    }

    proptest! {
        #[test]
        fn decoding_never_panics(
            kind in prop::sample::select(vec![16u16, 17, 20, 21, 24, 25]),
            payload in proptest::collection::vec(any::<u8>(), 0..200),
            which in 0..3usize,
            flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        ) {
            let _ = decode(kind, &payload);
            let (kind, mut payload) = messages().remove(which);
            for (at, bits) in flips {
                let place = at.index(payload.len());
                payload[place] ^= bits;
            }
            if let Ok(RouteNetlinkMessage::NewRoute(route)) = decode(kind, &payload) {
                let _ = local_route(&route, 3);
            }
        }
    }
}
