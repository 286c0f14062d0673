//! The entries of a set, as little of each as there has to be: there is one for every endpoint of every service port, and nearly
//! all are an address and a port.

use crate::kernel::ipset::{Entry, Protocol};
use foldhash::HashSet;
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The entries of a set of ours.
#[derive(Debug, Clone, Default)]
pub struct Entries {
    /// [`Entry::IpPort`].
    ports: Ports,
    /// [`Entry::IpPortIp`] with the same address twice: an endpoint that talks to itself.
    hairpins: Ports,
    others: HashSet<Entry>,
}

/// Addresses with a port and its protocol.
#[derive(Debug, Clone, Default)]
struct Ports {
    v4: HashSet<(Ipv4Addr, u16, Protocol)>,
    v6: HashSet<(Ipv6Addr, u16, Protocol)>,
}

/// How an entry is kept.
enum Form {
    Port(IpAddr, u16, Protocol),
    Hairpin(IpAddr, u16, Protocol),
    Other(Entry),
}

impl Form {
    fn of(entry: &Entry) -> Self {
        match *entry {
            Entry::IpPort { address, protocol, port } => Self::Port(address, port, protocol),
            Entry::IpPortIp { address, protocol, port, second } if address == second => {
                Self::Hairpin(address, port, protocol)
            }
            other => Self::Other(other),
        }
    }
}

impl Ports {
    fn contains(&self, address: IpAddr, port: u16, protocol: Protocol) -> bool {
        match address {
            IpAddr::V4(address) => self.v4.contains(&(address, port, protocol)),
            IpAddr::V6(address) => self.v6.contains(&(address, port, protocol)),
        }
    }

    fn insert(&mut self, address: IpAddr, port: u16, protocol: Protocol) -> bool {
        match address {
            IpAddr::V4(address) => self.v4.insert((address, port, protocol)),
            IpAddr::V6(address) => self.v6.insert((address, port, protocol)),
        }
    }

    fn remove(&mut self, address: IpAddr, port: u16, protocol: Protocol) -> bool {
        match address {
            IpAddr::V4(address) => self.v4.remove(&(address, port, protocol)),
            IpAddr::V6(address) => self.v6.remove(&(address, port, protocol)),
        }
    }

    fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    fn iter(&self) -> impl Iterator<Item = (IpAddr, u16, Protocol)> {
        fn widened<A: Copy + Into<IpAddr> + Hash>(
            ports: &HashSet<(A, u16, Protocol)>,
        ) -> impl Iterator<Item = (IpAddr, u16, Protocol)> {
            ports.iter().map(|(address, port, protocol)| ((*address).into(), *port, *protocol))
        }
        widened(&self.v4).chain(widened(&self.v6))
    }
}

impl Entries {
    /// Whether an entry is there.
    pub fn contains(&self, entry: &Entry) -> bool {
        match Form::of(entry) {
            Form::Port(address, port, protocol) => self.ports.contains(address, port, protocol),
            Form::Hairpin(address, port, protocol) => self.hairpins.contains(address, port, protocol),
            Form::Other(entry) => self.others.contains(&entry),
        }
    }

    /// Puts an entry in; `false` if it was there.
    pub fn insert(&mut self, entry: Entry) -> bool {
        match Form::of(&entry) {
            Form::Port(address, port, protocol) => self.ports.insert(address, port, protocol),
            Form::Hairpin(address, port, protocol) => self.hairpins.insert(address, port, protocol),
            Form::Other(entry) => self.others.insert(entry),
        }
    }

    /// Takes an entry out; `false` if it was not there.
    pub fn remove(&mut self, entry: &Entry) -> bool {
        match Form::of(entry) {
            Form::Port(address, port, protocol) => self.ports.remove(address, port, protocol),
            Form::Hairpin(address, port, protocol) => self.hairpins.remove(address, port, protocol),
            Form::Other(entry) => self.others.remove(&entry),
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ports.len() + self.hairpins.len() + self.others.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = Entry> {
        let port = |(address, port, protocol)| Entry::IpPort { address, protocol, port };
        let hairpin = |(address, port, protocol)| Entry::IpPortIp { address, protocol, port, second: address };
        self.ports.iter().map(port).chain(self.hairpins.iter().map(hairpin)).chain(self.others.iter().copied())
    }
}

impl FromIterator<Entry> for Entries {
    fn from_iter<I: IntoIterator<Item = Entry>>(entries: I) -> Self {
        let mut all = Self::default();
        for entry in entries {
            all.insert(entry);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn each_entry_is_what_it_was() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let mut all = BTreeSet::new();
        for address in [ip("10.0.0.1"), ip("10.0.0.2"), ip("fd00::1")] {
            for (protocol, port) in [(Protocol::TCP, 80), (Protocol::UDP, 80), (Protocol::TCP, 81)] {
                all.insert(Entry::IpPort { address, protocol, port });
                all.insert(Entry::IpPortIp { address, protocol, port, second: address });
                all.insert(Entry::IpPortIp { address, protocol, port, second: ip("10.0.0.1") });
                all.insert(Entry::IpPortNet { address, protocol, port, net: "10.0.0.0/8".parse().unwrap() });
            }
            all.insert(Entry::Ip(address));
            all.insert(Entry::Net(address.into()));
        }
        all.insert(Entry::Port(80));
        let mut entries: Entries = all.iter().copied().collect();
        assert_eq!((entries.len(), entries.iter().collect::<BTreeSet<_>>()), (all.len(), all.clone()));
        for entry in &all {
            assert!(entries.contains(entry) && !entries.insert(*entry), "{entry}");
            assert!(entries.remove(entry) && !entries.contains(entry) && !entries.remove(entry), "{entry}");
        }
        assert!(entries.is_empty() && entries.iter().next().is_none());
    }
}
