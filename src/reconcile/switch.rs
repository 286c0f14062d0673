//! The live switch: the new mode is complete and verified before the old one takes no more; then the old one drains
//! (`retire.rs`). If the new mode fails half-way, the old one stays and the half goes.

use super::pending::Pending;
use super::retire::State;
use super::round::Reconciler;
use super::schedule::Outcome;
use super::wish::{Kept, Mode, Wish};
use crate::backend::Report;
use crate::model::{Event, IpFamily, PerFamily, Reason};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::UnboundedSender;
use tracing::{error, info, warn};

/// A sync may fail once for reasons that are over at once: a lock, a table that somebody else was changing.
const ATTEMPTS: usize = 3;
/// As many reasons as a person reads.
const REASONS: usize = 3;

/// Somebody wants another mode.
#[derive(Debug, Clone)]
pub struct Switch {
    /// Which one.
    pub wish: Wish,
    /// What [`Wish::Auto`] leads to, where that is known; if not, whether IPVS works is tried.
    pub target: Option<Mode>,
    /// The configuration asks for it, not a command: it is what the next start finds there.
    pub configured: bool,
    /// In which families; none = in all that are programmed.
    pub families: Vec<IpFamily>,
    /// How long open connections of the old mode may go on; `None` = the configured drain timeout.
    pub drain: Option<Duration>,
    /// Where to tell how it goes.
    pub progress: Progress,
}

/// Where to tell how a switch goes. Nobody need listen.
#[derive(Debug, Clone, Default)]
pub struct Progress(Option<UnboundedSender<Step>>);

impl Progress {
    /// Tells it there.
    pub fn to(sender: UnboundedSender<Step>) -> Self {
        Self(Some(sender))
    }

    pub(super) fn tell(&self, step: Step) {
        if let Some(sender) = &self.0 {
            // Who went away meanwhile does not want to know.
            let _ = sender.send(step);
        }
    }
}

/// How far a switch is. [`Step::Done`] and [`Step::Failed`] are the last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The new mode is being written, beside the old one.
    Programming { family: IpFamily, mode: Mode },
    /// The new mode has taken everything.
    Programmed { family: IpFamily, mode: Mode, services: usize, steps: usize, duration: Duration },
    /// The kernel was read again, and nothing was missing.
    Verified { family: IpFamily, mode: Mode },
    /// The new mode serves what is new from here on.
    InForce { family: IpFamily, mode: Mode },
    /// The old mode still has connections.
    Draining { family: IpFamily, mode: Mode, connections: u64, endpoints: usize, until: Instant },
    /// Nothing of the old mode is left.
    Gone { family: IpFamily, mode: Mode },
    /// The switch is over.
    Done,
    /// It did not come to it, or somebody changed their mind; the mode that serves is the one before, or the other's.
    Failed { reason: String },
}

/// Who waits for the old mode to be gone.
#[derive(Debug)]
pub(super) struct Follower {
    progress: Progress,
    /// What has happened and is told once everybody can see it.
    news: Vec<Step>,
    waits_for: Vec<(IpFamily, Mode)>,
    told: PerFamily<(u64, usize)>,
}

/// The families in which a new mode is complete beside the old one, and those in which it can't be.
#[derive(Debug, Default)]
struct Prepared {
    ready: Vec<(IpFamily, Report)>,
    failed: Vec<IpFamily>,
}

impl Switch {
    /// `auto` goes to the second best, as IPVS does not work.
    fn leaves_ipvs(&self) -> bool {
        self.target == Some(Mode::Iptables)
    }
}

impl Reconciler {
    /// Carries out what was asked for since the last round.
    pub(super) fn switch_all(&mut self, now: Instant) {
        while let Some(switch) = self.switches.pop_front() {
            let (progress, asked_for) = (switch.progress.clone(), switch.families.clone());
            if let Err(reason) = self.switch(switch, now) {
                error!("the mode stays as it is: {reason}");
                let is_meant = |family: &IpFamily| asked_for.is_empty() || asked_for.contains(family);
                for family in self.planes.families.clone().into_iter().filter(is_meant) {
                    self.note_failed(family, &reason);
                }
                progress.tell(Step::Failed { reason });
            }
        }
    }

