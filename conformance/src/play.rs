//! Playing one scenario in one mode, from an empty lab to the comparison after cleanup.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use kube_ipvs::lab::Protocol;

use crate::check::{Check, Patience};
use crate::evidence;
use crate::explained::Explain;
use crate::flow::Flow;
use crate::held::Open;
use crate::manifests::Manifests;
use crate::proxy::{Mode, Program, Proxy};
use crate::scenario::{Scenario, Step};
use crate::state::{self, State};
use crate::surroundings::Surroundings;
use crate::trace;
use crate::world::World;

/// Differences after cleanup that are shown.
const SHOWN: usize = 25;

/// What all scenarios share.
#[derive(Debug)]
pub struct Stage<'a> {
    /// The surroundings.
    pub surroundings: &'a Surroundings,
    /// The program under test.
    pub program: &'a Path,
    /// How long to wait.
    pub patience: Patience,
    /// Time to let the proxy take notice before the first round.
    pub notice: Duration,
    /// Connections for each endpoint that is to answer.
    pub per_endpoint: usize,
    /// Whether the kernel has SCTP sockets.
    pub sctp: bool,
    /// Needs that flows are left out for.
    pub without: &'a [String],
    /// Whether `kube-ipvs explain` is asked about every flow.
    pub explain: bool,
}

/// How a scenario went.
#[derive(Debug, Default)]
pub struct Played {
    /// Why it failed; empty if it passed.
    pub failure: String,
    /// Rounds that each step took.
    pub rounds: Vec<usize>,
    /// Flows that were not tried, with the reason.
    pub skipped: Vec<String>,
    /// Things worth knowing that are no failure.
    pub notes: Vec<String>,
    /// Flows of which `kube-ipvs explain` said what came of them.
    pub explained: usize,
    /// From the first namespace to the last comparison.
    pub elapsed: Duration,
}

/// Plays `scenario`. What keeps it from being played is a failure of it as well.
pub fn play(stage: &Stage<'_>, scenario: &Scenario, mode: Mode) -> Played {
    let started = Instant::now();
    let mut played = Played::default();
    if let Err(error) = hold(stage, scenario, mode, &mut played) {
        played.failure = format!("{error:#}");
    }
    played.elapsed = started.elapsed();
    played
}

/// Where the time went.
#[derive(Debug)]
struct Clock {
    last: Instant,
    phases: Vec<String>,
}

impl Default for Clock {
    fn default() -> Self {
        Self { last: Instant::now(), phases: Vec::new() }
    }
}

impl Clock {
    /// The phase that ends now.
    fn note(&mut self, phase: &str) {
        self.phases.push(format!("{phase} {:.1} s", self.last.elapsed().as_secs_f64()));
        self.last = Instant::now();
    }

    fn text(&self) -> String {
        self.phases.join(", ")
    }
}

struct Play<'a> {
    stage: &'a Stage<'a>,
    scenario: &'a Scenario,
    world: &'a World,
    program: Program<'a>,
    mode: Mode,
    proxy: Proxy,
    manifests: Manifests,
    /// By step and flow.
    open: BTreeMap<(usize, usize), Open>,
}

fn hold(stage: &Stage<'_>, scenario: &Scenario, mode: Mode, played: &mut Played) -> Result<()> {
    let mut clock = Clock::default();
    let world = World::build(stage.surroundings, scenario, stage.sctp)?;
    clock.note("lab");
    state::forget_dead_namespace(world.node())?;
    state::put_foreign(world.node(), mode)?;
    let before = State::read(world.node())?;
    clock.note("state before");
    let program = Program { file: stage.program, node: world.node() };
    let manifests = Manifests::create()?;
    manifests.change(&[], &[stage.surroundings.node_object()])?;
    let mut proxy = program.start(stage.surroundings, &scenario.node, manifests.folder(), mode)?;
    proxy.wait_until_ready(stage.patience.settle * 6)?;
    clock.note("proxy");
    let open = BTreeMap::new();
    let mut play = Play { stage, scenario, world: &world, program, mode, proxy, manifests, open };
    for (index, step) in scenario.steps.iter().enumerate() {
        if !play.step(index, step, played)? {
            break;
        }
    }
    play.open.clear();
    clock.note("steps");
    play.proxy.stop()?;
    let complaints = play.proxy.complaints();
    played.notes.extend(complaints.into_iter().take(5));
    let cleaned = program.run(&["cleanup"]).context("cleanup")?;
    clock.note("cleanup");
    let difference = before.difference(&State::read(world.node())?);
    clock.note("state after");
    played.notes.push(clock.text());
    if !difference.is_empty() && played.failure.is_empty() {
        let shown: Vec<_> = difference.iter().take(SHOWN).map(|line| format!("    {line}\n")).collect();
        played.failure = format!(
            "cleanup left the node different in {} lines:\n{}    --- cleanup's log\n{cleaned}",
            difference.len(),
            shown.concat()
        );
    } else if !difference.is_empty() {
        played.notes.push(format!("cleanup left the node different in {} lines as well", difference.len()));
    }
    Ok(())
}

