//! `-m addrtype`: what kind of address the kernel's routing takes source or destination for.

use std::fmt;

use super::{AnyOf, list, named};
use crate::options::Words;

named! {
    /// Kind of an address; the kernel's `RTN_*`.
    AddrType {
        /// Unspecified.
        Unspec = "UNSPEC",
        /// A gateway or direct route.
        Unicast = "UNICAST",
        /// The node's own.
        Local = "LOCAL",
        /// Broadcast.
        Broadcast = "BROADCAST",
        /// Anycast.
        Anycast = "ANYCAST",
        /// Multicast.
        Multicast = "MULTICAST",
        /// Dropped by a route.
        Blackhole = "BLACKHOLE",
        /// Unreachable by a route.
        Unreachable = "UNREACHABLE",
        /// Prohibited by a route.
        Prohibit = "PROHIBIT",
    }
}

named! {
    /// Which of the packet's interfaces must own the address.
    LimitIface {
        /// `--limit-iface-in`
        In = "--limit-iface-in",
        /// `--limit-iface-out`
        Out = "--limit-iface-out",
    }
}

/// The options of `-m addrtype`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct AddrTypeMatch {
    /// `--src-type`
    pub source: Option<AnyOf<AddrType>>,
    /// `--dst-type`
    pub destination: Option<AnyOf<AddrType>>,
    /// `--limit-iface-in`, `--limit-iface-out`
    pub limit_iface: Option<LimitIface>,
}

impl AddrTypeMatch {
    pub(crate) fn normalise(&mut self) {
        self.source.iter_mut().for_each(AnyOf::normalise);
        self.destination.iter_mut().for_each(AnyOf::normalise);
    }

    pub(crate) fn write(&self, f: &mut dyn fmt::Write) -> fmt::Result {
        f.write_str(" -m addrtype")?;
        if let Some(source) = &self.source {
            source.write(f, "--src-type")?;
        }
        if let Some(destination) = &self.destination {
            destination.write(f, "--dst-type")?;
        }
        match self.limit_iface {
            Some(limit) => write!(f, " {limit}"),
            None => Ok(()),
        }
    }

    pub(crate) fn parse(words: &mut Words<'_, '_>) -> Option<Self> {
        let mut found = Self::default();
        while let Some(option) = words.option() {
            let slot = match option.name {
                "--src-type" => &mut found.source,
                "--dst-type" => &mut found.destination,
                limit if !option.negated => {
                    found.limit_iface = Some(LimitIface::parse(limit)?);
                    continue;
                }
                _ => return None,
            };
            *slot = Some(AnyOf { members: list(words.value()?, AddrType::parse)?, negated: option.negated });
        }
        Some(found)
    }
}
