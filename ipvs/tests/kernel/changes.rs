//! Editing in place, and the kernel's refusals: each with its errno and its meaning.

use std::os::unix::process::CommandExt as _;

use ipvs::{
    AddressFamily, Client, Command, Destination, Error, ForwardMethod, Netmask, Scheduler, Service, ServiceFlags,
    ServiceId,
};

use crate::namespace::{address, execute, in_namespace, tcp};

#[test]
fn services_and_destinations_are_edited_in_place() {
    in_namespace("services_and_destinations_are_edited_in_place", |client| {
        let service = tcp("10.0.0.1", 80);
        let first = Destination::new(address("10.1.0.1"), 8080, 5);
        let second = Destination::new(address("10.1.0.2"), 8080, 5);
        let add = |destination: &Destination| Command::AddDestination { service, destination: destination.clone() };
        let persistent = Service::new(service, Scheduler::Rr).with_persistence(60).with_flags(ServiceFlags::SCHED_1);
        execute(client, &[Command::AddService(persistent), add(&first), add(&second)]);

        // All flags are meant: what is no longer there goes.
        let plain = Service::new(service, Scheduler::Wlc);
        let drained = Destination { upper_threshold: 10, lower_threshold: 5, ..first.with_weight(0) };
        let drained = drained.with_forward(ForwardMethod::DirectRoute);
        let set = Command::SetDestination { service, destination: drained.clone() };
        execute(client, &[Command::SetService(plain.clone()), set]);
        assert_eq!(client.service(&service).unwrap().unwrap().service, plain);
        let mut now: Vec<_> = client.destinations(&service).unwrap();
        now.sort_by_key(|entry| entry.destination.socket_address());
        assert_eq!(now[0].destination, drained);
        assert_eq!(now[1].destination, second);

        let delete = Command::DeleteDestination { service, address: second.address, port: second.port };
        client.execute(&delete).unwrap();
        assert_eq!(client.destinations(&service).unwrap().len(), 1);
        client.execute(&Command::DeleteService(service)).unwrap();
        assert_eq!(client.service(&service).unwrap(), None);
    });
}

#[test]
fn refusals_say_what_was_tried_and_keep_the_errno() {
    in_namespace("refusals_say_what_was_tried_and_keep_the_errno", |client| {
        let service = tcp("10.0.0.1", 80);
        let missing = tcp("10.0.0.9", 80);
        let destination = Destination::new(address("10.1.0.1"), 80, 1);
        let other = Destination::new(address("10.1.0.9"), 80, 1);
        let add =
            |service, destination: &Destination| Command::AddDestination { service, destination: destination.clone() };
        execute(client, &[Command::AddService(Service::new(service, Scheduler::Rr)), add(service, &destination)]);

        let mut refused = |command: Command, errno: i32, words: &str| -> Error {
            let error = client.execute(&command).unwrap_err();
            assert_eq!(error.errno(), Some(errno), "{error}");
            assert!(error.to_string().contains(words), "{error}");
            assert!(error.to_string().starts_with(&command.to_string()), "{error}");
            error
        };
        let again = Command::AddService(Service::new(service, Scheduler::Rr));
        assert!(refused(again, 17, "there already").is_already_there());
        assert!(refused(add(service, &destination), 17, "there already").is_already_there());
        let nowhere = Command::SetService(Service::new(missing, Scheduler::Rr));
        assert!(refused(nowhere, 3, "no such virtual server").is_not_there());
        assert!(refused(Command::DeleteService(missing), 3, "no such virtual server").is_not_there());
        assert!(refused(add(missing, &destination), 3, "no such virtual server").is_not_there());
        assert!(refused(Command::Zero(Some(missing)), 3, "no such virtual server").is_not_there());
        let set = Command::SetDestination { service, destination: other.clone() };
        assert!(refused(set, 2, "no such destination").is_not_there());
        let delete = Command::DeleteDestination { service, address: other.address, port: 80 };
        assert!(refused(delete, 2, "no such destination").is_not_there());

        let unknown = Service::new(missing, "nonsense".parse().unwrap());
        assert!(!refused(Command::AddService(unknown), 2, "kernel module ip_vs_nonsense not found").is_not_there());
        let heavy = Destination { weight: u32::MAX, ..other.clone() };
        refused(add(service, &heavy), 34, "out of range");
        let thresholds = Destination { upper_threshold: 5, lower_threshold: 6, ..other };
        refused(add(service, &thresholds), 34, "out of range");
        let mixed = Destination::new(address("2001:db8::9"), 80, 1);
        refused(add(service, &mixed), 22, "Invalid argument");
        let mut netmask = Service::new(tcp("2001:db8::1", 80), Scheduler::Rr);
        netmask.netmask = Netmask::Ipv6(129);
        refused(Command::AddService(netmask), 22, "Invalid argument");
        assert_eq!(client.services().unwrap().len(), 1);
    });
}

#[test]
fn impossible_commands_are_not_sent() {
    in_namespace("impossible_commands_are_not_sent", |client| {
        let mut netmask = Service::new(tcp("10.0.0.1", 80), Scheduler::Rr);
        netmask.netmask = Netmask::host(AddressFamily::Ipv6);
        let mut engine = Service::new(tcp("10.0.0.1", 80), Scheduler::Rr);
        engine.pe_name = Some("a name of more than 15 bytes".to_owned());
        let good = Service::new(tcp("10.0.0.1", 80), Scheduler::Rr);
        let commands = [netmask, good, engine].map(Command::AddService);
        let before = client.counters();
        let results = client.execute_batch(&commands);
        assert!(matches!(results[0], Err(Error::Invalid { .. })), "{results:?}");
        assert!(results[1].is_ok(), "{results:?}");
        assert!(matches!(results[2], Err(Error::Invalid { .. })), "{results:?}");
        assert_eq!(client.counters().messages - before.messages, 1);
    });
}

#[test]
fn what_is_not_there_is_not_listed() {
    in_namespace("what_is_not_there_is_not_listed", |client| {
        let id = ServiceId::fwmark(1, AddressFamily::Ipv6);
        assert_eq!(client.service(&id).unwrap(), None);
        assert!(client.services().unwrap().is_empty());
        assert!(client.destinations(&id).unwrap().is_empty(), "the kernel does not tell that the service is missing");
    });
}

#[test]
fn without_the_capability_connecting_says_so() {
    in_namespace("without_the_capability_connecting_says_so", |_| {
        let nobody = std::process::Command::new("/proc/self/exe")
            .args(["--exact", "changes::as_nobody", "--ignored", "--nocapture"])
            .uid(65534)
            .gid(65534)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&nobody.stdout).into_owned() + &String::from_utf8_lossy(&nobody.stderr);
        assert!(nobody.status.success() && text.contains("1 passed"), "{text}");
    });
}

/// Run by the test above, as another user in its namespace.
#[test]
#[ignore = "run by without_the_capability_connecting_says_so"]
fn as_nobody() {
    let error = Client::connect().unwrap_err();
    assert!(matches!(error, Error::PermissionDenied { .. }), "{error}");
}
