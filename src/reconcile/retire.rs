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
/// … but no more than so many times as long as between two that cost nothing.
const LONGEST_REST: u32 = 10;

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
    /// It never served: it came up beside the other one, and failed.
    half: bool,
    /// What of it would refuse or divert packets that the other one is to get has gone.
    aside: bool,
    /// What drains is looked at again then.
    look_at: Option<Instant>,
}

impl Retirement {
    /// From now on it takes no more.
    pub fn begin(&mut self, now: Instant, drain: Duration) {
        *self = Self { state: State::Until(deadline(now, drain)), since: Some(now), ..Self::default() };
    }

    /// Came up beside the other one, and failed.
    pub fn begin_half(&mut self, now: Instant, drain: Duration) {
        self.begin(now, drain);
        self.half = true;
    }

    /// When it is to be looked at again, if it is not gone.
    pub fn next(&self, now: Instant, timing: &Timing) -> Option<Instant> {
        match self.state {
            State::Until(until) if now < until => Some(self.look_at.unwrap_or(now + timing.drain).min(until)),
            // It should be gone and is not: once in a while is often enough.
            State::Until(_) => Some(now + timing.retry_max),
            State::Waiting | State::Gone => None,
        }
    }

    fn looked(&mut self, began: Instant, timing: &Timing) {
        let ended = Instant::now();
        let rest = ended.saturating_duration_since(began).saturating_mul(LOOK_REST);
        self.look_at = Some(ended + rest.clamp(timing.drain, timing.drain.saturating_mul(LONGEST_REST)));
    }
}

impl Reconciler {
    /// Lets the other mode go.
    pub(super) fn retire(&mut self, family: IpFamily, now: Instant) {
        let desired = self.builder.desired().get(family);
        // What lies with somebody else will not mend by keeping the other mode.
        let settled = self.status.families.get(family).settled && !desired.incomplete;
        // Nobody brings up to date what never served: packets that it still took would go to endpoints that are gone.
        if settled || self.retirements.get(family).half {
            self.retire_settled(family, now);
        }
        if settled {
            self.clear_leftovers(family, now);
        }
    }

    fn retire_settled(&mut self, family: IpFamily, now: Instant) {
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
        if now < until && retirement.look_at.is_some_and(|at| now < at) {
            return;
        }
        // Where time is over before it began, it has to step aside all the same before it goes.
        if now < until || !retirement.aside {
            let began = Instant::now();
            let wish = self.builder.desired().get(family).retired(until.max(now + self.timing.drain));
            let mut report = plane.sync(family, &wish, Touched::All, now);
            if report.is_clean() && report.done > 0 && report.draining > 0 {
                // What took no more only since then may be idle already.
                report = plane.sync(family, &wish, Touched::All, now);
            }
            retirement.looked(began, &self.timing);
            retirement.take(&report, plane.name(), family);
            retirement.aside = report.is_clean();
            if now < until && (!report.is_clean() || report.draining > 0) {
                return;
            }
        }
        self.remove(family, now);
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
