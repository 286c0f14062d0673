//! One round: what is desired now, what of it is not in the kernel yet, and bringing it there.

use super::Trigger;
use super::flows::Flows;
use super::schedule::{Schedule, Timing};
use super::status::{FamilyStatus, Status};
use crate::backend::{Dataplane, FlowTable, Report};
use crate::desired::{Builder, Change, Desired, HealthChecks, NodeFacts, ServicePortKey, Settings, Touched};
use crate::model::{IpFamily, PerFamily, Snapshot};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;
use tracing::{debug, error, info, warn};

/// The ways of programming the kernel that are at hand.
pub struct Planes {
    /// The mode that serves.
    pub active: Box<dyn Dataplane>,
    /// The other mode: what a former run left of it drains and goes.
    pub retiring: Option<Box<dyn Dataplane>>,
    /// The flows that the kernel remembers.
    pub flows: Box<dyn FlowTable>,
    /// The families that are programmed at all.
    pub families: Vec<IpFamily>,
}

impl std::fmt::Debug for Planes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Planes").field("active", &self.active.name()).field("families", &self.families).finish()
    }
}

/// What has to be handed over with the next sync.
#[derive(Debug, Default)]
struct Pending {
    all: bool,
    /// Something of ours was taken away: no waiting.
    urgent: bool,
    /// A change came too soon after the last sync and waits.
    held: bool,
    ports: BTreeSet<ServicePortKey>,
}

/// The retiring mode of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Retiring {
    /// It has not been looked at.
    Waiting,
    /// Open connections may go on until then.
    Until(Instant),
    /// Nothing of it is left.
    Gone,
}

/// Owns all state of the loop.
#[derive(Debug)]
pub struct Reconciler {
    builder: Builder,
    settings: Arc<Settings>,
    timing: Timing,
    planes: Planes,
    facts: NodeFacts,
    snapshot: Snapshot,
    pending: PerFamily<Pending>,
    schedules: PerFamily<Schedule>,
    retiring: PerFamily<Retiring>,
    flows: Flows,
    status: Status,
    told: BTreeSet<String>,
}

impl Reconciler {
    /// A reconciler that has not touched anything.
    pub fn new(settings: Arc<Settings>, timing: Timing, planes: Planes, facts: NodeFacts) -> Self {
        let retiring = if planes.retiring.is_some() { Retiring::Waiting } else { Retiring::Gone };
        Self {
            builder: Builder::new(settings.clone()),
            settings,
            timing,
            status: Status {
                mode: planes.active.name(),
                programmed: planes.families.clone(),
                sync_period: timing.audit,
                ..Status::default()
            },
            planes,
            facts,
            snapshot: Snapshot::default(),
            pending: PerFamily::from_fn(|_| Pending { all: true, ..Pending::default() }),
            schedules: PerFamily::default(),
            retiring: PerFamily::from_fn(|_| retiring),
            flows: Flows::default(),
            told: BTreeSet::new(),
        }
    }

    /// Takes in the newest snapshot; the next round works on it.
    pub fn take_snapshot(&mut self, snapshot: &Snapshot) {
        self.snapshot = snapshot.clone();
    }

    /// Takes in what happened outside.
    pub fn take_trigger(&mut self, trigger: Trigger) {
        match trigger {
            Trigger::Facts(facts) => self.facts = facts,
            Trigger::Gone(family, object) => {
                if self.planes.active.lost(family, &object) {
                    info!(%family, ?object, "somebody deleted what is ours; reading the kernel again");
                    let pending = self.pending.get_mut(family);
                    (pending.all, pending.urgent) = (true, true);
                }
            }
            Trigger::Settings(settings, timing) => {
                self.timing = timing;
                self.status.sync_period = timing.audit;
                self.settings = settings.clone();
                self.builder.set_settings(settings);
            }
            Trigger::Lost => IpFamily::BOTH.into_iter().for_each(|family| self.distrust(family)),
        }
    }

    fn distrust(&mut self, family: IpFamily) {
        self.planes.active.distrust(family);
        self.pending.get_mut(family).all = true;
    }

