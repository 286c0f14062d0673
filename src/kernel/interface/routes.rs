//! Service addresses as local routes: `ip route add local <net> dev kube-ipvs0 table local proto 75 [src <address>]`.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType};
use nix::errno::Errno;

use super::{Interface, InterfaceError, RouteError};
use crate::kernel::netfilter::{NLM_F_CREATE, NLM_F_DUMP};
use crate::kernel::netlink::NetlinkError;
use crate::kernel::{IpFamily, rtnetlink};

/// Marks routes as ours (`proto 75` in `ip route`, K for Kubernetes). The number is free in iproute2's `rt_protos` and
/// in the kernel's `RTPROT_…`; what has another number on our device is someone else's or, after `ip address add`,
/// the kernel's.
pub const ROUTE_PROTOCOL: u8 = 75;

/// `RT_TABLE_LOCAL`: looked up before all others, so that a service address is never forwarded by a wider route.
const TABLE_LOCAL: u8 = 255;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_APPEND: u16 = 0x800;
/// Tries to read a table that others change at the same time.
const ATTEMPTS: usize = 5;

/// A range of addresses that the node takes for its own because of a local route to our device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LocalRoute {
    /// The addresses.
    pub net: IpNet,
    /// The source address of the node's own connections to them (`src`); without one the node talks to a service
    /// from the service's address.
    pub source: Option<IpAddr>,
    /// The routing protocol number; [`ROUTE_PROTOCOL`] for all that we make.
    pub protocol: u8,
}

impl LocalRoute {
    /// A route of ours.
    #[must_use]
    pub fn new(net: IpNet, source: Option<IpAddr>) -> Self {
        Self { net: net.trunc(), source, protocol: ROUTE_PROTOCOL }
    }

    fn family(&self) -> IpFamily {
        IpFamily::of(self.net.addr())
    }

    /// The route as a message, for an interface of that number.
    pub(in crate::kernel) fn message(&self, index: u32) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.address_family = self.family().into();
        message.header.destination_prefix_length = self.net.prefix_len();
        message.header.table = TABLE_LOCAL;
        message.header.protocol = RouteProtocol::from(self.protocol);
        message.header.kind = RouteType::Local;
        // IPv6 knows no scopes; for IPv4 a local route of another scope is refused (fib_create_info).
        message.header.scope = if self.net.addr().is_ipv4() { RouteScope::Host } else { RouteScope::Universe };
        message.attributes.push(RouteAttribute::Destination(self.net.network().into()));
        message.attributes.push(RouteAttribute::Oif(index));
        if let Some(source) = self.source {
            message.attributes.push(RouteAttribute::PrefSource(source.into()));
        }
        message
    }
}

impl fmt::Display for LocalRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "local {} proto {}", self.net, self.protocol)?;
        match self.source {
            Some(source) => write!(f, " src {source}"),
            None => Ok(()),
        }
    }
}

impl Interface {
    /// The local routes to our device that bear our protocol number; none when there is no such device.
    ///
    /// # Errors
    /// What the kernel said; [`NetlinkError::is_interrupted`] when the table changed during every one of several tries.
    pub fn local_routes(&mut self, family: IpFamily) -> Result<Vec<LocalRoute>, InterfaceError> {
        let Some(index) = self.index()? else { return Ok(Vec::new()) };
        let mut outcome = Ok(Vec::new());
        for _ in 0..ATTEMPTS {
            outcome = self.dump_routes(family, index);
            if !outcome.as_ref().is_err_and(NetlinkError::is_interrupted) {
                break;
            }
        }
        outcome.map_err(|source| self.failed("list the local routes of", source))
    }

    fn dump_routes(&mut self, family: IpFamily, index: u32) -> Result<Vec<LocalRoute>, NetlinkError> {
        let mut request = RouteMessage::default();
        request.header.address_family = family.into();
        request.header.table = TABLE_LOCAL;
        request.header.protocol = RouteProtocol::from(ROUTE_PROTOCOL);
        request.header.kind = RouteType::Local;
        request.attributes.push(RouteAttribute::Oif(index));
        let mut routes = Vec::new();
        let message = RouteNetlinkMessage::GetRoute(request);
        let outcome = rtnetlink::request(&mut self.socket, message, NLM_F_DUMP, |answer| {
            if let RouteNetlinkMessage::NewRoute(route) = answer {
                // A kernel without IPv6 answers a question for its routes with those of all families it has.
                routes.extend(local_route(&route, index).filter(|route| route.family() == family));
            }
        });
        match outcome {
            // The filter names a table that this family does not have (yet), as IPv6 switched off at boot.
            Err(error) if error.errno() == Some(Errno::ENOENT as i32) => Ok(Vec::new()),
            outcome => outcome.map(|()| routes),
        }
    }

