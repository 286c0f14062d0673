//! Links, addresses, routes, neighbours and routing rules of one namespace.

use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, State,
};
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::{
    RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::net::if_::if_nametoindex;

use super::route_socket::RouteSocket;
use super::{LabError, NetNs};

/// An Ethernet address.
pub(super) type Mac = [u8; 6];

/// Which routing table a route goes to; "main" is what `ip route` shows by default.
pub(super) const TABLE_MAIN: u8 = RouteHeader::RT_TABLE_MAIN;

/// The table of the host's own addresses; looked at before all others, and the only one that makes an address a source.
pub(super) const TABLE_LOCAL: u8 = 255;

/// Time for a link to come up; usually a millisecond.
const LINK_PATIENCE: Duration = Duration::from_secs(20);

/// One end of a veth pair.
#[derive(Debug, Clone, Copy)]
pub(super) struct LinkEnd<'a> {
    pub(super) ns: &'a NetNs,
    pub(super) name: &'a str,
    pub(super) mac: Mac,
}

/// Where a route leads.
#[derive(Debug, Clone, Copy)]
pub(super) enum Via<'a> {
    /// Straight out of the device.
    Device(&'a str),
    /// To a gateway that is reached through the device, whether or not an address there says so.
    Gateway(IpAddr, &'a str),
    /// To this host itself: it takes packets for addresses that it does not have ("AnyIP").
    Local,
}

/// Creates a veth pair and sets both ends up. Fixed MAC addresses let both sides name each other as permanent neighbours.
pub(super) fn create_veth_pair(one: LinkEnd<'_>, other: LinkEnd<'_>) -> Result<(), LabError> {
    let mut peer = LinkMessage::default();
    peer.attributes = vec![
        LinkAttribute::IfName(other.name.to_owned()),
        LinkAttribute::Address(other.mac.to_vec()),
        LinkAttribute::NetNsFd(other.ns.file().as_raw_fd()),
    ];
    let mut link = LinkMessage::default();
    link.attributes = vec![
        LinkAttribute::IfName(one.name.to_owned()),
        LinkAttribute::Address(one.mac.to_vec()),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]),
    ];
    let what = format!("creating veth pair {} to {} of {}", one.name, other.name, other.ns.name());
    Configurator::with(one.ns, |configurator| {
        configurator.apply(what, RouteNetlinkMessage::NewLink(link), NLM_F_CREATE | NLM_F_EXCL)
    })?;
    for end in [one, other] {
        Configurator::with(end.ns, |configurator| configurator.set_up(end.name))?;
    }
    for end in [one, other] {
        Configurator::with(end.ns, |configurator| configurator.wait_until_operational(end.name))?;
    }
    Ok(())
}

/// Configures one namespace, from a thread inside it.
#[derive(Debug)]
pub(super) struct Configurator<'a> {
    ns: &'a NetNs,
    socket: RouteSocket,
}

impl<'a> Configurator<'a> {
    /// Runs `work` inside `ns` with a configurator for it.
    pub(super) fn with<T: Send>(
        ns: &'a NetNs,
        work: impl FnOnce(&mut Self) -> Result<T, LabError> + Send,
    ) -> Result<T, LabError> {
        ns.run(|| {
            let socket =
                RouteSocket::open().map_err(|error| LabError::step(ns.name(), "opening an rtnetlink socket", error))?;
            work(&mut Self { ns, socket })
        })?
    }

    /// Sets a link up.
    pub(super) fn set_up(&mut self, link: &str) -> Result<(), LabError> {
        let mut message = LinkMessage::default();
        message.header.index = self.index(link)?;
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        self.apply(format!("setting {link} up"), RouteNetlinkMessage::SetLink(message), 0)
    }

