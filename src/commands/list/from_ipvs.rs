//! The kernel's IPVS: virtual servers in the order in which they are printed, each with its destinations, one by one.
//!
//! One dump of the virtual servers and one read of `/proc/net/ip_vs` for all destinations, which has every column
//! of the usual listing and costs a fifteenth of the dump per virtual server that netlink offers. Netlink is asked where
//! the file cannot answer: for columns that it does not have, for encapsulations, for a firewall mark that both families
//! use (the file does not tell them apart), for a table that changes while it is read. One difference remains: a
//! forwarding method that has no name is `Masq` in the file. No program sets such a one.

use super::request::Columns;
use super::sort;
use super::table::{Details, Forward, Frontend, Header, Netmask, Persistence, RealServer, Table, VirtualServer};
use crate::model::IpFamily;
use foldhash::HashMap;
use ipvs::proc::{DestinationRow, RowId};
use ipvs::{AddressFamily, Client, DestinationEntry, Error, ForwardMethod, ServiceEntry, ServiceFlags, ServiceId};
use std::ops::Range;

/// What is wanted of destinations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Method, weight, connections.
    Rows,
    /// Those, and encapsulations.
    Tunnels,
    /// Everything.
    All,
}

impl From<Columns> for Depth {
    fn from(columns: Columns) -> Self {
        match columns {
            Columns::Usual => Self::Rows,
            Columns::Tunnels => Self::Tunnels,
            Columns::Stats | Columns::Rate | Columns::Thresholds | Columns::PersistentConnections => Self::All,
        }
    }
}

/// Version and size.
///
/// # Errors
/// A question to the kernel failed.
pub fn header(client: &mut Client) -> Result<Header, Error> {
    let info = client.info()?;
    Ok(Header { version: info.version, size: info.connection_table_size })
}

/// The virtual servers of the calling thread's network namespace, to which `client` has to be connected; without their
/// real servers, for which there is the second value.
///
/// A dump of more than one message may lack rows (`Client::for_each_service` says when). Where the file is read anyway, it
/// is the second opinion: only if the two differ is the dump repeated.
///
/// # Errors
/// A question to the kernel failed.
pub fn servers(client: &mut Client, depth: Depth, sorted: bool) -> Result<(Vec<VirtualServer>, RealServers), Error> {
    let arranged = |mut servers: Vec<VirtualServer>| {
        if sorted {
            sort::sort_servers(&mut servers);
        }
        servers
    };
    // What is kept is half as large as what the kernel tells.
    let mut first = || {
        let found = client.services_at_first(virtual_server);
        found.map(|(servers, in_one_piece)| (arranged(servers), in_one_piece))
    };
    let (file, first) = match depth {
        Depth::All => (Destinations::default(), first()),
        // Beside each other: they do not wait for the same lock in the kernel.
        Depth::Rows | Depth::Tunnels => std::thread::scope(|scope| {
            let file = scope.spawn(Destinations::from_proc);
            let first = first();
            // A thread that failed is a file that cannot be read: netlink knows it all.
            (file.join().unwrap_or_default(), first)
        }),
    };
    let (mut servers, in_one_piece) = first?;
    if !in_one_piece && !file.has_the_same(&servers) {
        servers = arranged(client.services()?.into_iter().map(virtual_server).collect());
    }
    Ok((servers, RealServers { depth, sorted, file }))
}

/// One virtual server, without its real servers; `None` when it is not there.
///
/// # Errors
/// The question to the kernel failed.
pub fn server(client: &mut Client, id: &ServiceId) -> Result<Option<VirtualServer>, Error> {
    Ok(client.service(id)?.map(virtual_server))
}

/// The real servers of one virtual server after the other.
#[derive(Debug)]
pub struct RealServers {
    depth: Depth,
    sorted: bool,
    file: Destinations,
}

impl RealServers {
    /// Of this depth, and in `ipvsadm`'s order or the kernel's, each asked for by itself: for who wants few.
    #[must_use]
    pub fn new(depth: Depth, sorted: bool) -> Self {
        Self { depth, sorted, file: Destinations::default() }
    }

    /// Those of a virtual server, put in.
    ///
    /// # Errors
    /// A question to the kernel failed.
    pub fn fill(&mut self, client: &mut Client, server: &mut VirtualServer) -> Result<(), Error> {
        let id = service_id(server.frontend);
        let rows = self.file.of(id);
        let enough = |rows: &&[DestinationRow]| {
            self.depth == Depth::Rows || rows.iter().all(|row| row.forward != ForwardMethod::Tunnel)
        };
        server.real_servers = match rows.filter(enough) {
            Some(rows) => rows.iter().map(from_row).collect(),
            None => client.destinations(&id)?.iter().map(|entry| from_entry(entry, self.depth)).collect(),
        };
        if self.sorted {
            sort::sort_real_servers(&mut server.real_servers);
        }
        Ok(())
    }
}

