//! The conversation with the kernel about flows.

use nix::errno::Errno;

use super::flow::{self, Filter, Flow, Tuple};
use crate::kernel::NetlinkError;
use crate::kernel::netlink::Socket;

/// `NETLINK_NETFILTER`.
const NETLINK_NETFILTER: isize = 12;

/// What was tried with tracked connections, and why it failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{action}: {source}")]
pub struct ConntrackError {
    /// What was tried, on what.
    pub action: String,
    /// The kernel's answer.
    pub source: NetlinkError,
}

/// Connections of the network namespace of the thread that opened the client.
#[derive(Debug)]
pub struct Client {
    socket: Socket,
}

impl Client {
    /// Opens the way to the kernel's connection tracking.
    ///
    /// # Errors
    /// When no netlink socket can be opened. A kernel without ctnetlink answers the first question with an error.
    pub fn open() -> Result<Self, ConntrackError> {
        Socket::open(NETLINK_NETFILTER)
            .map(|socket| Self { socket })
            .map_err(|source| ConntrackError { action: "open a socket for connection tracking".to_owned(), source })
    }

    /// Hands over the flows that match as they arrive. The table is read without a lock: a flow that comes or goes
    /// meanwhile may be seen or not.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn dump(&mut self, filter: &Filter, mut each: impl FnMut(Flow)) -> Result<(), ConntrackError> {
        let outcome = self.socket.request(flow::dump(filter), |_, payload| {
            let found = flow::decode(payload).map_err(NetlinkError::malformed)?;
            if let Some(flow) = found.filter(|flow| filter.matches(flow)) {
                each(flow);
            }
            Ok(())
        });
        outcome.map_err(|source| ConntrackError { action: format!("list {} connections", filter.family), source })
    }

    /// The flow whose first packet was this, in the zone that everything is in unless somebody says otherwise.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn find(&mut self, original: &Tuple) -> Result<Option<Flow>, ConntrackError> {
        let mut found = None;
        let outcome = self.socket.request(flow::find(original), |_, payload| {
            // The answer to the opposite direction is the same entry.
            let flow = flow::decode(payload).map_err(NetlinkError::malformed)?;
            found = flow.filter(|flow| flow.original == *original);
            Ok(())
        });
        match outcome {
            Err(error) if error.errno() == Some(Errno::ENOENT as i32) => Ok(None),
            Err(source) => {
                let Tuple { source: from, destination: to, protocol } = original;
                Err(ConntrackError { action: format!("find connection {from} -> {to} of protocol {protocol}"), source })
            }
            Ok(()) => Ok(found),
        }
    }

    /// Deletes a flow; `false` when it was gone already.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn delete(&mut self, flow: &Flow) -> Result<bool, ConntrackError> {
        self.delete_all(&[*flow]).map(|deleted| deleted > 0)
    }

    /// Deletes flows and returns how many there still were. One that fails does not stop the others; the first
    /// failure is returned.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn delete_all(&mut self, flows: &[Flow]) -> Result<usize, ConntrackError> {
        let messages: Vec<Vec<u8>> = flows.iter().map(flow::delete).collect();
        let (mut deleted, mut failure) = (0, None);
        for (result, flow) in self.socket.batch(&messages).into_iter().zip(flows) {
            match result {
                Ok(()) => deleted += 1,
                Err(error) if error.errno() == Some(Errno::ENOENT as i32) => {}
                Err(source) => {
                    failure.get_or_insert(ConntrackError { action: format!("delete connection {flow}"), source });
                }
            }
        }
        failure.map_or(Ok(deleted), Err)
    }

    /// Has flows translated by connection tracking from now on, which somebody else (IPVS) has translated until now: each to
    /// whoever answers it. Their entries are replaced, one right after the other was deleted, since the kernel takes a
    /// translation for a new entry only. A packet that comes just in between makes an entry of its own, which stays.
    /// Returns how many were replaced; those that were gone already are left alone.
    ///
    /// # Errors
    /// What the kernel said first; the others are done nevertheless. A flow whose entry could not be made is deleted.
    pub fn translate_all(&mut self, flows: &[Flow]) -> Result<usize, ConntrackError> {
        let pairs = flows.iter().flat_map(|flow| [flow::delete(flow), flow::create_translated(flow)]);
        let messages: Vec<Vec<u8>> = pairs.collect();
        let results = self.socket.batch(&messages);
        let (mut done, mut failure) = (0, None);
        for (pair, flow) in results.chunks(2).zip(flows) {
            let fine = |allowed: Errno, result: &Result<(), NetlinkError>| match result {
                Err(error) if error.errno() != Some(allowed as i32) => Some(error.clone()),
                _ => None,
            };
            let [deleted, made] = pair else { continue };
            let problem = fine(Errno::ENOENT, deleted).or_else(|| fine(Errno::EEXIST, made));
            match problem {
                None => done += usize::from(deleted.is_ok() && made.is_ok()),
                Some(source) => {
                    failure.get_or_insert(ConntrackError { action: format!("translate connection {flow}"), source });
                }
            }
        }
        failure.map_or(Ok(done), Err)
    }
}
