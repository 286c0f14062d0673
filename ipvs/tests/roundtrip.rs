//! Any value survives the wire, unknown attributes among it, and no bytes make the decoder panic.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]

use std::net::IpAddr;

use ipvs::message::{Attribute, DestinationAttribute, IpvsCommand, IpvsMessage, ServiceAttribute};
use ipvs::{
    AddressFamily, Command, Daemon, DaemonState, Destination, DestinationEntry, ForwardMethod, Netmask, Protocol,
    Scheduler, Service, ServiceEntry, ServiceFlags, ServiceId, Stats, Timeouts, Tunnel, TunnelFlags, TunnelKind,
};
use netlink_packet_core::{DecodeError, DefaultNla, Emitable, NetlinkMessage, ParseableParametrized};
use netlink_packet_generic::{GenlHeader, GenlMessage};
use proptest::prelude::*;

fn encode(message: IpvsMessage) -> Vec<u8> {
    let message = GenlMessage::from_payload(message);
    let mut bytes = vec![0; message.buffer_len()];
    message.emit(&mut bytes);
    bytes
}

fn decode(bytes: &[u8]) -> Result<IpvsMessage, DecodeError> {
    let header = GenlHeader::parse(bytes)?;
    IpvsMessage::parse_with_param(&bytes[4..], header)
}

fn family() -> impl Strategy<Value = AddressFamily> {
    prop_oneof![Just(AddressFamily::Ipv4), Just(AddressFamily::Ipv6)]
}

fn service_id() -> impl Strategy<Value = ServiceId> {
    prop_oneof![
        (any::<u16>(), any::<IpAddr>(), any::<u16>()).prop_map(|(protocol, address, port)| ServiceId::new(
            Protocol::from_number(protocol),
            address,
            port
        )),
        (any::<u32>(), family()).prop_map(|(mark, family)| ServiceId::fwmark(mark, family)),
    ]
}

fn service() -> impl Strategy<Value = Service> {
    let name = "[!-~]{1,15}";
    (service_id(), name, any::<u32>(), any::<u32>(), any::<u32>(), proptest::option::of("[a-z0-9]{1,15}")).prop_map(
        |(id, scheduler, flags, persistence_timeout, netmask, pe_name)| Service {
            id,
            scheduler: scheduler.parse().unwrap(),
            flags: ServiceFlags::from_bits_retain(flags) - ServiceFlags::HASHED,
            persistence_timeout,
            netmask: match id.family() {
                AddressFamily::Ipv4 => Netmask::Ipv4(netmask.into()),
                AddressFamily::Ipv6 => Netmask::Ipv6(netmask),
            },
            pe_name,
        },
    )
}

fn destination() -> impl Strategy<Value = Destination> {
    let tunnel = (any::<u8>(), any::<u16>(), any::<u16>()).prop_map(|(kind, port, flags)| Tunnel {
        kind: TunnelKind::from_number(kind),
        port,
        flags: TunnelFlags::from_bits_retain(flags),
    });
    let tunnel = prop_oneof![Just(Tunnel::default()), tunnel];
    (any::<IpAddr>(), any::<u16>(), any::<u32>(), any::<u32>(), any::<(u32, u32)>(), tunnel).prop_map(
        |(address, port, forward, weight, (upper_threshold, lower_threshold), tunnel)| Destination {
            address,
            port,
            forward: ForwardMethod::from_connection_flags(forward),
            weight,
            upper_threshold,
            lower_threshold,
            tunnel,
        },
    )
}

fn daemon() -> impl Strategy<Value = Daemon> {
    let numbers = (any::<u32>(), any::<u32>());
    let options = any::<(Option<u16>, Option<IpAddr>, Option<u16>, Option<u8>)>();
    (numbers, "[a-z0-9.]{1,15}", options).prop_map(|((state, sync_id), interface, (max_length, group, port, ttl))| {
        let state = DaemonState::from_number(state);
        Daemon { max_length, group, port, ttl, ..Daemon::new(state, interface, sync_id) }
    })
}

fn command() -> impl Strategy<Value = Command> {
    let timeouts = any::<(u32, u32, u32)>().prop_map(|(tcp, tcp_fin, udp)| Timeouts { tcp, tcp_fin, udp });
    prop_oneof![
        service().prop_map(Command::AddService),
        service().prop_map(Command::SetService),
        service_id().prop_map(Command::DeleteService),
        (service_id(), destination())
            .prop_map(|(service, destination)| Command::AddDestination { service, destination }),
        (service_id(), destination())
            .prop_map(|(service, destination)| Command::SetDestination { service, destination }),
        (service_id(), any::<IpAddr>(), any::<u16>()).prop_map(|(service, address, port)| Command::DeleteDestination {
            service,
            address,
            port
        }),
        proptest::option::of(service_id()).prop_map(Command::Zero),
        Just(Command::Flush),
        timeouts.prop_map(Command::SetTimeouts),
        daemon().prop_map(Command::StartDaemon),
        any::<u32>().prop_map(|state| Command::StopDaemon(DaemonState::from_number(state))),
    ]
}

fn stats() -> impl Strategy<Value = Stats> {
    any::<[u64; 10]>().prop_map(|numbers| Stats {
        connections: numbers[0],
        incoming_packets: numbers[1],
        outgoing_packets: numbers[2],
        incoming_bytes: numbers[3],
        outgoing_bytes: numbers[4],
        cps: numbers[5],
        inpps: numbers[6],
        outpps: numbers[7],
        inbps: numbers[8],
        outbps: numbers[9],
    })
}

