//! `-m conntrack`: the state of the connection that a packet belongs to, and its addresses before translation.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use super::{AnyOf, bang, list, named};
use crate::options::Words;
use crate::protocol::{PortRange, Protocol};

named! {
    /// `--ctstate`
    CtState {
        /// Belongs to no connection and starts none.
        Invalid = "INVALID",
        /// Starts a connection, or has seen packets in one direction only.
        New = "NEW",
        /// Starts a connection that belongs to another.
        Related = "RELATED",
        /// Packets were seen in both directions.
        Established = "ESTABLISHED",
        /// Exempted from tracking.
        Untracked = "UNTRACKED",
        /// The source was translated.
        Snat = "SNAT",
        /// The destination was translated.
        Dnat = "DNAT",
    }
}

named! {
    /// `--ctstatus`
    CtStatus {
        /// An expected connection.
        Expected = "EXPECTED",
        /// Packets seen in both directions.
        SeenReply = "SEEN_REPLY",
        /// Never dropped early.
        Assured = "ASSURED",
        /// The first packet has left the node.
        Confirmed = "CONFIRMED",
    }
}

named! {
    /// `--ctdir`
    CtDirection {
        /// From who opened the connection.
        Original = "ORIGINAL",
        /// Back to who opened it.
        Reply = "REPLY",
    }
}

/// A value that a packet must, or must not, have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Test<T> {
    /// The value.
    pub value: T,
    /// Must not have it.
    pub negated: bool,
}

impl<T> From<T> for Test<T> {
    fn from(value: T) -> Self {
        Self { value, negated: false }
    }
}

/// The options of `-m conntrack`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct ConntrackMatch {
    /// `--ctstate`
    pub state: Option<AnyOf<CtState>>,
    /// `--ctproto`
    pub protocol: Option<Test<Protocol>>,
    /// `--ctorigsrc`
    pub original_source: Option<Test<IpNet>>,
    /// `--ctorigdst`
    pub original_destination: Option<Test<IpNet>>,
    /// `--ctreplsrc`
    pub reply_source: Option<Test<IpNet>>,
    /// `--ctrepldst`
    pub reply_destination: Option<Test<IpNet>>,
    /// `--ctorigsrcport`
    pub original_source_port: Option<Test<PortRange>>,
    /// `--ctorigdstport`
    pub original_destination_port: Option<Test<PortRange>>,
    /// `--ctreplsrcport`
    pub reply_source_port: Option<Test<PortRange>>,
    /// `--ctrepldstport`
    pub reply_destination_port: Option<Test<PortRange>>,
    /// `--ctstatus`
    pub status: Option<AnyOf<CtStatus>>,
    /// `--ctdir`
    pub direction: Option<CtDirection>,
}

impl ConntrackMatch {
    /// `--ctstate …`
    #[must_use]
    pub fn states(states: &[CtState]) -> Self {
        Self { state: Some(AnyOf::new(states)), ..Self::default() }
    }

    pub(crate) fn normalise(&mut self) {
        self.state.iter_mut().for_each(AnyOf::normalise);
        self.status.iter_mut().for_each(AnyOf::normalise);
        if let Some(test) = &mut self.protocol {
            test.value = Protocol::from_number(test.value.number());
        }
        for slot in [
            &mut self.original_source,
            &mut self.original_destination,
            &mut self.reply_source,
            &mut self.reply_destination,
        ] {
            slot.iter_mut().for_each(|test| test.value = test.value.trunc());
        }
    }

    pub(crate) fn write(&self, f: &mut dyn fmt::Write) -> fmt::Result {
        f.write_str(" -m conntrack")?;
        if let Some(state) = &self.state {
            state.write(f, "--ctstate")?;
        }
        if let Some(test) = &self.protocol {
            bang(f, test.negated)?;
            write!(f, " --ctproto {}", test.value.number())?;
        }
        write_net(f, "--ctorigsrc", self.original_source)?;
        write_net(f, "--ctorigdst", self.original_destination)?;
        write_net(f, "--ctreplsrc", self.reply_source)?;
        write_net(f, "--ctrepldst", self.reply_destination)?;
        write_ports(f, "--ctorigsrcport", self.original_source_port)?;
        write_ports(f, "--ctorigdstport", self.original_destination_port)?;
        write_ports(f, "--ctreplsrcport", self.reply_source_port)?;
        write_ports(f, "--ctrepldstport", self.reply_destination_port)?;
        if let Some(status) = &self.status {
            status.write(f, "--ctstatus")?;
        }
        match self.direction {
            Some(direction) => write!(f, " --ctdir {direction}"),
            None => Ok(()),
        }
    }

    pub(crate) fn parse(words: &mut Words<'_, '_>) -> Option<Self> {
        let mut found = Self::default();
        while let Some(option) = words.option() {
            let (value, negated) = (words.value()?, option.negated);
            match option.name {
                "--ctstate" => found.state = Some(AnyOf { members: list(value, CtState::parse)?, negated }),
                "--ctstatus" => found.status = Some(AnyOf { members: list(value, CtStatus::parse)?, negated }),
                "--ctproto" => found.protocol = Some(Test { value: Protocol::parse(value)?, negated }),
                "--ctdir" if !negated => found.direction = Some(CtDirection::parse(value)?),
                "--ctorigsrc" => found.original_source = Some(Test { value: net(value)?, negated }),
                "--ctorigdst" => found.original_destination = Some(Test { value: net(value)?, negated }),
                "--ctreplsrc" => found.reply_source = Some(Test { value: net(value)?, negated }),
                "--ctrepldst" => found.reply_destination = Some(Test { value: net(value)?, negated }),
                "--ctorigsrcport" => found.original_source_port = Some(ports(value, negated)?),
                "--ctorigdstport" => found.original_destination_port = Some(ports(value, negated)?),
                "--ctreplsrcport" => found.reply_source_port = Some(ports(value, negated)?),
                "--ctrepldstport" => found.reply_destination_port = Some(ports(value, negated)?),
                _ => return None,
            }
        }
        Some(found)
    }
}

fn ports(text: &str, negated: bool) -> Option<Test<PortRange>> {
    Some(Test { value: PortRange::parse(text)?, negated })
}

/// An address, or an address and prefix length (or contiguous netmask).
pub(crate) fn net(text: &str) -> Option<IpNet> {
    let Some((address, mask)) = text.split_once('/') else { return text.parse::<IpAddr>().ok().map(IpNet::from) };
    let address: IpAddr = address.parse().ok()?;
    match mask.parse::<u8>() {
        Ok(length) => IpNet::new(address, length).ok(),
        Err(_) => IpNet::with_netmask(address, mask.parse().ok()?).ok(),
    }
}

fn write_net(f: &mut dyn fmt::Write, option: &str, test: Option<Test<IpNet>>) -> fmt::Result {
    let Some(Test { value, negated }) = test else { return Ok(()) };
    bang(f, negated)?;
    if value.prefix_len() == value.max_prefix_len() {
        write!(f, " {option} {}", value.addr())
    } else {
        write!(f, " {option} {value}")
    }
}

fn write_ports(f: &mut dyn fmt::Write, option: &str, test: Option<Test<PortRange>>) -> fmt::Result {
    let Some(Test { value, negated }) = test else { return Ok(()) };
    bang(f, negated)?;
    write!(f, " {option} {value}")
}
