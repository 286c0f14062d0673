//! Packets through a virtual server: connections and counters, and setting them to zero.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use ipvs::{Client, Command, Destination, Protocol, Scheduler, Service, ServiceId, Stats, proc};

use crate::namespace::{address, execute, in_namespace};

/// Sends one datagram to the virtual server and has the destination answer it.
fn exchange(client: &UdpSocket, server: &UdpSocket) {
    let mut buffer = [0; 64];
    client.send_to(b"hello", "10.0.0.1:53").unwrap();
    let (length, from) = server.recv_from(&mut buffer).unwrap();
    server.send_to(&buffer[..length], from).unwrap();
    let (length, from) = client.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..length], from), (b"hello".as_slice(), "10.0.0.1:53".parse().unwrap()));
}

/// The counters once `incoming` packets are among them: the kernel sums them up every two seconds.
fn stats_after(client: &mut Client, id: &ServiceId, incoming: u64) -> Stats {
    let started = Instant::now();
    loop {
        let stats = client.service(id).unwrap().unwrap().stats;
        if stats.incoming_packets == incoming {
            return stats;
        }
        assert!(started.elapsed() < Duration::from_secs(20), "{stats:?}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn packets_are_balanced_and_counted() {
    in_namespace("packets_are_balanced_and_counted", |client| {
        let ip = std::process::Command::new("ip").args(["address", "add", "10.0.0.1/32", "dev", "lo"]).status();
        assert!(ip.unwrap().success());
        let id = ServiceId::new(Protocol::Udp, address("10.0.0.1"), 53);
        let destination = Destination::new(address("10.0.0.1"), 5353, 1);
        let add = Command::AddDestination { service: id, destination };
        execute(client, &[Command::AddService(Service::new(id, Scheduler::Rr)), add]);

        let server = UdpSocket::bind("10.0.0.1:5353").unwrap();
        let user = UdpSocket::bind("10.0.0.1:0").unwrap();
        for socket in [&server, &user] {
            socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        }
        for _ in 0..3 {
            exchange(&user, &server);
        }
        let counted = stats_after(client, &id, 3);
        assert_eq!((counted.connections, counted.incoming_packets, counted.outgoing_packets), (1, 3, 3));
        assert_eq!((counted.incoming_bytes, counted.outgoing_bytes), (99, 99));
        let entry = client.destinations(&id).unwrap().remove(0);
        assert_eq!(entry.stats.incoming_packets, 3);
        assert_eq!((entry.active_connections, entry.inactive_connections), (0, 1), "UDP is never active");
        let rows = proc::read_table(proc::PATH).unwrap();
        assert_eq!((rows[0].1[0].active_connections, rows[0].1[0].inactive_connections), (0, 1));

        client.execute(&Command::Zero(Some(id))).unwrap();
        stats_after(client, &id, 0);
        exchange(&user, &server);
        stats_after(client, &id, 1);
        client.execute(&Command::Zero(None)).unwrap();
        stats_after(client, &id, 0);
    });
}
