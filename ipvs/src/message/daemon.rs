//! `IPVS_DAEMON_ATTR_*`: the attributes of a synchronisation daemon, and their meaning as [`Daemon`].

use std::net::IpAddr;

use netlink_packet_core::{DecodeError, DefaultNla, ErrorContext, Nla, NlaBuffer, Parseable};

use super::payload::{read, read_string, read_u8, read_u16, read_u32, write, write_string};
use crate::{Daemon, DaemonState};

/// One attribute of a synchronisation daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DaemonAttribute {
    /// `IP_VS_STATE_*`.
    State(u32),
    /// Interface of the multicast.
    Interface(String),
    /// Synchronisation number.
    SyncId(u32),
    /// Largest payload.
    MaxLength(u16),
    /// IPv4 group.
    Group([u8; 4]),
    /// IPv6 group.
    Group6([u8; 16]),
    /// UDP port, unlike all others in native byte order.
    Port(u16),
    /// Time to live.
    Ttl(u8),
    /// An attribute that this crate does not know.
    Other(DefaultNla),
}

impl Nla for DaemonAttribute {
    fn value_len(&self) -> usize {
        match self {
            Self::Ttl(_) => 1,
            Self::MaxLength(_) | Self::Port(_) => 2,
            Self::State(_) | Self::SyncId(_) | Self::Group(_) => 4,
            Self::Group6(_) => 16,
            Self::Interface(name) => name.len() + 1,
            Self::Other(attribute) => attribute.value_len(),
        }
    }

    fn kind(&self) -> u16 {
        match self {
            Self::State(_) => 1,
            Self::Interface(_) => 2,
            Self::SyncId(_) => 3,
            Self::MaxLength(_) => 4,
            Self::Group(_) => 5,
            Self::Group6(_) => 6,
            Self::Port(_) => 7,
            Self::Ttl(_) => 8,
            Self::Other(attribute) => attribute.kind(),
        }
    }

    fn emit_value(&self, buffer: &mut [u8]) {
        match self {
            Self::State(value) | Self::SyncId(value) => write(buffer, &value.to_ne_bytes()),
            Self::MaxLength(value) | Self::Port(value) => write(buffer, &value.to_ne_bytes()),
            Self::Ttl(value) => write(buffer, &[*value]),
            Self::Group(bytes) => write(buffer, bytes),
            Self::Group6(bytes) => write(buffer, bytes),
            Self::Interface(name) => write_string(buffer, name),
            Self::Other(attribute) => attribute.emit_value(buffer),
        }
    }
}

impl<'a> Parseable<NlaBuffer<&'a [u8]>> for DaemonAttribute {
    fn parse(buffer: &NlaBuffer<&'a [u8]>) -> Result<Self, DecodeError> {
        let value = buffer.value();
        Ok(match buffer.kind() {
            1 => Self::State(read_u32(value).context("IPVS_DAEMON_ATTR_STATE")?),
            2 => Self::Interface(read_string(value).context("IPVS_DAEMON_ATTR_MCAST_IFN")?),
            3 => Self::SyncId(read_u32(value).context("IPVS_DAEMON_ATTR_SYNC_ID")?),
            4 => Self::MaxLength(read_u16(value).context("IPVS_DAEMON_ATTR_SYNC_MAXLEN")?),
            5 => Self::Group(read(value).context("IPVS_DAEMON_ATTR_MCAST_GROUP")?),
            6 => Self::Group6(read(value).context("IPVS_DAEMON_ATTR_MCAST_GROUP6")?),
            7 => Self::Port(read_u16(value).context("IPVS_DAEMON_ATTR_MCAST_PORT")?),
            8 => Self::Ttl(read_u8(value).context("IPVS_DAEMON_ATTR_MCAST_TTL")?),
            _ => Self::Other(DefaultNla::parse(buffer)?),
        })
    }
}

impl Daemon {
    /// The attributes of [`Command::StartDaemon`](crate::Command::StartDaemon).
    #[must_use]
    pub fn to_attributes(&self) -> Vec<DaemonAttribute> {
        let mut attributes = vec![
            DaemonAttribute::State(self.state.number()),
            DaemonAttribute::Interface(self.interface.clone()),
            DaemonAttribute::SyncId(self.sync_id),
        ];
        attributes.extend(self.max_length.map(DaemonAttribute::MaxLength));
        attributes.extend(self.group.map(|group| match group {
            IpAddr::V4(group) => DaemonAttribute::Group(group.octets()),
            IpAddr::V6(group) => DaemonAttribute::Group6(group.octets()),
        }));
        attributes.extend(self.port.map(DaemonAttribute::Port));
        attributes.extend(self.ttl.map(DaemonAttribute::Ttl));
        attributes
    }

    /// The daemon that `attributes` describe.
    ///
    /// # Errors
    /// State, interface or synchronisation number is missing.
    pub fn from_attributes(attributes: &[DaemonAttribute]) -> Result<Self, DecodeError> {
        let mut daemon = Self::new(DaemonState::Other(0), String::new(), 0);
        let (mut state, mut interface, mut sync_id) = (None, None, None);
        for attribute in attributes {
            match attribute {
                DaemonAttribute::State(value) => state = Some(DaemonState::from_number(*value)),
                DaemonAttribute::Interface(name) => interface = Some(name.clone()),
                DaemonAttribute::SyncId(value) => sync_id = Some(*value),
                DaemonAttribute::MaxLength(value) => daemon.max_length = Some(*value),
                DaemonAttribute::Group(bytes) => daemon.group = Some(IpAddr::from(*bytes)),
                DaemonAttribute::Group6(bytes) => daemon.group = Some(IpAddr::from(*bytes)),
                DaemonAttribute::Port(value) => daemon.port = Some(*value),
                DaemonAttribute::Ttl(value) => daemon.ttl = Some(*value),
                DaemonAttribute::Other(_) => {}
            }
        }
        daemon.state = state.ok_or("a synchronisation daemon without a state")?;
        daemon.interface = interface.ok_or("a synchronisation daemon without an interface")?;
        daemon.sync_id = sync_id.ok_or("a synchronisation daemon without a number")?;
        Ok(daemon)
    }
}
