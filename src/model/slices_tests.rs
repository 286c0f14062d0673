//! Packed slices come out as they went in.

use super::*;
use std::time::Duration;

#[test]
fn slices_are_found_by_name_and_stand_in_its_order() {
    let of = |name: &str| EndpointSlice::for_test(name);
    let mut slices: Slices = ["b", "a", "c", "b"].map(of).iter().collect();
    assert_eq!(slices.keys().map(|name| &**name).collect::<Vec<_>>(), ["a", "b", "c"]);
    assert_eq!((slices.len(), slices.get("b")), (3, Some(of("b"))));
    assert!(slices.remove("b") && !slices.remove("b") && slices.get("b").is_none());
    assert_eq!(slices, ["c", "a"].map(of).iter().collect());
}

fn full(name: &str, pod: &str) -> EndpointSlice {
    let bare = |address: &str| Endpoint {
        address: address.parse().unwrap(),
        ready: false,
        serving: true,
        terminating: true,
        node: None,
        zone: None,
        hints: None,
        pod: None,
        weight: None,
    };
    let named = Endpoint {
        ready: true,
        node: Some("node".into()),
        zone: Some("zone".into()),
        hints: Some(Arc::new(Hints { zones: vec!["a".into(), "b".into()], nodes: vec!["node".into()] })),
        pod: Some(pod.into()),
        weight: Some(70_000),
        ..bare("fd00::1")
    };
    let port = |name: &str, protocol| EndpointPort { name: name.into(), protocol, port: 65_535 };
    EndpointSlice {
        proxy_name: Some("other".into()),
        family: IpFamily::V6,
        ports: vec![port("", Protocol::Sctp), port("dns", Protocol::Udp), port("dns", Protocol::Tcp)],
        endpoints: vec![named, bare("10.0.0.1"), bare("::")],
        triggers: vec![
            SystemTime::UNIX_EPOCH,
            SystemTime::UNIX_EPOCH + Duration::from_nanos(1_700_000_000_123_456_789),
        ],
        ..EndpointSlice::for_test(name)
    }
}

#[test]
fn what_is_packed_comes_out_again() {
    for slice in [full("a", "pod"), EndpointSlice::for_test("a")] {
        assert_eq!([&slice].into_iter().collect::<Slices>().values().collect::<Vec<_>>(), [slice]);
    }
}

#[test]
fn bytes_of_another_process_are_read_and_nonsense_is_an_empty_slice() {
    let packed = Packed::from(Packed::from(&full("a", "a-long-name")).as_bytes());
    assert_eq!(packed.widths(), Widths { pod: 11, node: 4, zone: 4, ipv6: true });
    let view = packed.view();
    assert_eq!(
        view.ports,
        [("", Protocol::Sctp, 65_535), ("dns", Protocol::Udp, 65_535), ("dns", Protocol::Tcp, 65_535)]
    );
    let pods: Vec<_> = view.endpoints.iter().map(|endpoint| (endpoint.pod, endpoint.ready)).collect();
    assert_eq!(pods, [("a-long-name", true), ("", false), ("", false)]);
    assert!(Packed::from([255; 3].as_slice()).view().endpoints.is_empty());
}

#[test]
fn only_what_differs_is_news() {
    let before: Slices = [full("a", "1"), full("b", "1")].iter().collect();
    assert_eq!(before.news_since(Some(&before.clone())).count(), 0);
    let after: Slices = [full("a", "1"), full("b", "2"), full("c", "1")].iter().collect();
    let news: Vec<_> = after.news_since(Some(&before)).collect();
    assert_eq!(news, [(full("b", "2"), Some(full("b", "1"))), (full("c", "1"), None)]);
    assert_eq!(after.news_since(None).count(), 3);
}
