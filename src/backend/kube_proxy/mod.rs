//! What kube-proxy leaves on a node besides what the two modes take over from it by name: its ipsets, its tables of
//! nftables, its canary in mangle, its accounting objects. A mode that never serves: it is only ever wished away.
//!
//! Its virtual servers and the addresses on `kube-ipvs0` are IPVS mode's ([`recorded`] tells which), its chains iptables
//! mode's.

pub mod names;
mod recorded;

pub use recorded::Recorded;

use super::rules::{Found, Ownership, RuleOp, Writer};
use super::{Aftermath, Backend, Failure, ObserveError};
use crate::desired::{Desired, Touched};
use crate::kernel::{accounting, ipset, nftables};
use crate::model::{IpFamily, PerFamily};
use iptables::{ChainName, Commands, Table};
use std::fmt;
use std::time::Instant;

/// The leftovers as a backend.
#[derive(Debug)]
pub struct Leftovers {
    commands: PerFamily<Option<Commands>>,
}

/// What is there of them in one family.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    table: bool,
    canary: Found,
    accounts: Vec<&'static str>,
    sets: Vec<String>,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Delete the table of nftables mode.
    DeleteTable(IpFamily),
    /// Delete the canary.
    DeleteCanary(RuleOp),
    /// Delete an accounting object that no rule uses.
    DeleteAccount(&'static str),
    /// Destroy a set.
    DestroySet(String),
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DeleteTable(family) => {
                let family = if *family == IpFamily::V4 { "ip" } else { "ip6" };
                write!(f, "delete nftables table {family} {}", names::TABLE)
            }
            Self::DeleteCanary(op) => op.fmt(f),
            Self::DeleteAccount(name) => write!(f, "delete accounting object {name}"),
            Self::DestroySet(name) => write!(f, "destroy set {name}"),
        }
    }
}

/// The canary in mangle.
#[derive(Debug, Clone, Copy)]
struct Canary;

impl Ownership for Canary {
    fn is_ours(&self, table: Table, chain: &ChainName) -> bool {
        table == Table::Mangle && *chain == names::canary()
    }
    fn is_shared(&self, _: Table, _: &ChainName) -> bool {
        false
    }
}

impl Leftovers {
    /// The leftovers in the network namespace of the calling thread.
    pub fn new(commands: PerFamily<Option<Commands>>) -> Self {
        Self { commands }
    }

    fn apply_one(&self, family: IpFamily, op: &Op, observed: &mut Observed) -> Result<(), Failure> {
        let failed =
            |reason: String| Failure { step: op.to_string(), reason, aftermath: Aftermath::Unknown, of_one: false };
        match op {
            Op::DeleteTable(family) => {
                nftables::delete_table(*family, names::TABLE).map_err(|error| failed(error.to_string()))?;
                observed.table = false;
            }
            Op::DeleteCanary(rule) => {
                let commands = self.commands.get(family).as_ref();
                let commands = commands.ok_or_else(|| failed("no iptables-restore was found".to_owned()))?;
                let failures = Writer::new(commands, &Canary).write(vec![rule.clone()], &mut observed.canary);
                failures.into_iter().next().map_or(Ok(()), Err)?;
            }
            Op::DeleteAccount(name) => {
                accounting::delete(name).map_err(|error| failed(error.to_string()))?;
                observed.accounts.retain(|known| known != name);
            }
            Op::DestroySet(name) => {
                let outcome = ipset::Client::open().and_then(|mut sets| sets.destroy(name));
                match outcome {
                    Err(error) if !error.is_already_gone() => return Err(failed(error.to_string())),
                    _ => observed.sets.retain(|known| known != name),
                }
            }
        }
        Ok(())
    }
}

impl Backend for Leftovers {
    type Observed = Observed;
    type Op = Op;

    fn name(&self) -> &'static str {
        "kube-proxy"
    }

    fn observe(&mut self, family: IpFamily) -> Result<Observed, ObserveError> {
        let table = nftables::has_table(family, names::TABLE);
        let table = table.map_err(|error| ObserveError::new("tables of nftables", error))?;
        let canary = match self.commands.get(family) {
            Some(commands) => {
                let saved = commands.save(&[Table::Mangle]);
                Found::from_saved(&saved.map_err(|error| ObserveError::new("rules in mangle", error))?, Canary)
            }
            None => Found::default(),
        };
        let mut accounts = Vec::new();
        for name in names::ACCOUNTS {
            if accounting::is_idle(name).map_err(|error| ObserveError::new("accounting objects", error))? {
                accounts.push(name);
            }
        }
        Ok(Observed { table, canary, accounts, sets: recorded::sets_there(family)? })
    }

    /// Until the other mode is gone, its virtual servers may be kube-proxy's, and the sets say which.
    fn plan(
        &self,
        family: IpFamily,
        desired: &Desired,
        observed: &Observed,
        _touched: Touched<'_>,
        _now: Instant,
    ) -> Vec<Op> {
        let mut ops: Vec<Op> = observed.table.then_some(Op::DeleteTable(family)).into_iter().collect();
        let delete = |(table, name): (Table, ChainName)| RuleOp::Delete { table, name };
        ops.extend(observed.canary.chains.keys().map(delete).map(Op::DeleteCanary));
        ops.extend(observed.accounts.iter().copied().map(Op::DeleteAccount));
        if desired.rules.is_none() {
            ops.extend(observed.sets.iter().cloned().map(Op::DestroySet));
        }
        ops
    }

    fn apply(&mut self, family: IpFamily, plan: Vec<Op>, observed: &mut Observed) -> Vec<Failure> {
        plan.iter().filter_map(|op| self.apply_one(family, op, observed).err()).collect()
    }
}
