//! Listings written by hand after the format strings of `ipvsadm.c`.

use super::*;
use std::net::Ipv4Addr;

const TITLE: &str = "\
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn
";

fn server(frontend: Frontend, scheduler: &str) -> VirtualServer {
    VirtualServer {
        frontend,
        scheduler: scheduler.to_owned().into(),
        scheduler_flags: [false; 3],
        persistence: None,
        engine: None,
        one_packet: false,
        traffic: Default::default(),
        refused: 0,
        real_servers: Vec::new(),
    }
}

fn at(protocol: u16, address: &str, port: u16) -> Frontend {
    Frontend::Address { protocol, address: address.parse().unwrap(), port }
}

fn real(address: &str, port: u16, forward: Forward, weight: u32, connections: (u32, u32)) -> RealServer {
    let (active_connections, inactive_connections) = connections;
    let address = address.parse().unwrap();
    RealServer { address, port, forward, weight, active_connections, inactive_connections, details: None }
}

fn line(server: VirtualServer) -> String {
    let text = render(&Table { header: None, servers: vec![server] });
    text.strip_prefix(TITLE).unwrap().to_owned()
}

#[test]
fn an_empty_table_is_its_titles() {
    let header = Some(Header { version: (1, 2, 1), size: 4096 });
    let text = render(&Table { header, servers: Vec::new() });
    assert_eq!(text, format!("IP Virtual Server version 1.2.1 (size=4096)\n{TITLE}"));
    assert_eq!(render(&Table::default()), TITLE);
}

#[test]
fn real_servers_stand_in_columns_with_blanks_at_the_end() {
    let mut tcp = server(at(6, "10.96.0.10", 80), "rr");
    tcp.real_servers = vec![
        real("10.244.1.2", 8080, Forward::Masquerade, 1, (3, 12)),
        real("10.244.1.3", 80, Forward::Local, 0, (0, 0)),
        real("255.255.255.255", 65535, Forward::Tunnel, 2_147_483_647, (4_294_967_295, 1)),
        real("fd00:1234:5678:9abc:def0:1234:5678:9abc", 53, Forward::Route, 100, (0, 0)),
        real("10.0.0.1", 80, Forward::Unnamed, 1, (0, 0)),
    ];
    let expected = "\
TCP  10.96.0.10:80 rr
  -> 10.244.1.2:8080              Masq    1      3          12        \n\
\x20 -> 10.244.1.3:80                Local   0      0          0         \n\
\x20 -> 255.255.255.255:65535        Tunnel  2147483647 4294967295 1         \n\
\x20 -> [fd00:1234:5678:9abc:def0:1234:5678:9abc]:53 Route   100    0          0         \n\
\x20 -> 10.0.0.1:80                  (null)  1      0          0         \n";
    assert_eq!(line(tcp), expected);
}

#[test]
fn frontends_have_their_names() {
    let name = |frontend| line(server(frontend, "wlc"));
    assert_eq!(name(at(17, "10.0.0.1", 53)), "UDP  10.0.0.1:53 wlc\n");
    assert_eq!(name(at(132, "fd00::1", 0)), "SCTP [fd00::1]:0 wlc\n");
    assert_eq!(name(at(50, "10.0.0.1", 0)), "?    10.0.0.1:0 wlc\n");
    assert_eq!(name(Frontend::Fwmark { mark: 7, family: IpFamily::V4 }), "FWM  7 wlc\n");
    assert_eq!(name(Frontend::Fwmark { mark: 7, family: IpFamily::V6 }), "FWM  7 IPv6 wlc\n");
    assert_eq!(name(Frontend::Fwmark { mark: 0xffff_fffe, family: IpFamily::V4 }), "FWM  -2 wlc\n");
}

#[test]
fn addresses_are_written_like_inet_ntop() {
    let name = |address| line(server(at(6, address, 1), "rr"));
    assert_eq!(name("::ffff:10.0.0.1"), "TCP  [::ffff:10.0.0.1]:1 rr\n");
    assert_eq!(name("::a00:1"), "TCP  [::10.0.0.1]:1 rr\n");
    assert_eq!(name("::1"), "TCP  [::1]:1 rr\n");
    assert_eq!(name("::"), "TCP  [::]:1 rr\n");
    assert_eq!(name("2001:db8:0:1:0:0:0:1"), "TCP  [2001:db8:0:1::1]:1 rr\n");
    assert_eq!(name("2001:0:1:1:1:1:1:1"), "TCP  [2001:0:1:1:1:1:1:1]:1 rr\n");
}

#[test]
fn scheduler_flags_have_names_by_scheduler() {
    let flagged = |scheduler, scheduler_flags| {
        line(VirtualServer { scheduler_flags, ..server(at(6, "10.0.0.1", 80), scheduler) })
    };
    assert_eq!(flagged("sh", [true, true, false]), "TCP  10.0.0.1:80 sh (sh-fallback,sh-port)\n");
    assert_eq!(flagged("mh", [false, true, true]), "TCP  10.0.0.1:80 mh (mh-port)\n");
    assert_eq!(flagged("mh", [true, false, false]), "TCP  10.0.0.1:80 mh (mh-fallback)\n");
    assert_eq!(flagged("sh", [false, false, true]), "TCP  10.0.0.1:80 sh ()\n");
    assert_eq!(flagged("rr", [true, true, true]), "TCP  10.0.0.1:80 rr (flag-1,flag-2,flag-3)\n");
}

#[test]
fn persistence_mask_engine_and_one_packet_follow_the_flags() {
    let sticky = |address, netmask, engine: Option<&str>| {
        let persistence = Some(Persistence { seconds: 10800, netmask });
        let (base, engine) = (server(at(17, address, 5060), "sh"), engine.map(str::to_owned));
        VirtualServer { persistence, engine, scheduler_flags: [true, false, false], ..base }
    };
    let host = sticky("10.0.0.1", Netmask::Host, None);
    assert_eq!(line(host), "UDP  10.0.0.1:5060 sh (sh-fallback) persistent 10800\n");
    let mask = Netmask::V4(Ipv4Addr::new(255, 255, 255, 0));
    let all = VirtualServer { one_packet: true, ..sticky("10.0.0.1", mask, Some("sip")) };
    let expected = "UDP  10.0.0.1:5060 sh (sh-fallback) persistent 10800 mask 255.255.255.0 pe sip ops\n";
    assert_eq!(line(all), expected);
    let v6 = sticky("fd00::1", Netmask::V6(64), None);
    assert_eq!(line(v6), "UDP  [fd00::1]:5060 sh (sh-fallback) persistent 10800 mask 64\n");
    let plain = VirtualServer { one_packet: true, ..server(at(17, "10.0.0.1", 53), "rr") };
    assert_eq!(line(plain), "UDP  10.0.0.1:53 rr ops\n");
}
