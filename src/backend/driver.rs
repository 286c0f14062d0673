//! Keeps what we believe of the kernel for one backend, and decides when it has to be read again.
//!
//! The belief moves only by what the kernel acknowledged. After any failure it is dropped, so that a failed call can
//! never become a wrong belief: the next round reads the kernel and sees the difference again.

use super::{Affinity, Ahead, Audit, Backend, Dataplane, Failure, Lost, ObserveError, Report, Times};
use crate::desired::{Desired, Touched};
use crate::model::{IpFamily, PerFamily};
use std::time::Instant;

/// A backend with its belief.
#[derive(Debug)]
pub struct Driver<B: Backend> {
    backend: B,
    belief: PerFamily<Option<B::Observed>>,
    /// Something stood in the way of the last sync, for which trying again at once does not help: the audit tries.
    obstructed: PerFamily<bool>,
}

/// How far a sync went before the plan as a whole.
#[derive(Debug, Default)]
struct Gone {
    steps: usize,
    failures: Vec<Failure>,
    /// Nothing is left for that plan.
    all_the_way: bool,
}

impl<B: Backend> Driver<B> {
    /// A driver that knows nothing yet.
    pub fn new(backend: B) -> Self {
        Self { backend, belief: PerFamily { v4: None, v6: None }, obstructed: PerFamily::default() }
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
    fn go_ahead(
        &mut self,
        family: IpFamily,
        desired: &Desired,
        belief: &mut B::Observed,
        now: Instant,
        times: &mut Times,
    ) -> Gone {
        let (mut ahead, mut gone) = (Ahead::default(), Gone::default());
        while gone.failures.is_empty() {
            let planning = Instant::now();
            let piece = self.backend.plan_ahead(family, desired, belief, now, &mut ahead);
            times.plan += planning.elapsed();
            let Some(piece) = piece else {
                gone.all_the_way = ahead.covers;
                break;
            };
            gone.steps += piece.len();
            let applying = Instant::now();
            gone.failures = self.backend.apply_ahead(family, piece, belief);
            times.apply += applying.elapsed();
        }
        let settling = Instant::now();
        gone.failures.extend(self.backend.settle(belief));
        times.apply += settling.elapsed();
        gone.all_the_way &= gone.failures.is_empty();
        gone
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

    fn sync(&mut self, family: IpFamily, desired: &Desired, touched: Touched<'_>, now: Instant) -> Report {
        let started = Instant::now();
        let (mut belief, observed) = match self.believe(family, desired, touched) {
            Ok(believed) => believed,
            Err(error) => {
                let what = format!("read the {family} state of {} mode", self.name());
                let failure = Failure { step: what, reason: error.to_string(), lasting: false };
                return Report { failures: vec![failure], duration: started.elapsed(), ..Report::default() };
            }
        };
        // What was just read may differ from what was desired last time in any place.
        let touched = if observed { Touched::All } else { touched };
        let mut times = Times { observe: started.elapsed(), ..Times::default() };
        let mut gone = Gone::default();
        if matches!(touched, Touched::All) {
            gone = self.go_ahead(family, desired, &mut belief, now, &mut times);
        }
        let Gone { mut steps, mut failures, all_the_way } = gone;
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
            duration: started.elapsed(),
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
}
