//! `auto` over both fake modes: it moves on what was seen again and again, be it in a probe or in what serves.

use super::switch::{Node, all, ask, iptables_serves, many_services, settle};
use crate::reconcile::{Kept, Mode, Progress, Reconciler, Step, Switch, Trigger, Wish};
use std::time::{Duration, Instant};

/// The program, told to follow IPVS and in this mode.
fn follower(node: &Node, mode: Mode) -> (Reconciler, Instant) {
    *node.record.lock().unwrap() = Some(Kept::default());
    let mut reconciler = node.start(mode);
    let now = settle(&mut reconciler, Instant::now());
    (reconciler, now)
}

/// `auto` moves when it is certain, and back.
#[test]
fn auto_follows_ipvs() {
    let node = Node::new(0, 1);
    *node.missing.lock().unwrap() = Some("no module".into());
    let (mut reconciler, mut now) = follower(&node, Mode::Iptables);
    let mut probe = |reconciler: &mut Reconciler, works: bool, times: usize| {
        *node.missing.lock().unwrap() = (!works).then(|| "no module".to_owned());
        for _ in 0..times {
            reconciler.take_trigger(Trigger::Probed(if works { Ok(()) } else { Err("no module".into()) }));
            reconciler.round(now);
            now += Duration::from_secs(15);
        }
        reconciler.status().families.v4.mode.unwrap()
    };
    assert_eq!(probe(&mut reconciler, true, 2), Mode::Iptables, "not certain yet");
    assert_eq!(probe(&mut reconciler, true, 1), Mode::Ipvs);
    assert_eq!(probe(&mut reconciler, false, 3), Mode::Ipvs, "the second move needs more");
    assert_eq!(probe(&mut reconciler, true, 10), Mode::Ipvs);
    assert_eq!(probe(&mut reconciler, false, 6), Mode::Iptables);
    let steps = ask(&mut reconciler, Mode::Iptables);
    assert_eq!(probe(&mut reconciler, true, 500), Mode::Iptables, "somebody wants this one");
    assert_eq!(all(steps).last(), Some(&Step::Done));
}

/// A probe is made in a namespace of its own: it tells nothing of an interface that somebody else took here.
#[test]
fn auto_leaves_ipvs_that_is_stuck_though_probes_succeed() {
    let node = Node::new(0, 1);
    let (mut reconciler, mut now) = follower(&node, Mode::Ipvs);
    let mut probe = |reconciler: &mut Reconciler, stuck: bool, times: usize| {
        node.kernel.lock().unwrap().v4.takes_no_routes = stuck;
        if stuck {
            node.kernel.lock().unwrap().v4.routes.clear();
        }
        for _ in 0..times {
            reconciler.take_trigger(Trigger::Probed(Ok(())));
            reconciler.take_trigger(Trigger::Lost);
            reconciler.round(now);
            now += Duration::from_secs(15);
        }
        reconciler.status().families.v4.mode.unwrap()
    };
    assert_eq!(probe(&mut reconciler, true, 3), Mode::Ipvs, "not for long yet");
    assert_eq!(probe(&mut reconciler, true, 4), Mode::Iptables);
    assert_eq!(probe(&mut reconciler, true, 100), Mode::Iptables, "it tries, and is still refused");
    let kept = node.record.lock().unwrap().unwrap();
    assert!(kept.fell_back.v4 && !kept.fell_back.v6, "the next start knows: {kept:?}");
    reconciler = node.start(Mode::Ipvs);
    assert_eq!(probe(&mut reconciler, true, 1), Mode::Iptables, "after a restart as before");
    assert_eq!(probe(&mut reconciler, false, 300), Mode::Ipvs, "within an hour");
    assert_eq!(*node.record.lock().unwrap(), Some(Kept::default()));
}

