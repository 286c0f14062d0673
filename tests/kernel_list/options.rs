//! Every option of `ipvsadm`'s listing, and every mistake that one can make with them: the same bytes on standard output,
//! the same exit code.

use crate::random::{self, Modules, Wanted};
use crate::support::wait_for;
use crate::{as_ipvsadm, execute, modules, output_of, with_ipvs, write};
use ipvs::{
    Client, Command, Daemon, DaemonState, Destination, Protocol, Scheduler, Service, ServiceFlags, ServiceId, Timeouts,
};
use std::collections::BTreeSet;
use std::io::Write;
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::process::CommandExt;
use std::process;
use std::sync::{Mutex, PoisonError};

/// Tables, each in a namespace of its own.
const TABLES: u64 = 50;
/// Virtual servers in each.
const SERVERS: usize = 16;

/// Listings in which nothing moves by itself.
const LISTINGS: &[&str] = &[
    "-Ln",
    "-ln --sort",
    "-L -n --nosort",
    "-Ln --stats",
    "-Ln --stats --exact",
    "-Ln --rate",
    "-Ln --rate -X",
    "-Ln --thresholds",
    "-Ln --persistent-conn",
    "-Ln --tun-info",
    "-Ln --tun-info --thresholds --syncid 3",
    "-Ln --nosort --tun-info",
    "-Lnc",
    "-Lnc --persistent-conn",
    "-L --timeout",
    "-L --daemon",
    "-Sn",
];

/// With names: every address is looked up.
const NAMED: &[&str] = &["", "-L", "-S", "-L --tun-info", "-Lc"];

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

/// What moves by itself is compared again: `ipvsadm` has to say the same before and after.
fn assert_same(line: &str, context: &str) {
    let words = words(line);
    for _ in 0..50 {
        let (before, ours) = (output_of("ipvsadm", &words), as_ipvsadm(&words));
        if before == ours {
            return;
        }
        if before == output_of("ipvsadm", &words) {
            let pairs = before.lines().zip(ours.lines()).enumerate();
            for (number, (theirs, ours)) in pairs {
                assert_eq!(theirs, ours, "{context}: ipvsadm {line}: line {} (left: ipvsadm)", number + 1);
            }
            panic!("{context}: ipvsadm {line}: {} bytes, we {}", before.len(), ours.len());
        }
    }
    panic!("{context}: ipvsadm {line}: the table never rests");
}

/// How `ipvsadm` is told of one virtual server.
fn option_of(id: ServiceId) -> String {
    match id {
        ServiceId::Address { protocol, address, port } => {
            let option = match protocol {
                Protocol::Tcp => "-t",
                Protocol::Udp => "-u",
                _ => "--sctp-service",
            };
            format!("{option} {}", std::net::SocketAddr::new(address, port))
        }
        ServiceId::Fwmark { mark, family: ipvs::AddressFamily::Ipv4 } => format!("-f {mark}"),
        ServiceId::Fwmark { mark, family: ipvs::AddressFamily::Ipv6 } => format!("-f {mark} -6"),
    }
}

fn one_table(seed: u64, count: &'static Mutex<usize>) {
    with_ipvs(move |mut client| {
        let wanted = random::table(seed, SERVERS, &modules(&mut client));
        write(&mut client, &wanted);
        let timeout = u32::try_from(seed).unwrap();
        let timeouts = Timeouts { tcp: 900 + timeout, tcp_fin: 100 + timeout, udp: 300 + timeout };
        client.execute(&Command::SetTimeouts(timeouts)).unwrap();
        let (context, mut compared) = (format!("seed {seed}"), 0);
        let named = if seed.is_multiple_of(10) { NAMED } else { &[] };
        for line in LISTINGS.iter().chain(named) {
            assert_same(line, &context);
            compared += 1;
        }
        for Wanted { service, .. } in wanted.iter().take(2) {
            for columns in ["", " --stats", " --tun-info --exact"] {
                assert_same(&format!("-Ln {}{columns}", option_of(service.id)), &context);
                compared += 1;
            }
        }
        *count.lock().unwrap_or_else(PoisonError::into_inner) += compared;
    });
}

#[test]
fn fifty_random_tables_with_every_option() {
    static COMPARED: Mutex<usize> = Mutex::new(0);
    for seed in 100..100 + TABLES {
        one_table(seed, &COMPARED);
    }
    let compared = *COMPARED.lock().unwrap();
    eprintln!("{TABLES} tables of {SERVERS} virtual servers: {compared} listings compared with ipvsadm");
}

