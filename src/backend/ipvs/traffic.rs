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
    /// What the names were made of.
    desired: PerFamily<Desired>,
    names: HashMap<ServiceId, ServicePortKey>,
}

impl TrafficSource for IpvsTraffic {
    fn read(&mut self, desired: &PerFamily<Desired>, endpoints: bool) -> Result<Vec<Sample>, ObserveError> {
        self.learn(desired);
        // A socket that failed is not used again: what is left in it would be taken for the next answer.
        let client = self.client.take().map_or_else(Client::connect, Ok);
        let mut client = client.map_err(|error| ObserveError::new("the IPVS table", error))?;
        let mut found = Vec::new();
        client
            .for_each_service(|entry| found.push((entry.service.id, entry.stats)))
            .map_err(|error| ObserveError::new("virtual servers", error))?;
        let mut samples: Vec<Sample> = found.iter().filter_map(|(id, stats)| self.sample(id, None, stats)).collect();
        if endpoints {
            // Those of others are not asked about.
            let ids: Vec<ServiceId> =
                found.into_iter().map(|(id, _)| id).filter(|id| self.is_of_interest(id)).collect();
            for id in &ids {
                let entries = match client.destinations(id) {
                    Ok(entries) => entries,
                    // Gone since.
                    Err(error) if error.is_not_there() => continue,
                    Err(error) => return Err(ObserveError::new(format!("destinations of {id}"), error)),
                };
                let sample = |entry: ipvs::DestinationEntry| {
                    let address = SocketAddr::new(entry.destination.address, entry.destination.port);
                    self.sample(id, Some(address), &entry.stats)
                };
                samples.extend(entries.into_iter().filter_map(sample));
            }
        }
        self.client = Some(client);
        Ok(samples)
    }
}

impl IpvsTraffic {
    /// Makes the names anew, if anything has changed.
    fn learn(&mut self, desired: &PerFamily<Desired>) {
        if IpFamily::BOTH.into_iter().all(|family| desired.get(family).is_same(self.desired.get(family))) {
            return;
        }
        self.names.clear();
        for family in IpFamily::BOTH {
            let desired = desired.get(family);
            let Some(rules) = &desired.rules else { continue };
            for port in desired.ports.values() {
                self.names.extend(server_ids(port, rules).into_iter().map(|id| (id, port.key.clone())));
            }
        }
        self.desired = desired.clone();
    }

    /// Before anything is wanted, everything may be ours.
    fn is_of_interest(&self, id: &ServiceId) -> bool {
        self.names.is_empty() || self.names.contains_key(id)
    }

    fn sample(&self, id: &ServiceId, endpoint: Option<SocketAddr>, stats: &Stats) -> Option<Sample> {
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
        Some(Sample { place, port: self.names.get(id).cloned(), counters })
    }
}