    /// Waits until the link really sends. The kernel notices a carrier asynchronously (`linkwatch_do_dev` in
    /// net/core/link_watch.c), and until then the link drops every packet without a word.
    pub(super) fn wait_until_operational(&mut self, link: &str) -> Result<(), LabError> {
        let index = self.index(link)?;
        let started = Instant::now();
        let failed = |error| LabError::step(self.ns.name(), format!("waiting for {link} to come up"), error);
        loop {
            let message = self.socket.link(index).map_err(failed)?;
            if message.attributes.contains(&LinkAttribute::OperState(State::Up)) {
                return Ok(());
            }
            if started.elapsed() > LINK_PATIENCE {
                return Err(failed(io::ErrorKind::TimedOut.into()));
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Adds an address without duplicate address detection, so that it is usable at once.
    pub(super) fn add_address(&mut self, link: &str, address: IpNet) -> Result<(), LabError> {
        let mut message = AddressMessage::default();
        message.header.family = family_of(address.addr());
        message.header.prefix_len = address.prefix_len();
        message.header.flags = AddressHeaderFlags::Nodad;
        message.header.scope = AddressScope::Universe;
        message.header.index = self.index(link)?;
        message.attributes = vec![
            AddressAttribute::Local(address.addr()),
            AddressAttribute::Address(address.addr()),
            AddressAttribute::Flags(AddressFlags::Nodad),
        ];
        let what = format!("adding {address} to {link}");
        self.apply(what, RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Adds a route for `destination` to `table`.
    pub(super) fn add_route(&mut self, destination: IpNet, via: Via<'_>, table: u8) -> Result<(), LabError> {
        let mut message = RouteMessage::default();
        message.header.address_family = family_of(destination.addr());
        message.header.destination_prefix_length = destination.prefix_len();
        message.header.table = table;
        message.header.protocol = RouteProtocol::Static;
        message.header.kind = RouteType::Unicast;
        message.header.scope = RouteScope::Universe;
        if destination.prefix_len() > 0 {
            message.attributes.push(RouteAttribute::Destination(destination.addr().into()));
        }
        match via {
            Via::Device(link) => {
                message.header.scope = RouteScope::Link;
                message.attributes.push(RouteAttribute::Oif(self.index(link)?));
            }
            Via::Gateway(gateway, link) => {
                message.header.flags = RouteFlags::Onlink;
                message.attributes.push(RouteAttribute::Gateway(gateway.into()));
                message.attributes.push(RouteAttribute::Oif(self.index(link)?));
            }
            Via::Local => {
                message.header.kind = RouteType::Local;
                message.header.scope = RouteScope::Host;
                message.attributes.push(RouteAttribute::Oif(self.index("lo")?));
            }
        }
        let what = format!("adding a route to {destination} by {via:?}");
        self.apply(what, RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Says for good which MAC address `address` has behind `link`: no ARP or neighbour discovery is needed.
    pub(super) fn add_neighbour(&mut self, link: &str, address: IpAddr, mac: Mac) -> Result<(), LabError> {
        let mut message = NeighbourMessage::default();
        message.header.family = family_of(address);
        message.header.ifindex = self.index(link)?;
        message.header.state = NeighbourState::Permanent;
        message.attributes =
            vec![NeighbourAttribute::Destination(address.into()), NeighbourAttribute::LinkLayerAddress(mac.to_vec())];
        let what = format!("adding neighbour {address} behind {link}");
        self.apply(what, RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Packets that came in by `link` are routed by `table`, in both families.
    pub(super) fn add_rule_for_input(&mut self, link: &str, table: u8) -> Result<(), LabError> {
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RuleMessage::default();
            message.header.family = family;
            message.header.table = table;
            message.header.action = RuleAction::ToTable;
            message.attributes = vec![RuleAttribute::Iifname(link.to_owned())];
            let what = format!("adding a {family:?} rule for input from {link}");
            self.apply(what, RouteNetlinkMessage::NewRule(message), NLM_F_CREATE | NLM_F_EXCL)?;
        }
        Ok(())
    }

    fn index(&self, link: &str) -> Result<u32, LabError> {
        if_nametoindex(link).map_err(|errno| LabError::step(self.ns.name(), format!("looking up {link}"), errno))
    }

    fn apply(&mut self, what: String, message: RouteNetlinkMessage, flags: u16) -> Result<(), LabError> {
        self.socket.request(message, flags).map_err(|error| LabError::step(self.ns.name(), what, error))
    }
}

/// The address alone, as a network of one.
pub(super) fn single(address: IpAddr) -> IpNet {
    IpNet::from(address)
}

/// 0.0.0.0/0 or ::/0, whichever is `address`'s family.
pub(super) fn default_route_for(address: IpAddr) -> IpNet {
    match address {
        IpAddr::V4(_) => IpNet::V4(ipnet::Ipv4Net::default()),
        IpAddr::V6(_) => IpNet::V6(ipnet::Ipv6Net::default()),
    }
}

/// What a routed host calls its next hop, in `address`'s family. Nobody has these addresses: permanent neighbour entries
/// carry them, so the gateway's side of the link needs no address that could be taken for one of its own.
pub(super) fn gateway_for(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => IpAddr::from([169, 254, 1, 1]),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1)),
    }
}

fn family_of(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gateways_are_link_local() {
        assert_eq!(gateway_for(IpAddr::from([10, 0, 0, 1])).to_string(), "169.254.1.1");
        assert_eq!(gateway_for(IpAddr::V6(Ipv6Addr::LOCALHOST)).to_string(), "fe80::1");
    }

    #[test]
    fn default_routes_match_everything() {
        assert_eq!(default_route_for(IpAddr::from([10, 0, 0, 1])).to_string(), "0.0.0.0/0");
        assert_eq!(default_route_for(IpAddr::V6(Ipv6Addr::LOCALHOST)).to_string(), "::/0");
    }
}
