//! Keeps what we believe of the kernel for one backend, and decides when it has to be read again.
//!
//! The belief moves only by what the kernel acknowledged. After any failure it is dropped, so that a failed call can
//! never become a wrong belief: the next round reads the kernel and sees the difference again.

use super::{Affinity, Ahead, Audit, Backend, Dataplane, Failure, Lost, ObserveError, Report, Times};
use crate::desired::{Desired, Extent, Touched};
use crate::model::{IpFamily, PerFamily};
use std::time::{Duration, Instant};

/// A backend with its belief.
#[derive(Debug)]
pub struct Driver<B: Backend> {
    backend: B,
    belief: PerFamily<Option<B::Observed>>,
    /// Something stood in the way of the last sync, for which trying again at once does not help: the audit tries.
    obstructed: PerFamily<bool>,
    begun: PerFamily<Option<Begun<B::Observed>>>,
}

/// A sync that went ahead of the plan as a whole, maybe before all of what is desired was known.
#[derive(Debug)]
struct Begun<O> {
    belief: O,
    /// It was read from the kernel.
    observed: bool,
    ahead: Ahead,
    steps: usize,
    failures: Vec<Failure>,
    times: Times,
    took: Duration,
}

impl<O> Begun<O> {
    fn new(belief: O, observed: bool, observe: Duration) -> Self {
        let times = Times { observe, ..Times::default() };
        Self { belief, observed, ahead: Ahead::default(), steps: 0, failures: Vec::new(), times, took: Duration::ZERO }
    }
}

impl<B: Backend> Driver<B> {
    /// A driver that knows nothing yet.
    pub fn new(backend: B) -> Self {
        let (belief, begun) = (PerFamily { v4: None, v6: None }, PerFamily { v4: None, v6: None });
        Self { backend, belief, obstructed: PerFamily::default(), begun }
    }

    /// The backend.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// The backend, for tests that inject faults.
    pub fn backend_mut(&mut self) -> &mut B {
        &mut self.backend
    }

    /// Carries out what may come before the plan as a whole, until something fails: the plan tries that again, and it is
    /// told all the same, so that the kernel is read before anything else.
    fn go_ahead(&mut self, family: IpFamily, desired: &Desired, begun: &mut Begun<B::Observed>, now: Instant) {
        while begun.failures.is_empty() {
            let planning = Instant::now();
            let piece = self.backend.plan_ahead(family, desired, &begun.belief, now, &mut begun.ahead);
            begun.times.plan += planning.elapsed();
            let Some(piece) = piece else { break };
            begun.steps += piece.len();
            let applying = Instant::now();
            begun.failures = self.backend.apply_ahead(family, piece, &mut begun.belief);
            begun.times.apply += applying.elapsed();
        }
    }

    /// What is under way comes to its end.
    fn settle(&mut self, begun: &mut Begun<B::Observed>) {
        let settling = Instant::now();
        let failures = self.backend.settle(&mut begun.belief);
        begun.failures.extend(failures);
        begun.times.apply += settling.elapsed();
    }

    /// What was begun before all was known, or the belief to begin with.
    fn begun_or_believed(
        &mut self,
        family: IpFamily,
        desired: &Desired,
        touched: Touched<'_>,
    ) -> Result<Begun<B::Observed>, ObserveError> {
        if let Some(begun) = self.begun.get_mut(family).take() {
            return Ok(begun);
        }
        let started = Instant::now();
        let (belief, observed) = self.believe(family, desired, touched)?;
        Ok(Begun::new(belief, observed, started.elapsed()))
    }

    /// The belief, taken out, and whether it had to be read.
    fn believe(
        &mut self,
        family: IpFamily,
        desired: &Desired,
        touched: Touched<'_>,
    ) -> Result<(B::Observed, bool), ObserveError> {
        match self.belief.get_mut(family).take() {
            Some(mut belief) => {
                self.backend.refresh(family, desired, touched, &mut belief)?;
                Ok((belief, false))
            }
            None => Ok((self.backend.observe(family)?, true)),
        }
    }
}

