//! The blocking netlink socket under this layer: batches with a result for each message, requests and dumps streamed
//! to the caller.

use std::io;

use netlink_sys::{Socket as Raw, SocketAddr};

use super::netfilter::NLM_F_DUMP;

/// Messages of one system call. Replies of that many fit the default receive buffer with room to spare.
const BATCH: usize = 100;
const HEADER: usize = 16;
const NLM_F_ACK: u16 = 0x04;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLMSG_NOOP: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

/// Why the kernel, or the way to it, refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetlinkError {
    /// The kernel's answer to the message: an error number, above 4095 private to a subsystem.
    #[error("{}", io::Error::from_raw_os_error(*.0))]
    Kernel(i32),
    /// The socket itself failed.
    #[error("netlink socket: {}", io::Error::from_raw_os_error(*.0))]
    Socket(i32),
    /// The table changed while it was dumped (`NLM_F_DUMP_INTR`); what was seen may be incomplete.
    #[error("the table changed while it was read")]
    Interrupted,
    /// An answer that this layer cannot read.
    #[error("unreadable answer: {0}")]
    Malformed(String),
}

impl NetlinkError {
    /// The error number, where there is one.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Kernel(errno) | Self::Socket(errno) => Some(*errno),
            Self::Interrupted | Self::Malformed(_) => None,
        }
    }

    fn socket(error: &io::Error) -> Self {
        Self::Socket(error.raw_os_error().unwrap_or(nix::errno::Errno::EIO as i32))
    }
}

/// A socket of one netlink protocol in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Socket {
    raw: Raw,
    sequence: u32,
}

impl Socket {
    pub fn open(protocol: isize) -> Result<Self, NetlinkError> {
        let open = || -> io::Result<Raw> {
            let mut raw = Raw::new(protocol)?;
            raw.bind_auto()?;
            raw.connect(&SocketAddr::new(0, 0))?;
            // Before 4.20 the option is unknown and filters are ignored; callers filter again in any case.
            let _ = raw.set_netlink_get_strict_chk(true);
            let _ = raw.set_cap_ack(true);
            Ok(raw)
        };
        open().map(|raw| Self { raw, sequence: 1 }).map_err(|error| NetlinkError::socket(&error))
    }

    fn number(&mut self, message: &mut [u8], ack: bool) -> u32 {
        let sequence = self.sequence;
        self.sequence = self.sequence.checked_add(1).unwrap_or(1);
        if let Some(place) = message.get_mut(8..12) {
            place.copy_from_slice(&sequence.to_ne_bytes());
        }
        if ack && let Some(low) = message.get_mut(6) {
            *low |= NLM_F_ACK.to_ne_bytes()[0];
        }
        sequence
    }

    /// Sends all messages and returns a result for each, in their order.
    pub fn batch(&mut self, messages: &mut [Vec<u8>]) -> Vec<Result<(), NetlinkError>> {
        let mut results = Vec::with_capacity(messages.len());
        for chunk in messages.chunks_mut(BATCH) {
            let first = results.len();
            results.resize(first + chunk.len(), Ok(()));
            if let Err(error) = self.chunk(chunk, results.get_mut(first..).unwrap_or_default()) {
                for result in results.iter_mut().skip(first) {
                    *result = Err(error.clone());
                }
            }
        }
        results
    }

    fn chunk(&mut self, chunk: &mut [Vec<u8>], results: &mut [Result<(), NetlinkError>]) -> Result<(), NetlinkError> {
        let count = chunk.len();
        let mut bytes = Vec::new();
        let (mut first, mut last) = (0, 0);
        for (place, message) in chunk.iter_mut().enumerate() {
            last = self.number(message, place + 1 == count);
            if place == 0 {
                first = last;
            }
            bytes.extend_from_slice(message);
        }
        self.raw.send(&bytes, 0).map_err(|error| NetlinkError::socket(&error))?;
        loop {
            let mut finished = false;
            self.receive(|kind, _, sequence, payload| {
                if kind == NLMSG_ERROR {
                    let errno = errno(payload);
                    let place = sequence.wrapping_sub(first) as usize;
                    if errno != 0
                        && let Some(result) = results.get_mut(place)
                    {
                        *result = Err(NetlinkError::Kernel(errno));
                    }
                    finished |= sequence == last;
                }
                Ok(())
            })?;
            if finished {
                return Ok(());
            }
        }
    }

    /// Sends one request and hands over every answer: message type and payload. A dump is read to its end even when
    /// `each` fails; the first failure is returned.
    pub fn request(
        &mut self,
        mut message: Vec<u8>,
        mut each: impl FnMut(u16, &[u8]) -> Result<(), NetlinkError>,
    ) -> Result<(), NetlinkError> {
        let flags = message.get(6..8).and_then(|flags| flags.try_into().ok()).map_or(0, u16::from_ne_bytes);
        let dump = flags & NLM_F_DUMP == NLM_F_DUMP;
        let expected = self.number(&mut message, !dump);
        self.raw.send(&message, 0).map_err(|error| NetlinkError::socket(&error))?;
        let (mut finished, mut outcome) = (false, Ok(()));
        while !finished {
            self.receive(|kind, flags, sequence, payload| {
                if sequence != expected {
                    return Ok(());
                }
                let now = match kind {
                    NLMSG_NOOP => Ok(()),
                    NLMSG_ERROR | NLMSG_DONE => {
                        finished = true;
                        match errno(payload) {
                            0 => Ok(()),
                            errno => Err(NetlinkError::Kernel(errno)),
                        }
                    }
                    _ if outcome.is_ok() => each(kind, payload),
                    _ => Ok(()),
                };
                let now = if flags & NLM_F_DUMP_INTR == 0 { now } else { now.and(Err(NetlinkError::Interrupted)) };
                if outcome.is_ok() {
                    outcome = now;
                }
                Ok(())
            })?;
        }
        outcome
    }

    fn receive(
        &self,
        mut each: impl FnMut(u16, u16, u32, &[u8]) -> Result<(), NetlinkError>,
    ) -> Result<(), NetlinkError> {
        let (datagram, _) = self.raw.recv_from_full().map_err(|error| NetlinkError::socket(&error))?;
        let mut rest = datagram.as_slice();
        while let Some((header, _)) = rest.split_first_chunk::<HEADER>() {
            let [l0, l1, l2, l3, k0, k1, f0, f1, s0, s1, s2, s3, ..] = *header;
            let length = u32::from_ne_bytes([l0, l1, l2, l3]) as usize;
            let payload = rest
                .get(HEADER..length)
                .ok_or_else(|| NetlinkError::Malformed(format!("message of {length} bytes in {}", rest.len())))?;
            let sequence = u32::from_ne_bytes([s0, s1, s2, s3]);
            each(u16::from_ne_bytes([k0, k1]), u16::from_ne_bytes([f0, f1]), sequence, payload)?;
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(())
    }
}

/// The (positive) error number at the start of an error or of a finished dump; 0 is success.
fn errno(payload: &[u8]) -> i32 {
    payload.first_chunk::<4>().map_or(0, |code| i32::from_ne_bytes(*code).saturating_neg())
}