    /// What is going on.
    pub fn status(&self) -> Status {
        self.status.clone()
    }

    /// What load balancers are to be told; `None` before the source has listed everything.
    pub fn health_checks(&self) -> Option<&HealthChecks> {
        self.builder.health_checks()
    }

    /// When the next round is due if nothing happens before.
    pub fn next_wake(&self, now: Instant) -> Instant {
        let next = |family: &IpFamily| {
            let draining = !self.builder.draining(*family).is_empty();
            let schedule = self.schedules.get(*family);
            let own = schedule.next(now, draining, &self.timing);
            let own = if self.pending.get(*family).held {
                // The sync that they wait for comes before the flows.
                own.min(schedule.earliest(now, &self.timing))
            } else {
                self.flows.next(*family, now).map_or(own, |at| own.min(at))
            };
            match self.retiring.get(*family) {
                Retiring::Until(until) if now < *until => own.min((now + self.timing.drain).min(*until)),
                // It should be gone and is not: once in a while is often enough.
                Retiring::Until(_) => own.min(now + self.timing.retry_max),
                _ => own,
            }
        };
        self.planes.families.iter().map(next).min().unwrap_or(now + self.timing.audit)
    }

    /// One round over both families.
    pub fn round(&mut self, now: Instant) {
        let mut change = self.builder.update(&self.snapshot, &self.facts, now);
        merge(&mut change, self.builder.expire(now));
        self.tell_refusals();
        self.status.rounds += 1;
        for family in self.planes.families.clone() {
            self.family_round(family, &change, now);
            self.forget_flows(family, &change, now);
            self.retire(family, now);
        }
    }

    fn family_round(&mut self, family: IpFamily, change: &Change, now: Instant) {
        let pending = self.pending.get_mut(family);
        pending.all |= *change.node.get(family);
        pending.ports.extend(change.ports.get(family).iter().cloned());
        let changed = pending.all || !pending.ports.is_empty();
        let schedule = *self.schedules.get(family);
        let fresh = pending.urgent || pending.held || *change.node.get(family) || !change.ports.get(family).is_empty();
        if schedule.is_waiting(now) && !fresh {
            return;
        }
        if changed && !pending.urgent && !schedule.retry_is_due(now) && schedule.earliest(now, &self.timing) > now {
            pending.held = true;
            return;
        }
        if schedule.audit_is_due(now, &self.timing) {
            self.planes.active.distrust(family);
            self.pending.get_mut(family).all = true;
        } else if schedule.drain_is_due(now, &self.timing) {
            let draining = self.builder.draining(family).iter().cloned();
            self.pending.get_mut(family).ports.extend(draining);
        } else if !changed && !schedule.retry_is_due(now) {
            return;
        }
        let pending = std::mem::take(self.pending.get_mut(family));
        if !pending.all && pending.ports.is_empty() && !schedule.retry_is_due(now) {
            return;
        }
        let touched = if pending.all { Touched::All } else { Touched::Ports(&pending.ports) };
        let desired = self.builder.desired().get(family);
        let report = self.planes.active.sync(family, desired, touched, now);
        if report.wants_retry() {
            *self.pending.get_mut(family) = Pending { all: true, ..Pending::default() };
        }
        self.schedules.get_mut(family).synced(Instant::now(), report.wants_retry(), report.observed, &self.timing);
        self.record(family, &report);
    }

    /// After the sync, so that a flow that begins anew finds its new endpoint.
    fn forget_flows(&mut self, family: IpFamily, change: &Change, now: Instant) {
        let touched = if *change.node.get(family) { Touched::All } else { Touched::Ports(change.ports.get(family)) };
        let fresh = self.flows.look(family, self.builder.desired().get(family), touched);
        if self.pending.get(family).held {
            // They are due once the change is in the kernel: until then new flows go the old way.
            return;
        }
        if fresh || self.flows.is_due(family, now) {
            let settled = self.status.families.get(family).settled;
            self.flows.forget(family, self.planes.flows.as_mut(), settled, &self.timing);
        }
    }

