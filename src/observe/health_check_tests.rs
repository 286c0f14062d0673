//! Real sockets on loopback: who answers what, and when a port opens and closes.

use super::*;
use crate::desired::HealthCheck;
use crate::model::{Events, PerFamily};
use std::net::TcpListener;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A port that nobody has on any address.
fn free_port() -> u16 {
    TcpListener::bind("[::]:0").unwrap().local_addr().unwrap().port()
}

fn checks(services: &[(&str, u16, usize)]) -> HealthChecks {
    let check = |(name, port, count): &(&str, u16, usize)| {
        let local_endpoints = PerFamily { v4: Some(*count), v6: None };
        (ServiceName::new("lb", *name), HealthCheck { port: *port, local_endpoints })
    };
    let loopback = NodePortAddresses::These(vec![Ipv4Addr::LOCALHOST.into()]);
    HealthChecks {
        services: services.iter().map(check).collect(),
        addresses: PerFamily { v4: loopback, v6: NodePortAddresses::All },
    }
}

struct Lab {
    checks: watch::Sender<HealthChecks>,
    status: watch::Sender<Status>,
    task: tokio::task::JoinHandle<()>,
}

fn start(first: HealthChecks) -> Lab {
    let (checks, checks_receiver) = watch::channel(first);
    let (status, status_receiver) = watch::channel(Status::default());
    let task =
        tokio::spawn(run(Sources { checks: checks_receiver, status: status_receiver, events: Events::default() }));
    Lab { checks, status, task }
}

async fn ask(port: u16) -> std::io::Result<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    stream.write_all(b"GET /any HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await?;
    Ok(reply)
}

/// Asks until the answer is as expected.
async fn until(port: u16, expected: impl Fn(&std::io::Result<String>) -> bool) {
    for _ in 0..500 {
        if expected(&ask(port).await) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never as expected, but {:?}", ask(port).await);
}

fn says(status: u16, count: usize) -> impl Fn(&std::io::Result<String>) -> bool {
    move |reply| {
        let Ok(reply) = reply else { return false };
        reply.starts_with(&format!("HTTP/1.1 {status} "))
            && reply.contains(&format!("\r\nX-Load-Balancing-Endpoint-Weight: {count}\r\n"))
            && reply.contains(&format!("\"localEndpoints\": {count},"))
    }
}

fn is_closed(reply: &std::io::Result<String>) -> bool {
    reply.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
}

#[tokio::test]
async fn the_answer_is_upstreams_to_the_byte() {
    let port = free_port();
    let lab = start(checks(&[("probed", port, 2)]));
    until(port, says(200, 2)).await;
    let reply = ask(port).await.unwrap();
    let (head, body) = reply.split_once("\r\n\r\n").unwrap();
    let expected = "{\n\t\"service\": {\n\t\t\"namespace\": \"lb\",\n\t\t\"name\": \"probed\"\n\t},\n\t\"localEndpoints\": 2,\n\t\"serviceProxyHealthy\": true\n}";
    assert_eq!(body, expected);
    for header in ["Content-Type: application/json", "X-Content-Type-Options: nosniff"] {
        assert!(head.contains(&format!("\r\n{header}\r\n")), "{head}");
    }
    drop(lab.task);
}

#[tokio::test]
async fn ports_open_move_and_close() {
    let (first, second) = (free_port(), free_port());
    let lab = start(checks(&[("a", first, 1)]));
    until(first, says(200, 1)).await;
    let mut open = TcpStream::connect((Ipv4Addr::LOCALHOST, first)).await.unwrap();
    lab.checks.send_replace(checks(&[("a", first, 0)]));
    until(first, says(503, 0)).await;
    let nothing = tokio::time::timeout(Duration::from_millis(50), open.read_u8()).await;
    assert!(nothing.is_err(), "a port that stays is not reopened: {nothing:?}");
    lab.checks.send_replace(checks(&[("a", second, 3), ("b", first, 4)]));
    until(second, says(200, 3)).await;
    until(first, |reply| reply.as_ref().is_ok_and(|reply| reply.contains("\"name\": \"b\""))).await;
    assert!(open.read_u8().await.is_err(), "connections of the former port are closed");
    lab.checks.send_replace(checks(&[]));
    until(first, is_closed).await;
    until(second, is_closed).await;
}

#[tokio::test]
async fn what_is_in_use_is_tried_again_and_stops_nothing_else() {
    let (taken, free) = (free_port(), free_port());
    let other = TcpListener::bind((Ipv4Addr::LOCALHOST, taken)).unwrap();
    let _lab = start(checks(&[("blocked", taken, 1), ("fine", free, 2)]));
    until(free, says(200, 2)).await;
    drop(other);
    until(taken, says(200, 1)).await;
}

#[tokio::test]
async fn a_proxy_that_stalls_is_no_good() {
    let port = free_port();
    let lab = start(checks(&[("a", port, 1)]));
    until(port, says(200, 1)).await;
    let long_ago = Instant::now().checked_sub(Duration::from_secs(61));
    let stalled = Status { busy_since: long_ago, sync_period: Duration::from_secs(30), ..Status::default() };
    lab.status.send_replace(Status { sync_period: Duration::from_secs(40), ..stalled.clone() });
    until(port, says(200, 1)).await;
    lab.status.send_replace(stalled);
    until(port, says(503, 1)).await;
    assert!(ask(port).await.unwrap().contains("\"serviceProxyHealthy\": false"));
    lab.status.send_replace(Status::default());
    until(port, says(200, 1)).await;
    drop(lab.status);
    until(port, says(503, 1)).await;
    drop(lab.checks);
    until(port, is_closed).await;
}

#[test]
fn where_the_ports_are_open() {
    let families = |v4, v6| {
        let check = HealthCheck { port: 1, local_endpoints: PerFamily { v4, v6 } };
        [(ServiceName::new("lb", "a"), check)].into_iter().collect()
    };
    let addresses = |services, v4, v6| -> Vec<String> {
        let checks = HealthChecks { services, addresses: PerFamily { v4, v6 } };
        places(&checks).iter().map(|place| place.address.to_string()).collect()
    };
    let (all, one) = (NodePortAddresses::All, NodePortAddresses::These(vec![[192, 168, 0, 2].into()]));
    let none = NodePortAddresses::These(Vec::new());
    assert_eq!(addresses(families(Some(1), None), all.clone(), all.clone()), ["0.0.0.0:1", "[::]:1"]);
    assert_eq!(addresses(families(None, Some(1)), all.clone(), all.clone()), ["0.0.0.0:1", "[::]:1"]);
    assert_eq!(addresses(families(Some(1), None), one.clone(), all.clone()), ["192.168.0.2:1"]);
    assert_eq!(addresses(families(None, Some(1)), one.clone(), all.clone()), ["[::]:1"]);
    assert_eq!(addresses(families(Some(1), Some(1)), one, all.clone()), ["192.168.0.2:1", "[::]:1"]);
    assert_eq!(addresses(families(Some(1), None), all, none), ["0.0.0.0:1"], "a node without IPv6");
}
