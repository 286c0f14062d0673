//! iptables mode: kube-proxy's chains, written through the `iptables` crate.

mod affinity;
mod audit;
pub mod names;
pub mod node;
mod packets;
mod plan;
mod rehearsal;
pub mod service;

pub use affinity::Guests;
pub use packets::RuleCounters;

use super::rules::{Found, FoundReader, OwnershipDebug, RuleOp, Run, Writer};
use super::settings::{localnet_is_open, unset_sysctls};
use super::{Affinity, Aftermath, Ahead, Audit, Backend, Effort, Failure, ObserveError, RuleCounts};
use crate::desired::{Desired, NodeRules, ServicePort, ServicePortKey, Touched};
use crate::kernel::sysctl::{KernelVersion, Ledger, Needs, Setting, settings};
use crate::model::{IpFamily, PerFamily};
use audit::Step;
use imbl::OrdMap;
use iptables::{Chain, ChainName, Commands, Table, Variant};
pub use rehearsal::Rehearsal;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

/// The iptables backend.
#[derive(Debug)]
pub struct Iptables {
    commands: PerFamily<Option<Commands>>,
    sysctl: Ledger,
    kernel: KernelVersion,
    guests: PerFamily<Guests>,
    /// The next sync brings this mode up beside another one that serves: nothing may be seen of it before it is complete.
    beside: PerFamily<bool>,
    audits: PerFamily<Option<Box<audit::Reading>>>,
    effort: Effort,
    ownership: &'static dyn OwnershipDebug,
}

/// What of this mode is in the kernel, in one family.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    rules: Found,
    /// Settings of the kernel that are not as this mode needs them.
    unset: Vec<Setting>,
    /// We have set `route_localnet`, be it in an earlier run or for another configuration.
    localnet_open: bool,
    /// What was wanted when the kernel was last brought there; `None` after reading.
    previous: Option<Previous>,
}

impl Observed {
    /// The kernel is as desired now.
    pub(super) fn remember(&mut self, desired: &Desired) {
        self.rules.forget_texts();
        let rules = desired.rules.clone().filter(|_| !desired.retiring);
        self.previous = rules.map(|rules| Previous { ports: desired.ports.clone(), rules });
    }

    /// Whether neighbours have to be kept from what listens on 127.0.0.1.
    fn needs_guard(&self, rules: &NodeRules) -> bool {
        rules.localhost_node_ports || self.localnet_open
    }

    /// The chains that hold for the whole node.
    fn node_chains(&self, rules: &NodeRules) -> impl Iterator<Item = (Table, Chain)> {
        node::chains(rules, self.needs_guard(rules)).into_iter()
    }

    #[cfg(test)]
    pub(super) fn of_rules(rules: Found) -> Self {
        Self { rules, ..Self::default() }
    }

    #[cfg(test)]
    pub(super) fn rules_for_tests(&mut self) -> &mut Found {
        &mut self.rules
    }
}

#[cfg(test)]
pub(super) use plan::{ahead as ahead_for_tests, plan as plan_for_tests};

/// What was wanted when the kernel was last brought there.
#[derive(Debug, Clone)]
struct Previous {
    ports: OrdMap<ServicePortKey, Arc<ServicePort>>,
    rules: Arc<NodeRules>,
}

/// One step of this mode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Change a setting of the kernel.
    Sysctl(Setting),
    /// Change rules.
    Rule(RuleOp),
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sysctl(setting) => write!(f, "set sysctl {} to {}", setting.path, setting.value),
            Self::Rule(op) => op.fmt(f),
        }
    }
}

/// The chains of this mode that kube-proxy does not have.
#[derive(Debug, Clone, Copy)]
struct OursAlone;

impl super::rules::Ownership for OursAlone {
    fn is_ours(&self, table: Table, chain: &ChainName) -> bool {
        names::is_ours_alone(table, chain)
    }
    fn is_shared(&self, table: Table, chain: &ChainName) -> bool {
        names::is_shared(table, chain)
    }
    fn is_of_one(&self, table: Table, chain: &ChainName) -> bool {
        names::is_of_one(table, chain)
    }
}

/// Which chains belong to iptables mode.
#[derive(Debug, Clone, Copy)]
pub struct Ours;

