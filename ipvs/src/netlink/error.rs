//! What can go wrong on a netlink socket, in the distinctions that a caller needs: did the kernel refuse this message,
//! or is it unknown what became of it?

use std::io;
use std::time::Duration;

/// A failure of a [`Socket`](super::Socket) or of one message sent through it.
///
/// Only [`SocketError::Kernel`] is the kernel's own verdict on a message. Every other variant is a failure of the
/// transport: the outcome of what was under way is then unknown, or nothing was sent ([`SocketError::NotSent`]).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SocketError {
    /// The kernel processed the message and refused it.
    #[error("{}{}", describe(*errno), message.as_deref().map(|text| format!(": {text}")).unwrap_or_default())]
    Kernel {
        /// Positive errno.
        errno: i32,
        /// The kernel's own words (extended acknowledgement), where it gave any.
        message: Option<String>,
    },
    /// A system call on the socket failed.
    #[error("{call}: {}", describe(*errno))]
    System {
        /// The system call, for example `sendto`.
        call: &'static str,
        /// Positive errno.
        errno: i32,
    },
    /// No reply came in time. A dump may still be under way in the kernel, so open a new socket rather than going on.
    #[error("no reply from the kernel within {waited:?}")]
    Timeout {
        /// How long no reply to the request came.
        waited: Duration,
    },
    /// The receive buffer overflowed and replies were lost (`ENOBUFS` or `NLMSG_OVERRUN`).
    #[error("the receive buffer overflowed and replies were lost")]
    Overrun,
    /// What was dumped changed meanwhile, so that the dump may lack or repeat entries (`NLM_F_DUMP_INTR`): ask again.
    #[error("the kernel's table changed during the dump, which may be inconsistent")]
    DumpInterrupted,
    /// A reply was longer than [`SocketOptions::message_buffer`](super::SocketOptions::message_buffer).
    #[error("a reply of {length} bytes does not fit into the message buffer of {capacity} bytes")]
    Truncated {
        /// Length of the reply.
        length: usize,
        /// Size of the buffer.
        capacity: usize,
    },
    /// Bytes that are not a netlink message, from the kernel or from the caller.
    #[error("malformed netlink message: {reason}")]
    Malformed {
        /// What is wrong with it.
        reason: String,
    },
    /// The message was sent, but what became of it is unknown.
    #[error("sent, outcome unknown: {cause}")]
    Unacknowledged {
        /// What happened on the way.
        cause: Box<SocketError>,
    },
    /// The message was never sent, because of an earlier failure.
    #[error("not sent: {cause}")]
    NotSent {
        /// What happened before.
        cause: Box<SocketError>,
    },
}

impl SocketError {
    /// The errno of the kernel or of the system call, positive; of the cause for a message that was not answered.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Kernel { errno, .. } | Self::System { errno, .. } => Some(*errno),
            Self::Unacknowledged { cause } | Self::NotSent { cause } => cause.errno(),
            _ => None,
        }
    }

    /// Whether the kernel itself refused this message, so that its state is known: the message changed nothing.
    #[must_use]
    pub fn is_kernel_verdict(&self) -> bool {
        matches!(self, Self::Kernel { .. })
    }

    /// What happened, without the wrapping of [`SocketError::Unacknowledged`] and [`SocketError::NotSent`].
    pub(crate) fn into_cause(self) -> Self {
        match self {
            Self::Unacknowledged { cause } | Self::NotSent { cause } => cause.into_cause(),
            other => other,
        }
    }

    pub(crate) fn system(call: &'static str, error: &io::Error) -> Self {
        Self::System { call, errno: error.raw_os_error().unwrap_or(0) }
    }

    pub(crate) fn malformed(reason: impl Into<String>) -> Self {
        Self::Malformed { reason: reason.into() }
    }
}

/// "File exists (os error 17)".
pub(crate) fn describe(errno: i32) -> String {
    io::Error::from_raw_os_error(errno).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_keep_the_errno_and_the_kernels_words() {
        let error = SocketError::Kernel { errno: 17, message: Some("already there".to_owned()) };
        assert_eq!(error.to_string(), "File exists (os error 17): already there");
        assert!(error.is_kernel_verdict());
        let lost = SocketError::NotSent { cause: Box::new(SocketError::System { call: "sendto", errno: 90 }) };
        assert_eq!(lost.errno(), Some(90));
        assert!(!lost.is_kernel_verdict());
    }
}
