//! Many requests in one `send`, one result for each.
//!
//! The kernel processes the messages of a datagram one after the other, inside the `send`, and goes on after a failed
//! one (`netlink_rcv_skb`). It reports every failure, asked or not, so only the last message of a chunk asks for an
//! acknowledgement: when its answer is there, all answers are, and a message without an error succeeded.

use std::ops::Range;

use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST};

use super::frame::{Reply, frames, stamp};
use super::{Messages, Socket, SocketError};

impl Socket {
    /// Sends requests, many in one system call, and returns one result for each, in order.
    ///
    /// Each buffer is one whole netlink message, header and payload. Length, sequence number, `NLM_F_REQUEST` and
    /// `NLM_F_ACK` are filled in here, in a copy; message type and other flags are taken as given. Dumps do not belong
    /// here.
    ///
    /// A failed message does not stop those after it. A failure of the transport does: what the kernel had not
    /// answered is then [`SocketError::Unacknowledged`], the rest [`SocketError::NotSent`]; neither is ever `Ok`.
    pub fn batch(&mut self, messages: &[Vec<u8>]) -> Vec<Result<(), SocketError>> {
        self.batch_messages(&mut messages.iter().collect())
    }

    /// [`batch`](Self::batch) of messages that lie in one buffer already, and are filled in there.
    pub fn batch_messages(&mut self, messages: &mut Messages) -> Vec<Result<(), SocketError>> {
        let mut results = Vec::with_capacity(messages.len());
        while results.len() < messages.len() {
            let first = results.len();
            let fitting = messages.fitting(first, self.options.batch_bytes).min(self.options.batch_messages).max(1);
            let (answers, failure) = self.chunk(messages, first..first.saturating_add(fitting).min(messages.len()));
            results.extend(answers);
            if let Some(cause) = failure {
                results.extend(not_sent(messages.len().saturating_sub(results.len()), &cause));
            }
        }
        results
    }

    /// One `send` and its answers; the second value is a failure of the transport.
    fn chunk(
        &mut self,
        messages: &mut Messages,
        which: Range<usize>,
    ) -> (Vec<Result<(), SocketError>>, Option<SocketError>) {
        let count = which.len();
        let first = self.sequences(u32::try_from(count).unwrap_or(u32::MAX));
        let stamped = stamp_all(messages, &which, first);
        // A failed stamp is a programming error of the caller: nothing of this chunk is sent. And the kernel takes a
        // datagram whole or not at all, so after a failed send nothing was done.
        if let Err(error) = stamped.and_then(|()| self.send(messages.datagram(&which), count)) {
            return (not_sent(count, &error).collect(), Some(error));
        }
        self.answers(first, count)
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
        self.stale |= outcome.is_err();
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

/// Makes the messages one request: in a row, and the last one asks for an answer.
fn stamp_all(messages: &mut Messages, which: &Range<usize>, first: u32) -> Result<(), SocketError> {
    let last = which.end.saturating_sub(1);
    for (sequence, index) in (first..).zip(which.clone()) {
        let (set, clear) = if index == last { (NLM_F_ACK, 0) } else { (0, NLM_F_ACK) };
        let message = messages.get_mut(index).unwrap_or_default();
        if stamp(message, sequence, NLM_F_REQUEST | set, clear)? {
            return Err(SocketError::malformed("a dump cannot be part of a batch"));
        }
    }
    Ok(())
}

fn not_sent(count: usize, cause: &SocketError) -> impl Iterator<Item = Result<(), SocketError>> {
    std::iter::repeat_with(|| Err(SocketError::NotSent { cause: Box::new(cause.clone()) })).take(count)
}
