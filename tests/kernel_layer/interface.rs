//! The interface, its local routes and its addresses, compared with what `ip` prints.
//!
//! A bridge stands in for the dummy device where the kernel has none: for routes and addresses there is no difference.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::time::Instant;

use ipnet::IpNet;
use kube_ipvs::kernel::IpFamily;
use kube_ipvs::kernel::addresses::{Scope, default_gateways, node_addresses, route_source};
use kube_ipvs::kernel::interface::{Interface, InterfaceError, LocalRoute, ROUTE_PROTOCOL};

use crate::{Feature, in_namespace, run, skip};

/// A namespace with an interface of ours, of kind dummy if possible, and a node address on another one.
pub fn with_interface(test: impl FnOnce(Interface) + Send + 'static) {
    in_namespace(|| {
        run("ip", &["link", "add", "node0", "type", "bridge"]);
        // No link-local address: its duplicate address detection would make news at some time.
        run("ip", &["link", "set", "node0", "addrgenmode", "none"]);
        run("ip", &["address", "add", "192.0.2.1/24", "dev", "node0"]);
        run("ip", &["address", "add", "2001:db8::1/64", "dev", "node0", "nodad"]);
        run("ip", &["link", "set", "node0", "up"]);
        let mut interface = Interface::open("kube-ipvs0").unwrap();
        if let Err(InterfaceError::KindMissing { .. }) = interface.ensure_dummy() {
            interface = Interface::open_kind("kube-ipvs0", "bridge").unwrap();
            interface.ensure_dummy().unwrap();
        }
        test(interface);
    });
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn node(family: IpFamily) -> Option<IpAddr> {
    Some(if family == IpFamily::V4 { "192.0.2.1" } else { "2001:db8::1" }.parse().unwrap())
}

fn succeed<E: std::error::Error>(results: Vec<Result<(), E>>) {
    for result in results {
        result.unwrap();
    }
}

fn sorted(interface: &mut Interface, family: IpFamily) -> Vec<LocalRoute> {
    let mut routes = interface.local_routes(family).unwrap();
    routes.sort_unstable();
    routes
}

#[test]
fn a_dummy_is_created_once_and_deleted() {
    in_namespace(|| {
        let mut interface = Interface::open("kube-ipvs0").unwrap();
        assert_eq!(interface.index().unwrap(), None);
        assert!(!interface.delete().unwrap(), "there is none");
        let first = match interface.ensure_dummy() {
            Err(error @ InterfaceError::KindMissing { .. }) => return skip(Feature::Ipvs, &error.to_string()),
            outcome => outcome.unwrap(),
        };
        assert!(first.created);
        let text = run("ip", &["-d", "link", "show", "kube-ipvs0"]);
        assert!(text.contains("NOARP") && text.contains("UP") && text.contains("dummy"), "{text}");
        assert!(text.contains("addrgenmode none"), "{text}");
        assert_eq!(run("ip", &["-6", "address", "show", "dev", "kube-ipvs0"]), "", "no link-local address");
        run("ip", &["link", "set", "kube-ipvs0", "down"]);
        let second = interface.ensure_dummy().unwrap();
        assert_eq!((second.created, second.index), (false, first.index));
        assert!(run("ip", &["link", "show", "up"]).contains("kube-ipvs0"), "it is up again");
        assert!(interface.delete().unwrap());
        assert_eq!(interface.index().unwrap(), None);
    });
}

#[test]
fn an_interface_of_another_kind_is_left_alone() {
    in_namespace(|| {
        run("ip", &["link", "add", "kube-ipvs0", "type", "bridge"]);
        let mut interface = Interface::open("kube-ipvs0").unwrap();
        let error = interface.ensure_dummy().unwrap_err();
        assert_eq!(error.to_string(), "interface kube-ipvs0 exists, but is of kind `bridge` instead of `dummy`");
        assert!(matches!(interface.delete(), Err(InterfaceError::OtherKind { .. })));
        assert!(interface.index().unwrap().is_some());
    });
}

#[test]
fn five_thousand_routes_are_added_listed_and_deleted() {
    with_interface(|mut interface| {
        for family in [IpFamily::V4, IpFamily::V6] {
            let route = |number: u32| {
                let address = match family {
                    IpFamily::V4 => IpAddr::V4(Ipv4Addr::from(0x0a60_0000 + number)),
                    IpFamily::V6 => IpAddr::V6((0xfd00_u128 << 112 | u128::from(number)).into()),
                };
                LocalRoute::new(IpNet::from(address), node(family))
            };
            let mut routes: Vec<LocalRoute> = (1..=5_000).map(route).collect();
            routes.sort_unstable();
            let start = Instant::now();
            succeed(interface.change_routes(&routes, &[]));
            let added = start.elapsed();
            assert_eq!(sorted(&mut interface, family), routes);
            eprintln!("5,000 {family} routes: added in {added:?}, listed in {:?}", start.elapsed() - added);
            let flag = if family == IpFamily::V4 { "-4" } else { "-6" };
            let shown = run("ip", &[flag, "route", "show", "table", "local", "dev", "kube-ipvs0", "proto", "75"]);
            assert_eq!(shown.lines().count(), 5_000);
            assert!(shown.lines().all(|line| line.contains("src ") && line.starts_with("local ")));
            let results = interface.change_routes(&[], &routes);
            succeed(results);
            assert_eq!(sorted(&mut interface, family), []);
        }
    });
}

#[test]
fn a_range_makes_its_addresses_local_with_the_nodes_source() {
    with_interface(|mut interface| {
        let v4 = LocalRoute::new(net("10.96.0.0/16"), node(IpFamily::V4));
        let v6 = LocalRoute::new(net("fd00:96::/108"), node(IpFamily::V6));
        let unspecified = LocalRoute::new(net("10.97.0.0/24"), None);
        succeed(interface.change_routes(&[v4, v6, unspecified], &[]));
        assert_eq!(sorted(&mut interface, IpFamily::V4), [v4, unspecified]);
        assert_eq!(sorted(&mut interface, IpFamily::V6), [v6]);
        assert_eq!(route_source("10.96.1.2".parse().unwrap()).unwrap(), node(IpFamily::V4));
        assert_eq!(route_source("fd00:96::5".parse().unwrap()).unwrap(), node(IpFamily::V6));
        assert_eq!(route_source("203.0.113.1".parse().unwrap()).unwrap(), None, "there is no route");
        for (service, wildcard, node) in
            [("10.96.1.2:4000", "0.0.0.0:4000", "192.0.2.1"), ("[fd00:96::5]:4000", "[::]:4001", "2001:db8::1")]
        {
            let server = UdpSocket::bind(wildcard).unwrap();
            let client = UdpSocket::bind(wildcard.replace("400", "401")).unwrap();
            let port = server.local_addr().unwrap().port();
            client.send_to(b"x", service.replace("4000", &port.to_string())).unwrap();
            server.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
            let (_, from) = server.recv_from(&mut [0]).unwrap();
            assert_eq!(from.ip(), node.parse::<IpAddr>().unwrap());
        }
    });
}

#[test]
fn routes_that_are_there_or_gone_are_told_and_others_are_left_out() {
    with_interface(|mut interface| {
        let one = LocalRoute::new(net("10.96.0.1/32"), node(IpFamily::V4));
        let two = LocalRoute::new(net("10.96.0.2/32"), node(IpFamily::V4));
        succeed(interface.change_routes(&[one], &[]));
        let results = interface.change_routes(&[one, two], &[]);
        assert!(results[0].as_ref().unwrap_err().is_already_there(), "{results:?}");
        assert_eq!(results[1], Ok(()));
        let gone = LocalRoute::new(net("10.96.0.3/32"), None);
        let results = interface.change_routes(&[], &[gone, two]);
        let error = results[0].as_ref().unwrap_err();
        assert!(error.is_already_gone() && results[1].is_ok(), "{results:?}");
        assert!(error.to_string().starts_with("delete local route 10.96.0.3/32 dev kube-ipvs0: "), "{error}");
        // Not ours: another protocol number, another device, another table.
        run("ip", &["route", "add", "local", "10.96.9.1", "dev", "kube-ipvs0", "table", "local", "proto", "76"]);
        run("ip", &["route", "add", "local", "10.96.9.2", "dev", "node0", "table", "local", "proto", "75"]);
        run("ip", &["route", "add", "local", "10.96.9.3", "dev", "kube-ipvs0", "table", "main", "proto", "75"]);
        run("ip", &["address", "add", "10.96.9.4/32", "dev", "kube-ipvs0"]);
        assert_eq!(sorted(&mut interface, IpFamily::V4), [one]);
        assert_eq!(one.protocol, ROUTE_PROTOCOL);
    });
}

#[test]
fn a_route_in_both_lists_is_replaced_in_place() {
    with_interface(|mut interface| {
        run("ip", &["address", "add", "192.0.2.2/24", "dev", "node0"]);
        run("ip", &["address", "add", "2001:db8::2/64", "dev", "node0", "nodad"]);
        for (service, old, new) in
            [("10.96.0.1/32", "192.0.2.1", "192.0.2.2"), ("fd00:96::1/128", "2001:db8::1", "2001:db8::2")]
        {
            let route = |source: &str| LocalRoute::new(net(service), Some(source.parse().unwrap()));
            let family = IpFamily::of(net(service).addr());
            succeed(interface.change_routes(&[route(old)], &[]));
            let results = interface.change_routes(&[route(new)], &[route(old)]);
            assert_eq!(results, [Ok(()), Ok(())]);
            assert_eq!(sorted(&mut interface, family), [route(new)]);
            succeed(interface.change_routes(&[], &[route(new)]));
            assert_eq!(sorted(&mut interface, family), []);
        }
    });
}

#[test]
fn without_the_interface_every_change_fails_and_nothing_is_there() {
    in_namespace(|| {
        let mut interface = Interface::open("kube-ipvs0").unwrap();
        let route = LocalRoute::new(net("10.96.0.1/32"), None);
        let results = interface.change_routes(&[route], &[route]);
        assert!(results.len() == 2 && results[1].as_ref().unwrap_err().is_already_gone(), "{results:?}");
        assert!(!results[0].as_ref().unwrap_err().is_already_there());
        assert_eq!(interface.local_routes(IpFamily::V4).unwrap(), []);
        assert_eq!(interface.addresses(IpFamily::V6).unwrap(), []);
    });
}

#[test]
fn addresses_are_bound_listed_and_removed() {
    with_interface(|mut interface| {
        let v4 = [net("10.96.0.1/32"), net("10.96.0.2/32")];
        let v6 = [net("fd00:96::1/128")];
        succeed(interface.change_addresses(&[v4.as_slice(), &v6].concat(), &[]));
        let found = |interface: &mut Interface, family| -> BTreeSet<IpNet> {
            interface.addresses(family).unwrap().into_iter().collect()
        };
        assert_eq!(found(&mut interface, IpFamily::V4), BTreeSet::from(v4));
        assert_eq!(found(&mut interface, IpFamily::V6), BTreeSet::from(v6));
        let shown = run("ip", &["address", "show", "dev", "kube-ipvs0"]);
        assert!(shown.contains("inet 10.96.0.1/32 scope global kube-ipvs0"), "{shown}");
        assert!(shown.contains("inet6 fd00:96::1/128 scope global nodad"), "{shown}");
        let results = interface.change_addresses(&[v4[0]], &[net("10.96.0.3/32"), v4[1], v6[0]]);
        assert!(results[0].as_ref().unwrap_err().is_already_there(), "{results:?}");
        assert!(results[1].as_ref().unwrap_err().is_already_gone(), "{results:?}");
        assert!(results[2].is_ok() && results[3].is_ok(), "{results:?}");
        assert_eq!(found(&mut interface, IpFamily::V4), BTreeSet::from([v4[0]]));
        assert_eq!(found(&mut interface, IpFamily::V6), BTreeSet::new());
        assert_eq!(interface.local_routes(IpFamily::V4).unwrap(), [], "the kernel's own are not ours");
    });
}

#[test]
fn the_nodes_addresses_and_gateways_are_found() {
    in_namespace(|| {
        run("ip", &["link", "add", "node0", "type", "bridge"]);
        run("ip", &["address", "add", "192.0.2.1/24", "dev", "node0"]);
        run("ip", &["address", "add", "192.0.2.2/24", "dev", "node0"]);
        run("ip", &["-6", "address", "add", "2001:db8::1/64", "dev", "node0", "nodad", "preferred_lft", "0"]);
        run("ip", &["link", "set", "node0", "up"]);
        run("ip", &["route", "add", "default", "via", "192.0.2.254"]);
        run("ip", &["route", "add", "default", "via", "192.0.2.253", "table", "100"]);
        run("ip", &["-6", "route", "add", "default", "via", "2001:db8::fe"]);
        let found = node_addresses().unwrap();
        let get = |text: &str| {
            let address: IpAddr = text.parse().unwrap();
            found.iter().find(|found| found.address == address).unwrap_or_else(|| panic!("{text} in {found:?}"))
        };
        assert_eq!((get("192.0.2.1").prefix, get("192.0.2.1").interface.as_str()), (24, "node0"));
        assert!(!get("192.0.2.1").secondary && get("192.0.2.2").secondary);
        assert!(get("2001:db8::1").deprecated && !get("2001:db8::1").tentative);
        assert_eq!((get("127.0.0.1").scope, get("192.0.2.1").scope), (Scope::Host, Scope::Global));
        assert_eq!(get("::1").interface, "lo");
        let gateways = ["192.0.2.253", "192.0.2.254", "2001:db8::fe"].map(|text| text.parse::<IpAddr>().unwrap());
        assert_eq!(default_gateways().unwrap(), gateways);
    });
}

#[test]
fn routes_outlive_their_source_address_and_can_be_replaced() {
    with_interface(|mut interface| {
        run("ip", &["address", "add", "192.0.2.2/24", "dev", "node0"]);
        run("ip", &["address", "add", "2001:db8::2/64", "dev", "node0", "nodad"]);
        let v4 = |source: &str| LocalRoute::new(net("10.96.0.1/32"), Some(source.parse().unwrap()));
        let v6 = |source: &str| LocalRoute::new(net("fd00:96::1/128"), Some(source.parse().unwrap()));
        succeed(interface.change_routes(&[v4("192.0.2.2"), v6("2001:db8::2")], &[]));
        run("ip", &["address", "delete", "192.0.2.2/24", "dev", "node0"]);
        run("ip", &["address", "delete", "2001:db8::2/64", "dev", "node0"]);
        let old4 = sorted(&mut interface, IpFamily::V4);
        let old6 = sorted(&mut interface, IpFamily::V6);
        assert_eq!(old4, [v4("192.0.2.2")], "stale");
        // Kernel 6.1 keeps the source, 6.12 takes it away.
        assert!(old6 == [v6("2001:db8::2")] || old6 == [LocalRoute::new(v6("::").net, None)], "{old6:?}");
        let new = [v4("192.0.2.1"), v6("2001:db8::1")];
        succeed(interface.change_routes(&new, &[old4, old6].concat()));
        assert_eq!(sorted(&mut interface, IpFamily::V4), new[..1]);
        assert_eq!(sorted(&mut interface, IpFamily::V6), new[1..]);
        let results = interface.change_routes(&[LocalRoute::new(net("10.96.0.9/32"), v4("192.0.2.2").source)], &[]);
        let error = results[0].as_ref().unwrap_err();
        assert!(!error.is_already_there(), "the source is not the node's: {error}");
    });
}
