//! Netlink framing: stamping the header of an outgoing message, and cutting a received datagram into replies.

use netlink_packet_core::{
    DefaultNla, NLM_F_ACK_TLVS, NLM_F_CAPPED, NLM_F_DUMP, NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_ERROR, NLMSG_NOOP,
    NLMSG_OVERRUN, NetlinkBuffer, Nla, NlasIterator, Parseable,
};

use super::SocketError;

/// `sizeof(struct nlmsghdr)`.
pub(super) const HEADER_LENGTH: usize = 16;
/// `NLMSGERR_ATTR_MSG`: the kernel's words about an error.
const ERROR_ATTRIBUTE_MESSAGE: u16 = 1;

/// One message of the kernel.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frame<'a> {
    pub sequence: u32,
    /// `NLM_F_DUMP_INTR`: the dumped table changed meanwhile.
    pub interrupted: bool,
    pub reply: Reply<'a>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reply<'a> {
    /// `NLMSG_ERROR` with code 0.
    Acknowledged,
    /// `NLMSG_ERROR`, or `NLMSG_DONE` that carries an error.
    Refused { errno: i32, message: Option<String> },
    /// `NLMSG_DONE`: the end of a dump.
    Done,
    /// `NLMSG_OVERRUN`: data lost.
    Overrun,
    /// `NLMSG_NOOP`: nothing.
    Nothing,
    /// Anything else.
    Data { kind: u16, payload: &'a [u8] },
}

/// Gives `message` its length, sequence number and flags, and says whether it asks for a dump. The port stays 0: the
/// kernel knows the socket it came from.
pub(super) fn stamp(message: &mut [u8], sequence: u32, set: u16, clear: u16) -> Result<bool, SocketError> {
    let length = u32::try_from(message.len()).map_err(|_| SocketError::malformed("longer than 4 GiB"))?;
    if message.len() < HEADER_LENGTH {
        return Err(SocketError::malformed(format!("{length} bytes are less than a netlink header")));
    }
    let mut buffer = NetlinkBuffer::new(message);
    buffer.set_length(length);
    buffer.set_sequence_number(sequence);
    let flags = (buffer.flags() | set) & !clear;
    buffer.set_flags(flags);
    Ok(flags & NLM_F_DUMP == NLM_F_DUMP)
}

/// The messages of one received datagram. After an error there is no more: the framing is lost.
pub(super) fn frames(datagram: &[u8]) -> impl Iterator<Item = Result<Frame<'_>, SocketError>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        // Less than a header is padding after the last message.
        if rest.len() < HEADER_LENGTH {
            return None;
        }
        let message = rest;
        let length = match NetlinkBuffer::new_checked(message) {
            Ok(buffer) => buffer.length() as usize,
            Err(error) => {
                rest = &[];
                return Some(Err(SocketError::malformed(error.to_string())));
            }
        };
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some(message.get(..length).map_or_else(|| Err(SocketError::malformed("length")), frame))
    })
}

/// `message`: exactly one message, its length checked.
fn frame(message: &[u8]) -> Result<Frame<'_>, SocketError> {
    let buffer = NetlinkBuffer::new(message);
    let payload = message.get(HEADER_LENGTH..).unwrap_or(&[]);
    let reply = match buffer.message_type() {
        NLMSG_NOOP => Reply::Nothing,
        NLMSG_OVERRUN => Reply::Overrun,
        NLMSG_ERROR => match code(payload) {
            Some(0) => Reply::Acknowledged,
            Some(code) => Reply::Refused { errno: code.saturating_neg(), message: words(payload, buffer.flags()) },
            None => return Err(SocketError::malformed("an error message without a code")),
        },
        // A dump that fails half-way says so in its last message; older kernels send no code at all.
        NLMSG_DONE => match code(payload) {
            Some(code) if code < 0 => Reply::Refused { errno: code.saturating_neg(), message: None },
            _ => Reply::Done,
        },
        kind => Reply::Data { kind, payload },
    };
    let interrupted = buffer.flags() & NLM_F_DUMP_INTR != 0;
    Ok(Frame { sequence: buffer.sequence_number(), interrupted, reply })
}

fn code(payload: &[u8]) -> Option<i32> {
    payload.first_chunk::<4>().map(|bytes| i32::from_ne_bytes(*bytes))
}

