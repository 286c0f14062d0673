//! Messages one behind the other in one buffer, as a `send` takes them.

use std::ops::Range;

/// Whole netlink messages, header and payload, for [`Socket::batch_messages`](super::Socket::batch_messages). They lie in
/// one buffer, so that many of them cost few allocations.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Messages {
    bytes: Vec<u8>,
    /// Where each message lies; each begins at a multiple of four bytes.
    bounds: Vec<Range<usize>>,
}

impl Messages {
    /// No messages, but room for so many bytes of so many messages.
    #[must_use]
    pub fn with_capacity(messages: usize, bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes), bounds: Vec::with_capacity(messages) }
    }

    /// Adds a message.
    pub fn push(&mut self, message: &[u8]) {
        self.write(|bytes| bytes.extend_from_slice(message));
    }

    /// Adds a message that `write` appends to the buffer; it must leave alone what is there already.
    pub fn write(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.bytes.len();
        write(&mut self.bytes);
        let end = self.bytes.len().max(start);
        self.bytes.resize(end.next_multiple_of(4), 0);
        self.bounds.push(start..end);
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bounds.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bounds.is_empty()
    }

    /// The message at `index`.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&[u8]> {
        self.bytes.get(self.bounds.get(index)?.clone())
    }

    pub(super) fn get_mut(&mut self, index: usize) -> Option<&mut [u8]> {
        self.bytes.get_mut(self.bounds.get(index)?.clone())
    }

    /// How many messages, from the one at `first` on, make up no more than so many bytes.
    pub(super) fn fitting(&self, first: usize, bytes: usize) -> usize {
        let bounds = self.bounds.get(first..).unwrap_or_default();
        let begin = bounds.first().map_or(0, |bound| bound.start);
        bounds.iter().take_while(|bound| bound.end.saturating_sub(begin) <= bytes).count()
    }

    /// The bytes of these messages, with what lies between them.
    pub(super) fn datagram(&self, which: &Range<usize>) -> &[u8] {
        let bounds = self.bounds.get(which.clone()).unwrap_or_default();
        let (Some(first), Some(last)) = (bounds.first(), bounds.last()) else { return &[] };
        self.bytes.get(first.start..last.end.next_multiple_of(4)).unwrap_or_default()
    }
}

impl<M: AsRef<[u8]>> FromIterator<M> for Messages {
    fn from_iter<I: IntoIterator<Item = M>>(messages: I) -> Self {
        let mut all = Self::default();
        messages.into_iter().for_each(|message| all.push(message.as_ref()));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_begin_at_multiples_of_four_and_are_found_again() {
        let mut messages: Messages = [&b"abcde"[..], b"", b"fghi"].into_iter().collect();
        messages.write(|bytes| bytes.push(b'j'));
        assert_eq!(messages.len(), 4);
        let all: Vec<&[u8]> = (0..4).map(|index| messages.get(index).unwrap()).collect();
        assert_eq!(all, [&b"abcde"[..], b"", b"fghi", b"j"]);
        assert_eq!(messages.datagram(&(0..4)), b"abcde\0\0\0fghij\0\0\0");
        assert_eq!(messages.datagram(&(2..3)), b"fghi");
        assert_eq!(messages.datagram(&(4..4)), b"");
        assert_eq!((messages.fitting(0, 12), messages.fitting(0, 11), messages.fitting(3, 0)), (3, 2, 0));
    }
}
