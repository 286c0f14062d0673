//! When to look again: retries with backoff, the periodic audit, draining connections.

use super::wish::Mode;
use std::time::{Duration, Instant};

/// The periods of the loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// How often the kernel is compared with the belief although nothing happened.
    pub audit: Duration,
    /// The least time between two syncs because of changes; what is urgent does not wait.
    pub min: Duration,
    /// How often draining endpoints are looked at.
    pub drain: Duration,
    /// The first wait after a failure; it doubles up to `retry_max`.
    pub retry_min: Duration,
    /// The longest wait after a failure.
    pub retry_max: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            audit: Duration::from_secs(30),
            min: Duration::ZERO,
            drain: Duration::from_secs(1),
            retry_min: Duration::from_millis(100),
            retry_max: Duration::from_secs(30),
        }
    }
}

/// The periods in each mode, of which kube-proxy's configuration has some apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timings {
    /// In IPVS mode.
    pub ipvs: Timing,
    /// In iptables mode.
    pub iptables: Timing,
}

impl Timings {
    /// Those of a mode.
    #[must_use]
    pub fn of(&self, mode: Mode) -> Timing {
        match mode {
            Mode::Ipvs => self.ipvs,
            Mode::Iptables => self.iptables,
        }
    }
}

impl From<Timing> for Timings {
    fn from(timing: Timing) -> Self {
        Self { ipvs: timing, iptables: timing }
    }
}

/// For so long at most an audit keeps the loop from changes.
pub const AUDIT_SLICE: Duration = Duration::from_millis(5);

/// An audit begins no sooner than so many times as long after the last one as that one took. On a machine that is busy or slow
/// it would else be at it all the time.
const AUDIT_REST: u32 = 10;

/// Between two slices of an audit: what iptables-save prints meanwhile fills its pipe in less.
const AUDIT_PAUSE: Duration = Duration::from_millis(5);

/// The state of the clock of one family.
#[derive(Debug, Clone, Copy, Default)]
pub struct Schedule {
    retry_at: Option<Instant>,
    failures: u32,
    audited: Option<Instant>,
    /// The first slice of the audit that is under way.
    audit_began: Option<Instant>,
    /// How long the last one took.
    audit_took: Duration,
    drained: Option<Instant>,
    /// An audit is under way, and goes on then.
    auditing: Option<Instant>,
    synced: Option<Instant>,
}

impl Schedule {
    /// A sync ended; `retry` if it should be tried again.
    pub fn synced(&mut self, now: Instant, retry: bool, observed: bool, timing: &Timing) {
        if observed {
            self.audited(now);
        }
        self.drained = Some(now);
        self.synced = Some(now);
        if retry {
            let wait = timing.retry_min.saturating_mul(1u32.checked_shl(self.failures).unwrap_or(u32::MAX));
            self.retry_at = Some(now + wait.min(timing.retry_max));
            self.failures = self.failures.saturating_add(1).min(31);
        } else {
            self.retry_at = None;
            self.failures = 0;
        }
    }

    /// The kernel was compared with the belief.
    pub fn audited(&mut self, now: Instant) {
        (self.audited, self.auditing) = (Some(now), None);
        self.audit_took = self.audit_began.take().map_or(Duration::ZERO, |began| now.saturating_duration_since(began));
    }

    /// An audit has more to do.
    pub fn audit_goes_on(&mut self, now: Instant) {
        self.auditing = Some(now + AUDIT_PAUSE);
        self.audit_began.get_or_insert(now);
    }

    /// How long an audit keeps off.
    fn audit_period(&self, timing: &Timing) -> Duration {
        timing.audit.max(self.audit_took.saturating_mul(AUDIT_REST))
    }

    /// When what failed is tried again, if it did.
    pub fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }

    /// Whether a failed sync is to be tried again now.
    pub fn retry_is_due(&self, now: Instant) -> bool {
        self.retry_at.is_some_and(|at| at <= now)
    }

    /// Whether a failed sync waits for its time.
    pub fn is_waiting(&self, now: Instant) -> bool {
        self.retry_at.is_some_and(|at| at > now)
    }

    /// When a change may be brought to the kernel: at once, or the least time after the last sync.
    pub fn earliest(&self, now: Instant, timing: &Timing) -> Instant {
        let synced = self.synced.filter(|_| !timing.min.is_zero());
        synced.map_or(now, |at| (at + timing.min).max(now))
    }

    /// Whether the kernel is to be read again.
    pub fn audit_is_due(&self, now: Instant, timing: &Timing) -> bool {
        match self.auditing {
            Some(at) => at <= now,
            None => self.audited.is_some_and(|at| at + self.audit_period(timing) <= now),
        }
    }

    /// Whether draining endpoints are to be looked at again.
    pub fn drain_is_due(&self, now: Instant, timing: &Timing) -> bool {
        self.drained.is_none_or(|at| at + timing.drain <= now)
    }

    /// The next instant at which anything is due.
    pub fn next(&self, now: Instant, draining: bool, timing: &Timing) -> Instant {
        // Until its retry a family that failed does nothing else: what is due meanwhile must not wake it.
        if let Some(at) = self.retry_at {
            return at.max(now);
        }
        let audit = self.auditing.unwrap_or_else(|| self.audited.unwrap_or(now) + self.audit_period(timing));
        let drain = draining.then(|| self.drained.map_or(now, |at| at + timing.drain));
        drain.into_iter().fold(audit, Instant::min)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_back_off_and_success_forgets() {
        let timing = Timing::default();
        let (mut schedule, start) = (Schedule::default(), Instant::now());
        let mut waits = Vec::new();
        for _ in 0..12 {
            schedule.synced(start, true, false, &timing);
            waits.push((schedule.next(start, false, &timing) - start).as_millis());
        }
        assert_eq!(waits[..4], [100, 200, 400, 800]);
        assert_eq!(waits[11], 30_000);
        schedule.synced(start, false, true, &timing);
        assert!(!schedule.retry_is_due(start + Duration::from_secs(60)));
        assert!(schedule.audit_is_due(start + timing.audit, &timing));
        assert_eq!(schedule.next(start, true, &timing), start + timing.drain);
    }

    #[test]
    fn an_audit_that_takes_long_comes_less_often() {
        let timing = Timing::default();
        let (mut schedule, start) = (Schedule::default(), Instant::now());
        schedule.audit_goes_on(start);
        schedule.audited(start + Duration::from_secs(1));
        assert_eq!(schedule.next(start, false, &timing), start + Duration::from_secs(1) + timing.audit);
        schedule.audit_goes_on(start);
        schedule.audit_goes_on(start + Duration::from_secs(5));
        schedule.audited(start + Duration::from_secs(10));
        assert!(!schedule.audit_is_due(start + Duration::from_secs(109), &timing));
        assert!(schedule.audit_is_due(start + Duration::from_secs(110), &timing));
    }

    #[test]
    fn what_waits_for_its_retry_is_not_woken_by_a_drain() {
        let timing = Timing::default();
        let (mut schedule, start) = (Schedule::default(), Instant::now());
        for _ in 0..12 {
            schedule.synced(start, true, true, &timing);
        }
        let now = start + Duration::from_secs(5);
        assert!(schedule.is_waiting(now));
        assert_eq!(schedule.next(now, true, &timing), start + timing.retry_max);
    }
}
