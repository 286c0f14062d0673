//! `IPVS_SVC_ATTR_*`: the attributes of a virtual server, and their meaning as [`Service`].

use std::net::{IpAddr, Ipv4Addr};

use netlink_packet_core::{DecodeError, DefaultNla, Emitable, ErrorContext, NLA_F_NESTED, Nla, NlaBuffer, Parseable};

use super::payload::{read, read_string, read_u16, read_u16_be, read_u32, write, write_string};
use super::{StatsAttribute, parse_all};
use crate::{AddressFamily, Netmask, Protocol, Service, ServiceEntry, ServiceFlags, ServiceId, Stats};

/// One attribute of a virtual server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceAttribute {
    /// `AF_INET` or `AF_INET6`.
    Family(u16),
    /// Protocol number.
    Protocol(u16),
    /// `union nf_inet_addr`: an IPv4 address takes the first four bytes.
    Address([u8; 16]),
    /// Port, in network byte order on the wire.
    Port(u16),
    /// Firewall mark.
    Fwmark(u32),
    /// Name of the scheduler.
    Scheduler(String),
    /// Flags and which of them are meant; the kernel keeps the others.
    Flags {
        /// The flags.
        flags: u32,
        /// Which bits to set as in `flags`.
        mask: u32,
    },
    /// Persistence timeout in seconds.
    Timeout(u32),
    /// Persistence netmask: for IPv4 an address, for IPv6 the prefix length as a native 32-bit number.
    Netmask([u8; 4]),
    /// Counters, mostly of 32 bits.
    Stats(Vec<StatsAttribute>),
    /// Name of the persistence engine.
    PeName(String),
    /// Counters of 64 bits (kernel 4.1).
    Stats64(Vec<StatsAttribute>),
    /// An attribute that this crate does not know.
    Other(DefaultNla),
}

impl Nla for ServiceAttribute {
    fn value_len(&self) -> usize {
        match self {
            Self::Family(_) | Self::Protocol(_) | Self::Port(_) => 2,
            Self::Fwmark(_) | Self::Timeout(_) | Self::Netmask(_) => 4,
            Self::Flags { .. } => 8,
            Self::Address(_) => 16,
            Self::Scheduler(name) | Self::PeName(name) => name.len() + 1,
            Self::Stats(counters) | Self::Stats64(counters) => counters.as_slice().buffer_len(),
            Self::Other(attribute) => attribute.value_len(),
        }
    }

    fn kind(&self) -> u16 {
        match self {
            Self::Family(_) => 1,
            Self::Protocol(_) => 2,
            Self::Address(_) => 3,
            Self::Port(_) => 4,
            Self::Fwmark(_) => 5,
            Self::Scheduler(_) => 6,
            Self::Flags { .. } => 7,
            Self::Timeout(_) => 8,
            Self::Netmask(_) => 9,
            Self::Stats(_) => 10 | NLA_F_NESTED,
            Self::PeName(_) => 11,
            Self::Stats64(_) => 12 | NLA_F_NESTED,
            Self::Other(attribute) => attribute.kind(),
        }
    }

    fn emit_value(&self, buffer: &mut [u8]) {
        match self {
            Self::Family(value) | Self::Protocol(value) => write(buffer, &value.to_ne_bytes()),
            Self::Port(port) => write(buffer, &port.to_be_bytes()),
            Self::Fwmark(value) | Self::Timeout(value) => write(buffer, &value.to_ne_bytes()),
            Self::Netmask(bytes) => write(buffer, bytes),
            Self::Address(bytes) => write(buffer, bytes),
            Self::Flags { flags, mask } => {
                let (first, second) = buffer.split_at_mut(4);
                write(first, &flags.to_ne_bytes());
                write(second, &mask.to_ne_bytes());
            }
            Self::Scheduler(name) | Self::PeName(name) => write_string(buffer, name),
            Self::Stats(counters) | Self::Stats64(counters) => counters.as_slice().emit(buffer),
            Self::Other(attribute) => attribute.emit_value(buffer),
        }
    }
}

