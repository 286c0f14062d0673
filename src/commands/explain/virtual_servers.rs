//! What IPVS does with a packet: the virtual server that it finds (`ip_vs_service_find`), its destinations, its
//! persistence templates.

use iptables::tracer::{Balancing, Packet};
use ipvs::{AddressFamily, Client, ServiceEntry, ServiceFlags, ServiceId, proc, templates};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

/// The kernel's IPVS, if it is loaded, and what of it counted.
#[derive(Debug)]
pub struct VirtualServers {
    client: Option<RefCell<Client>>,
    /// Persistence of the virtual server that was found, in seconds.
    pub persistence: Cell<Option<u32>>,
    /// The endpoint with which the client stays.
    pub sticks_to: Cell<Option<SocketAddr>>,
    doubts: RefCell<BTreeSet<String>>,
}

impl VirtualServers {
    /// Opens it. To ask over netlink would load the module, so the file is looked at first.
    pub fn open() -> Self {
        let mut doubts = BTreeSet::new();
        let client = Path::new(proc::PATH).exists().then(Client::connect).and_then(|opened| {
            opened.map_err(|error| doubts.insert(format!("the IPVS table could not be read: {error}"))).ok()
        });
        Self {
            client: client.map(RefCell::new),
            persistence: Cell::new(None),
            sticks_to: Cell::new(None),
            doubts: RefCell::new(doubts),
        }
    }

    /// What could not be read.
    pub fn doubts(&self) -> Vec<String> {
        self.doubts.borrow().iter().cloned().collect()
    }

    /// Whether the kernel has any virtual server.
    pub fn any(&self) -> bool {
        let Some(client) = &self.client else { return false };
        let mut any = false;
        let read = client.borrow_mut().for_each_service(|_| any = true);
        read.is_ok() && any
    }

    /// What IPVS does with a packet; `None`: it does not look at it.
    pub fn balance(&self, packet: &Packet) -> Option<Balancing> {
        let client = self.client.as_ref()?;
        let asked = answer(&mut client.borrow_mut(), packet);
        match asked {
            Ok(None) => None,
            Ok(Some((entry, destinations))) => Some(self.chosen(packet, &entry, destinations)),
            Err(error) => {
                self.doubts.borrow_mut().insert(format!("the IPVS table could not be read: {error}"));
                None
            }
        }
    }

    fn chosen(&self, packet: &Packet, entry: &ServiceEntry, destinations: Vec<(SocketAddr, f64)>) -> Balancing {
        let service = &entry.service;
        let mut server = format!("{} {}", service.id, service.scheduler);
        if service.flags.contains(ServiceFlags::PERSISTENT) {
            server += &format!(" persistent {} s", service.persistence_timeout);
            self.persistence.set(Some(service.persistence_timeout));
            self.sticks_to.set(template(packet));
        }
        let all: f64 = destinations.iter().map(|(_, weight)| weight).sum();
        let destinations = destinations.into_iter().filter(|(_, weight)| *weight > 0.0);
        Balancing { server, destinations: destinations.map(|(address, weight)| (address, weight / all)).collect() }
    }
}

type Found = (ServiceEntry, Vec<(SocketAddr, f64)>);

/// By firewall mark, by address and port, by address alone: the order in which the kernel looks.
fn answer(client: &mut Client, packet: &Packet) -> Result<Option<Found>, ipvs::Error> {
    let family = AddressFamily::of(&packet.destination);
    let by_address = |port| ServiceId::new(ipvs_protocol(packet), packet.destination, port);
    let by_mark = (packet.mark != 0).then(|| ServiceId::fwmark(packet.mark, family));
    for id in by_mark.into_iter().chain([by_address(packet.destination_port), by_address(0)]) {
        let Some(entry) = client.service(&id)? else { continue };
        let found = client.destinations(&id)?;
        // All the same for schedulers that take weights for a yes or no, which is most of them.
        let weighted = matches!(entry.service.scheduler.to_string().as_str(), "wrr" | "wlc" | "sed" | "nq" | "mh");
        let share = |weight: u32| if weighted { f64::from(weight) } else { f64::from(weight.min(1)) };
        let destinations =
            found.iter().map(|found| (found.destination.socket_address(), share(found.destination.weight))).collect();
        return Ok(Some((entry, destinations)));
    }
    Ok(None)
}

fn ipvs_protocol(packet: &Packet) -> ipvs::Protocol {
    ipvs::Protocol::from_number(packet.protocol.number().into())
}

/// The destination with which the client stays.
fn template(packet: &Packet) -> Option<SocketAddr> {
    let server = SocketAddr::new(packet.destination, packet.destination_port);
    let own = |found: &&templates::Template| {
        let client: IpAddr = packet.source;
        (found.client, found.server, found.protocol) == (client, server, ipvs_protocol(packet))
    };
    // Without the file there are none.
    templates::read(templates::PATH).ok()?.iter().find(own).map(|found| found.destination)
}
