//! Flows and filters: to and from ctnetlink messages (`nfnetlink_conntrack.h`).

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use crate::kernel::IpFamily;
use crate::kernel::attribute::{Attribute, AttributeError, Attributes, Writer};
use crate::kernel::netfilter::{self, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, SUBSYSTEM_CONNTRACK};

const CT_NEW: u8 = 0;
const CT_GET: u8 = 1;
const CT_DELETE: u8 = 2;

const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_STATUS: u16 = 3;
const CTA_NAT_SRC: u16 = 6;
const CTA_TIMEOUT: u16 = 7;
const CTA_MARK: u16 = 8;
const CTA_ID: u16 = 12;
const CTA_NAT_DST: u16 = 13;
const CTA_ZONE: u16 = 18;
const CTA_FILTER: u16 = 25;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
const CTA_NAT_PROTO: u16 = 3;
const CTA_PROTONAT_PORT_MIN: u16 = 1;
const CTA_PROTONAT_PORT_MAX: u16 = 2;

// `CTA_FILTER_F_…` of nf_conntrack_netlink.c (kernel 5.8).
const FILTER_IP_DST: u32 = 1 << 1;
const FILTER_PROTO_NUM: u32 = 1 << 3;
const FILTER_PROTO_DST_PORT: u32 = 1 << 5;

// `enum ip_conntrack_status` of nf_conntrack_common.h.
const STATUS_SEEN_REPLY: u32 = 1 << 1;
const STATUS_ASSURED: u32 = 1 << 2;
const STATUS_CONFIRMED: u32 = 1 << 3;
const STATUS_DST_NAT: u32 = 1 << 5;

/// One direction of a flow. Protocols without ports have 0 there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// From where.
    pub source: SocketAddr,
    /// To where.
    pub destination: SocketAddr,
    /// The transport protocol's number.
    pub protocol: u8,
}

/// A tracked connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Flow {
    /// As the first packet came: the destination is the service's.
    pub original: Tuple,
    /// As answers come: the source is the endpoint, where the destination was translated.
    pub reply: Tuple,
    /// The destination is translated by a rule. IPVS, which translates by itself, leaves no such trace.
    pub translated: bool,
    /// The connection mark.
    pub mark: u32,
    /// The kernel's number for the entry, so that never another one with the same tuple is deleted.
    pub id: Option<u32>,
    /// The conntrack zone.
    pub zone: u16,
    /// Seconds until it is forgotten, if nothing comes.
    pub timeout: u32,
}

impl Flow {
    /// The IP family.
    pub fn family(&self) -> IpFamily {
        IpFamily::of(self.original.destination.ip())
    }
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { original, reply, .. } = self;
        write!(
            f,
            "protocol {} {} -> {} (answers {} -> {})",
            original.protocol, original.source, original.destination, reply.source, reply.destination
        )
    }
}

/// Which flows; `None` means any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Filter {
    /// The IP family.
    pub family: IpFamily,
    /// The transport protocol's number.
    pub protocol: Option<u8>,
    /// The destination address before translation.
    pub destination: Option<IpAddr>,
    /// The destination port before translation.
    pub destination_port: Option<u16>,
    /// The address that answers: the endpoint.
    pub reply_source: Option<IpAddr>,
}

impl Filter {
    /// All flows of a family.
    #[must_use]
    pub fn family(family: IpFamily) -> Self {
        Self { family, protocol: None, destination: None, destination_port: None, reply_source: None }
    }

    /// Whether the flow is one of those.
    #[must_use]
    pub fn matches(&self, flow: &Flow) -> bool {
        let Flow { original, reply, .. } = flow;
        IpFamily::of(original.destination.ip()) == self.family
            && self.protocol.is_none_or(|protocol| protocol == original.protocol)
            && self.destination.is_none_or(|address| address == original.destination.ip())
            && self.destination_port.is_none_or(|port| port == original.destination.port())
            && self.reply_source.is_none_or(|address| address == reply.source.ip())
    }

