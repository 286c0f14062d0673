//! Reads what IPVS mode has in the kernel: dumps of virtual servers until two agree ([`Client::for_each_service`]), one read of
//! /proc/net/ip_vs for all their destinations (a dump of destinations costs a request each), the routes, the sets, the rules.
//!
//! [`Client::for_each_service`]: ::ipvs::Client::for_each_service

use super::entries::Entries;
use super::listed::Listed;
use super::names::{self, Set};
use super::observed::{FoundDestination, FoundServer, Observed};
use super::wanted::{family_of, id_of};
use super::{Ipvs, Ours};
use crate::backend::kube_proxy::Recorded;
use crate::backend::rules::FoundReader;
use crate::backend::settings::{localnet_is_open, unset_sysctls};
use crate::backend::{Effort, ObserveError};
use crate::kernel::interface::LocalRoute;
use crate::kernel::ipset::Entry;
use crate::kernel::sysctl::{Needs, settings};
use crate::model::IpFamily;
use foldhash::HashSet;
use ipnet::IpNet;
use iptables::{Saving, Table};
use ipvs::{AddressFamily, ForwardMethod, Service, ServiceId, proc};
use litemap::LiteMap;
use std::net::SocketAddr;
use std::time::Instant;

/// Who takes what is read and grows with the number of services.
pub(super) trait Take {
    /// A virtual server of any owner.
    fn server(&mut self, server: FoundServer);
    /// An entry of a set of ours.
    fn entry(&mut self, set: Set, entry: Entry);
}

impl Take for Observed {
    fn server(&mut self, server: FoundServer) {
        self.servers.insert(server.service.id, server);
    }

    fn entry(&mut self, set: Set, entry: Entry) {
        self.sets.entry(set).or_default().insert(entry);
    }
}

/// Takes note of virtual servers that are recorded as ours and were not there.
struct Recording<'a> {
    take: &'a mut dyn Take,
    seen: HashSet<ServiceId>,
    missing: Vec<ServiceId>,
}

impl Take for Recording<'_> {
    fn server(&mut self, server: FoundServer) {
        self.seen.insert(server.service.id);
        self.take.server(server);
    }

    fn entry(&mut self, set: Set, entry: Entry) {
        let recorded = if Set::LEDGER.contains(&set) { id_of(&entry) } else { None };
        self.missing.extend(recorded.filter(|id| !self.seen.contains(id)));
        self.take.entry(set, entry);
    }
}

fn rules_of(family: IpFamily) -> String {
    format!("{family} rules")
}

impl Ipvs {
    /// Reads everything of a family.
    pub(super) fn observe_family(&mut self, family: IpFamily, now: Instant) -> Result<Observed, ObserveError> {
        // Starting iptables takes longer than reading a small table: meanwhile everything else is read.
        let mut saving = self.start_saving(family)?;
        saving.begin().map_err(|error| ObserveError::new(rules_of(family), error))?;
        let mut found = Observed::default();
        let mut observed = self.read_into(family, saving, now, &mut found)?;
        observed.servers = found.servers;
        observed.sets.extend(found.sets);
        observed.look_for_all_drains();
        Ok(observed)
    }

    /// The same, in which what grows with the number of services is handed over one by one. What is returned has the rest, and of
    /// sets only which there are.
    pub(super) fn observe_into(
        &mut self,
        family: IpFamily,
        now: Instant,
        take: &mut dyn Take,
    ) -> Result<Observed, ObserveError> {
        let saving = self.start_saving(family)?;
        self.read_into(family, saving, now, take)
    }

    fn start_saving(&self, family: IpFamily) -> Result<Saving, ObserveError> {
        let commands = self.commands.get(family).as_ref();
        let commands = commands.ok_or_else(|| ObserveError::new(rules_of(family), "no iptables-restore was found"))?;
        Ok(commands.start_saving(&[Table::Mangle, Table::Filter, Table::Nat]))
    }

