//! `IPVS_DEST_ATTR_*`: the attributes of a destination, and their meaning as [`Destination`].

use std::net::IpAddr;

use netlink_packet_core::{DecodeError, DefaultNla, Emitable, ErrorContext, NLA_F_NESTED, Nla, NlaBuffer, Parseable};

use super::payload::{read, read_u8, read_u16, read_u16_be, read_u32, write};
use super::service::{address_bytes, address_from};
use super::{StatsAttribute, parse_all};
use crate::{AddressFamily, Destination, DestinationEntry, ForwardMethod, Stats, TunnelFlags, TunnelKind};

/// One attribute of a destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DestinationAttribute {
    /// `union nf_inet_addr`: an IPv4 address takes the first four bytes.
    Address([u8; 16]),
    /// Port, in network byte order on the wire.
    Port(u16),
    /// Forwarding method, in a word of connection flags.
    ForwardMethod(u32),
    /// Weight; the kernel reads it as signed.
    Weight(u32),
    /// Upper threshold.
    UpperThreshold(u32),
    /// Lower threshold.
    LowerThreshold(u32),
    /// Active connections.
    ActiveConnections(u32),
    /// Inactive connections.
    InactiveConnections(u32),
    /// Persistent connections.
    PersistentConnections(u32),
    /// Counters, mostly of 32 bits.
    Stats(Vec<StatsAttribute>),
    /// `AF_INET` or `AF_INET6` (kernel 3.18); without it, the virtual server's.
    Family(u16),
    /// Counters of 64 bits (kernel 4.1).
    Stats64(Vec<StatsAttribute>),
    /// Kind of encapsulation (kernel 5.3).
    TunnelKind(u8),
    /// Port of the encapsulation, in network byte order on the wire (kernel 5.3).
    TunnelPort(u16),
    /// Flags of the encapsulation (kernel 5.3).
    TunnelFlags(u16),
    /// An attribute that this crate does not know.
    Other(DefaultNla),
}

impl Nla for DestinationAttribute {
    fn value_len(&self) -> usize {
        match self {
            Self::TunnelKind(_) => 1,
            Self::Port(_) | Self::Family(_) | Self::TunnelPort(_) | Self::TunnelFlags(_) => 2,
            Self::ForwardMethod(_)
            | Self::Weight(_)
            | Self::UpperThreshold(_)
            | Self::LowerThreshold(_)
            | Self::ActiveConnections(_)
            | Self::InactiveConnections(_)
            | Self::PersistentConnections(_) => 4,
            Self::Address(_) => 16,
            Self::Stats(counters) | Self::Stats64(counters) => counters.as_slice().buffer_len(),
            Self::Other(attribute) => attribute.value_len(),
        }
    }

    fn kind(&self) -> u16 {
        match self {
            Self::Address(_) => 1,
            Self::Port(_) => 2,
            Self::ForwardMethod(_) => 3,
            Self::Weight(_) => 4,
            Self::UpperThreshold(_) => 5,
            Self::LowerThreshold(_) => 6,
            Self::ActiveConnections(_) => 7,
            Self::InactiveConnections(_) => 8,
            Self::PersistentConnections(_) => 9,
            Self::Stats(_) => 10 | NLA_F_NESTED,
            Self::Family(_) => 11,
            Self::Stats64(_) => 12 | NLA_F_NESTED,
            Self::TunnelKind(_) => 13,
            Self::TunnelPort(_) => 14,
            Self::TunnelFlags(_) => 15,
            Self::Other(attribute) => attribute.kind(),
        }
    }

