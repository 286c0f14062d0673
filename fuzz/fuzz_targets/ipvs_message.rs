//! Any bytes as a message of the generic netlink family `IPVS`: no panic, and what is understood is written and
//! understood the same again.
#![no_main]

use ipvs::message::{Attribute, IpvsMessage};
use ipvs::{AddressFamily, Command, Daemon, DestinationEntry, ServiceEntry};
use libfuzzer_sys::fuzz_target;
use netlink_packet_core::{Emitable, ParseableParametrized};
use netlink_packet_generic::{GenlHeader, GenlMessage};

fn decode(bytes: &[u8]) -> Option<IpvsMessage> {
    let header = GenlHeader::parse(bytes).ok()?;
    IpvsMessage::parse_with_param(bytes.get(4..)?, header).ok()
}

fn encode(message: IpvsMessage) -> Vec<u8> {
    let message = GenlMessage::from_payload(message);
    let mut bytes = vec![0; message.buffer_len()];
    message.emit(&mut bytes);
    bytes
}

fuzz_target!(|bytes: &[u8]| {
    let Some(message) = decode(bytes) else { return };
    let written = encode(message.clone());
    let again = decode(&written).expect("our own bytes");
    assert_eq!(encode(again), written);

    if let Ok(command) = Command::from_message(&message) {
        let same = decode(&encode(command.to_message())).expect("our own bytes");
        assert_eq!(Command::from_message(&same).expect("our own command"), command);
        let _ = command.to_string();
    }
    for attribute in message.attributes {
        match attribute {
            Attribute::Service(attributes) => drop(ServiceEntry::from_attributes(attributes)),
            Attribute::Destination(attributes) => {
                drop(DestinationEntry::from_attributes(attributes, AddressFamily::Ipv4));
            }
            Attribute::Daemon(attributes) => drop(Daemon::from_attributes(&attributes)),
            _ => {}
        }
    }
});
