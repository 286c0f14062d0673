//! Does a packet pass a test?

use std::net::IpAddr;
use std::sync::Arc;

use super::walk::Walk;
use crate::{
    AddrType, AnyOf, ConntrackMatch, CtDirection, CtState, Match, Protocol, RecentAction, RecentMatch, Statistic, Test,
};

impl Walk<'_, '_> {
    /// `None` where the tracer cannot tell.
    pub(super) fn passes(&mut self, test: &Match) -> Option<bool> {
        let packet = &self.packet;
        Some(match test {
            Match::Source { net, negated } => net.contains(&packet.source) != *negated,
            Match::Destination { net, negated } => net.contains(&packet.destination) != *negated,
            Match::SourceBits { bits, negated } => bits.matches(packet.source) != *negated,
            Match::DestinationBits { bits, negated } => bits.matches(packet.destination) != *negated,
            Match::InInterface { name, negated } => is_interface(packet.in_interface.as_ref(), name) != *negated,
            Match::OutInterface { name, negated } => is_interface(packet.out_interface.as_ref(), name) != *negated,
            Match::Protocol { protocol, negated } => (packet.protocol.number() == protocol.number()) != *negated,
            Match::SourcePort { ports, negated } => ports.contains(packet.source_port) != *negated,
            Match::DestinationPort { ports, negated } => ports.contains(packet.destination_port) != *negated,
            Match::Icmp { kind, code, negated } => {
                let same = packet.icmp.is_some_and(|(is, of)| is == *kind && code.is_none_or(|code| code == of));
                same != *negated
            }
            Match::Comment(_) => true,
            Match::Mark { value, mask, negated } => (packet.mark & mask == *value) != *negated,
            Match::Statistic(Statistic::Random { probability, negated }) => {
                self.decide(probability.as_f64()) != *negated
            }
            Match::Statistic(Statistic::Nth { every, negated, .. }) => {
                self.decide(1.0 / f64::from((*every).max(1))) != *negated
            }
            Match::Recent(recent) => self.passes_recent(recent),
            Match::AddrType(types) => {
                self.passes_type(types.source.as_ref(), self.packet.source)
                    && self.passes_type(types.destination.as_ref(), self.packet.destination)
            }
            Match::Conntrack(conntrack) => return self.passes_conntrack(conntrack),
            Match::Set(set) => (self.tracer.sets)(&set.name, packet, &set.dirs).is_some() != set.negated,
            // A packet that is not bridged.
            Match::Physdev(physdev) => {
                let flags = [physdev.is_in, physdev.is_out, physdev.is_bridged];
                let names = [&physdev.input, &physdev.output];
                flags.iter().all(|flag| *flag != Some(true))
                    && names.iter().all(|name| name.as_ref().is_none_or(|test| test.negated))
            }
            Match::PktType { kind, negated } => (&**kind == "unicast") != *negated,
            // Within the limit.
            Match::Limit(_) => true,
            Match::Other(_) => return None,
        })
    }

    fn passes_recent(&mut self, recent: &RecentMatch) -> bool {
        let known = self.is_remembered(recent);
        let answer = match recent.action {
            RecentAction::Set => {
                self.remembered.push(Arc::clone(&recent.name));
                true
            }
            RecentAction::Update if known => {
                self.remembered.push(Arc::clone(&recent.name));
                true
            }
            RecentAction::Remove => {
                self.remembered.retain(|name| *name != recent.name);
                known
            }
            RecentAction::Rcheck | RecentAction::Update => known,
        };
        answer != recent.negated
    }

    fn passes_type(&self, types: Option<&AnyOf<AddrType>>, address: IpAddr) -> bool {
        types.is_none_or(|types| types.members.contains(&self.type_of(address)) != types.negated)
    }

    fn type_of(&self, address: IpAddr) -> AddrType {
        if self.tracer.is_local(address) {
            AddrType::Local
        } else if address.is_multicast() {
            AddrType::Multicast
        } else if matches!(address, IpAddr::V4(v4) if v4.is_broadcast()) {
            AddrType::Broadcast
        } else {
            AddrType::Unicast
        }
    }

    fn passes_conntrack(&self, test: &ConntrackMatch) -> Option<bool> {
        if test.status.is_some() {
            return None;
        }
        let packet = &self.packet;
        let state = test.state.as_ref().is_none_or(|states| {
            let has = |state: &CtState| match state {
                CtState::Dnat => self.translated,
                CtState::Snat => self.masqueraded,
                plain => *plain == packet.state,
            };
            states.members.iter().any(has) != states.negated
        });
        let direction = if packet.reply { CtDirection::Reply } else { CtDirection::Original };
        let protocol = |test: Test<Protocol>| test.value.number() == packet.protocol.number();
        Some(
            state
                && test.direction.is_none_or(|wanted| wanted == direction)
                && is(test.protocol, protocol)
                && is(test.original_source, |test| test.value.contains(&packet.source))
                && is(test.original_destination, |test| test.value.contains(&self.original.ip()))
                && is(test.original_source_port, |test| test.value.contains(packet.source_port))
                && is(test.original_destination_port, |test| test.value.contains(self.original.port()))
                && is(test.reply_source, |test| test.value.contains(&packet.destination))
                && is(test.reply_source_port, |test| test.value.contains(packet.destination_port))
                && is(test.reply_destination, |test| test.value.contains(&packet.source))
                && is(test.reply_destination_port, |test| test.value.contains(packet.source_port)),
        )
    }
}

fn is<T: Copy>(test: Option<Test<T>>, holds: impl Fn(Test<T>) -> bool) -> bool {
    test.is_none_or(|test| holds(test) != test.negated)
}

fn is_interface(name: Option<&Arc<str>>, pattern: &str) -> bool {
    let name = name.map_or("", |name| &**name);
    match pattern.strip_suffix('+') {
        Some(beginning) => name.starts_with(beginning),
        None => name == pattern,
    }
}