    fn emit_value(&self, buffer: &mut [u8]) {
        match self {
            Self::TunnelKind(value) => write(buffer, &[*value]),
            Self::Family(value) | Self::TunnelFlags(value) => write(buffer, &value.to_ne_bytes()),
            Self::Port(port) | Self::TunnelPort(port) => write(buffer, &port.to_be_bytes()),
            Self::ForwardMethod(value)
            | Self::Weight(value)
            | Self::UpperThreshold(value)
            | Self::LowerThreshold(value)
            | Self::ActiveConnections(value)
            | Self::InactiveConnections(value)
            | Self::PersistentConnections(value) => write(buffer, &value.to_ne_bytes()),
            Self::Address(bytes) => write(buffer, bytes),
            Self::Stats(counters) | Self::Stats64(counters) => counters.as_slice().emit(buffer),
            Self::Other(attribute) => attribute.emit_value(buffer),
        }
    }
}

impl<'a> Parseable<NlaBuffer<&'a [u8]>> for DestinationAttribute {
    fn parse(buffer: &NlaBuffer<&'a [u8]>) -> Result<Self, DecodeError> {
        let value = buffer.value();
        Ok(match buffer.kind() {
            1 => Self::Address(read(value).context("IPVS_DEST_ATTR_ADDR")?),
            2 => Self::Port(read_u16_be(value).context("IPVS_DEST_ATTR_PORT")?),
            3 => Self::ForwardMethod(read_u32(value).context("IPVS_DEST_ATTR_FWD_METHOD")?),
            4 => Self::Weight(read_u32(value).context("IPVS_DEST_ATTR_WEIGHT")?),
            5 => Self::UpperThreshold(read_u32(value).context("IPVS_DEST_ATTR_U_THRESH")?),
            6 => Self::LowerThreshold(read_u32(value).context("IPVS_DEST_ATTR_L_THRESH")?),
            7 => Self::ActiveConnections(read_u32(value).context("IPVS_DEST_ATTR_ACTIVE_CONNS")?),
            8 => Self::InactiveConnections(read_u32(value).context("IPVS_DEST_ATTR_INACT_CONNS")?),
            9 => Self::PersistentConnections(read_u32(value).context("IPVS_DEST_ATTR_PERSIST_CONNS")?),
            10 => Self::Stats(parse_all(value).context("IPVS_DEST_ATTR_STATS")?),
            11 => Self::Family(read_u16(value).context("IPVS_DEST_ATTR_ADDR_FAMILY")?),
            12 => Self::Stats64(parse_all(value).context("IPVS_DEST_ATTR_STATS64")?),
            13 => Self::TunnelKind(read_u8(value).context("IPVS_DEST_ATTR_TUN_TYPE")?),
            14 => Self::TunnelPort(read_u16_be(value).context("IPVS_DEST_ATTR_TUN_PORT")?),
            15 => Self::TunnelFlags(read_u16(value).context("IPVS_DEST_ATTR_TUN_FLAGS")?),
            _ => Self::Other(DefaultNla::parse(buffer)?),
        })
    }
}

/// The attributes that identify a destination within its virtual server.
pub(crate) fn identity(address: &IpAddr, port: u16) -> [DestinationAttribute; 3] {
    [
        DestinationAttribute::Family(AddressFamily::of(address).number()),
        DestinationAttribute::Address(address_bytes(address)),
        DestinationAttribute::Port(port),
    ]
}

/// Address and port among `attributes`; `family` counts where they have none.
pub(crate) fn identity_from(
    attributes: &[DestinationAttribute],
    family: AddressFamily,
) -> Result<(IpAddr, u16), DecodeError> {
    let (mut own_family, mut address, mut port) = (0, None, None);
    for attribute in attributes {
        match attribute {
            DestinationAttribute::Family(value) => own_family = *value,
            DestinationAttribute::Address(value) => address = Some(value),
            DestinationAttribute::Port(value) => port = Some(*value),
            _ => {}
        }
    }
    // The kernel, too, takes 0 for the virtual server's family.
    let family = match own_family {
        0 => family,
        other => AddressFamily::from_number(other)
            .ok_or_else(|| DecodeError::from(format!("a destination of address family {other}")))?,
    };
    let address = address.ok_or("a destination without an address")?;
    Ok((address_from(address, family), port.ok_or("a destination without a port")?))
}

