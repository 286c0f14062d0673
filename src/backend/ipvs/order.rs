//! Which steps must not be taken because one that they rest on failed. The plan is in the right order; this keeps the
//! ledger right when the kernel refuses something in the middle of it.

use super::Op;
use super::names::Set;
use super::observed::address_entry;
use super::shadow;
use super::wanted::entry_of;
use crate::kernel::ipset::Entry;
use ipnet::IpNet;
use ipvs::{Command, ServiceId};
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

/// What failed so far in one sync.
#[derive(Debug, Default)]
pub struct Broken {
    unrecorded: HashSet<(bool, Entry)>,
    still_there: HashSet<(bool, Entry)>,
    /// Virtual servers that could not be made, by their entry.
    unserved: HashSet<Entry>,
    /// Routes that could not be made.
    unrouted: Vec<IpNet>,
    no_device: bool,
    no_detour: bool,
    /// Virtual servers that were there already, though nobody knew, and how what was put into them goes again.
    pub taken: HashMap<ServiceId, Vec<Command>>,
}

/// Whether an entry is of the set of addresses (true) or of the ledger of virtual servers (false).
fn slot(set: Set) -> Option<bool> {
    match set {
        Set::Addresses => Some(true),
        Set::LoopBack | Set::Forgotten => None,
        Set::Restricted | Set::Admitted | Set::Dropped | Set::Mapped | Set::Localhost => None,
        Set::ClusterIp | Set::External | Set::ExternalLocal | Set::Shadow => Some(false),
    }
}

impl Broken {
    /// Takes note of a step that failed.
    pub fn note(&mut self, op: &Op) {
        match op {
            Op::AddEntry(set, entry) => {
                self.unrecorded.extend(slot(*set).map(|slot| (slot, *entry)));
            }
            Op::Ipvs(Command::AddService(service)) => self.unserved.extend(entry_of(&service.id)),
            Op::LeaveAlone(id) => self.unserved.extend(entry_of(id)),
            Op::Route(route) => self.unrouted.push(route.net),
            Op::MakeInterface => self.no_device = true,
            Op::MakeDetour => self.no_detour = true,
            Op::Ipvs(Command::DeleteService(id)) => {
                self.still_there.extend(entry_of(id).map(|entry| (false, entry)));
            }
            Op::DeleteAddress(net) => {
                self.still_there.insert((true, address_entry(net.addr())));
            }
            _ => {}
        }
    }

