//! The wire format against bytes that ipvsadm and the kernel exchanged (`captured/record.sh` made the files).
//!
//! Requests: decoding and encoding gives the same bytes, and the same command built from this crate's types gives
//! ipvsadm's bytes. Replies: decoding loses nothing and means what the commands before had configured.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test may fail loudly")]

use std::collections::BTreeMap;

use ipvs::message::{Attribute, IpvsCommand, IpvsMessage};
use ipvs::{
    AddressFamily, Command, Daemon, DaemonState, Destination, DestinationEntry, ForwardMethod, Netmask, Protocol,
    Scheduler, Service, ServiceEntry, ServiceFlags, ServiceId, Timeouts, Tunnel, TunnelFlags, TunnelKind,
};
use netlink_packet_core::{Emitable, NLA_F_NESTED, ParseableParametrized};
use netlink_packet_generic::{GenlHeader, GenlMessage};

const CAPTURES: [(&str, &str); 2] =
    [("Linux 6.1", include_str!("captured/linux-6.1.txt")), ("Linux 6.12", include_str!("captured/linux-6.12.txt"))];

/// What happened when one command line was executed.
#[derive(Debug, Default)]
struct Exchange {
    line: String,
    requests: Vec<Vec<u8>>,
    replies: Vec<Vec<u8>>,
    errors: Vec<String>,
}

impl Exchange {
    /// The request that is not about the family's version, which ipvsadm asks for first.
    fn request(&self) -> IpvsMessage {
        let mut requests = self.requests.iter().map(|bytes| decode(bytes));
        requests.find(|message| message.command != IpvsCommand::GetInfo).unwrap_or_else(|| panic!("{}", self.line))
    }

    fn command(&self) -> Command {
        Command::from_message(&self.request()).unwrap_or_else(|error| panic!("{}: {error}", self.line))
    }
}

fn exchanges(capture: &str) -> Vec<Exchange> {
    let mut exchanges: Vec<Exchange> = Vec::new();
    for line in capture.lines().filter(|line| !line.starts_with('#')) {
        let (mark, rest) = line.split_once(' ').unwrap();
        if mark == "$" {
            exchanges.push(Exchange { line: rest.to_owned(), ..Exchange::default() });
            continue;
        }
        let exchange = exchanges.last_mut().unwrap();
        match mark {
            ">" => exchange.requests.push(bytes(rest)),
            "<" => exchange.replies.push(bytes(rest)),
            "!" => exchange.errors.push(rest.to_owned()),
            _ => panic!("{line}"),
        }
    }
    assert!(exchanges.len() > 60, "{} exchanges", exchanges.len());
    exchanges
}

fn exchange<'a>(exchanges: &'a [Exchange], line: &str) -> &'a Exchange {
    exchanges.iter().find(|exchange| exchange.line == line).unwrap_or_else(|| panic!("not captured: {line}"))
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

fn decode(bytes: &[u8]) -> IpvsMessage {
    let header = GenlHeader::parse(bytes).unwrap();
    assert_eq!(header.version, 1);
    IpvsMessage::parse_with_param(&bytes[4..], header).unwrap()
}

fn encode(message: IpvsMessage) -> Vec<u8> {
    let message = GenlMessage::from_payload(message);
    let mut bytes = vec![0; message.buffer_len()];
    message.emit(&mut bytes);
    bytes
}

/// The kernel does not mark its nests as such; everything else is the same in both directions.
fn without_nested_flags(mut bytes: Vec<u8>) -> Vec<u8> {
    fn clear(bytes: &mut [u8]) {
        let mut at = 0;
        while at + 4 <= bytes.len() {
            let length = usize::from(u16::from_ne_bytes([bytes[at], bytes[at + 1]]));
            let kind = u16::from_ne_bytes([bytes[at + 2], bytes[at + 3]]);
            if kind & NLA_F_NESTED != 0 {
                bytes[at + 2..at + 4].copy_from_slice(&(kind & !NLA_F_NESTED).to_ne_bytes());
                clear(&mut bytes[at + 4..at + length]);
            }
            at += length.next_multiple_of(4);
        }
    }
    clear(&mut bytes[4..]);
    bytes
}