impl Destination {
    /// The attributes of [`Command::AddDestination`](crate::Command::AddDestination).
    #[must_use]
    pub fn to_attributes(&self) -> Vec<DestinationAttribute> {
        self.attributes().into()
    }

    /// The attributes of [`Self::to_attributes`].
    pub(crate) fn attributes(&self) -> [DestinationAttribute; 10] {
        let [family, address, port] = identity(&self.address, self.port);
        [
            family,
            address,
            port,
            DestinationAttribute::ForwardMethod(self.forward.number()),
            DestinationAttribute::Weight(self.weight),
            // Kernels before 5.3 skip these three.
            DestinationAttribute::TunnelKind(self.tunnel.kind.number()),
            DestinationAttribute::TunnelPort(self.tunnel.port),
            DestinationAttribute::TunnelFlags(self.tunnel.flags.bits()),
            DestinationAttribute::UpperThreshold(self.upper_threshold),
            DestinationAttribute::LowerThreshold(self.lower_threshold),
        ]
    }

    /// The configuration among `attributes`; `family` is the virtual server's, which counts where the attributes have
    /// none (kernels before 3.18).
    ///
    /// # Errors
    /// An attribute is missing that the kernel always sends and always wants.
    pub fn from_attributes(attributes: &[DestinationAttribute], family: AddressFamily) -> Result<Self, DecodeError> {
        let (address, port) = identity_from(attributes, family)?;
        let mut destination = Self::new(address, port, 0);
        let (mut forward, mut weight) = (None, None);
        for attribute in attributes {
            match attribute {
                DestinationAttribute::ForwardMethod(word) => {
                    forward = Some(ForwardMethod::from_connection_flags(*word));
                }
                DestinationAttribute::Weight(value) => weight = Some(*value),
                DestinationAttribute::UpperThreshold(value) => destination.upper_threshold = *value,
                DestinationAttribute::LowerThreshold(value) => destination.lower_threshold = *value,
                DestinationAttribute::TunnelKind(value) => destination.tunnel.kind = TunnelKind::from_number(*value),
                DestinationAttribute::TunnelPort(value) => destination.tunnel.port = *value,
                DestinationAttribute::TunnelFlags(bits) => {
                    destination.tunnel.flags = TunnelFlags::from_bits_retain(*bits);
                }
                _ => {}
            }
        }
        let missing = |what: &str| DecodeError::from(format!("destination {address} port {port} without {what}"));
        destination.forward = forward.ok_or_else(|| missing("a forwarding method"))?;
        destination.weight = weight.ok_or_else(|| missing("a weight"))?;
        Ok(destination)
    }
}

impl DestinationEntry {
    /// What the kernel reports in `attributes` about a destination of a virtual server of `family`.
    ///
    /// # Errors
    /// As [`Destination::from_attributes`].
    pub fn from_attributes(attributes: Vec<DestinationAttribute>, family: AddressFamily) -> Result<Self, DecodeError> {
        let mut entry = Self {
            destination: Destination::from_attributes(&attributes, family)?,
            active_connections: 0,
            inactive_connections: 0,
            persistent_connections: 0,
            stats: Stats::default(),
            other: Vec::new(),
        };
        let mut wide = false;
        for attribute in attributes {
            match attribute {
                DestinationAttribute::ActiveConnections(value) => entry.active_connections = value,
                DestinationAttribute::InactiveConnections(value) => entry.inactive_connections = value,
                DestinationAttribute::PersistentConnections(value) => entry.persistent_connections = value,
                DestinationAttribute::Stats(counters) if !wide => entry.stats = Stats::from_attributes(&counters),
                DestinationAttribute::Stats64(counters) => {
                    wide = true;
                    entry.stats = Stats::from_attributes(&counters);
                }
                DestinationAttribute::Other(attribute) => entry.other.push(attribute),
                _ => {}
            }
        }
        Ok(entry)
    }
}
