//! What a master tells its backups of connections: messages of version 1 of IPVS's synchronisation protocol, as a kernel
//! with a backup [`Daemon`](crate::Daemon) takes them (`ip_vs_process_message` in `net/netfilter/ipvs/ip_vs_sync.c`).
//!
//! There is no other way into the kernel's connection table. A connection that it has already is changed: its timer begins
//! anew with the timeout that is told. One that it does not have is added. Where one is told as active and with another
//! destination than the kernel has, what it has ends at once, and the other one takes its place (`ip_vs_proc_conn`).

use std::net::IpAddr;

use crate::connections::{Connection, TcpState};

/// `IP_VS_CONN_F_INACTIVE`: it counts among those that are not established.
const INACTIVE: u32 = 0x0100;
/// `STYPE_F_INET6`
const INET6: u8 = 1;
/// `SYNC_PROTO_VER`
const VERSION: u8 = 1;
/// `struct ip_vs_sync_mesg`
const HEADER: usize = 8;

/// What is told of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    /// The connection.
    pub connection: Connection,
    /// How many seconds it is to be remembered if nothing comes. 0 leaves that to the kernel.
    pub timeout: u32,
    /// Whether it counts among those that are established. One that does takes the place of what the kernel has of the same
    /// client and virtual server with another destination, whatever its state; one that does not is ignored then.
    pub active: bool,
}

/// The messages that tell connections to backups with this number (1 to 255), none longer than `longest` bytes: the largest
/// payload that the [`Daemon`](crate::Daemon) takes. A connection whose addresses are of two families can't be told and is
/// left out, and so is one for which there is no room in an empty message.
#[must_use]
pub fn messages(sync_id: u8, longest: u16, connections: &[Told]) -> Vec<Vec<u8>> {
    let mut messages: Vec<Vec<u8>> = Vec::new();
    let mut told = 0_u8;
    for entry in connections.iter().filter_map(encode) {
        if HEADER + entry.len() > usize::from(longest) {
            continue;
        }
        let fits = |message: &Vec<u8>| told < u8::MAX && message.len() + entry.len() <= usize::from(longest);
        if !messages.last().is_some_and(fits) {
            messages.push(vec![0, sync_id, 0, 0, 0, VERSION, 0, 0]);
            told = 0;
        }
        told += 1;
        if let Some(message) = messages.last_mut() {
            message.extend(entry);
            finish(message, told);
        }
    }
    messages
}

/// Enters length and number of connections.
fn finish(message: &mut [u8], told: u8) {
    // No message is longer than `longest`.
    let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
    if let [_, _, high, low, count, ..] = message {
        [*high, *low] = length.to_be_bytes();
        *count = told;
    }
}

/// `struct ip_vs_sync_v4` or `struct ip_vs_sync_v6`
fn encode(Told { connection, timeout, active }: &Told) -> Option<Vec<u8>> {
    let Connection { protocol, client, server, destination, state, .. } = connection;
    let mut addresses = Vec::with_capacity(48);
    for address in [client.ip(), server.ip(), destination.ip()] {
        match address {
            IpAddr::V4(address) => addresses.extend(address.octets()),
            IpAddr::V6(address) => addresses.extend(address.octets()),
        }
    }
    let kind = match addresses.len() {
        12 => 0,
        48 => INET6,
        _ => return None,
    };
    let flags = if *active { 0 } else { INACTIVE };
    let mut entry = vec![kind, protocol.number().try_into().ok()?];
    // Four bits of version, which is 0, and the length.
    entry.extend(u16::try_from(24 + addresses.len()).ok()?.to_be_bytes());
    entry.extend(flags.to_be_bytes());
    for word in [state.map_or(0, TcpState::number), client.port(), server.port(), destination.port()] {
        entry.extend(word.to_be_bytes());
    }
    // No firewall mark.
    entry.extend(0_u32.to_be_bytes());
    entry.extend(timeout.to_be_bytes());
    entry.extend(addresses);
    Some(entry)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Protocol;

    fn connection(client: &str, server: &str, destination: &str, state: TcpState) -> Connection {
        let [client, server, destination] = [client, server, destination].map(|place| place.parse().unwrap());
        Connection { protocol: Protocol::Tcp, client, server, destination, state: Some(state), expires: 0 }
    }

    fn told(connection: Connection, timeout: u32) -> Told {
        Told { connection, timeout, active: connection.state == Some(TcpState::Established) }
    }

    #[test]
    fn a_message_is_what_the_kernel_reads() {
        let over = connection("203.0.113.2:41000", "172.30.0.20:80", "10.180.0.2:8080", TcpState::Close);
        let entry = b"\x00\x06\x00\x24\x00\x00\x01\x00\x00\x06\xa0\x28\x00\x50\x1f\x90\x00\x00\x00\x00\x00\x00\x00\x01\
                      \xcb\x00\x71\x02\xac\x1e\x00\x14\x0a\xb4\x00\x02";
        let header = b"\x00\x4d\x00\x2c\x01\x01\x00\x00";
        assert_eq!(messages(77, 1472, &[told(over, 1)]), [[&header[..], entry].concat()]);
        let open = connection("[fd00::2]:41000", "[fd00::1]:80", "[fd00::3]:8080", TcpState::Established);
        let [message] = messages(77, 1472, &[told(open, 300)]).try_into().unwrap();
        assert_eq!(message.len(), 8 + 72);
        assert_eq!(
            message[8..32],
            *b"\x01\x06\x00\x48\x00\x00\x00\x00\x00\x01\xa0\x28\x00\x50\x1f\x90\x00\x00\x00\x00\x00\x00\x01\x2c"
        );
    }

    #[test]
    fn no_message_is_too_long_and_none_has_too_many() {
        let over = connection("203.0.113.2:41000", "172.30.0.20:80", "10.180.0.2:8080", TcpState::Close);
        let lengths = |longest, count| {
            let messages = messages(1, longest, &vec![told(over, 1); count]);
            messages.iter().map(|message| (message.len(), message[4])).collect::<Vec<_>>()
        };
        assert_eq!(lengths(80, 3), [(80, 2), (44, 1)]);
        assert_eq!(lengths(79, 2), [(44, 1), (44, 1)]);
        assert_eq!(lengths(u16::MAX, 256), [(8 + 255 * 36, 255), (44, 1)]);
        assert_eq!(lengths(43, 2), []);
        let mixed = connection("203.0.113.2:41000", "[fd00::1]:80", "10.180.0.2:8080", TcpState::Close);
        assert!(messages(1, 1472, &[told(mixed, 1)]).is_empty());
    }
}
