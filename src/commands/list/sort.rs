//! The order of `ipvsadm` 1.31, for which no total order exists: it compares by subtraction in C's `int`, which wraps.
//! 192.168.0.1 stands *before* 10.0.0.1, and three addresses far enough apart are each "less" than the next, all the
//! way round. So the same bytes need the same algorithm, too: the merge sort behind glibc's `qsort`
//! (`stdlib/msort.c`), on the kernel's order.

use super::table::{Frontend, RealServer, Table, VirtualServer};
use crate::model::IpFamily;
use std::net::IpAddr;

/// Sorts the virtual servers and the real servers of each. They have to be in the kernel's order.
pub fn sort(table: &mut Table) {
    sort_servers(&mut table.servers);
    for server in &mut table.servers {
        sort_real_servers(&mut server.real_servers);
    }
}

/// Sorts virtual servers, which have to be in the kernel's order.
pub fn sort_servers(servers: &mut [VirtualServer]) {
    let keys: Vec<Key> = servers.iter().map(Key::of).collect();
    let addresses = keys.iter().map(|key| (key.mark == 0 && key.family == IpFamily::V4).then_some(key.words[0]));
    // Where nothing wraps there is an order, and every stable way to it leads to the same.
    if never_wraps(addresses) {
        return servers.sort_by_cached_key(|server| {
            let Key { protocol, words, port, .. } = Key::of(server);
            (protocol, words, port)
        });
    }
    // By number: a virtual server is large to move about at every level.
    arrange(servers, |a, b| match (keys.get(a), keys.get(b)) {
        (Some(a), Some(b)) => compare_servers(a, b),
        _ => 0,
    });
}

/// Sorts the real servers of one virtual server, which have to be in the kernel's order.
pub fn sort_real_servers(servers: &mut [RealServer]) {
    let address = |server: &RealServer| match server.address {
        IpAddr::V4(address) => Some(address.to_bits()),
        IpAddr::V6(_) => None,
    };
    if never_wraps(servers.iter().map(address)) {
        return servers.sort_by_key(|server| (server.address, server.port));
    }
    let keys: Vec<(IpAddr, u16)> = servers.iter().map(|server| (server.address, server.port)).collect();
    arrange(servers, |a, b| match (keys.get(a), keys.get(b)) {
        (Some(a), Some(b)) => compare_real_servers(*a, *b),
        _ => 0,
    });
}

/// Whether no difference of two of these wraps; `None` is one that may.
fn never_wraps(mut values: impl Iterator<Item = Option<u32>>) -> bool {
    let span =
        values.try_fold((u32::MAX, 0), |(least, most), value| value.map(|value| (least.min(value), most.max(value))));
    span.is_some_and(|(least, most): (u32, u32)| most.saturating_sub(least) <= i32::MAX.unsigned_abs())
}

/// What the order of virtual servers goes by.
struct Key {
    mark: u32,
    family: IpFamily,
    protocol: u16,
    words: [u32; 4],
    port: u16,
}

impl Key {
    fn of(server: &VirtualServer) -> Self {
        let family = server.frontend.family();
        match server.frontend {
            Frontend::Fwmark { mark, .. } => Self { mark, family, protocol: 0, words: [0; 4], port: 0 },
            Frontend::Address { protocol, address, port } => {
                Self { mark: 0, family, protocol, words: words(address), port }
            }
        }
    }
}

/// `ipvs_cmp_services` in `libipvs.c`: mark, family, protocol, address, port.
fn compare_servers(a: &Key, b: &Key) -> i32 {
    first_difference([
        difference(a.mark, b.mark),
        // AF_INET is 2, AF_INET6 is 10.
        i32::from(a.family == IpFamily::V6) - i32::from(b.family == IpFamily::V6),
        i32::from(a.protocol) - i32::from(b.protocol),
        compare_words(a.family, a.words, b.words),
        i32::from(a.port) - i32::from(b.port),
    ])
}

/// `ipvs_cmp_dests`: address, port. The first one's family decides how much of the addresses is compared.
fn compare_real_servers((a, port_a): (IpAddr, u16), (b, port_b): (IpAddr, u16)) -> i32 {
    first_difference([compare_words(IpFamily::of(a), words(a), words(b)), i32::from(port_a) - i32::from(port_b)])
}

