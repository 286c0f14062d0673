//! What is written is read back: every scheduler and every attribute.

use std::collections::BTreeMap;

use ipvs::{
    AddressFamily, Command, Daemon, DaemonState, Destination, ForwardMethod, Netmask, Protocol, Scheduler, Service,
    ServiceFlags, ServiceId, Timeouts, Tunnel, TunnelFlags, TunnelKind, proc,
};

use crate::namespace::{address, execute, in_namespace, note, tcp};

#[test]
fn version_and_connection_table_are_known() {
    in_namespace("version_and_connection_table_are_known", |client| {
        let info = client.info().unwrap();
        assert_eq!(info.version, (1, 2, 1));
        assert!(info.connection_table_size.is_power_of_two(), "{info}");
    });
}

/// Whether this kernel was built without the module, as Debian's 6.1 was without ip_vs_twos.
fn was_never_built(module: &str) -> bool {
    let modprobe = std::process::Command::new("modprobe").args(["--dry-run", "--quiet", module]).status();
    modprobe.is_ok_and(|status| !status.success())
}

#[test]
fn every_scheduler_is_loaded_and_read_back() {
    in_namespace("every_scheduler_is_loaded_and_read_back", |client| {
        let mut listed = 0;
        for (port, scheduler) in (1..).zip(Scheduler::KNOWN) {
            let service = Service::new(tcp("10.0.0.1", port), scheduler);
            match client.execute(&Command::AddService(service.clone())) {
                Err(error) if error.errno() == Some(2) && was_never_built(&scheduler.module()) => {
                    note(&format!("without scheduler {scheduler}, which this kernel does not have: {error}"));
                    continue;
                }
                result => result.unwrap(),
            }
            assert_eq!(client.service(&service.id).unwrap().unwrap().service, service);
            listed += 1;
        }
        assert_eq!(client.services().unwrap().len(), listed);
        assert!(listed >= Scheduler::KNOWN.len() - 1, "{listed}");
        // A service without a scheduler is one, too.
        let none = Service::new(tcp("10.0.0.1", 99), "none".parse().unwrap());
        client.execute(&Command::AddService(none.clone())).unwrap();
        assert_eq!(client.service(&none.id).unwrap().unwrap().service, none);
    });
}

fn all_kinds_of_services() -> Vec<Service> {
    let mut wide = Service::new(tcp("10.0.0.3", 80), Scheduler::Wrr).with_persistence(10800);
    wide.netmask = Netmask::Ipv4([255, 255, 0, 0].into());
    let mut slash_64 = Service::new(tcp("2001:db8::3", 80), Scheduler::Wrr).with_persistence(600);
    slash_64.netmask = Netmask::Ipv6(64);
    let sip = ServiceId::new(Protocol::Udp, address("10.0.0.5"), 5060);
    let mut sip = Service::new(sip, Scheduler::Rr).with_persistence(60);
    sip.pe_name = Some("sip".to_owned());
    let udp = ServiceId::new(Protocol::Udp, address("10.0.0.1"), 53);
    let sctp = ServiceId::new(Protocol::Sctp, address("2001:db8::1"), 90);
    vec![
        Service::new(tcp("10.0.0.1", 80), Scheduler::Rr),
        Service::new(udp, Scheduler::Rr).with_flags(ServiceFlags::ONE_PACKET),
        Service::new(sctp, Scheduler::Wlc),
        Service::new(tcp("10.0.0.2", 80), Scheduler::Sh).with_flags(ServiceFlags::SH_FALLBACK | ServiceFlags::SH_PORT),
        Service::new(tcp("2001:db8::1", 443), Scheduler::Mh).with_flags(ServiceFlags::MH_FALLBACK),
        Service::new(tcp("10.0.0.2", 0), Scheduler::Rr).with_persistence(360),
        Service::new(tcp("10.0.0.2", 443), Scheduler::Rr).with_flags(ServiceFlags::SCHED_3),
        wide,
        slash_64,
        sip,
        Service::new(ServiceId::fwmark(7, AddressFamily::Ipv4), Scheduler::Lc),
        Service::new(ServiceId::fwmark(7, AddressFamily::Ipv6), Scheduler::Nq).with_persistence(100),
        Service::new(ServiceId::fwmark(u32::MAX, AddressFamily::Ipv4), Scheduler::Sed),
    ]
}

