//! A virtual server that appeared since the kernel was read is another program's. What we recorded of it, and put into it,
//! goes again: recorded, it would pass for ours with the next reading.

use super::names::Set;
use super::observed::Observed;
use super::wanted::{entry_of, family_of};
use super::{Ipvs, Op};
use crate::kernel::ipset::SetCommand;
use ipvs::{Command, ServiceId};
use std::collections::HashMap;
use tracing::warn;

impl Ipvs {
    /// Gives these back, each with what undoes what was put into it.
    pub(super) fn give_back(&mut self, taken: HashMap<ServiceId, Vec<Command>>, observed: &mut Observed) {
        for (id, undo) in taken {
            let Some(entry) = entry_of(&id) else { continue };
            warn!("virtual server {id} is another program's, which has made it just now: it is left to it");
            for error in self.client.execute_batch(&undo).into_iter().filter_map(Result::err) {
                warn!("{error}");
            }
            for set in Set::LEDGER.into_iter().filter(|set| observed.has_entry(*set, &entry)).collect::<Vec<_>>() {
                let command = SetCommand::Delete { set: set.name(family_of(&id)).to_owned(), entry };
                match self.sets.batch(&[command]).pop() {
                    Some(Err(error)) if !error.is_already_gone() => warn!("{error}"),
                    _ => observed.acknowledge(&Op::DeleteEntry(set, entry)),
                }
            }
        }
    }
}
