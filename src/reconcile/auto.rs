//! When `auto` moves from one mode to the other: only on what was seen again and again, and rarely.

use std::time::{Duration, Instant};

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
