//! ipset messages: commands to bytes, headers and entries from bytes.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Entry, EntryWithMark, Mark, Protocol, SetCommand, SetHeader, SetSpec, SetType};
use crate::kernel::attribute::{Attribute, AttributeError, Attributes, Writer};
use crate::kernel::netfilter::{self, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, SUBSYSTEM_IPSET};

const CMD_PROTOCOL: u8 = 1;
const CMD_CREATE: u8 = 2;
const CMD_DESTROY: u8 = 3;
const CMD_FLUSH: u8 = 4;
const CMD_RENAME: u8 = 5;
const CMD_SWAP: u8 = 6;
const CMD_LIST: u8 = 7;
const CMD_ADD: u8 = 9;
const CMD_DEL: u8 = 10;

const ATTR_PROTOCOL: u16 = 1;
const ATTR_SETNAME: u16 = 2;
const ATTR_TYPENAME: u16 = 3;
const ATTR_SETNAME2: u16 = 3;
const ATTR_REVISION: u16 = 4;
const ATTR_FAMILY: u16 = 5;
const ATTR_FLAGS: u16 = 6;
const ATTR_DATA: u16 = 7;
const ATTR_ADT: u16 = 8;

const DATA_IP: u16 = 1;
const DATA_CIDR: u16 = 3;
const DATA_PORT: u16 = 4;
const DATA_PORT_TO: u16 = 5;
const DATA_TIMEOUT: u16 = 6;
const DATA_PROTO: u16 = 7;
const DATA_CADT_FLAGS: u16 = 8;
const CREATE_HASHSIZE: u16 = 18;
const CREATE_MAXELEM: u16 = 19;
const CREATE_ELEMENTS: u16 = 24;
const CREATE_REFERENCES: u16 = 25;
const CREATE_MEMSIZE: u16 = 26;
const ADT_IP2: u16 = 20;
const ADT_CIDR2: u16 = 21;
const ADT_SKBMARK: u16 = 27;
const IPADDR_IPV4: u16 = 1;
const IPADDR_IPV6: u16 = 2;

const FLAG_LIST_HEADER: u32 = 1 << 2;
const FLAG_WITH_COUNTERS: u32 = 1 << 3;
const FLAG_WITH_COMMENT: u32 = 1 << 4;
const FLAG_WITH_SKBINFO: u32 = 1 << 6;

/// The family in the frame, which ipset does not look at.
const FRAME_FAMILY: u8 = 2;