    fn read_into(
        &mut self,
        family: IpFamily,
        saving: Saving,
        now: Instant,
        take: &mut dyn Take,
    ) -> Result<Observed, ObserveError> {
        let mut observed = Observed::default();
        let mut recorded = Recording { take, seen: HashSet::default(), missing: Vec::new() };
        self.read_servers(family, now, &mut recorded)?;
        self.read_interface(family, &mut observed)?;
        self.read_sets(family, &mut observed, &mut recorded)?;
        observed.inherited = Recorded::read(family, &mut self.sets)?;
        observed.spares_inherited = self.spare_kube_proxy;
        self.read_recorded(recorded, now)?;
        observed.timeouts = Some(self.client.timeouts().map_err(|error| ObserveError::new("timeouts", error))?);
        if family == IpFamily::V4 {
            observed.detour = self.detour.find().map_err(|error| ObserveError::new("links", error))?;
        }
        let mut reader = FoundReader::new(Ours);
        saving.finish(&mut reader).map_err(|error| ObserveError::new(rules_of(family), error))?;
        self.effort.restores += 1;
        observed.rules = reader.finish();
        let needs = Needs {
            ipvs: true,
            ipv6: family == IpFamily::V6,
            strict_arp: self.options.strict_arp,
            localhost_node_ports: false,
        };
        let guarded = observed.rules.has(Table::Filter, &names::localnet_guard());
        observed.localnet_open = localnet_is_open(family, &self.sysctl, guarded);
        observed.unset = unset_sysctls(self.sysctl.sysctl(), &settings(&needs, self.kernel))?;
        Ok(observed)
    }

    fn read_servers(&mut self, family: IpFamily, now: Instant, take: &mut dyn Take) -> Result<(), ObserveError> {
        let mut services = Listed::default();
        let wanted = match family {
            IpFamily::V4 => AddressFamily::Ipv4,
            IpFamily::V6 => AddressFamily::Ipv6,
        };
        self.client
            .for_each_service(|entry| {
                let id = entry.service.id;
                if matches!(id, ServiceId::Address { .. }) && id.family() == wanted {
                    services.insert(entry.service);
                }
            })
            .map_err(|error| ObserveError::new("virtual servers", error))?;
        if services.is_empty() {
            return Ok(());
        }
        let mut draining: HashSet<(ServiceId, SocketAddr)> = HashSet::default();
        let mut hand_over = |server: FoundServer| {
            let drains = server.destinations.iter().filter(|(_, found)| found.weight == 0);
            draining.extend(drains.map(|(address, _)| (server.service.id, *address)));
            take.server(server);
        };
        let read = proc::for_each_row(proc::PATH, |row, rows| {
            let Some(service) = row.id.service_id().and_then(|id| services.remove(&id)) else { return };
            let id = service.id;
            let mut destinations = LiteMap::with_capacity(rows.len());
            for row in rows {
                let address = SocketAddr::new(row.address, row.port);
                let connections = u64::from(row.active_connections) + u64::from(row.inactive_connections);
                let masqueraded = row.forward == ForwardMethod::Masquerade || row.forward == ForwardMethod::Local;
                let found = self.found_destination((id, address), row.weight, masqueraded, connections, now);
                destinations.insert(address, found);
            }
            hand_over(FoundServer { service, destinations });
        });
        read.map_err(|error| ObserveError::new("destinations", error))?;
        for service in services.drain() {
            self.read_missing(service, now)?.into_iter().for_each(&mut hand_over);
        }
        self.drained.retain(|key, _| family_of(&key.0) != family || draining.contains(key));
        Ok(())
    }

    /// Asks for the destinations of a virtual server that the file left out. Kernels before 2026 keep the virtual servers
    /// of all network namespaces in one table, and between two pieces of the file they count the others' as well
    /// (`ip_vs_info_seq_next` against `ip_vs_info_array`): where somebody else uses IPVS, rows of ours are passed over.
    fn read_missing(&mut self, service: Service, now: Instant) -> Result<Option<FoundServer>, ObserveError> {
        let id = service.id;
        let entries = match self.client.destinations(&id) {
            Ok(entries) => entries,
            Err(error) if error.is_not_there() => return Ok(None),
            Err(error) => return Err(ObserveError::new(format!("destinations of {id}"), error)),
        };
        let mut destinations = LiteMap::with_capacity(entries.len());
        for entry in entries {
            let address = SocketAddr::new(entry.destination.address, entry.destination.port);
            let connections = u64::from(entry.active_connections) + u64::from(entry.inactive_connections);
            let forward = entry.destination.forward;
            let masqueraded = forward == ForwardMethod::Masquerade || forward == ForwardMethod::Local;
            let found = self.found_destination((id, address), entry.destination.weight, masqueraded, connections, now);
            destinations.insert(address, found);
        }
        Ok(Some(FoundServer { service, destinations }))
    }

    fn found_destination(
        &mut self,
        key: (ServiceId, SocketAddr),
        weight: u32,
        masqueraded: bool,
        connections: u64,
        now: Instant,
    ) -> FoundDestination {
        let drained_since = if weight == 0 {
            Some(*self.drained.entry(key).or_insert(now))
        } else {
            self.drained.remove(&key);
            None
        };
        FoundDestination { weight, masqueraded, connections, drained_since }
    }

