//! What a rule tests.

use std::fmt;
use std::sync::Arc;

use ipnet::IpNet;

use crate::ext::addrtype::AddrTypeMatch;
use crate::ext::bang;
use crate::ext::conntrack::ConntrackMatch;
use crate::ext::limit::LimitMatch;
use crate::ext::masked::MaskedAddress;
use crate::ext::physdev::PhysdevMatch;
use crate::ext::recent::RecentMatch;
use crate::ext::set::SetMatch;
use crate::ext::statistic::Statistic;
use crate::protocol::{PortRange, Protocol};
use crate::quote;

/// One test. The rarer ones are boxed: a node holds a few hundred thousand of the others.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Match {
    /// `-s NET`
    Source {
        /// The network; host bits do not count.
        net: IpNet,
        /// `!`
        negated: bool,
    },
    /// `-d NET`
    Destination {
        /// The network; host bits do not count.
        net: IpNet,
        /// `!`
        negated: bool,
    },
    /// `-s VALUE/MASK`, where the mask is no prefix.
    SourceBits {
        /// The bits.
        bits: Box<MaskedAddress>,
        /// `!`
        negated: bool,
    },
    /// `-d VALUE/MASK`, where the mask is no prefix.
    DestinationBits {
        /// The bits.
        bits: Box<MaskedAddress>,
        /// `!`
        negated: bool,
    },
    /// `-i NAME`, a `+` at the end standing for anything.
    InInterface {
        /// Name or beginning of the name.
        name: Arc<str>,
        /// `!`
        negated: bool,
    },
    /// `-o NAME`, a `+` at the end standing for anything.
    OutInterface {
        /// Name or beginning of the name.
        name: Arc<str>,
        /// `!`
        negated: bool,
    },
    /// `-p PROTOCOL`
    Protocol {
        /// The protocol.
        protocol: Protocol,
        /// `!`
        negated: bool,
    },
    /// `-m tcp --sport …`, with the module of the rule's protocol.
    SourcePort {
        /// One port or a range.
        ports: PortRange,
        /// `!`
        negated: bool,
    },
    /// `-m tcp --dport …`, with the module of the rule's protocol.
    DestinationPort {
        /// One port or a range.
        ports: PortRange,
        /// `!`
        negated: bool,
    },
    /// `-m icmp --icmp-type …` or `-m icmp6 --icmpv6-type …`, by the rule's protocol.
    Icmp {
        /// Type of the message: 8 or, in IPv6, 128 is an echo request.
        kind: u8,
        /// Code; `None` is any.
        code: Option<u8>,
        /// `!`
        negated: bool,
    },
    /// `-m comment --comment …`; iptables keeps 255 bytes.
    Comment(Arc<str>),
    /// `-m mark --mark VALUE/MASK`
    Mark {
        /// What the masked mark must be.
        value: u32,
        /// The bits that count.
        mask: u32,
        /// `!`
        negated: bool,
    },
    /// `-m statistic`
    Statistic(Statistic),
    /// `-m recent`
    Recent(Box<RecentMatch>),
    /// `-m addrtype`
    AddrType(Box<AddrTypeMatch>),
    /// `-m conntrack`
    Conntrack(Box<ConntrackMatch>),
    /// `-m set`
    Set(Box<SetMatch>),
    /// `-m physdev`
    Physdev(Box<PhysdevMatch>),
    /// `-m pkttype --pkt-type …`
    PktType {
        /// `unicast`, `broadcast`, `multicast`
        kind: Arc<str>,
        /// `!`
        negated: bool,
    },
    /// `-m limit`
    Limit(LimitMatch),
    /// Any other, as it is written: `-m multiport --dports 80,443`. To be recognised when it is read back it
    /// must be written as iptables-save prints it, without options that only repeat a default.
    Other(Arc<str>),
}

/// `XT_MAX_COMMENT_LEN` less the closing NUL.
const MAX_COMMENT: usize = 255;

impl Match {
    /// Place among the tests that iptables prints first, whatever the order in which they were given.
    pub(crate) const fn header_rank(&self) -> Option<u8> {
        match self {
            Self::Source { .. } | Self::SourceBits { .. } => Some(0),
            Self::Destination { .. } | Self::DestinationBits { .. } => Some(1),
            Self::InInterface { .. } => Some(2),
            Self::OutInterface { .. } => Some(3),
            Self::Protocol { .. } => Some(4),
            _ => None,
        }
    }

    /// Whether every packet passes, so that the kernel does not even keep the test.
    pub(crate) fn is_void(&self) -> bool {
        match self {
            Self::Source { net, negated: false } | Self::Destination { net, negated: false } => net.prefix_len() == 0,
            Self::InInterface { name, negated: false } | Self::OutInterface { name, negated: false } => &**name == "+",
            Self::Protocol { protocol, negated: false } => protocol.number() == 0,
            Self::SourcePort { ports, negated: false } | Self::DestinationPort { ports, negated: false } => {
                *ports == PortRange::ALL
            }
            _ => false,
        }
    }

