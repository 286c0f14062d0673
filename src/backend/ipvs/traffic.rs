//! Traffic as IPVS counts it: one dump of the virtual servers, and one for the destinations of each where these are asked
//! for. Over a socket of its own, so that a scrape never waits for a sync, nor a sync for a scrape.

use super::wanted::server_ids;
use crate::backend::{Counters, ObserveError, Place, Sample, TrafficSource};
use crate::desired::{Desired, ServicePortKey};
use crate::model::{IpFamily, PerFamily, Protocol};
use ipvs::{Client, ServiceId, Stats};
use std::collections::HashMap;
use std::net::SocketAddr;

/// Reads the table of the network namespace in which it is used first.
#[derive(Debug, Default)]
pub struct IpvsTraffic {
    client: Option<Client>,
}

/// Whose virtual servers these are. Made anew for each reading: kept, they would keep what was desired then.
type Names<'a> = HashMap<ServiceId, &'a ServicePortKey>;

impl TrafficSource for IpvsTraffic {
    fn read(
        &mut self,
        desired: &PerFamily<Desired>,
        endpoints: bool,
        each: &mut dyn FnMut(Sample<'_>),
    ) -> Result<(), ObserveError> {
        let names = names(desired);
        // A socket that failed is not used again: what is left in it would be taken for the next answer.
        let client = self.client.take().map_or_else(Client::connect, Ok);
        let mut client = client.map_err(|error| ObserveError::new("the IPVS table", error))?;
        let mut ids = Vec::new();
        client
            .for_each_service(|entry| {
                let id = entry.service.id;
                // Those of others are not asked about. Before anything is wanted, everything may be ours.
                ids.extend((endpoints && (names.is_empty() || names.contains_key(&id))).then_some(id));
                sample(&names, &id, None, &entry.stats).into_iter().for_each(&mut *each);
            })
            .map_err(|error| ObserveError::new("virtual servers", error))?;
        for id in &ids {
            let entries = match client.destinations(id) {
                Ok(entries) => entries,
                // Gone since.
                Err(error) if error.is_not_there() => continue,
                Err(error) => return Err(ObserveError::new(format!("destinations of {id}"), error)),
            };
            for entry in entries {
                let address = SocketAddr::new(entry.destination.address, entry.destination.port);
                sample(&names, id, Some(address), &entry.stats).into_iter().for_each(&mut *each);
            }
        }
        self.client = Some(client);
        Ok(())
    }
}

fn names(desired: &PerFamily<Desired>) -> Names<'_> {
    let of_family = |family| {
        let desired: &Desired = desired.get(family);
        let ports = desired.rules.iter().flat_map(|rules| desired.ports.values().map(move |port| (port, rules)));
        ports.flat_map(|(port, rules)| server_ids(port, rules).into_iter().map(|id| (id, &port.key)))
    };
    IpFamily::BOTH.into_iter().flat_map(of_family).collect()
}

fn sample<'a>(names: &Names<'a>, id: &ServiceId, endpoint: Option<SocketAddr>, stats: &Stats) -> Option<Sample<'a>> {
    let ServiceId::Address { protocol, address, port } = *id else { return None };
    let protocol = match protocol {
        ipvs::Protocol::Tcp => Protocol::Tcp,
        ipvs::Protocol::Udp => Protocol::Udp,
        ipvs::Protocol::Sctp => Protocol::Sctp,
        ipvs::Protocol::Other(_) => return None,
    };
    let place = Place { protocol, frontend: SocketAddr::new(address, port), endpoint };
    let counters = Counters {
        connections: stats.connections,
        incoming_packets: stats.incoming_packets,
        outgoing_packets: stats.outgoing_packets,
        incoming_bytes: stats.incoming_bytes,
        outgoing_bytes: stats.outgoing_bytes,
    };
    Some(Sample { place, port: names.get(id).copied(), counters })
}
