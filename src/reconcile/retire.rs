//! How the mode that does not serve leaves: what is open drains, then nothing of it is left.

use super::round::Reconciler;
use super::schedule::Timing;
use super::wish::Mode;
use crate::desired::{Desired, Touched, deadline};
use crate::model::IpFamily;
use std::time::{Duration, Instant};
use tracing::{info, warn};

/// Between two looks at what drains lies so many times as long as the last one took (with many services it is a reading of its
/// own) …
const LOOK_REST: u32 = 10;
/// … but no more than so many times as long as between two that cost nothing: a look at IPVS's old connections is begun then, and
/// five seconds for one with its rest and four here are less than the ten after which IPVS ends what was reset.
const LONGEST_REST: u32 = 4;

/// How far a mode is from being gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum State {
    /// It has not been looked at.
    #[default]
    Waiting,
    /// Open connections may go on until then.
    Until(Instant),
    /// Nothing of it is left.
    Gone,
}

/// The mode of one family that does not serve.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Retirement {
    /// How far it is.
    pub state: State,
    /// Since when it takes no more.
    pub since: Option<Instant>,
    /// Connections that are still open.
    pub connections: u64,
    /// Endpoints that have any.
    pub endpoints: usize,
    /// What of it would not go.
    pub failures: Vec<String>,
    /// What of it would refuse or divert packets that the other one is to get has gone.
    aside: bool,
    /// When time is over and it would not go: it is tried again then.
    again_at: Option<Instant>,
    /// What drains is looked at again then.
    look_at: Option<Instant>,
}

impl Retirement {
    /// From now on it takes no more.
    pub fn begin(&mut self, now: Instant, drain: Duration) {
        *self = Self { state: State::Until(deadline(now, drain)), since: Some(now), ..Self::default() };
    }

    /// It came up beside the other one, and failed. What drained before goes on draining.
    pub fn take_back(&mut self, now: Instant, drain: Duration) {
        match self.state {
            State::Gone | State::Waiting => self.begin(now, drain),
            State::Until(until) => {
                // What it has taken meanwhile is not older than that.
                self.state = State::Until(until.max(deadline(now, drain)));
                (self.since, self.look_at, self.again_at, self.aside) = (Some(now), None, None, false);
            }
        }
    }

    /// Open connections may go on for so long from now on, if any may.
    pub fn drain_until(&mut self, until: Instant) {
        if let State::Until(end) = &mut self.state {
            (*end, self.look_at, self.again_at) = (until, None, None);
        }
    }

    /// It is not looked at before that.
    fn rest(&mut self, now: Instant, timing: &Timing) {
        (self.look_at, self.again_at) = (Some(now + timing.drain), Some(now + timing.drain));
    }

    /// When it is to be looked at again, if it is not gone.
    pub fn next(&self, now: Instant, timing: &Timing) -> Option<Instant> {
        match self.state {
            State::Until(until) if now < until => Some(self.look_at.unwrap_or(now + timing.drain).min(until)),
            // It should be gone and is not: once in a while is often enough.
            State::Until(_) => Some(self.again_at.unwrap_or(now)),
            State::Waiting | State::Gone => None,
        }
    }

    fn looked(&mut self, now: Instant, took: Duration, timing: &Timing) {
        let rest = took.saturating_mul(LOOK_REST);
        let rest = rest.clamp(timing.drain, timing.drain.saturating_mul(LONGEST_REST));
        self.look_at = Some(now.max(Instant::now()) + rest);
    }
}

impl Reconciler {
    /// Lets the other mode go.
    pub(super) fn retire(&mut self, family: IpFamily, now: Instant) {
        let retirement = self.retirements.get_mut(family);
        if self.builder.desired().get(family).incomplete {
            return retirement.rest(now, self.timing.get(family));
        }
        // What lies with somebody else will not mend by keeping the other mode, nor what is refused of one Service again and
        // again.
        let status = self.status.families.get(family);
        let longest = self.timing.get(family).retry_max;
        let serves = status.serves_since.is_some_and(|since| now.saturating_duration_since(since) >= longest);
        let replaced = status.settled || serves;
        // Nobody brings up to date what does not serve: packets that it still took would go to endpoints that are gone.
        if replaced || matches!(retirement.state, State::Until(_)) {
            self.retire_replaced(family, now);
        }
        if replaced {
            self.clear_leftovers(family, now);
        }
    }

