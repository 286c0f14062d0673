//! ipset over nfnetlink, compared with what `ipset` prints.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use kube_ipvs::kernel::IpFamily;
use kube_ipvs::kernel::ipset::{
    Client, Entry, EntryWithMark, IpsetError, Mark, Protocol, Reason, SetCommand, SetSpec, SetType,
};

use crate::{Feature, in_namespace, run, skip};

fn with_client(test: impl FnOnce(Client) + Send + 'static) {
    in_namespace(|| match Client::open() {
        Ok(client) => test(client),
        Err(error) if *error.reason() == Reason::Unavailable => skip(Feature::Iptables, &error.to_string()),
        Err(error) => panic!("{error}"),
    });
}

fn add(set: &str, entry: impl Into<EntryWithMark>) -> SetCommand {
    SetCommand::Add { set: set.to_owned(), entry: entry.into() }
}

fn address(number: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(0x0a60_0000 + number))
}

fn succeed(results: Vec<Result<(), IpsetError>>) {
    for result in results {
        result.unwrap();
    }
}

/// The lines of `ipset save` that add entries, without the command and the counters.
fn saved(set: &str) -> BTreeSet<String> {
    let prefix = format!("add {set} ");
    run("ipset", &["save", set])
        .lines()
        .filter_map(|line| line.strip_prefix(&prefix))
        .map(|line| line.replace(" packets 0 bytes 0", ""))
        .collect()
}

#[test]
fn ten_thousand_entries_are_added_listed_and_deleted() {
    with_client(|mut client| {
        client.create(&SetSpec::new("KUBE-TEST", SetType::HashIpPort, IpFamily::V4).with_marks()).unwrap();
        let protocols = [Protocol::TCP, Protocol::UDP, Protocol::SCTP];
        let mut wanted: Vec<EntryWithMark> = (0..10_000u32)
            .map(|number| {
                let port = 1 + u16::try_from(number % 7).unwrap();
                let entry =
                    Entry::IpPort { address: address(number / 5), protocol: protocols[number as usize % 3], port };
                EntryWithMark { entry, mark: (number % 2 == 0).then_some(Mark { value: number, mask: 0xffff }) }
            })
            .collect();
        wanted.sort_unstable();
        let commands: Vec<SetCommand> = wanted.iter().map(|entry| add("KUBE-TEST", *entry)).collect();
        let start = Instant::now();
        succeed(client.batch(&commands));
        let added = start.elapsed();
        let mut found = client.entries("KUBE-TEST").unwrap();
        eprintln!("10,000 entries: added in {added:?}, listed in {:?}", start.elapsed() - added);
        found.sort_unstable();
        // The kernel keeps only those bits of a mark that its mask covers.
        for entry in &mut wanted {
            entry.mark = entry.mark.filter(|mark| mark.mask != 0);
        }
        assert_eq!(found, wanted);
        assert_eq!(saved("KUBE-TEST"), wanted.iter().map(ToString::to_string).collect());
        let header = client.header("KUBE-TEST").unwrap().unwrap();
        assert!(header.serves_as(&SetSpec::new("KUBE-TEST", SetType::HashIpPort, IpFamily::V4).with_marks()));
        assert_eq!(header.elements, Some(10_000));
        let (some, rest) = wanted.split_at(4_000);
        let delete = |entry: &EntryWithMark| SetCommand::Delete { set: "KUBE-TEST".to_owned(), entry: entry.entry };
        succeed(client.batch(&some.iter().map(delete).collect::<Vec<_>>()));
        let mut found = client.entries("KUBE-TEST").unwrap();
        found.sort_unstable();
        assert_eq!(found, rest);
    });
}

#[test]
fn every_type_and_family_holds_what_ipset_prints() {
    with_client(|mut client| {
        let (v4, v4b, v6, v6b) = (address(1), address(2), "fd00::1".parse().unwrap(), "fd00::2".parse().unwrap());
        let (protocol, port) = (Protocol::UDP, 53);
        let net = |text: &str| text.parse().unwrap();
        let sets: Vec<(SetType, IpFamily, Vec<Entry>)> = vec![
            (SetType::HashIp, IpFamily::V4, vec![Entry::Ip(v4)]),
            (SetType::HashIp, IpFamily::V6, vec![Entry::Ip(v6)]),
            (SetType::HashIpPort, IpFamily::V6, vec![Entry::IpPort { address: v6, protocol, port }]),
            (SetType::HashIpPortIp, IpFamily::V4, vec![Entry::IpPortIp { address: v4, protocol, port, second: v4b }]),
            (SetType::HashIpPortIp, IpFamily::V6, vec![Entry::IpPortIp { address: v6, protocol, port, second: v6b }]),
            (
                SetType::HashIpPortNet,
                IpFamily::V4,
                vec![
                    Entry::IpPortNet { address: v4, protocol, port, net: net("10.2.0.0/16") },
                    Entry::IpPortNet { address: v4, protocol, port, net: net("10.3.0.1/32") },
                ],
            ),
            (
                SetType::HashIpPortNet,
                IpFamily::V6,
                vec![Entry::IpPortNet { address: v6, protocol, port, net: net("fd01::/64") }],
            ),
            (SetType::HashNet, IpFamily::V4, vec![Entry::Net(net("10.2.0.0/16")), Entry::Net(net("10.9.9.9/32"))]),
            (SetType::HashNet, IpFamily::V6, vec![Entry::Net(net("fd01::/64"))]),
            (
                SetType::HashNetPort,
                IpFamily::V4,
                vec![
                    Entry::NetPort { net: net("10.2.0.0/16"), protocol, port },
                    Entry::NetPort { net: net("10.3.0.1/32"), protocol, port },
                ],
            ),
            (SetType::BitmapPort, IpFamily::V4, vec![Entry::Port(0), Entry::Port(80), Entry::Port(65535)]),
        ];
        for (number, (set_type, family, entries)) in sets.iter().enumerate() {
            let name = format!("T{number:02}");
            let spec = SetSpec::new(&name, *set_type, *family);
            client.create(&spec).unwrap();
            succeed(client.batch(&entries.iter().map(|entry| add(&name, *entry)).collect::<Vec<_>>()));
            let mut found: Vec<Entry> = client.entries(&name).unwrap().into_iter().map(|found| found.entry).collect();
            found.sort_unstable();
            assert_eq!(&found, entries, "{set_type} {family}");
            assert_eq!(saved(&name), entries.iter().map(ToString::to_string).collect(), "{set_type} {family}");
            let header = client.header(&name).unwrap().unwrap();
            assert!(header.serves_as(&spec), "{header:?} for {spec}");
            assert!(run("ipset", &["save", &name]).starts_with(&format!("create {}", spec)), "{spec}");
        }
        let mut names: Vec<String> = client.list().unwrap().into_iter().map(|header| header.name).collect();
        names.sort();
        assert_eq!(names, (0..sets.len()).map(|number| format!("T{number:02}")).collect::<Vec<_>>());
    });
}