#[test]
fn every_request_is_decoded_and_encoded_to_the_same_bytes() {
    for (kernel, capture) in CAPTURES {
        for exchange in exchanges(capture) {
            assert!(!exchange.requests.is_empty(), "{kernel}: {}", exchange.line);
            for request in &exchange.requests {
                assert_eq!(&encode(decode(request)), request, "{kernel}: {}", exchange.line);
            }
        }
    }
}

#[test]
fn every_reply_is_decoded_without_loss() {
    for (kernel, capture) in CAPTURES {
        for exchange in exchanges(capture) {
            for reply in &exchange.replies {
                let message = decode(reply);
                assert!(!format!("{message:?}").contains("Other(DefaultNla { kind: 1,"), "{message:?}");
                assert_eq!(&without_nested_flags(encode(message)), reply, "{kernel}: {}", exchange.line);
            }
        }
    }
}

fn address(text: &str) -> std::net::IpAddr {
    text.parse().unwrap()
}

fn tcp(text: &str, port: u16) -> ServiceId {
    ServiceId::new(Protocol::Tcp, address(text), port)
}

/// What ipvsadm was told, in this crate's words.
fn dictionary() -> Vec<(&'static str, Command)> {
    let mut words = services();
    words.extend(destinations());
    words.extend(others());
    words
}

fn services() -> Vec<(&'static str, Command)> {
    let udp = |port| ServiceId::new(Protocol::Udp, address("10.0.0.1"), port);
    let mut class_b = Service::new(tcp("10.0.0.3", 80), Scheduler::Wrr).with_persistence(10800);
    class_b.netmask = Netmask::Ipv4([255, 255, 0, 0].into());
    let mut slash_64 = Service::new(tcp("2001:db8::3", 80), Scheduler::Wrr).with_persistence(600);
    slash_64.netmask = Netmask::Ipv6(64);
    let mut sip = Service::new(ServiceId::new(Protocol::Udp, address("10.0.0.5"), 5060), Scheduler::Rr);
    sip = sip.with_persistence(60);
    sip.pe_name = Some("sip".to_owned());
    let both = ServiceFlags::SH_FALLBACK | ServiceFlags::SH_PORT;
    let sctp = ServiceId::new(Protocol::Sctp, address("10.0.0.1"), 90);
    let wlc = Service::new(tcp("10.0.0.1", 80), Scheduler::Wlc).with_persistence(50);
    let all = [
        ("-A -t 10.0.0.1:80 -s rr", Service::new(tcp("10.0.0.1", 80), Scheduler::Rr)),
        ("-A -u 10.0.0.1:53 -s rr --ops", Service::new(udp(53), Scheduler::Rr).with_flags(ServiceFlags::ONE_PACKET)),
        ("-A --sctp-service 10.0.0.1:90 -s wlc", Service::new(sctp, Scheduler::Wlc)),
        (
            "-A -t 10.0.0.2:80 -s sh -b sh-fallback,sh-port",
            Service::new(tcp("10.0.0.2", 80), Scheduler::Sh).with_flags(both),
        ),
        (
            "-A -t [2001:db8::1]:443 -s mh -b mh-port",
            Service::new(tcp("2001:db8::1", 443), Scheduler::Mh).with_flags(ServiceFlags::MH_PORT),
        ),
        ("-A -t 10.0.0.2:0 -s rr -p 360", Service::new(tcp("10.0.0.2", 0), Scheduler::Rr).with_persistence(360)),
        ("-A -t 10.0.0.3:80 -s wrr -p 10800 -M 255.255.0.0", class_b),
        ("-A -t [2001:db8::3]:80 -s wrr -p 600 -M 64", slash_64),
        ("-A -u 10.0.0.5:5060 -s rr -p 60 --pe sip", sip),
        ("-A -f 7 -s lc", Service::new(ServiceId::fwmark(7, AddressFamily::Ipv4), Scheduler::Lc)),
        (
            "-A -f 7 -6 -s nq -p 100",
            Service::new(ServiceId::fwmark(7, AddressFamily::Ipv6), Scheduler::Nq).with_persistence(100),
        ),
    ];
    let mut words: Vec<_> = all.into_iter().map(|(line, service)| (line, Command::AddService(service))).collect();
    words.push(("-E -t 10.0.0.1:80 -s wlc -p 50", Command::SetService(wlc)));
    words
}