/// Connections in several states, some of them persistent, traffic that fills the wide counters, daemons.
#[test]
fn live_connections_large_counters_and_daemons_with_every_option() {
    with_ipvs(|mut client| {
        let address: IpAddr = "10.96.0.1".parse().unwrap();
        for address in ["10.96.0.1", "10.244.0.2", "10.244.0.10"] {
            output_of("ip", &["address", "add", &format!("{address}/32"), "dev", "lo"]);
        }
        let mut commands = Vec::new();
        for (protocol, persistence) in [(Protocol::Tcp, 600), (Protocol::Udp, 0)] {
            let id = ServiceId::new(protocol, address, 80);
            let service = Service::new(id, Scheduler::Wrr);
            let service = if persistence > 0 { service.with_persistence(persistence) } else { service };
            commands.push(Command::AddService(service));
            for (place, threshold) in [("10.244.0.10", 1000), ("10.244.0.2", 0)] {
                let mut destination = Destination::new(place.parse().unwrap(), 8080, 3);
                destination.upper_threshold = threshold;
                commands.push(Command::AddDestination { service: id, destination });
            }
        }
        execute(&mut client, &commands);
        let listeners = ["10.244.0.2", "10.244.0.10"].map(|place| TcpListener::bind((place, 8080)).unwrap());
        for listener in listeners {
            std::thread::spawn(move || {
                for mut stream in listener.incoming().flatten() {
                    std::thread::spawn(move || std::io::copy(&mut stream, &mut std::io::sink()));
                }
            });
        }
        let mut clients: Vec<TcpStream> = (0..5).map(|_| TcpStream::connect((address, 80)).unwrap()).collect();
        drop(clients.pop());
        for _ in 0..4 {
            UdpSocket::bind("10.96.0.1:0").unwrap().send_to(b"?", (address, 80)).unwrap();
        }
        clients[0].write_all(b"hello").unwrap();
        // More than 100,000,000 bytes: shown as thousands. Nobody takes them, which the sender may be told.
        let (sender, piece) = (UdpSocket::bind("10.96.0.1:0").unwrap(), vec![0; 60_000]);
        (0..2_000).for_each(|_| drop(sender.send_to(&piece, (address, 80))));
        start_daemons(&mut client);
        eprintln!("{}", large_counters());
        for line in LISTINGS.iter().chain(&["-Ln -t 10.96.0.1:80 --stats", "-Ln -t 10.96.0.1:80 --persistent-conn"]) {
            assert_same(line, "live");
            eprintln!("the same: ipvsadm {line}");
        }
        assert!(as_ipvsadm(&words("-Lnc")).contains("ESTABLISHED"));
        drop(clients);
        for daemon in [DaemonState::Master, DaemonState::Backup] {
            let stopped = client.execute(&Command::StopDaemon(daemon));
            eprintln!("{daemon} stopped: {stopped:?}");
        }
    });
}

/// Since 6.2 the kernel adds counters up every two seconds, on a thread of its own, which takes its time to begin on a busy
/// machine (`ip_vs_estimation_kthread`). Until then all of them are 0.
fn large_counters() -> String {
    let has_them = |stats: &str| stats.lines().any(|line| line.starts_with("UDP") && line.contains('K'));
    wait_for("counters that are large", || Some(as_ipvsadm(&words("-Ln --stats"))).filter(|stats| has_them(stats)))
}

fn start_daemons(client: &mut Client) {
    let mut master = Daemon::new(DaemonState::Master, "lo", 7);
    master.group = Some("224.0.0.99".parse().unwrap());
    master.port = Some(9000);
    for daemon in [master, Daemon::new(DaemonState::Backup, "lo", 9)] {
        if let Err(error) = client.execute(&Command::StartDaemon(daemon)) {
            eprintln!("SKIPPED: a synchronisation daemon on lo: {error}");
        }
    }
}

/// What `ipvsadm` restores from our `-S` is the same table, but for what `ipvsadm -S` loses itself: thresholds; and
/// weights and flags that it cannot read.
#[test]
fn what_is_saved_is_restored_by_ipvsadm() {
    for seed in [7, 8, 9] {
        with_ipvs(move |mut client| {
            let modules: Modules = modules(&mut client);
            let mut wanted = random::table(seed, 60, &modules);
            // Marks from 2^31 on it writes as negative numbers, which it does not read.
            let readable =
                |id: ServiceId| !matches!(id, ServiceId::Fwmark { mark, .. } if mark > i32::MAX.cast_unsigned());
            wanted.retain(|wanted| readable(wanted.service.id));
            for Wanted { service, destinations } in &mut wanted {
                service.flags -= ServiceFlags::SCHED_3;
                for destination in destinations {
                    destination.weight = destination.weight.min(65_535);
                }
            }
            wanted.sort_by_key(|wanted| wanted.service.id);
            write(&mut client, &wanted);
            let saved = as_ipvsadm(&["-S", "-n"]);
            client.execute(&Command::Flush).unwrap();
            assert_eq!(as_ipvsadm(&["-Sn"]), "");
            let mut restore =
                process::Command::new("ipvsadm").arg("-R").stdin(process::Stdio::piped()).spawn().unwrap();
            restore.stdin.take().unwrap().write_all(saved.as_bytes()).unwrap();
            assert!(restore.wait().unwrap().success());
            // Where addresses are so far apart that the comparison wraps, the order depends on the one before.
            let lines = |text: &str| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
            let restored = output_of("ipvsadm", &["-Sn"]);
            assert_eq!(lines(&restored), lines(&saved), "seed {seed}");
            assert_eq!(restored.len(), saved.len(), "seed {seed}");
            assert_same("-Ln --tun-info", "restored");
        });
    }
}

