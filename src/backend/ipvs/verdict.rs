//! What is known of the kernel after it answered with an error.

use crate::backend::Aftermath;
use crate::kernel::interface::{AddressError, RouteError};
use crate::kernel::ipset::{IpsetError, Reason};
use ipvs::{Command, ServiceId};
use nix::errno::Errno;
use std::collections::HashSet;

/// Answers that say that the kernel has something else than was believed when the step was planned.
const SURPRISES: [Errno; 6] =
    [Errno::EEXIST, Errno::ENOENT, Errno::ESRCH, Errno::ENODEV, Errno::ENETDOWN, Errno::EADDRNOTAVAIL];

/// An error of a kernel call.
pub(super) trait Verdict {
    /// Positive errno with which the kernel refused, which then did nothing; `None` where nobody knows what it did.
    fn refusal(&self) -> Option<i32>;

    /// What the error leaves behind.
    fn aftermath(&self) -> Aftermath {
        let surprising = |errno: i32| SURPRISES.iter().any(|surprise| *surprise as i32 == errno);
        match self.refusal() {
            Some(errno) if !surprising(errno) => Aftermath::Refused,
            _ => Aftermath::Unknown,
        }
    }
}

impl Verdict for ipvs::Error {
    fn refusal(&self) -> Option<i32> {
        match self {
            Self::Refused { errno, .. } => Some(*errno),
            _ => None,
        }
    }
}

impl Verdict for RouteError {
    fn refusal(&self) -> Option<i32> {
        self.source.errno().filter(|_| self.source.is_kernel_verdict())
    }
}

impl Verdict for AddressError {
    fn refusal(&self) -> Option<i32> {
        self.source.errno().filter(|_| self.source.is_kernel_verdict())
    }
}

impl Verdict for IpsetError {
    fn refusal(&self) -> Option<i32> {
        match self.reason() {
            Reason::Full => Some(4352),
            Reason::TransportProtocol => Some(4354),
            Reason::PrefixLength => Some(4104),
            Reason::Family => Some(4106),
            Reason::AddressFamily => Some(4109),
            Reason::Other(number) => Some(*number),
            // The others speak of the set, which then is not what it was taken for.
            _ => None,
        }
    }
}

/// The virtual servers that the kernel refused to make.
pub(super) fn unserved<'a>(failed: impl Iterator<Item = (&'a Command, &'a ipvs::Error)>) -> HashSet<ServiceId> {
    let refused = |(command, error): (&Command, &ipvs::Error)| match command {
        Command::AddService(service) if error.aftermath() == Aftermath::Refused => Some(service.id),
        _ => None,
    };
    failed.filter_map(refused).collect()
}

/// The virtual server that could not be made as it was there already.
pub(super) fn taken(command: &Command, error: &ipvs::Error) -> Option<ServiceId> {
    let Command::AddService(service) = command else { return None };
    (error.errno() == Some(Errno::EEXIST as i32)).then_some(service.id)
}

/// What a failed command leaves behind: that the virtual server of a destination is not there is no surprise where it was
/// refused just before.
pub(super) fn aftermath_of(command: &Command, error: &ipvs::Error, unserved: &HashSet<ServiceId>) -> Aftermath {
    let follows = match command {
        Command::AddDestination { service, .. } | Command::SetDestination { service, .. } => unserved.contains(service),
        // It goes from one scheduler to the other in steps (`ip_vs_edit_service`).
        Command::SetService(_) => return Aftermath::Unknown,
        _ => false,
    };
    if follows && error.errno() == Some(Errno::ESRCH as i32) { Aftermath::Refused } else { error.aftermath() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipvs::{Attempt, Error, Protocol, Scheduler, Service};

    #[test]
    fn only_what_the_kernel_itself_refused_leaves_the_belief() {
        let id = ServiceId::new(Protocol::Tcp, "172.30.0.1".parse().unwrap(), 80);
        let command = Command::AddService(Service::new(id, Scheduler::Rr));
        let refused = |errno: Errno| {
            let attempt = Attempt::Command(Box::new(command.clone()));
            Error::Refused { attempt, errno: errno as i32, message: None }.aftermath()
        };
        assert_eq!(refused(Errno::EAFNOSUPPORT), Aftermath::Refused);
        for surprise in [Errno::EEXIST, Errno::ENOENT, Errno::ESRCH] {
            assert_eq!(refused(surprise), Aftermath::Unknown, "the kernel is not what it was taken for");
        }
        assert_eq!(Error::FamilyMissing.aftermath(), Aftermath::Unknown);
    }
}