fn destinations() -> Vec<(&'static str, Command)> {
    let to = |text, port| Destination::new(address(text), port, 1);
    let web = tcp("10.0.0.1", 80);
    let gue = |port, flags| Tunnel { kind: TunnelKind::Gue, port, flags };
    let tunnel = |text: &str, tunnel| {
        let destination = Destination::new(address(text), 80, 1).with_forward(ForwardMethod::Tunnel);
        Destination { tunnel, ..destination }
    };
    let limited = Destination { upper_threshold: 100, lower_threshold: 50, ..to("10.1.0.1", 8080).with_weight(3) };
    let gre = Tunnel { kind: TunnelKind::Gre, ..Tunnel::default() };
    let route = |destination: Destination| destination.with_forward(ForwardMethod::DirectRoute);
    let mark = |family| ServiceId::fwmark(7, family);
    let udp = ServiceId::new(Protocol::Udp, address("10.0.0.1"), 53);
    let none = Tunnel::default();
    let all = [
        ("-a -t 10.0.0.1:80 -r 10.1.0.1:8080 -m -w 3 -x 100 -y 50", web, limited),
        ("-a -t 10.0.0.1:80 -r 10.1.0.2 -g", web, route(to("10.1.0.2", 80))),
        ("-a -t 10.0.0.1:80 -r 10.1.0.3 -i -w 0", web, tunnel("10.1.0.3", none).with_weight(0)),
        (
            "-a -t 10.0.0.1:80 -r 10.1.0.4 -i --tun-type gue --tun-port 6080 --tun-csum",
            web,
            tunnel("10.1.0.4", gue(6080, TunnelFlags::CHECKSUM)),
        ),
        (
            "-a -t 10.0.0.1:80 -r 10.1.0.5 -i --tun-type gue --tun-port 6081 --tun-remcsum",
            web,
            tunnel("10.1.0.5", gue(6081, TunnelFlags::REMOTE_CHECKSUM)),
        ),
        ("-a -t 10.0.0.1:80 -r 10.1.0.6 -i --tun-type gre --tun-nocsum", web, tunnel("10.1.0.6", gre)),
        ("-a -t 10.0.0.1:80 -r [2001:db8:1::7]:80 -i", web, tunnel("2001:db8:1::7", none)),
        ("-a -u 10.0.0.1:53 -r 10.0.0.1:5353 -m", udp, to("10.0.0.1", 5353)),
        ("-a -t [2001:db8::1]:443 -r [2001:db8:1::1]:8443 -m", tcp("2001:db8::1", 443), to("2001:db8:1::1", 8443)),
        ("-a -f 7 -r 10.1.0.1 -g -w 65535", mark(AddressFamily::Ipv4), route(to("10.1.0.1", 0)).with_weight(65535)),
        ("-a -f 7 -6 -r [2001:db8:1::1]:0 -g", mark(AddressFamily::Ipv6), route(to("2001:db8:1::1", 0))),
    ];
    let add = |(line, service, destination)| (line, Command::AddDestination { service, destination });
    let mut words: Vec<_> = all.into_iter().map(add).collect();
    let drained = to("10.1.0.1", 8080).with_weight(0);
    let set = Command::SetDestination { service: web, destination: drained };
    words.push(("-e -t 10.0.0.1:80 -r 10.1.0.1:8080 -m -w 0", set));
    words
}

