//! What is not a virtual server: timeouts, information about the module, synchronisation daemons.

use std::fmt;
use std::net::IpAddr;

/// How long idle connections live, in seconds. In [`Command::SetTimeouts`](crate::Command::SetTimeouts) 0 means
/// "leave as it is".
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Timeouts {
    /// Established TCP connections (kernel default 900).
    pub tcp: u32,
    /// TCP connections after a FIN (120).
    pub tcp_fin: u32,
    /// UDP (300).
    pub udp: u32,
}

impl fmt::Display for Timeouts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tcp {} tcpfin {} udp {}", self.tcp, self.tcp_fin, self.udp)
    }
}

/// The kernel's IPVS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Info {
    /// Version of IPVS, 1.2.1 for the last twenty years.
    pub version: (u8, u8, u8),
    /// Buckets of the connection table.
    pub connection_table_size: u32,
}

impl Info {
    /// From `IP_VS_VERSION_CODE`.
    pub(crate) const fn new(version_code: u32, connection_table_size: u32) -> Self {
        let [_, major, minor, patch] = version_code.to_be_bytes();
        Self { version: (major, minor, patch), connection_table_size }
    }
}

/// `IP Virtual Server version 1.2.1 (size=4096)`: the first line of `ipvsadm -Ln` and `/proc/net/ip_vs`.
impl fmt::Display for Info {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor, patch) = self.version;
        write!(f, "IP Virtual Server version {major}.{minor}.{patch} (size={})", self.connection_table_size)
    }
}

/// Which half of the synchronisation a daemon does. Both can run at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DaemonState {
    /// Sends connections to the backups.
    Master,
    /// Receives connections.
    Backup,
    /// Another number, which the kernel refuses.
    Other(u32),
}

impl DaemonState {
    /// `IP_VS_STATE_*`
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::Master => 1,
            Self::Backup => 2,
            Self::Other(number) => number,
        }
    }

    /// The state with this number.
    #[must_use]
    pub const fn from_number(number: u32) -> Self {
        match number {
            1 => Self::Master,
            2 => Self::Backup,
            other => Self::Other(other),
        }
    }
}

impl fmt::Display for DaemonState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Master => f.pad("master"),
            Self::Backup => f.pad("backup"),
            Self::Other(number) => f.pad(&format!("state {number}")),
        }
    }
}

/// A synchronisation daemon of the kernel, which tells other directors about connections by multicast.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Daemon {
    /// Master or backup.
    pub state: DaemonState,
    /// Interface of the multicast; at most 15 bytes.
    pub interface: String,
    /// Only daemons with the same number talk; 0 to 255, in a backup 0 means every number.
    pub sync_id: u32,
    /// Largest payload of a packet (kernel 4.3); unset: from the interface's MTU.
    pub max_length: Option<u16>,
    /// Multicast group (kernel 4.3); unset: 224.0.0.81.
    pub group: Option<IpAddr>,
    /// UDP port (kernel 4.3); unset: 8848.
    pub port: Option<u16>,
    /// Time to live (kernel 4.3); unset: 1.
    pub ttl: Option<u8>,
}

impl Daemon {
    /// A daemon with the kernel's defaults.
    #[must_use]
    pub fn new(state: DaemonState, interface: impl Into<String>, sync_id: u32) -> Self {
        Self { state, interface: interface.into(), sync_id, max_length: None, group: None, port: None, ttl: None }
    }
}

/// `master eth0 syncid 7`, followed by what is set.
impl fmt::Display for Daemon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} syncid {}", self.state, self.interface, self.sync_id)?;
        if let Some(length) = self.max_length {
            write!(f, " maxlen {length}")?;
        }
        if let Some(group) = self.group {
            write!(f, " group {group}")?;
        }
        if let Some(port) = self.port {
            write!(f, " port {port}")?;
        }
        if let Some(ttl) = self.ttl {
            write!(f, " ttl {ttl}")?;
        }
        Ok(())
    }
}
