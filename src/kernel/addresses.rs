//! The node's own addresses, gateways, and the source address that a route gives.

use std::collections::HashMap;
use std::net::IpAddr;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType, RouteVia};
use nix::errno::Errno;

use super::netfilter::NLM_F_DUMP;
use super::netlink::{NetlinkError, Socket};
use super::{IpFamily, rtnetlink};

const ATTEMPTS: usize = 5;

/// An address of one of the node's interfaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeAddress {
    /// The address.
    pub address: IpAddr,
    /// The prefix length, in bits.
    pub prefix: u8,
    /// The interface's number.
    pub interface_index: u32,
    /// The interface's name; empty when it went between two questions.
    pub interface: String,
    /// Not the first of its subnet (IPv4), or a temporary one (IPv6).
    pub secondary: bool,
    /// Not to be used for new connections any more.
    pub deprecated: bool,
    /// Not usable yet: IPv6 duplicate address detection goes on, or has failed.
    pub tentative: bool,
    /// How far the address reaches.
    pub scope: Scope,
}

/// How far an address reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Everywhere.
    Global,
    /// The site (IPv6, deprecated).
    Site,
    /// The link: fe80:: and 169.254.
    Link,
    /// The node itself: loopback.
    Host,
    /// Another number.
    Other(u8),
}

impl From<AddressScope> for Scope {
    fn from(scope: AddressScope) -> Self {
        match scope {
            AddressScope::Universe => Self::Global,
            AddressScope::Site => Self::Site,
            AddressScope::Link => Self::Link,
            AddressScope::Host => Self::Host,
            other => Self::Other(u8::from(other)),
        }
    }
}

/// The question about the node's addresses or routes that failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{question}: {source}")]
pub struct AddressesError {
    /// What was asked.
    pub question: String,
    /// The kernel's answer.
    pub source: NetlinkError,
}

fn failed(question: impl Into<String>) -> impl FnOnce(NetlinkError) -> AddressesError {
    move |source| AddressesError { question: question.into(), source }
}

/// All addresses of all interfaces of both families, kube-ipvs0 not excepted.
///
/// # Errors
/// What the kernel said.
pub fn node_addresses() -> Result<Vec<NodeAddress>, AddressesError> {
    let mut socket = rtnetlink::open().map_err(failed("open a socket for the node's addresses"))?;
    let names = consistently(&mut socket, link_names).map_err(failed("list the node's interfaces"))?;
    consistently(&mut socket, |socket| {
        let mut found = Vec::new();
        let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        rtnetlink::request(socket, request, NLM_F_DUMP, |answer| {
            if let RouteNetlinkMessage::NewAddress(address) = answer {
                found.extend(node_address(&address, &names));
            }
        })?;
        Ok(found)
    })
    .map_err(failed("list the node's addresses"))
}

/// The gateways of all default routes of all tables and both families, each once.
///
/// # Errors
/// What the kernel said.
pub fn default_gateways() -> Result<Vec<IpAddr>, AddressesError> {
    let mut socket = rtnetlink::open().map_err(failed("open a socket for the default routes"))?;
    let mut gateways = Vec::new();
    for family in [IpFamily::V4, IpFamily::V6] {
        let found = consistently(&mut socket, |socket| {
            let mut request = RouteMessage::default();
            request.header.address_family = family.into();
            // Keeps thousands of local routes of services out of the answer.
            request.header.kind = RouteType::Unicast;
            let mut found = Vec::new();
            rtnetlink::request(socket, RouteNetlinkMessage::GetRoute(request), NLM_F_DUMP, |answer| {
                if let RouteNetlinkMessage::NewRoute(route) = answer
                    && route.header.destination_prefix_length == 0
                {
                    gateways_of(&route.attributes, &mut found);
                }
            })?;
            Ok(found)
        });
        gateways.extend(found.map_err(failed(format!("list the {family} default routes")))?);
    }
    gateways.sort_unstable();
    gateways.dedup();
    Ok(gateways)
}