    /// Adds and deletes routes; the results are those of `add` in its order, then those of `delete`.
    ///
    /// Deletions come first. A destination that is in both lists is replaced in place, without a moment in which it
    /// is not local: its two results are the same. A new one stands behind what others have for the same destination, such
    /// as the kernel for an address.
    pub fn change_routes(&mut self, add: &[LocalRoute], delete: &[LocalRoute]) -> Vec<Result<(), RouteError>> {
        let index = match self.existing_index("change routes of") {
            Ok(index) => index,
            Err(error) => return self.all_failed(add, delete, &error),
        };
        let added: HashSet<IpNet> = add.iter().map(|route| route.net).collect();
        let deleted: HashSet<IpNet> = delete.iter().map(|route| route.net).collect();
        let kept: Vec<bool> = delete.iter().map(|route| added.contains(&route.net)).collect();
        let mut messages: Vec<Vec<u8>> = delete
            .iter()
            .zip(&kept)
            .filter(|(_, kept)| !**kept)
            .map(|(route, _)| rtnetlink::encode(RouteNetlinkMessage::DelRoute(route.message(index)), 0))
            .collect();
        messages.extend(add.iter().map(|route| {
            let how = if deleted.contains(&route.net) { NLM_F_REPLACE } else { NLM_F_APPEND };
            rtnetlink::encode(RouteNetlinkMessage::NewRoute(route.message(index)), how | NLM_F_CREATE)
        }));
        let mut results = self.socket.batch(&messages);
        let additions = results.split_off(results.len().saturating_sub(add.len()));
        let by_net: HashMap<IpNet, &Result<(), NetlinkError>> =
            add.iter().map(|route| route.net).zip(&additions).collect();
        let mut deletions = results.into_iter();
        let deletions: Vec<_> = delete
            .iter()
            .zip(kept)
            .map(|(route, kept)| {
                let replaced = || by_net.get(&route.net).map(|result| (*result).clone());
                if kept { replaced() } else { deletions.next() }.unwrap_or(Ok(()))
            })
            .collect();
        let named = |action: &'static str, route: &LocalRoute, result: Result<(), NetlinkError>| {
            result.map_err(|source| RouteError { action, net: route.net, interface: self.name.clone(), source })
        };
        let added = add.iter().zip(additions.clone()).map(|(route, result)| named("add", route, result));
        added.chain(delete.iter().zip(deletions).map(|(route, result)| named("delete", route, result))).collect()
    }

    fn all_failed(
        &self,
        add: &[LocalRoute],
        delete: &[LocalRoute],
        error: &InterfaceError,
    ) -> Vec<Result<(), RouteError>> {
        let source = super::error::source_of(error);
        let failed = |action: &'static str, route: &LocalRoute| {
            Err(RouteError { action, net: route.net, interface: self.name.clone(), source: source.clone() })
        };
        let added = add.iter().map(|route| failed("add", route));
        added.chain(delete.iter().map(|route| failed("delete", route))).collect()
    }
}

/// The route in a message, `None` when it is not ours: kernels ignore the filter of a dump without strict checking, and
/// notifications know no filter.
pub fn local_route(route: &RouteMessage, index: u32) -> Option<LocalRoute> {
    let protocol = u8::from(route.header.protocol);
    let ours = route.header.table == TABLE_LOCAL
        && protocol == ROUTE_PROTOCOL
        && route.header.kind == RouteType::Local
        && route.attributes.contains(&RouteAttribute::Oif(index));
    if !ours {
        return None;
    }
    let (mut destination, mut source) = (None, None);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = rtnetlink::ip_address(address),
            RouteAttribute::PrefSource(address) => source = rtnetlink::ip_address(address),
            _ => {}
        }
    }
    let net = IpNet::new(destination?, route.header.destination_prefix_length).ok()?;
    Some(LocalRoute { net, source, protocol })
}