impl<'a> Parseable<NlaBuffer<&'a [u8]>> for ServiceAttribute {
    fn parse(buffer: &NlaBuffer<&'a [u8]>) -> Result<Self, DecodeError> {
        let value = buffer.value();
        Ok(match buffer.kind() {
            1 => Self::Family(read_u16(value).context("IPVS_SVC_ATTR_AF")?),
            2 => Self::Protocol(read_u16(value).context("IPVS_SVC_ATTR_PROTOCOL")?),
            3 => Self::Address(read(value).context("IPVS_SVC_ATTR_ADDR")?),
            4 => Self::Port(read_u16_be(value).context("IPVS_SVC_ATTR_PORT")?),
            5 => Self::Fwmark(read_u32(value).context("IPVS_SVC_ATTR_FWMARK")?),
            6 => Self::Scheduler(read_string(value).context("IPVS_SVC_ATTR_SCHED_NAME")?),
            7 => {
                let both: [u8; 8] = read(value).context("IPVS_SVC_ATTR_FLAGS")?;
                let (flags, mask) = both.split_at(4);
                Self::Flags { flags: read_u32(flags)?, mask: read_u32(mask)? }
            }
            8 => Self::Timeout(read_u32(value).context("IPVS_SVC_ATTR_TIMEOUT")?),
            9 => Self::Netmask(read(value).context("IPVS_SVC_ATTR_NETMASK")?),
            10 => Self::Stats(parse_all(value).context("IPVS_SVC_ATTR_STATS")?),
            11 => Self::PeName(read_string(value).context("IPVS_SVC_ATTR_PE_NAME")?),
            12 => Self::Stats64(parse_all(value).context("IPVS_SVC_ATTR_STATS64")?),
            _ => Self::Other(DefaultNla::parse(buffer)?),
        })
    }
}

