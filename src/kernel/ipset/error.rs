//! What the kernel says when it refuses, its private error numbers (`enum ipset_errno`) by name.

use nix::errno::Errno;

use super::{MAX_NAME, SetCommand};
use crate::kernel::NetlinkError;

/// A failure: what was tried, and why not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IpsetError {
    /// A change was refused.
    #[error("ipset {command}: {reason}")]
    Refused {
        /// The change.
        command: Box<SetCommand>,
        /// Why.
        reason: Reason,
    },
    /// Sets could not be read.
    #[error("{question}: {reason}")]
    Unreadable {
        /// What was asked.
        question: String,
        /// Why.
        reason: Reason,
    },
}

impl IpsetError {
    /// Why the kernel refused.
    #[must_use]
    pub fn reason(&self) -> &Reason {
        match self {
            Self::Refused { reason, .. } | Self::Unreadable { reason, .. } => reason,
        }
    }

    /// Adding failed because the entry is in the set, or creating because a set of that name is there.
    #[must_use]
    pub fn is_already_there(&self) -> bool {
        match self {
            Self::Refused { command, reason } => match **command {
                SetCommand::Add { .. } => *reason == Reason::Entry,
                SetCommand::Create(_) => *reason == Reason::SetExists,
                _ => false,
            },
            Self::Unreadable { .. } => false,
        }
    }

    /// Deleting failed because the entry is not in the set, or destroying because there is no such set.
    #[must_use]
    pub fn is_already_gone(&self) -> bool {
        match self {
            Self::Refused { command, reason } => match **command {
                SetCommand::Delete { .. } => *reason == Reason::Entry,
                SetCommand::Destroy(_) => *reason == Reason::NoSuchSet,
                _ => false,
            },
            Self::Unreadable { reason, .. } => *reason == Reason::NoSuchSet,
        }
    }
}

/// Why the kernel refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// `ENOENT`.
    #[error("there is no set of that name")]
    NoSuchSet,
    /// `EEXIST` at create.
    #[error("a set of that name is there already")]
    SetExists,
    /// More than [`MAX_NAME`] bytes.
    #[error("the name is longer than {MAX_NAME} bytes")]
    NameTooLong,
    /// No `ip_set` in this kernel: neither built in nor loadable.
    #[error("this kernel has no ipset; load or install the module `ip_set`")]
    Unavailable,
    /// `IPSET_ERR_PROTOCOL`: something is missing in the message, as an address of the set's family.
    #[error("the entry does not fit the set's type or family (IPSET_ERR_PROTOCOL)")]
    Protocol,
    /// `IPSET_ERR_FIND_TYPE`.
    #[error("this kernel lacks the set type (IPSET_ERR_FIND_TYPE)")]
    NoSuchType,
    /// `IPSET_ERR_MAX_SETS`.
    #[error("there are as many sets as the kernel allows (IPSET_ERR_MAX_SETS)")]
    TooManySets,
    /// `IPSET_ERR_BUSY`.
    #[error("the set is in use (IPSET_ERR_BUSY)")]
    Busy,
    /// `IPSET_ERR_EXIST_SETNAME2`.
    #[error("the second set is missing at a swap, or there already at a rename (IPSET_ERR_EXIST_SETNAME2)")]
    SecondName,
    /// `IPSET_ERR_TYPE_MISMATCH`.
    #[error("the sets are of different type or family (IPSET_ERR_TYPE_MISMATCH)")]
    TypeMismatch,
    /// `IPSET_ERR_EXIST`.
    #[error("the entry is in the set already, or not in it when it should go (IPSET_ERR_EXIST)")]
    Entry,
    /// `IPSET_ERR_INVALID_CIDR`.
    #[error("invalid prefix length (IPSET_ERR_INVALID_CIDR)")]
    PrefixLength,
    /// `IPSET_ERR_INVALID_FAMILY`.
    #[error("invalid family (IPSET_ERR_INVALID_FAMILY)")]
    Family,
    /// `IPSET_ERR_REFERENCED`.
    #[error("rules or other sets refer to the set (IPSET_ERR_REFERENCED)")]
    Referenced,
    /// `IPSET_ERR_IPADDR_IPV4` and `_IPV6`.
    #[error("an address of the set's family is missing (IPSET_ERR_IPADDR)")]
    AddressFamily,
    /// `IPSET_ERR_SKBINFO`.
    #[error("the set was created without skbinfo (IPSET_ERR_SKBINFO)")]
    NoMarks,
    /// `IPSET_ERR_HASH_FULL`.
    #[error("the set is full (IPSET_ERR_HASH_FULL)")]
    Full,
    /// `IPSET_ERR_INVALID_PROTO` and `_MISSING_PROTO`.
    #[error("the protocol is missing or has no ports (IPSET_ERR_INVALID_PROTO)")]
    TransportProtocol,
    /// Another of ipset's private error numbers.
    #[error("ipset error {0}")]
    Other(i32),
    /// An entry that this layer cannot read.
    #[error("unreadable entry: {0}")]
    Unreadable(String),
    /// Everything else.
    #[error("{0}")]
    Netlink(NetlinkError),
}

impl Reason {
    pub(super) fn of_command(error: NetlinkError, command: &SetCommand) -> Self {
        if command.names().iter().any(|name| name.len() > MAX_NAME) {
            return Self::NameTooLong;
        }
        if matches!(command, SetCommand::Create(_)) && error.errno() == Some(Errno::EEXIST as i32) {
            return Self::SetExists;
        }
        Self::from(error)
    }
}

impl From<NetlinkError> for Reason {
    fn from(error: NetlinkError) -> Self {
        let Some(number) = error.errno().filter(|_| error.is_kernel_verdict()) else { return Self::Netlink(error) };
        match number {
            _ if number == Errno::ENOENT as i32 => Self::NoSuchSet,
            4097 => Self::Protocol,
            4098 => Self::NoSuchType,
            4099 => Self::TooManySets,
            4100 => Self::Busy,
            4101 => Self::SecondName,
            4102 => Self::TypeMismatch,
            4103 => Self::Entry,
            4104 => Self::PrefixLength,
            4106 => Self::Family,
            4108 => Self::Referenced,
            4109 | 4110 => Self::AddressFamily,
            4114 => Self::NoMarks,
            // From 4352 the meaning depends on the type; bitmaps have others, but ours hold every port.
            4352 => Self::Full,
            4354 | 4355 => Self::TransportProtocol,
            4096.. => Self::Other(number),
            _ => Self::Netlink(error),
        }
    }
}
