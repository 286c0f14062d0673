//! Addresses as old and new API servers store them, and values that exist once per IP family.

use ipnet::IpNet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// IPv4 or IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IpFamily {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl IpFamily {
    /// Both families, in the order in which they are programmed.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// `AF_INET` (2) or `AF_INET6` (10).
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::V4 => 2,
            Self::V6 => 10,
        }
    }

    /// The family of an `AF_…` number, `None` for anything but IPv4 and IPv6.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        match number {
            2 => Some(Self::V4),
            10 => Some(Self::V6),
            _ => None,
        }
    }

    /// The family of a network.
    pub fn of_network(network: &IpNet) -> Self {
        match network {
            IpNet::V4(_) => Self::V4,
            IpNet::V6(_) => Self::V6,
        }
    }
}

impl fmt::Display for IpFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// One value per IP family.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PerFamily<T> {
    /// The IPv4 value.
    pub v4: T,
    /// The IPv6 value.
    pub v6: T,
}

impl<T> PerFamily<T> {
    /// The value of a family.
    pub fn get(&self, family: IpFamily) -> &T {
        match family {
            IpFamily::V4 => &self.v4,
            IpFamily::V6 => &self.v6,
        }
    }

    /// The value of a family, to change it.
    pub fn get_mut(&mut self, family: IpFamily) -> &mut T {
        match family {
            IpFamily::V4 => &mut self.v4,
            IpFamily::V6 => &mut self.v6,
        }
    }

    /// Makes both values.
    pub fn from_fn(mut make: impl FnMut(IpFamily) -> T) -> Self {
        Self { v4: make(IpFamily::V4), v6: make(IpFamily::V6) }
    }
}

/// An address or network that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {wanted}")]
pub struct AddressError {
    text: String,
    wanted: &'static str,
}

/// Reads an IP address the way upstream does (`netutils.ParseIPSloppy`): leading zeros in IPv4 are decimal, and an
/// IPv4-mapped IPv6 address is its IPv4 address.
///
/// # Errors
/// When the text is no address.
pub fn parse_address(text: &str) -> Result<IpAddr, AddressError> {
    let error = || AddressError { text: text.to_owned(), wanted: "an IP address" };
    if let Some(address) = parse_ipv4(text) {
        return Ok(IpAddr::V4(address));
    }
    if let Ok(address) = text.parse::<Ipv6Addr>() {
        return Ok(unmap(address));
    }
    // "::ffff:010.0.0.1": the tail has leading zeros as well.
    let (head, tail) = text.rsplit_once(':').ok_or_else(error)?;
    let tail = parse_ipv4(tail).ok_or_else(error)?;
    format!("{head}:{tail}").parse::<Ipv6Addr>().map(unmap).map_err(|_| error())
}

fn unmap(address: Ipv6Addr) -> IpAddr {
    address.to_ipv4_mapped().map_or(IpAddr::V6(address), IpAddr::V4)
}

fn parse_ipv4(text: &str) -> Option<Ipv4Addr> {
    let mut octets = [0u8; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        let part = parts.next()?;
        if part.is_empty() || !part.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let digits = part.trim_start_matches('0');
        *octet = if digits.is_empty() { 0 } else { digits.parse().ok()? };
    }
    parts.next().is_none().then_some(Ipv4Addr::from(octets))
}

/// Reads a CIDR with the same tolerance as [`parse_address`]; host bits are cleared, white space is trimmed.
///
/// # Errors
/// When the text is no network in CIDR notation.
pub fn parse_network(text: &str) -> Result<IpNet, AddressError> {
    let error = || AddressError { text: text.to_owned(), wanted: "a network in CIDR notation" };
    let (address, length) = text.trim().split_once('/').ok_or_else(error)?;
    if length.is_empty() || length.len() > 4 || !length.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(error());
    }
    let mut length: u8 = length.parse().map_err(|_| error())?;
    let parsed = parse_address(address).map_err(|_| error())?;
    if parsed.is_ipv4() && address.contains(':') {
        length = length.checked_sub(96).ok_or_else(error)?;
    }
    IpNet::new(parsed, length).map(|network| network.trunc()).map_err(|_| error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leading_zeros_are_decimal() {
        assert_eq!(parse_address("172.30.0.041"), Ok("172.30.0.41".parse().unwrap()));
        assert_eq!(parse_address("010.0.0.000"), Ok("10.0.0.0".parse().unwrap()));
        assert_eq!(parse_network(" 203.0.113.000/025 "), Ok("203.0.113.0/25".parse().unwrap()));
    }

    #[test]
    fn mapped_addresses_are_ipv4() {
        assert_eq!(parse_address("::ffff:10.1.2.3"), Ok("10.1.2.3".parse().unwrap()));
        assert_eq!(parse_address("::ffff:010.1.2.03"), Ok("10.1.2.3".parse().unwrap()));
        assert_eq!(parse_network("::ffff:10.1.0.0/112"), Ok("10.1.0.0/16".parse().unwrap()));
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        for text in ["", "1.2.3", "1.2.3.4.5", "256.1.1.1", "1.2.3.x", "fd00::zz", "-1.2.3.4", "1.2.3.4 "] {
            assert!(parse_address(text).is_err(), "{text:?}");
        }
        assert_eq!(parse_address("1.2.3").unwrap_err().to_string(), "\"1.2.3\" is not an IP address");
        for text in ["10.0.0.0", "10.0.0.0/33", "10.0.0.0/", "fd00::/129", "/8", "10.0.0.0/+8"] {
            assert!(parse_network(text).is_err(), "{text:?}");
        }
    }
}