/// A mode in which one Service is missing is better than one that does not work.
#[test]
fn auto_leaves_ipvs_that_is_stuck_for_iptables_that_refuses_one_service() {
    let node = Node::new(0, 1);
    let (mut reconciler, mut now) = follower(&node, Mode::Ipvs);
    reconciler.take_snapshot(&many_services());
    {
        let kernel = &mut node.kernel.lock().unwrap().v4;
        kernel.refuses = Some("172.30.0.12/32");
        kernel.takes_no_routes = true;
        kernel.routes.clear();
    }
    for _ in 0..8 {
        reconciler.take_trigger(Trigger::Probed(Ok(())));
        reconciler.take_trigger(Trigger::Lost);
        reconciler.round(now);
        now += Duration::from_secs(15);
    }
    let status = reconciler.status().families.v4;
    assert_eq!(status.mode, Some(Mode::Iptables), "{:?}", status.last_failure);
    assert!(status.serves_since.is_some(), "{:?}", status.failures);
    assert!(status.failures.iter().any(|failure| failure.contains("172.30.0.12")), "{:?}", status.failures);
    let serves = |vip: &str| iptables_serves(&node.kernel.lock().unwrap().v4, vip);
    assert_eq!(["172.30.0.1", "172.30.0.11", "172.30.0.12"].map(serves), [true, true, false]);
}

/// What somebody wants comes before what `auto` has just decided on.
#[test]
fn a_wish_that_comes_with_the_deciding_probe_counts() {
    let node = Node::new(0, 1);
    let (mut reconciler, mut now) = follower(&node, Mode::Ipvs);
    for deciding in [false, false, true] {
        let steps = deciding.then(|| ask(&mut reconciler, Mode::Iptables));
        reconciler.take_trigger(Trigger::Probed(Err("no module".into())));
        reconciler.round(now);
        let before = if deciding { Mode::Iptables } else { Mode::Ipvs };
        assert_eq!(reconciler.status().families.v4.mode, Some(before));
        drop(steps);
        now += Duration::from_secs(15);
    }
    let family = reconciler.status().families.v4;
    assert_eq!((family.mode, family.wish), (Some(Mode::Iptables), Wish::Only(Mode::Iptables)));
}

/// Who switches after the configuration asked in vain is not overruled when it asks once more, only when it asks for another mode.
#[test]
fn a_configuration_that_asks_again_does_not_undo_a_later_switch() {
    let node = Node::new(0, 1);
    let mut reconciler = node.start(Mode::Iptables);
    let mut now = settle(&mut reconciler, Instant::now());
    let mut configure = |reconciler: &mut Reconciler, mode: Mode| {
        let switch = Switch {
            wish: Wish::Only(mode),
            target: None,
            configured: true,
            families: Vec::new(),
            drain: None,
            progress: Progress::default(),
        };
        reconciler.take_trigger(Trigger::Switch(switch));
        now = settle(reconciler, now);
        reconciler.status().families.v4.mode.unwrap()
    };
    *node.missing.lock().unwrap() = Some("no module".into());
    assert_eq!(configure(&mut reconciler, Mode::Ipvs), Mode::Iptables, "in vain");
    let steps = ask(&mut reconciler, Mode::Iptables);
    assert_eq!(configure(&mut reconciler, Mode::Ipvs), Mode::Iptables);
    let wish = node.record.lock().unwrap().unwrap().wish.v4;
    assert_eq!(wish, Wish::Only(Mode::Iptables), "the next start, under a configuration that says otherwise, is told");
    assert_eq!(all(steps).last(), Some(&Step::Done));
    *node.missing.lock().unwrap() = None;
    assert_eq!(configure(&mut reconciler, Mode::Ipvs), Mode::Iptables, "somebody wants this one since");
    assert_eq!(configure(&mut reconciler, Mode::Iptables), Mode::Iptables);
    assert_eq!(configure(&mut reconciler, Mode::Ipvs), Mode::Ipvs, "edited, and edited again");
}
