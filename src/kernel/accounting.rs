//! Accounting objects of netfilter (nfacct): those that no rule uses, and deleting them.

use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::errno::Errno;

use super::attribute::Attributes;
use super::netfilter::{self, SUBSYSTEM_ACCOUNTING};
use super::netlink::{NetlinkError, Socket};

const GET: u8 = 1;
const DELETE: u8 = 3;
const NAME: u16 = 1;
const USE: u16 = 4;

/// What was tried with an object, and why it failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{action} accounting object {name}: {source}")]
pub struct AccountingError {
    /// What was tried.
    pub action: &'static str,
    /// The object.
    pub name: String,
    /// What the kernel said.
    pub source: NetlinkError,
}

/// Whether an object of that name is there and no rule uses it. A kernel without nfacct has none.
///
/// # Errors
/// What the kernel said.
pub fn is_idle(name: &str) -> Result<bool, AccountingError> {
    let question = netfilter::message(SUBSYSTEM_ACCOUNTING, GET, 0, 0, |writer| writer.text(NAME, name));
    let mut users = 0;
    let outcome = Socket::open(NETLINK_NETFILTER).and_then(|mut socket| {
        socket.request(question, |_, payload| {
            let attributes = netfilter::payload(payload).map_or(&[][..], |(_, attributes)| attributes);
            for attribute in Attributes::new(attributes) {
                let attribute = attribute.map_err(NetlinkError::malformed)?;
                if attribute.kind == USE {
                    users = attribute.u32_be().map_err(NetlinkError::malformed)?;
                }
            }
            Ok(())
        })
    });
    match outcome {
        // The object itself counts as one.
        Ok(()) => Ok(users == 1),
        Err(error) if [Errno::ENOENT, Errno::EINVAL].iter().any(|errno| error.errno() == Some(*errno as i32)) => {
            Ok(false)
        }
        Err(source) => Err(AccountingError { action: "look for", name: name.to_owned(), source }),
    }
}

/// Deletes an object; one that is not there is no error.
///
/// # Errors
/// What the kernel said.
pub fn delete(name: &str) -> Result<(), AccountingError> {
    let message = netfilter::message(SUBSYSTEM_ACCOUNTING, DELETE, 0, 0, |writer| writer.text(NAME, name));
    match Socket::open(NETLINK_NETFILTER).and_then(|mut socket| socket.request(message, |_, _| Ok(()))) {
        Err(source) if source.errno() != Some(Errno::ENOENT as i32) => {
            Err(AccountingError { action: "delete", name: name.to_owned(), source })
        }
        _ => Ok(()),
    }
}