#[test]
fn refusals_name_the_command_and_the_reason_and_stop_nothing() {
    with_client(|mut client| {
        let spec = SetSpec { max_elements: 4, ..SetSpec::new("SMALL", SetType::HashIp, IpFamily::V4) };
        client.create(&spec).unwrap();
        client.create(&SetSpec::new("PORTS", SetType::BitmapPort, IpFamily::V4)).unwrap();
        let entry = Entry::Ip(address(1));
        let delete = |number| SetCommand::Delete { set: "SMALL".to_owned(), entry: Entry::Ip(address(number)) };
        let marked = EntryWithMark { entry: Entry::Ip(address(2)), mark: Some(Mark { value: 1, mask: 1 }) };
        let swap = |from: &str, to: &str| SetCommand::Swap(from.to_owned(), to.to_owned());
        let cases = [
            (add("SMALL", entry), None),
            (add("SMALL", entry), Some(Reason::Entry)),
            (SetCommand::Put { set: "SMALL".to_owned(), entry: entry.into() }, None),
            (delete(9), Some(Reason::Entry)),
            (add("NONE", entry), Some(Reason::NoSuchSet)),
            (add("SMALL", Entry::Ip("fd00::1".parse().unwrap())), Some(Reason::Protocol)),
            (add("SMALL", marked), Some(Reason::NoMarks)),
            (SetCommand::Create(spec.clone()), Some(Reason::SetExists)),
            (SetCommand::Create(SetSpec { name: "X".repeat(32), ..spec.clone() }), Some(Reason::NameTooLong)),
            (SetCommand::Destroy("NONE".to_owned()), Some(Reason::NoSuchSet)),
            (swap("SMALL", "PORTS"), Some(Reason::TypeMismatch)),
            (swap("SMALL", "NONE"), Some(Reason::SecondName)),
            (swap("NONE", "SMALL"), Some(Reason::NoSuchSet)),
            (delete(1), None),
        ];
        let commands: Vec<SetCommand> = cases.iter().map(|(command, _)| command.clone()).collect();
        for (result, (command, reason)) in client.batch(&commands).into_iter().zip(cases) {
            assert_eq!(result.as_ref().err().map(IpsetError::reason), reason.as_ref(), "{command}");
            if let Err(error) = &result {
                assert!(error.to_string().starts_with(&format!("ipset {command}: ")), "{error}");
            }
        }
        let full = client.batch(&(0..200).map(|number| add("SMALL", Entry::Ip(address(number)))).collect::<Vec<_>>());
        assert!(full.iter().any(|result| result.as_ref().is_err_and(|error| *error.reason() == Reason::Full)));
        let error = client.entries("NONE").unwrap_err();
        assert!(error.is_already_gone(), "{error}");
        assert_eq!(client.header("NONE").unwrap(), None);
    });
}

#[test]
fn marks_are_changed_in_place_and_sets_are_swapped_renamed_and_destroyed() {
    with_client(|mut client| {
        let spec = |name: &str| SetSpec::new(name, SetType::HashIpPort, IpFamily::V4).with_marks();
        client.create(&spec("ONE")).unwrap();
        client.create(&spec("TWO")).unwrap();
        let entry = Entry::IpPort { address: address(1), protocol: Protocol::TCP, port: 80 };
        let with = |value| EntryWithMark { entry, mark: Some(Mark { value, mask: u32::MAX }) };
        let put = |value| SetCommand::Put { set: "ONE".to_owned(), entry: with(value) };
        succeed(client.batch(&[put(1), put(2)]));
        assert_eq!(client.entries("ONE").unwrap(), [with(2)]);
        client.swap("ONE", "TWO").unwrap();
        assert_eq!((client.entries("ONE").unwrap(), client.entries("TWO").unwrap()), (vec![], vec![with(2)]));
        client.rename("TWO", "THREE").unwrap();
        client.flush("THREE").unwrap();
        assert_eq!(client.entries("THREE").unwrap(), []);
        client.destroy("THREE").unwrap();
        client.destroy("ONE").unwrap();
        assert!(client.list().unwrap().is_empty());
        let gone = client.destroy("ONE").unwrap_err();
        assert!(gone.is_already_gone(), "{gone}");
    });
}
