//! Errors of the client: what was tried on what, and the kernel's errno.

use std::fmt;

use nix::errno::Errno;

use crate::netlink::SocketError;
use crate::{Command, ServiceId};

/// What was tried.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Attempt {
    /// Opening the socket and finding the family.
    Connect,
    /// Asking for version and size of the connection table.
    Info,
    /// Asking for the timeouts.
    Timeouts,
    /// Listing the synchronisation daemons.
    Daemons,
    /// Listing the virtual servers.
    Services,
    /// Asking for one virtual server.
    Service(ServiceId),
    /// Listing the destinations of a virtual server.
    Destinations(ServiceId),
    /// A change.
    Command(Box<Command>),
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect => write!(f, "connect to IPVS"),
            Self::Info => write!(f, "get information"),
            Self::Timeouts => write!(f, "get timeouts"),
            Self::Daemons => write!(f, "list daemons"),
            Self::Services => write!(f, "list services"),
            Self::Service(id) => write!(f, "get service {id}"),
            Self::Destinations(id) => write!(f, "list destinations of {id}"),
            Self::Command(command) => write!(f, "{command}"),
        }
    }
}

/// A failure of the [`Client`](crate::Client).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel has no IPVS and could not load it.
    #[error("this kernel has no IPVS: no generic netlink family \"IPVS\", and the module ip_vs could not be loaded")]
    FamilyMissing,
    /// The kernel wants `CAP_NET_ADMIN` in the user namespace that owns the network namespace.
    #[error("{attempt}: not permitted, CAP_NET_ADMIN is needed")]
    PermissionDenied {
        /// What was tried.
        attempt: Attempt,
    },
    /// The kernel refused it; nothing was changed.
    #[error("{attempt}: {}", meaning(attempt, *errno, message.as_deref()))]
    Refused {
        /// What was tried.
        attempt: Attempt,
        /// Positive errno.
        errno: i32,
        /// The kernel's own words, where it gave any.
        message: Option<String>,
    },
    /// The socket failed. The outcome is unknown, unless `source` is [`SocketError::NotSent`].
    #[error("{attempt}: {source}")]
    Transport {
        /// What was tried.
        attempt: Attempt,
        /// What happened.
        source: SocketError,
    },
    /// The kernel's answer is not understood.
    #[error("{attempt}: answer not understood: {reason}")]
    Decode {
        /// What was tried.
        attempt: Attempt,
        /// What is wrong with the answer.
        reason: String,
    },
    /// The command cannot be put on the wire; nothing was sent.
    #[error("{attempt}: impossible: {reason}")]
    Invalid {
        /// What was tried.
        attempt: Attempt,
        /// What is wrong with it.
        reason: String,
    },
}

impl Error {
    /// The kernel's or the system call's errno, positive.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::FamilyMissing => Some(Errno::ENOENT as i32),
            Self::PermissionDenied { .. } => Some(Errno::EPERM as i32),
            Self::Refused { errno, .. } => Some(*errno),
            Self::Transport { source, .. } => source.errno(),
            Self::Decode { .. } | Self::Invalid { .. } => None,
        }
    }

    /// What was tried.
    #[must_use]
    pub fn attempt(&self) -> &Attempt {
        match self {
            Self::FamilyMissing => &Attempt::Connect,
            Self::PermissionDenied { attempt }
            | Self::Refused { attempt, .. }
            | Self::Transport { attempt, .. }
            | Self::Decode { attempt, .. }
            | Self::Invalid { attempt, .. } => attempt,
        }
    }

    /// Whether the object of an `add` is there already (`EEXIST`).
    #[must_use]
    pub fn is_already_there(&self) -> bool {
        matches!(self, Self::Refused { errno, .. } if *errno == Errno::EEXIST as i32)
    }

    /// Whether the object that was to be read, changed or deleted is not there: the virtual server (`ESRCH`) or the
    /// destination (`ENOENT`, which for a virtual server means a missing scheduler instead).
    #[must_use]
    pub fn is_not_there(&self) -> bool {
        let Self::Refused { attempt, errno, .. } = self else { return false };
        *errno == Errno::ESRCH as i32 || (*errno == Errno::ENOENT as i32 && is_about_destination(attempt))
    }

    /// Whether it is unknown if the command was executed. Read the kernel's state before going on.
    #[must_use]
    pub fn is_outcome_unknown(&self) -> bool {
        matches!(self, Self::Transport { source, .. } if !matches!(source, SocketError::NotSent { .. }))
    }

    /// From the socket's error about `attempt`.
    pub(crate) fn from_socket(attempt: Attempt, source: SocketError) -> Self {
        match source {
            SocketError::Kernel { errno, .. } if errno == Errno::EPERM as i32 => Self::PermissionDenied { attempt },
            SocketError::Kernel { errno, message } => Self::Refused { attempt, errno, message },
            source => Self::Transport { attempt, source },
        }
    }
}