/// Command lines that end in an error, and the code.
const MISTAKES: &[&str] = &[
    "-n",
    "--bogus",
    "bogus",
    "-q",
    "-L --bogus",
    "-Lq",
    "-L -t",
    "-L --tcp-service",
    "-L --stats=1",
    "-Ln=",
    "-L -S",
    "-L -A",
    "-L -h",
    "-L bogus",
    "-L -- -n",
    "-L -",
    "-L -n -n",
    "-L --stats --stats",
    "-L -c -c",
    "-L --sort --sort -n --nosort --nosort",
    "-L -t 10.0.0.1:80 -u 10.0.0.1:80",
    "-L -t 80",
    "-L -t 10.0.0.256:80",
    "-L -t 10.0.0.1:70000",
    "-L -t 10.0.0.1:no-such-port",
    "-L -t [fd00::1]",
    "-L -t [fd00::1",
    "-L -f",
    "-L -f x",
    "-L -f 0",
    "-L -f -1",
    "-L -f 4294967296",
    "-L -6",
    "-L -6 -f 7",
    "-L -f 7 -6",
    "-L -t 10.99.99.99:80",
    "-Ln -t 10.99.99.99:80 --stats",
    "-L -u [fd00::9]:80",
    "-L --sctp-service 10.99.99.99:80",
    "-L -c --stats",
    "-L -c --rate",
    "-L -c --thresholds",
    "-L --timeout --stats",
    "-L --timeout --rate",
    "-L --timeout --thresholds",
    "-L --timeout --persistent-conn",
    "-L --daemon --stats",
    "-L --daemon --rate",
    "-L --daemon --thresholds",
    "-L --daemon --persistent-conn",
    "-L -c --timeout",
    "-L -c --daemon",
    "-L -c -t 10.0.0.1:80",
    "-L -c -f 7",
    "-L --timeout --daemon",
    "-L --timeout -f 7",
    "-L --daemon -t 10.0.0.1:80",
    "-L -w 1",
    "-L -w x",
    "-L -s rr",
    "-L -p",
    "-L -p 5",
    "-L -p 0",
    "-L -p x",
    "-L -M 255.0.0.0",
    "-L -M x..y",
    "-L -r 10.0.0.1",
    "-L -r 80",
    "-L -g",
    "-L -m -i",
    "-L -x 1",
    "-L -y -1",
    "-L -o",
    "-L --pe sip",
    "-L -b flag-1",
    "-L --syncid 256",
    "-L --syncid x",
    "-L --mcast-interface lo",
    "-L --mcast-group 224.0.0.1",
    "-L --mcast-group 10.0.0.1",
    "-L --mcast-port 0",
    "-L --mcast-ttl 256",
    "-L --sync-maxlen 0",
    "-L --tun-type ipip",
    "-L --tun-type x",
    "-L --tun-port 0",
    "-L --tun-nocsum",
    "-S --stats",
    "-S -t 10.0.0.1:80",
    "-S -c",
    "-S -X",
    "-S --nosort",
    "-S bogus",
];

/// Exit code, standard output and standard error of a program under the name `ipvsadm`.
fn run(program: &str, line: &str) -> (Option<i32>, String, String) {
    let output = process::Command::new(program).arg0("ipvsadm").args(words(line)).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn mistakes_end_with_the_same_code_and_message() {
    with_ipvs(|_| {
        let mut differing = Vec::new();
        for line in MISTAKES {
            let (theirs, ours) = (run("ipvsadm", line), run(env!("CARGO_BIN_EXE_kube-ipvs"), line));
            if theirs != ours {
                differing.push(format!("ipvsadm {line}\n  ipvsadm: {theirs:?}\n  we:      {ours:?}"));
            }
        }
        assert!(differing.is_empty(), "{}", differing.join("\n"));
        eprintln!("{} mistakes: the same exit codes, outputs and messages", MISTAKES.len());
    });
}
