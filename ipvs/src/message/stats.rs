//! `IPVS_STATS_ATTR_*`: the counters inside `STATS` (mostly 32 bits) and `STATS64` (all 64 bits).

use netlink_packet_core::{DecodeError, DefaultNla, ErrorContext, Nla, NlaBuffer, Parseable};

use super::payload::{read, read_u32, write};
use crate::Stats;

/// A counter in the width that it has on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Counter {
    /// 32 bits: the kernel's counter modulo 2³².
    Narrow(u32),
    /// 64 bits.
    Wide(u64),
}

impl Counter {
    /// The value.
    #[must_use]
    pub fn value(self) -> u64 {
        match self {
            Self::Narrow(value) => u64::from(value),
            Self::Wide(value) => value,
        }
    }
}

/// One counter.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields of Stats, which are documented")]
pub enum StatsAttribute {
    Connections(Counter),
    IncomingPackets(Counter),
    OutgoingPackets(Counter),
    IncomingBytes(Counter),
    OutgoingBytes(Counter),
    Cps(Counter),
    Inpps(Counter),
    Outpps(Counter),
    Inbps(Counter),
    Outbps(Counter),
    /// Padding that aligns the 64-bit values (`IPVS_STATS_ATTR_PAD`), or something unknown.
    Other(DefaultNla),
}

impl StatsAttribute {
    fn parts(&self) -> Result<(u16, Counter), &DefaultNla> {
        Ok(match self {
            Self::Connections(counter) => (1, *counter),
            Self::IncomingPackets(counter) => (2, *counter),
            Self::OutgoingPackets(counter) => (3, *counter),
            Self::IncomingBytes(counter) => (4, *counter),
            Self::OutgoingBytes(counter) => (5, *counter),
            Self::Cps(counter) => (6, *counter),
            Self::Inpps(counter) => (7, *counter),
            Self::Outpps(counter) => (8, *counter),
            Self::Inbps(counter) => (9, *counter),
            Self::Outbps(counter) => (10, *counter),
            Self::Other(attribute) => return Err(attribute),
        })
    }
}

impl Nla for StatsAttribute {
    fn value_len(&self) -> usize {
        match self.parts() {
            Ok((_, Counter::Narrow(_))) => 4,
            Ok((_, Counter::Wide(_))) => 8,
            Err(other) => other.value_len(),
        }
    }

    fn kind(&self) -> u16 {
        match self.parts() {
            Ok((kind, _)) => kind,
            Err(other) => other.kind(),
        }
    }

    fn emit_value(&self, buffer: &mut [u8]) {
        match self.parts() {
            Ok((_, Counter::Narrow(value))) => write(buffer, &value.to_ne_bytes()),
            Ok((_, Counter::Wide(value))) => write(buffer, &value.to_ne_bytes()),
            Err(other) => other.emit_value(buffer),
        }
    }
}

impl<'a> Parseable<NlaBuffer<&'a [u8]>> for StatsAttribute {
    fn parse(buffer: &NlaBuffer<&'a [u8]>) -> Result<Self, DecodeError> {
        let variant = match buffer.kind() {
            1 => Self::Connections,
            2 => Self::IncomingPackets,
            3 => Self::OutgoingPackets,
            4 => Self::IncomingBytes,
            5 => Self::OutgoingBytes,
            6 => Self::Cps,
            7 => Self::Inpps,
            8 => Self::Outpps,
            9 => Self::Inbps,
            10 => Self::Outbps,
            _ => return Ok(Self::Other(DefaultNla::parse(buffer)?)),
        };
        let value = buffer.value();
        let counter = if value.len() == 4 {
            Counter::Narrow(read_u32(value)?)
        } else {
            Counter::Wide(u64::from_ne_bytes(read(value).context("IPVS_STATS_ATTR")?))
        };
        Ok(variant(counter))
    }
}

impl Stats {
    /// From the counters of one nest; what is missing is 0.
    #[must_use]
    pub fn from_attributes(attributes: &[StatsAttribute]) -> Self {
        let mut stats = Self::default();
        for attribute in attributes {
            match attribute {
                StatsAttribute::Connections(counter) => stats.connections = counter.value(),
                StatsAttribute::IncomingPackets(counter) => stats.incoming_packets = counter.value(),
                StatsAttribute::OutgoingPackets(counter) => stats.outgoing_packets = counter.value(),
                StatsAttribute::IncomingBytes(counter) => stats.incoming_bytes = counter.value(),
                StatsAttribute::OutgoingBytes(counter) => stats.outgoing_bytes = counter.value(),
                StatsAttribute::Cps(counter) => stats.cps = counter.value(),
                StatsAttribute::Inpps(counter) => stats.inpps = counter.value(),
                StatsAttribute::Outpps(counter) => stats.outpps = counter.value(),
                StatsAttribute::Inbps(counter) => stats.inbps = counter.value(),
                StatsAttribute::Outbps(counter) => stats.outbps = counter.value(),
                StatsAttribute::Other(_) => {}
            }
        }
        stats
    }

    /// The counters of a `STATS64` nest, without padding.
    #[must_use]
    pub fn to_attributes(&self) -> Vec<StatsAttribute> {
        vec![
            StatsAttribute::Connections(Counter::Wide(self.connections)),
            StatsAttribute::IncomingPackets(Counter::Wide(self.incoming_packets)),
            StatsAttribute::OutgoingPackets(Counter::Wide(self.outgoing_packets)),
            StatsAttribute::IncomingBytes(Counter::Wide(self.incoming_bytes)),
            StatsAttribute::OutgoingBytes(Counter::Wide(self.outgoing_bytes)),
            StatsAttribute::Cps(Counter::Wide(self.cps)),
            StatsAttribute::Inpps(Counter::Wide(self.inpps)),
            StatsAttribute::Outpps(Counter::Wide(self.outpps)),
            StatsAttribute::Inbps(Counter::Wide(self.inbps)),
            StatsAttribute::Outbps(Counter::Wide(self.outbps)),
        ]
    }
}