    fn switch(&mut self, switch: Switch, now: Instant) -> Result<(), String> {
        if self.configuration.overrules(&switch) {
            switch.progress.tell(Step::Done);
            return Ok(());
        }
        let mut families = self.families_of(&switch)?;
        let target = match (switch.wish, switch.target) {
            (Wish::Only(mode), _) | (Wish::Auto, Some(mode)) => mode,
            (Wish::Auto, None) if self.planes.modes.probe(Mode::Ipvs).is_ok() => Mode::Ipvs,
            (Wish::Auto, None) => Mode::Iptables,
        };
        let moving: Vec<IpFamily> =
            families.iter().copied().filter(|family| *self.planes.active.get(*family) != target).collect();
        let drain = switch.drain.unwrap_or(self.settings.drain_timeout);
        let outcome = self.prepare(target, &moving, &switch, now).and_then(|Prepared { ready, failed }| {
            families.retain(|family| !failed.contains(family));
            self.take_back(target, &failed, drain, now);
            self.keep_wish(&switch, &families, &moving, target).map(|()| ready)
        });
        let ready = match outcome {
            Ok(ready) => ready,
            Err(reason) => {
                self.take_back(target, &moving, drain, now);
                return Err(reason);
            }
        };
        for (family, report) in ready {
            info!(%family, from = %target.other(), to = %target, "switched; what is open drains");
            let note = format!("{family}: mode {target} serves instead of {}; what is open drains", target.other());
            self.events.tell(Event::of_node(Reason::ModeChanged, note));
            self.hand_over(family, target, &report, drain, now);
        }
        for family in families.iter().filter(|family| !moving.contains(family)) {
            // It serves already; but somebody may have become less patient with the old one.
            if let Some(until) = switch.drain.and_then(|drain| now.checked_add(drain)) {
                self.retirements.get_mut(*family).drain_until(until);
            }
        }
        let waits_for = families.iter().map(|family| (*family, target.other())).collect();
        // Where it served already, too: who waits for it need not wait for the other one's end.
        let news = families.iter().map(|family| Step::InForce { family: *family, mode: target }).collect();
        self.followers.push(Follower { progress: switch.progress, news, waits_for, told: PerFamily::default() });
        Ok(())
    }

    /// Takes over the wish, and keeps what the next start is to know.
    fn keep_wish(
        &mut self,
        switch: &Switch,
        families: &[IpFamily],
        moving: &[IpFamily],
        target: Mode,
    ) -> Result<(), String> {
        let planes = &mut self.planes;
        let mut wish = planes.wish;
        families.iter().for_each(|family| *wish.get_mut(*family) = switch.wish);
        let fell_back = PerFamily::from_fn(|family| {
            let serves = if families.contains(&family) { target } else { *planes.active.get(family) };
            planes.families.contains(&family) && *wish.get(family) == Wish::Auto && serves == Mode::Iptables
        });
        // What the configuration asked for in vain must not come with the next start, if somebody wants this.
        let in_vain = switch.target.is_none() && self.configuration.asked.is_some();
        let moves = !moving.is_empty() && switch.wish == Wish::Auto;
        if wish != planes.wish || switch.configured || in_vain || moves {
            // `auto` answers to what it was told last.
            let configured = self.configuration.asked.filter(|_| switch.target.is_none());
            match planes.modes.record(&Kept { wish, fell_back }, configured) {
                // To stay where IPVS does not work would be worse than to begin there once more.
                Err(error) if switch.target.is_some() => warn!("the next start may take it back: {error}"),
                kept => kept.map_err(|error| format!("the next start would take it back: {error}"))?,
            }
        }
        planes.wish = wish;
        if switch.target.is_none() {
            // Whoever asked for it knows better than what was seen before.
            self.hysteresis.begin_anew();
            self.configuration.overruled = !switch.configured;
        }
        Ok(())
    }

