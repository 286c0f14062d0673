//! The wire format: messages and attributes of the generic netlink family `IPVS`, one to one as
//! `include/uapi/linux/ip_vs.h` defines them.
//!
//! For programs that speak netlink themselves (an [`IpvsMessage`] is the payload of a
//! [`GenlMessage`](netlink_packet_generic::GenlMessage)); [`Client`](crate::Client) does it for all others. Unknown
//! attributes are kept and written again.

mod daemon;
mod destination;
mod payload;
mod report;
mod service;
mod stats;

pub use daemon::DaemonAttribute;
pub use destination::DestinationAttribute;
pub(crate) use destination::{identity as destination_identity, identity_from as destination_identity_from};
pub use service::ServiceAttribute;
pub use stats::{Counter, StatsAttribute};

use netlink_packet_core::{
    DecodeError, DefaultNla, Emitable, ErrorContext, NLA_F_NESTED, Nla, NlaBuffer, NlasIterator, Parseable,
    ParseableParametrized,
};
use netlink_packet_generic::{GenlFamily, GenlHeader};

use payload::{read_u32, write};

/// `IPVS_CMD_*`: what a message is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the kernel's own names")]
pub enum IpvsCommand {
    NewService,
    SetService,
    DelService,
    GetService,
    NewDest,
    SetDest,
    DelDest,
    GetDest,
    NewDaemon,
    DelDaemon,
    GetDaemon,
    SetConfig,
    GetConfig,
    /// Only as the reply to [`IpvsCommand::GetInfo`].
    SetInfo,
    GetInfo,
    Zero,
    Flush,
    Other(u8),
}

/// All commands in the order of their numbers, which begin with 1.
const COMMANDS: [IpvsCommand; 17] = [
    IpvsCommand::NewService,
    IpvsCommand::SetService,
    IpvsCommand::DelService,
    IpvsCommand::GetService,
    IpvsCommand::NewDest,
    IpvsCommand::SetDest,
    IpvsCommand::DelDest,
    IpvsCommand::GetDest,
    IpvsCommand::NewDaemon,
    IpvsCommand::DelDaemon,
    IpvsCommand::GetDaemon,
    IpvsCommand::SetConfig,
    IpvsCommand::GetConfig,
    IpvsCommand::SetInfo,
    IpvsCommand::GetInfo,
    IpvsCommand::Zero,
    IpvsCommand::Flush,
];

impl IpvsCommand {
    /// The number on the wire.
    #[must_use]
    pub fn number(self) -> u8 {
        if let Self::Other(number) = self {
            return number;
        }
        (1..).zip(COMMANDS).find_map(|(number, command)| (command == self).then_some(number)).unwrap_or(0)
    }

    /// The command with this number.
    #[must_use]
    pub fn from_number(number: u8) -> Self {
        let index = usize::from(number).checked_sub(1);
        index.and_then(|index| COMMANDS.get(index)).copied().unwrap_or(Self::Other(number))
    }
}

/// One message of the family, request or reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IpvsMessage {
    /// What it is about.
    pub command: IpvsCommand,
    /// Its attributes in the order on the wire.
    pub attributes: Vec<Attribute>,
}

/// A top-level attribute: `IPVS_CMD_ATTR_*`, and `IPVS_INFO_ATTR_*` in the reply to [`IpvsCommand::GetInfo`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attribute {
    /// A virtual server.
    Service(Vec<ServiceAttribute>),
    /// A destination.
    Destination(Vec<DestinationAttribute>),
    /// A synchronisation daemon.
    Daemon(Vec<DaemonAttribute>),
    /// Timeout of established TCP connections in seconds.
    TimeoutTcp(u32),
    /// Timeout of TCP connections after a FIN in seconds.
    TimeoutTcpFin(u32),
    /// Timeout of UDP in seconds.
    TimeoutUdp(u32),
    /// Version code of IPVS, `0x00MMmmpp`.
    InfoVersion(u32),
    /// Buckets of the connection table.
    InfoConnectionTableSize(u32),
    /// An attribute that this crate does not know.
    Other(DefaultNla),
}

impl Nla for Attribute {
    fn value_len(&self) -> usize {
        match self {
            Self::Service(attributes) => attributes.as_slice().buffer_len(),
            Self::Destination(attributes) => attributes.as_slice().buffer_len(),
            Self::Daemon(attributes) => attributes.as_slice().buffer_len(),
            Self::TimeoutTcp(_)
            | Self::TimeoutTcpFin(_)
            | Self::TimeoutUdp(_)
            | Self::InfoVersion(_)
            | Self::InfoConnectionTableSize(_) => 4,
            Self::Other(attribute) => attribute.value_len(),
        }
    }

