//! What kube-proxy left on the node besides what the modes take over from it goes once we serve: first what still takes
//! packets, then, when the mode that does not serve is gone as well, the rest.

use super::retire::State;
use super::round::Reconciler;
use crate::desired::{Desired, Touched};
use crate::model::IpFamily;
use std::time::Instant;
use tracing::{info, warn};

/// How far that is in one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Leftovers {
    /// It has not been looked at.
    #[default]
    Unknown,
    /// Nothing of it takes packets any more.
    Idle,
    /// Nothing of it is left.
    Gone,
    /// Something would not go, and is tried again after that.
    Refused(Instant),
}

impl Reconciler {
    /// Removes it, as far as that is possible now. The mode that serves needs nothing of it.
    pub(super) fn clear_leftovers(&mut self, family: IpFamily, now: Instant) {
        let alone = self.retirements.get(family).state == State::Gone;
        match *self.leftovers.get(family) {
            Leftovers::Gone => return,
            Leftovers::Idle if !alone => return,
            Leftovers::Refused(until) if now < until => return,
            _ => {}
        }
        let Some(plane) = self.planes.leftovers.as_mut() else { return };
        let nothing = Desired::default();
        let wish = if alone { &nothing } else { self.builder.desired().get(family) };
        plane.distrust(family);
        let report = plane.sync(family, wish, Touched::All, now);
        if report.done > 0 {
            info!(%family, steps = report.done, "removed what kube-proxy left");
        }
        let first = !matches!(self.leftovers.get(family), Leftovers::Refused(_));
        for failure in report.failures.iter().filter(|_| first).take(10) {
            warn!(%family, "what kube-proxy left would not go: {failure}");
        }
        *self.leftovers.get_mut(family) = match (report.is_clean(), alone) {
            (false, _) => Leftovers::Refused(now + self.timing.get(family).retry_max),
            (true, false) => Leftovers::Idle,
            (true, true) => Leftovers::Gone,
        };
    }
}
