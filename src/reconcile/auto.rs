//! When `auto` moves from one mode to the other: only on what was seen again and again, and rarely.

use super::round::Reconciler;
use super::switch::{Progress, Switch};
use super::wish::{Mode, Wish};
use crate::model::{Event, IpFamily, Reason};
use std::time::{Duration, Instant};
use tracing::{info, warn};

/// Probes in a row that have to agree.
const PROBES: u32 = 3;
/// For how long they have to.
const STEADY: Duration = Duration::from_secs(30);
/// A node whose IPVS comes and goes moves once in this time at most.
const LONGEST: Duration = Duration::from_secs(3600);

/// What was seen of IPVS lately.
#[derive(Debug, Default)]
pub struct Hysteresis {
    works: bool,
    count: u32,
    since: Option<Instant>,
    moves: u32,
    moved: Option<Instant>,
}

impl Hysteresis {
    /// Takes in a probe; says whether IPVS works once that is certain.
    pub fn see(&mut self, works: bool, now: Instant) -> Option<bool> {
        if works != self.works || self.count == 0 {
            (self.works, self.count, self.since) = (works, 0, Some(now));
        }
        self.count = self.count.saturating_add(1);
        if self.moved.is_some_and(|moved| now.saturating_duration_since(moved) >= LONGEST) {
            self.moves = 0;
        }
        let steady = self.since.is_some_and(|since| now.saturating_duration_since(since) >= self.needed());
        (self.count >= PROBES && steady).then_some(works)
    }

    /// A move was made, or tried: the next one needs twice the certainty.
    pub fn moved(&mut self, now: Instant) {
        self.moves = self.moves.saturating_add(1);
        self.moved = Some(now);
        self.count = 0;
    }

    /// What was seen until now does not count any more.
    pub fn begin_anew(&mut self) {
        self.count = 0;
    }

    fn needed(&self) -> Duration {
        STEADY.saturating_mul(1u32.checked_shl(self.moves).unwrap_or(u32::MAX)).min(LONGEST)
    }
}

/// How long IPVS mode may lag behind before `auto` takes it for broken.
const STUCK: Duration = Duration::from_secs(30);

impl Reconciler {
    /// Takes in whether IPVS works, and moves the families that follow it once that is certain.
    pub(super) fn judge(&mut self, now: Instant) {
        let Some(outcome) = self.probed.take() else { return };
        let follows = |family: &IpFamily| *self.planes.wish.get(*family) == Wish::Auto;
        let families: Vec<IpFamily> = self.planes.families.iter().copied().filter(follows).collect();
        if families.is_empty() || !self.snapshot.complete {
            return;
        }
        // Where it serves and the kernel has not taken what is wanted for long, it does not work either.
        let stuck = families.iter().find_map(|family| {
            let status = self.status.families.get(*family);
            let behind = status.behind_since.is_some_and(|since| now.saturating_duration_since(since) >= STUCK);
            let problem = || status.failures.first().cloned().unwrap_or_else(|| "it does not keep up".to_owned());
            (*self.planes.active.get(*family) == Mode::Ipvs && behind).then(problem)
        });
        let is_there = outcome.is_ok();
        let missing = outcome.err().or(stuck);
        let Some(works) = self.hysteresis.see(missing.is_none(), now) else { return };
        let target = if works { Mode::Ipvs } else { Mode::Iptables };
        let moves = |family: &IpFamily| {
            // A family of which the kernel takes all stays where the other one is stuck.
            let works = is_there && self.status.families.get(*family).behind_since.is_none();
            *self.planes.active.get(*family) != target && (target == Mode::Ipvs || !works)
        };
        let families: Vec<IpFamily> = families.into_iter().filter(moves).collect();
        if families.is_empty() {
            return;
        }
        self.tell_move(missing.as_deref());
        self.hysteresis.moved(now);
        self.switches.push_back(Switch {
            wish: Wish::Auto,
            // A probe is made beside what stands here, and may succeed where that is stuck.
            target: Some(target),
            configured: false,
            families,
            drain: None,
            progress: Progress::default(),
        });
    }

    fn tell_move(&self, missing: Option<&str>) {
        match missing {
            None => info!("IPVS has become available; moving to it, as auto says"),
            Some(missing) => {
                let note = format!("IPVS does not work any more: {missing}; moving to iptables, as auto says");
                warn!("{note}");
                self.events.tell(Event::of_node(Reason::ModeFallback, note));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When it would move within two hours, looked at every 15 seconds.
    fn moves(works: impl Fn(u64) -> bool) -> Vec<u64> {
        let (start, mut hysteresis, mut at, mut serving) = (Instant::now(), Hysteresis::default(), Vec::new(), true);
        for seconds in (0..7200).step_by(15) {
            let now = start + Duration::from_secs(seconds);
            if let Some(verdict) = hysteresis.see(works(seconds), now)
                && verdict != serving
            {
                serving = verdict;
                hysteresis.moved(now);
                at.push(seconds);
            }
        }
        at
    }

    #[test]
    fn one_failure_is_none() {
        assert!(moves(|seconds| seconds != 60).is_empty());
        assert!(moves(|seconds| seconds % 45 != 30).is_empty());
    }

    #[test]
    fn what_broke_moves_after_half_a_minute_and_back_after_a_minute() {
        assert_eq!(moves(|seconds| seconds < 100), [135]);
        assert_eq!(moves(|seconds| !(100..1000).contains(&seconds)), [135, 1065]);
    }

    #[test]
    fn it_never_flaps() {
        for period in [30, 60, 120, 240, 600] {
            let moves = moves(|seconds| (seconds / period) % 2 == 0);
            assert!(moves.len() <= 8, "period {period}: {moves:?}");
        }
    }
}
