//! Sets as a whole: types, what to create, what the kernel says of them, and commands.

use std::fmt;

use super::{Entry, EntryWithMark};
use crate::kernel::IpFamily;

/// The longest name of a set, in bytes (`IPSET_MAXNAMELEN` without the closing zero).
pub const MAX_NAME: usize = 31;

/// The set types that the data plane uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SetType {
    /// Addresses.
    HashIp,
    /// Address, protocol and port.
    HashIpPort,
    /// Address, protocol and port, second address.
    HashIpPortIp,
    /// Address, protocol and port, network.
    HashIpPortNet,
    /// Networks.
    HashNet,
    /// Network, protocol and port.
    HashNetPort,
    /// Ports 0 to 65535, of no protocol.
    BitmapPort,
}

impl SetType {
    pub(super) const ALL: [Self; 7] = [
        Self::HashIp,
        Self::HashIpPort,
        Self::HashIpPortIp,
        Self::HashIpPortNet,
        Self::HashNet,
        Self::HashNetPort,
        Self::BitmapPort,
    ];

    /// The kernel's and ipset's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::HashIp => "hash:ip",
            Self::HashIpPort => "hash:ip,port",
            Self::HashIpPortIp => "hash:ip,port,ip",
            Self::HashIpPortNet => "hash:ip,port,net",
            Self::HashNet => "hash:net",
            Self::HashNetPort => "hash:net,port",
            Self::BitmapPort => "bitmap:port",
        }
    }

    /// The type of that name, `None` for types that the data plane does not use.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.name() == name)
    }

    /// The revision to ask for: the one that brought `skbinfo`, which every kernel since 3.18 has; later ones add
    /// nothing that we use, so there is nothing to negotiate.
    pub(super) fn revision(self) -> u8 {
        match self {
            Self::HashIp => 4,
            Self::HashIpPort | Self::HashIpPortIp => 5,
            Self::HashIpPortNet | Self::HashNetPort => 7,
            Self::HashNet => 6,
            Self::BitmapPort => 3,
        }
    }
}

impl fmt::Display for SetType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A set to create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetSpec {
    /// The name, at most [`MAX_NAME`] bytes.
    pub name: String,
    /// What its entries are.
    pub set_type: SetType,
    /// The family of its addresses; `bitmap:port` has none, and the value is ignored.
    pub family: IpFamily,
    /// How many entries fit (hash types); more are refused with [`super::Reason::Full`].
    pub max_elements: u32,
    /// Buckets to begin with (hash types); the kernel rounds up to a power of two and grows it by itself.
    pub hash_size: u32,
    /// Whether entries can carry a firewall mark for `-j SET --map-set … --map-mark`.
    pub skbinfo: bool,
    /// Whether entries can carry a comment.
    pub comment: bool,
    /// Whether entries count packets and bytes.
    pub counters: bool,
    /// Seconds after which the kernel takes an entry out by itself.
    pub timeout: Option<u32>,
}

impl SetSpec {
    /// A set without extensions, of the default hash size, for up to a million entries: there is no cost in a bound
    /// that is not reached, and the default of 65,536 is below what one large cluster needs.
    #[must_use]
    pub fn new(name: impl Into<String>, set_type: SetType, family: IpFamily) -> Self {
        Self {
            name: name.into(),
            set_type,
            family,
            max_elements: 1 << 20,
            hash_size: 1024,
            skbinfo: false,
            comment: false,
            counters: false,
            timeout: None,
        }
    }

    /// The same set with marks.
    #[must_use]
    pub fn with_marks(self) -> Self {
        Self { skbinfo: true, ..self }
    }

    /// The same set, of which the kernel takes each entry out after so many seconds.
    #[must_use]
    pub fn with_timeout(self, seconds: u32) -> Self {
        Self { timeout: Some(seconds), ..self }
    }
}

