//! Leaving: the steps that remove everything of IPVS mode that is ours in a family, and nothing else.

use super::Op;
use super::names::{self, Set};
use super::observed::Observed;
use crate::backend::rules::{plan_jumps, plan_removal};
use crate::kernel::interface::FoundDetour;
use ipvs::{Command, ServiceId};
use std::collections::BTreeSet;

/// Leaving: routes first, so that no packet meets half a service; the helpers and the ledger last.
pub fn everything_goes(observed: &Observed) -> Vec<Op> {
    let mut ops: Vec<Op> = observed.routes.values().copied().map(Op::Unroute).collect();
    ops.extend(observed.bridges.iter().copied().map(Op::Unbridge));
    let recorded = |net: &&ipnet::IpNet| observed.is_own_address(net);
    ops.extend(observed.addresses.iter().filter(recorded).copied().map(Op::DeleteAddress));
    let mut servers: Vec<ServiceId> = observed.servers.keys().filter(|id| observed.is_recorded(id)).copied().collect();
    servers.sort_unstable();
    ops.extend(servers.into_iter().map(|id| Op::Ipvs(Command::DeleteService(id))));
    let (_, jumps) = plan_jumps(&observed.rules, &[]);
    let chains = plan_removal(&observed.rules, |_, _| false, names::depth);
    ops.extend(jumps.into_iter().chain(chains).map(Op::Rule));
    let sets: BTreeSet<Set> = observed.sets.keys().chain(&observed.unfit_sets).copied().collect();
    ops.extend(sets.into_iter().map(Op::DestroySet));
    if observed.detour != FoundDetour::Missing {
        ops.push(Op::DeleteDetour);
    }
    let foreign = observed.addresses.iter().any(|net| !recorded(&net));
    if observed.interface && !observed.interface_foreign && !observed.interface_shared && !foreign {
        ops.push(Op::DeleteInterface);
    }
    ops
}