    fn kind(&self) -> u16 {
        match self {
            Self::Service(_) => 1 | NLA_F_NESTED,
            Self::Destination(_) => 2 | NLA_F_NESTED,
            Self::Daemon(_) => 3 | NLA_F_NESTED,
            Self::TimeoutTcp(_) => 4,
            Self::TimeoutTcpFin(_) => 5,
            Self::TimeoutUdp(_) => 6,
            Self::InfoVersion(_) => 1,
            Self::InfoConnectionTableSize(_) => 2,
            Self::Other(attribute) => attribute.kind(),
        }
    }

    fn emit_value(&self, buffer: &mut [u8]) {
        match self {
            Self::Service(attributes) => attributes.as_slice().emit(buffer),
            Self::Destination(attributes) => attributes.as_slice().emit(buffer),
            Self::Daemon(attributes) => attributes.as_slice().emit(buffer),
            Self::TimeoutTcp(value)
            | Self::TimeoutTcpFin(value)
            | Self::TimeoutUdp(value)
            | Self::InfoVersion(value)
            | Self::InfoConnectionTableSize(value) => write(buffer, &value.to_ne_bytes()),
            Self::Other(attribute) => attribute.emit_value(buffer),
        }
    }
}

impl Attribute {
    fn parse(buffer: &NlaBuffer<&[u8]>, command: IpvsCommand) -> Result<Self, DecodeError> {
        let value = buffer.value();
        Ok(match (buffer.kind(), command) {
            (1, IpvsCommand::SetInfo) => Self::InfoVersion(read_u32(value).context("IPVS_INFO_ATTR_VERSION")?),
            (2, IpvsCommand::SetInfo) => {
                Self::InfoConnectionTableSize(read_u32(value).context("IPVS_INFO_ATTR_CONN_TAB_SIZE")?)
            }
            (1, _) => Self::Service(parse_all(value).context("IPVS_CMD_ATTR_SERVICE")?),
            (2, _) => Self::Destination(parse_all(value).context("IPVS_CMD_ATTR_DEST")?),
            (3, _) => Self::Daemon(parse_all(value).context("IPVS_CMD_ATTR_DAEMON")?),
            (4, _) => Self::TimeoutTcp(read_u32(value).context("IPVS_CMD_ATTR_TIMEOUT_TCP")?),
            (5, _) => Self::TimeoutTcpFin(read_u32(value).context("IPVS_CMD_ATTR_TIMEOUT_TCP_FIN")?),
            (6, _) => Self::TimeoutUdp(read_u32(value).context("IPVS_CMD_ATTR_TIMEOUT_UDP")?),
            _ => Self::Other(DefaultNla::parse(buffer)?),
        })
    }
}

/// Every attribute in `bytes`.
fn parse_all<A>(bytes: &[u8]) -> Result<Vec<A>, DecodeError>
where
    A: for<'a> Parseable<NlaBuffer<&'a [u8]>>,
{
    NlasIterator::new(bytes).map(|attribute| A::parse(&attribute?)).collect()
}

impl GenlFamily for IpvsMessage {
    fn family_name() -> &'static str {
        "IPVS"
    }

    fn command(&self) -> u8 {
        self.command.number()
    }

    fn version(&self) -> u8 {
        1
    }
}

impl Emitable for IpvsMessage {
    fn buffer_len(&self) -> usize {
        self.attributes.as_slice().buffer_len()
    }

    fn emit(&self, buffer: &mut [u8]) {
        self.attributes.as_slice().emit(buffer);
    }
}

impl ParseableParametrized<[u8], GenlHeader> for IpvsMessage {
    fn parse_with_param(bytes: &[u8], header: GenlHeader) -> Result<Self, DecodeError> {
        let command = IpvsCommand::from_number(header.cmd);
        let attributes = NlasIterator::new(bytes).map(|attribute| Attribute::parse(&attribute?, command));
        Ok(Self { command, attributes: attributes.collect::<Result<_, _>>()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_numbers_go_both_ways() {
        for number in 0..=255 {
            assert_eq!(IpvsCommand::from_number(number).number(), number);
        }
        assert_eq!(IpvsCommand::from_number(17), IpvsCommand::Flush);
        assert_eq!(IpvsCommand::GetDest.number(), 8);
    }

    #[test]
    fn the_reply_to_get_info_has_its_own_attribute_numbers() {
        let bytes = [8, 0, 1, 0, 1, 2, 1, 0, 8, 0, 2, 0, 0, 16, 0, 0];
        let header = GenlHeader { cmd: IpvsCommand::SetInfo.number(), version: 1 };
        let message = IpvsMessage::parse_with_param(&bytes, header).unwrap();
        assert_eq!(message.attributes, [Attribute::InfoVersion(0x10201), Attribute::InfoConnectionTableSize(4096)]);
    }
}
