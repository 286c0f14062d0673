//! The kernel's IPVS as a [`Table`].
//!
//! One dump of the virtual servers, then one read of `/proc/net/ip_vs` for all destinations, which has every column
//! of the listing and costs a fifteenth of the dump per virtual server that netlink offers. Where the file cannot
//! answer for a virtual server, netlink is asked: a firewall mark that both families use (the file does not tell them
//! apart), or a table that changes while it is read. One difference remains: a forwarding method that has no name is
//! `Masq` in the file. No program sets such a one.

use super::sort;
use super::table::{Forward, Frontend, Header, Netmask, Persistence, RealServer, Table, VirtualServer};
use crate::model::IpFamily;
use ipvs::proc::{DestinationRow, RowId};
use ipvs::{AddressFamily, Client, DestinationEntry, Error, ForwardMethod, Service, ServiceFlags, ServiceId};
use std::collections::HashMap;

/// Reads the table of the calling thread's network namespace, to which `client` has to be connected. Sorted.
///
/// # Errors
/// A question to the kernel failed.
pub fn read(client: &mut Client) -> Result<Table, Error> {
    let info = client.info()?;
    let mut services = Vec::new();
    client.services()?.into_iter().for_each(|entry| services.push(entry.service));
    // Unreadable (no procfs here) or not understood: netlink knows it all.
    let mut known = if services.is_empty() { Destinations::default() } else { Destinations::from_proc() };
    let mut servers = Vec::with_capacity(services.len());
    for service in services {
        let real_servers = match known.take(service.id) {
            Some(rows) => rows.iter().map(from_row).collect(),
            None => client.destinations(&service.id)?.iter().map(from_entry).collect(),
        };
        servers.push(virtual_server(service, real_servers));
    }
    let header = Header { version: info.version, size: info.connection_table_size };
    let mut table = Table { header: Some(header), servers };
    sort::sort(&mut table);
    Ok(table)
}

/// The destinations in the file, by virtual server; `None` for one that is there more than once.
#[derive(Default)]
struct Destinations(HashMap<RowId, Option<Vec<DestinationRow>>>);

impl Destinations {
    fn from_proc() -> Self {
        let rows = match ipvs::proc::read_table(ipvs::proc::PATH) {
            Ok(rows) => rows,
            Err(error) => {
                tracing::debug!(%error, "asking for the destinations of each virtual server instead");
                return Self::default();
            }
        };
        let mut all = HashMap::with_capacity(rows.len());
        for (service, destinations) in rows {
            all.entry(service.id).and_modify(|seen| *seen = None).or_insert(Some(destinations));
        }
        Self(all)
    }

    fn take(&mut self, id: ServiceId) -> Option<Vec<DestinationRow>> {
        self.0.get_mut(&RowId::from(id)).and_then(Option::take)
    }
}

fn virtual_server(service: Service, real_servers: Vec<RealServer>) -> VirtualServer {
    let has = |flag| service.flags.contains(flag);
    let netmask = if service.netmask == ipvs::Netmask::host(service.id.family()) {
        Netmask::Host
    } else {
        match service.netmask {
            ipvs::Netmask::Ipv4(mask) => Netmask::V4(mask),
            ipvs::Netmask::Ipv6(length) => Netmask::V6(length),
        }
    };
    let engine = service.pe_name.clone();
    let persistence = Persistence { seconds: service.persistence_timeout, netmask, engine };
    VirtualServer {
        frontend: frontend(service.id),
        scheduler: service.scheduler.name().to_owned(),
        scheduler_flags: [has(ServiceFlags::SCHED_1), has(ServiceFlags::SCHED_2), has(ServiceFlags::SCHED_3)],
        persistence: has(ServiceFlags::PERSISTENT).then_some(persistence),
        one_packet: has(ServiceFlags::ONE_PACKET),
        real_servers,
    }
}

fn frontend(id: ServiceId) -> Frontend {
    match id {
        ServiceId::Address { protocol, address, port } => {
            Frontend::Address { protocol: protocol.number(), address, port }
        }
        ServiceId::Fwmark { mark, family: AddressFamily::Ipv4 } => Frontend::Fwmark { mark, family: IpFamily::V4 },
        ServiceId::Fwmark { mark, family: AddressFamily::Ipv6 } => Frontend::Fwmark { mark, family: IpFamily::V6 },
    }
}

fn from_row(row: &DestinationRow) -> RealServer {
    RealServer {
        address: row.address,
        port: row.port,
        forward: forward(row.forward),
        weight: row.weight,
        active_connections: row.active_connections,
        inactive_connections: row.inactive_connections,
    }
}

fn from_entry(entry: &DestinationEntry) -> RealServer {
    RealServer {
        address: entry.destination.address,
        port: entry.destination.port,
        forward: forward(entry.destination.forward),
        weight: entry.destination.weight,
        active_connections: entry.active_connections,
        inactive_connections: entry.inactive_connections,
    }
}

fn forward(method: ForwardMethod) -> Forward {
    match method {
        ForwardMethod::Masquerade => Forward::Masquerade,
        ForwardMethod::Local => Forward::Local,
        ForwardMethod::Tunnel => Forward::Tunnel,
        ForwardMethod::DirectRoute => Forward::Route,
        ForwardMethod::Bypass | ForwardMethod::Other(_) => Forward::Unnamed,
    }
}
