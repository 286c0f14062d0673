//! Netlink attributes (type, length, value), written and read without copying: the codec under ipset and ctnetlink.
//!
//! `netlink-packet-*` has no ipset messages, and its conntrack messages allocate for every attribute of every flow of
//! a dump. Reading never panics: what is cut short ends the iteration with an error.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The value holds attributes again. ipset refuses nested data without this flag.
const NLA_F_NESTED: u16 = 0x8000;
/// The value is big endian. ipset refuses addresses, ports and numbers without this flag (`ip_set_attr_netorder`).
const NLA_F_NET_BYTEORDER: u16 = 0x4000;
const NLA_TYPE_MASK: u16 = !(NLA_F_NESTED | NLA_F_NET_BYTEORDER);
const HEADER: usize = 4;

/// An attribute that is cut short or of the wrong size: its type and what was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AttributeError {
    /// The length field does not fit the bytes that are there.
    #[error("attribute cut short: {0} bytes left")]
    Truncated(usize),
    /// A value of the wrong size.
    #[error("attribute {kind}: {length} bytes instead of {expected}")]
    Size {
        /// The attribute's type.
        kind: u16,
        /// Bytes found.
        length: usize,
        /// What the type calls for.
        expected: &'static str,
    },
}

/// Appends attributes to a message that is being written.
#[derive(Debug)]
pub struct Writer<'a> {
    buffer: &'a mut Vec<u8>,
}

impl<'a> Writer<'a> {
    pub fn new(buffer: &'a mut Vec<u8>) -> Self {
        Self { buffer }
    }

    fn put(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(HEADER + value.len()).unwrap_or(u16::MAX);
        self.buffer.extend_from_slice(&length.to_ne_bytes());
        self.buffer.extend_from_slice(&kind.to_ne_bytes());
        self.buffer.extend_from_slice(value);
        self.align();
    }

    fn align(&mut self) {
        self.buffer.resize(self.buffer.len().next_multiple_of(4), 0);
    }

    pub fn u8(&mut self, kind: u16, value: u8) {
        self.put(kind, &[value]);
    }

    /// Host byte order, as the few flags that are not network order.
    pub fn u32_host(&mut self, kind: u16, value: u32) {
        self.put(kind, &value.to_ne_bytes());
    }

    /// Big endian, flagged as such.
    pub fn u16_net(&mut self, kind: u16, value: u16) {
        self.put(kind | NLA_F_NET_BYTEORDER, &value.to_be_bytes());
    }

    /// Big endian, flagged as such.
    pub fn u32_net(&mut self, kind: u16, value: u32) {
        self.put(kind | NLA_F_NET_BYTEORDER, &value.to_be_bytes());
    }

    /// Big endian, flagged as such.
    pub fn u64_net(&mut self, kind: u16, value: u64) {
        self.put(kind | NLA_F_NET_BYTEORDER, &value.to_be_bytes());
    }

    /// Big endian without the flag, as ctnetlink has it.
    pub fn u16_be(&mut self, kind: u16, value: u16) {
        self.put(kind, &value.to_be_bytes());
    }

    /// Big endian without the flag, as ctnetlink has it.
    pub fn u32_be(&mut self, kind: u16, value: u32) {
        self.put(kind, &value.to_be_bytes());
    }

    /// Text with the closing zero byte.
    pub fn text(&mut self, kind: u16, value: &str) {
        let mut bytes = Vec::with_capacity(value.len() + 1);
        bytes.extend_from_slice(value.as_bytes());
        bytes.push(0);
        self.put(kind, &bytes);
    }

    /// An address as ctnetlink has it: the bytes, without a flag.
    pub fn address(&mut self, kind: u16, value: IpAddr) {
        match value {
            IpAddr::V4(address) => self.put(kind, &address.octets()),
            IpAddr::V6(address) => self.put(kind, &address.octets()),
        }
    }

    /// An address as ipset has it: the bytes, flagged as big endian.
    pub fn address_net(&mut self, kind: u16, value: IpAddr) {
        self.address(kind | NLA_F_NET_BYTEORDER, value);
    }

