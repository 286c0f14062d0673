//! The device itself: find, create, bring up, delete.

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use nix::errno::Errno;

use super::{Ensured, Interface, InterfaceError};
use crate::kernel::netfilter::{NLM_F_CREATE, NLM_F_EXCL};
use crate::kernel::netlink::NetlinkError;
use crate::kernel::rtnetlink;

/// What [`Interface::ensure_dummy`] wants to know of a device that is there.
struct Found {
    index: u32,
    kind: Option<String>,
    up: bool,
}

/// A device of an interface's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device {
    /// It is up.
    pub up: bool,
    /// It is somebody else's, of another kind.
    pub foreign: bool,
}

impl Interface {
    /// Makes sure that the interface is there, up, without ARP, and without an IPv6 link-local address of its own (it
    /// has to be up, as a local route needs a device that is).
    ///
    /// # Errors
    /// [`InterfaceError::KindMissing`] when the kernel has no dummy device, [`InterfaceError::OtherKind`] when the
    /// name is taken by something else, else what the kernel said.
    pub fn ensure_dummy(&mut self) -> Result<Ensured, InterfaceError> {
        let (found, created) = match self.find("look for")? {
            Some(found) => (found, false),
            None => {
                let created = self.create()?;
                let found = self.find("look for the new")?;
                (found.ok_or_else(|| self.missing("look for the new"))?, created)
            }
        };
        let index = found.index;
        self.make_ready(found)?;
        Ok(Ensured { created, index })
    }

    /// As [`Self::ensure_dummy`] for an interface that has to be there.
    pub(super) fn ensure_ready(&mut self) -> Result<(), InterfaceError> {
        let found = self.find("bring up")?.ok_or_else(|| self.missing("bring up"))?;
        self.make_ready(found)
    }

    fn make_ready(&mut self, found: Found) -> Result<(), InterfaceError> {
        self.check_kind(&found)?;
        if !found.up {
            self.without_link_local(found.index)?;
            self.bring_up(found.index)?;
        }
        Ok(())
    }

    /// The kernel's number for the interface, `None` when it is not there. Numbers change when a device is made anew.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn index(&mut self) -> Result<Option<u32>, InterfaceError> {
        Ok(self.find("look for")?.map(|found| found.index))
    }

    /// Whether the interface is there and up.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn is_up(&mut self) -> Result<bool, InterfaceError> {
        Ok(self.find("look for")?.is_some_and(|found| found.up))
    }

    /// What has its name, `None` when nothing has.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn look(&mut self) -> Result<Option<Device>, InterfaceError> {
        let found = self.find("look for")?;
        Ok(found.map(|found| Device { up: found.up, foreign: self.check_kind(&found).is_err() }))
    }

    /// Deletes the interface, and with it its routes and addresses; `false` when it was not there.
    ///
    /// # Errors
    /// [`InterfaceError::OtherKind`] when the interface is not of our kind: it is left alone. Else what the kernel said.
    pub fn delete(&mut self) -> Result<bool, InterfaceError> {
        let Some(found) = self.find("look for")? else { return Ok(false) };
        self.check_kind(&found)?;
        let mut message = LinkMessage::default();
        message.header.index = found.index;
        match self.change(RouteNetlinkMessage::DelLink(message), 0) {
            Ok(()) => Ok(true),
            Err(error) if error.errno() == Some(Errno::ENODEV as i32) => Ok(false),
            Err(source) => Err(self.failed("delete", source)),
        }
    }

    /// As [`Self::index`], but a missing interface is an error that names what was tried.
    pub(super) fn existing_index(&mut self, action: &'static str) -> Result<u32, InterfaceError> {
        self.find(action)?.map(|found| found.index).ok_or_else(|| self.missing(action))
    }

    /// Somebody else's device is left alone.
    fn check_kind(&self, found: &Found) -> Result<(), InterfaceError> {
        let kind = found.kind.as_deref().unwrap_or("none");
        if kind == self.kind {
            return Ok(());
        }
        Err(InterfaceError::OtherKind { name: self.name.clone(), kind: self.kind.clone(), found: kind.to_owned() })
    }

    fn find(&mut self, action: &'static str) -> Result<Option<Found>, InterfaceError> {
        let mut request = LinkMessage::default();
        request.attributes.push(LinkAttribute::IfName(self.name.clone()));
        let mut found = None;
        let outcome = rtnetlink::request(&mut self.socket, RouteNetlinkMessage::GetLink(request), 0, |answer| {
            if let RouteNetlinkMessage::NewLink(link) = answer {
                found = Some(describe(&link));
            }
        });
        match outcome {
            Ok(()) => Ok(found),
            Err(error) if error.errno() == Some(Errno::ENODEV as i32) => Ok(None),
            Err(source) => Err(self.failed(action, source)),
        }
    }

    /// `false` when another was faster.
    fn create(&mut self) -> Result<bool, InterfaceError> {
        let mut message = LinkMessage::default();
        message.header.flags = LinkFlags::Noarp;
        message.header.change_mask = LinkFlags::Noarp;
        let kind = LinkInfo::Kind(InfoKind::from(self.kind.as_str()));
        message.attributes.push(LinkAttribute::IfName(self.name.clone()));
        message.attributes.push(LinkAttribute::LinkInfo(vec![kind]));
        match self.change(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL) {
            Ok(()) => Ok(true),
            Err(error) if error.errno() == Some(Errno::EEXIST as i32) => Ok(false),
            // rtnl_newlink answers so when no module registers the kind, after having tried to load it.
            Err(error) if error.errno() == Some(Errno::EOPNOTSUPP as i32) => {
                Err(InterfaceError::KindMissing { name: self.name.clone(), kind: self.kind.clone() })
            }
            Err(source) => Err(self.failed("create", source)),
        }
    }

    fn bring_up(&mut self, index: u32) -> Result<(), InterfaceError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = LinkFlags::Up | LinkFlags::Noarp;
        message.header.change_mask = LinkFlags::Up | LinkFlags::Noarp;
        self.change(RouteNetlinkMessage::SetLink(message), 0).map_err(|source| self.failed("bring up", source))
    }

    /// A device that comes up gets an fe80:: address otherwise, which others would take for one of the node's.
    fn without_link_local(&mut self, index: u32) -> Result<(), InterfaceError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        let mode = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
        message.attributes.push(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![mode])]));
        match self.change(RouteNetlinkMessage::SetLink(message), 0) {
            // A node without IPv6 has no such setting, and no such address.
            Err(error) if error.errno() == Some(Errno::EAFNOSUPPORT as i32) => Ok(()),
            outcome => outcome.map_err(|source| self.failed("switch off link-local addresses of", source)),
        }
    }

    pub(super) fn change(&mut self, message: RouteNetlinkMessage, flags: u16) -> Result<(), NetlinkError> {
        let messages = [rtnetlink::encode(message, flags)];
        self.socket.batch(&messages).pop().unwrap_or(Ok(()))
    }

    pub(super) fn failed(&self, action: &'static str, source: NetlinkError) -> InterfaceError {
        InterfaceError::Netlink { action, name: self.name.clone(), source }
    }

    fn missing(&self, action: &'static str) -> InterfaceError {
        InterfaceError::Missing { action, name: self.name.clone() }
    }
}

fn describe(link: &LinkMessage) -> Found {
    let kind = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos.iter().find_map(|info| match info {
            LinkInfo::Kind(kind) => Some(kind.to_string()),
            _ => None,
        }),
        _ => None,
    });
    Found { index: link.header.index, kind, up: link.header.flags.contains(LinkFlags::Up) }
}
