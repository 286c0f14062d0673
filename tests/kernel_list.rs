//! `kube-ipvs list` against `ipvsadm -Ln` on the kernel: the same bytes, for tables of random virtual servers and for
//! one with connections; and the crate reads back what it wrote.
//!
//! Each test works in a network namespace of its own. Without IPVS it says `SKIPPED`, or fails if
//! `KUBE_IPVS_REQUIRE_IPVS=1`.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

#[path = "kernel_list/options.rs"]
mod options;
#[path = "kernel_list/random.rs"]
mod random;
mod support;

use ipvs::{AddressFamily, Client, Command, Destination, ForwardMethod, Protocol, Scheduler, Service, ServiceId};
use kube_ipvs::commands::list::args::IpvsadmArgs;
use kube_ipvs::commands::list::ipvsadm::{Asked, parse};
use kube_ipvs::commands::list::{self, ListArgs, ListMode, Output};
use nix::sched::{CloneFlags, unshare};
use random::{Modules, Wanted};
use std::collections::BTreeMap;
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::process;
use support::{Cluster, Mode, may_run};

fn skipped(reason: &str) {
    let required = std::env::var_os("KUBE_IPVS_REQUIRE_IPVS").is_some_and(|value| value == "1");
    assert!(!required, "{reason}");
    eprintln!("SKIPPED: {reason}");
}

/// Runs `test` on a thread in a new network namespace.
fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let work = move || match unshare(CloneFlags::CLONE_NEWNET) {
        Ok(()) => {
            // Until an address appears there is no local routing table, and without that the kernel takes every
            // IPv4 destination for a broadcast address and refuses it.
            output_of("ip", &["link", "set", "lo", "up"]);
            test();
        }
        Err(errno) => skipped(&format!("no network namespace of its own: {errno}")),
    };
    std::thread::spawn(work).join().unwrap();
}

/// [`in_namespace`], if there is IPVS.
fn with_ipvs(test: impl FnOnce(Client) + Send + 'static) {
    in_namespace(|| match Client::connect() {
        Ok(client) => {
            test(client);
            // What the namespace leaves behind would disturb the dumps of the next test (`Client::for_each_service`).
            if let Ok(mut client) = Client::connect() {
                let _ = client.execute(&Command::Flush);
            }
        }
        Err(error) => skipped(&error.to_string()),
    });
}

