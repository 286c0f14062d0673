//! A packet as it meets the rules.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::{CtState, Protocol};

/// A packet, by default the first of its connection and sent by the node itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Transport protocol.
    pub protocol: Protocol,
    /// Source address.
    pub source: IpAddr,
    /// Source port; 0 where the protocol has none.
    pub source_port: u16,
    /// Destination address.
    pub destination: IpAddr,
    /// Destination port; 0 where the protocol has none.
    pub destination_port: u16,
    /// Type and code of an ICMP message.
    pub icmp: Option<(u8, u8)>,
    /// Where it came in; `None` for what the node itself sends.
    pub in_interface: Option<Arc<str>>,
    /// Where it goes out; the tracer fills it in from the routes it knows.
    pub out_interface: Option<Arc<str>>,
    /// The mark.
    pub mark: u32,
    /// The state of its connection. The nat table sees only `New` and `Related`.
    pub state: CtState,
    /// Goes back to who opened the connection.
    pub reply: bool,
}

impl Packet {
    /// The first packet of a connection that the node itself opens.
    #[must_use]
    pub const fn new(protocol: Protocol, source: SocketAddr, destination: SocketAddr) -> Self {
        Self {
            protocol,
            source: source.ip(),
            source_port: source.port(),
            destination: destination.ip(),
            destination_port: destination.port(),
            icmp: None,
            in_interface: None,
            out_interface: None,
            mark: 0,
            state: CtState::New,
            reply: false,
        }
    }

    /// It comes in from outside.
    #[must_use]
    pub fn arriving_at(mut self, interface: impl Into<Arc<str>>) -> Self {
        self.in_interface = Some(interface.into());
        self
    }

    /// It carries a mark.
    #[must_use]
    pub const fn marked(mut self, mark: u32) -> Self {
        self.mark = mark;
        self
    }

    /// Its connection is in this state.
    #[must_use]
    pub const fn in_state(mut self, state: CtState) -> Self {
        self.state = state;
        self
    }
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = SocketAddr::new(self.source, self.source_port);
        let destination = SocketAddr::new(self.destination, self.destination_port);
        write!(f, "{} {} {source} -> {destination}", self.protocol, self.state)?;
        match &self.in_interface {
            Some(interface) => write!(f, " arriving at {interface}")?,
            None => f.write_str(" from the node itself")?,
        }
        if self.mark == 0 { Ok(()) } else { write!(f, " mark 0x{:x}", self.mark) }
    }
}
