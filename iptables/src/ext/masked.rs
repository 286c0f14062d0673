//! An address of which only some bits count: `-d 0.0.0.5/0.0.0.255`.

use std::fmt;
use std::net::IpAddr;

/// Bits of an address. A mask that is a prefix is a network: iptables-save prints that as one, and [`Match::Source`] and
/// [`Match::Destination`] have it.
///
/// [`Match::Source`]: crate::Match::Source
/// [`Match::Destination`]: crate::Match::Destination
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MaskedAddress {
    /// What the bits must be; those that do not count are 0.
    pub value: IpAddr,
    /// The bits that count; of the same family.
    pub mask: IpAddr,
}

impl MaskedAddress {
    /// Whether an address has these bits; one of the other family has not.
    #[must_use]
    pub fn matches(&self, address: IpAddr) -> bool {
        and(address, self.mask) == Some(self.value)
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (value, mask) = text.split_once('/')?;
        let (value, mask): (IpAddr, IpAddr) = (value.parse().ok()?, mask.parse().ok()?);
        Some(Self { value: and(value, mask)?, mask })
    }

    /// The value as it comes back from the kernel.
    pub(crate) fn normalise(&mut self) {
        self.value = and(self.value, self.mask).unwrap_or(self.value);
    }
}

fn and(address: IpAddr, mask: IpAddr) -> Option<IpAddr> {
    match (address, mask) {
        (IpAddr::V4(address), IpAddr::V4(mask)) => Some((address & mask).into()),
        (IpAddr::V6(address), IpAddr::V6(mask)) => Some((address & mask).into()),
        _ => None,
    }
}

impl fmt::Display for MaskedAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.value, self.mask)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_bits_count() {
        let low = MaskedAddress::parse("10.0.0.5/0.0.0.255").unwrap();
        assert_eq!(low.to_string(), "0.0.0.5/0.0.0.255");
        assert!(low.matches("172.30.9.5".parse().unwrap()) && !low.matches("172.30.5.9".parse().unwrap()));
        let low = MaskedAddress::parse("::5/::ff").unwrap();
        assert!(low.matches("fd00::105".parse().unwrap()) && !low.matches("0.0.0.5".parse().unwrap()));
        assert_eq!(MaskedAddress::parse("::5/0.0.0.255"), None);
    }
}
