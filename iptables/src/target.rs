//! What happens to a packet that a rule matches.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::ChainName;
use crate::ext::set::SetTarget;
use crate::ext::{number, value_and_mask};
use crate::options::Words;
use crate::quote;

/// The target of a rule.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// `-j CHAIN`: go through that chain, then come back.
    Jump(ChainName),
    /// `-g CHAIN`: go through that chain, then come back to where this one was called from.
    Goto(ChainName),
    /// `-j ACCEPT`
    Accept,
    /// `-j DROP`
    Drop,
    /// `-j RETURN`
    Return,
    /// `-j REJECT`
    Reject {
        /// The answer, such as `icmp-admin-prohibited`; `None` is the family's port-unreachable.
        with: Option<Arc<str>>,
    },
    /// `-j DNAT`
    Dnat {
        /// New destination.
        to: DnatTo,
        /// `--persistent`
        persistent: bool,
        /// `--random`
        random: bool,
    },
    /// `-j MASQUERADE`
    Masquerade {
        /// `--random-fully`
        random_fully: bool,
    },
    /// `-j MARK --set-xmark VALUE/MASK`: the bits of `mask` are cleared, then those of `value` flipped. All other
    /// spellings (`--or-mark`, `--and-mark`, `--xor-mark`, `--set-mark`) come down to this.
    Mark {
        /// Bits flipped.
        value: u32,
        /// Bits cleared before.
        mask: u32,
    },
    /// `-j SET`
    Set(SetTarget),
    /// Any other, as it is written after `-j `. To be recognised when it is read back it
    /// must be written as iptables-save prints it, without options that only repeat a default.
    Other(Arc<str>),
}

/// New destination of a translated connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DnatTo {
    /// The port stays.
    Address(IpAddr),
    /// Address and port.
    Endpoint(SocketAddr),
}

impl From<IpAddr> for DnatTo {
    fn from(address: IpAddr) -> Self {
        Self::Address(address)
    }
}

impl From<SocketAddr> for DnatTo {
    fn from(endpoint: SocketAddr) -> Self {
        Self::Endpoint(endpoint)
    }
}

impl fmt::Display for DnatTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Endpoint(endpoint) => endpoint.fmt(f),
        }
    }
}

/// The targets of iptables itself that stand without options: no chain can have such a name.
const EXTENSIONS_WITHOUT_OPTIONS: [&str; 16] = [
    "QUEUE",
    "LOG",
    "NOTRACK",
    "TRACE",
    "CONNMARK",
    "CONNSECMARK",
    "CHECKSUM",
    "CLUSTERIP",
    "NETMAP",
    "NFLOG",
    "NFQUEUE",
    "REDIRECT",
    "SECMARK",
    "TCPMSS",
    "TCPOPTSTRIP",
    "AUDIT",
];

impl Target {
    /// `-j MARK --or-mark BITS`
    #[must_use]
    pub const fn or_mark(bits: u32) -> Self {
        Self::Mark { value: bits, mask: bits }
    }

    /// `-j MARK --xor-mark BITS`
    #[must_use]
    pub const fn xor_mark(bits: u32) -> Self {
        Self::Mark { value: bits, mask: 0 }
    }

    /// `-j MARK --and-mark BITS`
    #[must_use]
    pub const fn and_mark(bits: u32) -> Self {
        Self::Mark { value: 0, mask: !bits }
    }

    /// The chain that a packet may enter through this target.
    #[must_use]
    pub const fn chain(&self) -> Option<ChainName> {
        match self {
            Self::Jump(chain) | Self::Goto(chain) => Some(*chain),
            _ => None,
        }
    }

    pub(crate) fn normalise(&mut self) {
        match self {
            Self::Reject { with } => {
                let default = |answer: &mut Arc<str>| {
                    matches!(&**answer, "icmp-port-unreachable" | "icmp6-port-unreachable" | "port-unreach")
                };
                *with = with.take_if(|answer| !default(answer));
            }
            Self::Other(text) => {
                let words = quote::split(text);
                let mut reader = Words::new(&words);
                *self = Self::parse(&mut reader, false, &|_| false).unwrap_or_else(|| Self::Other(text.clone()));
            }
            _ => {}
        }
    }

