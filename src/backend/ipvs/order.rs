//! Which steps must not be taken because one that they rest on failed. The plan is in the right order; this keeps the
//! ledger right when the kernel refuses something in the middle of it.

use super::Op;
use super::names::Set;
use super::observed::address_entry;
use super::wanted::entry_of;
use crate::kernel::ipset::Entry;
use ipvs::Command;
use std::borrow::Cow;
use std::collections::HashSet;

/// What failed so far in one sync.
#[derive(Debug, Default)]
pub struct Broken {
    unrecorded: HashSet<(bool, Entry)>,
    still_there: HashSet<(bool, Entry)>,
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
        if self.unrecorded.is_empty() && self.still_there.is_empty() {
            return ops.into();
        }
        let need_not = |op: &&Op| self.blocks(op).map(|reason| wait(op, reason)).is_none();
        ops.iter().filter(need_not).cloned().collect()
    }

    /// Why a step must wait for the next round.
    pub fn blocks(&self, op: &Op) -> Option<&'static str> {
        let unrecorded = |slot, entry: Entry| self.unrecorded.contains(&(slot, entry));
        match op {
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