    /// An attribute that holds what `fill` writes.
    pub fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Writer<'_>)) {
        let start = self.buffer.len();
        self.buffer.extend_from_slice(&[0, 0]);
        self.buffer.extend_from_slice(&(kind | NLA_F_NESTED).to_ne_bytes());
        fill(&mut Writer { buffer: self.buffer });
        let length = u16::try_from(self.buffer.len() - start).unwrap_or(u16::MAX);
        for (place, byte) in self.buffer.iter_mut().skip(start).zip(length.to_ne_bytes()) {
            *place = byte;
        }
    }
}

/// One attribute as found: its type without flags, and its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attribute<'a> {
    pub kind: u16,
    pub value: &'a [u8],
}

impl<'a> Attribute<'a> {
    fn wrong_size(&self, expected: &'static str) -> AttributeError {
        AttributeError::Size { kind: self.kind, length: self.value.len(), expected }
    }

    pub fn u8(&self) -> Result<u8, AttributeError> {
        self.value.first().copied().ok_or_else(|| self.wrong_size("1"))
    }

    pub fn u16_be(&self) -> Result<u16, AttributeError> {
        self.value.try_into().map(u16::from_be_bytes).map_err(|_| self.wrong_size("2"))
    }

    pub fn u32_be(&self) -> Result<u32, AttributeError> {
        self.value.try_into().map(u32::from_be_bytes).map_err(|_| self.wrong_size("4"))
    }

    pub fn u64_be(&self) -> Result<u64, AttributeError> {
        self.value.try_into().map(u64::from_be_bytes).map_err(|_| self.wrong_size("8"))
    }

    /// Four bytes are IPv4, sixteen IPv6.
    pub fn address(&self) -> Result<IpAddr, AttributeError> {
        if let Ok(octets) = <[u8; 4]>::try_from(self.value) {
            Ok(IpAddr::V4(Ipv4Addr::from(octets)))
        } else if let Ok(octets) = <[u8; 16]>::try_from(self.value) {
            Ok(IpAddr::V6(Ipv6Addr::from(octets)))
        } else {
            Err(self.wrong_size("4 or 16"))
        }
    }

    /// Text up to the first zero byte; bytes that are not UTF-8 are replaced.
    pub fn text(&self) -> String {
        let end = self.value.iter().position(|byte| *byte == 0).unwrap_or(self.value.len());
        String::from_utf8_lossy(self.value.get(..end).unwrap_or_default()).into_owned()
    }

    /// The attributes inside.
    pub fn nested(&self) -> Attributes<'a> {
        Attributes::new(self.value)
    }
}

/// Walks over attributes that lie one after another.
#[derive(Debug, Clone)]
pub struct Attributes<'a> {
    rest: &'a [u8],
}

impl<'a> Attributes<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Result<Attribute<'a>, AttributeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let rest = std::mem::take(&mut self.rest);
        let Some(([l0, l1, k0, k1], _)) = rest.split_first_chunk::<HEADER>() else {
            return Some(Err(AttributeError::Truncated(rest.len())));
        };
        let length = usize::from(u16::from_ne_bytes([*l0, *l1]));
        let Some(value) = rest.get(HEADER..length) else {
            return Some(Err(AttributeError::Truncated(rest.len())));
        };
        self.rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Ok(Attribute { kind: u16::from_ne_bytes([*k0, *k1]) & NLA_TYPE_MASK, value }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_written_is_read_back() {
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes);
        writer.u8(1, 7);
        writer.nested(2, |inner| {
            inner.u16_net(3, 80);
            inner.text(4, "abc");
        });
        let found: Vec<_> = Attributes::new(&bytes).map(Result::unwrap).collect();
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].u8(), Ok(7));
        let inner: Vec<_> = found[1].nested().map(Result::unwrap).collect();
        assert_eq!((inner[0].kind, inner[0].u16_be()), (3, Ok(80)));
        assert_eq!((inner[1].kind, inner[1].text()), (4, "abc".to_owned()));
    }

    #[test]
    fn a_length_below_the_header_is_an_error_and_ends_the_walk() {
        let mut attributes = Attributes::new(&[2, 0, 1, 0, 9, 9, 9, 9]);
        assert_eq!(attributes.next(), Some(Err(AttributeError::Truncated(8))));
        assert_eq!(attributes.next(), None);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for attribute in Attributes::new(&bytes).flatten() {
                let _ = (attribute.u8(), attribute.u16_be(), attribute.u32_be(), attribute.u64_be());
                let _ = (attribute.address(), attribute.text(), attribute.nested().count());
            }
        }
    }
}
