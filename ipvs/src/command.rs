//! One change of the kernel's IPVS state as a value: what is sent, printed, batched and quoted in errors.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use crate::{Daemon, DaemonState, Destination, Service, ServiceId, Timeouts};

/// A change. It prints like the `ipvsadm` command: `add service TCP 10.0.0.1:80 rr`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Command {
    /// Adds a virtual server. `EEXIST` when it is there, `ENOENT` without its scheduler or persistence engine.
    AddService(Service),
    /// Changes a virtual server's scheduler, flags, persistence; its destinations and connections stay. `ESRCH` when
    /// it is not there.
    SetService(Service),
    /// Deletes a virtual server and its destinations. `ESRCH` when it is not there.
    DeleteService(ServiceId),
    /// Adds a destination. `ESRCH` without the virtual server, `EEXIST` when the destination is there.
    AddDestination {
        /// The virtual server.
        service: ServiceId,
        /// The new destination.
        destination: Destination,
    },
    /// Changes a destination in place, all of its configuration; its connections stay. `ESRCH` without the virtual
    /// server, `ENOENT` when the destination is not there.
    SetDestination {
        /// The virtual server.
        service: ServiceId,
        /// The destination as it shall be.
        destination: Destination,
    },
    /// Deletes a destination. The kernel drops the packets of its connections, so drain it first (weight 0). `ESRCH`
    /// without the virtual server, `ENOENT` when the destination is not there.
    DeleteDestination {
        /// The virtual server.
        service: ServiceId,
        /// The destination's address.
        address: IpAddr,
        /// The destination's port.
        port: u16,
    },
    /// Sets the counters of one virtual server or of everything to 0.
    Zero(Option<ServiceId>),
    /// Deletes every virtual server in the network namespace, whoever made it.
    Flush,
    /// Sets the timeouts that are not 0.
    SetTimeouts(Timeouts),
    /// Starts a synchronisation daemon.
    StartDaemon(Daemon),
    /// Stops a synchronisation daemon.
    StopDaemon(DaemonState),
}

impl Command {
    /// The virtual server that the command is about, if it is about one.
    #[must_use]
    pub const fn service(&self) -> Option<&ServiceId> {
        match self {
            Self::AddService(service) | Self::SetService(service) => Some(&service.id),
            Self::DeleteService(id)
            | Self::AddDestination { service: id, .. }
            | Self::SetDestination { service: id, .. }
            | Self::DeleteDestination { service: id, .. }
            | Self::Zero(Some(id)) => Some(id),
            Self::Zero(None) | Self::Flush | Self::SetTimeouts(_) | Self::StartDaemon(_) | Self::StopDaemon(_) => None,
        }
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddService(service) => write!(f, "add service {service}"),
            Self::SetService(service) => write!(f, "set service {service}"),
            Self::DeleteService(id) => write!(f, "delete service {id}"),
            Self::AddDestination { service, destination } => write!(f, "add destination {service} -> {destination}"),
            Self::SetDestination { service, destination } => write!(f, "set destination {service} -> {destination}"),
            Self::DeleteDestination { service, address, port } => {
                write!(f, "delete destination {service} -> {}", SocketAddr::new(*address, *port))
            }
            Self::Zero(Some(id)) => write!(f, "zero {id}"),
            Self::Zero(None) => write!(f, "zero all"),
            Self::Flush => write!(f, "flush all services"),
            Self::SetTimeouts(timeouts) => write!(f, "set timeouts {timeouts}"),
            Self::StartDaemon(daemon) => write!(f, "start daemon {daemon}"),
            Self::StopDaemon(state) => write!(f, "stop daemon {state}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Protocol, Scheduler};

    #[test]
    fn commands_read_like_ipvsadm() {
        let id = ServiceId::new(Protocol::Tcp, "10.0.0.1".parse().unwrap(), 80);
        let add = Command::AddService(Service::new(id, Scheduler::Rr));
        assert_eq!(add.to_string(), "add service TCP 10.0.0.1:80 rr");
        let destination = Destination::new("10.1.0.1".parse().unwrap(), 8080, 1);
        let add = Command::AddDestination { service: id, destination };
        assert_eq!(add.to_string(), "add destination TCP 10.0.0.1:80 -> 10.1.0.1:8080 Masq weight 1");
        let delete = Command::DeleteDestination { service: id, address: "10.1.0.1".parse().unwrap(), port: 8080 };
        assert_eq!(delete.to_string(), "delete destination TCP 10.0.0.1:80 -> 10.1.0.1:8080");
        assert_eq!(Command::Zero(Some(id)).to_string(), "zero TCP 10.0.0.1:80");
        let timeouts = Timeouts { tcp: 900, tcp_fin: 120, udp: 300 };
        assert_eq!(Command::SetTimeouts(timeouts).to_string(), "set timeouts tcp 900 tcpfin 120 udp 300");
    }
}