    fn families_of(&self, switch: &Switch) -> Result<Vec<IpFamily>, String> {
        let programmed = &self.planes.families;
        if let Some(family) = switch.families.iter().find(|family| !programmed.contains(family)) {
            return Err(format!("{family} is not served on this node"));
        }
        let mut families = if switch.families.is_empty() { programmed.clone() } else { switch.families.clone() };
        if switch.target.is_some() {
            // Somebody's own wish may have come in between.
            families.retain(|family| *self.planes.wish.get(*family) == Wish::Auto);
        }
        if families.iter().any(|family| self.builder.desired().get(*family).incomplete) || !self.snapshot.complete {
            return Err("the Services have not all been listed yet, so that the new mode would lack some; \
                        try again in a moment"
                .to_owned());
        }
        Ok(families)
    }

    /// Brings the new mode up beside the old one, in all families or in none. Where `auto` leaves what does not work, in those
    /// in which it can be; the others are named.
    fn prepare(
        &mut self,
        target: Mode,
        families: &[IpFamily],
        switch: &Switch,
        now: Instant,
    ) -> Result<Prepared, String> {
        let mut prepared = Prepared::default();
        if families.is_empty() {
            return Ok(prepared);
        }
        self.planes.ready(target).map_err(|missing| format!("{target} does not work on this node: {missing}"))?;
        for family in families.iter().copied() {
            match self.program(target, family, switch, now) {
                Ok(report) => prepared.ready.push((family, report)),
                Err(reason) if !switch.leaves_ipvs() => return Err(reason),
                // The last one's reason tells when none is ready.
                Err(reason) if prepared.ready.is_empty() && families.last() == Some(&family) => return Err(reason),
                Err(reason) => {
                    error!(%family, "the mode stays as it is: {reason}");
                    self.note_failed(family, &reason);
                    prepared.failed.push(family);
                }
            }
        }
        Ok(prepared)
    }

    fn program(&mut self, target: Mode, family: IpFamily, switch: &Switch, now: Instant) -> Result<Report, String> {
        let progress = &switch.progress;
        // What `auto` leaves because it does not work is worse than a mode that single Services are missing in.
        let lenient = switch.leaves_ipvs() && self.status.families.get(family).serves_since.is_none();
        progress.tell(Step::Programming { family, mode: target });
        let started = Instant::now();
        let desired = self.builder.desired().get(family);
        let affinities = match self.planes.at(target.other()).map(|old| old.affinities(family)) {
            Some(Ok(affinities)) => affinities,
            // Not worth keeping the old mode for.
            Some(Err(error)) => {
                warn!(%family, "clients with affinity may get other endpoints: {error}");
                Vec::new()
            }
            None => Vec::new(),
        };
        let plane = self.planes.at(target).ok_or_else(|| format!("{target} mode is not open"))?;
        let (mut problem, mut steps, mut would_serve) = (String::new(), 0, false);
        for attempt in 1..=ATTEMPTS {
            plane.expect(family, desired, &affinities);
            // Its jumps come after all only where what they lead to was seen to be there but for single Services.
            let at_any_rate = lenient && attempt == ATTEMPTS && would_serve;
            if at_any_rate {
                plane.serve(family);
            }
            plane.distrust(family);
            let report = plane.sync(family, desired, crate::desired::Touched::All, now);
            steps += report.done;
            let (services, duration) = (desired.ports.len(), started.elapsed());
            if !report.is_clean() {
                problem = first_of("could not", report.failures.iter().map(ToString::to_string).collect());
                would_serve = report.serves(services);
                if at_any_rate && would_serve {
                    warn!(%family, "{target} mode {problem}; it serves all the same, as {} mode does not", target.other());
                    progress.tell(Step::Programmed { family, mode: target, services, steps, duration });
                    return Ok(report);
                }
                continue;
            }
            progress.tell(Step::Programmed { family, mode: target, services, steps, duration });
            match plane.preview(family, desired, now) {
                Ok(left) if left.is_empty() => {
                    progress.tell(Step::Verified { family, mode: target });
                    return Ok(report);
                }
                Ok(left) => problem = first_of("is not complete, it would still", left),
                Err(error) => problem = error.to_string(),
            }
        }
        Err(format!("{target} mode, {family}: {problem}"))
    }

