//! News of what others change.

use std::time::Duration;

use kube_ipvs::kernel::interface::LocalRoute;
use kube_ipvs::kernel::monitor::{Change, Monitor};
use tokio::sync::mpsc::{self, Receiver};

use crate::interface::with_interface;
use crate::run;

/// Runs a monitor of kube-ipvs0 on this thread, which is in the namespace, and `test` beside it.
fn watching<F: Future<Output = ()>>(room: usize, test: impl FnOnce(Receiver<Change>) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let monitor = Monitor::open("kube-ipvs0").unwrap();
        let (sender, receiver) = mpsc::channel(room);
        tokio::join!(monitor.run(sender), test(receiver));
    });
}

async fn next(changes: &mut Receiver<Change>) -> Change {
    loop {
        let waited = tokio::time::timeout(Duration::from_secs(10), changes.recv()).await;
        match waited.expect("news within ten seconds").expect("the monitor runs") {
            // The kernel tells of an IPv6 address once more when it is done with it, at any time.
            Change::NodeAddressSet(address) if address.address.is_ipv6() => {}
            change => return change,
        }
    }
}

#[test]
fn a_deleted_route_a_node_address_and_a_deleted_link_are_told() {
    with_interface(|mut interface| {
        let route = LocalRoute::new("10.96.0.1/32".parse().unwrap(), Some("192.0.2.1".parse().unwrap()));
        let v6 = LocalRoute::new("fd00:96::1/128".parse().unwrap(), None);
        watching(100, |mut changes| async move {
            assert!(interface.change_routes(&[route, v6], &[]).iter().all(Result::is_ok));
            run("ip", &["route", "delete", "local", "10.96.0.1", "dev", "kube-ipvs0", "table", "local"]);
            assert_eq!(next(&mut changes).await, Change::RouteDeleted(route));
            run("ip", &["-6", "route", "delete", "local", "fd00:96::1", "dev", "kube-ipvs0", "table", "local"]);
            assert_eq!(next(&mut changes).await, Change::RouteDeleted(v6));
            run("ip", &["address", "add", "192.0.2.9/24", "dev", "node0"]);
            let Change::NodeAddressSet(address) = next(&mut changes).await else { panic!("an address was set") };
            assert_eq!((address.address.to_string().as_str(), address.secondary), ("192.0.2.9", true));
            run("ip", &["address", "delete", "192.0.2.9/24", "dev", "node0"]);
            assert_eq!(next(&mut changes).await, Change::NodeAddressDeleted(address));
            run("ip", &["address", "add", "10.96.0.2/32", "dev", "kube-ipvs0"]);
            run("ip", &["address", "delete", "10.96.0.2/32", "dev", "kube-ipvs0"]);
            let told = next(&mut changes).await;
            assert!(matches!(told, Change::InterfaceAddressDeleted(_)), "{told:?}");
            let index = interface.index().unwrap().unwrap();
            assert!(interface.delete().unwrap());
            let mut last = next(&mut changes).await;
            while last != (Change::Link { index, present: false, up: false }) {
                assert!(matches!(last, Change::Link { .. }), "{last:?}");
                last = next(&mut changes).await;
            }
            let ensured = interface.ensure_dummy().unwrap();
            let Change::Link { index, present: true, .. } = next(&mut changes).await else { panic!("it is back") };
            assert_eq!(index, ensured.index);
        });
    });
}

#[test]
fn a_reader_that_does_not_keep_up_is_told_that_news_were_lost() {
    with_interface(|mut interface| {
        let routes: Vec<LocalRoute> =
            (1..=200u8).map(|number| LocalRoute::new(format!("10.96.0.{number}/32").parse().unwrap(), None)).collect();
        watching(10, |mut changes| async move {
            assert!(interface.change_routes(&routes, &[]).iter().all(Result::is_ok));
            assert!(interface.change_routes(&[], &routes).iter().all(Result::is_ok));
            tokio::time::sleep(Duration::from_millis(200)).await;
            let mut told = 0;
            while next(&mut changes).await != Change::Overflow {
                told += 1;
            }
            assert!((10..200).contains(&told), "{told} of 200 before the loss was told");
            run("ip", &["address", "add", "192.0.2.9/24", "dev", "node0"]);
            assert!(matches!(next(&mut changes).await, Change::NodeAddressSet(_)), "and it goes on");
        });
    });
}

#[test]
fn an_overrun_of_the_kernels_buffer_is_told() {
    with_interface(|mut interface| {
        let routes: Vec<LocalRoute> = (0..60_000u32)
            .map(|number| {
                let address = std::net::Ipv4Addr::from(0x0a60_0000 + number);
                LocalRoute::new(ipnet::IpNet::from(std::net::IpAddr::V4(address)), None)
            })
            .collect();
        watching(100_000, |mut changes| async move {
            // The monitor shares this thread: it reads nothing until the kernel's buffer is full.
            let start = std::time::Instant::now();
            assert!(interface.change_routes(&routes, &[]).iter().all(Result::is_ok));
            eprintln!("60,000 IPv4 routes: added in {:?}", start.elapsed());
            while next(&mut changes).await != Change::Overflow {}
        });
    });
}
