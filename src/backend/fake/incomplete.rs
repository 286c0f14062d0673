//! Before everything was read: what this run itself asked for goes when it is not asked for any more; what an earlier run left of a
//! service port waits until the port's endpoints are known.

use super::convergence::{describe, difference};
use super::histories::{builder, endpoint, facts, put, service};
use super::iptables::FakeIptables;
use super::ipvs::FakeIpvs;
use super::{FakeBackend, Shared, dataplane, kernel};
use crate::backend::ipvs::names::Set;
use crate::desired::Touched;
use crate::model::{IpFamily, Service, Snapshot};
use std::time::{Duration, Instant};

/// Each of these is taken in by the same run, which has not read everything.
fn taken_in<B: FakeBackend>(shared: &Shared, history: &[Snapshot]) -> String
where
    B::Observed: Send,
{
    let (mut builder, mut plane, later) =
        (builder(), dataplane::<B>(shared), Instant::now() + Duration::from_secs(2000));
    for (number, snapshot) in history.iter().enumerate() {
        let change = builder.update(snapshot, &facts(), Instant::now());
        let touched = if number == 0 { Touched::All } else { Touched::Ports(&change.ports.v4) };
        let report = plane.sync(IpFamily::V4, builder.desired().get(IpFamily::V4), touched, Instant::now());
        assert!(report.is_clean(), "{report:?}");
    }
    let change = builder.expire(later);
    plane.sync(IpFamily::V4, builder.desired().get(IpFamily::V4), Touched::Ports(&change.ports.v4), later);
    let kernel = &mut shared.lock().unwrap().v4;
    // Others may name these as well, of which nothing is known yet.
    [Set::LoopBack, Set::Addresses].iter().for_each(|set| drop(kernel.sets.remove(set)));
    kernel.routes.clear();
    describe(kernel)
}

fn known_so_far(service: Service, endpoints: &[&str]) -> Snapshot {
    let mut snapshot = Snapshot::default();
    let endpoints = endpoints.iter().map(|address| endpoint(address, "other", false)).collect();
    put(&mut snapshot, service, endpoints);
    snapshot
}

fn histories() -> Vec<[Snapshot; 2]> {
    let plain = || service("a", "172.30.0.1", 80, Some(30080), &[]);
    let local = || Service { external_policy_local: true, ..plain() };
    let ranged = || Service {
        load_balancer_ips: vec!["192.0.2.1".parse().unwrap()],
        source_ranges: vec!["198.51.100.0/24".parse().unwrap()],
        ..plain()
    };
    let open = || Service { source_ranges: Vec::new(), ..ranged() };
    vec![
        [known_so_far(local(), &["10.180.0.1"]), known_so_far(plain(), &["10.180.0.1"])],
        [known_so_far(plain(), &["10.180.0.1"]), known_so_far(plain(), &["10.180.0.2"])],
        [known_so_far(plain(), &["10.180.0.1"]), known_so_far(plain(), &[])],
        [known_so_far(open(), &["10.180.0.1"]), known_so_far(ranged(), &["10.180.0.1"])],
        [known_so_far(ranged(), &["10.180.0.1"]), known_so_far(open(), &["10.180.0.1"])],
    ]
}

fn what_this_run_asked_for_goes<B: FakeBackend>()
where
    B::Observed: Send,
{
    for (number, history) in histories().iter().enumerate() {
        let ours = taken_in::<B>(&kernel(0, 1), history);
        let fresh = taken_in::<B>(&kernel(0, 1), &history[1..]);
        assert!(ours == fresh, "history {number} {}", difference(&ours, &fresh));
    }
}

#[test]
fn what_this_run_asked_for_goes_in_ipvs_mode() {
    what_this_run_asked_for_goes::<FakeIpvs>();
}

#[test]
fn what_this_run_asked_for_goes_in_iptables_mode() {
    what_this_run_asked_for_goes::<FakeIptables>();
}

/// The API server may have moved while nobody looked; a Service whose slices were not read yet has not lost its endpoints.
#[test]
fn endpoints_of_an_earlier_run_go_once_others_are_known() {
    let plain = || service("a", "172.30.0.1", 80, None, &[]);
    for (known, serving) in [(&["10.180.0.2"][..], ["10.180.0.2:8080"]), (&[][..], ["10.180.0.1:8080"])] {
        let shared = kernel(0, 1);
        taken_in::<FakeIpvs>(&shared, &[known_so_far(plain(), &["10.180.0.1"])]);
        taken_in::<FakeIpvs>(&shared, &[known_so_far(plain(), known)]);
        let servers = &shared.lock().unwrap().v4.servers;
        // What goes takes no new connections first: one may have begun since it was looked at.
        let destinations = servers.values().flat_map(|server| &server.destinations);
        let takes_new = destinations.filter(|(_, found)| found.weight > 0);
        assert_eq!(takes_new.map(|(address, _)| address.to_string()).collect::<Vec<_>>(), serving);
    }
}