    fn record(&mut self, family: IpFamily, report: &Report) {
        let desired = self.builder.desired().get(family);
        let ports = desired.ports.len();
        let status = self.status.families.get_mut(family);
        let first = status.last_success.is_none();
        let failures: Vec<String> = report.failures.iter().map(ToString::to_string).collect();
        let news = failures != status.failures;
        let behind_since = report.wants_retry().then(|| status.behind_since.unwrap_or_else(Instant::now));
        *status = FamilyStatus {
            in_sync: report.is_clean(),
            settled: !report.wants_retry(),
            last_success: if report.is_clean() { Some(Instant::now()) } else { status.last_success },
            behind_since,
            last_duration: report.duration,
            failures,
            ports,
            draining: self.builder.draining(family).len(),
        };
        let milliseconds = report.duration.as_millis();
        let mode = self.status.mode;
        if !report.is_clean() {
            if news {
                for failure in report.failures.iter().take(10) {
                    error!(mode, %family, "{failure}");
                }
                let count = report.failures.len();
                warn!(mode, %family, failures = count, steps = report.done, "sync incomplete; it is tried again");
            }
        } else if first || report.done > 0 {
            info!(mode, %family, services = ports, steps = report.done, milliseconds, "in sync");
        } else {
            debug!(mode, %family, services = ports, milliseconds, "in sync, nothing to do");
        }
    }

    /// Lets the other mode go: what is open drains, then nothing of it is left.
    fn retire(&mut self, family: IpFamily, now: Instant) {
        let Some(plane) = &mut self.planes.retiring else { return };
        // What lies with somebody else will not mend by keeping the other mode.
        let incomplete = self.builder.desired().get(family).incomplete;
        if !self.status.families.get(family).settled || incomplete {
            return;
        }
        let state = *self.retiring.get(family);
        let wish = match state {
            Retiring::Gone => return,
            // If it left nothing, nothing has to drain.
            Retiring::Waiting => match plane.preview(family, &Desired::default(), now) {
                Ok(steps) if steps.is_empty() => {
                    *self.retiring.get_mut(family) = Retiring::Gone;
                    return;
                }
                Ok(_) => {
                    info!(mode = plane.name(), %family, "found what an earlier run left; it drains");
                    let forever = std::time::Duration::from_secs(86_400 * 365);
                    let until = now.checked_add(self.settings.drain_timeout).unwrap_or(now + forever);
                    *self.retiring.get_mut(family) = Retiring::Until(until);
                    self.builder.desired().get(family).retired(until)
                }
                Err(error) => return warn!(mode = plane.name(), %family, "{error}"),
            },
            Retiring::Until(until) if now < until => self.builder.desired().get(family).retired(until),
            Retiring::Until(_) => {
                // What both families share goes with the second: it has to see that the first has left.
                plane.distrust(family);
                Desired::default()
            }
        };
        let report = plane.sync(family, &wish, Touched::All, now);
        for failure in &report.failures {
            warn!(mode = plane.name(), %family, "{failure}");
        }
        if wish.retiring && report.is_clean() && report.draining == 0 {
            // Nothing drains any more: no need to wait for the deadline.
            *self.retiring.get_mut(family) = Retiring::Until(now);
            return self.retire(family, now);
        }
        let left = plane.preview(family, &Desired::default(), now);
        if report.is_clean() && left.is_ok_and(|steps| steps.is_empty()) {
            info!(mode = plane.name(), %family, "is gone");
            *self.retiring.get_mut(family) = Retiring::Gone;
        }
    }

    fn tell_refusals(&mut self) {
        let refusals: BTreeSet<String> = self.builder.refusals().map(|refusal| refusal.to_string()).collect();
        for refusal in refusals.difference(&self.told) {
            warn!("{refusal}");
        }
        self.told = refusals;
    }
}

fn merge(change: &mut Change, other: Change) {
    for family in IpFamily::BOTH {
        change.ports.get_mut(family).extend(other.ports.get(family).iter().cloned());
        *change.node.get_mut(family) |= *other.node.get(family);
    }
}

#[cfg(test)]
#[path = "round_tests.rs"]
mod tests;