impl super::rules::Ownership for Ours {
    fn is_ours(&self, table: Table, chain: &ChainName) -> bool {
        names::is_ours(table, chain)
    }
    fn is_shared(&self, table: Table, chain: &ChainName) -> bool {
        names::is_shared(table, chain)
    }
    fn is_of_one(&self, table: Table, chain: &ChainName) -> bool {
        names::is_of_one(table, chain)
    }
}

impl Iptables {
    /// A backend that runs these commands; a family without them cannot be programmed.
    pub fn new(commands: PerFamily<Option<Commands>>, kernel: KernelVersion, sysctl: Ledger) -> Self {
        Self {
            commands,
            sysctl,
            kernel,
            guests: PerFamily::default(),
            beside: PerFamily::default(),
            audits: PerFamily::default(),
            effort: Effort::default(),
            ownership: &Ours,
        }
    }

    /// What bears kube-proxy's names is its own: it has taken over.
    #[must_use]
    pub fn sparing_kube_proxy(self) -> Self {
        Self { ownership: &OursAlone, ..self }
    }

    fn commands(&self, family: IpFamily) -> Result<&Commands, String> {
        self.commands.get(family).as_ref().ok_or_else(|| format!("no iptables-restore for {family} was found"))
    }

    fn unset(&self, family: IpFamily) -> Result<Vec<Setting>, ObserveError> {
        let needs = Needs {
            ipvs: false,
            ipv6: family == IpFamily::V6,
            strict_arp: false,
            localhost_node_ports: family == IpFamily::V4,
        };
        unset_sysctls(self.sysctl.sysctl(), &settings(&needs, self.kernel))
    }

    fn set(&self, setting: Setting, observed: &mut Observed) -> Option<Failure> {
        match self.sysctl.ensure(&setting) {
            Ok(()) => {
                observed.unset.retain(|unset| unset.path != setting.path);
                observed.localnet_open |= node::needs_guard(&setting);
                None
            }
            Err(error) => {
                let step = Op::Sysctl(setting).to_string();
                Some(Failure { step, reason: error.to_string(), aftermath: Aftermath::Lasting, of_one: false })
            }
        }
    }

    fn apply_rules(
        &mut self,
        family: IpFamily,
        rules: Vec<RuleOp>,
        observed: &mut Observed,
        failures: &mut Vec<Failure>,
    ) {
        let commands = match self.commands(family) {
            Ok(commands) => commands,
            Err(reason) => {
                let failure = |op: RuleOp| {
                    let (step, reason) = (op.to_string(), reason.clone());
                    Failure { step, reason, aftermath: Aftermath::Lasting, of_one: false }
                };
                return failures.extend(rules.into_iter().map(failure));
            }
        };
        let mut writer = Writer::new(commands, self.ownership);
        let guests = self.beside.get(family).then(|| self.guests.get(family));
        failures.extend(write(&mut writer, rules, guests, &mut observed.rules));
        let effort = writer.effort;
        self.effort += effort;
    }
}

/// Writes the rules. With `guests`, who come from there, this mode is brought up beside another one: that one serves, and
/// better than half of this one would, so that the jumps come only where all else is there.
pub(super) fn write<R: Run>(
    writer: &mut Writer<'_, R>,
    rules: Vec<RuleOp>,
    guests: Option<&Guests>,
    found: &mut Found,
) -> Vec<Failure> {
    // With the jumps this mode serves; until then nobody needs a seat.
    let Some(guests) = guests.filter(|_| rules.iter().any(is_jump)) else { return writer.write(rules, found) };
    let (jumps, chains) = rules.into_iter().partition(is_jump);
    let mut failures = writer.write(chains, found);
    affinity::seat(guests);
    // Filter refuses what is addressed to a load balancer and was not translated. That is what the other mode gets until nat
    // translates it.
    let (nat, filter): (Vec<_>, Vec<_>) = jumps.into_iter().partition(|op: &RuleOp| op.table() == Table::Nat);
    for jumps in [nat, filter] {
        if failures.is_empty() {
            failures = writer.write_as_one(jumps, found);
        }
    }
    failures
}

/// Whether packets come in by it.
fn is_jump(op: &RuleOp) -> bool {
    matches!(op, RuleOp::Insert { table, chain, .. } if !names::is_ours(*table, chain))
}

impl Backend for Iptables {
    type Observed = Observed;
    type Op = Op;

