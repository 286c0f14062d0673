//! The socket itself: options, sending, and receiving with a deadline.

use std::time::{Duration, Instant};

use netlink_sys::SocketAddr;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use super::SocketError;

/// How a [`Socket`] waits and buffers. The defaults suit configuration of tens of thousands of objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketOptions {
    /// How long to wait for the next reply to a request (5 s). Anything else that arrives does not prolong the wait.
    pub receive_timeout: Duration,
    /// Wanted size of the kernel's receive buffer in bytes (1 MiB). It has to hold the errors of a whole chunk.
    pub receive_buffer: usize,
    /// Largest single datagram that can be received, in bytes (64 KiB; the kernel fills dumps up to 32 KiB).
    pub message_buffer: usize,
    /// Most messages in one `send` of [`Socket::batch`] (100).
    pub batch_messages: usize,
    /// Most bytes in one `send` of [`Socket::batch`] (64 KiB); a single longer message is sent alone.
    pub batch_bytes: usize,
}

impl Default for SocketOptions {
    fn default() -> Self {
        Self {
            receive_timeout: Duration::from_secs(5),
            receive_buffer: 1 << 20,
            message_buffer: 1 << 16,
            batch_messages: 100,
            batch_bytes: 1 << 16,
        }
    }
}

/// What a socket did since it was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Counters {
    /// `send` system calls.
    pub sends: u64,
    /// `recv` system calls that returned a datagram.
    pub receives: u64,
    /// Netlink messages sent.
    pub messages: u64,
}

/// A blocking netlink socket to the kernel. It belongs to the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Socket {
    inner: netlink_sys::Socket,
    pub(super) options: SocketOptions,
    pub(super) counters: Counters,
    next_sequence: u32,
    buffer: Vec<u8>,
}

impl Socket {
    /// Opens a socket of `protocol` (a constant of [`netlink_sys::protocols`]) in the calling thread's network
    /// namespace.
    ///
    /// # Errors
    /// [`SocketError::System`]: the protocol is unknown to the kernel (`EPROTONOSUPPORT`) or not permitted.
    pub fn open(protocol: isize, options: &SocketOptions) -> Result<Self, SocketError> {
        let mut inner = netlink_sys::Socket::new(protocol).map_err(|error| SocketError::system("socket", &error))?;
        inner.bind_auto().map_err(|error| SocketError::system("bind", &error))?;
        // The errors of a failed message would repeat the whole message: with a big chunk of big messages they would
        // not fit into the receive buffer. The words of an error cost only those who make errors. Kernels before 4.3
        // and 4.12 lack these options, which is no reason to fail: replies are understood either way.
        let _ = inner.set_cap_ack(true);
        let _ = inner.set_ext_ack(true);
        // The forced size ignores net.core.rmem_max but needs CAP_NET_ADMIN in the initial user namespace.
        if setsockopt(&inner, sockopt::RcvBufForce, &options.receive_buffer).is_err() {
            setsockopt(&inner, sockopt::RcvBuf, &options.receive_buffer)
                .map_err(|errno| SocketError::System { call: "setsockopt", errno: errno as i32 })?;
        }
        // Zero would mean to wait for ever.
        let wait = i64::try_from(options.receive_timeout.as_millis()).unwrap_or(i64::MAX / 1_000_000).max(1);
        setsockopt(&inner, sockopt::ReceiveTimeout, &TimeVal::milliseconds(wait))
            .map_err(|errno| SocketError::System { call: "setsockopt", errno: errno as i32 })?;
        let buffer = Vec::with_capacity(options.message_buffer.max(4096));
        Ok(Self { inner, options: options.clone(), counters: Counters::default(), next_sequence: 1, buffer })
    }

    /// What was sent and received so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// The options that the socket was opened with.
    #[must_use]
    pub fn options(&self) -> &SocketOptions {
        &self.options
    }

    /// Reserves `count` consecutive sequence numbers, none of them 0 (which notifications carry), and returns the
    /// first.
    pub(super) fn sequences(&mut self, count: u32) -> u32 {
        let first = if self.next_sequence.checked_add(count).is_some() { self.next_sequence } else { 1 };
        self.next_sequence = first.saturating_add(count);
        first
    }

    /// One `send` of `messages` netlink messages.
    pub(super) fn send(&mut self, bytes: &[u8], messages: usize) -> Result<(), SocketError> {
        let kernel = SocketAddr::new(0, 0);
        loop {
            self.counters.sends += 1;
            match self.inner.send_to(bytes, &kernel, 0) {
                Ok(sent) if sent == bytes.len() => {
                    self.counters.messages += messages as u64;
                    return Ok(());
                }
                Ok(sent) => return Err(SocketError::malformed(format!("{sent} of {} bytes sent", bytes.len()))),
                Err(error) if error.raw_os_error() == Some(Errno::EINTR as i32) => {}
                Err(error) => return Err(SocketError::system("sendto", &error)),
            }
        }
    }

    /// The next datagram of the kernel, in the socket's own buffer, which comes back through [`Socket::recycle`].
    pub(super) fn receive(&mut self, deadline: Instant) -> Result<Vec<u8>, SocketError> {
        let timeout = || SocketError::Timeout { waited: self.options.receive_timeout };
        loop {
            if Instant::now() >= deadline {
                return Err(timeout());
            }
            let mut buffer = std::mem::take(&mut self.buffer);
            buffer.clear();
            let capacity = buffer.capacity();
            let received = self.inner.recv_from(&mut buffer, MsgFlags::MSG_TRUNC.bits());
            let length = match &received {
                Ok((length, sender)) => {
                    self.counters.receives += 1;
                    // Any process may send to a netlink socket's port; only port 0 is the kernel.
                    (sender.port_number() == 0).then_some(*length)
                }
                Err(_) => None,
            };
            match length {
                Some(length) if length > capacity => {
                    self.buffer = buffer;
                    return Err(SocketError::Truncated { length, capacity });
                }
                Some(_) => return Ok(buffer),
                None => self.buffer = buffer,
            }
            match received.err().map(|error| (error.raw_os_error().map(Errno::from_raw), error)) {
                None | Some((Some(Errno::EINTR), _)) => {}
                Some((Some(Errno::EAGAIN), _)) => return Err(timeout()),
                Some((Some(Errno::ENOBUFS), _)) => return Err(SocketError::Overrun),
                Some((_, error)) => return Err(SocketError::system("recvfrom", &error)),
            }
        }
    }

    /// Gives back the buffer of [`Socket::receive`].
    pub(super) fn recycle(&mut self, buffer: Vec<u8>) {
        self.buffer = buffer;
    }

    pub(super) fn deadline(&self) -> Instant {
        let now = Instant::now();
        now.checked_add(self.options.receive_timeout).unwrap_or(now + Duration::from_secs(3600))
    }
}