/// What the kernel says of a set.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SetHeader {
    /// The name.
    pub name: String,
    /// The name of its type; see [`SetHeader::set_type`].
    pub type_name: String,
    /// The type's revision.
    pub revision: u8,
    /// `AF_…`; 0 for `bitmap:port`.
    pub family_number: u8,
    /// Buckets (hash types).
    pub hash_size: Option<u32>,
    /// How many entries fit (hash types).
    pub max_elements: Option<u32>,
    /// Entries now; `None` before kernel 4.10.
    pub elements: Option<u32>,
    /// Iptables rules and list sets that refer to the set; it cannot be destroyed while there are any.
    pub references: u32,
    /// Bytes of memory.
    pub memory: u32,
    /// Whether entries can carry a mark.
    pub skbinfo: bool,
    /// Whether entries can carry a comment.
    pub comment: bool,
    /// Whether entries count packets and bytes.
    pub counters: bool,
    /// Seconds after which the kernel takes an entry out, unless it was told others for it.
    pub timeout: Option<u32>,
}

impl SetHeader {
    /// The type, `None` when the data plane has no use for it.
    #[must_use]
    pub fn set_type(&self) -> Option<SetType> {
        SetType::from_name(&self.type_name)
    }

    /// The family of the set's addresses, `None` for `bitmap:port`.
    #[must_use]
    pub fn family(&self) -> Option<IpFamily> {
        IpFamily::from_number(self.family_number)
    }

    /// Whether the set can serve as the one of the specification: same type, family and extensions, and as roomy.
    #[must_use]
    pub fn serves_as(&self, spec: &SetSpec) -> bool {
        self.set_type() == Some(spec.set_type)
            && (spec.set_type == SetType::BitmapPort || self.family() == Some(spec.family))
            && self.max_elements.is_none_or(|max| max >= spec.max_elements)
            && (self.skbinfo, self.comment, self.counters) == (spec.skbinfo, spec.comment, spec.counters)
            && self.timeout == spec.timeout
    }
}

/// One change. [`fmt::Display`] writes it as an `ipset` command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SetCommand {
    /// Create a set; one of that name is an error, whatever its type.
    Create(SetSpec),
    /// Destroy a set that nothing refers to.
    Destroy(String),
    /// Rename a set that nothing refers to.
    Rename {
        /// The present name.
        from: String,
        /// The new name.
        to: String,
    },
    /// Exchange the contents of two sets of one type and family, for packets at one instant.
    Swap(String, String),
    /// Delete all entries.
    Flush(String),
    /// Add an entry; one that is there already is an error ([`IpsetError::is_already_there`](super::IpsetError)).
    Add {
        /// The set's name.
        set: String,
        /// The entry.
        entry: EntryWithMark,
    },
    /// Add an entry, or give the one that is there this mark.
    Put {
        /// The set's name.
        set: String,
        /// The entry.
        entry: EntryWithMark,
    },
    /// Delete an entry; one that is not there is an error ([`IpsetError::is_already_gone`](super::IpsetError)).
    Delete {
        /// The set's name.
        set: String,
        /// The entry.
        entry: Entry,
    },
}

impl SetCommand {
    /// The names of sets in the command.
    pub(super) fn names(&self) -> [&str; 2] {
        match self {
            Self::Create(spec) => [&spec.name, ""],
            Self::Destroy(set) | Self::Flush(set) => [set, ""],
            Self::Rename { from, to } => [from, to],
            Self::Swap(from, to) => [from, to],
            Self::Add { set, .. } | Self::Put { set, .. } | Self::Delete { set, .. } => [set, ""],
        }
    }
}

impl fmt::Display for SetCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create(spec) => write!(f, "create {spec}"),
            Self::Destroy(set) => write!(f, "destroy {set}"),
            Self::Rename { from, to } => write!(f, "rename {from} {to}"),
            Self::Swap(from, to) => write!(f, "swap {from} {to}"),
            Self::Flush(set) => write!(f, "flush {set}"),
            Self::Add { set, entry } => write!(f, "add {set} {entry}"),
            Self::Put { set, entry } => write!(f, "-exist add {set} {entry}"),
            Self::Delete { set, entry } => write!(f, "del {set} {entry}"),
        }
    }
}

impl fmt::Display for SetSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.set_type)?;
        if self.set_type == SetType::BitmapPort {
            f.write_str(" range 0-65535")?;
        } else {
            let family = if self.family == IpFamily::V4 { "inet" } else { "inet6" };
            write!(f, " family {family} hashsize {} maxelem {}", self.hash_size, self.max_elements)?;
        }
        let extensions = [(self.counters, " counters"), (self.comment, " comment"), (self.skbinfo, " skbinfo")];
        extensions.iter().filter(|(on, _)| *on).try_for_each(|(_, word)| f.write_str(word))
    }
}
