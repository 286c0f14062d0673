//! Virtual servers: what is configured ([`Service`]) and what the kernel reports ([`ServiceEntry`]).

use std::fmt;
use std::net::Ipv4Addr;

use netlink_packet_core::DefaultNla;

use crate::{AddressFamily, Scheduler, ServiceId, Stats};

bitflags::bitflags! {
    /// Flags of a virtual server (`IP_VS_SVC_F_*`). Unknown bits are kept.
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
    pub struct ServiceFlags: u32 {
        /// Connections of one client go to one destination for [`Service::persistence_timeout`].
        const PERSISTENT = 0x1;
        /// The kernel's own mark on a service in its table; setting it has no effect. Only in
        /// [`ServiceEntry::kernel_flags`].
        const HASHED = 0x2;
        /// One-packet scheduling: every UDP packet is scheduled on its own.
        const ONE_PACKET = 0x4;
        /// First flag of the scheduler.
        const SCHED_1 = 0x8;
        /// Second flag of the scheduler.
        const SCHED_2 = 0x10;
        /// Third flag of the scheduler.
        const SCHED_3 = 0x20;
        /// `sh`: take another destination when the hashed one is unavailable.
        const SH_FALLBACK = Self::SCHED_1.bits();
        /// `sh`: hash the source port, too.
        const SH_PORT = Self::SCHED_2.bits();
        /// `mh`: take another destination when the hashed one is unavailable.
        const MH_FALLBACK = Self::SCHED_1.bits();
        /// `mh`: hash the source port, too.
        const MH_PORT = Self::SCHED_2.bits();
        const _ = !0;
    }
}

/// Which clients count as one for persistence: those that are equal under this mask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Netmask {
    /// Mask of an IPv4 service, usually 255.255.255.255.
    Ipv4(Ipv4Addr),
    /// Prefix length of an IPv6 service, 1 to 128; the kernel refuses other values.
    Ipv6(u32),
}

impl Netmask {
    /// Every client address by itself: 255.255.255.255 or 128.
    #[must_use]
    pub const fn host(family: AddressFamily) -> Self {
        match family {
            AddressFamily::Ipv4 => Self::Ipv4(Ipv4Addr::BROADCAST),
            AddressFamily::Ipv6 => Self::Ipv6(128),
        }
    }

    /// The family whose services can have it.
    #[must_use]
    pub const fn family(&self) -> AddressFamily {
        match self {
            Self::Ipv4(_) => AddressFamily::Ipv4,
            Self::Ipv6(_) => AddressFamily::Ipv6,
        }
    }
}

/// `255.255.255.0` or `64`.
impl fmt::Display for Netmask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ipv4(mask) => fmt::Display::fmt(mask, f),
            Self::Ipv6(length) => fmt::Display::fmt(length, f),
        }
    }
}

/// The configuration of a virtual server, without its destinations. What is written is what is read back.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Service {
    /// Its identity.
    pub id: ServiceId,
    /// Its scheduler.
    pub scheduler: Scheduler,
    /// Its flags, without [`ServiceFlags::HASHED`].
    pub flags: ServiceFlags,
    /// Persistence timeout in seconds. Means nothing, and should be 0, without [`ServiceFlags::PERSISTENT`].
    pub persistence_timeout: u32,
    /// Persistence netmask, of the family of `id`.
    pub netmask: Netmask,
    /// Persistence engine, for example `sip`; at most 15 bytes.
    pub pe_name: Option<String>,
}

impl Service {
    /// A virtual server without flags and persistence.
    #[must_use]
    pub fn new(id: ServiceId, scheduler: Scheduler) -> Self {
        Self {
            id,
            scheduler,
            flags: ServiceFlags::empty(),
            persistence_timeout: 0,
            netmask: Netmask::host(id.family()),
            pe_name: None,
        }
    }

    /// The same with persistence for `seconds` after a client's last connection ended.
    #[must_use]
    pub fn with_persistence(mut self, seconds: u32) -> Self {
        self.flags |= ServiceFlags::PERSISTENT;
        self.persistence_timeout = seconds;
        self
    }

    /// The same with `flags` added.
    #[must_use]
    pub fn with_flags(mut self, flags: ServiceFlags) -> Self {
        self.flags |= flags;
        self
    }
}

/// `TCP 10.0.0.1:80 rr persistent 10800 mask 255.255.0.0 ops pe sip flags 0x18`, what is not the default.
impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.id, self.scheduler)?;
        if self.flags.contains(ServiceFlags::PERSISTENT) {
            write!(f, " persistent {}", self.persistence_timeout)?;
        }
        if self.netmask != Netmask::host(self.id.family()) {
            write!(f, " mask {}", self.netmask)?;
        }
        if self.flags.contains(ServiceFlags::ONE_PACKET) {
            write!(f, " ops")?;
        }
        if let Some(name) = &self.pe_name {
            write!(f, " pe {name}")?;
        }
        let others = self.flags - ServiceFlags::PERSISTENT - ServiceFlags::ONE_PACKET;
        if !others.is_empty() {
            write!(f, " flags {:#x}", others.bits())?;
        }
        Ok(())
    }
}

/// A virtual server as the kernel reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceEntry {
    /// Its configuration.
    pub service: Service,
    /// Its flags word as reported, the kernel's own [`ServiceFlags::HASHED`] among them.
    pub kernel_flags: ServiceFlags,
    /// Its traffic.
    pub stats: Stats,
    /// Attributes that this crate does not know, as the kernel sent them.
    pub other: Vec<DefaultNla>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Protocol;

    #[test]
    fn display_shows_what_is_not_the_default() {
        let id = ServiceId::new(Protocol::Tcp, "10.0.0.1".parse().unwrap(), 80);
        let plain = Service::new(id, Scheduler::Rr);
        assert_eq!(plain.to_string(), "TCP 10.0.0.1:80 rr");
        let mut all = plain.with_persistence(10800).with_flags(ServiceFlags::ONE_PACKET | ServiceFlags::SH_PORT);
        all.netmask = Netmask::Ipv4(Ipv4Addr::new(255, 255, 0, 0));
        all.pe_name = Some("sip".to_owned());
        assert_eq!(all.to_string(), "TCP 10.0.0.1:80 rr persistent 10800 mask 255.255.0.0 ops pe sip flags 0x10");
    }
}
