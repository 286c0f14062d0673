//! The proxy is killed under traffic and started again: nobody notices.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests may fail loudly, too"
)]

mod support;

use kube_ipvs::lab::Protocol;
use support::{Cluster, Mode, Service, Stream, Talks, in_both_modes};

in_both_modes!(killed_under_traffic_and_started_again, a_change_while_it_is_dead_is_made_up_for, stopped_cleanly);

const CALLERS: [&str; 3] = ["client", "demo-node", "pod-3"];

fn udp_service() -> Service {
    Service { protocol: "UDP", port: 53, target: 53, ..Service::new("names", 21) }
}

fn web_service() -> Service {
    Service { node_port: Some(30080), ..Service::new("web", 20) }
}

/// All addresses of [`web_service`].
fn web_addresses() -> Vec<String> {
    web_service().all_addresses()
}

fn killed_under_traffic_and_started_again(mode: Mode) {
    let cluster = Cluster::new(mode);
    let (web, names) = (web_service(), udp_service());
    [&web, &names].into_iter().for_each(|service| cluster.apply(service));
    let (status, text) = cluster.plan(&[]);
    assert_eq!(status, 2, "before the first run there is everything to do:\n{text}");
    let proxy = cluster.start(&[]);
    cluster.assert_in_sync(&[]);

    let to = web_addresses();
    let talks = Talks::start(&cluster, &CALLERS, &to, 1);
    let requests = Stream::start(&cluster, &CALLERS, &to, Protocol::Tcp);
    let datagrams = Stream::start(&cluster, &CALLERS, &names.addresses(), Protocol::Udp);
    proxy.kill();
    let all_go_on = || {
        talks.wait_for_more(5);
        requests.wait_for_more(60);
        datagrams.wait_for_more(30);
    };
    all_go_on();
    let proxy = cluster.start(&[]);
    all_go_on();
    cluster.assert_in_sync(&[]);
    // Once more, killed in the middle of its start.
    proxy.kill();
    let early = cluster.launch(&[]);
    requests.wait_for_more(5);
    early.kill();
    let proxy = cluster.start(&[]);
    all_go_on();

    assert_eq!(talks.end().len(), CALLERS.len() * to.len());
    let (requests, datagrams) = (requests.end(), datagrams.end());
    eprintln!("{}: {requests} requests, {datagrams} datagrams", mode.name());
    cluster.assert_in_sync(&[]);
    assert!(!proxy.says(&["ERROR"]), "{}", proxy.log());
    proxy.stop();
    cluster.assert_in_sync(&[]);
}

/// Endpoints and Services that went while nobody looked are gone after the start; connections to endpoints that stay
/// live.
fn a_change_while_it_is_dead_is_made_up_for(mode: Mode) {
    let cluster = Cluster::new(mode);
    let (stays, goes) = (web_service().on(&[1]), Service::new("goes", 22));
    [&stays, &goes].into_iter().for_each(|service| cluster.apply(service));
    let proxy = cluster.start(&[]);
    let to = web_addresses();
    let talks = Talks::start(&cluster, &CALLERS, &to, 1);
    proxy.kill();
    cluster.delete(&goes);
    cluster.apply(&web_service().on(&[1, 12]));
    let (status, text) = cluster.plan(&[]);
    assert_eq!(status, 2, "{text}");
    let proxy = cluster.start(&[]);
    for address in &to {
        cluster.wait_answerers(address, &["far-pod-2", "pod-1"]);
    }
    for address in goes.addresses() {
        assert_eq!(cluster.answered_by("client", &address), None);
    }
    talks.wait_for_more(5);
    assert!(talks.end().iter().all(|name| name == "pod-1"));
    cluster.assert_in_sync(&[]);
    proxy.stop();
}

/// The kernel's state outlives the program.
fn stopped_cleanly(mode: Mode) {
    let cluster = Cluster::new(mode);
    let web = web_service();
    cluster.apply(&web);
    let proxy = cluster.start(&[]);
    let talks = Talks::start(&cluster, &CALLERS, &web.addresses(), 1);
    proxy.stop();
    talks.wait_for_more(5);
    for address in web_addresses() {
        cluster.wait_answerers(&address, &["far-pod-1", "pod-1", "pod-2"]);
    }
    talks.end();
}