#[test]
fn every_kind_of_service_is_read_back() {
    in_namespace("every_kind_of_service_is_read_back", |client| {
        let services = all_kinds_of_services();
        let add: Vec<_> = services.iter().cloned().map(Command::AddService).collect();
        execute(client, &add);
        let wanted: BTreeMap<_, _> = services.iter().map(|service| (service.id, service.clone())).collect();
        let entries = client.services().unwrap();
        let found: BTreeMap<_, _> = entries.iter().map(|entry| (entry.service.id, entry.service.clone())).collect();
        assert_eq!(found, wanted);
        assert!(entries.iter().all(|entry| entry.other.is_empty()), "attributes that the crate does not know");
        for service in &services {
            assert_eq!(&client.service(&service.id).unwrap().unwrap().service, service);
        }

        // The other view of the same table.
        let rows = proc::read_table(proc::PATH).unwrap();
        assert_eq!(rows.len(), services.len());
        for (row, _) in &rows {
            let same = |service: &&Service| proc::RowId::from(service.id) == row.id;
            let candidates: Vec<_> = services.iter().filter(same).collect();
            let matching = candidates.iter().find(|service| service.scheduler == row.scheduler).unwrap();
            let family = matching.id.family();
            assert_eq!(row.persistence.is_some(), matching.flags.contains(ServiceFlags::PERSISTENT), "{row:?}");
            if let Some(persistence) = row.persistence {
                assert_eq!(persistence.netmask(family), matching.netmask);
                assert_eq!(persistence.timeout_jiffies % matching.persistence_timeout, 0);
            }
            if family == AddressFamily::Ipv4 {
                assert_eq!(row.one_packet, matching.flags.contains(ServiceFlags::ONE_PACKET), "{row:?}");
            }
        }

        client.execute(&Command::Flush).unwrap();
        assert!(client.services().unwrap().is_empty());
    });
}

fn all_kinds_of_destinations() -> Vec<Destination> {
    let to = |text: &str, port| Destination::new(address(text), port, 1);
    let tunnel = |text: &str, kind, port, flags| Destination {
        tunnel: Tunnel { kind, port, flags },
        ..to(text, 80).with_forward(ForwardMethod::Tunnel)
    };
    vec![
        to("10.1.0.1", 8080).with_weight(3),
        to("10.1.0.2", 80).with_forward(ForwardMethod::DirectRoute).with_weight(0),
        to("10.1.0.3", 80).with_forward(ForwardMethod::Local).with_weight(i32::MAX.unsigned_abs()),
        to("10.1.0.4", 80).with_forward(ForwardMethod::Bypass),
        Destination { upper_threshold: 100, lower_threshold: 50, ..to("10.1.0.5", 8080) },
        tunnel("10.1.1.1", TunnelKind::Ipip, 0, TunnelFlags::empty()),
        tunnel("10.1.1.2", TunnelKind::Gue, 6080, TunnelFlags::CHECKSUM),
        tunnel("10.1.1.3", TunnelKind::Gue, 6081, TunnelFlags::REMOTE_CHECKSUM),
        tunnel("10.1.1.4", TunnelKind::Gre, 0, TunnelFlags::CHECKSUM),
        // Another family than the virtual server's.
        tunnel("2001:db8:1::7", TunnelKind::Ipip, 0, TunnelFlags::empty()),
    ]
}

