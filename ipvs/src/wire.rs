//! Commands to the bytes of their messages without lists of attributes in between: a table of fifty thousand real servers
//! is as many messages, and allocations would cost more than the kernel's part.

use netlink_packet_core::{Emitable, NetlinkBuffer, Nla, NlaBuffer};
use netlink_packet_generic::GenlFamily;

use crate::encode::serialise;
use crate::message::{IpvsCommand, IpvsMessage, destination_identity};
use crate::{Command, ServiceId};

/// `sizeof(struct nlmsghdr)`.
const HEADER_LENGTH: usize = 16;
/// `sizeof(struct nlattr)`.
const ATTRIBUTE_HEADER_LENGTH: usize = 4;
/// `IPVS_CMD_ATTR_SERVICE`.
const SERVICE: u16 = 1;
/// `IPVS_CMD_ATTR_DEST`.
const DESTINATION: u16 = 2;

/// About as many bytes as a command takes: a real server with the tunnel's attributes.
pub(crate) const USUAL_LENGTH: usize = 160;

impl Command {
    /// Appends the netlink message that carries this command, both headers included: what [`Self::to_message`] becomes on
    /// the wire, made without it. `family` is the number that the kernel gave the generic netlink family `IPVS`; sequence
    /// number and flags are 0, for whoever sends it ([`Socket::batch_messages`](crate::netlink::Socket::batch_messages)).
    ///
    /// ```
    /// # use ipvs::{Command, netlink::Messages};
    /// let mut messages = Messages::default();
    /// messages.write(|bytes| Command::Flush.append_to(bytes, 0x1f));
    /// assert_eq!(messages.get(0).map(<[u8]>::len), Some(20));
    /// ```
    pub fn append_to(&self, bytes: &mut Vec<u8>, family: u16) {
        let mut message = Writer { start: bytes.len(), bytes };
        match self {
            Self::AddService(service) | Self::SetService(service) => {
                message.header(self.kind(), family);
                message.nested(SERVICE, |message| service.for_each_attribute(&mut |one| message.put(&one)));
            }
            Self::DeleteService(id) => {
                message.header(self.kind(), family);
                message.service(id);
            }
            Self::AddDestination { service, destination } | Self::SetDestination { service, destination } => {
                message.header(self.kind(), family);
                message.destination(service, &destination.attributes());
            }
            Self::DeleteDestination { service, address, port } => {
                message.header(self.kind(), family);
                message.destination(service, &destination_identity(address, *port));
            }
            // Nobody sends many of these.
            Self::Zero(_) | Self::Flush | Self::SetTimeouts(_) | Self::StartDaemon(_) | Self::StopDaemon(_) => {
                return bytes.extend(serialise(self.to_message(), family, false));
            }
        }
        message.finish();
    }
}

/// One message at the end of a buffer.
struct Writer<'b> {
    start: usize,
    bytes: &'b mut Vec<u8>,
}

impl Writer<'_> {
    /// Both headers; the length follows in [`Self::finish`].
    fn header(&mut self, command: IpvsCommand, family: u16) {
        let mut header = [0; HEADER_LENGTH];
        NetlinkBuffer::new(&mut header[..]).set_message_type(family);
        self.bytes.extend(header);
        let message = IpvsMessage { command, attributes: Vec::new() };
        // `struct genlmsghdr`: command, version, and two bytes that are reserved.
        self.bytes.extend([message.command(), message.version(), 0, 0]);
    }

    fn put(&mut self, attribute: &impl Nla) {
        let start = self.bytes.len();
        self.bytes.resize(start.saturating_add(attribute.buffer_len()), 0);
        if let Some(place) = self.bytes.get_mut(start..) {
            attribute.emit(place);
        }
    }

    /// An attribute whose value is attributes.
    fn nested(&mut self, kind: u16, value: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.bytes.extend([0; ATTRIBUTE_HEADER_LENGTH]);
        value(self);
        if let Some(attribute) = self.bytes.get_mut(start..) {
            // Far below 64 KiB: numbers, addresses, and names of at most 15 bytes.
            let length = u16::try_from(attribute.len()).unwrap_or(u16::MAX);
            let mut header = NlaBuffer::new(attribute);
            header.set_kind(kind);
            header.set_nested_flag();
            header.set_length(length);
        }
    }

    fn service(&mut self, id: &ServiceId) {
        self.nested(SERVICE, |message| id.for_each_attribute(&mut |attribute| message.put(&attribute)));
    }

    fn destination(&mut self, service: &ServiceId, attributes: &[impl Nla]) {
        self.service(service);
        self.nested(DESTINATION, |message| attributes.iter().for_each(|attribute| message.put(attribute)));
    }

    fn finish(self) {
        if let Some(message) = self.bytes.get_mut(self.start..) {
            let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
            NetlinkBuffer::new(message).set_length(length);
        }
    }
}