fn first_difference<const N: usize>(differences: [i32; N]) -> i32 {
    differences.into_iter().find(|difference| *difference != 0).unwrap_or(0)
}

fn compare_words(family: IpFamily, a: [u32; 4], b: [u32; 4]) -> i32 {
    let compared = match family {
        IpFamily::V4 => 1,
        IpFamily::V6 => 4,
    };
    let mut differences = a.into_iter().zip(b).take(compared).map(|(a, b)| difference(a, b));
    differences.find(|difference| *difference != 0).unwrap_or(0)
}

/// Subtraction of two `unsigned` into an `int`.
fn difference(a: u32, b: u32) -> i32 {
    a.wrapping_sub(b).cast_signed()
}

/// `union nf_inet_addr` as four words in host order.
fn words(address: IpAddr) -> [u32; 4] {
    let bits = match address {
        IpAddr::V4(v4) => return [v4.to_bits(), 0, 0, 0],
        IpAddr::V6(v6) => v6.octets(),
    };
    let (words, _) = bits.as_chunks::<4>();
    let mut result = [0; 4];
    result.iter_mut().zip(words).for_each(|(word, bytes)| *word = u32::from_be_bytes(*bytes));
    result
}

/// Brings items into the order of [`merge_sort`]; they are compared by their numbers.
fn arrange<T>(items: &mut [T], compare: impl Fn(usize, usize) -> i32) {
    let mut order: Vec<usize> = (0..items.len()).collect();
    merge_sort(&mut order, &mut Vec::with_capacity(items.len()), &|a, b| compare(*a, *b));
    for at in 0..order.len() {
        // What stood there may have been swapped away before, to where it is to be looked for next.
        let mut from = order.get(at).copied().unwrap_or(at);
        while from < at {
            from = order.get(from).copied().unwrap_or(at);
        }
        if let Some(place) = order.get_mut(at) {
            *place = from;
        }
        items.swap(at, from);
    }
}

/// glibc's: halves (the smaller one first), then merges, the left one first where they are equal.
fn merge_sort<T: Copy>(items: &mut [T], room: &mut Vec<T>, compare: &impl Fn(&T, &T) -> i32) {
    if items.len() <= 1 {
        return;
    }
    let (left, right) = items.split_at_mut(items.len() / 2);
    merge_sort(left, room, compare);
    merge_sort(right, room, compare);
    room.clear();
    let (mut left, mut right) = (left.iter().peekable(), right.iter().peekable());
    while let (Some(a), Some(b)) = (left.peek(), right.peek()) {
        let smaller = if compare(a, b) <= 0 { left.next() } else { right.next() };
        room.extend(smaller);
    }
    room.extend(left);
    // What is left of the right half stands in its place.
    items.iter_mut().zip(room.iter()).for_each(|(place, item)| *place = *item);
}

#[cfg(test)]
mod tests {
    use super::super::table::Forward;
    use super::*;
    use proptest::prelude::*;

    fn real(address: &str, port: u16) -> RealServer {
        RealServer {
            address: address.parse().unwrap(),
            port,
            forward: Forward::Masquerade,
            weight: 1,
            active_connections: 0,
            inactive_connections: 0,
            details: None,
        }
    }

    fn sorted(servers: &[(&str, u16)]) -> Vec<(String, u16)> {
        let servers: Vec<RealServer> = servers.iter().map(|(address, port)| real(address, *port)).collect();
        let key = |number: usize| (servers[number].address, servers[number].port);
        let (mut long_way, mut usual_way) = (servers.clone(), servers.clone());
        arrange(&mut long_way, |a, b| compare_real_servers(key(a), key(b)));
        sort_real_servers(&mut usual_way);
        assert_eq!(usual_way, long_way);
        long_way.into_iter().map(|server| (server.address.to_string(), server.port)).collect()
    }

    fn server(frontend: Frontend) -> VirtualServer {
        VirtualServer {
            frontend,
            scheduler: "rr".into(),
            scheduler_flags: [false; 3],
            persistence: None,
            engine: None,
            one_packet: false,
            traffic: Default::default(),
            refused: 0,
            real_servers: Vec::new(),
        }
    }