#[test]
fn every_kind_of_destination_is_read_back() {
    in_namespace("every_kind_of_destination_is_read_back", |client| {
        let service = tcp("10.0.0.1", 80);
        let wanted = all_kinds_of_destinations();
        let mut commands = vec![Command::AddService(Service::new(service, Scheduler::Wrr))];
        let add = |destination: &Destination| Command::AddDestination { service, destination: destination.clone() };
        commands.extend(wanted.iter().map(add));
        execute(client, &commands);
        let by_place = |mut all: Vec<Destination>| {
            all.sort_by_key(Destination::socket_address);
            all
        };
        let entries = client.destinations(&service).unwrap();
        assert!(entries.iter().all(|entry| entry.other.is_empty()), "attributes that the crate does not know");
        let found = entries.into_iter().map(|entry| entry.destination).collect();
        assert_eq!(by_place(found), by_place(wanted.clone()));

        let rows = proc::read_table(proc::PATH).unwrap();
        assert_eq!(rows[0].1.len(), wanted.len());
        for row in &rows[0].1 {
            let same = |wanted: &&Destination| (wanted.address, wanted.port) == (row.address, row.port);
            let wanted = wanted.iter().find(same).unwrap();
            let printed = match wanted.forward {
                ForwardMethod::Bypass => ForwardMethod::Masquerade,
                other => other,
            };
            assert_eq!((row.forward, row.weight), (printed, wanted.weight));
        }
    });
}

#[test]
fn timeouts_are_read_back_and_zero_leaves_them() {
    in_namespace("timeouts_are_read_back_and_zero_leaves_them", |client| {
        assert_eq!(client.timeouts().unwrap(), Timeouts { tcp: 900, tcp_fin: 120, udp: 300 });
        client.execute(&Command::SetTimeouts(Timeouts { tcp: 1000, tcp_fin: 130, udp: 310 })).unwrap();
        client.execute(&Command::SetTimeouts(Timeouts { tcp: 0, tcp_fin: 140, udp: 0 })).unwrap();
        assert_eq!(client.timeouts().unwrap(), Timeouts { tcp: 1000, tcp_fin: 140, udp: 310 });
    });
}

#[test]
fn daemons_start_list_and_stop() {
    in_namespace("daemons_start_list_and_stop", |client| {
        assert!(client.daemons().unwrap().is_empty());
        let mut backup = Daemon::new(DaemonState::Backup, "lo", 9);
        backup.max_length = Some(1400);
        backup.group = Some(address("224.0.1.1"));
        backup.port = Some(9999);
        backup.ttl = Some(3);
        client.execute(&Command::StartDaemon(Daemon::new(DaemonState::Master, "lo", 7))).unwrap();
        client.execute(&Command::StartDaemon(backup.clone())).unwrap();
        let daemons = client.daemons().unwrap();
        assert_eq!(daemons.len(), 2, "{daemons:?}");
        assert_eq!((daemons[0].state, daemons[0].sync_id), (DaemonState::Master, 7));
        assert_eq!((daemons[0].group, daemons[0].port), (Some(address("224.0.0.81")), Some(8848)));
        assert_eq!(daemons[1], backup);

        let twice = client.execute(&Command::StartDaemon(backup)).unwrap_err();
        assert!(twice.is_already_there(), "{twice}");
        let nowhere = Daemon::new(DaemonState::Backup, "nowhere0", 1);
        client.execute(&Command::StopDaemon(DaemonState::Backup)).unwrap();
        let nowhere = client.execute(&Command::StartDaemon(nowhere)).unwrap_err();
        assert_eq!(nowhere.errno(), Some(19), "ENODEV: {nowhere}");
        client.execute(&Command::StopDaemon(DaemonState::Master)).unwrap();
        let gone = client.execute(&Command::StopDaemon(DaemonState::Master)).unwrap_err();
        assert!(gone.is_not_there(), "{gone}");
        assert!(client.daemons().unwrap().is_empty());
    });
}