/// Attributes of a kernel of the future.
fn unknown() -> impl Strategy<Value = Vec<DefaultNla>> {
    let one = (100u16..0x4000, proptest::collection::vec(any::<u8>(), 0..20));
    proptest::collection::vec(one.prop_map(|(kind, value)| DefaultNla::new(kind, value)), 0..4)
}

proptest! {
    #[test]
    fn commands_survive_the_wire(command in command()) {
        let bytes = encode(command.to_message());
        prop_assert_eq!(Command::from_message(&decode(&bytes).unwrap()).unwrap(), command);
    }

    /// There are two ways to the bytes; they lead to the same, behind whatever is there already.
    #[test]
    fn commands_are_written_as_their_messages(command in command(), family in any::<u16>(), before in 0..5usize) {
        let mut generic = GenlMessage::from_payload(command.to_message());
        generic.set_resolved_family_id(family);
        let mut message = NetlinkMessage::from(generic);
        message.header.flags = 0;
        message.finalize();
        let mut wanted = vec![0; message.buffer_len()];
        message.serialize(&mut wanted);
        let mut bytes = vec![7; before];
        command.append_to(&mut bytes, family);
        prop_assert_eq!(&bytes[before..], wanted);
    }

    #[test]
    fn service_entries_survive_the_wire(service in service(), stats in stats(), other in unknown()) {
        let mut attributes = service.to_attributes();
        attributes.extend(other.iter().cloned().map(ServiceAttribute::Other));
        attributes.push(ServiceAttribute::Stats64(stats.to_attributes()));
        let message = IpvsMessage { command: IpvsCommand::NewService, attributes: vec![Attribute::Service(attributes)] };
        let decoded = decode(&encode(message.clone())).unwrap();
        prop_assert_eq!(&decoded, &message);
        let Some(Attribute::Service(attributes)) = decoded.attributes.into_iter().next() else { panic!("no service") };
        let entry = ServiceEntry::from_attributes(attributes).unwrap();
        prop_assert_eq!(entry, ServiceEntry { kernel_flags: service.flags, service, stats, other });
    }

    #[test]
    fn destination_entries_survive_the_wire(
        destination in destination(), counts in any::<[u32; 3]>(), stats in stats(), other in unknown()
    ) {
        let mut attributes = destination.to_attributes();
        attributes.push(DestinationAttribute::ActiveConnections(counts[0]));
        attributes.push(DestinationAttribute::InactiveConnections(counts[1]));
        attributes.push(DestinationAttribute::PersistentConnections(counts[2]));
        attributes.extend(other.iter().cloned().map(DestinationAttribute::Other));
        attributes.push(DestinationAttribute::Stats64(stats.to_attributes()));
        let attributes = vec![Attribute::Destination(attributes)];
        let message = IpvsMessage { command: IpvsCommand::NewDest, attributes };
        let decoded = decode(&encode(message.clone())).unwrap();
        prop_assert_eq!(&decoded, &message);
        let Some(Attribute::Destination(attributes)) = decoded.attributes.into_iter().next() else {
            panic!("no destination")
        };
        let entry = DestinationEntry::from_attributes(attributes, AddressFamily::Ipv4).unwrap();
        let [active_connections, inactive_connections, persistent_connections] = counts;
        let wanted = DestinationEntry {
            destination, active_connections, inactive_connections, persistent_connections, stats, other,
        };
        prop_assert_eq!(entry, wanted);
    }

    /// Kernels before 3.18 do not send the family of a destination: it is the virtual server's.
    #[test]
    fn a_destination_without_a_family_has_the_services(destination in destination()) {
        let mut attributes = destination.to_attributes();
        attributes.retain(|attribute| !matches!(attribute, DestinationAttribute::Family(_)));
        prop_assert_eq!(Destination::from_attributes(&attributes, destination.family()).unwrap(), destination);
    }

    #[test]
    fn no_bytes_make_the_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        understand(&bytes);
    }

    /// As above, but most of it is a message.
    #[test]
    fn no_damage_makes_the_decoder_panic(
        command in command(), damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = encode(command.to_message());
        for (place, value) in damage {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        bytes.truncate(cut.index(bytes.len() + 1));
        understand(&bytes);
    }
}

/// Every way to make sense of a message.
fn understand(bytes: &[u8]) {
    let Ok(message) = decode(bytes) else { return };
    let again = encode(message.clone());
    assert_eq!(encode(decode(&again).unwrap()), again);
    if let Ok(command) = Command::from_message(&message) {
        let _ = command.to_string();
    }
    for attribute in message.attributes {
        match attribute {
            Attribute::Service(attributes) => drop(ServiceEntry::from_attributes(attributes)),
            Attribute::Destination(attributes) => {
                drop(DestinationEntry::from_attributes(attributes, AddressFamily::Ipv6));
            }
            Attribute::Daemon(attributes) => drop(Daemon::from_attributes(&attributes)),
            _ => {}
        }
    }
}

#[test]
fn without_stats64_the_narrow_counters_count() {
    let id = ServiceId::new(Protocol::Tcp, "10.0.0.1".parse().unwrap(), 80);
    let mut attributes = Service::new(id, Scheduler::Rr).to_attributes();
    let narrow = ipvs::message::StatsAttribute::Connections(ipvs::message::Counter::Narrow(5));
    attributes.push(ServiceAttribute::Stats(vec![narrow.clone()]));
    assert_eq!(ServiceEntry::from_attributes(attributes.clone()).unwrap().stats.connections, 5);
    let wide = ipvs::message::StatsAttribute::Connections(ipvs::message::Counter::Wide(1 << 33));
    attributes.insert(0, ServiceAttribute::Stats64(vec![wide]));
    assert_eq!(ServiceEntry::from_attributes(attributes).unwrap().stats.connections, 1 << 33);
}
