//! UDP flows that no longer go where they should: remembered from the change that made them so until the kernel has
//! forgotten them. What goes wrong here never stops a sync; it is tried again by a clock of its own.

use super::schedule::{Outcome, Schedule, Timing};
use crate::backend::{FlowError, FlowTable};
use crate::desired::{Desired, Touched, UdpWatch};
use crate::model::{IpFamily, PerFamily};
use std::time::{Duration, Instant};
use tracing::{debug, warn};

/// What is to be forgotten, in both families.
#[derive(Debug, Default)]
pub struct Flows {
    watches: PerFamily<UdpWatch>,
    schedules: PerFamily<Schedule>,
    told: PerFamily<Option<String>>,
}

impl Flows {
    /// Takes in what is desired; true if flows have to be looked at because of it.
    pub fn look(&mut self, family: IpFamily, desired: &Desired, touched: Touched<'_>) -> bool {
        self.watches.get_mut(family).look(desired, touched)
    }

    /// Whether flows are to be looked at that could not be dealt with before.
    pub fn is_due(&self, family: IpFamily, now: Instant) -> bool {
        !self.watches.get(family).due().is_empty() && !self.schedules.get(family).is_waiting(now)
    }

    /// When something is due again, if anything is.
    pub fn next(&self, family: IpFamily, now: Instant) -> Option<Instant> {
        let waits = !self.watches.get(family).due().is_empty();
        waits.then(|| self.schedules.get(family).retry_at().map_or(now, |at| at.max(now)))
    }

    /// Has connection tracking translate the UDP flows that IPVS carries: IPVS leaves.
    ///
    /// # Errors
    /// As [`FlowTable::take_over`].
    pub fn take_over(&self, family: IpFamily, table: &mut dyn FlowTable) -> Result<usize, FlowError> {
        let flows = self.watches.get(family).all();
        if flows.is_empty() { Ok(0) } else { table.take_over(family, &flows) }
    }

    /// Makes the kernel forget what is due. It stays due if that fails, or if the sync before left something to be done
    /// (not `settled`): new flows may still have gone the old way. Returns how long it took, and how many flows there were.
    pub fn forget(
        &mut self,
        family: IpFamily,
        table: &mut dyn FlowTable,
        settled: bool,
        timing: &Timing,
    ) -> Option<(Duration, usize)> {
        let watch = self.watches.get_mut(family);
        let started = Instant::now();
        let outcome = table.forget(family, watch.due());
        let again = outcome.is_err() || !settled;
        let asked = Outcome { retry: again, anew: again, observed: true, ..Outcome::default() };
        self.schedules.get_mut(family).synced(Instant::now(), &asked, timing);
        let told = self.told.get_mut(family);
        match outcome {
            Ok(deleted) => {
                let (frontends, took) = (watch.due().frontends().count(), started.elapsed());
                debug!(%family, deleted, frontends, milliseconds = took.as_millis(), "looked for stale UDP flows");
                *told = None;
                if settled {
                    watch.done();
                }
                Some((took, deleted))
            }
            Err(error) => {
                let error = error.to_string();
                if told.as_ref() != Some(&error) {
                    warn!(%family, "{error}; it is tried again");
                    *told = Some(error);
                }
                None
            }
        }
    }
}
