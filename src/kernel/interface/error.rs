//! What can go wrong with the interface, its routes and its addresses.

use ipnet::IpNet;
use nix::errno::Errno;

use crate::kernel::NetlinkError;

/// A failure that concerns the interface itself, or reading what is on it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InterfaceError {
    /// The kernel has no such kind of device: the module (`dummy`) is neither built in nor loadable.
    #[error("create interface {name}: this kernel has no device kind `{kind}`; load or install the module `{kind}`")]
    KindMissing {
        /// The interface wanted.
        name: String,
        /// The kind of device that is missing.
        kind: String,
    },
    /// Someone else's interface has the name.
    #[error("interface {name} exists, but is of kind `{found}` instead of `{kind}`")]
    OtherKind {
        /// The name both want.
        name: String,
        /// The kind that we need.
        kind: String,
        /// The kind that is there.
        found: String,
    },
    /// The interface is not there.
    #[error("{action} interface {name}: there is no such interface")]
    Missing {
        /// What was tried.
        action: &'static str,
        /// On which interface.
        name: String,
    },
    /// Anything else that the kernel said.
    #[error("{action} interface {name}: {source}")]
    Netlink {
        /// What was tried.
        action: &'static str,
        /// On which interface.
        name: String,
        /// The kernel's answer.
        source: NetlinkError,
    },
}

/// A route that could not be added or deleted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{action} local route {net} dev {interface}: {source}")]
pub struct RouteError {
    /// What was tried.
    pub action: &'static str,
    /// The route's destination.
    pub net: IpNet,
    /// The interface.
    pub interface: String,
    /// The kernel's answer.
    pub source: NetlinkError,
}

/// An address that could not be added or deleted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{action} address {net} dev {interface}: {source}")]
pub struct AddressError {
    /// What was tried.
    pub action: &'static str,
    /// The address with its prefix length.
    pub net: IpNet,
    /// The interface.
    pub interface: String,
    /// The kernel's answer.
    pub source: NetlinkError,
}

macro_rules! predicates {
    ($kind:ty, $what:literal, $gone:expr) => {
        impl $kind {
            #[doc = concat!("Adding failed because ", $what, " of that destination is there already: not necessarily ours.")]
            #[must_use]
            pub fn is_already_there(&self) -> bool {
                self.source.errno() == Some(Errno::EEXIST as i32)
            }

            #[doc = concat!("Deleting failed because there is no such ", $what, " any more.")]
            #[must_use]
            pub fn is_already_gone(&self) -> bool {
                let gone: &[Errno] = &$gone;
                gone.iter().any(|errno| self.source.errno() == Some(*errno as i32))
            }
        }
    };
}

// A device that went takes its routes and addresses along: ENODEV is as gone as ESRCH.
predicates!(RouteError, "a route", [Errno::ESRCH, Errno::ENODEV]);
predicates!(AddressError, "an address", [Errno::EADDRNOTAVAIL, Errno::ENODEV]);

/// The kernel's answer behind a failure that hits every route or address of a change.
pub(super) fn source_of(error: &InterfaceError) -> NetlinkError {
    match error {
        InterfaceError::Netlink { source, .. } => source.clone(),
        _ => NetlinkError::kernel(Errno::ENODEV as i32),
    }
}
