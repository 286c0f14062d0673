//! The codec: filters and deletions as the kernel reads them, and arbitrary bytes.

use std::net::{IpAddr, SocketAddr};

use proptest::prelude::*;

use super::flow;
use super::*;
use crate::kernel::IpFamily;
use crate::kernel::attribute::Attributes;

fn tuple(source: &str, destination: &str) -> Tuple {
    Tuple { source: source.parse().unwrap(), destination: destination.parse().unwrap(), protocol: 17 }
}

fn flow(id: Option<u32>) -> Flow {
    Flow {
        original: tuple("10.0.0.1:1000", "10.96.0.10:53"),
        reply: tuple("10.244.0.5:53", "10.0.0.1:1000"),
        translated: false,
        mark: 0,
        id,
        zone: 0,
        timeout: 0,
    }
}

fn attributes(message: &[u8]) -> Vec<u16> {
    Attributes::new(&message[20..]).map(|attribute| attribute.unwrap().kind).collect()
}

#[test]
fn a_deletion_always_names_its_flow() {
    assert_eq!(attributes(&flow::delete(&flow(None))), [1], "CTA_TUPLE_ORIG");
    assert_eq!(attributes(&flow::delete(&flow(Some(7)))), [1, 12], "and CTA_ID");
}

#[test]
fn an_entry_that_is_made_says_what_is_translated() {
    assert_eq!(attributes(&flow::create_translated(&flow(None))), [1, 2, 7, 3, 13], "destination only");
    let masqueraded = Flow { reply: tuple("10.244.0.5:53", "192.168.0.2:4711"), ..flow(None) };
    assert_eq!(attributes(&flow::create_translated(&masqueraded)), [1, 2, 7, 3, 13, 6], "and the source");
}

#[test]
fn filters_pick_flows_by_original_destination_and_answering_endpoint() {
    let any = Filter::family(IpFamily::V4);
    let address: IpAddr = "10.96.0.10".parse().unwrap();
    let service = Filter { protocol: Some(17), destination: Some(address), destination_port: Some(53), ..any };
    let endpoint = |address: &str| Filter { reply_source: Some(address.parse().unwrap()), ..any };
    let flow = flow(None);
    assert!(any.matches(&flow) && service.matches(&flow) && endpoint("10.244.0.5").matches(&flow));
    assert!(!endpoint("10.244.0.6").matches(&flow));
    assert!(!Filter { protocol: Some(6), ..any }.matches(&flow));
    assert!(!Filter { destination_port: Some(54), ..any }.matches(&flow));
    assert!(!Filter::family(IpFamily::V6).matches(&flow));
}

#[test]
fn the_kernel_does_not_compare_ipv6_addresses_for_us() {
    let filter = |address: &str, family| Filter {
        protocol: Some(17),
        destination: Some(address.parse().unwrap()),
        destination_port: Some(53),
        ..Filter::family(family)
    };
    let flags = |filter: &Filter| {
        let message = flow::dump(filter);
        let filter =
            Attributes::new(&message[20..]).map(Result::unwrap).find(|attribute| attribute.kind == 25).unwrap();
        let flags = filter.nested().next().unwrap().unwrap();
        u32::from_ne_bytes(flags.value.try_into().unwrap())
    };
    assert_eq!(flags(&filter("10.0.0.1", IpFamily::V4)), 0b10_1010);
    assert_eq!(flags(&filter("fd00::1", IpFamily::V6)), 0b10_1000);
}

/// A flow as the kernel writes it: the deletion's tuple, and its mirror as the reply.
fn listed(flow: &Flow) -> Vec<u8> {
    let mirrored = Flow { original: flow.reply, ..*flow };
    let mut payload = flow::delete(flow).split_off(16);
    let mut reply = flow::delete(&Flow { id: None, zone: 0, ..mirrored }).split_off(20);
    reply[2] = 2;
    payload.extend(reply);
    payload
}

fn tuples() -> impl Strategy<Value = Tuple> {
    (any::<(u32, u16)>(), any::<(u32, u16)>(), any::<u8>()).prop_map(|(source, destination, protocol)| Tuple {
        source: SocketAddr::from((source.0.to_be_bytes(), source.1)),
        destination: SocketAddr::from((destination.0.to_be_bytes(), destination.1)),
        protocol,
    })
}

proptest! {
    #[test]
    fn flows_survive_the_wire(original in tuples(), reply in tuples(), id in any::<Option<u32>>(), zone in any::<u16>()) {
        let flow = Flow { original, reply, translated: false, mark: 0, id, zone, timeout: 0 };
        prop_assert_eq!(flow::decode(&listed(&flow)), Ok(Some(flow)));
    }

    #[test]
    fn decoding_never_panics(
        payload in proptest::collection::vec(any::<u8>(), 0..300),
        flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
    ) {
        let _ = flow::decode(&payload);
        let mut payload = listed(&flow(Some(1)));
        for (at, bits) in flips {
            let place = at.index(payload.len());
            payload[place] ^= bits;
        }
        let _ = flow::decode(&payload);
    }
}