impl Play<'_> {
    /// One step; false ends the scenario.
    fn step(&mut self, index: usize, step: &Step, played: &mut Played) -> Result<bool> {
        self.proxy.must_run()?;
        if let Some(failure) = self.open_before(index)? {
            played.failure = failure;
            return Ok(false);
        }
        let mark = self.proxy.mark();
        self.manifests.change(&step.delete, &step.apply)?;
        self.proxy.settle(mark, self.stage.notice);
        let mut flows = Vec::new();
        for (number, flow) in step.flows.iter().enumerate() {
            match self.reason_to_skip(flow) {
                None => flows.push((number, flow)),
                Some(why) => played.skipped.push(format!("{flow}: {why}")),
            }
        }
        let open = self.take_open(index);
        let (patience, per_endpoint) = (self.stage.patience, self.stage.per_endpoint);
        let check = Check { world: self.world, flows, open: &open, patience, per_endpoint };
        let checked = check.run()?;
        played.rounds.push(checked.rounds);
        if checked.rounds > 1 && checked.broken.is_empty() {
            let first = checked.at_first.first().and_then(|(flow, what)| Some((step.flows.get(*flow)?, what)));
            played.notes.extend(first.map(|(flow, what)| {
                format!("step {} took {} rounds: {flow} first had {what}", index + 1, checked.rounds)
            }));
        }
        if checked.broken.is_empty() {
            return self.ask_explain(index, &check, played);
        }
        played.failure = self.explain(index, step, &checked.broken, &check);
        self.proxy.must_run().context(played.failure.clone())?;
        Ok(false)
    }

    /// Asks `kube-ipvs explain` about every flow; false if it said otherwise than the packets did.
    fn ask_explain(&self, index: usize, check: &Check<'_>, played: &mut Played) -> Result<bool> {
        if !self.stage.explain {
            return Ok(true);
        }
        let explain = Explain {
            world: self.world,
            program: self.program,
            surroundings: self.stage.surroundings,
            settings: &self.scenario.node,
            folder: self.manifests.folder(),
            mode: self.mode,
        };
        for (number, flow) in &check.flows {
            match explain.check(flow, check.open.get(number))? {
                Ok(()) => played.explained += 1,
                Err(what) => {
                    played.failure += &format!(
                        "step {}, explain about {flow}:\n  expected {}\n  said     {what}",
                        index + 1,
                        flow.expect
                    );
                }
            }
        }
        Ok(played.failure.is_empty())
    }

    /// Opens what is to be open before step `index`; the text says what could not be.
    fn open_before(&mut self, index: usize) -> Result<Option<String>> {
        let scenario = self.scenario;
        for (later, step) in scenario.steps.iter().enumerate().skip(index) {
            for (number, flow) in step.flows.iter().enumerate() {
                let Some(held) = &flow.held else { continue };
                let since = held.since_step.map_or(later, |since| since - 1);
                if since != index || self.reason_to_skip(flow).is_some() {
                    continue;
                }
                match Open::before(self.world, flow, held, self.stage.patience.answer)? {
                    Ok(open) => drop(self.open.insert((later, number), open)),
                    Err(what) => {
                        let expected = &held.before;
                        let head = format!(
                            "before step {}, opening {flow} of step {}:\n  expected {expected:?}\n  came     {what}\n",
                            index + 1,
                            later + 1
                        );
                        return Ok(Some(
                            head + &evidence::gather(self.world, self.program, self.mode, &self.proxy, flow),
                        ));
                    }
                }
            }
        }
        Ok(None)
    }

    /// The open flows of a step, by flow.
    fn take_open(&mut self, index: usize) -> BTreeMap<usize, Open> {
        let (now, later) = std::mem::take(&mut self.open).into_iter().partition(|((step, _), _)| *step == index);
        self.open = later;
        let now: BTreeMap<(usize, usize), Open> = now;
        now.into_iter().map(|((_, flow), open)| (flow, open)).collect()
    }

    fn reason_to_skip(&self, flow: &Flow) -> Option<String> {
        if flow.protocol == Protocol::Sctp && !self.stage.sctp {
            return Some("this kernel has no SCTP sockets".to_owned());
        }
        let without = flow.needs.iter().find(|need| self.stage.without.contains(need))?;
        Some(format!("asked to do without {without}"))
    }

    /// What was expected of the first flow that failed, what came, and why; the others in a line each.
    fn explain(&self, index: usize, step: &Step, broken: &[(usize, String)], check: &Check<'_>) -> String {
        let mut text = String::new();
        let mut evidence = String::new();
        for (count, (number, what)) in broken.iter().enumerate() {
            let Some(flow) = step.flows.get(*number) else { continue };
            if count == 0 {
                text += &format!(
                    "step {} {:?}, flow {flow}:\n  expected {}\n  came     {what}\n",
                    index + 1,
                    step.title,
                    flow.expect
                );
                evidence = evidence::gather(self.world, self.program, self.mode, &self.proxy, flow);
                evidence::section(
                    &mut evidence,
                    "one more connection, packets on the node",
                    trace::record(check, flow).lines(),
                );
            } else {
                text += &format!("  also     {flow}: expected {}; came {what}\n", flow.expect);
            }
        }
        text + &evidence
    }
}