/// Output of a program in the calling thread's namespace; it has to succeed.
fn output_of(program: &str, arguments: &[&str]) -> String {
    let output = process::Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {}: {errors}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

fn listing(proxy_mode: ListMode) -> String {
    let mut printed = Vec::new();
    let ipvsadm = IpvsadmArgs { numeric: true, ..IpvsadmArgs::default() };
    let args = ListArgs { proxy_mode, ipvsadm, ..ListArgs::default() };
    list::print(&args, &mut Output::new(&mut printed)).unwrap();
    String::from_utf8(printed).unwrap()
}

/// Fails at the first line that differs.
fn assert_same_as_ipvsadm(context: &str) -> String {
    let (theirs, ours) = (output_of("ipvsadm", &["-Ln"]), listing(ListMode::Ipvs));
    for (number, (theirs, ours)) in theirs.lines().zip(ours.lines()).enumerate() {
        assert_eq!(theirs, ours, "{context}: line {} (left: ipvsadm)", number + 1);
    }
    assert!(theirs == ours, "{context}: {} bytes from ipvsadm, {} from us", theirs.len(), ours.len());
    ours
}

/// What the crate reads must be what was written.
fn assert_read_back(client: &mut Client, wanted: &[Wanted]) {
    let read: Vec<Service> = client.services().unwrap().into_iter().map(|entry| entry.service).collect();
    let found: BTreeMap<ServiceId, &Service> = read.iter().map(|service| (service.id, service)).collect();
    assert_eq!((found.len(), read.len()), (wanted.len(), wanted.len()), "virtual servers");
    let ids: Vec<ServiceId> = wanted.iter().map(|wanted| wanted.service.id).collect();
    let destinations = client.destinations_of_many(&ids).unwrap();
    for (Wanted { service, destinations: mut wanted }, found_destinations) in wanted.iter().cloned().zip(destinations) {
        assert_eq!(found.get(&service.id), Some(&&service));
        let mut read: Vec<Destination> = found_destinations.into_iter().map(|entry| entry.destination).collect();
        read.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(read, wanted, "destinations of {service}");
    }
}

fn execute(client: &mut Client, commands: &[Command]) {
    for result in client.execute_batch(commands) {
        result.unwrap();
    }
}

fn write(client: &mut Client, wanted: &[Wanted]) {
    let mut commands = Vec::new();
    for Wanted { service, destinations } in wanted {
        commands.push(Command::AddService(service.clone()));
        let add = |destination: &Destination| Command::AddDestination {
            service: service.id,
            destination: destination.clone(),
        };
        commands.extend(destinations.iter().map(add));
    }
    execute(client, &commands);
}

/// Whether the kernel takes this virtual server, whose scheduler and persistence engine are modules. It is not kept.
fn takes(client: &mut Client, service: Service) -> bool {
    let id = service.id;
    match client.execute(&Command::AddService(service)) {
        Ok(()) => client.execute(&Command::DeleteService(id)).map(|()| true).unwrap(),
        Err(error) if error.errno() == Some(nix::errno::Errno::ENOENT as i32) => false,
        Err(error) => panic!("{error}"),
    }
}

/// What random tables may use on this kernel.
fn modules(client: &mut Client) -> Modules {
    let id = ServiceId::new(Protocol::Udp, "10.9.9.9".parse().unwrap(), 5060);
    let mut sip = Service::new(id, Scheduler::Rr).with_persistence(60);
    sip.pe_name = Some("sip".to_owned());
    let (schedulers, missing): (Vec<_>, Vec<_>) =
        Scheduler::KNOWN.into_iter().partition(|scheduler| takes(client, Service::new(id, *scheduler)));
    // Debian's 6.1 is built without `twos`; all others have been everywhere for years.
    assert!(missing.is_empty() || missing == [Scheduler::Twos], "schedulers missing: {missing:?}");
    Modules { schedulers, sip: takes(client, sip) }
}

fn random_table(seed: u64) {
    with_ipvs(move |mut client| {
        assert_same_as_ipvsadm("empty");
        let modules = modules(&mut client);
        let wanted = random::table(seed, 300, &modules);
        write(&mut client, &wanted);
        let text = assert_same_as_ipvsadm(&format!("seed {seed}"));
        assert_read_back(&mut client, &wanted);
        assert_eq!(listing(ListMode::Auto), text, "IPVS has virtual servers");
        let destinations: usize = wanted.iter().map(|wanted| wanted.destinations.len()).sum();
        eprintln!(
            "seed {seed}: {} virtual servers, {destinations} real servers, {} bytes, schedulers {}, SIP engine: {}",
            wanted.len(),
            text.len(),
            modules.schedulers.iter().map(Scheduler::name).collect::<Vec<_>>().join(" "),
            modules.sip
        );
    });
}

#[test]
fn three_hundred_random_virtual_servers_seed_1() {
    random_table(1);
}

#[test]
fn three_hundred_random_virtual_servers_seed_2() {
    random_table(2);
}

#[test]
fn three_hundred_random_virtual_servers_seed_3() {
    random_table(3);
}

#[test]
fn connections_are_counted() {
    with_ipvs(|mut client| {
        for address in ["10.96.0.1", "10.244.0.2", "10.244.0.10"] {
            output_of("ip", &["address", "add", &format!("{address}/32"), "dev", "lo"]);
        }
        let virtual_address: IpAddr = "10.96.0.1".parse().unwrap();
        let mut commands = Vec::new();
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let id = ServiceId::new(protocol, virtual_address, 80);
            commands.push(Command::AddService(Service::new(id, Scheduler::Rr)));
            for address in ["10.244.0.10", "10.244.0.2"] {
                let destination = Destination::new(address.parse().unwrap(), 8080, 1);
                commands.push(Command::AddDestination { service: id, destination });
            }
        }
        execute(&mut client, &commands);
        let listeners = ["10.244.0.2", "10.244.0.10"].map(|address| TcpListener::bind((address, 8080)).unwrap());
        let clients: Vec<TcpStream> = (0..7).map(|_| TcpStream::connect((virtual_address, 80)).unwrap()).collect();
        for _ in 0..3 {
            UdpSocket::bind("10.96.0.1:0").unwrap().send_to(b"?", (virtual_address, 80)).unwrap();
        }
        let text = assert_same_as_ipvsadm("connections");
        for connections in ["3          0  ", "4          0  ", "0          1  ", "0          2  "] {
            assert!(text.contains(connections), "{connections:?} in\n{text}");
        }
        drop((clients, listeners));
        let text = assert_same_as_ipvsadm("after the connections");
        assert!(!text.contains("3          0  "), "closed connections are not active\n{text}");
    });
}

