//! Who keeps count of what the loop does, and what it is told: when something is wanted of the kernel, what a sync did,
//! when the kernel has taken everything. The work of telling follows what changed, not how much there
//! is; where what holds for the whole node changed, that is everything.

use super::round::Reconciler;
use super::wish::Mode;
use crate::backend::Report;
use crate::desired::{Change, Desired, ServicePort, ServicePortKey};
use crate::model::{Changes, IpFamily, PerFamily, ServiceName, Snapshot};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, Instant, SystemTime};

/// Keeps count. It is called on the reconciler's thread and must not block.
pub trait Meter: Send + fmt::Debug {
    /// A family is to be synced, now or soon. `changed`: because something is wanted, and not only to look again.
    fn queued(&mut self, family: IpFamily, changed: bool, now: Instant);

    /// A sync ended.
    fn synced(&mut self, family: IpFamily, sync: &Synced<'_>);

    /// The kernel has taken everything that is wanted of a family; these happened before and are in force now.
    fn in_force(&mut self, family: IpFamily, triggers: &[SystemTime], now: Instant);

    /// The kernel has taken what is wanted of a family but for single Services, which it refuses again and again.
    fn serving(&mut self, _family: IpFamily, _now: Instant) {}

    /// How many changes there were, and how many of them the kernel has not taken.
    fn changes(&mut self, seen: Changes, pending: Changes);

    /// Service ports of which a policy uses local endpoints only, and of which there are none here.
    fn without_local(&mut self, family: IpFamily, count: WithoutLocal);

    /// Stale flows were looked for.
    fn flows(&mut self, family: IpFamily, duration: Duration, deleted: usize);

    /// Whether load balancers may send traffic to this node: it is not about to go.
    fn node(&mut self, eligible: bool);

    /// How often the kernel is compared with what is wanted, from now on.
    fn period(&mut self, _sync: Duration) {}
}

/// What a sync did.
#[derive(Debug)]
pub struct Synced<'a> {
    /// The mode that serves.
    pub mode: Mode,
    /// It went over everything, and not only over what changed.
    pub full: bool,
    /// What came of it.
    pub report: &'a Report,
}

/// Service ports without local endpoints, by the policy that would use them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WithoutLocal {
    /// `internalTrafficPolicy: Local`.
    pub internal: usize,
    /// `externalTrafficPolicy: Local`.
    pub external: usize,
}

/// Nobody.
impl Meter for () {
    fn queued(&mut self, _: IpFamily, _: bool, _: Instant) {}
    fn synced(&mut self, _: IpFamily, _: &Synced<'_>) {}
    fn in_force(&mut self, _: IpFamily, _: &[SystemTime], _: Instant) {}
    fn changes(&mut self, _: Changes, _: Changes) {}
    fn without_local(&mut self, _: IpFamily, _: WithoutLocal) {}
    fn flows(&mut self, _: IpFamily, _: Duration, _: usize) {}
    fn node(&mut self, _: bool) {}
}

/// The meter, and what has to be remembered to tell it.
#[derive(Debug)]
pub(super) struct Tally {
    meter: Box<dyn Meter>,
    /// What happened earlier is not of this process's doing.
    started: SystemTime,
    /// What happened and is not in force yet. A Service's slices of one family are one entry.
    waiting: PerFamily<BTreeMap<ServiceName, Vec<SystemTime>>>,
    internal: PerFamily<BTreeSet<ServicePortKey>>,
    external: PerFamily<BTreeSet<ServicePortKey>>,
    /// The changes that were in force when a family last had everything.
    in_force: PerFamily<Changes>,
    node_seen: bool,
}

/// Changes of one Service that are told, if they wait for the kernel together: the first of them have waited longest.
const MOST_TIMES: usize = 100;

impl Tally {
    pub(super) fn new(meter: Box<dyn Meter>) -> Self {
        Self {
            meter,
            started: SystemTime::now(),
            waiting: PerFamily::default(),
            internal: PerFamily::default(),
            external: PerFamily::default(),
            in_force: PerFamily::default(),
            node_seen: false,
        }
    }

    /// A newer snapshot takes the place of an older one.
    fn arrived(&mut self, older: &Snapshot, newer: &Snapshot, own_node: &str, families: &[IpFamily]) {
        for (service, family, time) in newer.triggers_since(older) {
            if time > self.started && families.contains(&family) {
                let times = self.waiting.get_mut(family).entry(service).or_default();
                // Where something is refused for good, nothing ends their waiting.
                if times.len() < MOST_TIMES {
                    times.push(time);
                }
            }
        }
        // As upstream: the time of a slice says nothing of its own deletion.
        for family in families {
            self.waiting.get_mut(*family).retain(|service, _| newer.slices.contains_key(service));
        }
        // A node that is not there says nothing before it was seen: a source need not know it.
        let node = newer.nodes.get(own_node);
        self.node_seen |= node.is_some();
        self.meter.node(node.map_or(!self.node_seen, |node| !node.leaving));
        self.tell_changes(newer.changes, families);
    }

