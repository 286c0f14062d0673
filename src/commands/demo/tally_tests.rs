//! The judge itself: what it lets pass and what not.

use super::*;
use crate::lab::Answer;

fn target(sticky: bool) -> Target {
    let endpoints = [("10.180.0.1:80", "pod-1"), ("10.180.0.2:80", "pod-2")];
    Target {
        name: "default/web".to_owned(),
        protocol: Protocol::Tcp,
        sticky,
        frontends: vec![frontend()],
        endpoints: endpoints.into_iter().map(|(at, name)| (at.parse().unwrap(), name.to_owned())).collect(),
    }
}

fn frontend() -> Frontend {
    Frontend { kind: "cluster IP", address: "172.30.0.1:80".parse().unwrap() }
}

fn answered(name: &str, local: &str) -> Outcome {
    let peer = "10.180.0.3:4711".parse().unwrap();
    Outcome::Answered(Answer { name: name.to_owned(), local: local.parse().unwrap(), peer, question: String::new() })
}

fn ledger(target: &Target, results: &[(Outcome, u32)]) -> Ledger {
    let mut ledger = Ledger::default();
    let group = Group { target: 0, frontend: frontend(), client: "client" };
    for (outcome, times) in results {
        (0..*times).for_each(|_| {
            ledger.record(&group, target, outcome);
        });
    }
    ledger
}

fn judge(target: &Target, results: &[(Outcome, u32)]) -> Verdict {
    let (ledger, targets) = (ledger(target, results), std::slice::from_ref(target));
    let mut verdict = Verdict::default();
    verdict.count(targets, &ledger);
    verdict.judge_spread(targets, &ledger);
    verdict.judge_affinity(targets, &ledger);
    verdict
}

fn pod_1() -> Outcome {
    answered("pod-1", "10.180.0.1:80")
}

fn pod_2() -> Outcome {
    answered("pod-2", "10.180.0.2:80")
}

#[test]
fn a_fifth_from_equal_passes_and_more_does_not() {
    assert!(judge(&target(false), &[(pod_1(), 120), (pod_2(), 80)]).is_good());
    let verdict = judge(&target(false), &[(pod_1(), 121), (pod_2(), 79)]);
    assert!(!verdict.is_even());
    assert!(!verdict.is_good());
    assert!(!judge(&target(false), &[(pod_1(), 200)]).is_even(), "an endpoint that never answers is uneven");
}

#[test]
fn strangers_wrong_ports_and_silence_are_failures() {
    let results = [
        (pod_1(), 100),
        (pod_2(), 100),
        (answered("pod-3", "10.180.0.3:80"), 1),
        (answered("pod-1", "10.180.0.1:8080"), 1),
        (answered("pod-2", "10.180.0.1:80"), 1),
        (Outcome::TimedOut, 1),
        (Outcome::Refused, 1),
    ];
    let verdict = judge(&target(false), &results);
    assert_eq!((verdict.tcp, verdict.failed), (205, 5));
    assert!(!verdict.is_good());
}

#[test]
fn affinity_means_one_endpoint_for_each_client_and_address() {
    assert!(judge(&target(true), &[(pod_1(), 20)]).is_good());
    assert!(!judge(&target(true), &[(pod_1(), 19), (pod_2(), 1)]).is_faithful());
}

#[test]
fn after_a_change_the_old_endpoint_is_silent_and_others_keep_their_clients() {
    let change = Change { old: "pod-2".to_owned(), new: "pod-1".to_owned() };
    let judge_change = |sticky, before: Outcome, after: Outcome| {
        let target = target(sticky);
        let mut verdict = Verdict::default();
        let (before, after) = (ledger(&target, &[(before, 9)]), ledger(&target, &[(after, 9)]));
        verdict.judge_change(&[target], &before, &after, &change);
        verdict
    };
    assert!(judge_change(false, pod_2(), pod_1()).is_good());
    assert!(!judge_change(false, pod_1(), pod_2()).followed());
    assert!(judge_change(true, pod_2(), pod_1()).is_good(), "its endpoint is gone, so it may move");
    let other = Change { old: "pod-9".to_owned(), new: "pod-1".to_owned() };
    let sticky = target(true);
    let mut verdict = Verdict::default();
    let (before, after) = (ledger(&sticky, &[(pod_2(), 9)]), ledger(&sticky, &[(pod_1(), 9)]));
    verdict.judge_change(&[sticky], &before, &after, &other);
    assert!(!verdict.is_faithful(), "its endpoint is still there, so it must stay");
}