/// The text of an extended acknowledgement. It stands behind the copy of the request, which `NETLINK_CAP_ACK` cuts to
/// its header.
fn words(payload: &[u8], flags: u16) -> Option<String> {
    if flags & NLM_F_ACK_TLVS == 0 {
        return None;
    }
    let request = payload.get(4..)?;
    let copied = if flags & NLM_F_CAPPED != 0 {
        HEADER_LENGTH
    } else {
        usize::try_from(code(request)?).ok()?.next_multiple_of(4)
    };
    let attributes = request.get(copied..)?;
    NlasIterator::new(attributes).find_map(|attribute| {
        let attribute = DefaultNla::parse(&attribute.ok()?).ok()?;
        if attribute.kind() != ERROR_ATTRIBUTE_MESSAGE {
            return None;
        }
        let mut text = vec![0; attribute.value_len()];
        attribute.emit_value(&mut text);
        let text = text.split(|byte| *byte == 0).next()?;
        Some(String::from_utf8_lossy(text).into_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST};
    use proptest::prelude::*;

    fn message(kind: u16, flags: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(u32::try_from(16 + payload.len()).unwrap().to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend(0u32.to_ne_bytes());
        bytes.extend(payload);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn all(datagram: &[u8]) -> Vec<Result<Frame<'_>, SocketError>> {
        frames(datagram).collect()
    }

    #[test]
    fn stamps_length_sequence_and_flags() {
        let mut bytes = message(20, NLM_F_DUMP | NLM_F_ACK, 0, &[1, 2, 3, 4]);
        assert!(stamp(&mut bytes, 7, NLM_F_REQUEST, NLM_F_ACK).unwrap());
        assert_eq!(bytes, message(20, NLM_F_DUMP | NLM_F_REQUEST, 7, &[1, 2, 3, 4]));
        assert!(stamp(&mut [0; 15], 7, 0, 0).is_err());
    }

    #[test]
    fn cuts_a_datagram_into_replies() {
        let mut datagram = message(30, 2, 5, &[1, 2, 3]);
        datagram.extend(message(2, 0, 6, &0i32.to_ne_bytes()));
        datagram.extend(message(2, 0, 7, &(-17i32).to_ne_bytes()));
        datagram.extend(message(3, NLM_F_DUMP_INTR, 8, &0i32.to_ne_bytes()));
        datagram.extend(message(3, 0, 9, &(-3i32).to_ne_bytes()));
        let replies: Vec<_> = frames(&datagram).map(|frame| frame.unwrap()).collect();
        assert_eq!(replies[0].reply, Reply::Data { kind: 30, payload: &[1, 2, 3] });
        assert_eq!(replies[1].reply, Reply::Acknowledged);
        assert_eq!(replies[2].reply, Reply::Refused { errno: 17, message: None });
        assert_eq!((&replies[3].reply, replies[3].interrupted), (&Reply::Done, true));
        assert_eq!(replies[4].reply, Reply::Refused { errno: 3, message: None });
        assert_eq!(replies.iter().map(|frame| frame.sequence).collect::<Vec<_>>(), [5, 6, 7, 8, 9]);
    }

    #[test]
    fn reads_the_kernels_words_behind_a_capped_and_a_whole_request() {
        let mut text = Vec::from([9u8, 0, 1, 0]);
        text.extend(b"oops\0\0\0\0");
        for (flags, copied) in [(NLM_F_CAPPED | NLM_F_ACK_TLVS, 16usize), (NLM_F_ACK_TLVS, 20)] {
            let mut payload = (-22i32).to_ne_bytes().to_vec();
            payload.extend(20u32.to_ne_bytes());
            payload.resize(4 + copied, 0);
            payload.extend(&text);
            let datagram = message(2, flags, 1, &payload);
            let refused = Reply::Refused { errno: 22, message: Some("oops".to_owned()) };
            assert_eq!(all(&datagram)[0].as_ref().unwrap().reply, refused);
        }
    }

    #[test]
    fn a_length_beyond_the_datagram_is_an_error_and_the_end() {
        let mut datagram = message(30, 0, 1, &[]);
        datagram[0] = 200;
        datagram.extend(message(30, 0, 2, &[]));
        assert_eq!(all(&datagram).len(), 1);
        assert!(all(&datagram)[0].is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_end_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = all(&bytes);
        }
    }
}