    fn name(&self) -> &'static str {
        "iptables"
    }

    fn observe(&mut self, family: IpFamily) -> Result<Observed, ObserveError> {
        let what = || format!("{family} rules");
        let commands = self.commands(family).map_err(|error| ObserveError::new(what(), error))?;
        let mut reader = FoundReader::new(self.ownership);
        commands
            .save_into(&[Table::Nat, Table::Filter], &mut reader)
            .map_err(|error| ObserveError::new(what(), error))?;
        self.effort.restores += 1;
        let rules = reader.finish();
        let localnet_open = localnet_is_open(family, &self.sysctl, node::is_guarded(&rules));
        Ok(Observed { rules, unset: self.unset(family)?, localnet_open, previous: None })
    }

    fn plan(
        &self,
        family: IpFamily,
        desired: &Desired,
        observed: &Observed,
        touched: Touched<'_>,
        _now: Instant,
    ) -> Vec<Op> {
        plan::plan(family, desired, observed, touched)
    }

    fn plan_ahead(
        &self,
        family: IpFamily,
        desired: &Desired,
        observed: &Observed,
        _: Instant,
        ahead: &mut Ahead,
    ) -> Option<Vec<Op>> {
        // Legacy rewrites the whole table with every piece.
        let in_pieces = self.commands.get(family).as_ref().is_some_and(|commands| commands.variant == Variant::Nft);
        in_pieces.then(|| plan::ahead(family, desired, observed, *self.beside.get(family), ahead)).flatten()
    }

    fn apply(&mut self, family: IpFamily, plan: Vec<Op>, observed: &mut Observed) -> Vec<Failure> {
        let mut failures = Vec::new();
        let (mut rules, mut guarded) = (Vec::with_capacity(plan.len()), Vec::new());
        for op in plan {
            match op {
                Op::Rule(op) => rules.push(op),
                Op::Sysctl(setting) if node::needs_guard(&setting) => guarded.push(setting),
                Op::Sysctl(setting) => failures.extend(self.set(setting, observed)),
            }
        }
        // Refused or not: what was tried may be there.
        if let Some(reading) = self.audits.get_mut(family) {
            rules.iter().for_each(|op| reading.passed_over(op));
        }
        self.apply_rules(family, rules, observed, &mut failures);
        for setting in guarded {
            failures.extend(if node::is_guarded(&observed.rules) {
                self.set(setting, observed)
            } else {
                let reason = "not before the rule that keeps neighbours from what listens on 127.0.0.1".to_owned();
                let step = Op::Sysctl(setting).to_string();
                Some(Failure { step, reason, aftermath: Aftermath::Refused, of_one: false })
            });
        }
        failures
    }

    fn audit(&mut self, family: IpFamily, believed: &Observed, until: Instant) -> Result<Audit, ObserveError> {
        let error = |error| ObserveError::new(format!("{family} rules"), error);
        let reading = match self.audits.get_mut(family).take() {
            Some(reading) => reading,
            None => {
                let commands = self.commands(family).map_err(error)?;
                audit::Reading::start(commands, self.ownership, &believed.rules)
            }
        };
        let step = reading.step(&believed.rules, until);
        match step.map_err(|failure| ObserveError::new(format!("{family} rules"), failure))? {
            Step::Unfinished(reading) => {
                *self.audits.get_mut(family) = Some(reading);
                Ok(Audit::Unfinished)
            }
            Step::Compared(same) => {
                self.effort.restores += 1;
                let holds = same && self.unset(family)? == believed.unset;
                Ok(if holds { Audit::Holds } else { Audit::Doubtful })
            }
        }
    }

    fn end_audit(&mut self, family: IpFamily) {
        *self.audits.get_mut(family) = None;
    }

    fn expect(&mut self, family: IpFamily, desired: &Desired, affinities: &[Affinity]) {
        *self.guests.get_mut(family) = affinity::guests(desired, affinities);
        *self.beside.get_mut(family) = true;
    }

    fn serve(&mut self, family: IpFamily) {
        *self.beside.get_mut(family) = false;
        self.guests.get_mut(family).clear();
    }

    fn remember(&self, desired: &Desired, _touched: Touched<'_>, observed: &mut Observed) {
        observed.remember(desired);
    }

    fn count_rules(&self, observed: &mut Observed) -> RuleCounts {
        observed.rules.take_counts()
    }

    fn take_effort(&mut self) -> Effort {
        std::mem::take(&mut self.effort)
    }
}
