//! Many requests in one `send`, one result for each.
//!
//! The kernel processes the messages of a datagram one after the other, inside the `send`, and goes on after a failed
//! one (`netlink_rcv_skb`). It reports every failure, asked or not, so only the last message of a chunk asks for an
//! acknowledgement: when its answer is there, all answers are, and a message without an error succeeded.

use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST};

use super::frame::{Reply, frames, stamp};
use super::{Socket, SocketError};

impl Socket {
    /// Sends requests, many in one system call, and returns one result for each, in order.
    ///
    /// Each buffer is one whole netlink message, header and payload. Length, sequence number, `NLM_F_REQUEST` and
    /// `NLM_F_ACK` are filled in here; message type and other flags are taken as given. Dumps do not belong here.
    ///
    /// A failed message does not stop those after it. A failure of the transport does: what the kernel had not
    /// answered is then [`SocketError::Unacknowledged`], the rest [`SocketError::NotSent`]; neither is ever `Ok`.
    pub fn batch(&mut self, messages: &mut [Vec<u8>]) -> Vec<Result<(), SocketError>> {
        let mut results = Vec::with_capacity(messages.len());
        let mut rest = messages;
        while !rest.is_empty() {
            let (chunk, later) = rest.split_at_mut(self.chunk_length(rest));
            rest = later;
            match self.chunk(chunk) {
                (answers, None) => results.extend(answers),
                (answers, Some(cause)) => {
                    results.extend(answers);
                    let skipped = rest.iter().map(|_| Err(SocketError::NotSent { cause: Box::new(cause.clone()) }));
                    results.extend(skipped);
                    break;
                }
            }
        }
        results
    }

    /// How many of `messages` go into the next `send`: at least one.
    fn chunk_length(&self, messages: &[Vec<u8>]) -> usize {
        let mut bytes = 0usize;
        let fitting = messages.iter().take(self.options.batch_messages).take_while(|message| {
            bytes = bytes.saturating_add(message.len().next_multiple_of(4));
            bytes <= self.options.batch_bytes
        });
        fitting.count().max(1)
    }

    /// One `send` and its answers; the second value is a failure of the transport.
    fn chunk(&mut self, messages: &mut [Vec<u8>]) -> (Vec<Result<(), SocketError>>, Option<SocketError>) {
        let count = u32::try_from(messages.len()).unwrap_or(u32::MAX);
        let first = self.sequences(count);
        let mut datagram = Vec::with_capacity(messages.iter().map(|message| message.len() + 3).sum());
        let last = messages.len().saturating_sub(1);
        for (index, message) in messages.iter_mut().enumerate() {
            let sequence = first.saturating_add(u32::try_from(index).unwrap_or(u32::MAX));
            let (set, clear) = if index == last { (NLM_F_ACK, 0) } else { (0, NLM_F_ACK) };
            let checked = match stamp(message, sequence, NLM_F_REQUEST | set, clear) {
                Ok(false) => Ok(()),
                Ok(true) => Err(SocketError::malformed("a dump cannot be part of a batch")),
                Err(error) => Err(error),
            };
            // A programming error of the caller: nothing of this chunk is sent.
            if let Err(error) = checked {
                let refuse = |_: &Vec<u8>| Err(SocketError::NotSent { cause: Box::new(error.clone()) });
                return (messages.iter().map(refuse).collect(), Some(error));
            }
            datagram.extend_from_slice(message);
            datagram.resize(datagram.len().next_multiple_of(4), 0);
        }
        // The kernel takes a datagram whole or not at all, so after a failed send nothing was done.
        if let Err(error) = self.send(&datagram, messages.len()) {
            let refuse = |_: &Vec<u8>| Err(SocketError::NotSent { cause: Box::new(error.clone()) });
            return (messages.iter().map(refuse).collect(), Some(error));
        }
        self.answers(first, messages.len())
    }

    /// Collects the errors until the last message is answered.
    fn answers(&mut self, first: u32, count: usize) -> (Vec<Result<(), SocketError>>, Option<SocketError>) {
        let mut answers: Vec<Option<Result<(), SocketError>>> = vec![None; count];
        let outcome = self.await_last(first, &mut answers);
        let fill = |answer: Option<Result<(), SocketError>>| match (answer, &outcome) {
            (Some(answer), _) => answer,
            (None, Ok(())) => Ok(()),
            (None, Err(cause)) => Err(SocketError::Unacknowledged { cause: Box::new(cause.clone()) }),
        };
        (answers.into_iter().map(fill).collect(), outcome.err())
    }

    fn await_last(&mut self, first: u32, answers: &mut [Option<Result<(), SocketError>>]) -> Result<(), SocketError> {
        let mut deadline = self.deadline();
        while !answers.last().is_some_and(Option::is_some) {
            let datagram = self.receive(deadline)?;
            let mut progress = false;
            let mut failed = None;
            for frame in frames(&datagram) {
                let frame = match frame {
                    Ok(frame) => frame,
                    Err(error) => {
                        failed = Some(error);
                        break;
                    }
                };
                // A late answer to an earlier request that timed out has another sequence number.
                let index = frame.sequence.checked_sub(first).and_then(|index| usize::try_from(index).ok());
                let Some(slot) = index.and_then(|index| answers.get_mut(index)) else { continue };
                progress = true;
                match frame.reply {
                    Reply::Acknowledged => *slot = Some(Ok(())),
                    Reply::Refused { errno, message } => *slot = Some(Err(SocketError::Kernel { errno, message })),
                    Reply::Overrun => failed = Some(SocketError::Overrun),
                    Reply::Done | Reply::Nothing | Reply::Data { .. } => {}
                }
            }
            self.recycle(datagram);
            if let Some(error) = failed {
                return Err(error);
            }
            if progress {
                deadline = self.deadline();
            }
        }
        Ok(())
    }
}
