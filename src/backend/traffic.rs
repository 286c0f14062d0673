//! What the kernel counts of the traffic, for who asks: not on the reconciler's path. A reader has sockets of its own.

use super::ObserveError;
use crate::desired::{Desired, ServicePortKey};
use crate::model::{IpFamily, PerFamily, Protocol};
use std::fmt::Debug;
use std::net::SocketAddr;

/// Traffic since the kernel began to count it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Connections.
    pub connections: u64,
    /// Packets from clients.
    pub incoming_packets: u64,
    /// Packets from endpoints.
    pub outgoing_packets: u64,
    /// Bytes from clients.
    pub incoming_bytes: u64,
    /// Bytes from endpoints.
    pub outgoing_bytes: u64,
}

/// Where the kernel counts: an address that clients use, or an endpoint behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The transport protocol.
    pub protocol: Protocol,
    /// The address and port that clients use.
    pub frontend: SocketAddr,
    /// The endpoint; none: all of them, also those that are gone.
    pub endpoint: Option<SocketAddr>,
}

/// What was counted at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample<'a> {
    /// Where.
    pub place: Place,
    /// Whose place it is; none: nobody's that is known.
    pub port: Option<&'a ServicePortKey>,
    /// What.
    pub counters: Counters,
}

/// Reads what the kernel counts. Blocking.
pub trait TrafficSource: Send + Debug {
    /// Hands over everything that is counted, one by one as it is read, each with the name of the service port that it is for;
    /// of endpoints only if asked.
    ///
    /// # Errors
    /// When the kernel does not tell; it may have told of some.
    fn read(
        &mut self,
        desired: &PerFamily<Desired>,
        endpoints: bool,
        each: &mut dyn FnMut(Sample<'_>),
    ) -> Result<(), ObserveError>;
}

/// What rules of ours have counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RulePackets {
    /// Packets that were dropped because connection tracking found them invalid.
    pub invalid_dropped: u64,
    /// Connections to node ports on localhost; none where there are no such.
    pub localhost_accepted: Option<u64>,
}

/// Reads what rules of ours have counted. Blocking.
pub trait PacketSource: Send + Debug {
    /// In one family.
    ///
    /// # Errors
    /// When the rules could not be read.
    fn read(&mut self, family: IpFamily) -> Result<RulePackets, ObserveError>;
}
