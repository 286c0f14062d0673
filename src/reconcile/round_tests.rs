//! The loop over dataplanes that do as they are told: when it works, waits and hands over.

use super::*;
use crate::backend::{Aftermath, Audit, Dataplane, Failure, FlowError, FlowTable, Lost, ObserveError};
use crate::desired::{Desired, UdpFlows};
use crate::reconcile::wish::{Kept, Mode, Modes, Wish};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

/// A dataplane that counts its syncs.
#[derive(Default, Clone)]
struct Stub {
    /// Whether every sync fails, and lastingly.
    fails: Arc<Mutex<Option<bool>>>,
    syncs: Arc<AtomicUsize>,
    distrusted: Arc<AtomicUsize>,
    /// Nothing drains any more.
    drained: Arc<AtomicBool>,
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
        let failure = |lasting: &bool| {
            let (step, reason) = ("a step".into(), "no".into());
            let aftermath = if *lasting { Aftermath::Lasting } else { Aftermath::Unknown };
            Failure { step, reason, aftermath, of_one: false }
        };
        let failures = self.fails.lock().unwrap().iter().map(failure).collect();
        Report { failures, draining: usize::from(!self.drained.load(SeqCst)), observed: true, ..Report::default() }
    }

    fn lost(&mut self, _: IpFamily, _: &Lost) -> bool {
        true
    }

    fn distrust(&mut self, _: IpFamily) {
        self.distrusted.fetch_add(1, SeqCst);
    }

    fn audit(&mut self, _: IpFamily, _: Instant) -> Audit {
        if self.fails.lock().unwrap().is_some() { Audit::Owes } else { Audit::Holds }
    }
}

/// A flow table that counts how often it was asked to forget.
#[derive(Default, Clone)]
struct Table {
    fails: Arc<Mutex<bool>>,
    asked: Arc<AtomicUsize>,
}

impl FlowTable for Table {
    fn forget(&mut self, _: IpFamily, _: &UdpFlows) -> Result<usize, FlowError> {
        self.asked.fetch_add(1, SeqCst);
        if *self.fails.lock().unwrap() { Err(FlowError::for_tests()) } else { Ok(1) }
    }

    fn take_over(&mut self, _: IpFamily, _: &UdpFlows) -> Result<usize, FlowError> {
        Ok(0)
    }
}

/// Modes that are there from the start.
struct Fixed;

impl Modes for Fixed {
    fn probe(&mut self, _: Mode) -> Result<(), String> {
        Ok(())
    }

    fn open(&mut self, _: Mode) -> Result<Box<dyn Dataplane>, String> {
        Err("there are no more".into())
    }

    fn record(&mut self, _: &Kept, _: Option<Wish>) -> Result<(), String> {
        Ok(())
    }
}

