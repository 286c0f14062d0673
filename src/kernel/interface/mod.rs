//! kube-ipvs0: the interface that makes service addresses local to the node, so that IPVS sees their packets.
//!
//! An address becomes local by a local route to the interface or by an address on it. Addresses on one device cost
//! the square of their number and are taken for the node's own by other programs; routes do neither.

mod detour;
mod error;
mod link;
mod routes;
mod vips;

pub use detour::{Detour, DetourError, Found as FoundDetour};
pub use error::{AddressError, InterfaceError, RouteError};
pub use link::Device;
pub(super) use routes::local_route;
pub use routes::{LocalRoute, ROUTE_PROTOCOL};

use super::netlink::Socket;
use super::rtnetlink;

/// The interface of that name in the namespace of the thread that opened it; it need not exist yet.
#[derive(Debug)]
pub struct Interface {
    socket: Socket,
    name: String,
    kind: String,
}

/// What [`Interface::ensure_dummy`] found or did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ensured {
    /// Whether the interface was missing and is new.
    pub created: bool,
    /// The kernel's number for it.
    pub index: u32,
}

impl Interface {
    /// Opens the way to an interface (usually `kube-ipvs0`) of kind `dummy`.
    ///
    /// # Errors
    /// When no netlink socket can be opened.
    pub fn open(name: &str) -> Result<Self, InterfaceError> {
        Self::open_kind(name, "dummy")
    }

    /// As [`Self::open`] with another kind of device, for kernels without the dummy module: `bridge` serves tests.
    ///
    /// # Errors
    /// When no netlink socket can be opened.
    pub fn open_kind(name: &str, kind: &str) -> Result<Self, InterfaceError> {
        let socket = rtnetlink::open().map_err(|source| InterfaceError::Netlink {
            action: "open a socket for",
            name: name.to_owned(),
            source,
        })?;
        Ok(Self { socket, name: name.to_owned(), kind: kind.to_owned() })
    }

    /// The interface's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}
