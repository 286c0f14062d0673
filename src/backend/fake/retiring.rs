//! How a mode leaves that will not go, and what a failed switch left: over the kernel in memory.

use super::histories::{endpoint, put, service};
use super::switch::{Node, all, ask, iptables_serves, many_services, settle, snapshot};
use crate::reconcile::{Mode, Reconciler, State, Step};
use std::time::{Duration, Instant};

/// Runs for three seconds, waking when it wants to. Returns how often it did.
fn run(reconciler: &mut Reconciler) -> usize {
    let (end, mut rounds) = (Instant::now() + Duration::from_secs(3), 0);
    while Instant::now() < end {
        reconciler.round(Instant::now());
        rounds += 1;
        std::thread::sleep(reconciler.next_wake(Instant::now()).min(end).saturating_duration_since(Instant::now()));
    }
    rounds
}

fn some_rounds(reconciler: &mut Reconciler) {
    (0..4).for_each(|_| reconciler.round(Instant::now()));
}

/// The mode that serves does not get done, nor does the one that leaves.
#[test]
fn where_nothing_succeeds_the_loop_rests() {
    for (from, to) in [(Mode::Ipvs, Mode::Iptables), (Mode::Iptables, Mode::Ipvs)] {
        let node = Node::new(0, 1);
        let mut reconciler = node.start(from);
        some_rounds(&mut reconciler);
        let steps = ask(&mut reconciler, to);
        reconciler.round(Instant::now());
        node.kernel.lock().unwrap().v4.falter(1000);
        some_rounds(&mut reconciler);
        let mut changed = snapshot();
        put(&mut changed, service("c", "172.30.0.9", 80, None, &[]), vec![endpoint("10.180.0.1", "me", false)]);
        reconciler.take_snapshot(&changed);
        let rounds = run(&mut reconciler);
        assert!(!reconciler.status().families_settled());
        assert!(rounds < 50, "{rounds} rounds");
        node.kernel.lock().unwrap().v4.falter(0);
        reconciler.take_snapshot(&snapshot());
        settle(&mut reconciler, Instant::now());
        node.assert_only(to, "it succeeds again");
        assert_eq!(all(steps).last(), Some(&Step::Done));
    }
}

/// Nobody brings it up to date: its jumps would send packets to endpoints that are gone.
#[test]
fn what_a_failed_switch_left_goes_though_the_mode_that_serves_has_troubles() {
    let node = Node::new(0, 1);
    node.kernel.lock().unwrap().v4.takes_no_routes = true;
    let mut reconciler = node.start(Mode::Ipvs);
    some_rounds(&mut reconciler);
    assert!(!reconciler.status().families_settled());
    node.fill_disk();
    let steps = ask(&mut reconciler, Mode::Iptables);
    reconciler.round(Instant::now());
    assert!(matches!(all(steps).pop(), Some(Step::Failed { .. })));
    run(&mut reconciler);
    assert!(!reconciler.status().families_settled());
    assert_eq!(reconciler.status().families.v4.retirement.state, State::Gone);
    node.kernel.lock().unwrap().v4.takes_no_routes = false;
    settle(&mut reconciler, Instant::now());
    node.assert_only(Mode::Ipvs, "its troubles are over");
}

/// Nobody keeps its endpoints, and the Service that is refused will be refused for as long as it is there.
#[test]
fn one_service_that_is_refused_does_not_keep_what_an_earlier_run_left() {
    let node = Node::new(0, 1);
    let start = |mode: Mode| {
        let mut reconciler = node.start(mode);
        reconciler.take_snapshot(&many_services());
        reconciler
    };
    settle(&mut start(Mode::Iptables), Instant::now());
    assert!(iptables_serves(&node.kernel.lock().unwrap().v4, "172.30.0.1"));
    // A virtual server; rules have a prefix length.
    node.kernel.lock().unwrap().v4.refuses = Some("172.30.0.12:80");
    let (mut reconciler, now) = (start(Mode::Ipvs), Instant::now());
    reconciler.round(now);
    assert_eq!(reconciler.status().families.v4.retirement.state, State::Waiting, "it may mend");
    settle(&mut reconciler, now + Duration::from_secs(60));
    let status = reconciler.status().families.v4;
    assert!(!status.settled && status.serves_since.is_some(), "{:?}", status.failures);
    assert_eq!(status.retirement.state, State::Gone);
    assert!(!iptables_serves(&node.kernel.lock().unwrap().v4, "172.30.0.1"));
    node.kernel.lock().unwrap().v4.refuses = None;
    settle(&mut reconciler, now + Duration::from_secs(9000));
    assert!(reconciler.status().families.v4.in_sync);
}
