//! Many commands at once, errors among them, and tables of thousands.

use std::collections::BTreeMap;
use std::time::Duration;

use ipvs::netlink::SocketOptions;
use ipvs::{Command, Error, Options, Scheduler, Service, proc};

use crate::namespace::{execute, in_namespace, in_namespace_with, numbered, table};

#[test]
fn a_thousand_services_take_few_system_calls_and_are_read_back() {
    in_namespace("a_thousand_services_take_few_system_calls_and_are_read_back", |client| {
        let commands = table(1000, 5);
        let before = client.counters();
        execute(client, &commands);
        let after = client.counters();
        assert_eq!(after.messages - before.messages, 6000);
        assert_eq!(after.sends - before.sends, 60);
        assert_eq!(after.receives - before.receives, 60, "one acknowledgement for each send");

        let services = client.services().unwrap();
        assert_eq!(services.len(), 1000);
        let ids: Vec<_> = services.iter().map(|entry| entry.service.id).collect();
        let destinations = client.destinations_of_many(&ids[..100]).unwrap();
        let rows: BTreeMap<_, _> = proc::read_table(proc::PATH)
            .unwrap()
            .into_iter()
            .map(|(row, destinations)| (row.id.service_id().unwrap(), destinations))
            .collect();
        assert_eq!(rows.len(), 1000);
        assert!(rows.values().all(|destinations| destinations.len() == 5));
        for (id, destinations) in ids.iter().zip(&destinations) {
            let weights: Vec<_> = destinations.iter().map(|entry| entry.destination.weight).collect();
            let listed: Vec<_> = rows[id].iter().map(|row| row.weight).collect();
            assert_eq!(weights, listed);
            assert_eq!(weights.iter().sum::<u32>(), 15);
        }
    });
}

#[test]
fn a_big_dump_is_streamed() {
    in_namespace("a_big_dump_is_streamed", |client| {
        execute(client, &table(5000, 0));
        let before = client.counters();
        let mut seen = BTreeMap::new();
        client.for_each_service(|entry| *seen.entry(entry.service.id).or_insert(0) += 1).unwrap();
        assert_eq!(seen.len(), 5000);
        assert!(seen.values().all(|times| *times == 1));
        let after = client.counters();
        assert_eq!(after.sends - before.sends, 2, "the second finds nothing new");
        assert!(after.receives - before.receives > 10, "more than one buffer");
    });
}

#[test]
fn errors_in_the_middle_of_a_batch_land_on_their_command() {
    in_namespace("errors_in_the_middle_of_a_batch_land_on_their_command", |client| {
        let mut commands = table(400, 0);
        let twice = commands[5].clone();
        commands[150] = twice.clone();
        commands[151] = twice;
        commands[203] = Command::DeleteService(numbered(9999));
        commands[399] = Command::DeleteService(numbered(9998));
        let results = client.execute_batch(&commands);
        assert_eq!(results.len(), 400);
        for (index, result) in results.iter().enumerate() {
            let errno = result.as_ref().err().and_then(Error::errno);
            let expected = match index {
                150 | 151 => Some(17),
                203 | 399 => Some(3),
                _ => None,
            };
            assert_eq!(errno, expected, "{index}: {result:?}");
        }
        // What stands behind an error was done.
        assert_eq!(client.services().unwrap().len(), 396);
        assert!(client.service(&numbered(398)).unwrap().is_some());
    });
}

#[test]
fn a_batch_of_nothing_but_errors_loses_none() {
    let socket = SocketOptions { batch_messages: 1000, batch_bytes: 1 << 17, ..SocketOptions::default() };
    let options = Options { socket, ..Options::default() };
    in_namespace_with("a_batch_of_nothing_but_errors_loses_none", options, |client| {
        let commands: Vec<_> = (0..3000).map(|n| Command::DeleteService(numbered(n))).collect();
        let before = client.counters();
        for result in client.execute_batch(&commands) {
            let error = result.unwrap_err();
            assert!(error.is_not_there(), "{error}");
        }
        assert_eq!(client.counters().sends - before.sends, 3);
    });
}

#[test]
fn lost_errors_are_never_taken_for_success() {
    let socket =
        SocketOptions { receive_buffer: 1, receive_timeout: Duration::from_millis(500), ..SocketOptions::default() };
    let options = Options { socket, ..Options::default() };
    in_namespace_with("lost_errors_are_never_taken_for_success", options, |client| {
        let mut commands: Vec<_> = (0..300).map(|n| Command::DeleteService(numbered(n))).collect();
        commands.extend(table(50, 0));
        let results = client.execute_batch(&commands);
        assert_eq!(results.len(), 350);
        let (mut refused, mut unknown, mut unsent) = (0, 0, 0);
        for result in &results {
            match result {
                Ok(()) => panic!("nothing can be known to have succeeded"),
                Err(error @ Error::Refused { .. }) => refused += i32::from(error.is_not_there()),
                Err(error) if error.is_outcome_unknown() => unknown += 1,
                Err(_) => unsent += 1,
            }
        }
        assert!(unknown > 0 && refused + unknown == 100, "{refused} {unknown} {unsent}");
        assert_eq!(unsent, 250, "the chunks after the lost one");
        assert!(client.services().unwrap().is_empty());

        // Later answers are not mistaken for earlier ones.
        let service = Service::new(numbered(1), Scheduler::Rr);
        client.execute(&Command::AddService(service)).unwrap();
    });
}

/// While virtual servers of another namespace come and go in front of ours, none of ours is passed over.
#[test]
fn another_namespace_does_not_hide_virtual_servers() {
    const OURS: u16 = 1000;
    in_namespace("another_namespace_does_not_hide_virtual_servers", |client| {
        execute(client, &table(OURS, 0));
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let other = scope.spawn(|| {
                let mut changes = 0;
                nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
                let mut other = ipvs::Client::connect().unwrap();
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    execute(&mut other, &table(200, 0));
                    other.execute(&Command::Flush).unwrap();
                    changes += 1;
                    std::thread::sleep(Duration::from_millis(20));
                }
                changes
            });
            let seen: Vec<usize> = (0..10).map(|_| client.services().unwrap().len()).collect();
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            assert!(other.join().unwrap() > 0);
            assert!(seen.iter().all(|seen| *seen == usize::from(OURS)), "{seen:?}");
        });
    });
}