/// `union nf_inet_addr`.
pub(super) fn address_bytes(address: &IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => {
            let mut bytes = [0; 16];
            write(&mut bytes, &v4.octets());
            bytes
        }
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// The address of `family` in a `union nf_inet_addr`.
pub(super) fn address_from(bytes: &[u8; 16], family: AddressFamily) -> IpAddr {
    let [a, b, c, d, ..] = *bytes;
    match family {
        AddressFamily::Ipv4 => IpAddr::V4(Ipv4Addr::new(a, b, c, d)),
        AddressFamily::Ipv6 => IpAddr::from(*bytes),
    }
}

fn netmask_bytes(netmask: &Netmask) -> [u8; 4] {
    match netmask {
        Netmask::Ipv4(mask) => mask.octets(),
        Netmask::Ipv6(length) => length.to_ne_bytes(),
    }
}

impl ServiceId {
    /// The attributes that identify a virtual server.
    #[must_use]
    pub fn to_attributes(&self) -> Vec<ServiceAttribute> {
        let mut attributes = Vec::with_capacity(4);
        self.for_each_attribute(&mut |attribute| attributes.push(attribute));
        attributes
    }

    /// Hands over the attributes of [`Self::to_attributes`] one by one.
    pub(crate) fn for_each_attribute(&self, each: &mut impl FnMut(ServiceAttribute)) {
        each(ServiceAttribute::Family(self.family().number()));
        match self {
            Self::Address { protocol, address, port } => {
                each(ServiceAttribute::Protocol(protocol.number()));
                each(ServiceAttribute::Address(address_bytes(address)));
                each(ServiceAttribute::Port(*port));
            }
            Self::Fwmark { mark, .. } => each(ServiceAttribute::Fwmark(*mark)),
        }
    }

    /// The identity that is among `attributes`. As in the kernel, a firewall mark decides where there is one.
    ///
    /// # Errors
    /// An identifying attribute is missing or has an unknown family.
    pub fn from_attributes(attributes: &[ServiceAttribute]) -> Result<Self, DecodeError> {
        let (mut family, mut protocol, mut address, mut port, mut fwmark) = (None, None, None, None, None);
        for attribute in attributes {
            match attribute {
                ServiceAttribute::Family(value) => family = Some(*value),
                ServiceAttribute::Protocol(value) => protocol = Some(*value),
                ServiceAttribute::Address(value) => address = Some(value),
                ServiceAttribute::Port(value) => port = Some(*value),
                ServiceAttribute::Fwmark(value) => fwmark = Some(*value),
                _ => {}
            }
        }
        let family = family.ok_or("a virtual server without an address family")?;
        let family = AddressFamily::from_number(family)
            .ok_or_else(|| DecodeError::from(format!("a virtual server of address family {family}")))?;
        if let Some(mark) = fwmark {
            return Ok(Self::Fwmark { mark, family });
        }
        let (Some(protocol), Some(address), Some(port)) = (protocol, address, port) else {
            return Err("a virtual server without a firewall mark and without protocol, address or port".into());
        };
        let protocol = Protocol::from_number(protocol);
        Ok(Self::Address { protocol, address: address_from(address, family), port })
    }
}

impl Service {
    /// The attributes of [`Command::AddService`](crate::Command::AddService); all flags are meant.
    #[must_use]
    pub fn to_attributes(&self) -> Vec<ServiceAttribute> {
        let mut attributes = Vec::with_capacity(9);
        self.for_each_attribute(&mut |attribute| attributes.push(attribute));
        attributes
    }

    /// Hands over the attributes of [`Self::to_attributes`] one by one.
    pub(crate) fn for_each_attribute(&self, each: &mut impl FnMut(ServiceAttribute)) {
        self.id.for_each_attribute(each);
        each(ServiceAttribute::Scheduler(self.scheduler.name().to_owned()));
        if let Some(name) = &self.pe_name {
            each(ServiceAttribute::PeName(name.clone()));
        }
        each(ServiceAttribute::Flags { flags: self.flags.bits(), mask: !0 });
        each(ServiceAttribute::Timeout(self.persistence_timeout));
        each(ServiceAttribute::Netmask(netmask_bytes(&self.netmask)));
    }

    /// The configuration that is among `attributes`.
    ///
    /// # Errors
    /// An attribute is missing that the kernel always sends and always wants, or a name is not one.
    pub fn from_attributes(attributes: &[ServiceAttribute]) -> Result<Self, DecodeError> {
        let id = ServiceId::from_attributes(attributes)?;
        let (mut scheduler, mut word, mut timeout, mut netmask, mut pe_name) = (None, None, None, None, None);
        for attribute in attributes {
            match attribute {
                ServiceAttribute::Scheduler(name) => scheduler = Some(name),
                ServiceAttribute::Flags { flags, mask } => word = Some(flags & mask),
                ServiceAttribute::Timeout(seconds) => timeout = Some(*seconds),
                ServiceAttribute::Netmask(bytes) => netmask = Some(*bytes),
                ServiceAttribute::PeName(name) => pe_name = Some(name.clone()),
                _ => {}
            }
        }
        let missing = |what: &str| DecodeError::from(format!("virtual server {id} without {what}"));
        let scheduler = scheduler.ok_or_else(|| missing("a scheduler"))?;
        let netmask = netmask.ok_or_else(|| missing("a netmask"))?;
        Ok(Self {
            id,
            scheduler: scheduler.parse().map_err(|error| DecodeError::from(format!("{error}")))?,
            flags: ServiceFlags::from_bits_retain(word.ok_or_else(|| missing("flags"))?) - ServiceFlags::HASHED,
            persistence_timeout: timeout.ok_or_else(|| missing("a timeout"))?,
            netmask: match id.family() {
                AddressFamily::Ipv4 => Netmask::Ipv4(netmask.into()),
                AddressFamily::Ipv6 => Netmask::Ipv6(u32::from_ne_bytes(netmask)),
            },
            pe_name: pe_name.filter(|name| !name.is_empty()),
        })
    }
}

impl ServiceEntry {
    /// What the kernel reports in `attributes`.
    ///
    /// # Errors
    /// As [`Service::from_attributes`].
    pub fn from_attributes(attributes: Vec<ServiceAttribute>) -> Result<Self, DecodeError> {
        let service = Service::from_attributes(&attributes)?;
        let mut kernel_flags = service.flags;
        let (mut stats, mut stats64, mut other) = (None, None, Vec::new());
        for attribute in attributes {
            match attribute {
                ServiceAttribute::Flags { flags, .. } => kernel_flags = ServiceFlags::from_bits_retain(flags),
                ServiceAttribute::Stats(counters) => stats = Some(Stats::from_attributes(&counters)),
                ServiceAttribute::Stats64(counters) => stats64 = Some(Stats::from_attributes(&counters)),
                ServiceAttribute::Other(attribute) => other.push(attribute),
                _ => {}
            }
        }
        Ok(Self { service, kernel_flags, stats: stats64.or(stats).unwrap_or_default(), other })
    }
}