fn is_about_destination(attempt: &Attempt) -> bool {
    let Attempt::Command(command) = attempt else { return false };
    matches!(**command, Command::SetDestination { .. } | Command::DeleteDestination { .. })
}

/// What an errno means for this attempt (`net/netfilter/ipvs/ip_vs_ctl.c`), with the errno's own text.
fn meaning(attempt: &Attempt, errno: i32, message: Option<&str>) -> String {
    let command = match attempt {
        Attempt::Command(command) => Some(&**command),
        _ => None,
    };
    let hint = match (Errno::from_raw(errno), command) {
        (Errno::EEXIST, Some(Command::AddService(_))) => "the virtual server is there already".to_owned(),
        (Errno::EEXIST, Some(Command::AddDestination { .. })) => "the destination is there already".to_owned(),
        (Errno::EEXIST, Some(Command::StartDaemon(_))) => "such a daemon runs already".to_owned(),
        (Errno::ESRCH, Some(Command::StopDaemon(_))) => "no such daemon runs".to_owned(),
        (Errno::ESRCH, _) => "no such virtual server".to_owned(),
        (Errno::ENOENT, Some(Command::AddService(service) | Command::SetService(service))) => {
            let engine = service.pe_name.as_deref().map(|name| format!(" or ip_vs_pe_{name}")).unwrap_or_default();
            format!("kernel module {}{engine} not found", service.scheduler.module())
        }
        (Errno::ENOENT, Some(_)) if is_about_destination(attempt) => "no such destination".to_owned(),
        (Errno::ENODEV, Some(Command::StartDaemon(daemon))) => format!("no interface {}", daemon.interface),
        (Errno::ERANGE, Some(_)) => "weight or thresholds out of range".to_owned(),
        (Errno::EAFNOSUPPORT, _) => "this kernel's IPVS lacks the address family".to_owned(),
        _ => String::new(),
    };
    let words = [hint.as_str(), message.unwrap_or_default()];
    let mut text: Vec<&str> = words.into_iter().filter(|words| !words.is_empty()).collect();
    let own = crate::netlink::describe(errno);
    text.push(&own);
    text.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Destination, Protocol, Scheduler, Service};

    fn refused(command: Command, errno: Errno) -> Error {
        let source = SocketError::Kernel { errno: errno as i32, message: None };
        Error::from_socket(Attempt::Command(Box::new(command)), source)
    }

    #[test]
    fn errors_say_what_was_tried_on_what_and_keep_the_errno() {
        let id = ServiceId::new(Protocol::Tcp, "10.0.0.1".parse().unwrap(), 80);
        let exists = refused(Command::AddService(Service::new(id, Scheduler::Rr)), Errno::EEXIST);
        assert_eq!(
            exists.to_string(),
            "add service TCP 10.0.0.1:80 rr: the virtual server is there already: File exists (os error 17)"
        );
        assert!(exists.is_already_there() && !exists.is_not_there());

        let scheduler = refused(Command::AddService(Service::new(id, Scheduler::Mh)), Errno::ENOENT);
        assert!(scheduler.to_string().contains("kernel module ip_vs_mh not found"), "{scheduler}");
        assert!(!scheduler.is_not_there());

        let destination = Destination::new("10.1.0.1".parse().unwrap(), 80, 1);
        let gone = refused(Command::SetDestination { service: id, destination }, Errno::ENOENT);
        assert!(gone.is_not_there(), "{gone}");
        assert_eq!(gone.errno(), Some(2));

        let denied = refused(Command::Flush, Errno::EPERM);
        assert!(matches!(denied, Error::PermissionDenied { .. }));
        assert_eq!(denied.to_string(), "flush all services: not permitted, CAP_NET_ADMIN is needed");
    }

    #[test]
    fn unknown_outcomes_are_told_from_commands_that_were_not_sent() {
        let attempt = Attempt::Command(Box::new(Command::Flush));
        let cause = Box::new(SocketError::Overrun);
        let lost = Error::from_socket(attempt.clone(), SocketError::Unacknowledged { cause: cause.clone() });
        assert!(lost.is_outcome_unknown());
        assert!(!Error::from_socket(attempt, SocketError::NotSent { cause }).is_outcome_unknown());
    }
}