fn others() -> Vec<(&'static str, Command)> {
    let mut backup = Daemon::new(DaemonState::Backup, "sync0", 9);
    backup.max_length = Some(1400);
    backup.group = Some(address("224.0.1.1"));
    backup.port = Some(9999);
    backup.ttl = Some(3);
    let mut master = Daemon::new(DaemonState::Master, "sync0", 8);
    master.group = Some(address("ff02::5"));
    master.port = Some(9998);
    vec![
        (
            "--start-daemon master --mcast-interface sync0 --syncid 7",
            Command::StartDaemon(Daemon::new(DaemonState::Master, "sync0", 7)),
        ),
        (
            "--start-daemon backup --mcast-interface sync0 --syncid 9 --sync-maxlen 1400 --mcast-group 224.0.1.1 \
             --mcast-port 9999 --mcast-ttl 3",
            Command::StartDaemon(backup),
        ),
        (
            "--start-daemon master --mcast-interface sync0 --syncid 8 --mcast-group ff02::5 --mcast-port 9998",
            Command::StartDaemon(master),
        ),
        ("--set 1000 130 310", Command::SetTimeouts(Timeouts { tcp: 1000, tcp_fin: 130, udp: 310 })),
        ("--set 0 140 0", Command::SetTimeouts(Timeouts { tcp: 0, tcp_fin: 140, udp: 0 })),
        ("-Z", Command::Zero(None)),
        ("-C", Command::Flush),
    ]
}

#[test]
fn our_commands_are_ipvsadms_bytes() {
    for (kernel, capture) in CAPTURES {
        let exchanges = exchanges(capture);
        for (line, command) in dictionary() {
            let exchange = exchange(&exchanges, &format!("ipvsadm {line}"));
            assert_eq!(exchange.command(), command, "{kernel}: {line}");
            let (mut ours, mut theirs) = (command.to_message(), exchange.request());
            if let Command::AddDestination { .. } | Command::SetDestination { .. } = command {
                // Beside a destination, ipvsadm repeats the virtual server with all attributes, most of them empty.
                // The identity, which is all that the kernel reads there, was compared above.
                ours.attributes.remove(0);
                theirs.attributes.remove(0);
            }
            assert_eq!(encode(ours), encode(theirs), "{kernel}: {line}");
        }
    }
}

/// ipvsadm sends attributes here that identify nothing, so the bytes differ, but not the meaning.
#[test]
fn deletions_mean_what_ipvsadm_means() {
    let web = tcp("10.0.0.1", 80);
    let delete = |text, port| Command::DeleteDestination { service: web, address: address(text), port };
    let words = [
        ("-D -f 7 -6", Command::DeleteService(ServiceId::fwmark(7, AddressFamily::Ipv6))),
        ("-d -t 10.0.0.1:80 -r 10.1.0.2", delete("10.1.0.2", 80)),
        ("-d -t 10.0.0.1:80 -r [2001:db8:1::7]:80", delete("2001:db8:1::7", 80)),
        ("-Z -t 10.0.0.1:80", Command::Zero(Some(web))),
        ("--stop-daemon master", Command::StopDaemon(DaemonState::Master)),
    ];
    for (kernel, capture) in CAPTURES {
        let exchanges = exchanges(capture);
        for (line, command) in &words {
            let exchange = exchange(&exchanges, &format!("ipvsadm {line}"));
            assert_eq!(exchange.command(), *command, "{kernel}: {line}");
            let again = Command::from_message(&decode(&encode(command.to_message()))).unwrap();
            assert_eq!(again, *command);
        }
    }
}

#[test]
fn all_schedulers_were_captured() {
    for (kernel, capture) in CAPTURES {
        let seen: Vec<_> = exchanges(capture)
            .iter()
            .filter(|exchange| exchange.line.starts_with("ipvsadm -A -t 10.0.1.1:80"))
            .map(|exchange| match exchange.command() {
                Command::AddService(service) => service.scheduler,
                other => panic!("{other}"),
            })
            .collect();
        // Debian's 6.1 has no twos, but the request was made.
        assert_eq!(seen, Scheduler::KNOWN, "{kernel}");
    }
}

