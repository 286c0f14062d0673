//! How a virtual server chooses among its destinations.

use std::fmt;
use std::str::FromStr;

/// A scheduler by the name that the kernel knows it by. Each is a kernel module of its own ([`Scheduler::module`]),
/// which the kernel loads on first use.
///
/// Loading `ip_vs_lblc` or `ip_vs_lblcr` that way can lock up the machine's networking when a network namespace is
/// being removed at the same moment. The [`Client`](crate::Client) loads these two beforehand, which takes
/// `CAP_SYS_MODULE`; without it, load them before a program may use them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scheduler {
    /// Round robin.
    Rr,
    /// Weighted round robin.
    Wrr,
    /// Least connections.
    Lc,
    /// Weighted least connections.
    Wlc,
    /// Locality-based least connections.
    Lblc,
    /// Locality-based least connections with replication.
    Lblcr,
    /// Destination hashing.
    Dh,
    /// Source hashing.
    Sh,
    /// Shortest expected delay.
    Sed,
    /// Never queue.
    Nq,
    /// Weighted failover: the highest weight only.
    Fo,
    /// Weighted overflow: the highest weight until it has that many connections, then the next.
    Ovf,
    /// Maglev hashing.
    Mh,
    /// Power of two choices.
    Twos,
    /// Any other name, a scheduler of the future or a module of one's own; `none` is a service without a scheduler.
    Other(SchedulerName),
}

impl Scheduler {
    /// All schedulers that this crate knows by name.
    pub const KNOWN: [Self; 14] = [
        Self::Rr,
        Self::Wrr,
        Self::Lc,
        Self::Wlc,
        Self::Lblc,
        Self::Lblcr,
        Self::Dh,
        Self::Sh,
        Self::Sed,
        Self::Nq,
        Self::Fo,
        Self::Ovf,
        Self::Mh,
        Self::Twos,
    ];

    /// The kernel's name, for example `rr`.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Other(name) => name.as_str(),
            known => known.known_name().unwrap_or_default(),
        }
    }

    /// The kernel's name of a scheduler that this crate knows.
    #[must_use]
    pub const fn known_name(&self) -> Option<&'static str> {
        Some(match self {
            Self::Rr => "rr",
            Self::Wrr => "wrr",
            Self::Lc => "lc",
            Self::Wlc => "wlc",
            Self::Lblc => "lblc",
            Self::Lblcr => "lblcr",
            Self::Dh => "dh",
            Self::Sh => "sh",
            Self::Sed => "sed",
            Self::Nq => "nq",
            Self::Fo => "fo",
            Self::Ovf => "ovf",
            Self::Mh => "mh",
            Self::Twos => "twos",
            Self::Other(_) => return None,
        })
    }

    /// The kernel module that provides it, for example `ip_vs_rr`.
    #[must_use]
    pub fn module(&self) -> String {
        format!("ip_vs_{}", self.name())
    }
}

impl fmt::Display for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Scheduler {
    type Err = InvalidSchedulerName;

    /// Any name that the kernel could know; a known one becomes its own variant.
    fn from_str(name: &str) -> Result<Self, Self::Err> {
        if let Some(known) = Self::KNOWN.iter().find(|known| known.name() == name) {
            return Ok(*known);
        }
        SchedulerName::new(name).map(Self::Other)
    }
}

/// The name of a scheduler that this crate does not know: 1 to 15 bytes of visible ASCII.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SchedulerName {
    /// Padded with zeros, which the name itself cannot contain.
    bytes: [u8; Self::MAX_LENGTH],
}

impl SchedulerName {
    /// `IP_VS_SCHEDNAME_MAXLEN` without the closing zero.
    pub const MAX_LENGTH: usize = 15;

    fn new(name: &str) -> Result<Self, InvalidSchedulerName> {
        let invalid = || InvalidSchedulerName { name: name.to_owned() };
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(invalid());
        }
        let mut bytes = [0; Self::MAX_LENGTH];
        bytes.get_mut(..name.len()).ok_or_else(invalid)?.copy_from_slice(name.as_bytes());
        Ok(Self { bytes })
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let name = self.bytes.split(|byte| *byte == 0).next().unwrap_or_default();
        // Only ever made from ASCII.
        std::str::from_utf8(name).unwrap_or_default()
    }
}

impl fmt::Debug for SchedulerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// Not a scheduler's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} cannot be a scheduler's name: 1 to 15 visible ASCII characters are")]
pub struct InvalidSchedulerName {
    /// What was given.
    pub name: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_names_go_both_ways() {
        for scheduler in Scheduler::KNOWN {
            assert_eq!(scheduler.name().parse::<Scheduler>().unwrap(), scheduler);
            assert_eq!(scheduler.module(), format!("ip_vs_{scheduler}"));
        }
    }

    #[test]
    fn unknown_names_are_kept_and_impossible_ones_refused() {
        let future: Scheduler = "fifteen-letters".parse().unwrap();
        assert_eq!((future.name(), future.module().as_str()), ("fifteen-letters", "ip_vs_fifteen-letters"));
        assert_eq!(format!("{future:?}"), "Other(\"fifteen-letters\")");
        for impossible in ["", "sixteen-letters-", "a b", "ü", "a\0"] {
            assert!(impossible.parse::<Scheduler>().is_err(), "{impossible:?}");
        }
    }
}
