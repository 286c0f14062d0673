//! Whether a packet is in a set of the kernel's. Each set is read once.

use crate::kernel::ipset::{Client, Entry, Protocol};
use ipnet::IpNet;
use iptables::SetDir;
use iptables::tracer::{Packet, SetEntry};
use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

/// The sets that were asked for.
#[derive(Debug, Default)]
pub struct Sets {
    client: RefCell<Option<Client>>,
    known: RefCell<HashMap<String, Set>>,
    doubts: RefCell<BTreeSet<String>>,
}

#[derive(Debug, Default)]
struct Set {
    whole: HashSet<Entry>,
    /// Entries with a network in them.
    nets: Vec<Entry>,
}

impl Sets {
    /// What a set knows of a packet; the directions say which of its addresses and ports count.
    pub fn find(&self, name: &str, packet: &Packet, dirs: &[SetDir]) -> Option<SetEntry> {
        let mut known = self.known.borrow_mut();
        let set = known.entry(name.to_owned()).or_insert_with(|| self.read(name));
        set.holds(packet, dirs).then_some(SetEntry { mark: None })
    }

    /// Sets that could not be read.
    pub fn doubts(&self) -> Vec<String> {
        self.doubts.borrow().iter().cloned().collect()
    }

    fn read(&self, name: &str) -> Set {
        let mut set = Set::default();
        let mut client = self.client.borrow_mut();
        let opened = match &mut *client {
            Some(client) => Ok(client),
            None => Client::open().map(|opened| client.insert(opened)),
        };
        let read = opened.and_then(|client| {
            client.each_entry(name, |found| match found.entry {
                entry @ (Entry::Net(_) | Entry::NetPort { .. } | Entry::IpPortNet { .. }) => set.nets.push(entry),
                entry => drop(set.whole.insert(entry)),
            })
        });
        if let Err(error) = read {
            self.doubts.borrow_mut().insert(format!("set {name} could not be read: {error}"));
        }
        set
    }
}

impl Set {
    fn holds(&self, packet: &Packet, dirs: &[SetDir]) -> bool {
        let place = |dir: Option<&SetDir>| match dir {
            Some(SetDir::Src) => (packet.source, packet.source_port),
            _ => (packet.destination, packet.destination_port),
        };
        let (address, port) = (place(dirs.first()).0, place(dirs.get(1)).1);
        let second = place(dirs.get(2)).0;
        let protocol = Protocol(packet.protocol.number());
        let whole = [
            Entry::Ip(address),
            Entry::IpPort { address, protocol, port },
            Entry::IpPortIp { address, protocol, port, second },
            Entry::Port(port),
        ];
        // An entry without an exception is what sets of networks mostly hold: of 32 bits, or of 128.
        let within = |net: &IpNet, ip: IpAddr| net.contains(&ip);
        whole.iter().any(|entry| self.whole.contains(entry))
            || self.nets.iter().any(|entry| match entry {
                Entry::Net(net) => within(net, address),
                Entry::NetPort { net, protocol: of, port: number } => {
                    within(net, address) && *of == protocol && *number == port
                }
                Entry::IpPortNet { address: at, protocol: of, port: number, net } => {
                    *at == address && *of == protocol && *number == port && within(net, second)
                }
                _ => false,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;

    #[test]
    fn entries_of_every_kind() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let packet = Packet::new(iptables::Protocol::Tcp, at("203.0.113.9:4000"), at("172.30.0.10:80"));
        let address = packet.destination;
        let (dst, src) = (SetDir::Dst, SetDir::Src);
        let with = |entries: &[Entry], dirs: &[SetDir]| {
            let set = Set { whole: entries.iter().copied().collect(), nets: entries.to_vec() };
            set.holds(&packet, dirs)
        };
        let tcp = Protocol::TCP;
        assert!(with(&[Entry::IpPort { address, protocol: tcp, port: 80 }], &[dst, dst]));
        assert!(!with(&[Entry::IpPort { address, protocol: Protocol::UDP, port: 80 }], &[dst, dst]));
        let net = "203.0.113.0/24".parse().unwrap();
        assert!(with(&[Entry::IpPortNet { address, protocol: tcp, port: 80, net }], &[dst, dst, src]));
        assert!(!with(&[Entry::IpPortNet { address, protocol: tcp, port: 80, net }], &[dst, dst, dst]));
        assert!(with(&[Entry::Net("172.30.0.0/16".parse().unwrap())], &[dst]));
        assert!(!with(&[Entry::Net("172.30.0.0/16".parse().unwrap())], &[src]));
    }
}
