//! Tables of nftables by name: whether one is there, and deleting it with all that is in it.
//!
//! No more than what a table that another program left behind takes: no crate and no `nft` is needed for it.

use netlink_sys::SocketAddr;
use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::errno::Errno;
use nix::sys::socket::MsgFlags;

use super::netfilter::{self, SUBSYSTEM_NFTABLES};
use super::netlink::{NetlinkError, Socket};
use crate::model::IpFamily;

const GET_TABLE: u8 = 1;
const DELETE_TABLE: u8 = 2;
/// `NFTA_TABLE_NAME`
const TABLE_NAME: u16 = 1;
/// `NFNL_MSG_BATCH_BEGIN` and `NFNL_MSG_BATCH_END`: nf_tables takes changes in batches only.
const BATCH_BEGIN: u8 = 0x10;
const BATCH_END: u8 = 0x11;
const NLM_F_ACK: u16 = 0x04;
/// `NLMSG_ERROR`; an acknowledgement is an error of number 0.
const NLMSG_ERROR: u16 = 2;
/// Where the resource id (of a batch: the subsystem) stands in a message, big endian.
const RESOURCE: usize = 18;

/// What was tried with a table, and why it failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{action} table {name} of nftables: {source}")]
pub struct NftablesError {
    /// What was tried.
    pub action: &'static str,
    /// The table.
    pub name: String,
    /// What the kernel said.
    pub source: NetlinkError,
}

/// Whether a table of that family and name is there. A kernel without nf_tables has none.
///
/// # Errors
/// What the kernel said.
pub fn has_table(family: IpFamily, name: &str) -> Result<bool, NftablesError> {
    let question = netfilter::message(SUBSYSTEM_NFTABLES, GET_TABLE, 0, family.number(), |writer| {
        writer.text(TABLE_NAME, name);
    });
    let outcome = Socket::open(NETLINK_NETFILTER).and_then(|mut socket| socket.request(question, |_, _| Ok(())));
    match outcome {
        Ok(()) => Ok(true),
        // EINVAL is what nfnetlink says when a subsystem is missing and its module cannot be loaded.
        Err(error) if is_one_of(&error, &[Errno::ENOENT, Errno::EINVAL, Errno::EOPNOTSUPP]) => Ok(false),
        Err(source) => Err(NftablesError { action: "look for", name: name.to_owned(), source }),
    }
}

fn is_one_of(error: &NetlinkError, known: &[Errno]) -> bool {
    known.iter().any(|errno| error.errno() == Some(*errno as i32))
}

/// Deletes a table with its chains, sets and rules, all of it at one instant; one that is not there is no error.
///
/// # Errors
/// What the kernel said.
pub fn delete_table(family: IpFamily, name: &str) -> Result<(), NftablesError> {
    match send(&batch(family, name)) {
        Err(error) if !is_one_of(&error, &[Errno::ENOENT]) => {
            Err(NftablesError { action: "delete", name: name.to_owned(), source: error })
        }
        _ => Ok(()),
    }
}

fn batch(family: IpFamily, name: &str) -> Vec<u8> {
    let mut bytes = frame(BATCH_BEGIN);
    bytes.extend(netfilter::message(SUBSYSTEM_NFTABLES, DELETE_TABLE, NLM_F_ACK, family.number(), |writer| {
        writer.text(TABLE_NAME, name);
    }));
    bytes.extend(frame(BATCH_END));
    bytes
}

/// The begin or the end of a batch for nf_tables.
fn frame(command: u8) -> Vec<u8> {
    let mut bytes = netfilter::message(0, command, 0, 0, |_| {});
    for (place, byte) in bytes.iter_mut().skip(RESOURCE).zip(u16::from(SUBSYSTEM_NFTABLES).to_be_bytes()) {
        *place = byte;
    }
    bytes
}

/// Sends a batch and reads its outcome. Which messages of a batch are answered differs from kernel to kernel, so that the
/// socket's own batches don't fit. The kernel works while we send, so that the answer is there when that returns.
fn send(bytes: &[u8]) -> Result<(), NetlinkError> {
    let system = |error: std::io::Error| NetlinkError::kernel(error.raw_os_error().unwrap_or(Errno::EIO as i32));
    let mut socket = netlink_sys::Socket::new(NETLINK_NETFILTER).map_err(system)?;
    socket.bind_auto().map_err(system)?;
    socket.send_to(bytes, &SocketAddr::new(0, 0), 0).map_err(system)?;
    let mut answer = Vec::with_capacity(4096);
    socket.recv_from(&mut answer, MsgFlags::MSG_DONTWAIT.bits()).map_err(system)?;
    match outcome(&answer) {
        Some(0) => Ok(()),
        Some(errno) => Err(NetlinkError::kernel(errno)),
        None => Err(NetlinkError::malformed("no answer to a batch")),
    }
}

/// The error number in the first message of an answer.
fn outcome(answer: &[u8]) -> Option<i32> {
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    let number = i32::from_ne_bytes(answer.get(16..20)?.try_into().ok()?);
    (kind == NLMSG_ERROR).then_some(number.saturating_neg())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_for_nf_tables_and_asks_for_one_answer() {
        let bytes = batch(IpFamily::V6, "kube-proxy");
        // struct nlmsghdr is 16 bytes, struct nfgenmsg 4, the name with its attribute's header 16.
        assert_eq!(bytes.len(), 20 + 36 + 20);
        assert_eq!(bytes[..8], [20, 0, 0, 0, 0x10, 0, 1, 0]);
        assert_eq!(bytes[16..20], [0, 0, 0, 10]);
        assert_eq!(bytes[20..28], [36, 0, 0, 0, 2, 10, 5, 0]);
        assert_eq!(bytes[36], 10, "AF_INET6");
        assert_eq!(&bytes[44..55], b"kube-proxy\0");
        assert_eq!(bytes[56..64], [20, 0, 0, 0, 0x11, 0, 1, 0]);
    }

    #[test]
    fn an_answer_is_read_or_refused() {
        let mut answer = vec![0; 20];
        answer[4] = 2;
        assert_eq!(outcome(&answer), Some(0));
        answer[16..20].copy_from_slice(&(-2_i32).to_ne_bytes());
        assert_eq!(outcome(&answer), Some(2));
        assert_eq!(outcome(&answer[..19]), None);
        answer[4] = 3;
        assert_eq!(outcome(&answer), None);
    }
}