    fn retire_replaced(&mut self, family: IpFamily, now: Instant) {
        let retirement = self.retirements.get_mut(family);
        let Some(plane) = self.planes.retiring(family) else {
            // What cannot be talked to has nothing that could be seen.
            retirement.state = State::Gone;
            return;
        };
        match retirement.state {
            State::Gone => return,
            // If it left nothing, nothing has to drain.
            State::Waiting => match plane.preview(family, &Desired::default(), now) {
                Ok(steps) if steps.is_empty() => return retirement.state = State::Gone,
                Ok(_) => {
                    info!(mode = plane.name(), %family, "found what an earlier run left; it drains");
                    retirement.begin(now, self.settings.drain_timeout);
                }
                Err(error) => return warn!(mode = plane.name(), %family, "{error}"),
            },
            State::Until(_) => {}
        }
        let State::Until(until) = retirement.state else { return };
        let due = if now < until { retirement.look_at } else { retirement.again_at };
        if due.is_some_and(|at| now < at) || !self.step_aside(family, until, now) {
            return;
        }
        self.remove(family, now);
    }

    /// Takes no more, and takes nothing that is the other mode's. Returns whether it may go.
    fn step_aside(&mut self, family: IpFamily, until: Instant, now: Instant) -> bool {
        let retirement = self.retirements.get_mut(family);
        let Some(plane) = self.planes.retiring(family) else { return false };
        let over = until <= now;
        if over && retirement.aside {
            return true;
        }
        let began = Instant::now();
        // Connections may end where time is over; they do not end before everything else has.
        let wish = self.builder.desired().get(family).retired(until.max(now + self.timing.get(family).drain));
        let mut report = plane.sync(family, &wish, Touched::All, now);
        if report.is_clean() && report.done > 0 && report.draining > 0 {
            // What took no more only since then may be idle already.
            report = plane.sync(family, &wish, Touched::All, now);
        }
        retirement.looked(now, began.elapsed(), self.timing.get(family));
        retirement.take(&report, plane.name(), family);
        retirement.aside = report.is_clean();
        // Going all the same would be worse: its refusals would outlive what they belong to.
        let patient = retirement.since.is_some_and(|since| now < since + self.timing.get(family).retry_max);
        let connections = *self.planes.active.get(family) == Mode::Iptables;
        if over {
            retirement.again_at = Some(now.max(Instant::now()) + self.timing.get(family).drain);
            return retirement.aside || !patient;
        }
        report.draining == 0 && (retirement.aside || !patient && !connections)
    }

    /// Nothing drains any more, or time is over.
    fn remove(&mut self, family: IpFamily, now: Instant) {
        // UDP flows that go on would otherwise find nothing there.
        self.take_over_flows(family);
        let retirement = self.retirements.get_mut(family);
        let Some(plane) = self.planes.retiring(family) else { return };
        // What both families share goes with the second: it has to see that the first has left.
        plane.distrust(family);
        let report = plane.sync(family, &Desired::default(), Touched::All, now);
        retirement.take(&report, plane.name(), family);
        let left = plane.preview(family, &Desired::default(), now);
        if report.is_clean() && left.is_ok_and(|steps| steps.is_empty()) {
            info!(mode = plane.name(), %family, "is gone");
            *retirement = Retirement { state: State::Gone, ..Retirement::default() };
            // Those that came between the first time and the end of IPVS.
            self.take_over_flows(family);
        } else if let State::Until(until) = &mut retirement.state {
            // From here on it is tried once in a while.
            *until = (*until).min(now);
            retirement.again_at = Some(now.max(Instant::now()) + self.timing.get(family).retry_max);
        }
    }
}

impl Reconciler {
    /// Connection tracking takes over the UDP flows that IPVS carries, where it is IPVS that leaves. Failing is no reason to
    /// stay.
    fn take_over_flows(&mut self, family: IpFamily) {
        let leaves = self.planes.active.get(family).other();
        if leaves != Mode::Ipvs {
            return;
        }
        match self.flows.take_over(family, self.planes.flows.as_mut()) {
            Ok(0) => {}
            Ok(flows) => info!(%family, flows, "connection tracking goes on with UDP flows that IPVS carried"),
            Err(error) => warn!(%family, "{error}"),
        }
    }
}

impl Retirement {
    fn take(&mut self, report: &crate::backend::Report, mode: &str, family: IpFamily) {
        (self.connections, self.endpoints) = (report.connections, report.draining);
        let failures: Vec<String> = report.failures.iter().map(ToString::to_string).collect();
        if failures != self.failures {
            failures.iter().take(10).for_each(|failure| warn!(mode, %family, "{failure}"));
            self.failures = failures;
        }
    }
}
