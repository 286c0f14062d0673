//! Time, processor time and memory: the vocabulary of all benchmarks.

use crate::backend::Effort;
use nix::sys::resource::{Usage, UsageWho, getrusage};
use nix::sys::time::TimeVal;
use serde::{Deserialize, Serialize};
use std::time::Instant;

/// What something cost. All in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// By the clock on the wall.
    pub wall: f64,
    /// Processor time of this program's own code, all threads.
    pub user: f64,
    /// Processor time of the kernel on behalf of this program.
    pub system: f64,
    /// Processor time of programs that it ran to their end, and of the kernel on their behalf.
    pub children: f64,
}

impl Cost {
    /// All processor time: what remains comparable on a machine that does other things as well.
    pub fn processor(self) -> f64 {
        self.user + self.system + self.children
    }
}

/// How much the kernel was talked to; see [`Effort`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Talk {
    /// Netlink messages sent.
    pub messages: u64,
    /// System calls that sent or received them.
    pub syscalls: u64,
    /// Runs of iptables-restore and iptables-save.
    pub restores: u64,
}

impl From<Effort> for Talk {
    fn from(effort: Effort) -> Self {
        Self { messages: effort.messages, syscalls: effort.syscalls, restores: effort.restores }
    }
}

/// Measures from its start to its stop.
#[derive(Debug)]
pub struct Stopwatch {
    started: Instant,
    own: (f64, f64),
    children: (f64, f64),
}

impl Stopwatch {
    /// Starts now.
    pub fn start() -> Self {
        Self {
            own: processor(UsageWho::RUSAGE_SELF),
            children: processor(UsageWho::RUSAGE_CHILDREN),
            started: Instant::now(),
        }
    }

    /// What was spent since the start.
    pub fn stop(self) -> Cost {
        let wall = self.started.elapsed().as_secs_f64();
        let (own, children) = (processor(UsageWho::RUSAGE_SELF), processor(UsageWho::RUSAGE_CHILDREN));
        Cost {
            wall,
            // The kernel scales its ticks and may correct user time into system time between two readings.
            user: (own.0 - self.own.0).max(0.0),
            system: (own.1 - self.own.1).max(0.0),
            children: (children.0 + children.1 - self.children.0 - self.children.1).max(0.0),
        }
    }
}

/// Runs and measures.
pub fn measured<T>(work: impl FnOnce() -> T) -> (T, Cost) {
    let watch = Stopwatch::start();
    let result = work();
    (result, watch.stop())
}

fn usage(who: UsageWho) -> Option<Usage> {
    // Fails only for an unknown `who` (getrusage(2)).
    getrusage(who).ok()
}

/// User and system time in seconds.
fn processor(who: UsageWho) -> (f64, f64) {
    usage(who).map_or((0.0, 0.0), |usage| (seconds(usage.user_time()), seconds(usage.system_time())))
}

fn seconds(time: TimeVal) -> f64 {
    use nix::sys::time::TimeValLike as _;
    std::time::Duration::from_micros(u64::try_from(time.num_microseconds()).unwrap_or(0)).as_secs_f64()
}

/// The most memory that this process has had at once, in bytes.
pub fn peak_memory() -> u64 {
    // Linux counts kibibytes (getrusage(2)).
    usage(UsageWho::RUSAGE_SELF).and_then(|usage| u64::try_from(usage.max_rss()).ok()).unwrap_or(0) * 1024
}

/// The middle one, and the extremes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread<T> {
    /// The one in the middle; of an even number the better of the two.
    pub median: T,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

/// The middle one of several by a measure; `None` of nothing.
pub fn spread<T: Copy>(of: &[T], by: impl Fn(&T) -> f64) -> Option<Spread<T>> {
    let mut sorted: Vec<&T> = of.iter().collect();
    sorted.sort_by(|a, b| by(a).total_cmp(&by(b)));
    let median = **sorted.get(sorted.len().checked_sub(1)? / 2)?;
    Some(Spread { median, min: by(sorted.first()?), max: by(sorted.last()?) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_one_is_taken_whole() {
        let runs = [(3.0, 'c'), (1.0, 'a'), (2.0, 'b')];
        let spread = spread(&runs, |run| run.0).unwrap();
        assert_eq!((spread.median, spread.min, spread.max), ((2.0, 'b'), 1.0, 3.0));
        assert!(super::spread(&[] as &[f64], |run| *run).is_none());
    }

    #[test]
    fn work_costs_processor_time_and_waiting_does_not() {
        let (_, cost) = measured(|| std::thread::sleep(std::time::Duration::from_millis(20)));
        assert!(cost.wall >= 0.02, "{cost:?}");
        let (_, cost) = measured(|| {
            let started = Instant::now();
            while started.elapsed().as_millis() < 50 {
                std::hint::black_box(std::fs::read("/proc/self/stat").ok());
            }
        });
        assert!(cost.user + cost.system > 0.0, "{cost:?}");
        assert!(peak_memory() > 1 << 20);
    }
}
