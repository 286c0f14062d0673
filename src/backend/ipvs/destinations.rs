//! The steps from the destinations of a virtual server that are there to those that are wanted. Pure.

use super::Op;
use super::observed::{FoundDestination, FoundServer};
use super::plan::Planner;
use super::wanted::{Server, destination};
use ipvs::{Command, Protocol, ServiceId};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

impl Planner<'_> {
    pub(super) fn new_server(&mut self, server: &Server, first: bool) {
        let place = if first { &mut self.steps.first_servers } else { &mut self.steps.servers };
        place.push(Op::Ipvs(Command::AddService(server.service.clone())));
        for (address, weight) in server.weights.iter().filter(|(_, weight)| **weight > 0) {
            let destination = destination(*address, *weight);
            place.push(Op::Ipvs(Command::AddDestination { service: server.service.id, destination }));
        }
    }

    pub(super) fn known_server(&mut self, server: &Server, found: &FoundServer, first: bool) {
        let id = server.service.id;
        if found.service != server.service {
            self.steps.servers.push(Op::Ipvs(Command::SetService(server.service.clone())));
        }
        for (address, weight) in &server.weights {
            let destination = destination(*address, *weight);
            match found.destinations.get(address) {
                None if *weight == 0 => {}
                None => {
                    let place = if first { &mut self.steps.first_servers } else { &mut self.steps.servers };
                    place.push(Op::Ipvs(Command::AddDestination { service: id, destination }));
                }
                Some(known) if known.weight == 0 && *weight == 0 && known.connections == 0 => {
                    self.delete_destination(id, *address);
                }
                Some(known) if known.weight != *weight || !known.masqueraded => {
                    let place = if *weight == 0 { &mut self.steps.less } else { &mut self.steps.servers };
                    place.push(Op::Ipvs(Command::SetDestination { service: id, destination }));
                }
                Some(_) => {}
            }
        }
        // As in iptables mode: of a port whose endpoints are not known yet nothing goes.
        if self.incomplete && server.weights.values().all(|weight| *weight == 0) {
            return;
        }
        for (address, known) in &found.destinations {
            if !server.weights.contains_key(address) {
                self.unlisted(id, *address, *known);
            }
        }
    }

    /// A destination that nobody wants. If it has connections we were not running when it left: they may end in peace.
    pub(super) fn unlisted(&mut self, id: ServiceId, address: SocketAddr, known: FoundDestination) {
        let udp = matches!(id, ServiceId::Address { protocol: Protocol::Udp, .. });
        // Drains are looked at once a second, so that it may have been draining for that much longer than was seen.
        let timeout = self.context.drain_timeout.saturating_sub(Duration::from_secs(2));
        let drained = |since: Instant| self.context.now.saturating_duration_since(since);
        let over = known.drained_since.is_some_and(|since| drained(since) >= timeout);
        // Where everything was just read, a connection may have begun since. The next reading tells.
        let just_read = self.observed.previous.is_none() && known.weight != 0 && !self.context.drain_timeout.is_zero();
        if known.connections == 0 && !just_read || udp || over {
            self.delete_destination(id, address);
        } else if known.weight != 0 {
            let destination = destination(address, 0);
            self.steps.less.push(Op::Ipvs(Command::SetDestination { service: id, destination }));
        }
    }

    pub(super) fn delete_destination(&mut self, service: ServiceId, address: SocketAddr) {
        let command = Command::DeleteDestination { service, address: address.ip(), port: address.port() };
        self.steps.less.push(Op::Ipvs(command));
    }
}