    /// The steps that need not wait; of those that do, `wait` is told why.
    pub fn possible<'a>(&self, ops: &'a [Op], mut wait: impl FnMut(&Op, &'static str)) -> Cow<'a, [Op]> {
        if self.is_nothing() {
            return ops.into();
        }
        let mut unmade = HashSet::new();
        let mut need_not = |op: &&Op| {
            let reason = match op {
                Op::Ipvs(Command::AddDestination { service, .. }) if unmade.contains(service) => {
                    Some("not added, as its virtual server was not made")
                }
                _ => self.blocks(op),
            };
            if let (Some(_), Op::Ipvs(Command::AddService(service))) = (reason, op) {
                unmade.insert(service.id);
            }
            reason.map(|reason| wait(op, reason)).is_none()
        };
        ops.iter().filter(|op| need_not(op)).cloned().collect()
    }

    fn is_nothing(&self) -> bool {
        let Self { unrecorded, still_there, unserved, unrouted, no_device, no_detour, taken: _ } = self;
        let empty = unrecorded.is_empty() && still_there.is_empty() && unserved.is_empty() && unrouted.is_empty();
        empty && !no_device && !no_detour
    }

    /// Whether an entry would send packets where nobody takes them; another mode may serve them still.
    fn leads_nowhere(&self, set: Set, entry: Entry) -> bool {
        let to = match (set, entry) {
            (Set::Mapped, Entry::IpPort { address, protocol, port }) => {
                Entry::IpPort { address: shadow::of(address), protocol, port }
            }
            (Set::Localhost, Entry::NetPort { protocol, port, .. }) => {
                Entry::IpPort { address: shadow::LOCALHOST, protocol, port }
            }
            _ => return false,
        };
        let Entry::IpPort { address, .. } = to else { return false };
        let unrouted = self.no_device || self.unrouted.iter().any(|net| net.contains(&address));
        // What could not be recorded was not made either.
        let unserved = self.unserved.contains(&to) || self.unrecorded.contains(&(false, to));
        unrouted || unserved || (set == Set::Localhost && self.no_detour)
    }

    /// Why a step must wait for the next round.
    pub fn blocks(&self, op: &Op) -> Option<&'static str> {
        let unrecorded = |slot, entry: Entry| self.unrecorded.contains(&(slot, entry));
        match op {
            Op::Route(_) | Op::AddAddress(_) if self.no_device => Some("not made, as its device could not be"),
            Op::AddEntry(set, entry) if self.leads_nowhere(*set, *entry) => {
                Some("not diverted, as nobody would take it there")
            }
            // What is ours and not recorded would pass for somebody else's from now on.
            Op::Ipvs(Command::AddService(service)) if entry_of(&service.id).is_some_and(|e| unrecorded(false, e)) => {
                Some("not made, as it could not be recorded as ours")
            }
            Op::AddAddress(net) if unrecorded(true, address_entry(net.addr())) => {
                Some("not added, as it could not be recorded as ours")
            }
            Op::DeleteEntry(set, entry)
                if slot(*set).is_some_and(|slot| self.still_there.contains(&(slot, *entry))) =>
            {
                Some("kept, as what it records could not be deleted")
            }
            // The record moves from one set to another, and is not in the other one yet.
            Op::DeleteEntry(set, entry) if slot(*set).is_some_and(|slot| unrecorded(slot, *entry)) => {
                Some("kept, as the set that it moves to did not take it")
            }
            // Everything is being removed: the ledger stays until the last of it is gone.
            Op::DestroySet(set) if slot(*set).is_some_and(|slot| self.still_there.iter().any(|(s, _)| *s == slot)) => {
                Some("kept, as what it records could not be deleted")
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::ipset::Protocol;
    use ipvs::{Scheduler, Service, ServiceId};

    fn at(address: &str) -> Entry {
        Entry::IpPort { address: address.parse().unwrap(), protocol: Protocol::TCP, port: 80 }
    }

    /// Another mode may serve them still.
    #[test]
    fn nobody_is_diverted_to_where_nobody_serves() {
        let mapped = Op::AddEntry(Set::Mapped, at("192.168.0.2"));
        let localhost = Op::AddEntry(
            Set::Localhost,
            Entry::NetPort { net: "127.0.0.0/8".parse().unwrap(), protocol: Protocol::TCP, port: 80 },
        );
        let server = |address: &str| {
            let id = ServiceId::Address { protocol: ipvs::Protocol::Tcp, address: address.parse().unwrap(), port: 80 };
            Op::Ipvs(Command::AddService(Service::new(id, "rr".parse::<Scheduler>().unwrap())))
        };
        let blocked = |failed: Op| {
            let mut broken = Broken::default();
            broken.note(&failed);
            [&mapped, &localhost].map(|op| !broken.possible(std::slice::from_ref(op), |_, _| {}).contains(op))
        };
        assert_eq!(blocked(server("240.168.0.2")), [true, false]);
        assert_eq!(blocked(server("255.0.0.1")), [false, true]);
        assert_eq!(blocked(server("172.30.0.1")), [false, false]);
        assert_eq!(blocked(Op::AddEntry(Set::Shadow, at("240.168.0.2"))), [true, false]);
        assert_eq!(blocked(Op::MakeDetour), [false, true]);
        assert_eq!(blocked(Op::MakeInterface), [true, true]);
    }
}
