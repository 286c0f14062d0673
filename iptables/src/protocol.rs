//! Transport protocols and port ranges.

use std::fmt;

/// A transport protocol. Compare after [`Protocol::from_number`]: `Other(6)` is TCP all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP, 6.
    Tcp,
    /// UDP, 17.
    Udp,
    /// SCTP, 132.
    Sctp,
    /// ICMP, 1.
    Icmp,
    /// ICMP for IPv6, 58.
    Icmpv6,
    /// Any other, by its number.
    Other(u8),
}

/// Names beyond the enum that iptables-save prints where `/etc/protocols` knows them.
const NAMES: [(u8, &str); 22] = [
    (1, "icmp"),
    (2, "igmp"),
    (3, "ggp"),
    (4, "ipencap"),
    (6, "tcp"),
    (8, "egp"),
    (17, "udp"),
    (33, "dccp"),
    (41, "ipv6"),
    (46, "rsvp"),
    (47, "gre"),
    (50, "esp"),
    (51, "ah"),
    (58, "ipv6-icmp"),
    (58, "icmpv6"),
    (88, "eigrp"),
    (89, "ospf"),
    (103, "pim"),
    (112, "vrrp"),
    (115, "l2tp"),
    (132, "sctp"),
    (136, "udplite"),
];

impl Protocol {
    /// The number in the IP header.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
            Self::Icmp => 1,
            Self::Icmpv6 => 58,
            Self::Other(number) => number,
        }
    }

    /// The one value for a number.
    #[must_use]
    pub const fn from_number(number: u8) -> Self {
        match number {
            6 => Self::Tcp,
            17 => Self::Udp,
            132 => Self::Sctp,
            1 => Self::Icmp,
            58 => Self::Icmpv6,
            other => Self::Other(other),
        }
    }

    /// A name or number as iptables prints it; `None` for a name that is not known here, and for `all`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if let Ok(number) = text.parse() {
            return Some(Self::from_number(number));
        }
        let lower = text.to_ascii_lowercase();
        NAMES.iter().find(|(_, name)| *name == lower).map(|(number, _)| Self::from_number(*number))
    }

    /// The match extension that tests this protocol's ports (`-m tcp`), where there is one.
    #[must_use]
    pub const fn port_module(self) -> Option<&'static str> {
        match self.number() {
            6 => Some("tcp"),
            17 => Some("udp"),
            33 => Some("dccp"),
            132 => Some("sctp"),
            _ => None,
        }
    }
}

impl fmt::Display for Protocol {
    /// As iptables takes it everywhere, also where no `/etc/protocols` exists.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Self::from_number(self.number()) {
            Self::Tcp => f.write_str("tcp"),
            Self::Udp => f.write_str("udp"),
            Self::Sctp => f.write_str("sctp"),
            Self::Icmp => f.write_str("icmp"),
            Self::Icmpv6 => f.write_str("ipv6-icmp"),
            Self::Other(number) => number.fmt(f),
        }
    }
}

/// A port or an inclusive range of ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// All ports.
    pub const ALL: Self = Self { first: 0, last: u16::MAX };

    /// Both ends belong to the range; they may come in either order.
    #[must_use]
    pub const fn new(one: u16, other: u16) -> Self {
        if one <= other { Self { first: one, last: other } } else { Self { first: other, last: one } }
    }

    /// Lowest port.
    #[must_use]
    pub const fn first(self) -> u16 {
        self.first
    }

    /// Highest port.
    #[must_use]
    pub const fn last(self) -> u16 {
        self.last
    }

    /// Whether `port` lies in the range.
    #[must_use]
    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }

    /// `80`, `80:90`, `:90`, `80:`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let Some((first, last)) = text.split_once(':') else { return text.parse::<u16>().ok().map(Self::from) };
        let first = if first.is_empty() { 0 } else { first.parse().ok()? };
        let last = if last.is_empty() { u16::MAX } else { last.parse().ok()? };
        (first <= last).then_some(Self { first, last })
    }
}

impl From<u16> for PortRange {
    fn from(port: u16) -> Self {
        Self { first: port, last: port }
    }
}

impl From<std::ops::RangeInclusive<u16>> for PortRange {
    fn from(range: std::ops::RangeInclusive<u16>) -> Self {
        Self::new(*range.start(), *range.end())
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { write!(f, "{}", self.first) } else { write!(f, "{}:{}", self.first, self.last) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_survives_its_own_text() {
        for number in 1..=u8::MAX {
            let protocol = Protocol::from_number(number);
            assert_eq!(Protocol::parse(&protocol.to_string()), Some(protocol));
        }
        assert_eq!(Protocol::parse("ospf"), Some(Protocol::Other(89)));
        assert_eq!(Protocol::parse("icmpv6"), Some(Protocol::Icmpv6));
        assert_eq!(Protocol::parse("all"), None);
    }

    #[test]
    fn port_ranges() {
        assert_eq!(PortRange::parse(":1024"), Some(PortRange::new(0, 1024)));
        assert_eq!(PortRange::parse("1024:"), Some(PortRange::new(1024, 65535)));
        assert_eq!(PortRange::parse("80:80").map(|r| r.to_string()).as_deref(), Some("80"));
        assert_eq!(PortRange::parse("90:80"), None);
        assert_eq!(PortRange::parse("70000"), None);
    }
}