    #[test]
    fn near_addresses_are_in_numerical_order() {
        let expected = [("10.0.0.1", 80), ("10.0.0.1", 8080), ("10.0.0.2", 80), ("10.0.0.10", 80)];
        let mut shuffled = expected;
        shuffled.reverse();
        assert_eq!(sorted(&shuffled), expected.map(|(address, port)| (address.to_owned(), port)));
    }

    proptest! {
        #[test]
        fn where_nothing_wraps_it_is_any_stable_sort(items in proptest::collection::vec((0_u8..9, any::<u8>()), 0..40)) {
            let (mut arranged, mut sorted) = (items.clone(), items.clone());
            arrange(&mut arranged, |a, b| i32::from(items[a].0) - i32::from(items[b].0));
            sorted.sort_by_key(|(key, _)| *key);
            prop_assert_eq!(arranged, sorted);
        }

        #[test]
        fn both_ways_lead_to_the_same_order(places in proptest::collection::vec((0_u32..9, 0_u16..3, 0_u16..3), 0..40)) {
            let frontend = |(address, protocol, port): &(u32, u16, u16)| {
                let address = std::net::Ipv4Addr::from(0xac1e_0000 + *address).into();
                Frontend::Address { protocol: *protocol, address, port: *port }
            };
            let numbered = |(number, place)| VirtualServer { refused: number, ..server(frontend(place)) };
            let servers: Vec<VirtualServer> = (0..).zip(&places).map(numbered).collect();
            let (mut long_way, mut usual_way) = (servers.clone(), servers.clone());
            arrange(&mut long_way, |a, b| compare_servers(&Key::of(&servers[a]), &Key::of(&servers[b])));
            sort_servers(&mut usual_way);
            prop_assert_eq!(usual_way, long_way);
        }
    }

    #[test]
    fn subtraction_wraps_for_far_addresses() {
        let names = |list: &[(&str, u16)]| sorted(list).into_iter().map(|(address, _)| address).collect::<Vec<_>>();
        assert_eq!(names(&[("10.0.0.1", 1), ("192.168.0.1", 1)]), ["192.168.0.1", "10.0.0.1"]);
        assert_eq!(names(&[("2001:db8::1", 1), ("fd00::1", 1)]), ["fd00::1", "2001:db8::1"]);
        // 10 < 100, 100 < 192, and 192 < 10: the result hangs on the algorithm and on the order before.
        assert_eq!(
            names(&[("192.0.0.1", 1), ("10.0.0.1", 1), ("100.0.0.1", 1)]),
            ["192.0.0.1", "10.0.0.1", "100.0.0.1"]
        );
        assert_eq!(
            names(&[("100.0.0.1", 1), ("192.0.0.1", 1), ("10.0.0.1", 1)]),
            ["100.0.0.1", "192.0.0.1", "10.0.0.1"]
        );
    }

    #[test]
    fn an_ipv4_address_is_compared_with_the_first_word_of_an_ipv6_address() {
        let mixed = sorted(&[("a00:1::7", 80), ("10.0.0.1", 80)]);
        // 0x0a000001 both: the IPv4 one on the left sees equal words, the IPv6 one sees a longer address.
        assert_eq!(mixed.first().unwrap().0, "10.0.0.1");
        let equal = sorted(&[("10.0.0.1", 80), ("a00:1::7", 80)]);
        assert_eq!(equal.first().unwrap().0, "10.0.0.1");
    }

    #[test]
    fn marks_come_last_and_families_and_protocols_in_between() {
        let address = |text: &str, protocol, port| Frontend::Address { protocol, address: text.parse().unwrap(), port };
        let expected = [
            // Wraps: a mark of 2^31 and more is negative.
            Frontend::Fwmark { mark: 0xffff_ffff, family: IpFamily::V4 },
            address("10.0.0.2", 6, 80),
            address("10.0.0.1", 17, 53),
            address("10.0.0.1", 132, 80),
            address("fd00::1", 6, 80),
            Frontend::Fwmark { mark: 1, family: IpFamily::V4 },
            Frontend::Fwmark { mark: 1, family: IpFamily::V6 },
            Frontend::Fwmark { mark: 2, family: IpFamily::V4 },
        ];
        let mut table = Table { header: None, servers: expected.iter().rev().copied().map(server).collect() };
        sort(&mut table);
        let frontends: Vec<Frontend> = table.servers.iter().map(|server| server.frontend).collect();
        assert_eq!(frontends, expected);
    }
}
