//! When the next attempt is due.

use super::Timing;
use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use std::time::Duration;

/// The waiting times of one resource: longer after every failure, never the same for two proxies.
#[derive(Debug)]
pub struct Pace {
    timing: Timing,
    delays: ExponentialBackoff,
}

impl Pace {
    /// Nothing has failed yet.
    pub fn new(timing: Timing) -> Self {
        Self { timing, delays: delays(timing) }
    }

    /// The time until the next attempt.
    pub fn next(&mut self) -> Duration {
        self.delays.next().unwrap_or(self.timing.retry_max)
    }

    /// It worked: the next failure is the first again.
    pub fn reset(&mut self) {
        self.delays = delays(self.timing);
    }
}

/// backon adds up to as much again by chance, as client-go's jitter of 1.0 does; so half of each bound is given.
fn delays(timing: Timing) -> ExponentialBackoff {
    ExponentialBuilder::new()
        .with_min_delay(timing.retry_min)
        .with_max_delay(timing.retry_max / 2)
        .with_factor(2.0)
        .with_jitter()
        .without_max_times()
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_grows_to_the_bound_and_starts_over() {
        let mut pace = Pace::new(Timing::default());
        let delays: Vec<Duration> = (0..50).map(|_| pace.next()).collect();
        let within = |delay: Duration, low: u64, high: u64| {
            assert!(delay >= Duration::from_millis(low) && delay <= Duration::from_millis(high), "{delays:?}");
        };
        within(delays[0], 800, 1_600);
        within(delays[1], 1_600, 3_200);
        within(delays[2], 3_200, 6_400);
        for delay in &delays[6..] {
            within(*delay, 15_000, 30_000);
        }
        assert!(delays[6..].windows(2).any(|pair| pair[0] != pair[1]), "no jitter: {delays:?}");
        pace.reset();
        assert!(pace.next() <= Duration::from_millis(1_600));
    }
}