    /// The value as it comes back from the kernel.
    pub(crate) fn normalise(&mut self) {
        match self {
            Self::Source { net, .. } | Self::Destination { net, .. } => *net = net.trunc(),
            Self::SourceBits { bits, .. } | Self::DestinationBits { bits, .. } => bits.normalise(),
            Self::Protocol { protocol, .. } => *protocol = Protocol::from_number(protocol.number()),
            Self::Comment(text) => {
                if let Some(kept) = kept_comment(text) {
                    *text = kept;
                }
            }
            Self::Recent(recent) => recent.normalise(),
            Self::AddrType(addrtype) => addrtype.normalise(),
            Self::Conntrack(conntrack) => conntrack.normalise(),
            Self::Limit(limit) => limit.normalise(),
            _ => {}
        }
    }

    /// Writes the test with a space before it. Ports and ICMP types need their protocol: see [`write_ports`].
    pub(crate) fn write(&self, f: &mut dyn fmt::Write, protocol: Option<Protocol>) -> fmt::Result {
        match self {
            Self::Source { net, negated } => flagged(f, *negated, "-s", net),
            Self::Destination { net, negated } => flagged(f, *negated, "-d", net),
            Self::SourceBits { bits, negated } => flagged(f, *negated, "-s", bits),
            Self::DestinationBits { bits, negated } => flagged(f, *negated, "-d", bits),
            Self::InInterface { name, negated } => flagged(f, *negated, "-i", name),
            Self::OutInterface { name, negated } => flagged(f, *negated, "-o", name),
            Self::Protocol { protocol, negated } => flagged(f, *negated, "-p", protocol),
            Self::SourcePort { .. } | Self::DestinationPort { .. } => write_ports(f, protocol, &[self]),
            Self::Icmp { kind, code, negated } => write_icmp(f, protocol, *kind, *code, *negated),
            Self::Comment(text) => {
                f.write_str(" -m comment --comment ")?;
                quote::write_value(f, text)
            }
            Self::Mark { value, mask, negated } => {
                f.write_str(" -m mark")?;
                bang(f, *negated)?;
                write!(f, " --mark 0x{value:x}")?;
                if *mask == u32::MAX { Ok(()) } else { write!(f, "/0x{mask:x}") }
            }
            Self::Statistic(statistic) => statistic.write(f),
            Self::Recent(recent) => recent.write(f),
            Self::AddrType(addrtype) => addrtype.write(f),
            Self::Conntrack(conntrack) => conntrack.write(f),
            Self::Set(set) => set.write(f),
            Self::Physdev(physdev) => physdev.write(f),
            Self::PktType { kind, negated } => {
                f.write_str(" -m pkttype")?;
                flagged(f, *negated, "--pkt-type", kind)
            }
            Self::Limit(limit) => limit.write(f),
            Self::Other(text) => write!(f, " {text}"),
        }
    }
}

fn flagged(f: &mut dyn fmt::Write, negated: bool, option: &str, value: &dyn fmt::Display) -> fmt::Result {
    bang(f, negated)?;
    write!(f, " {option} {value}")
}

/// Source and destination port in one `-m tcp`, as iptables-nft gives them back.
pub(crate) fn write_ports(f: &mut dyn fmt::Write, protocol: Option<Protocol>, tests: &[&Match]) -> fmt::Result {
    // A rule without a protocol that has ports is refused by iptables, which names the line.
    write!(f, " -m {}", protocol.and_then(Protocol::port_module).unwrap_or("tcp"))?;
    for test in tests {
        match test {
            Match::SourcePort { ports, negated } => flagged(f, *negated, "--sport", ports)?,
            Match::DestinationPort { ports, negated } => flagged(f, *negated, "--dport", ports)?,
            _ => {}
        }
    }
    Ok(())
}

fn write_icmp(
    f: &mut dyn fmt::Write,
    protocol: Option<Protocol>,
    kind: u8,
    code: Option<u8>,
    negated: bool,
) -> fmt::Result {
    let v6 = protocol == Some(Protocol::Icmpv6);
    f.write_str(if v6 { " -m icmp6" } else { " -m icmp" })?;
    flagged(f, negated, if v6 { "--icmpv6-type" } else { "--icmp-type" }, &kind)?;
    code.map_or(Ok(()), |code| write!(f, "/{code}"))
}

/// A comment that the kernel would not give back as it is: too long, or with characters that end a line.
fn kept_comment(text: &str) -> Option<Arc<str>> {
    let fits = text.len() <= MAX_COMMENT;
    if fits && !text.contains(char::is_control) {
        return None;
    }
    let mut end = text.len().min(MAX_COMMENT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let kept: String = text
        .chars()
        .scan(0, |bytes, c| {
            *bytes += c.len_utf8();
            (*bytes <= end).then_some(if c.is_control() { ' ' } else { c })
        })
        .collect();
    Some(kept.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 10,000 services with five endpoints each have half a million tests.
    #[test]
    fn a_test_is_small() {
        assert!(size_of::<Match>() <= 24, "{} bytes", size_of::<Match>());
    }

    #[test]
    fn comments_are_cut_to_what_the_kernel_keeps() {
        assert_eq!(kept_comment("fits"), None);
        assert_eq!(kept_comment("a\nb").as_deref(), Some("a b"));
        assert_eq!(kept_comment(&"x".repeat(300)).map(|text| text.len()), Some(255));
        assert_eq!(kept_comment(&"é".repeat(200)).map(|text| text.len()), Some(254));
    }
}
