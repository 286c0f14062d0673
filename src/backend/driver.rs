//! Keeps what we believe of the kernel for one backend, and decides when it has to be read again.
//!
//! The belief moves only by what the kernel acknowledged. After a failure of which nobody knows what it did, it is dropped, so
//! that a failed call can never become a wrong belief: the next round reads the kernel and sees the difference again. What the
//! kernel refused, doing nothing, leaves the belief as it is: changes go on from there and cost what they change, and the
//! failure stands until everything is compared again.

use super::{Affinity, Aftermath, Ahead, Audit, Backend, Dataplane, Failure, Lost, ObserveError, Report, Times};
use crate::desired::{Desired, Extent, ServicePort, Touched};
use crate::model::{IpFamily, PerFamily};
use std::collections::HashSet;
use std::time::{Duration, Instant};

/// A backend with its belief.
#[derive(Debug)]
pub struct Driver<B: Backend> {
    backend: B,
    belief: PerFamily<Option<B::Observed>>,
    /// What the kernel did not take when it was last tried, although it is wanted. The audit tries it again.
    standing: PerFamily<Vec<Failure>>,
    begun: PerFamily<Option<Begun<B::Observed>>>,
    /// Not all of what is desired was known at the last sync.
    partial: PerFamily<bool>,
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
        Self { backend, belief, standing: PerFamily::default(), begun, partial: PerFamily::default() }
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

    /// All that is wanted and not in the kernel, what failed earlier first; how much of it that is; and whether anything failed
    /// that had not failed before.
    fn with_standing(
        &mut self,
        family: IpFamily,
        touched: Touched<'_>,
        failed: &[Failure],
    ) -> (Vec<Failure>, usize, bool) {
        let standing = self.standing.get_mut(family);
        let known: HashSet<&str> = standing.iter().map(|failure| failure.step.as_str()).collect();
        let news = failed.iter().any(|failure| !known.contains(failure.step.as_str()));
        let mut steps: HashSet<&str> = failed.iter().map(|failure| failure.step.as_str()).collect();
        match touched {
            Touched::All => standing.clear(),
            Touched::Ports(_) => standing.retain(|failure| !steps.contains(failure.step.as_str())),
        }
        let earlier = standing.len();
        // What went ahead and failed is tried by the plan as well: it is told once.
        standing.extend(failed.iter().filter(|failure| steps.remove(failure.step.as_str())).cloned());
        (standing.clone(), earlier, news)
    }

    /// What was begun before all was known, or the belief to begin with.
    fn begun_or_believed(
        &mut self,
        family: IpFamily,
        desired: &Desired,
        touched: Touched<'_>,
    ) -> Result<Begun<B::Observed>, ObserveError> {
        // What was read when hardly anything was known may be old: the lists of a cluster take their time.
        if std::mem::replace(self.partial.get_mut(family), desired.incomplete) && !desired.incomplete {
            *self.belief.get_mut(family) = None;
        }
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
            None => {
                // What is read now is newer than what an audit has read so far.
                self.backend.end_audit(family);
                Ok((self.backend.observe(family)?, true))
            }
        }
    }
}

/// Whether what is believed of the kernel holds after these failures. A mode that leaves has nobody who waits for changes: it
/// reads again.
fn holds(desired: &Desired, failures: &[Failure]) -> bool {
    let leaves = desired.retiring || desired.rules.is_none();
    failures.iter().all(|failure| match failure.aftermath {
        Aftermath::Lasting => true,
        Aftermath::Refused => !leaves,
        Aftermath::Unknown => false,
    })
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
            // It was read some time ago: for what is believed so early it is not worth keeping.
            None => {
                *self.belief.get_mut(family) = None;
                self.backend.end_audit(family);
                // The sync that follows meets the same and tells it.
                self.backend.observe(family).ok().map(|belief| Begun::new(belief, true, started.elapsed()))
            }
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
                let (reason, aftermath) = (error.to_string(), Aftermath::Unknown);
                let failure = Failure { step: what, reason, aftermath, of_one: false };
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
        let (failed, holds) = (failures.len(), holds(desired, &failures));
        let (failures, standing, news) = self.with_standing(family, touched, &failures);
        if holds {
            self.backend.remember(desired, touched, &mut belief);
            *self.belief.get_mut(family) = Some(belief);
        }
        Report {
            done: steps.saturating_sub(failed),
            failures,
            standing,
            news,
            draining,
            connections,
            observed,
            duration: took + started.elapsed(),
            times,
            effort: self.backend.take_effort(),
            rules,
        }
    }

    fn still_drains(&self, family: IpFamily, desired: &Desired, port: &ServicePort) -> bool {
        let known = desired.rules.as_deref().zip(self.belief.get(family).as_ref());
        known.is_some_and(|(rules, belief)| self.backend.still_drains(rules, port, belief))
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
        let Some(belief) = self.belief.get(family).as_ref() else { return Audit::Doubtful };
        match self.backend.audit(family, belief, until) {
            Ok(Audit::Holds) if !self.standing.get(family).is_empty() => Audit::Owes,
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
