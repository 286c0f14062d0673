//! The loop over dataplanes that do as they are told: when it works, waits and hands over.

use super::*;
use crate::backend::{Failure, Lost, ObserveError};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

/// A dataplane that counts its syncs.
#[derive(Default, Clone)]
struct Stub {
    /// Whether every sync fails, and lastingly.
    fails: Arc<Mutex<Option<bool>>>,
    syncs: Arc<AtomicUsize>,
    left: Arc<AtomicUsize>,
}

impl Dataplane for Stub {
    fn name(&self) -> &'static str {
        "stub"
    }

    fn preview(&mut self, _: IpFamily, _: &Desired, _: Instant) -> Result<Vec<String>, ObserveError> {
        Ok(vec!["a step".into(); self.left.load(SeqCst)])
    }

    fn sync(&mut self, _: IpFamily, _: &Desired, _: Touched<'_>, _: Instant) -> Report {
        self.syncs.fetch_add(1, SeqCst);
        let failure = |lasting: &bool| Failure { step: "a step".into(), reason: "no".into(), lasting: *lasting };
        let failures = self.fails.lock().unwrap().iter().map(failure).collect();
        Report { failures, draining: 1, observed: true, ..Report::default() }
    }

    fn lost(&mut self, _: IpFamily, _: &Lost) -> bool {
        true
    }

    fn distrust(&mut self, _: IpFamily) {}
}

fn loop_over(drain_timeout: Duration) -> (Reconciler, Stub, Stub) {
    let (active, retiring) = (Stub::default(), Stub::default());
    let settings = Arc::new(Settings { drain_timeout, ..Settings::default() });
    let planes = Planes {
        active: Box::new(active.clone()),
        retiring: Some(Box::new(retiring.clone())),
        families: vec![IpFamily::V4],
    };
    let mut reconciler = Reconciler::new(settings, Timing::default(), planes, NodeFacts::default());
    reconciler.take_snapshot(&Snapshot { complete: true, ..Snapshot::default() });
    (reconciler, active, retiring)
}

#[test]
fn a_mode_that_will_not_go_does_not_keep_the_loop_awake() {
    let (mut reconciler, _, retiring) = loop_over(Duration::from_secs(1));
    retiring.left.store(1, SeqCst);
    let start = Instant::now();
    reconciler.round(start);
    let later = start + Duration::from_secs(10);
    reconciler.round(later);
    reconciler.round(later);
    assert!(reconciler.next_wake(later) > later);
}

#[test]
fn what_lies_with_somebody_else_does_not_keep_the_other_mode() {
    let (mut reconciler, active, retiring) = loop_over(Duration::from_secs(1));
    retiring.left.store(1, SeqCst);
    *active.fails.lock().unwrap() = Some(true);
    let start = Instant::now();
    for round in 0..3 {
        reconciler.round(start + Duration::from_secs(round * 30));
    }
    assert!(retiring.syncs.load(SeqCst) > 0);
}

#[test]
fn what_was_taken_away_does_not_wait_for_the_retry_of_something_else() {
    let (mut reconciler, active, _) = loop_over(Duration::from_secs(1));
    *active.fails.lock().unwrap() = Some(false);
    let mut now = Instant::now();
    for _ in 0..12 {
        reconciler.round(now);
        now += Duration::from_secs(31);
    }
    reconciler.round(now);
    let before = active.syncs.load(SeqCst);
    reconciler.round(Instant::now() + Duration::from_secs(1));
    assert_eq!(active.syncs.load(SeqCst), before, "it waits");
    reconciler.take_trigger(Trigger::Gone(IpFamily::V4, Lost::Interface));
    reconciler.round(Instant::now() + Duration::from_secs(1));
    assert_eq!(active.syncs.load(SeqCst), before + 1);
}

fn other_settings(bit: u32) -> Arc<Settings> {
    Arc::new(Settings { masquerade_mark: 1 << bit, ..Settings::default() })
}

#[test]
fn new_settings_are_taken_over() {
    let (mut reconciler, active, _) = loop_over(Duration::from_secs(1));
    let start = Instant::now();
    reconciler.round(start);
    let syncs = active.syncs.load(SeqCst);
    reconciler.take_trigger(Trigger::Settings(other_settings(3), Timing::default()));
    reconciler.round(start + Duration::from_millis(10));
    assert_eq!(active.syncs.load(SeqCst), syncs + 1);
    assert_eq!(reconciler.builder.desired().v4.rules.as_ref().unwrap().masquerade_mark, 8);
}

#[test]
fn changes_that_follow_too_soon_wait_and_then_come_together() {
    let (mut reconciler, active, _) = loop_over(Duration::from_secs(1));
    let timing = Timing { min: Duration::from_secs(10), ..Timing::default() };
    reconciler.take_trigger(Trigger::Settings(other_settings(3), timing));
    reconciler.round(Instant::now());
    let (syncs, start) = (active.syncs.load(SeqCst), Instant::now());
    for bit in 4..8 {
        reconciler.take_trigger(Trigger::Settings(other_settings(bit), timing));
        reconciler.round(start + Duration::from_secs(1));
    }
    assert_eq!(active.syncs.load(SeqCst), syncs, "held back");
    let wake = reconciler.next_wake(start + Duration::from_secs(1));
    assert!(wake > start + Duration::from_secs(9) && wake <= start + Duration::from_secs(10));
    reconciler.round(wake);
    assert_eq!(active.syncs.load(SeqCst), syncs + 1, "all at once");
    assert!(reconciler.next_wake(wake) > wake);
    reconciler.take_trigger(Trigger::Gone(IpFamily::V4, Lost::Interface));
    reconciler.round(wake + Duration::from_millis(1));
    assert_eq!(active.syncs.load(SeqCst), syncs + 2, "what was taken away does not wait");
}
