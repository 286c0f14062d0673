//! A cold start, some service ports at a time: each piece is made as a whole, so that its service ports are served while
//! those behind it are still to come, and no plan of the whole node is ever in memory. Pure.

use super::Op;
use super::observed::Observed;
use super::plan::{Context, Planner};
use super::steps::Steps;
use crate::backend::Ahead;
use crate::desired::{Desired, ServicePortKey};
use crate::model::ServiceName;
use std::ops::Bound;

/// Service ports of a piece.
const PIECE: usize = if cfg!(test) { 2 } else { 500 };

/// Service ports for which pieces are worthwhile.
const WORTHWHILE: usize = if cfg!(test) { 3 } else { 1000 };

/// The next steps that may be carried out before the rest is known: `default/kubernetes` first, as a new node needs its API
/// server before anything else. Beside another mode that serves, too: as long as that one translates, nothing reaches what is
/// made here.
pub fn ahead(context: Context, desired: &Desired, observed: &Observed, ahead: &mut Ahead) -> Option<Vec<Op>> {
    let rules = desired.rules.as_deref().filter(|_| !desired.retiring)?;
    if ahead.pieces == 0 {
        let ports =
            ahead.extent.as_ref().map_or(desired.ports.len(), |extent| desired.ports.len().max(extent.services));
        // What stands there in good part is compared as a whole.
        if ports < WORTHWHILE || observed.servers.len() > ports / 2 {
            return None;
        }
        ahead.covers = observed.is_empty();
    }
    if ahead.ended {
        return None;
    }
    let mut steps = Steps::default();
    let mut planner = Planner { context, observed, rules, steps: &mut steps, incomplete: desired.incomplete };
    if ahead.pieces == 0 {
        ahead.pieces = 1;
        planner.helpers();
        return Some(steps.in_order());
    }
    if ahead.pieces == 1 {
        // It is the first that is known.
        if desired.ports.is_empty() && ahead.extent.is_some() {
            return None;
        }
        ahead.pieces = 2;
        // Found by its name: there may be very many others.
        let kubernetes = ServicePortKey::first_of(ServiceName::new("default", "kubernetes"));
        ahead.covers &=
            planner.additions(desired.ports.range(kubernetes..).take_while(|(key, _)| key.service.is_kubernetes()));
        return Some(steps.in_order());
    }
    let from = ahead.last.clone().map_or(Bound::Unbounded, Bound::Excluded);
    let is_known = |key: &ServicePortKey| ahead.extent.as_ref().is_none_or(|extent| key.service < extent.before);
    let rest = desired.ports.range((from, Bound::Unbounded)).take_while(|(key, _)| is_known(key));
    let piece: Vec<_> = rest.take(PIECE).collect();
    let last = piece.get(PIECE - 1).map(|(key, _)| (*key).clone());
    if last.is_none() && ahead.extent.is_some() {
        return None;
    }
    ahead.pieces += 1;
    ahead.covers &= planner.additions(piece.into_iter());
    ahead.ended = last.is_none();
    ahead.last = last;
    Some(steps.in_order())
}

#[cfg(test)]
mod tests {
    use super::super::plan::plan;
    use super::super::{Op, VipBinding};
    use super::*;
    use crate::desired::{Builder, NodeFacts, Settings, Touched};
    use crate::model::{Endpoint, EndpointPort, EndpointSlice, IpFamily, Protocol, Service, ServicePort, Snapshot};
    use ipvs::ServiceId;
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    fn context() -> Context {
        Context {
            family: IpFamily::V4,
            binding: VipBinding::Route,
            now: Instant::now(),
            drain_timeout: Duration::ZERO,
            missing: Arc::default(),
        }
    }

    /// That many Services, each with two endpoints, of which one is every Service's; the last one is `default/kubernetes`.
    fn cluster(services: u8) -> (Snapshot, Builder) {
        let mut snapshot = Snapshot { complete: true, ..Snapshot::default() };
        for number in 0..services {
            let name = format!("web-{number}");
            let last = number + 1 == services;
            let mut service =
                if last { Service::for_test("default", "kubernetes") } else { Service::for_test("a-namespace", &name) };
            service.cluster_ips = vec![[172, 30, 0, number].into()];
            let (name, protocol) = (Arc::<str>::from("http"), Protocol::Tcp);
            service.ports = vec![ServicePort { name: name.clone(), protocol, port: 80, node_port: None, target: None }];
            let endpoint = |last: u8| Endpoint::for_test([10, 180, 0, last].into());
            let slice = EndpointSlice {
                ports: vec![EndpointPort { name, protocol, port: 8080 }],
                endpoints: vec![endpoint(255), endpoint(number)],
                ..EndpointSlice::for_test("slice")
            };
            snapshot.slices.insert(service.name.clone(), [&slice].into_iter().collect());
            snapshot.services.insert(service.name.clone(), Arc::new(service));
        }
        let service_ranges = vec!["172.30.0.0/16".parse().unwrap()];
        (snapshot, Builder::new(Arc::new(Settings { service_ranges, ..Settings::default() })))
    }

    fn desired(services: u8) -> Desired {
        let (snapshot, mut builder) = cluster(services);
        builder.update(&snapshot, &NodeFacts::default(), Instant::now());
        builder.desired().get(IpFamily::V4).clone()
    }

    /// Carries the pieces out; how many steps each had, and how far it went.
    fn pieces(desired: &Desired, observed: &mut Observed) -> (Vec<usize>, Ahead) {
        let mut state = Ahead::default();
        let sizes = go_on(desired, observed, &mut state);
        (sizes, state)
    }

