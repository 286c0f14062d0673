//! Traffic counters and rates of a virtual server or destination.

/// Counters since the start or the last [`Command::Zero`](crate::Command::Zero), and rates as the kernel estimates
/// them every two seconds (all 0 where `net.ipv4.vs.run_estimation` is off).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Stats {
    /// Connections scheduled.
    pub connections: u64,
    /// Packets from clients.
    pub incoming_packets: u64,
    /// Packets from destinations; only masquerading sees them.
    pub outgoing_packets: u64,
    /// Bytes from clients.
    pub incoming_bytes: u64,
    /// Bytes from destinations; only masquerading sees them.
    pub outgoing_bytes: u64,
    /// Connections per second.
    pub cps: u64,
    /// Packets from clients per second.
    pub inpps: u64,
    /// Packets from destinations per second.
    pub outpps: u64,
    /// Bytes from clients per second.
    pub inbps: u64,
    /// Bytes from destinations per second.
    pub outbps: u64,
}