/// The file that answers for most destinations does not tell the two families of one mark apart.
#[test]
fn a_mark_that_both_families_use_is_not_mixed_up() {
    with_ipvs(|mut client| {
        let mut commands = Vec::new();
        for (family, address) in [(AddressFamily::Ipv4, "10.244.0.2"), (AddressFamily::Ipv6, "fd00::2")] {
            let id = ServiceId::fwmark(7, family);
            commands.push(Command::AddService(Service::new(id, Scheduler::Rr)));
            let destination = Destination::new(address.parse().unwrap(), 0, 1).with_forward(ForwardMethod::DirectRoute);
            commands.push(Command::AddDestination { service: id, destination });
        }
        execute(&mut client, &commands);
        let text = assert_same_as_ipvsadm("both families");
        assert!(text.contains("FWM  7 rr\n  -> 10.244.0.2:0"), "{text}");
        assert!(text.contains("FWM  7 IPv6 rr\n  -> [fd00::2]:0"), "{text}");
    });
}

/// What the program prints under the name `ipvsadm`.
fn as_ipvsadm(words: &[&str]) -> String {
    let Ok(Asked::List(request)) = parse("ipvsadm", words) else { panic!("{words:?}") };
    let mut printed = Vec::new();
    list::print_ipvs(&request, &mut Output::new(&mut printed)).unwrap_or_else(|error| panic!("{words:?}: {error:#}"));
    String::from_utf8(printed).unwrap()
}

const RULES: &str = "\
*nat
:KUBE-NODEPORTS - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-SVC-AAAAAAAAAAAAAAAA - [0:0]
:KUBE-EXT-AAAAAAAAAAAAAAAA - [0:0]
:KUBE-SEP-AAAAAAAAAAAAAAAA - [0:0]
:KUBE-SEP-BBBBBBBBBBBBBBBB - [0:0]
-A PREROUTING -j KUBE-SERVICES
-A KUBE-SERVICES -d 10.96.0.10 -p tcp -m tcp --dport 80 -j KUBE-SVC-AAAAAAAAAAAAAAAA
-A KUBE-SERVICES ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
-A KUBE-NODEPORTS -p tcp -m tcp --dport 32767 -j KUBE-EXT-AAAAAAAAAAAAAAAA
-A KUBE-EXT-AAAAAAAAAAAAAAAA -j KUBE-SVC-AAAAAAAAAAAAAAAA
-A KUBE-SVC-AAAAAAAAAAAAAAAA -m statistic --mode random --probability 0.5 -j KUBE-SEP-BBBBBBBBBBBBBBBB
-A KUBE-SVC-AAAAAAAAAAAAAAAA -j KUBE-SEP-AAAAAAAAAAAAAAAA
-A KUBE-SEP-AAAAAAAAAAAAAAAA -p tcp -m tcp -j DNAT --to-destination 10.244.0.2:8080
-A KUBE-SEP-BBBBBBBBBBBBBBBB -p tcp -m tcp -j DNAT --to-destination 10.244.0.10:8080
COMMIT
";

const RULES_LISTED: &str = "\
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn
TCP  10.96.0.10:80 random
  -> 10.244.0.2:8080              Masq    1      0          0         \n\
\x20 -> 10.244.0.10:8080             Masq    1      0          0         \n\
TCP  10.200.0.1:32767 random
  -> 10.244.0.2:8080              Masq    1      0          0         \n\
\x20 -> 10.244.0.10:8080             Masq    1      0          0         \n";

#[test]
fn rules_are_listed_as_the_same_table() {
    in_namespace(|| {
        output_of("ip", &["address", "add", "10.200.0.1/32", "dev", "lo"]);
        let commands = iptables::Commands::detect(iptables::Family::V4).unwrap();
        commands.restore(RULES).unwrap();
        assert_eq!(listing(ListMode::Iptables), RULES_LISTED);
        assert_eq!(listing(ListMode::Auto), RULES_LISTED, "IPVS has nothing, the rules have");
    });
}

/// The demo's cluster: the running program's own table, before and after traffic.
#[test]
fn the_examples_are_listed_as_ipvsadm_lists_them() {
    if !may_run(Mode::Ipvs) {
        return;
    }
    let cluster = Cluster::new(Mode::Ipvs);
    cluster.write_examples();
    let _proxy = cluster.start(&[]);
    let listed = support::succeeded("list", &cluster.program(&["list"]));
    assert_eq!(listed, cluster.on_node("ipvsadm -Ln"), "left: kube-ipvs list");
    assert!(listed.contains("TCP  172.30.0.10:8081 rr\n"), "{listed}");
    assert!(listed.contains("[fd00:10:180::1]:80"), "{listed}");
    cluster.wait_answerers("172.30.0.10:8081", &["far-pod-1", "pod-1", "pod-2"]);
    // Connections end between one listing and the next: the same soon, with some counted.
    support::wait_until("the same listing, with connections", || {
        let listed = support::succeeded("list", &cluster.program(&["list"]));
        let connections = listed.lines().any(|line| line.contains("Masq") && !line.trim_end().ends_with(" 0"));
        connections && listed == cluster.on_node("ipvsadm -Ln")
    });
}