    /// Writes ` -j …`.
    pub(crate) fn write(&self, f: &mut dyn fmt::Write) -> fmt::Result {
        f.write_str(if matches!(self, Self::Goto(_)) { " -g " } else { " -j " })?;
        match self {
            Self::Jump(chain) | Self::Goto(chain) => f.write_str(chain.as_str()),
            Self::Accept => f.write_str("ACCEPT"),
            Self::Drop => f.write_str("DROP"),
            Self::Return => f.write_str("RETURN"),
            Self::Reject { with: None } => f.write_str("REJECT"),
            Self::Reject { with: Some(answer) } => write!(f, "REJECT --reject-with {answer}"),
            Self::Dnat { to, persistent, random } => {
                write!(f, "DNAT --to-destination {to}")?;
                f.write_str(if *random { " --random" } else { "" })?;
                f.write_str(if *persistent { " --persistent" } else { "" })
            }
            Self::Masquerade { random_fully } => {
                f.write_str(if *random_fully { "MASQUERADE --random-fully" } else { "MASQUERADE" })
            }
            Self::Mark { value, mask } => write!(f, "MARK --set-xmark 0x{value:x}/0x{mask:x}"),
            Self::Set(set) => set.write(f),
            Self::Other(text) => f.write_str(text),
        }
    }

    /// Reads what follows `-j` (or `-g`). `is_chain` says whether a name without options is a chain of the table.
    pub(crate) fn parse(words: &mut Words<'_, '_>, goto: bool, is_chain: &dyn Fn(&str) -> bool) -> Option<Self> {
        let start = words.position();
        let name = words.value()?;
        if goto {
            return ChainName::new(name).ok().map(Self::Goto);
        }
        let mut options = words.clone();
        let typed = Self::parse_known(name, &mut options, is_chain).filter(|_| options.at_boundary());
        if let Some(target) = typed {
            *words = options;
            return Some(target);
        }
        words.rest();
        Some(Self::Other(quote::join(words.since(start)).into()))
    }

    fn parse_known(name: &str, words: &mut Words<'_, '_>, is_chain: &dyn Fn(&str) -> bool) -> Option<Self> {
        match name {
            "ACCEPT" => Some(Self::Accept),
            "DROP" => Some(Self::Drop),
            "RETURN" => Some(Self::Return),
            "REJECT" => parse_reject(words),
            "DNAT" => parse_dnat(words),
            "MASQUERADE" => Some(Self::Masquerade { random_fully: words.take("--random-fully") }),
            "MARK" => parse_mark(words),
            "SET" => SetTarget::parse(words).map(Self::Set),
            _ if EXTENSIONS_WITHOUT_OPTIONS.contains(&name) || !is_chain(name) => None,
            _ => ChainName::new(name).ok().map(Self::Jump),
        }
    }
}

fn parse_reject(words: &mut Words<'_, '_>) -> Option<Target> {
    if !words.take("--reject-with") {
        return Some(Target::Reject { with: None });
    }
    let mut target = Target::Reject { with: Some(words.value()?.into()) };
    target.normalise();
    Some(target)
}

fn parse_dnat(words: &mut Words<'_, '_>) -> Option<Target> {
    let (mut to, mut persistent, mut random) = (None, false, false);
    while let Some(option) = words.option() {
        match option.name {
            "--to-destination" => to = Some(dnat_to(words.value()?)?),
            "--persistent" => persistent = true,
            "--random" => random = true,
            _ => return None,
        }
    }
    to.map(|to| Target::Dnat { to, persistent, random })
}

fn dnat_to(text: &str) -> Option<DnatTo> {
    if let Ok(endpoint) = text.parse::<SocketAddr>() {
        return Some(endpoint.into());
    }
    text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().ok().map(DnatTo::from)
}

fn parse_mark(words: &mut Words<'_, '_>) -> Option<Target> {
    let option = words.option().filter(|option| !option.negated)?;
    let value = words.value()?;
    let (value, mask) = match option.name {
        "--set-xmark" => value_and_mask(value)?,
        "--set-mark" => value_and_mask(value).map(|(value, mask)| (value, value | mask))?,
        "--or-mark" => number(value).map(|bits| (bits, bits))?,
        "--and-mark" => number(value).map(|bits| (0, !bits))?,
        "--xor-mark" => number(value).map(|bits| (bits, 0))?,
        _ => return None,
    };
    Some(Target::Mark { value, mask })
}
