//! What the audit of IPVS mode takes for a difference.

use super::super::observed::FoundDestination;
use super::*;
use foldhash::HashMap;
use ipvs::{Destination, Protocol, Scheduler, Service};
use litemap::LiteMap;
use std::net::{IpAddr, SocketAddr};

fn id(number: u8) -> ServiceId {
    ServiceId::new(Protocol::Tcp, IpAddr::from([172, 30, 0, number]), 80)
}

fn place(number: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, number], 8080))
}

fn server(number: u8) -> FoundServer {
    let found = FoundDestination { weight: 1, masqueraded: true, connections: 0, drained_since: None };
    let service = Service::new(id(number), Scheduler::Rr);
    FoundServer { service, destinations: LiteMap::from_iter([(place(number), found)]) }
}

fn entry(number: u8) -> Entry {
    Entry::Net(IpAddr::from([192, 0, 2, number]).into())
}

fn believed() -> Observed {
    let net: IpNet = "192.0.2.1/32".parse().unwrap();
    Observed {
        servers: (1..=200).map(|number| (id(number), server(number))).collect(),
        sets: HashMap::from_iter([(Set::Addresses, (1..=3).map(entry).collect())]),
        routes: [(net, LocalRoute { net, source: None, protocol: 0 })].into(),
        addresses: [net].into(),
        interface: true,
        ..Observed::default()
    }
}

/// Everything was read.
fn all_of(mut found: Observed) -> Comparison {
    let mut comparison = Comparison::default();
    comparison.facts.extend(std::mem::take(&mut found.servers).into_values().map(Fact::Server));
    for (set, entries) in &mut found.sets {
        comparison.facts.extend(std::mem::take(entries).iter().map(|entry| Fact::Entry(*set, entry)));
    }
    comparison.end(Box::new(found));
    comparison
}

fn set(found: &mut Observed) -> &mut Entries {
    found.sets.get_mut(&Set::Addresses).unwrap()
}

/// What somebody changed, and the step of ours that would excuse it.
type Case = (fn(&mut Observed), Option<Op>);

fn compared(found: Observed, believed: &Observed, ops: &[Op]) -> Audit {
    let mut passed = Passed::default();
    assert!(ops.iter().all(|op| passed.note(op)));
    let mut comparison = all_of(found);
    let past = Instant::now();
    for slice in 0.. {
        match comparison.step(believed, &passed, past) {
            Audit::Unfinished => assert!(slice < 10),
            outcome => return outcome,
        }
    }
    unreachable!()
}

#[test]
fn what_is_as_believed_holds_piece_by_piece() {
    let mut found = believed();
    // Connections are no difference.
    found.servers.get_mut(&id(7)).unwrap().destinations.get_mut(&place(7)).unwrap().connections = 9;
    assert_eq!(compared(found, &believed(), &[]), Audit::Holds);
    let mut comparison = all_of(believed());
    assert_eq!(comparison.step(&believed(), &Passed::default(), Instant::now()), Audit::Unfinished);
}

/// Under steady change something is always written while it is compared.
#[test]
fn it_does_not_matter_when_something_is_written() {
    let destination = Destination::new(place(1).ip(), 8080, 0);
    let net: IpNet = "192.0.2.1/32".parse().unwrap();
    let steps = [
        Op::Ipvs(Command::SetDestination { service: id(1), destination }),
        Op::Ipvs(Command::DeleteService(id(2))),
        Op::Ipvs(Command::AddService(Service::new(id(250), Scheduler::Rr))),
        Op::AddEntry(Set::Addresses, entry(9)),
        Op::DeleteEntry(Set::Addresses, entry(1)),
        Op::Unroute(LocalRoute { net, source: None, protocol: 0 }),
    ];
    for step in steps {
        let mut after = believed();
        after.acknowledge(&step);
        for slices in 0..6 {
            let (mut comparison, mut passed) = (all_of(believed()), Passed::default());
            let past = Instant::now();
            if (0..slices).any(|_| comparison.step(&believed(), &passed, past) != Audit::Unfinished) {
                continue;
            }
            assert!(passed.note(&step));
            let outcome = std::iter::repeat_with(|| comparison.step(&after, &passed, past));
            let outcome = outcome.take(10).find(|outcome| *outcome != Audit::Unfinished);
            assert_eq!(outcome, Some(Audit::Holds), "{step} after {slices} slices");
        }
    }
}

#[test]
fn every_difference_is_seen_but_where_we_wrote_meanwhile() {
    let destination = Destination::new(place(1).ip(), 8080, 1);
    let command = Op::Ipvs(Command::SetDestination { service: id(1), destination });
    let net: IpNet = "192.0.2.1/32".parse().unwrap();
    let route = LocalRoute { net, source: None, protocol: 0 };
    let cases: Vec<Case> = vec![
        (|found| drop(found.servers.remove(&id(1))), Some(command.clone())),
        (|found| found.servers.get_mut(&id(1)).unwrap().destinations.clear(), Some(command.clone())),
        (
            |found| {
                let server = found.servers.get_mut(&id(1)).unwrap();
                server.destinations.iter_mut().map(|(_, found)| found).for_each(|found| found.weight = 0);
            },
            Some(command.clone()),
        ),
        (|found| found.servers.get_mut(&id(1)).unwrap().service.scheduler = Scheduler::Lc, Some(command)),
        (|found| drop(found.servers.insert(id(201), server(201))), Some(Op::Ipvs(Command::DeleteService(id(201))))),
        (|found| assert!(set(found).remove(&entry(1))), Some(Op::AddEntry(Set::Addresses, entry(1)))),
        (|found| assert!(set(found).insert(entry(9))), Some(Op::DeleteEntry(Set::Addresses, entry(9)))),
        (|found| found.routes.clear(), Some(Op::Route(route))),
        (|found| found.addresses.clear(), Some(Op::AddAddress(net))),
        (|found| found.interface = false, None),
        (|found| found.sets.clear(), None),
    ];
    for (index, (change, op)) in cases.into_iter().enumerate() {
        let mut found = believed();
        change(&mut found);
        assert_eq!(compared(found, &believed(), &[]), Audit::Doubtful, "case {index}");
        let Some(op) = op else { continue };
        let mut found = believed();
        change(&mut found);
        assert_eq!(compared(found, &believed(), &[op]), Audit::Holds, "case {index}, written meanwhile");
    }
    assert!(!Passed::default().note(&Op::DeleteInterface), "nothing that was read counts then");
}
