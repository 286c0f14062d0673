//! One request and all its replies: an object or a dump.

use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST};

use super::frame::{Reply, frames, stamp};
use super::{Socket, SocketError};

/// Takes a reply: message type and payload (what follows the netlink header).
pub type Each<'a, E> = dyn FnMut(u16, &[u8]) -> Result<(), E> + 'a;

/// What one datagram did to a request.
enum Step {
    Continue { progress: bool },
    Finished,
}

impl Socket {
    /// Sends one request and hands each reply's message type and payload (what follows the netlink header) to `each`,
    /// as it arrives: a dump of any size takes one buffer.
    ///
    /// `message` is one whole netlink message; length, sequence number and `NLM_F_REQUEST` are filled in here. With
    /// `NLM_F_DUMP` in its flags it is a dump, which ends with `NLMSG_DONE`; otherwise an acknowledgement is asked
    /// for and ends it.
    ///
    /// # Errors
    /// The kernel's refusal ([`SocketError::Kernel`]), `each`'s first error (the remaining replies are read and
    /// dropped, so that the socket stays usable), [`SocketError::DumpInterrupted`] after all replies of a dump that
    /// may be inconsistent, or a failure of the transport.
    pub fn request<E: From<SocketError>>(&mut self, mut message: Vec<u8>, each: &mut Each<'_, E>) -> Result<(), E> {
        let sequence = self.sequences(1);
        // A dump that asked for an acknowledgement, too, would get one on some kernels only.
        if !stamp(&mut message, sequence, NLM_F_REQUEST, NLM_F_ACK)? {
            stamp(&mut message, sequence, NLM_F_ACK, 0)?;
        }
        message.resize(message.len().next_multiple_of(4), 0);
        self.send(&message, 1)?;

        let mut outcome = Outcome { failed: None, interrupted: false };
        let mut deadline = self.deadline();
        loop {
            let datagram = match self.receive(deadline) {
                Ok(datagram) => datagram,
                // What was lost is lost, but the rest of the replies has to leave the socket.
                Err(SocketError::Overrun) => {
                    outcome.fail(SocketError::Overrun.into());
                    continue;
                }
                Err(error) => {
                    self.stale = true;
                    return Err(outcome.failed.unwrap_or_else(|| error.into()));
                }
            };
            let step = outcome.take(sequence, &datagram, each);
            self.recycle(datagram);
            match step {
                Step::Continue { progress: true } => deadline = self.deadline(),
                Step::Continue { progress: false } => {}
                Step::Finished => return outcome.finish(),
            }
        }
    }
}

struct Outcome<E> {
    failed: Option<E>,
    interrupted: bool,
}

impl<E: From<SocketError>> Outcome<E> {
    fn fail(&mut self, error: E) {
        self.failed.get_or_insert(error);
    }

    fn take(&mut self, sequence: u32, datagram: &[u8], each: &mut Each<'_, E>) -> Step {
        let mut progress = false;
        for frame in frames(datagram) {
            let frame = match frame {
                Ok(frame) if frame.sequence == sequence => frame,
                // A late answer to an earlier request, or a notification.
                Ok(_) => continue,
                Err(error) => {
                    self.fail(error.into());
                    continue;
                }
            };
            progress = true;
            self.interrupted |= frame.interrupted;
            match frame.reply {
                Reply::Acknowledged | Reply::Done => return Step::Finished,
                Reply::Refused { errno, message } => {
                    self.fail(SocketError::Kernel { errno, message }.into());
                    return Step::Finished;
                }
                Reply::Overrun => self.fail(SocketError::Overrun.into()),
                Reply::Nothing => {}
                Reply::Data { kind, payload } => {
                    if self.failed.is_none()
                        && let Err(error) = each(kind, payload)
                    {
                        self.fail(error);
                    }
                }
            }
        }
        Step::Continue { progress }
    }

    fn finish(self) -> Result<(), E> {
        match self {
            Self { failed: Some(error), .. } => Err(error),
            Self { interrupted: true, .. } => Err(SocketError::DumpInterrupted.into()),
            Self { .. } => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::SocketOptions;
    use netlink_packet_core::NLM_F_DUMP;
    use netlink_sys::protocols::NETLINK_ROUTE;
    use std::time::Duration;

    /// `RTM_GETLINK` with an empty `struct ifinfomsg`.
    fn get_links(flags: u16) -> Vec<u8> {
        let mut bytes = vec![0; 32];
        bytes[4..6].copy_from_slice(&18u16.to_ne_bytes());
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        bytes
    }

    fn socket() -> Socket {
        let options = SocketOptions { receive_timeout: Duration::from_millis(300), ..SocketOptions::default() };
        Socket::open(NETLINK_ROUTE, &options).unwrap()
    }

    #[test]
    fn a_dump_is_streamed_and_ends() {
        let mut socket = socket();
        let mut links = 0;
        let mut count = |kind: u16, _: &[u8]| {
            assert_eq!(kind, 16, "RTM_NEWLINK");
            links += 1;
            Ok::<(), SocketError>(())
        };
        socket.request(get_links(NLM_F_DUMP), &mut count).unwrap();
        assert!(links > 0, "every namespace has lo");
        assert_eq!(socket.counters().messages, 1);
    }

    #[test]
    fn a_refusal_names_the_errno_and_the_callers_error_leaves_the_socket_usable() {
        let mut socket = socket();
        let refused = socket.request::<SocketError>(get_links(0), &mut |_, _| Ok(())).unwrap_err();
        assert_eq!(refused.errno(), Some(22), "{refused}");
        for _ in 0..3 {
            let stop = |_: u16, _: &[u8]| Err(SocketError::malformed("stop"));
            let stopped = socket.request::<SocketError>(get_links(NLM_F_DUMP), &mut { stop }).unwrap_err();
            assert_eq!(stopped, SocketError::malformed("stop"));
        }
    }

    #[test]
    fn errors_of_a_batch_land_on_their_message() {
        let mut socket = socket();
        let mut by_index = get_links(0);
        by_index[20..24].copy_from_slice(&1i32.to_ne_bytes());
        let mut messages = Vec::new();
        for index in 0..250 {
            messages.push(if index % 7 == 3 { get_links(0) } else { by_index.clone() });
        }
        let results = socket.batch(&messages);
        assert_eq!(results.len(), 250);
        for (index, result) in results.iter().enumerate() {
            assert_eq!(result.is_err(), index % 7 == 3, "{index}: {result:?}");
        }
        assert_eq!((socket.counters().sends, socket.counters().messages), (3, 250));
    }

    #[test]
    fn a_dump_in_a_batch_is_refused_and_nothing_is_sent() {
        let mut socket = socket();
        let results = socket.batch(&[get_links(0), get_links(NLM_F_DUMP)]);
        assert!(results.iter().all(|result| matches!(result, Err(SocketError::NotSent { .. }))), "{results:?}");
        assert_eq!(socket.counters().sends, 0);
    }

    #[test]
    fn waiting_ends_although_strangers_talk() {
        // NETLINK_USERSOCK: the kernel answers nothing there.
        let options = SocketOptions { receive_timeout: Duration::from_millis(200), ..SocketOptions::default() };
        let mut socket = Socket::open(netlink_sys::protocols::NETLINK_USERSOCK, &options).unwrap();
        let started = std::time::Instant::now();
        assert!(socket.receive(socket.deadline()).is_err());
        assert!(started.elapsed() < Duration::from_secs(2));
    }
}
