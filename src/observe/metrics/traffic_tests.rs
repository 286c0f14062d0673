//! Sums that never go back, whatever becomes of virtual servers; and no more lines than allowed.

use super::*;
use crate::backend::Place;
use crate::model::{Protocol, ServiceName};

fn key(service: &str) -> ServicePortKey {
    ServicePortKey { service: ServiceName::new("ns", service), port: "web".into(), protocol: Protocol::Tcp }
}

/// A sample, and whose it is.
type Told = (Sample<'static>, Option<ServicePortKey>);

fn sample(service: Option<&str>, frontend: &str, endpoint: Option<&str>, count: u64) -> Told {
    let address = |text: &str| text.parse().unwrap();
    let place = Place { protocol: Protocol::Tcp, frontend: address(frontend), endpoint: endpoint.map(address) };
    let counters = Counters { connections: count, incoming_bytes: 100 * count, ..Counters::default() };
    (Sample { place, port: None, counters }, service.map(key))
}

fn add(totals: &mut Totals, told: &[Told]) {
    told.iter().for_each(|(sample, port)| totals.add(&Sample { port: port.as_ref(), ..*sample }));
}

fn take(totals: &mut Totals, told: &[Told]) {
    add(totals, told);
    totals.end(true);
}

fn connections(totals: &Totals, service: &str) -> Option<u64> {
    totals.services.own.get(&key(service)).map(|line| line.total.connections)
}

#[test]
fn a_sum_never_goes_back() {
    let mut totals = Totals::new(10);
    let (cluster, node) = ("10.96.0.1:80", "192.168.0.2:30080");
    // Before us.
    totals.begin(&sample(None, cluster, None, 1000).0);
    take(&mut totals, &[sample(Some("a"), cluster, None, 1005), sample(Some("a"), node, None, 7)]);
    assert_eq!(connections(&totals, "a"), Some(12), "what came after the start, at both addresses");
    take(&mut totals, &[sample(Some("a"), cluster, None, 1006)]);
    assert_eq!(connections(&totals, "a"), Some(13), "an address that goes takes nothing along");
    take(&mut totals, &[sample(Some("a"), cluster, None, 2), sample(Some("a"), node, None, 1)]);
    assert_eq!(connections(&totals, "a"), Some(16), "a virtual server that was made anew counts from the start");
    take(&mut totals, &[]);
    assert_eq!(connections(&totals, "a"), None, "a service that is gone has no line");
}

#[test]
fn endpoints_have_lines_of_their_own() {
    let mut totals = Totals::new(10);
    let frontend = "10.96.0.1:80";
    let one = |count| sample(Some("a"), frontend, Some("10.0.0.1:8080"), count);
    take(
        &mut totals,
        &[sample(Some("a"), frontend, None, 5), one(3), sample(Some("a"), frontend, Some("10.0.0.2:8080"), 2)],
    );
    take(&mut totals, &[sample(Some("a"), frontend, None, 6), one(4)]);
    let lines: Vec<(String, u64)> = totals
        .endpoints
        .own
        .iter()
        .map(|((_, endpoint), line)| (endpoint.to_string(), line.total.connections))
        .collect();
    assert_eq!(lines, [("10.0.0.1:8080".to_owned(), 4)]);
    assert_eq!(connections(&totals, "a"), Some(6));
}

#[test]
fn what_is_cut_is_summed_and_counted() {
    let mut totals = Totals::new(2);
    let all = |counts: [u64; 4]| -> Vec<Told> {
        let names = ["a", "b", "c", "d"].iter().enumerate();
        names.map(|(i, name)| sample(Some(name), &format!("10.96.0.{i}:80"), None, counts[i])).collect()
    };
    take(&mut totals, &all([1, 2, 3, 4]));
    take(&mut totals, &all([10, 20, 30, 40]));
    assert_eq!(
        (connections(&totals, "a"), connections(&totals, "b"), connections(&totals, "c")),
        (Some(10), Some(20), None)
    );
    assert_eq!((totals.services.others.connections, totals.services.cut), (70, 2));
    // One leaves: another one gets the room, with what comes from then on. The sum of the others stays.
    take(&mut totals, &all([11, 21, 31, 41])[1..]);
    assert_eq!((connections(&totals, "c"), totals.services.cut), (Some(1), 1));
    assert_eq!(totals.services.others.connections, 71);
    // A reading that broke off has not seen who else has no line.
    add(&mut totals, &all([11, 21, 31, 41])[1..2]);
    totals.end(false);
    assert_eq!(totals.services.cut, 1);
    let mut text = Vec::new();
    totals.each_family(false, &mut |family| text.push(family.name().to_owned()));
    assert_eq!(text.len(), 6, "{text:?}");
    let labels = totals.services.samples(4, |counters| counters.connections, service_labels);
    assert_eq!(labels.last().unwrap(), &(vec![OTHERS.to_owned(); 4], 71.0));
}

#[test]
fn a_reading_that_broke_off_takes_nothing_away_and_counts_nothing_twice() {
    let mut totals = Totals::new(10);
    let (first, second) = ("10.96.0.1:80", "10.96.0.2:80");
    take(&mut totals, &[sample(Some("a"), first, None, 5), sample(Some("b"), second, None, 7)]);
    add(&mut totals, &[sample(Some("a"), first, None, 6)]);
    totals.end(false);
    assert_eq!((connections(&totals, "a"), connections(&totals, "b")), (Some(6), Some(7)));
    take(&mut totals, &[sample(Some("a"), first, None, 6), sample(Some("b"), second, None, 8)]);
    assert_eq!((connections(&totals, "a"), connections(&totals, "b")), (Some(6), Some(8)));
}
