//! A blocking rtnetlink socket: one request, one acknowledgement.
//!
//! The lab configures a few dozen links once; clarity counts here, not throughput.

use std::io;

use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::LinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// A socket of the namespace that the opening thread was in.
#[derive(Debug)]
pub(super) struct RouteSocket {
    socket: Socket,
    sequence: u32,
}

impl RouteSocket {
    /// Opens a socket in the calling thread's namespace.
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Sends `message` with `flags` beside NLM_F_REQUEST and waits for the kernel's verdict.
    pub(super) fn request(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.send(message, NLM_F_ACK | flags)?;
        loop {
            if let NetlinkPayload::Error(verdict) = self.reply()? {
                return if verdict.code.is_some() { Err(verdict.to_io()) } else { Ok(()) };
            }
        }
    }

    /// Reads one link.
    pub(super) fn link(&mut self, index: u32) -> io::Result<LinkMessage> {
        let mut question = LinkMessage::default();
        question.header.index = index;
        self.send(RouteNetlinkMessage::GetLink(question), 0)?;
        match self.reply()? {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => Ok(link),
            NetlinkPayload::Error(verdict) => Err(verdict.to_io()),
            other => Err(io::Error::other(format!("unexpected answer to RTM_GETLINK: {other:?}"))),
        }
    }

    fn send(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.sequence += 1;
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(message));
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        Ok(())
    }

    /// The next message that answers the last request.
    fn reply(&self) -> io::Result<NetlinkPayload<RouteNetlinkMessage>> {
        loop {
            let (bytes, _) = self.socket.recv_from_full()?;
            let reply = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&bytes).map_err(io::Error::other)?;
            if reply.header.sequence_number == self.sequence {
                return Ok(reply.payload);
            }
        }
    }
}
