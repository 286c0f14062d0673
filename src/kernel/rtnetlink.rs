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
