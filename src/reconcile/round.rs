//! One round: what is desired now, what of it is not in the kernel yet, and bringing it there.

use super::Trigger;
use super::auto::Hysteresis;
use super::configured::Configuration;
use super::decide::decide;
use super::flows::Flows;
use super::leftovers::Leftovers;
use super::meter::Tally;
use super::pending::Pending;
use super::retire::Retirement;
use super::schedule::{AUDIT_SLICE, Outcome, Schedule, Timing, Timings};
use super::status::Status;
use super::switch::{Follower, Switch};
use super::wish::Planes;
use crate::backend::{Audit, Report};
use crate::desired::{Builder, Change, Desired, HealthChecks, NodeFacts, Refusal, ServicePortKey, Settings, Touched};
use crate::model::{Events, IpFamily, PerFamily, ServiceName, Snapshot};
use imbl::OrdSet;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;
use tracing::{debug, error, info, warn};

/// Owns all state of the loop.
#[derive(Debug)]
pub struct Reconciler {
    pub(super) builder: Builder,
    pub(super) settings: Arc<Settings>,
    pub(super) timings: Timings,
    /// That of the mode which serves.
    pub(super) timing: PerFamily<Timing>,
    pub(super) planes: Planes,
    facts: NodeFacts,
    pub(super) snapshot: Snapshot,
    pub(super) pending: PerFamily<Pending>,
    pub(super) schedules: PerFamily<Schedule>,
    pub(super) retirements: PerFamily<Retirement>,
    pub(super) leftovers: PerFamily<Leftovers>,
    pub(super) flows: Flows,
    pub(super) status: Status,
    pub(super) switches: VecDeque<Switch>,
    pub(super) followers: Vec<Follower>,
    /// Another mode serves since a moment ago, and its status is to be seen before the other one leaves.
    pub(super) handed_over: bool,
    pub(super) probed: Option<Result<(), String>>,
    pub(super) hysteresis: Hysteresis,
    pub(super) configuration: Configuration,
    pub(super) tally: Tally,
    pub(super) told: BTreeSet<Refusal>,
    /// Services that were told that iptables mode has not what they ask for.
    pub(super) told_without_effect: OrdSet<ServiceName>,
    pub(super) events: Events,
}

impl Reconciler {
    /// A reconciler that has not touched anything.
    pub fn new(settings: Arc<Settings>, timings: impl Into<Timings>, planes: Planes, facts: NodeFacts) -> Self {
        let mut reconciler = Self {
            builder: Builder::new(settings.clone()),
            settings,
            timings: timings.into(),
            timing: PerFamily::default(),
            status: Status { programmed: planes.families.clone(), ..Status::default() },
            planes,
            facts,
            snapshot: Snapshot::default(),
            pending: PerFamily::from_fn(|_| Pending { all: true, ..Pending::default() }),
            schedules: PerFamily::default(),
            retirements: PerFamily::default(),
            leftovers: PerFamily::default(),
            flows: Flows::default(),
            switches: VecDeque::new(),
            followers: Vec::new(),
            handed_over: false,
            probed: None,
            hysteresis: Hysteresis::default(),
            configuration: Configuration::default(),
            tally: Tally::new(Box::new(())),
            told: BTreeSet::new(),
            told_without_effect: OrdSet::new(),
            events: Events::default(),
        };
        IpFamily::BOTH.into_iter().for_each(|family| reconciler.moved(family));
        reconciler
    }

    /// Tells there what the owners of objects should know.
    #[must_use]
    pub fn telling(mut self, events: Events) -> Self {
        self.events = events;
        self
    }

    /// Takes in the newest snapshot; the next round works on it.
    pub fn take_snapshot(&mut self, snapshot: &Snapshot) {
        self.meter_snapshot(snapshot);
        self.snapshot = snapshot.clone();
    }

    /// Takes in what happened outside.
    pub fn take_trigger(&mut self, trigger: Trigger) {
        match trigger {
            Trigger::Facts(facts) => self.facts = facts,
            Trigger::Gone(family, object) => {
                let missed = self.planes.active(family).is_some_and(|plane| plane.lost(family, &object));
                if missed {
                    info!(%family, ?object, "somebody deleted what is ours; reading the kernel again");
                    let pending = self.pending.get_mut(family);
                    (pending.all, pending.urgent) = (true, true);
                }
            }
            Trigger::Settings(settings, timings) => {
                self.timings = timings;
                self.take_timings();
                self.planes.modes.take_settings(&settings);
                self.settings = settings.clone();
                self.builder.set_settings(settings);
                // What an earlier configuration did to the kernel may not be known: it is read again.
                IpFamily::BOTH.into_iter().for_each(|family| self.read_again(family));
            }
            Trigger::Lost => IpFamily::BOTH.into_iter().for_each(|family| self.distrust(family)),
            Trigger::Switch(switch) => self.switches.push_back(switch),
            Trigger::Probed(outcome) => self.probed = Some(outcome),
        }
    }