    /// What the kernel can be trusted to filter by (from 5.8; older ones answer with the family's whole table), which
    /// is less than the filter: the comparison of IPv6 addresses in `ctnetlink_filter_match_tuple` is inverted (asked
    /// for one of three flows, 6.1 and 6.18 answer with the other two), and ports count only beside a protocol that
    /// has some.
    fn kernel_flags(&self) -> u32 {
        let v4 = self.family == IpFamily::V4;
        let address = if v4 && self.destination.is_some() { FILTER_IP_DST } else { 0 };
        let protocol = if self.protocol.is_some() { FILTER_PROTO_NUM } else { 0 };
        let ports = matches!(self.protocol, Some(6 | 17 | 132)) && self.destination_port.is_some();
        address | protocol | if ports { FILTER_PROTO_DST_PORT } else { 0 }
    }
}

/// Asks for the flows of a filter; the answer may hold more.
pub fn dump(filter: &Filter) -> Vec<u8> {
    netfilter::message(SUBSYSTEM_CONNTRACK, CT_GET, NLM_F_DUMP, filter.family.number(), |writer| {
        let flags = filter.kernel_flags();
        if flags == 0 {
            return;
        }
        writer.nested(CTA_TUPLE_ORIG, |writer| {
            if flags & FILTER_IP_DST != 0
                && let Some(address) = filter.destination
            {
                writer.nested(CTA_TUPLE_IP, |writer| writer.address(CTA_IP_V4_DST, address));
            }
            if let Some(protocol) = filter.protocol {
                writer.nested(CTA_TUPLE_PROTO, |writer| {
                    writer.u8(CTA_PROTO_NUM, protocol);
                    if flags & FILTER_PROTO_DST_PORT != 0
                        && let Some(port) = filter.destination_port
                    {
                        writer.u16_be(CTA_PROTO_DST_PORT, port);
                    }
                });
            }
        });
        writer.nested(CTA_FILTER, |writer| writer.u32_host(CTA_FILTER_ORIG_FLAGS, flags));
    })
}

/// Asks for the flow whose first packet was this.
pub fn find(original: &Tuple) -> Vec<u8> {
    let family = IpFamily::of(original.destination.ip()).number();
    netfilter::message(SUBSYSTEM_CONNTRACK, CT_GET, 0, family, |writer| {
        write_tuple(writer, CTA_TUPLE_ORIG, original);
    })
}

/// Deletes one flow. The tuple is always there: a delete message without one empties the table.
pub fn delete(flow: &Flow) -> Vec<u8> {
    netfilter::message(SUBSYSTEM_CONNTRACK, CT_DELETE, 0, flow.family().number(), |writer| {
        write_tuple(writer, CTA_TUPLE_ORIG, &flow.original);
        if flow.zone != 0 {
            writer.u16_be(CTA_ZONE, flow.zone);
        }
        if let Some(id) = flow.id {
            writer.u32_be(CTA_ID, id);
        }
    })
}

/// Enters one flow as if a rule had translated its first packet: to whoever answers it, and from whichever address the
/// answers go to. The kernel takes translations for new entries only (`ctnetlink_change_conntrack`), and reads the
/// untranslated reply to know what there is to translate (`nf_nat_setup_info`).
pub fn create_translated(flow: &Flow) -> Vec<u8> {
    let Tuple { source, destination, protocol } = flow.original;
    netfilter::message(SUBSYSTEM_CONNTRACK, CT_NEW, NLM_F_CREATE | NLM_F_EXCL, flow.family().number(), |writer| {
        write_tuple(writer, CTA_TUPLE_ORIG, &flow.original);
        write_tuple(writer, CTA_TUPLE_REPLY, &Tuple { source: destination, destination: source, protocol });
        writer.u32_be(CTA_TIMEOUT, flow.timeout.max(1));
        writer.u32_be(CTA_STATUS, STATUS_SEEN_REPLY | STATUS_ASSURED | STATUS_CONFIRMED);
        write_translation(writer, CTA_NAT_DST, flow.reply.source);
        if flow.reply.destination != source {
            write_translation(writer, CTA_NAT_SRC, flow.reply.destination);
        }
        if flow.mark != 0 {
            writer.u32_be(CTA_MARK, flow.mark);
        }
        if flow.zone != 0 {
            writer.u16_be(CTA_ZONE, flow.zone);
        }
    })
}

