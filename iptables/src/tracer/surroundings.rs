//! What decides about a packet beside the rules: routing, IPVS, a cable that leads back into the node.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::{Packet, Tracer};

/// Where routing sends a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// To the node itself.
    Local,
    /// Out by this interface.
    Via(Arc<str>),
    /// Nowhere, for this reason.
    Nowhere(Arc<str>),
}

/// What IPVS does with a packet.
#[derive(Debug, Clone, PartialEq)]
pub struct Balancing {
    /// The virtual server, for people.
    pub server: String,
    /// Its destinations and their shares of new connections; none that gets any: the packet is refused.
    pub destinations: Vec<(SocketAddr, f64)>,
}

type Locals<'a> = dyn Fn(IpAddr) -> bool + 'a;
type Routing<'a> = dyn Fn(&Packet) -> Route + 'a;
type Balancer<'a> = dyn Fn(&Packet) -> Option<Balancing> + 'a;

/// All of it. Without an answer of its own the tracer takes the addresses and routes that it was given.
#[derive(Default)]
pub(super) struct Surroundings<'a> {
    pub(super) local: Option<Box<Locals<'a>>>,
    pub(super) routing: Option<Box<Routing<'a>>>,
    pub(super) balancer: Option<Box<Balancer<'a>>>,
    /// What leaves by the first comes in by the second.
    pub(super) cable: Option<(Arc<str>, Arc<str>)>,
}

impl<'a> Tracer<'a> {
    /// Answers whether an address is one of the node's: `addrtype LOCAL`.
    #[must_use]
    pub fn locals(mut self, is_local: impl Fn(IpAddr) -> bool + 'a) -> Self {
        self.surroundings.local = Some(Box::new(is_local));
        self
    }

    /// Answers where a packet goes, in place of [`Tracer::local`] and [`Tracer::route`].
    #[must_use]
    pub fn routing(mut self, routing: impl Fn(&Packet) -> Route + 'a) -> Self {
        self.surroundings.routing = Some(Box::new(routing));
        self
    }

    /// Answers for IPVS: asked at its places in LOCAL_IN and LOCAL_OUT; `None` where no virtual server stands.
    #[must_use]
    pub fn balancer(mut self, balancer: impl Fn(&Packet) -> Option<Balancing> + 'a) -> Self {
        self.surroundings.balancer = Some(Box::new(balancer));
        self
    }

    /// What leaves by the interface `out` comes back in by `back`, as the first packet of a new connection.
    #[must_use]
    pub fn cable(mut self, out: impl Into<Arc<str>>, back: impl Into<Arc<str>>) -> Self {
        self.surroundings.cable = Some((out.into(), back.into()));
        self
    }
}

impl fmt::Display for Balancing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IPVS: virtual server {}", self.server)?;
        match self.destinations.len() {
            0 => f.write_str(", nobody gets new connections: refused"),
            1 => f.write_str(", 1 destination gets new connections"),
            many => write!(f, ", {many} destinations get new connections"),
        }
    }
}
