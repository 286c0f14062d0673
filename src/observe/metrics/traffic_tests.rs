//! Sums that never go back, whatever becomes of virtual servers; and no more lines than allowed.

use super::*;
use crate::model::{Protocol, ServiceName};

fn key(service: &str) -> ServicePortKey {
    ServicePortKey { service: ServiceName::new("ns", service), port: "web".into(), protocol: Protocol::Tcp }
}

fn sample(service: Option<&str>, frontend: &str, endpoint: Option<&str>, count: u64) -> Sample {
    let address = |text: &str| text.parse().unwrap();
    let place = Place { protocol: Protocol::Tcp, frontend: address(frontend), endpoint: endpoint.map(address) };
    let counters = Counters { connections: count, incoming_bytes: 100 * count, ..Counters::default() };
    Sample { place, port: service.map(key), counters }
}

fn connections(totals: &Totals, service: &str) -> Option<u64> {
    totals.services.own.get(&key(service)).map(|counters| counters.connections)
}

#[test]
fn a_sum_never_goes_back() {
    let mut totals = Totals::new(10);
    let (cluster, node) = ("10.96.0.1:80", "192.168.0.2:30080");
    // Before us.
    totals.begin(vec![sample(None, cluster, None, 1000)]);
    totals.take(vec![sample(Some("a"), cluster, None, 1005), sample(Some("a"), node, None, 7)]);
    assert_eq!(connections(&totals, "a"), Some(12), "what came after the start, at both addresses");
    totals.take(vec![sample(Some("a"), cluster, None, 1006)]);
    assert_eq!(connections(&totals, "a"), Some(13), "an address that goes takes nothing along");
    totals.take(vec![sample(Some("a"), cluster, None, 2), sample(Some("a"), node, None, 1)]);
    assert_eq!(connections(&totals, "a"), Some(16), "a virtual server that was made anew counts from the start");
    totals.take(Vec::new());
    assert_eq!(connections(&totals, "a"), None, "a service that is gone has no line");
}

#[test]
fn endpoints_have_lines_of_their_own() {
    let mut totals = Totals::new(10);
    let frontend = "10.96.0.1:80";
    let one = |count| sample(Some("a"), frontend, Some("10.0.0.1:8080"), count);
    totals.take(vec![
        sample(Some("a"), frontend, None, 5),
        one(3),
        sample(Some("a"), frontend, Some("10.0.0.2:8080"), 2),
    ]);
    totals.take(vec![sample(Some("a"), frontend, None, 6), one(4)]);
    let lines: Vec<(String, u64)> =
        totals.endpoints.own.iter().map(|((_, endpoint), total)| (endpoint.to_string(), total.connections)).collect();
    assert_eq!(lines, [("10.0.0.1:8080".to_owned(), 4)]);
    assert_eq!(connections(&totals, "a"), Some(6));
}

#[test]
fn what_is_cut_is_summed_and_counted() {
    let mut totals = Totals::new(2);
    let all = |counts: [u64; 4]| -> Vec<Sample> {
        let names = ["a", "b", "c", "d"].iter().enumerate();
        names.map(|(i, name)| sample(Some(name), &format!("10.96.0.{i}:80"), None, counts[i])).collect()
    };
    totals.take(all([1, 2, 3, 4]));
    totals.take(all([10, 20, 30, 40]));
    assert_eq!(
        (connections(&totals, "a"), connections(&totals, "b"), connections(&totals, "c")),
        (Some(10), Some(20), None)
    );
    assert_eq!((totals.services.others.connections, totals.services.cut), (70, 2));
    // One leaves: another one gets the room, with what comes from then on. The sum of the others stays.
    totals.take(all([11, 21, 31, 41]).split_off(1));
    assert_eq!((connections(&totals, "c"), totals.services.cut), (Some(1), 1));
    assert_eq!(totals.services.others.connections, 71);
    let text: Vec<String> = totals.families(false).iter().map(|family| family.name().to_owned()).collect();
    assert_eq!(text.len(), 6, "{text:?}");
    let labels = totals.services.samples(4, |counters| counters.connections, service_labels);
    assert_eq!(labels.last().unwrap(), &(vec![OTHERS.to_owned(); 4], 71.0));
}