fn write_tuple(writer: &mut Writer<'_>, kind: u16, tuple: &Tuple) {
    let (src, dst) = match IpFamily::of(tuple.destination.ip()) {
        IpFamily::V4 => (CTA_IP_V4_SRC, CTA_IP_V4_DST),
        IpFamily::V6 => (CTA_IP_V6_SRC, CTA_IP_V6_DST),
    };
    writer.nested(kind, |writer| {
        writer.nested(CTA_TUPLE_IP, |writer| {
            writer.address(src, tuple.source.ip());
            writer.address(dst, tuple.destination.ip());
        });
        writer.nested(CTA_TUPLE_PROTO, |writer| {
            writer.u8(CTA_PROTO_NUM, tuple.protocol);
            writer.u16_be(CTA_PROTO_SRC_PORT, tuple.source.port());
            writer.u16_be(CTA_PROTO_DST_PORT, tuple.destination.port());
        });
    });
}

/// `CTA_NAT_SRC` or `CTA_NAT_DST`: to exactly this address and port.
fn write_translation(writer: &mut Writer<'_>, kind: u16, to: SocketAddr) {
    // CTA_NAT_V4_MINIP, CTA_NAT_V4_MAXIP; CTA_NAT_V6_MINIP, CTA_NAT_V6_MAXIP.
    let (min, max) = if to.is_ipv4() { (1, 2) } else { (4, 5) };
    writer.nested(kind, |writer| {
        writer.address(min, to.ip());
        writer.address(max, to.ip());
        writer.nested(CTA_NAT_PROTO, |writer| {
            writer.u16_be(CTA_PROTONAT_PORT_MIN, to.port());
            writer.u16_be(CTA_PROTONAT_PORT_MAX, to.port());
        });
    });
}

/// The flow in a message, `None` when a direction lacks an address.
pub fn decode(payload: &[u8]) -> Result<Option<Flow>, AttributeError> {
    let (_, attributes) = netfilter::payload(payload).ok_or(AttributeError::Truncated(payload.len()))?;
    let (mut original, mut reply, mut translated, mut mark, mut id, mut zone) = (None, None, false, 0, None, 0);
    let mut timeout = 0;
    for attribute in Attributes::new(attributes) {
        let attribute = attribute?;
        match attribute.kind {
            CTA_TUPLE_ORIG => original = decode_tuple(&attribute)?,
            CTA_TUPLE_REPLY => reply = decode_tuple(&attribute)?,
            CTA_STATUS => translated = attribute.u32_be()? & STATUS_DST_NAT != 0,
            CTA_MARK => mark = attribute.u32_be()?,
            CTA_ID => id = Some(attribute.u32_be()?),
            CTA_ZONE => zone = attribute.u16_be()?,
            CTA_TIMEOUT => timeout = attribute.u32_be()?,
            _ => {}
        }
    }
    let flow = |(original, reply)| Flow { original, reply, translated, mark, id, zone, timeout };
    Ok(original.zip(reply).map(flow))
}

fn decode_tuple(tuple: &Attribute<'_>) -> Result<Option<Tuple>, AttributeError> {
    let (mut source, mut destination) = (None, None);
    let (mut protocol, mut source_port, mut destination_port) = (0, 0, 0);
    for attribute in tuple.nested() {
        let attribute = attribute?;
        for inner in attribute.nested() {
            let inner = inner?;
            match (attribute.kind, inner.kind) {
                (CTA_TUPLE_IP, CTA_IP_V4_SRC | CTA_IP_V6_SRC) => source = Some(inner.address()?),
                (CTA_TUPLE_IP, CTA_IP_V4_DST | CTA_IP_V6_DST) => destination = Some(inner.address()?),
                (CTA_TUPLE_PROTO, CTA_PROTO_NUM) => protocol = inner.u8()?,
                (CTA_TUPLE_PROTO, CTA_PROTO_SRC_PORT) => source_port = inner.u16_be()?,
                (CTA_TUPLE_PROTO, CTA_PROTO_DST_PORT) => destination_port = inner.u16_be()?,
                _ => {}
            }
        }
    }
    Ok(source.zip(destination).map(|(source, destination)| Tuple {
        source: SocketAddr::new(source, source_port),
        destination: SocketAddr::new(destination, destination_port),
        protocol,
    }))
}
