//! The interfaces of the network namespace, as far as anybody but their owner cares.

use super::netfilter::NLM_F_DUMP;
use super::netlink::NetlinkError;
use super::rtnetlink;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its name.
    pub name: String,
    /// The largest packet that it takes, in bytes.
    pub mtu: u32,
    /// It is up.
    pub up: bool,
}

/// All interfaces.
///
/// # Errors
/// What the kernel said.
pub fn links() -> Result<Vec<Link>, NetlinkError> {
    let mut socket = rtnetlink::open()?;
    let mut found = Vec::new();
    let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
    rtnetlink::request(&mut socket, request, NLM_F_DUMP, |answer| {
        if let RouteNetlinkMessage::NewLink(link) = answer {
            found.push(read(&link));
        }
    })?;
    Ok(found)
}

fn read(message: &LinkMessage) -> Link {
    let up = message.header.flags.contains(LinkFlags::Up);
    let mut link = Link { name: String::new(), mtu: 0, up };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            _ => {}
        }
    }
    link
}