impl<B> Dataplane for Driver<B>
where
    B: Backend + Send,
    B::Observed: Send,
{
    fn name(&self) -> &'static str {
        self.backend.name()
    }

    fn preview(&mut self, family: IpFamily, desired: &Desired, now: Instant) -> Result<Vec<String>, ObserveError> {
        let observed = self.backend.observe(family)?;
        let plan = self.backend.plan(family, desired, &observed, Touched::All, now);
        Ok(plan.iter().map(ToString::to_string).collect())
    }

    fn begin(&mut self, family: IpFamily, desired: &Desired, extent: &Extent, now: Instant) -> bool {
        let started = Instant::now();
        let begun = match self.begun.get_mut(family).take() {
            Some(begun) => Some(begun),
            None if self.belief.get(family).is_some() => None,
            // The sync that follows meets the same and tells it.
            None => self.backend.observe(family).ok().map(|belief| Begun::new(belief, true, started.elapsed())),
        };
        let Some(mut begun) = begun else { return false };
        begun.ahead.extent = Some(extent.clone());
        self.go_ahead(family, desired, &mut begun, now);
        begun.took += started.elapsed();
        let goes_on = begun.ahead.pieces > 0 && begun.failures.is_empty();
        *self.begun.get_mut(family) = Some(begun);
        goes_on
    }

    fn sync(&mut self, family: IpFamily, desired: &Desired, touched: Touched<'_>, now: Instant) -> Report {
        let started = Instant::now();
        let mut begun = match self.begun_or_believed(family, desired, touched) {
            Ok(begun) => begun,
            Err(error) => {
                let what = format!("read the {family} state of {} mode", self.name());
                let failure = Failure { step: what, reason: error.to_string(), lasting: false, of_one: false };
                return Report { failures: vec![failure], duration: started.elapsed(), ..Report::default() };
            }
        };
        // What was just read may differ from what was desired last time in any place.
        let touched = if begun.observed { Touched::All } else { touched };
        let mut all_the_way = false;
        if matches!(touched, Touched::All) {
            begun.ahead.extent = None;
            self.go_ahead(family, desired, &mut begun, now);
            self.settle(&mut begun);
            all_the_way = begun.ahead.covers && begun.failures.is_empty();
        }
        let Begun { mut belief, observed, mut steps, mut failures, mut times, took, .. } = begun;
        let planning = Instant::now();
        let plan = if all_the_way { Vec::new() } else { self.backend.plan(family, desired, &belief, touched, now) };
        times.plan += planning.elapsed();
        steps += plan.len();
        let applying = Instant::now();
        if !plan.is_empty() {
            failures.extend(self.backend.apply(family, plan, &mut belief));
        }
        times.apply += applying.elapsed();
        self.backend.tend(family, desired, &belief);
        let (draining, connections) = (self.backend.draining(&belief), self.backend.connections(&belief));
        let rules = self.backend.count_rules(&mut belief);
        *self.obstructed.get_mut(family) = !failures.is_empty();
        if failures.iter().all(|failure| failure.lasting) {
            self.backend.remember(desired, touched, &mut belief);
            *self.belief.get_mut(family) = Some(belief);
        }
        Report {
            done: steps.saturating_sub(failures.len()),
            failures,
            draining,
            connections,
            observed,
            duration: took + started.elapsed(),
            times,
            effort: self.backend.take_effort(),
            rules,
        }
    }

    fn lost(&mut self, family: IpFamily, lost: &Lost) -> bool {
        let belief = self.belief.get(family).as_ref();
        let missed = belief.is_some_and(|belief| self.backend.believes(belief, lost));
        if missed {
            self.distrust(family);
        }
        missed
    }

    fn distrust(&mut self, family: IpFamily) {
        *self.belief.get_mut(family) = None;
        if let Some(mut begun) = self.begun.get_mut(family).take() {
            self.settle(&mut begun);
        }
        self.backend.end_audit(family);
    }

    fn audit(&mut self, family: IpFamily, until: Instant) -> Audit {
        let Some(belief) = self.belief.get(family).as_ref().filter(|_| !self.obstructed.get(family)) else {
            return Audit::Doubtful;
        };
        match self.backend.audit(family, belief, until) {
            Ok(audit) => audit,
            Err(error) => {
                // The sync that follows meets the same and tells it.
                tracing::debug!(%family, "audit: {error}");
                Audit::Doubtful
            }
        }
    }

    fn affinities(&mut self, family: IpFamily) -> Result<Vec<Affinity>, ObserveError> {
        self.backend.affinities(family)
    }

    fn expect(&mut self, family: IpFamily, desired: &Desired, affinities: &[Affinity]) {
        self.backend.expect(family, desired, affinities);
    }

    fn serve(&mut self, family: IpFamily) {
        self.backend.serve(family);
    }
}