/// The whole table, sorted.
///
/// # Errors
/// A question to the kernel failed.
pub fn read(client: &mut Client, depth: Depth) -> Result<Table, Error> {
    let header = Some(header(client)?);
    let (mut servers, mut real_servers) = servers(client, depth, true)?;
    servers.iter_mut().try_for_each(|server| real_servers.fill(client, server))?;
    Ok(Table { header, servers })
}

/// The destinations in the file, by virtual server; `None` for one that is there more than once.
#[derive(Debug, Default)]
struct Destinations {
    /// Where each virtual server's stand among the rows; `None` where the file has it twice.
    by_server: HashMap<RowId, Option<Range<u32>>>,
    rows: Vec<DestinationRow>,
    /// Virtual servers in the file.
    servers: usize,
}

impl Destinations {
    fn from_proc() -> Self {
        let mut all = Self::default();
        let read = ipvs::proc::for_each_row(ipvs::proc::PATH, |service, destinations| {
            let start = all.rows.len();
            all.rows.extend_from_slice(destinations);
            all.servers += 1;
            let place =
                u32::try_from(start).ok().zip(u32::try_from(all.rows.len()).ok()).map(|(start, end)| start..end);
            // What is there twice the file does not tell apart.
            all.by_server.entry(service.id).and_modify(|seen| *seen = None).or_insert(place);
        });
        match read {
            Ok(()) => all,
            Err(error) => {
                // Unreadable (no procfs here) or not understood: netlink knows it all.
                tracing::debug!(%error, "asking for the destinations of each virtual server instead");
                Self::default()
            }
        }
    }

    /// Whether the file has these virtual servers and no others.
    fn has_the_same(&self, servers: &[VirtualServer]) -> bool {
        let known = |server: &VirtualServer| self.by_server.contains_key(&RowId::from(service_id(server.frontend)));
        self.servers == servers.len() && servers.iter().all(known)
    }

    fn of(&self, id: ServiceId) -> Option<&[DestinationRow]> {
        let Range { start, end } = self.by_server.get(&RowId::from(id))?.clone()?;
        self.rows.get(usize::try_from(start).ok()?..usize::try_from(end).ok()?)
    }
}

fn virtual_server(entry: ServiceEntry) -> VirtualServer {
    let service = entry.service;
    let has = |flag| service.flags.contains(flag);
    let netmask = if service.netmask == ipvs::Netmask::host(service.id.family()) {
        Netmask::Host
    } else {
        match service.netmask {
            ipvs::Netmask::Ipv4(mask) => Netmask::V4(mask),
            ipvs::Netmask::Ipv6(length) => Netmask::V6(length),
        }
    };
    let persistence = Persistence { seconds: service.persistence_timeout, netmask };
    VirtualServer {
        frontend: frontend(service.id),
        scheduler: match service.scheduler.known_name() {
            Some(name) => name.into(),
            None => service.scheduler.name().to_owned().into(),
        },
        scheduler_flags: [has(ServiceFlags::SCHED_1), has(ServiceFlags::SCHED_2), has(ServiceFlags::SCHED_3)],
        persistence: has(ServiceFlags::PERSISTENT).then_some(persistence),
        one_packet: has(ServiceFlags::ONE_PACKET),
        engine: service.pe_name,
        traffic: entry.stats,
        refused: 0,
        real_servers: Vec::new(),
    }
}

/// What a virtual server serves, in the words of the table.
#[must_use]
pub fn frontend(id: ServiceId) -> Frontend {
    match id {
        ServiceId::Address { protocol, address, port } => {
            Frontend::Address { protocol: protocol.number(), address, port }
        }
        ServiceId::Fwmark { mark, family: AddressFamily::Ipv4 } => Frontend::Fwmark { mark, family: IpFamily::V4 },
        ServiceId::Fwmark { mark, family: AddressFamily::Ipv6 } => Frontend::Fwmark { mark, family: IpFamily::V6 },
    }
}

fn service_id(frontend: Frontend) -> ServiceId {
    match frontend {
        Frontend::Address { protocol, address, port } => ServiceId::new(protocol.into(), address, port),
        Frontend::Fwmark { mark, family: IpFamily::V4 } => ServiceId::fwmark(mark, AddressFamily::Ipv4),
        Frontend::Fwmark { mark, family: IpFamily::V6 } => ServiceId::fwmark(mark, AddressFamily::Ipv6),
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
        details: None,
    }
}

fn from_entry(entry: &DestinationEntry, depth: Depth) -> RealServer {
    let details = Details {
        traffic: entry.stats,
        persistent_connections: entry.persistent_connections,
        upper_threshold: entry.destination.upper_threshold,
        lower_threshold: entry.destination.lower_threshold,
        tunnel: entry.destination.tunnel,
    };
    RealServer {
        address: entry.destination.address,
        port: entry.destination.port,
        forward: forward(entry.destination.forward),
        weight: entry.destination.weight,
        active_connections: entry.active_connections,
        inactive_connections: entry.inactive_connections,
        details: (depth != Depth::Rows).then(|| Box::new(details)),
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
