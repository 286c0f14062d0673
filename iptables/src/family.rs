//! The fixed vocabulary around rules: address family, kernel interface, table.

use std::fmt;
use std::str::FromStr;

/// Address family: `iptables` or `ip6tables`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Name of the program family: `iptables` or `ip6tables`.
    #[must_use]
    pub const fn program(self) -> &'static str {
        match self {
            Self::V4 => "iptables",
            Self::V6 => "ip6tables",
        }
    }
}

/// Which kernel interface the programs of a node use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Variant {
    /// `ip_tables`: every change rewrites the whole table.
    Legacy,
    /// `nf_tables` behind the iptables syntax.
    Nft,
}

impl Variant {
    /// `legacy` or `nft`, as in the programs' names.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Legacy => "legacy",
            Self::Nft => "nft",
        }
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Address translation.
    Nat,
    /// Accepting and refusing.
    Filter,
    /// Marks and other changes to packets.
    Mangle,
    /// Before connection tracking.
    Raw,
}

impl Table {
    /// All tables, in the order in which they are written: what translates addresses comes last, when all that the
    /// translated packets will meet is in place.
    pub const WRITE_ORDER: [Self; 4] = [Self::Raw, Self::Mangle, Self::Filter, Self::Nat];

    /// The name that iptables uses.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Nat => "nat",
            Self::Filter => "filter",
            Self::Mangle => "mangle",
            Self::Raw => "raw",
        }
    }

    /// The chains that the kernel itself provides in this table.
    #[must_use]
    pub const fn builtin_chains(self) -> &'static [&'static str] {
        match self {
            Self::Nat => &["PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"],
            Self::Filter => &["INPUT", "FORWARD", "OUTPUT"],
            Self::Mangle => &["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"],
            Self::Raw => &["PREROUTING", "OUTPUT"],
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Table {
    type Err = UnknownTable;

    fn from_str(text: &str) -> Result<Self, UnknownTable> {
        Self::WRITE_ORDER.into_iter().find(|table| table.as_str() == text).ok_or_else(|| UnknownTable(text.to_owned()))
    }
}

/// A table that this crate does not handle (`security`, or no table at all).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is none of the tables raw, mangle, filter, nat")]
pub struct UnknownTable(pub String);