fn table(exchange: &Exchange) -> (BTreeMap<ServiceId, ServiceEntry>, Vec<DestinationEntry>) {
    let (mut services, mut destinations) = (BTreeMap::new(), Vec::new());
    for reply in &exchange.replies {
        for attribute in decode(reply).attributes {
            match attribute {
                Attribute::Service(attributes) => {
                    let entry = ServiceEntry::from_attributes(attributes).unwrap();
                    services.insert(entry.service.id, entry);
                }
                Attribute::Destination(attributes) => {
                    destinations.push(DestinationEntry::from_attributes(attributes, AddressFamily::Ipv4).unwrap());
                }
                _ => {}
            }
        }
    }
    (services, destinations)
}

#[test]
fn the_kernel_lists_what_ipvsadm_had_configured() {
    for (kernel, capture) in CAPTURES {
        let exchanges = exchanges(capture);
        let (services, destinations) = table(exchange(&exchanges, "ipvsadm -L -n --stats --exact"));
        let mut expected: BTreeMap<ServiceId, Service> = BTreeMap::new();
        let mut wanted: BTreeMap<(ServiceId, std::net::SocketAddr), Destination> = BTreeMap::new();
        for (_, command) in dictionary() {
            match command {
                Command::AddService(service) | Command::SetService(service) => {
                    expected.insert(service.id, service);
                }
                Command::AddDestination { service, destination } | Command::SetDestination { service, destination } => {
                    wanted.insert((service, destination.socket_address()), destination);
                }
                _ => {}
            }
        }
        let listed: BTreeMap<_, _> = services.iter().map(|(id, entry)| (*id, entry.service.clone())).collect();
        assert_eq!(listed, expected, "{kernel}");
        assert_eq!(destinations.len(), wanted.len(), "{kernel}");
        for entry in &destinations {
            let place = entry.destination.socket_address();
            assert!(wanted.values().any(|wanted| *wanted == entry.destination), "{kernel}: {place}: {entry:?}");
            assert!(entry.other.is_empty());
        }
        for entry in services.values() {
            assert!(entry.kernel_flags.contains(ServiceFlags::HASHED));
            assert!(entry.other.is_empty(), "{kernel}: {entry:?}");
        }
        // Three packets of 5 bytes of text with the closing newline, 8 of UDP and 20 of IPv4 headers.
        let stats = services[&ServiceId::new(Protocol::Udp, address("10.0.0.1"), 53)].stats;
        assert_eq!((stats.connections, stats.incoming_packets, stats.incoming_bytes), (3, 3, 3 * 34), "{kernel}");
    }
}

#[test]
fn timeouts_daemons_and_errors_are_read() {
    for (kernel, capture) in CAPTURES {
        let exchanges = exchanges(capture);
        let timeouts = exchange(&exchanges, "ipvsadm -L --timeout").replies.last().unwrap();
        let timeouts = Timeouts::from_attributes(&decode(timeouts).attributes);
        assert_eq!(timeouts, Timeouts { tcp: 1000, tcp_fin: 140, udp: 310 }, "{kernel}");

        let daemons: Vec<Daemon> = exchange(&exchanges, "ipvsadm -L --daemon")
            .replies
            .iter()
            .flat_map(|reply| decode(reply).attributes)
            .filter_map(|attribute| match attribute {
                Attribute::Daemon(attributes) => Some(Daemon::from_attributes(&attributes).unwrap()),
                _ => None,
            })
            .collect();
        let texts: Vec<_> = daemons.iter().map(ToString::to_string).collect();
        assert_eq!(texts[1], "backup sync0 syncid 9 maxlen 1400 group 224.0.1.1 port 9999 ttl 3", "{kernel}");
        assert!(texts[0].starts_with("master sync0 syncid 7 maxlen "), "{texts:?}");
        assert!(texts[0].ends_with(" group 224.0.0.81 port 8848 ttl 1"), "{texts:?}");

        let gone = exchange(&exchanges, "ipvsadm -D -t 10.0.0.9:80");
        assert_eq!(gone.errors, ["ESRCH"], "{kernel}");
    }
}
