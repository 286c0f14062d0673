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
pub fn sort_servers(servers: &mut Vec<VirtualServer>) {
    // By number: a virtual server is large to move about at every level.
    let compare = |a: &usize, b: &usize| match (servers.get(*a), servers.get(*b)) {
        (Some(a), Some(b)) => compare_servers(a, b),
        _ => 0,
    };
    let order = merge_sort((0..servers.len()).collect(), &compare);
    let mut slots: Vec<Option<VirtualServer>> = std::mem::take(servers).into_iter().map(Some).collect();
    servers.extend(order.into_iter().filter_map(|number| slots.get_mut(number).and_then(Option::take)));
}

/// Sorts the real servers of one virtual server, which have to be in the kernel's order.
pub fn sort_real_servers(servers: &mut Vec<RealServer>) {
    if let Some((least, most)) = ipv4_span(servers)
        && most - least <= i32::MAX.unsigned_abs()
    {
        // Nothing wraps, so that there is an order, and every stable way to it leads to the same.
        return servers.sort_by_key(|server| (server.address, server.port));
    }
    *servers = merge_sort(std::mem::take(servers), &compare_real_servers);
}

/// The least and the greatest address, where all are IPv4.
fn ipv4_span(servers: &[RealServer]) -> Option<(u32, u32)> {
    servers
        .iter()
        .try_fold((u32::MAX, 0), |(least, most), server| match server.address {
            IpAddr::V4(address) => Some((least.min(address.to_bits()), most.max(address.to_bits()))),
            IpAddr::V6(_) => None,
        })
        .filter(|(least, most)| least <= most)
}

/// `ipvs_cmp_services` in `libipvs.c`: mark, family, protocol, address, port.
fn compare_servers(a: &VirtualServer, b: &VirtualServer) -> i32 {
    let key = |server: &VirtualServer| match server.frontend {
        Frontend::Fwmark { mark, .. } => (mark, 0, [0; 4], 0),
        Frontend::Address { protocol, address, port } => (0, protocol, words(address), port),
    };
    let family = |server: &VirtualServer| server.frontend.family();
    let ((mark_a, protocol_a, words_a, port_a), (mark_b, protocol_b, words_b, port_b)) = (key(a), key(b));
    first_difference([
        difference(mark_a, mark_b),
        // AF_INET is 2, AF_INET6 is 10.
        i32::from(family(a) == IpFamily::V6) - i32::from(family(b) == IpFamily::V6),
        i32::from(protocol_a) - i32::from(protocol_b),
        compare_words(family(a), words_a, words_b),
        i32::from(port_a) - i32::from(port_b),
    ])
}

/// `ipvs_cmp_dests`: address, port. The first one's family decides how much of the addresses is compared.
fn compare_real_servers(a: &RealServer, b: &RealServer) -> i32 {
    first_difference([
        compare_words(IpFamily::of(a.address), words(a.address), words(b.address)),
        i32::from(a.port) - i32::from(b.port),
    ])
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

/// glibc's: halves (the smaller one first), then merges, the left one first where they are equal.
fn merge_sort<T>(mut items: Vec<T>, compare: &dyn Fn(&T, &T) -> i32) -> Vec<T> {
    if items.len() <= 1 {
        return items;
    }
    let right = items.split_off(items.len() / 2);
    let mut result = Vec::with_capacity(items.len() + right.len());
    let mut left = merge_sort(items, compare).into_iter().peekable();
    let mut right = merge_sort(right, compare).into_iter().peekable();
    while let (Some(a), Some(b)) = (left.peek(), right.peek()) {
        let smaller = if compare(a, b) <= 0 { left.next() } else { right.next() };
        result.extend(smaller);
    }
    result.extend(left);
    result.extend(right);
    result
}

#[cfg(test)]
mod tests {
    use super::super::table::Forward;
    use super::*;

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
        let servers = servers.iter().map(|(address, port)| real(address, *port)).collect();
        let sorted = merge_sort(servers, &compare_real_servers);
        sorted.into_iter().map(|server| (server.address.to_string(), server.port)).collect()
    }

    fn server(frontend: Frontend) -> VirtualServer {
        VirtualServer {
            frontend,
            scheduler: "rr".to_owned(),
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