fn message(protocol: u8, command: u8, flags: u16, fill: impl FnOnce(&mut Writer<'_>)) -> Vec<u8> {
    netfilter::message(SUBSYSTEM_IPSET, command, flags, FRAME_FAMILY, |writer| {
        writer.u8(ATTR_PROTOCOL, protocol);
        fill(writer);
    })
}

/// Asks which protocols the kernel speaks.
pub fn ask_protocol(protocol: u8) -> Vec<u8> {
    message(protocol, CMD_PROTOCOL, 0, |_| {})
}

/// Asks for the headers of all sets, or of one.
pub fn list_headers(protocol: u8, name: Option<&str>) -> Vec<u8> {
    message(protocol, CMD_LIST, NLM_F_DUMP, |writer| {
        if let Some(name) = name {
            writer.text(ATTR_SETNAME, name);
        }
        writer.u32_net(ATTR_FLAGS, FLAG_LIST_HEADER);
    })
}

/// Asks for the header and the entries of a set.
pub fn list_entries(protocol: u8, name: &str) -> Vec<u8> {
    message(protocol, CMD_LIST, NLM_F_DUMP, |writer| writer.text(ATTR_SETNAME, name))
}

/// The message of a change.
pub fn encode(protocol: u8, command: &SetCommand) -> Vec<u8> {
    match command {
        SetCommand::Create(spec) => message(protocol, CMD_CREATE, NLM_F_CREATE | NLM_F_EXCL, |w| create(w, spec)),
        SetCommand::Destroy(set) => message(protocol, CMD_DESTROY, NLM_F_EXCL, |w| w.text(ATTR_SETNAME, set)),
        SetCommand::Flush(set) => message(protocol, CMD_FLUSH, 0, |w| w.text(ATTR_SETNAME, set)),
        SetCommand::Rename { from, to } => message(protocol, CMD_RENAME, 0, |w| two_names(w, from, to)),
        SetCommand::Swap(from, to) => message(protocol, CMD_SWAP, 0, |w| two_names(w, from, to)),
        SetCommand::Add { set, entry } => {
            message(protocol, CMD_ADD, NLM_F_EXCL, |w| data(w, set, &entry.entry, entry.mark))
        }
        // Without NLM_F_EXCL the kernel overwrites the extensions of what is there (flag_exist in ip_set_core.c).
        SetCommand::Put { set, entry } => message(protocol, CMD_ADD, 0, |w| data(w, set, &entry.entry, entry.mark)),
        SetCommand::Delete { set, entry } => message(protocol, CMD_DEL, NLM_F_EXCL, |w| data(w, set, entry, None)),
    }
}

fn two_names(writer: &mut Writer<'_>, from: &str, to: &str) {
    writer.text(ATTR_SETNAME, from);
    writer.text(ATTR_SETNAME2, to);
}

fn create(writer: &mut Writer<'_>, spec: &SetSpec) {
    let bitmap = spec.set_type == SetType::BitmapPort;
    writer.text(ATTR_SETNAME, &spec.name);
    writer.text(ATTR_TYPENAME, spec.set_type.name());
    writer.u8(ATTR_REVISION, spec.set_type.revision());
    writer.u8(ATTR_FAMILY, if bitmap { 0 } else { spec.family.number() });
    let extensions =
        [(spec.counters, FLAG_WITH_COUNTERS), (spec.comment, FLAG_WITH_COMMENT), (spec.skbinfo, FLAG_WITH_SKBINFO)];
    let flags = extensions.iter().filter(|(on, _)| *on).fold(0, |flags, (_, flag)| flags | flag);
    writer.nested(ATTR_DATA, |writer| {
        if bitmap {
            writer.u16_net(DATA_PORT, 0);
            writer.u16_net(DATA_PORT_TO, u16::MAX);
        }
        if flags != 0 {
            writer.u32_net(DATA_CADT_FLAGS, flags);
        }
        if let Some(seconds) = spec.timeout {
            writer.u32_net(DATA_TIMEOUT, seconds);
        }
        if !bitmap {
            writer.u32_net(CREATE_HASHSIZE, spec.hash_size);
            writer.u32_net(CREATE_MAXELEM, spec.max_elements);
        }
    });
}

fn data(writer: &mut Writer<'_>, set: &str, entry: &Entry, mark: Option<Mark>) {
    writer.text(ATTR_SETNAME, set);
    writer.nested(ATTR_DATA, |writer| {
        match entry {
            Entry::Ip(address) => ip(writer, DATA_IP, *address),
            Entry::IpPort { address, protocol, port } => ip_port(writer, *address, *protocol, *port),
            Entry::IpPortIp { address, protocol, port, second } => {
                ip_port(writer, *address, *protocol, *port);
                ip(writer, ADT_IP2, *second);
            }
            Entry::IpPortNet { address, protocol, port, net } => {
                ip_port(writer, *address, *protocol, *port);
                ip(writer, ADT_IP2, net.addr());
                writer.u8(ADT_CIDR2, net.prefix_len());
            }
            Entry::Net(net) => {
                ip(writer, DATA_IP, net.addr());
                writer.u8(DATA_CIDR, net.prefix_len());
            }
            Entry::NetPort { net, protocol, port } => {
                ip_port(writer, net.addr(), *protocol, *port);
                writer.u8(DATA_CIDR, net.prefix_len());
            }
            Entry::Port(port) => writer.u16_net(DATA_PORT, *port),
        }
        if let Some(mark) = mark {
            writer.u64_net(ADT_SKBMARK, u64::from(mark.value) << 32 | u64::from(mark.mask));
        }
    });
}

fn ip(writer: &mut Writer<'_>, kind: u16, address: IpAddr) {
    let inner = if address.is_ipv4() { IPADDR_IPV4 } else { IPADDR_IPV6 };
    writer.nested(kind, |writer| writer.address_net(inner, address));
}

fn ip_port(writer: &mut Writer<'_>, address: IpAddr, protocol: Protocol, port: u16) {
    ip(writer, DATA_IP, address);
    writer.u16_net(DATA_PORT, port);
    writer.u8(DATA_PROTO, protocol.0);
}

/// The newest protocol that the kernel's answer names.
pub fn decode_protocol(payload: &[u8]) -> Result<Option<u8>, AttributeError> {
    let Some((_, attributes)) = netfilter::payload(payload) else { return Ok(None) };
    let mut protocol = None;
    for attribute in Attributes::new(attributes) {
        let attribute = attribute?;
        if attribute.kind == ATTR_PROTOCOL {
            protocol = Some(attribute.u8()?);
        }
    }
    Ok(protocol)
}

/// The header in a list message; type, family and the rest are missing in all but the first message of a set.
pub fn decode_header(payload: &[u8]) -> Result<SetHeader, AttributeError> {
    let mut header = SetHeader::default();
    let (_, attributes) = netfilter::payload(payload).ok_or(AttributeError::Truncated(payload.len()))?;
    for attribute in Attributes::new(attributes) {
        let attribute = attribute?;
        match attribute.kind {
            ATTR_SETNAME => header.name = attribute.text(),
            ATTR_TYPENAME => header.type_name = attribute.text(),
            ATTR_REVISION => header.revision = attribute.u8()?,
            ATTR_FAMILY => header.family_number = attribute.u8()?,
            ATTR_DATA => decode_properties(&attribute, &mut header)?,
            _ => {}
        }
    }
    Ok(header)
}

fn decode_properties(data: &Attribute<'_>, header: &mut SetHeader) -> Result<(), AttributeError> {
    for attribute in data.nested() {
        let attribute = attribute?;
        match attribute.kind {
            CREATE_HASHSIZE => header.hash_size = Some(attribute.u32_be()?),
            CREATE_MAXELEM => header.max_elements = Some(attribute.u32_be()?),
            CREATE_ELEMENTS => header.elements = Some(attribute.u32_be()?),
            CREATE_REFERENCES => header.references = attribute.u32_be()?,
            CREATE_MEMSIZE => header.memory = attribute.u32_be()?,
            DATA_TIMEOUT => header.timeout = Some(attribute.u32_be()?),
            DATA_CADT_FLAGS => {
                let flags = attribute.u32_be()?;
                header.counters = flags & FLAG_WITH_COUNTERS != 0;
                header.comment = flags & FLAG_WITH_COMMENT != 0;
                header.skbinfo = flags & FLAG_WITH_SKBINFO != 0;
            }
            _ => {}
        }
    }
    Ok(())
}

/// Hands over the entries of a list message of a set of that type.
pub fn decode_entries(
    payload: &[u8],
    set_type: SetType,
    mut each: impl FnMut(EntryWithMark),
) -> Result<(), AttributeError> {
    let (_, attributes) = netfilter::payload(payload).ok_or(AttributeError::Truncated(payload.len()))?;
    for attribute in Attributes::new(attributes) {
        let attribute = attribute?;
        if attribute.kind == ATTR_ADT {
            for entry in attribute.nested() {
                each(decode_entry(&entry?, set_type)?);
            }
        }
    }
    Ok(())
}

/// What an entry's attributes hold, whatever the type.
#[derive(Default)]
struct Fields {
    ip: Option<IpAddr>,
    cidr: Option<u8>,
    port: Option<u16>,
    protocol: Option<Protocol>,
    ip2: Option<IpAddr>,
    cidr2: Option<u8>,
    mark: Option<Mark>,
}

fn decode_entry(data: &Attribute<'_>, set_type: SetType) -> Result<EntryWithMark, AttributeError> {
    let mut fields = Fields::default();
    for attribute in data.nested() {
        let attribute = attribute?;
        match attribute.kind {
            DATA_IP => fields.ip = decode_ip(&attribute)?,
            DATA_CIDR => fields.cidr = Some(attribute.u8()?),
            DATA_PORT => fields.port = Some(attribute.u16_be()?),
            DATA_PROTO => fields.protocol = Some(Protocol(attribute.u8()?)),
            ADT_IP2 => fields.ip2 = decode_ip(&attribute)?,
            ADT_CIDR2 => fields.cidr2 = Some(attribute.u8()?),
            ADT_SKBMARK => fields.mark = Some(decode_mark(attribute.u64_be()?)),
            _ => {}
        }
    }
    let mark = fields.mark;
    let incomplete = AttributeError::Size { kind: data.kind, length: data.value.len(), expected: "a whole entry" };
    fields.entry(set_type).map(|entry| EntryWithMark { entry, mark }).ok_or(incomplete)
}

impl Fields {
    fn entry(self, set_type: SetType) -> Option<Entry> {
        if set_type == SetType::BitmapPort {
            return self.port.map(Entry::Port);
        }
        let address = self.ip?;
        match set_type {
            SetType::HashIp => return Some(Entry::Ip(address)),
            SetType::HashNet => return IpNet::new(address, self.cidr?).ok().map(Entry::Net),
            _ => {}
        }
        let (protocol, port) = (self.protocol?, self.port?);
        match set_type {
            SetType::HashIpPortIp => Some(Entry::IpPortIp { address, protocol, port, second: self.ip2? }),
            SetType::HashIpPortNet => {
                let net = IpNet::new(self.ip2?, self.cidr2?).ok()?;
                Some(Entry::IpPortNet { address, protocol, port, net })
            }
            SetType::HashNetPort => Some(Entry::NetPort { net: IpNet::new(address, self.cidr?).ok()?, protocol, port }),
            _ => Some(Entry::IpPort { address, protocol, port }),
        }
    }
}

fn decode_ip(attribute: &Attribute<'_>) -> Result<Option<IpAddr>, AttributeError> {
    attribute.nested().next().transpose()?.map(|inner| inner.address()).transpose()
}

fn decode_mark(bits: u64) -> Mark {
    let [v0, v1, v2, v3, m0, m1, m2, m3] = bits.to_be_bytes();
    Mark { value: u32::from_be_bytes([v0, v1, v2, v3]), mask: u32::from_be_bytes([m0, m1, m2, m3]) }
}