/// Names from the running daemon, in either mode: of Services, kinds, pods, nodes, states; what is left out; foreign ones.
fn names_come_from_the_daemon(mode: Mode) {
    if !may_run(mode) {
        return;
    }
    let cluster = Cluster::new(mode);
    cluster.write_examples();
    let mut proxy = cluster.start(&[]);
    proxy.wait_in_sync();
    let json = |further: &[&str]| -> Vec<serde_json::Value> {
        let arguments: Vec<&str> = ["list", "-o", "json"].iter().chain(further).copied().collect();
        serde_json::from_str(&support::succeeded("list", &cluster.program(&arguments))).unwrap()
    };
    let all = json(&[]);
    let of = |rows: &[serde_json::Value], place: (&str, u16)| -> serde_json::Value {
        let found = rows.iter().find(|row| row["address"] == place.0 && row["port"] == place.1);
        found.unwrap_or_else(|| panic!("{place:?} in {rows:#?}")).clone()
    };
    let cluster_ip = of(&all, ("172.30.0.10", 8081));
    assert_eq!((cluster_ip["kind"].as_str(), cluster_ip["protocol"].as_str()), (Some("ClusterIP"), Some("TCP")));
    let service = cluster_ip["service"].as_str().unwrap().to_owned();
    let namespace = cluster_ip["namespace"].as_str().unwrap().to_owned();
    let endpoints = cluster_ip["real_servers"].as_array().unwrap().clone();
    assert_eq!(endpoints.len(), 3, "{cluster_ip:#}");
    assert!(endpoints.iter().all(|endpoint| endpoint["state"] == "serving"), "{cluster_ip:#}");
    assert!(all.iter().any(|row| row["kind"] == "NodePort"), "{all:#?}");
    let only = json(&["--namespace", &namespace, "--service", &service, "--port", "8081"]);
    assert!(!only.is_empty() && only.iter().all(|row| row["service"] == service.as_str()), "{only:#?}");
    assert_eq!(json(&["--namespace", "no-such-namespace"]), Vec::<serde_json::Value>::new());
    assert_eq!(json(&["--state", "draining"]), Vec::<serde_json::Value>::new());
    let wide = support::succeeded("list", &cluster.program(&["list", "-o", "wide", "--address", "172.30.0.10"]));
    assert!(wide.contains(&format!("{namespace}/{service}")) && wide.contains("serving"), "{wide}");
    assert!(!wide.contains('\x1b'), "no colours where there is no terminal");
    eprintln!("{wide}");
    if mode == Mode::Ipvs {
        cluster.on_node("ipvsadm -A -t 192.0.2.77:80 -s rr");
        let foreign = json(&["--foreign"]);
        assert_eq!(foreign.len(), 1, "{foreign:#?}");
        assert_eq!(foreign[0]["address"], "192.0.2.77");
    }
}

#[test]
fn names_come_from_the_daemon_in_iptables_mode() {
    names_come_from_the_daemon(Mode::Iptables);
}

#[test]
fn names_come_from_the_daemon_in_ipvs_mode() {
    names_come_from_the_daemon(Mode::Ipvs);
}

/// The program in the calling thread's namespace: exit status and what it said.
fn run_program(arguments: &[&str], stdout: process::Stdio) -> (Option<i32>, String) {
    let mut command = process::Command::new(env!("CARGO_BIN_EXE_kube-ipvs"));
    let output = command.args(arguments).stdout(stdout).stderr(process::Stdio::piped()).output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn a_reader_that_left_is_no_failure_and_a_full_disk_is_one() {
    in_namespace(|| {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let ended = run_program(&["list", "--proxy-mode", "iptables"], writer.into());
        assert_eq!(ended, (Some(0), String::new()));
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let (status, said) = run_program(&["list", "--proxy-mode", "iptables"], full.into());
        assert_eq!(status, Some(1), "{said}");
        assert!(said.contains("cannot print the listing"), "{said}");
    });
}

#[test]
fn without_ipvs_the_error_says_what_helps() {
    in_namespace(|| {
        if Client::connect().is_ok() {
            eprintln!("this kernel has IPVS: there is no such error");
            return;
        }
        let (status, said) = run_program(&["list", "--proxy-mode", "ipvs"], process::Stdio::null());
        assert_eq!(status, Some(1), "{said}");
        assert!(said.contains("this kernel has no IPVS") && said.contains("--proxy-mode iptables"), "{said}");
        let (status, said) = run_program(&["list", "--proxy-mode", "nonsense"], process::Stdio::null());
        assert_eq!(status, Some(2), "{said}");
    });
}
