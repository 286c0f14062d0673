//! The blocking netlink socket of the `ipvs` crate, with this layer's error.

use ipvs::netlink::{self, Messages, SocketError, SocketOptions};

/// Why the kernel, or the way to it, refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(transparent)]
pub struct NetlinkError(#[from] SocketError);

impl NetlinkError {
    /// The error number, where there is one; above 4095 it is private to a subsystem.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        self.0.errno()
    }

    /// Whether the kernel itself refused the message, so that it is known to have changed nothing. Otherwise it is
    /// unknown what became of it.
    #[must_use]
    pub fn is_kernel_verdict(&self) -> bool {
        self.0.is_kernel_verdict()
    }

    /// The table changed while it was dumped; what was seen may be incomplete.
    #[must_use]
    pub fn is_interrupted(&self) -> bool {
        matches!(self.0, SocketError::DumpInterrupted)
    }

    pub(super) fn kernel(errno: i32) -> Self {
        Self(SocketError::Kernel { errno, message: None })
    }

    #[cfg(test)]
    pub(crate) fn for_tests(errno: i32) -> Self {
        Self::kernel(errno)
    }

    pub(super) fn malformed(error: impl ToString) -> Self {
        Self(SocketError::Malformed { reason: error.to_string() })
    }
}

/// A socket of one netlink protocol in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Socket(netlink::Socket);

impl Socket {
    pub fn open(protocol: isize) -> Result<Self, NetlinkError> {
        Ok(Self(netlink::Socket::open(protocol, &SocketOptions::default())?))
    }

    /// Sends all messages, about a hundred a system call, and returns a result for each, in their order.
    pub fn batch(&mut self, messages: &[Vec<u8>]) -> Vec<Result<(), NetlinkError>> {
        self.0.batch(messages).into_iter().map(|result| result.map_err(NetlinkError)).collect()
    }

    /// The same of messages that lie in one buffer.
    pub fn batch_messages(&mut self, messages: &mut Messages) -> Vec<Result<(), NetlinkError>> {
        self.0.batch_messages(messages).into_iter().map(|result| result.map_err(NetlinkError)).collect()
    }

    /// Sends one request and hands over every answer: message type and payload.
    pub fn request(
        &mut self,
        message: Vec<u8>,
        mut each: impl FnMut(u16, &[u8]) -> Result<(), NetlinkError>,
    ) -> Result<(), NetlinkError> {
        self.0.request(message, &mut each)
    }
}