/// The source address that the node would take for a connection to `destination`, `None` when it has no route there.
///
/// # Errors
/// What the kernel said.
pub fn route_source(destination: IpAddr) -> Result<Option<IpAddr>, AddressesError> {
    let question = || format!("ask for the route to {destination}");
    let mut socket = rtnetlink::open().map_err(failed(question()))?;
    let mut request = RouteMessage::default();
    request.header.address_family = IpFamily::of(destination).into();
    request.header.destination_prefix_length = if destination.is_ipv4() { 32 } else { 128 };
    request.attributes.push(RouteAttribute::Destination(destination.into()));
    let mut source = None;
    let outcome = rtnetlink::request(&mut socket, RouteNetlinkMessage::GetRoute(request), 0, |answer| {
        if let RouteNetlinkMessage::NewRoute(route) = answer {
            source = route.attributes.iter().find_map(|attribute| match attribute {
                RouteAttribute::PrefSource(address) => rtnetlink::ip_address(address),
                _ => None,
            });
        }
    });
    let unreachable = [Errno::ENETUNREACH, Errno::EHOSTUNREACH, Errno::EACCES, Errno::EINVAL];
    match outcome {
        // "unreachable", "prohibit" and "blackhole" routes answer like this.
        Err(error) if unreachable.iter().any(|errno| error.errno() == Some(*errno as i32)) => Ok(None),
        outcome => outcome.map(|()| source).map_err(failed(question())),
    }
}

/// Repeats a dump that another's change interrupted.
fn consistently<T>(
    socket: &mut Socket,
    mut read: impl FnMut(&mut Socket) -> Result<T, NetlinkError>,
) -> Result<T, NetlinkError> {
    for _ in 1..ATTEMPTS {
        match read(socket) {
            Err(error) if error.is_interrupted() => {}
            outcome => return outcome,
        }
    }
    read(socket)
}

fn link_names(socket: &mut Socket) -> Result<HashMap<u32, String>, NetlinkError> {
    let mut names = HashMap::new();
    let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
    rtnetlink::request(socket, request, NLM_F_DUMP, |answer| {
        if let RouteNetlinkMessage::NewLink(link) = answer {
            for attribute in link.attributes {
                if let LinkAttribute::IfName(name) = attribute {
                    names.insert(link.header.index, name);
                }
            }
        }
    })?;
    Ok(names)
}

/// The node's side of an address message, `None` when it has no address.
pub(super) fn node_address(message: &AddressMessage, names: &HashMap<u32, String>) -> Option<NodeAddress> {
    let (mut local, mut address, mut flags) = (None, None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(found) => local = Some(*found),
            AddressAttribute::Address(found) => address = Some(*found),
            AddressAttribute::Flags(found) => flags = Some(*found),
            _ => {}
        }
    }
    let flags = flags.unwrap_or(AddressFlags::from_bits_retain(u32::from(message.header.flags.bits())));
    Some(NodeAddress {
        address: local.or(address)?,
        prefix: message.header.prefix_len,
        interface_index: message.header.index,
        interface: names.get(&message.header.index).cloned().unwrap_or_default(),
        secondary: flags.contains(AddressFlags::Secondary),
        deprecated: flags.contains(AddressFlags::Deprecated),
        tentative: flags.intersects(AddressFlags::Tentative | AddressFlags::Dadfailed),
        scope: message.header.scope.into(),
    })
}

fn gateways_of(attributes: &[RouteAttribute], found: &mut Vec<IpAddr>) {
    for attribute in attributes {
        match attribute {
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => found.push(IpAddr::V4(*address)),
            RouteAttribute::Gateway(RouteAddress::Inet6(address)) => found.push(IpAddr::V6(*address)),
            RouteAttribute::Via(RouteVia::Inet(address)) => found.push(IpAddr::V4(*address)),
            RouteAttribute::Via(RouteVia::Inet6(address)) => found.push(IpAddr::V6(*address)),
            RouteAttribute::MultiPath(hops) => hops.iter().for_each(|hop| gateways_of(&hop.attributes, found)),
            _ => {}
        }
    }
}