    fn tell_changes(&mut self, seen: Changes, families: &[IpFamily]) {
        let oldest = |count: fn(&Changes) -> u64| families.iter().map(|family| count(self.in_force.get(*family))).min();
        let pending = Changes {
            services: seen.services - oldest(|changes| changes.services).unwrap_or(seen.services).min(seen.services),
            slices: seen.slices - oldest(|changes| changes.slices).unwrap_or(seen.slices).min(seen.slices),
        };
        self.meter.changes(seen, pending);
    }

    /// Looks at what changed for service ports without local endpoints.
    fn look(&mut self, family: IpFamily, desired: &Desired, change: &Change) {
        let (all, keys) = (*change.node.get(family), change.ports.get(family));
        if !all && keys.is_empty() {
            return;
        }
        let (internal, external) = (self.internal.get_mut(family), self.external.get_mut(family));
        if all {
            internal.clear();
            external.clear();
        }
        let mut look = |key: &ServicePortKey, port: Option<&ServicePort>| {
            let external_local = |port: &ServicePort| port.external_policy_local && port.externally_accessible();
            note(internal, key, port.is_some_and(|port| port.internal_policy_local && lacks_local(port)));
            note(external, key, port.is_some_and(|port| external_local(port) && lacks_local(port)));
        };
        if all {
            desired.ports.iter().for_each(|(key, port)| look(key, Some(port)));
        }
        keys.iter().for_each(|key| look(key, desired.ports.get(key).map(|port| &**port)));
        let count = WithoutLocal { internal: internal.len(), external: external.len() };
        self.meter.without_local(family, count);
    }

    pub(super) fn period(&mut self, sync: Duration) {
        self.meter.period(sync);
    }

    pub(super) fn flows(&mut self, family: IpFamily, duration: Duration, deleted: usize) {
        self.meter.flows(family, duration, deleted);
    }
}

fn note(set: &mut BTreeSet<ServicePortKey>, key: &ServicePortKey, belongs: bool) {
    if belongs {
        set.insert(key.clone());
    } else {
        set.remove(key);
    }
}

/// As upstream counts: endpoints there are, but none that this node may use.
fn lacks_local(port: &ServicePort) -> bool {
    port.has_any_endpoints && port.local_endpoints().next().is_none()
}

impl Reconciler {
    /// Has somebody keep count from now on.
    #[must_use]
    pub fn with_meter(mut self, meter: Box<dyn Meter>) -> Self {
        self.tally = Tally::new(meter);
        self
    }

    pub(super) fn meter_snapshot(&mut self, newer: &Snapshot) {
        self.tally.arrived(&self.snapshot, newer, &self.settings.node_name, &self.planes.families);
    }

    pub(super) fn meter_change(&mut self, change: &Change) {
        for family in &self.planes.families {
            self.tally.look(*family, self.builder.desired().get(*family), change);
        }
    }

    pub(super) fn meter_queued(&mut self, family: IpFamily, changed: bool) {
        self.tally.meter.queued(family, changed, Instant::now());
    }

    pub(super) fn meter_synced(&mut self, family: IpFamily, full: bool, report: &Report) {
        let mode = *self.planes.active.get(family);
        self.tally.meter.synced(family, &Synced { mode, full: full || report.observed, report });
    }

    /// What lies with a single Service is not the node's.
    pub(super) fn meter_serving(&mut self, family: IpFamily) {
        if self.status.families.get(family).serves_since.is_some() {
            self.tally.meter.serving(family, Instant::now());
        }
    }

    /// Nothing is left to do: what came before is in force.
    pub(super) fn meter_in_force(&mut self, family: IpFamily) {
        let triggers = std::mem::take(self.tally.waiting.get_mut(family));
        let triggers: Vec<SystemTime> = triggers.into_values().flatten().collect();
        self.tally.meter.in_force(family, &triggers, Instant::now());
        let seen = self.snapshot.changes;
        if *self.tally.in_force.get(family) != seen {
            *self.tally.in_force.get_mut(family) = seen;
            self.tally.tell_changes(seen, &self.planes.families);
        }
    }
}

#[cfg(test)]
#[path = "meter_tests.rs"]
mod tests;