fn loop_over(drain_timeout: Duration) -> (Reconciler, Stub, Stub) {
    let (active, retiring) = (Stub::default(), Stub::default());
    let settings = Arc::new(Settings { drain_timeout, ..Settings::default() });
    let planes = Planes {
        ipvs: Some(Box::new(active.clone())),
        iptables: Some(Box::new(retiring.clone())),
        leftovers: None,
        active: PerFamily { v4: Mode::Ipvs, v6: Mode::Ipvs },
        wish: PerFamily::default(),
        modes: Box::new(Fixed),
        flows: Box::new(Table::default()),
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
    reconciler.take_trigger(Trigger::Settings(other_settings(3), Timing::default().into()));
    reconciler.round(start + Duration::from_millis(10));
    assert_eq!(active.syncs.load(SeqCst), syncs + 1);
    assert_eq!(reconciler.builder.desired().v4.rules.as_ref().unwrap().masquerade_mark, 8);
}

#[test]
fn the_periods_are_those_of_the_mode_that_serves() {
    let (mut reconciler, ..) = loop_over(Duration::from_secs(1));
    let of = |seconds| Timing { min: Duration::from_secs(seconds), ..Timing::default() };
    let timings = Timings { ipvs: of(1), iptables: of(2) };
    reconciler.take_trigger(Trigger::Settings(other_settings(3), timings));
    for mode in [Mode::Ipvs, Mode::Iptables] {
        reconciler.planes.active.v4 = mode;
        reconciler.moved(IpFamily::V4);
        assert_eq!(reconciler.timing.v4, timings.of(mode));
    }
}

#[test]
fn changes_that_follow_too_soon_wait_and_then_come_together() {
    let (mut reconciler, active, _) = loop_over(Duration::from_secs(1));
    let timing = Timing { min: Duration::from_secs(10), ..Timing::default() };
    reconciler.take_trigger(Trigger::Settings(other_settings(3), timing.into()));
    reconciler.round(Instant::now());
    let (syncs, start) = (active.syncs.load(SeqCst), Instant::now());
    for bit in 4..8 {
        reconciler.take_trigger(Trigger::Settings(other_settings(bit), timing.into()));
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

#[test]
fn stale_flows_are_tried_again_and_stop_nothing() {
    let (mut reconciler, active, _) = loop_over(Duration::from_secs(1));
    let table = Table::default();
    reconciler.planes.flows = Box::new(table.clone());
    *table.fails.lock().unwrap() = true;
    let start = Instant::now();
    reconciler.round(start);
    assert_eq!(table.asked.load(SeqCst), 0, "there is no UDP");
    reconciler.take_snapshot(&with_udp());
    reconciler.round(start);
    assert!(reconciler.status().families.v4.in_sync);
    assert_eq!(table.asked.load(SeqCst), 1);
    let syncs = active.syncs.load(SeqCst);
    let again = reconciler.next_wake(start);
    assert!(again <= Instant::now() + Timing::default().retry_min, "it is tried again soon");
    reconciler.round(again);
    assert_eq!((table.asked.load(SeqCst), active.syncs.load(SeqCst)), (2, syncs), "without another sync");
    *table.fails.lock().unwrap() = false;
    reconciler.round(reconciler.next_wake(again));
    assert_eq!(table.asked.load(SeqCst), 3);
    reconciler.round(Instant::now() + Duration::from_secs(31));
    assert_eq!(table.asked.load(SeqCst), 3, "the audit does not read the table of flows");
}

#[test]
fn flows_wait_for_the_change_that_makes_them_stale() {
    let (mut reconciler, active, _) = loop_over(Duration::from_secs(1));
    let table = Table::default();
    reconciler.planes.flows = Box::new(table.clone());
    let timing = Timing { min: Duration::from_secs(10), ..Timing::default() };
    reconciler.take_trigger(Trigger::Settings(other_settings(3), timing.into()));
    reconciler.round(Instant::now());
    let (syncs, start) = (active.syncs.load(SeqCst), Instant::now());
    reconciler.take_snapshot(&with_udp());
    reconciler.round(start);
    assert_eq!((table.asked.load(SeqCst), active.syncs.load(SeqCst)), (0, syncs), "held back");
    let wake = reconciler.next_wake(start);
    assert!(wake > start + Duration::from_secs(9), "nothing is due before");
    reconciler.round(wake);
    assert_eq!((table.asked.load(SeqCst), active.syncs.load(SeqCst)), (1, syncs + 1));
    assert!(reconciler.next_wake(wake) > wake);
}

#[test]
fn flows_are_looked_at_again_once_a_sync_has_left_nothing_undone() {
    let (mut reconciler, active, _) = loop_over(Duration::from_secs(1));
    let table = Table::default();
    reconciler.planes.flows = Box::new(table.clone());
    *active.fails.lock().unwrap() = Some(false);
    reconciler.take_snapshot(&with_udp());
    reconciler.round(Instant::now());
    assert_eq!(table.asked.load(SeqCst), 1);
    *active.fails.lock().unwrap() = None;
    reconciler.round(Instant::now() + Duration::from_secs(31));
    assert_eq!(table.asked.load(SeqCst), 2);
    reconciler.round(Instant::now() + Duration::from_secs(62));
    assert_eq!(table.asked.load(SeqCst), 2);
}

fn with_udp() -> Snapshot {
    let mut service = crate::model::Service::for_test("ns", "dns");
    service.cluster_ips = vec![[10, 96, 0, 10].into()];
    let protocol = crate::model::Protocol::Udp;
    service.ports =
        vec![crate::model::ServicePort { name: "dns".into(), protocol, port: 53, node_port: None, target: None }];
    let services = [(service.name.clone(), Arc::new(service))].into_iter().collect();
    Snapshot { services, complete: true, ..Snapshot::default() }
}

/// Counts when everything was said to be in force.
#[derive(Debug, Default, Clone)]
struct InForce(Arc<Mutex<(usize, usize)>>);

impl crate::reconcile::Meter for InForce {
    fn queued(&mut self, _: IpFamily, _: bool, _: Instant) {
        self.0.lock().unwrap().0 += 1;
    }
    fn synced(&mut self, _: IpFamily, _: &crate::reconcile::Synced<'_>) {}
    fn in_force(&mut self, _: IpFamily, _: &[std::time::SystemTime], _: Instant) {
        self.0.lock().unwrap().1 += 1;
    }
    fn changes(&mut self, _: crate::model::Changes, _: crate::model::Changes) {}
    fn without_local(&mut self, _: IpFamily, _: crate::reconcile::WithoutLocal) {}
    fn flows(&mut self, _: IpFamily, _: Duration, _: usize) {}
    fn node(&mut self, _: bool) {}
}

#[test]
fn what_failed_is_not_in_force_before_it_worked() {
    let (reconciler, active, _) = loop_over(Duration::ZERO);
    let seen = InForce::default();
    let mut reconciler = reconciler.with_meter(Box::new(seen.clone()));
    let start = Instant::now();
    *active.fails.lock().unwrap() = Some(false);
    reconciler.round(start);
    reconciler.round(start + Duration::from_millis(1));
    assert_eq!(*seen.0.lock().unwrap(), (1, 0), "one sync, which failed, and a round before its retry");
    *active.fails.lock().unwrap() = None;
    reconciler.round(Instant::now() + Duration::from_secs(1));
    assert_eq!(*seen.0.lock().unwrap(), (2, 1));
    // What lies with somebody else does not keep the rest from being in force.
    *active.fails.lock().unwrap() = Some(true);
    reconciler.round(Instant::now() + Duration::from_secs(60));
    assert_eq!(*seen.0.lock().unwrap(), (3, 2));
}

#[test]
fn what_the_kernel_has_not_taken_is_tried_again_by_each_audit_without_reading() {
    let (mut reconciler, active, _) = loop_over(Duration::from_secs(1));
    *active.fails.lock().unwrap() = Some(true);
    active.drained.store(true, SeqCst);
    let mut now = Instant::now();
    reconciler.round(now);
    let (syncs, distrusted) = (active.syncs.load(SeqCst), active.distrusted.load(SeqCst));
    for audits in 1..4 {
        now += Duration::from_secs(31);
        assert!(reconciler.next_wake(now) <= now, "an audit is due");
        reconciler.round(now);
        assert_eq!(active.syncs.load(SeqCst), syncs + audits);
    }
    assert_eq!(active.distrusted.load(SeqCst), distrusted);
}
