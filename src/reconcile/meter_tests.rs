//! What the meter is told, and when.

use super::*;
use crate::model::{EndpointSlice, Node, PackedSlice};
use std::sync::{Arc, Mutex};

/// Writes down what it is told.
#[derive(Debug, Default, Clone)]
struct Notes(Arc<Mutex<Vec<String>>>);

impl Notes {
    fn write(&self, note: String) {
        self.0.lock().unwrap().push(note);
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl Meter for Notes {
    fn queued(&mut self, family: IpFamily, changed: bool, _: Instant) {
        self.write(format!("{family} queued, changed: {changed}"));
    }
    fn synced(&mut self, family: IpFamily, sync: &Synced<'_>) {
        self.write(format!("{family} synced, full: {}", sync.full));
    }
    fn in_force(&mut self, family: IpFamily, triggers: &[SystemTime], _: Instant) {
        self.write(format!("{family} in force: {} triggers", triggers.len()));
    }
    fn changes(&mut self, seen: Changes, pending: Changes) {
        let Changes { services, slices } = pending;
        self.write(format!("changes {}+{}, pending {services}+{slices}", seen.services, seen.slices));
    }
    fn without_local(&mut self, _: IpFamily, count: WithoutLocal) {
        self.write(format!("{count:?}"));
    }
    fn flows(&mut self, _: IpFamily, _: Duration, _: usize) {}
    fn node(&mut self, eligible: bool) {
        self.write(format!("eligible: {eligible}"));
    }
}

const BOTH: &[IpFamily] = &IpFamily::BOTH;

fn slice(triggers: Vec<SystemTime>, ports: u16) -> PackedSlice {
    let port = |port| crate::model::EndpointPort { name: "".into(), protocol: crate::model::Protocol::Tcp, port };
    (&EndpointSlice { triggers, ports: (0..ports).map(port).collect(), ..EndpointSlice::for_test("s") }).into()
}

#[test]
fn times_of_before_the_start_and_of_what_is_gone_do_not_count() {
    let notes = Notes::default();
    let mut tally = Tally::new(Box::new(notes));
    let (before, after) = (tally.started - Duration::from_secs(1), tally.started + Duration::from_secs(1));
    let service = ServiceName::new("ns", "a");
    let (empty, mut first) = (Snapshot::default(), Snapshot::default());
    assert!(first.put_slice(&service, slice(vec![before], 1)));
    tally.arrived(&empty, &first, "me", BOTH);
    assert!(tally.waiting.v4.is_empty(), "it is older than we are");
    let mut second = first.clone();
    assert!(!second.put_slice(&service, slice(vec![after], 1)), "it tells nothing new");
    assert!(second.put_slice(&service, slice(vec![after], 2)));
    let mut third = second.clone();
    assert!(third.put_slice(&service, slice(vec![after + Duration::from_secs(1)], 3)));
    // The second was never seen.
    tally.arrived(&first, &third, "me", BOTH);
    assert_eq!(tally.waiting.v4.get(&service).map(Vec::len), Some(2));
    tally.arrived(&third, &third.clone(), "me", BOTH);
    assert_eq!(tally.waiting.v4.get(&service).map(Vec::len), Some(2));
    tally.arrived(&third, &Snapshot { changes: third.changes, ..Snapshot::default() }, "me", BOTH);
    assert!(tally.waiting.v4.is_empty() && tally.waiting.v6.is_empty());
}

#[test]
fn a_node_is_eligible_until_it_is_said_to_leave_or_is_gone() {
    let notes = Notes::default();
    let mut tally = Tally::new(Box::new(notes.clone()));
    let with = |leaving: Option<bool>| {
        let mut snapshot = Snapshot::default();
        if let Some(leaving) = leaving {
            let name: Arc<str> = "me".into();
            let node = Node { name: name.clone(), zone: None, addresses: vec![], pod_cidrs: vec![], leaving };
            snapshot.nodes.insert(name, Arc::new(node));
        }
        snapshot
    };
    let mut told = Vec::new();
    for leaving in [None, Some(false), Some(true), Some(false), None] {
        tally.arrived(&Snapshot::default(), &with(leaving), "me", BOTH);
        told.extend(notes.take().into_iter().filter(|note| note.starts_with("eligible")));
    }
    assert_eq!(told, ["eligible: true", "eligible: true", "eligible: false", "eligible: true", "eligible: false"]);
}

#[test]
fn changes_are_pending_until_both_families_have_them() {
    let notes = Notes::default();
    let mut tally = Tally::new(Box::new(notes.clone()));
    let seen = Changes { services: 3, slices: 5 };
    tally.tell_changes(seen, BOTH);
    tally.in_force.v4 = seen;
    tally.tell_changes(seen, BOTH);
    tally.in_force.v6 = seen;
    tally.tell_changes(seen, BOTH);
    assert_eq!(notes.take(), ["changes 3+5, pending 3+5", "changes 3+5, pending 3+5", "changes 3+5, pending 0+0"]);
}