    /// The new mode failed: whatever of it was written leaves again as any mode does, open connections last. What was
    /// draining before goes on draining.
    fn take_back(&mut self, target: Mode, families: &[IpFamily], drain: Duration, now: Instant) {
        for family in families.iter().copied() {
            // What was not opened has nothing to leave.
            if self.planes.at(target).is_none() {
                continue;
            }
            self.retirements.get_mut(family).take_back(now.max(Instant::now()), drain);
            if let Some(plane) = self.planes.at(target) {
                plane.distrust(family);
                plane.expect(family, self.builder.desired().get(family), &[]);
            }
            self.retire(family, now);
        }
    }

    /// The new mode serves: the old one takes no more.
    fn hand_over(&mut self, family: IpFamily, target: Mode, report: &Report, drain: Duration, now: Instant) {
        let old = target.other();
        // Bringing the new mode up took its time, which is not the open connections'.
        let now = now.max(Instant::now());
        let (stay, superseded): (Vec<Follower>, Vec<Follower>) = std::mem::take(&mut self.followers)
            .into_iter()
            .partition(|follower| !follower.waits_for.contains(&(family, target)));
        self.followers = stay;
        for follower in superseded {
            let reason = format!("{family} was switched back to {target} before {target} mode was gone");
            follower.progress.tell(Step::Failed { reason });
        }
        *self.planes.active.get_mut(family) = target;
        self.retirements.get_mut(family).begin(now, drain);
        if let Some(plane) = self.planes.at(target) {
            plane.serve(family);
        }
        if let Some(plane) = self.planes.at(old) {
            plane.distrust(family);
        }
        *self.pending.get_mut(family) = Pending::of(report);
        self.moved(family);
        let timing = self.timing.get(family);
        self.schedules.get_mut(family).synced(Instant::now(), &Outcome::of(report), timing);
        self.record(family, report);
        self.handed_over = true;
    }

    /// Tells what everybody can see by now.
    pub(super) fn tell_news(&mut self) {
        for follower in &mut self.followers {
            follower.news.drain(..).for_each(|step| follower.progress.tell(step));
        }
    }

    /// Tells those who wait how far the old mode is from being gone.
    pub(super) fn tell_followers(&mut self) {
        let retirements = &self.retirements;
        self.followers.retain_mut(|follower| {
            let Follower { progress, waits_for, told, .. } = follower;
            waits_for.retain(|(family, mode)| {
                let retirement = retirements.get(*family);
                let now = (retirement.connections, retirement.endpoints);
                match retirement.state {
                    State::Gone => {
                        progress.tell(Step::Gone { family: *family, mode: *mode });
                        return false;
                    }
                    State::Until(until) if *told.get(*family) != now => {
                        *told.get_mut(*family) = now;
                        let (connections, endpoints) = now;
                        progress.tell(Step::Draining { family: *family, mode: *mode, connections, endpoints, until });
                    }
                    State::Until(_) | State::Waiting => {}
                }
                true
            });
            if waits_for.is_empty() {
                progress.tell(Step::Done);
            }
            !waits_for.is_empty()
        });
    }
}

fn first_of(verb: &str, mut lines: Vec<String>) -> String {
    let more = lines.len().saturating_sub(REASONS);
    lines.truncate(REASONS);
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    format!("{verb} {}{more}", lines.join("; "))
}