    /// The next sync reads the kernel.
    fn read_again(&mut self, family: IpFamily) {
        if let Some(plane) = self.planes.active(family) {
            plane.distrust(family);
        }
    }

    fn distrust(&mut self, family: IpFamily) {
        self.read_again(family);
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

    /// What is wanted of the kernel.
    pub fn desired(&self) -> &PerFamily<Desired> {
        self.builder.desired()
    }

    /// When the next round is due if nothing happens before.
    pub fn next_wake(&self, now: Instant) -> Instant {
        if self.handed_over {
            return now;
        }
        let next = |family: &IpFamily| {
            let draining = self.drains(*family);
            let (schedule, pending) = (self.schedules.get(*family), self.pending.get(*family));
            let own = if pending.all && !pending.held && schedule.retry_at().is_none() {
                // An audit left it.
                now
            } else if pending.held {
                // The sync that they wait for comes before the flows, and before whatever else is due.
                let earliest = schedule.earliest(now, self.timing.get(*family));
                schedule.retry_at().map_or(earliest, |at| earliest.min(at.max(now)))
            } else {
                let own = schedule.next(now, draining, self.timing.get(*family));
                self.flows.next(*family, now).map_or(own, |at| own.min(at))
            };
            self.retirements.get(*family).next(now, self.timing.get(*family)).map_or(own, |at| own.min(at))
        };
        self.planes.families.iter().map(next).min().unwrap_or(now + self.status.sync_period)
    }

    /// One round over both families.
    pub fn round(&mut self, now: Instant) {
        let mut change = self.decide(now);
        merge(&mut change, self.builder.expire(now));
        self.meter_change(&change);
        self.tell_refusals();
        self.tell_without_effect();
        self.status.rounds += 1;
        self.handed_over = false;
        self.tell_news();
        self.judge(now);
        self.switch_all(now);
        if self.handed_over {
            self.keep(&change);
            return;
        }
        for family in self.planes.families.clone() {
            self.family_round(family, &change, now);
            if self.has_everything(family, now) {
                self.meter_in_force(family);
            }
            self.forget_flows(family, &change, now);
            self.retire(family, now);
            self.tell_draining(family);
        }
        self.tell_followers();
    }

    /// Takes in the newest snapshot. Where it is the first, writing it begins meanwhile, for one family: a mode has one thread
    /// that writes.
    fn decide(&mut self, now: Instant) -> Change {
        let free = |family: &IpFamily| {
            let schedule = self.schedules.get(*family);
            !schedule.is_waiting(now) && schedule.earliest(now, self.timing.get(*family)) <= now
        };
        let family = self.planes.families.first().copied().filter(free).filter(|_| self.switches.is_empty());
        let planes = &mut self.planes;
        decide(&mut self.builder, (&self.snapshot, &self.facts), now, family, |family, desired, extent| {
            planes.active(family).is_some_and(|plane| plane.begin(family, desired, extent, now))
        })
    }

    /// Leaves a change to the next round, which comes at once.
    fn keep(&mut self, change: &Change) {
        for family in IpFamily::BOTH {
            self.wants(family, change);
            self.flows.look(family, self.builder.desired().get(family), touched_by(family, change));
            self.tell_draining(family);
        }
    }

    fn wants(&mut self, family: IpFamily, change: &Change) {
        let pending = self.pending.get_mut(family);
        pending.all |= *change.node.get(family);
        pending.news |= *change.node.get(family) || !change.ports.get(family).is_empty();
        if pending.all {
            pending.ports.clear();
        } else {
            pending.ports.extend(change.ports.get(family).iter().cloned());
        }
    }

    fn family_round(&mut self, family: IpFamily, change: &Change, now: Instant) {
        self.wants(family, change);
        let pending = self.pending.get_mut(family);
        let changed = pending.all || !pending.ports.is_empty();
        let schedule = *self.schedules.get(family);
        let fresh = pending.urgent || pending.held || *change.node.get(family) || !change.ports.get(family).is_empty();
        if schedule.is_waiting(now) && !fresh {
            return;
        }
        let timing = self.timing.get(family);
        if changed && !pending.urgent && !schedule.retry_is_due(now) && schedule.earliest(now, timing) > now {
            pending.held = true;
            self.meter_queued(family, true);
            return;
        }
        // What changed goes first, and a slice of the audit after it.
        let audit = schedule.audit_is_due(now, timing);
        if audit && !changed {
            self.audit(family);
        }
        if self.drains(family) && schedule.drain_is_due(now, self.timing.get(family)) {
            let draining: Vec<ServicePortKey> = self.still_draining(family).cloned().collect();
            self.pending.get_mut(family).ports.extend(draining);
            self.schedules.get_mut(family).drained(now);
        } else if !audit && !changed && !schedule.retry_is_due(now) {
            return;
        }
        if schedule.retry_is_due(now) {
            // What was refused is not all that may have happened since.
            self.distrust(family);
        }
        let pending = std::mem::take(self.pending.get_mut(family));
        if !pending.all && pending.ports.is_empty() {
            return;
        }
        let touched = if pending.all { Touched::All } else { Touched::Ports(&pending.ports) };
        self.meter_queued(family, changed);
        let desired = self.builder.desired().get(family);
        let Some(plane) = self.planes.active(family) else { return };
        let report = plane.sync(family, desired, touched, now);
        self.meter_synced(family, pending.all, &report);
        let wanted_before = pending.ports.is_empty() && !pending.news;
        self.count_repairs(family, &report, wanted_before);
        if report.wants_retry() {
            *self.pending.get_mut(family) = Pending::of(&report);
        }
        let timing = self.timing.get(family);
        self.schedules.get_mut(family).synced(Instant::now(), &Outcome::of(&report), timing);
        self.record(family, &report);
        self.meter_serving(family);
        if report.observed {
            let orphans = self.has_orphans(family);
            self.schedules.get_mut(family).orphaned(now.max(Instant::now()), orphans, self.timing.get(family));
        }
        if audit && changed && !report.observed {
            self.audit(family);
        }
    }

    /// Compares a little further. What does not hold is read by the sync that follows, and mended.
    fn audit(&mut self, family: IpFamily) {
        let Some(plane) = self.planes.active(family) else { return };
        let outcome = plane.audit(family, Instant::now() + AUDIT_SLICE);
        let now = Instant::now();
        match outcome {
            Audit::Unfinished => self.schedules.get_mut(family).audit_goes_on(now),
            // Nobody counts their connections meanwhile: only reading tells when it is over.
            Audit::Holds | Audit::Owes if self.has_orphans(family) => self.distrust(family),
            Audit::Holds => self.schedules.get_mut(family).audited(now),
            Audit::Owes => {
                self.schedules.get_mut(family).audited_owing(now);
                self.pending.get_mut(family).all = true;
            }
            Audit::Doubtful => self.distrust(family),
        }
    }

    /// Whether the kernel has taken all that is wanted, as far as trying again could help.
    fn has_everything(&self, family: IpFamily, now: Instant) -> bool {
        let pending = self.pending.get(family);
        let waits = pending.all || !pending.ports.is_empty() || self.schedules.get(family).is_waiting(now);
        let all_known = !self.builder.desired().get(family).incomplete;
        !waits && all_known && self.status.families.get(family).settled
    }

    /// After the sync, so that a flow that begins anew finds its new endpoint.
    fn forget_flows(&mut self, family: IpFamily, change: &Change, now: Instant) {
        let fresh = self.flows.look(family, self.builder.desired().get(family), touched_by(family, change));
        if self.pending.get(family).held {
            // They are due once the change is in the kernel: until then new flows go the old way.
            return;
        }
        if fresh || self.flows.is_due(family, now) {
            let settled = self.status.families.get(family).settled;
            if let Some((duration, deleted)) =
                self.flows.forget(family, self.planes.flows.as_mut(), settled, self.timing.get(family))
            {
                self.tally.flows(family, duration, deleted);
            }
        }
    }

    /// What was read and differed although everything had been as wanted, and nothing else is wanted now, was changed by
    /// somebody else.
    fn count_repairs(&mut self, family: IpFamily, report: &Report, wanted_before: bool) {
        let status = self.status.families.get_mut(family);
        if report.observed && report.done > 0 && wanted_before && status.in_sync {
            status.repaired += u64::try_from(report.done).unwrap_or(u64::MAX);
            status.last_repair = Some(Instant::now());
        }
    }

    pub(super) fn record(&mut self, family: IpFamily, report: &Report) {
        let desired = self.builder.desired().get(family);
        let ports = desired.ports.len();
        let status = self.status.families.get_mut(family);
        let first = status.last_success.is_none();
        let failures: Vec<String> = report.failures.iter().map(ToString::to_string).collect();
        let news = failures != status.failures;
        let ended = Instant::now();
        status.in_sync = report.is_clean();
        status.settled = !report.wants_retry();
        let serves = report.serves(ports) && !desired.incomplete;
        status.serves_since = serves.then(|| status.serves_since.unwrap_or(ended));
        status.behind_since = report.wants_retry().then(|| status.behind_since.unwrap_or(ended));
        status.last_sync = Some(ended);
        status.last_duration = report.duration;
        status.ports = ports;
        (status.connections, status.endpoints) = (report.connections, report.draining);
        match failures.first() {
            None => status.last_success = Some(ended),
            Some(failure) => status.last_failure = Some((ended, failure.clone())),
        }
        status.failures = failures;
        let mode = status.mode.map_or("", super::wish::Mode::name);
        // As a number: JSON has none of 128 bits.
        let milliseconds = u64::try_from(report.duration.as_millis()).unwrap_or(u64::MAX);
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
}

fn touched_by(family: IpFamily, change: &Change) -> Touched<'_> {
    if *change.node.get(family) { Touched::All } else { Touched::Ports(change.ports.get(family)) }
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