    fn go_on(desired: &Desired, observed: &mut Observed, state: &mut Ahead) -> Vec<usize> {
        let mut sizes = Vec::new();
        while let Some(ops) = ahead(context(), desired, observed, state) {
            sizes.push(ops.len());
            // The one way must lead to the same as the other.
            let mut one_by_one = observed.clone();
            ops.iter().for_each(|op| one_by_one.acknowledge(op));
            observed.acknowledge_additions(&ops);
            assert_eq!(observed.servers, one_by_one.servers);
        }
        sizes
    }

    #[test]
    fn what_is_known_is_written_while_the_rest_is_decided_on() {
        for services in [4, 7, 8] {
            let (snapshot, mut builder) = cluster(services);
            let (mut state, mut observed, mut written) = (Ahead::default(), Observed::default(), Vec::new());
            let kubernetes = std::net::IpAddr::from([172, 30, 0, services - 1]);
            builder.update_telling(&snapshot, &NodeFacts::default(), Instant::now(), |desired, extent| {
                state.extent = Some(extent);
                go_on(desired.get(IpFamily::V4), &mut observed, &mut state);
                let served =
                    |id: &ServiceId| matches!(id, ServiceId::Address { address, .. } if *address == kubernetes);
                assert_eq!(observed.servers.keys().any(served), !written.is_empty(), "the API server first");
                assert!(state.pieces > 0, "the helpers even before");
                written.push(observed.servers.len());
            });
            // First the helpers alone; then default/kubernetes and each piece, as soon as it is known.
            let told = (1..=(usize::from(services) - 2) / PIECE).map(|pieces| 1 + pieces * PIECE);
            let expected: Vec<usize> = std::iter::once(0).chain(told).collect();
            assert_eq!(written, expected, "of {services}");
            let desired = builder.desired().get(IpFamily::V4);
            state.extent = None;
            go_on(desired, &mut observed, &mut state);
            assert!(state.ended && state.covers);
            assert_eq!(observed.servers.len(), usize::from(services));
            assert_eq!(plan(context(), desired, &observed, Touched::All), [], "{services} services");
        }
    }

    #[test]
    fn pieces_from_nothing_leave_nothing_to_do() {
        for services in [3, 4, 7] {
            let (desired, mut observed) = (desired(services), Observed::default());
            let (sizes, state) = pieces(&desired, &mut observed);
            assert!(sizes.len() > usize::from(services) / PIECE && state.covers, "{sizes:?}");
            assert_eq!(observed.servers.len(), usize::from(services));
            assert_eq!(plan(context(), &desired, &observed, Touched::All), [], "{services} services");
        }
    }

    #[test]
    fn what_is_somebody_elses_is_told_once_and_stops_nothing() {
        let (mut desired, mut observed) = (desired(7), Observed::default());
        let mut rules = desired.rules.as_deref().unwrap().clone();
        rules.excluded = vec!["172.30.0.3/32".parse().unwrap()];
        desired.rules = Some(Arc::new(rules));
        for op in plan(context(), &desired, &observed, Touched::All) {
            if let Op::Ipvs(command) = op
                && command.service().is_some_and(|id| id.to_string().contains("172.30.0.3:"))
            {
                observed.acknowledge(&Op::Ipvs(command));
            }
        }
        assert_eq!(observed.servers.len(), 1);
        let (_, state) = pieces(&desired, &mut observed);
        assert!(state.ended && !state.covers);
        let left = plan(context(), &desired, &observed, Touched::All);
        assert!(matches!(left.as_slice(), [Op::LeaveAlone(_)]), "{left:?}");
    }

    #[test]
    fn what_was_taken_for_done_and_failed_is_planned_again() {
        let (desired, mut observed) = (desired(4), Observed::default());
        pieces(&desired, &mut observed);
        let all = plan(context(), &desired, &Observed::default(), Touched::All);
        let mut added: Vec<Op> = all.into_iter().filter(|op| matches!(op, Op::Ipvs(_))).collect();
        assert_eq!(added.len(), 4 * 3);
        // A virtual server goes with its destinations; of another one, one destination.
        let service = |op: &Op| if let Op::Ipvs(command) = op { command.service().copied() } else { None };
        let gone = service(&added[0]).unwrap();
        added.retain(|op| service(op) == Some(gone) || op.to_string().contains("10.180.0.2:"));
        assert_eq!(added.len(), 4);
        for op in &added {
            let Op::Ipvs(command) = op else { panic!("{op}") };
            observed.take_back(command);
        }
        assert_eq!(plan(context(), &desired, &observed, Touched::All), added);
    }

    #[test]
    fn what_was_there_before_is_left_to_the_plan_as_a_whole() {
        let (before, desired) = (desired(2), desired(7));
        let mut observed = Observed::default();
        for op in plan(context(), &before, &observed.clone(), Touched::All) {
            observed.acknowledge(&op);
        }
        let (_, state) = pieces(&desired, &mut observed);
        assert!(state.ended && !state.covers);
        assert_eq!(plan(context(), &desired, &observed, Touched::All), []);
        let more: Vec<Op> = plan(context(), &before, &observed, Touched::All);
        assert!(!more.is_empty(), "five services have to go");
        let few = self::desired(2);
        assert!(ahead(context(), &few, &Observed::default(), &mut Ahead::default()).is_none(), "not worthwhile");
        let retiring = Desired { retiring: true, ..desired };
        assert!(ahead(context(), &retiring, &Observed::default(), &mut Ahead::default()).is_none());
    }
}
