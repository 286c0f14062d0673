//! The detour: two ends of one cable, both in the node's namespace. What leaves through the first comes back in through
//! the second as a packet that was never seen before.
//!
//! Node ports on localhost need it in IPVS mode. IPVS lets no packet from 127.0.0.1 leave the node
//! (`crosses_local_route_boundary` in net/netfilter/ipvs/ip_vs_xmit.c), and it sees the node's own packets before
//! POSTROUTING could change their source. Over the cable they pass POSTROUTING first, and IPVS afterwards. veth forgets
//! what connection tracking knew of a packet (`skb_scrub_packet`); the loopback device does not.

use std::net::Ipv4Addr;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkInfo, LinkMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType};
use nix::errno::Errno;

use super::{Interface, InterfaceError, ROUTE_PROTOCOL};
use crate::kernel::netfilter::{NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL};
use crate::kernel::sysctl::{Sysctl, SysctlError};
use crate::kernel::{IpFamily, rtnetlink};

/// Both ends have it: without ARP a packet is addressed to the sender's own address (`arp_constructor`), and has to be for
/// the receiver as well. Locally administered; being set it is left alone by udev's policies.
const MAC: [u8; 6] = [0x02, b'K', b'u', b'b', b'e', b'P'];
/// As the loopback device's, as far as veth goes (`ETH_MAX_MTU`): what fits there fits here.
const MTU: u32 = 65_535;
/// `RT_TABLE_MAIN`.
const TABLE_MAIN: u8 = 254;
const NLM_F_REPLACE: u16 = 0x100;

/// The cable.
#[derive(Debug)]
pub struct Detour {
    out: Interface,
    back: Interface,
    /// What is sent through it, and the source that it is sent from: answers go to that.
    to: Ipv4Addr,
    from: Ipv4Addr,
    sysctl: Sysctl,
}

/// What is there of the cable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Found {
    /// Nothing.
    #[default]
    Missing,
    /// Something, but not all: somebody changed it.
    Partly,
    /// Everything.
    Whole,
}

/// What went wrong with the cable.
#[derive(Debug, thiserror::Error)]
pub enum DetourError {
    /// An end of it.
    #[error(transparent)]
    Interface(#[from] InterfaceError),
    /// Its setting.
    #[error(transparent)]
    Setting(#[from] SysctlError),
}

impl Detour {
    /// The way to a cable with ends of these names, in the namespace of the calling thread; it need not exist yet.
    ///
    /// # Errors
    /// When no netlink socket can be opened.
    pub fn open([out, back]: [&str; 2], to: Ipv4Addr, from: Ipv4Addr, sysctl: Sysctl) -> Result<Self, DetourError> {
        let (out, back) = (Interface::open_kind(out, "veth")?, Interface::open_kind(back, "veth")?);
        Ok(Self { out, back, to, from, sysctl })
    }

    /// What is there.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn find(&mut self) -> Result<Found, DetourError> {
        let there = [self.out.index()?, self.back.index()?];
        if there.iter().all(Option::is_none) {
            return Ok(Found::Missing);
        }
        let whole = self.out.is_up()?
            && self.back.is_up()?
            && self.sysctl.read(&self.setting())? == "1"
            && self.out.leads_to(self.to)?
            && self.back.leads_to(self.from)?;
        Ok(if whole { Found::Whole } else { Found::Partly })
    }

    /// Makes what is missing.
    ///
    /// # Errors
    /// [`InterfaceError::OtherKind`] when something else has one of the names; else what the kernel said.
    pub fn ensure(&mut self) -> Result<(), DetourError> {
        if self.out.index()?.is_none() || self.back.index()?.is_none() {
            // With one end the other goes, unless somebody gave it to another namespace or name.
            self.delete()?;
            self.out.create_pair(self.back.name())?;
        }
        self.out.ensure_ready()?;
        self.back.ensure_ready()?;
        // Of no other device: only what we send ourselves can come through this one.
        self.sysctl.ensure(&self.setting(), "1")?;
        self.out.lead_to(self.to)?;
        self.back.lead_to(self.from)?;
        Ok(())
    }

    /// Takes it away.
    ///
    /// # Errors
    /// [`InterfaceError::OtherKind`] when the name is somebody else's; else what the kernel said.
    pub fn delete(&mut self) -> Result<(), DetourError> {
        self.out.delete()?;
        self.back.delete()?;
        Ok(())
    }

    /// Packets from 127.0.0.1 may leave through the first end, and their answers come in there.
    fn setting(&self) -> String {
        format!("net/ipv4/conf/{}/route_localnet", self.out.name())
    }
}

impl Interface {
    fn create_pair(&mut self, other: &str) -> Result<(), InterfaceError> {
        let end = |name: &str| {
            vec![LinkAttribute::IfName(name.to_owned()), LinkAttribute::Address(MAC.to_vec()), LinkAttribute::Mtu(MTU)]
        };
        let (mut link, mut peer) = (LinkMessage::default(), LinkMessage::default());
        peer.attributes = end(other);
        link.attributes = end(&self.name);
        link.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]));
        match self.change(RouteNetlinkMessage::NewLink(link), NLM_F_CREATE | NLM_F_EXCL) {
            Ok(()) => Ok(()),
            Err(error) if error.errno() == Some(Errno::EOPNOTSUPP as i32) => {
                Err(InterfaceError::KindMissing { name: self.name.clone(), kind: self.kind.clone() })
            }
            Err(source) => Err(self.failed("create", source)),
        }
    }

    /// The route that takes an address to this end.
    fn route_to(index: u32, address: Ipv4Addr) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.address_family = IpFamily::V4.into();
        message.header.destination_prefix_length = 32;
        message.header.table = TABLE_MAIN;
        message.header.protocol = RouteProtocol::from(ROUTE_PROTOCOL);
        message.header.kind = RouteType::Unicast;
        message.header.scope = RouteScope::Link;
        message.attributes.push(RouteAttribute::Destination(RouteAddress::Inet(address)));
        message.attributes.push(RouteAttribute::Oif(index));
        message
    }

    fn lead_to(&mut self, address: Ipv4Addr) -> Result<(), InterfaceError> {
        let index = self.existing_index("route an address to")?;
        let message = RouteNetlinkMessage::NewRoute(Self::route_to(index, address));
        self.change(message, NLM_F_CREATE | NLM_F_REPLACE).map_err(|source| self.failed("route an address to", source))
    }

    fn leads_to(&mut self, address: Ipv4Addr) -> Result<bool, InterfaceError> {
        let index = self.existing_index("list the routes of")?;
        let wanted = Self::route_to(index, address);
        let mut request = RouteMessage::default();
        request.header.address_family = IpFamily::V4.into();
        request.header.table = TABLE_MAIN;
        request.header.protocol = RouteProtocol::from(ROUTE_PROTOCOL);
        request.attributes.push(RouteAttribute::Oif(index));
        let mut found = false;
        let message = RouteNetlinkMessage::GetRoute(request);
        rtnetlink::request(&mut self.socket, message, NLM_F_DUMP, |answer| {
            if let RouteNetlinkMessage::NewRoute(route) = answer {
                let same = |attribute| route.attributes.contains(attribute);
                found |= route.header.table == TABLE_MAIN
                    && route.header.destination_prefix_length == 32
                    && wanted.attributes.iter().all(same);
            }
        })
        .map_err(|source| self.failed("list the routes of", source))?;
        Ok(found)
    }
}