    fn read_interface(&mut self, family: IpFamily, observed: &mut Observed) -> Result<(), ObserveError> {
        let failed = |error| ObserveError::new("interface kube-ipvs0", error);
        if family == IpFamily::V4 {
            observed.bridges = self.loopback.local_routes(family).map_err(failed)?.into_iter().collect();
        }
        let Some(device) = self.interface.look().map_err(failed)? else { return Ok(()) };
        observed.interface = true;
        observed.interface_up = device.up;
        observed.interface_foreign = device.foreign;
        if device.foreign {
            return Ok(());
        }
        let mut routes =
            |family| -> Result<Vec<LocalRoute>, ObserveError> { self.interface.local_routes(family).map_err(failed) };
        let other_family = if family == IpFamily::V4 { IpFamily::V6 } else { IpFamily::V4 };
        let others = !routes(other_family)?.is_empty();
        observed.routes = routes(family)?.into_iter().map(|route| (route.net, route)).collect();
        let mut addresses =
            |family| -> Result<Vec<IpNet>, ObserveError> { self.interface.addresses(family).map_err(failed) };
        observed.interface_shared = others || !addresses(other_family)?.is_empty();
        observed.addresses = addresses(family)?.into_iter().collect();
        Ok(())
    }

    fn read_sets(
        &mut self,
        family: IpFamily,
        observed: &mut Observed,
        take: &mut dyn Take,
    ) -> Result<(), ObserveError> {
        let headers = self.sets.list().map_err(|error| ObserveError::new("ipsets", error))?;
        for set in Set::ALL {
            let spec = set.spec(family);
            match headers.iter().find(|header| header.name == spec.name) {
                None => {}
                Some(header) if !header.serves_as(&spec) => observed.unfit_sets.push(set),
                Some(_) => {
                    observed.sets.insert(set, Entries::default());
                    if set != Set::Forgotten {
                        let read = self.sets.each_entry(&spec.name, |entry| take.entry(set, entry.entry));
                        read.map_err(|error| ObserveError::new(format!("set {}", spec.name), error))?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Asks one by one for virtual servers that are recorded as ours and did not turn up: a dump may have passed over them,
    /// and what is taken for missing would be added again and refused.
    fn read_recorded(&mut self, mut recorded: Recording<'_>, now: Instant) -> Result<(), ObserveError> {
        for id in std::mem::take(&mut recorded.missing) {
            // It may be recorded twice.
            if recorded.seen.contains(&id) {
                continue;
            }
            let found = self.client.service(&id);
            let found = found.map_err(|error| ObserveError::new(format!("virtual server {id}"), error))?;
            let server = found.map(|entry| self.read_missing(entry.service, now)).transpose()?.flatten();
            server.into_iter().for_each(|server| recorded.server(server));
        }
        Ok(())
    }

    /// Counts the connections of these virtual servers' destinations again.
    pub(super) fn count_connections(
        &mut self,
        servers: HashSet<ServiceId>,
        observed: &mut Observed,
    ) -> Result<(), ObserveError> {
        let now = Instant::now();
        for id in servers {
            let Some(server) = observed.servers.get_mut(&id) else { continue };
            let entries = match self.client.destinations(&id) {
                Ok(entries) => entries,
                // Gone since: the plan will not find it either after the next reading.
                Err(error) if error.is_not_there() => continue,
                Err(error) => return Err(ObserveError::new(format!("destinations of {id}"), error)),
            };
            for entry in entries {
                let address = SocketAddr::new(entry.destination.address, entry.destination.port);
                let connections = u64::from(entry.active_connections) + u64::from(entry.inactive_connections);
                if let Some(known) = server.destinations.get(&address).copied() {
                    let key = (id, address);
                    let found = self.found_destination(key, known.weight, known.masqueraded, connections, now);
                    server.destinations.insert(address, found);
                }
            }
        }
        Ok(())
    }

    /// What was said to the kernel since the last call.
    pub(super) fn gather_effort(&mut self) -> Effort {
        let counters = self.client.counters();
        let now = (counters.messages, counters.sends + counters.receives);
        let mut effort = std::mem::take(&mut self.effort);
        effort.messages += now.0.saturating_sub(self.counted.0);
        effort.syscalls += now.1.saturating_sub(self.counted.1);
        self.counted = now;
        effort
    }
}
