//! What happens to a packet? Follows it through the tables and hooks, along every branch that chance can take.
//!
//! Rules are judged by what they do and not by their text. What decides beside them (routes, sets, IPVS) is asked of the caller.
//! The same tracer reads rules from the kernel
//! ([`Commands::save`](crate::Commands::save)) and rules that were only planned ([`Saved::apply`]).
//!
//! ```
//! use std::net::SocketAddr;
//! use iptables::tracer::{Packet, Tracer, Verdict};
//! use iptables::{Protocol, parse_save};
//!
//! let rules = parse_save("\
//! *nat
//! :OUTPUT ACCEPT [0:0]
//! :WEB - [0:0]
//! -A OUTPUT -d 10.96.0.7/32 -p tcp -m tcp --dport 80 -j WEB
//! -A WEB -p tcp -m statistic --mode random --probability 0.50000000000 -j DNAT --to-destination 10.1.0.1:8080
//! -A WEB -p tcp -j DNAT --to-destination 10.1.0.2:8080
//! COMMIT
//! ")?;
//! let packet = Packet::new(Protocol::Tcp, "192.0.2.1:4000".parse()?, "10.96.0.7:80".parse()?);
//! let trace = Tracer::new(&rules).local("192.0.2.1".parse()?).trace(&packet);
//! assert_eq!(trace.verdict(), Some(&Verdict::Accept));
//! assert_eq!(trace.masqueraded(), Some(false));
//! let to: SocketAddr = "10.1.0.2:8080".parse()?;
//! assert_eq!(trace.destinations()[&to], 0.5);
//! println!("{trace}");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod packet;
mod surroundings;
mod tests_of_rules;
mod trace;
mod walk;

use std::collections::HashSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

pub use self::packet::Packet;
pub use self::surroundings::{Balancing, Route};
pub use self::trace::{Outcome, Remark, Step, Trace, Verdict};
use crate::{Saved, SetDir};

/// What a set knows of a packet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SetEntry {
    /// `skbmark`: value and mask, set by `-j SET --map-set … --map-mark`.
    pub mark: Option<(u32, u32)>,
}

type Sets<'a> = dyn Fn(&str, &Packet, &[SetDir]) -> Option<SetEntry> + 'a;

/// Rules, and what else decides about a packet on a node.
pub struct Tracer<'a> {
    rules: &'a Saved,
    local: HashSet<IpAddr>,
    routes: Vec<(IpNet, Arc<str>)>,
    recent: HashSet<(Arc<str>, IpAddr)>,
    sets: Box<Sets<'a>>,
    surroundings: surroundings::Surroundings<'a>,
}

/// More branches than any test can look at: a ruleset with endless chance ends here.
const MAX_OUTCOMES: usize = 100_000;

impl<'a> Tracer<'a> {
    /// A node with these rules, without addresses of its own but those of loopback, without sets.
    #[must_use]
    pub fn new(rules: &'a Saved) -> Self {
        Self {
            rules,
            local: HashSet::new(),
            routes: Vec::new(),
            recent: HashSet::new(),
            sets: Box::new(|_, _, _| None),
            surroundings: surroundings::Surroundings::default(),
        }
    }

    /// Gives the node an address: `addrtype LOCAL`, and delivered to the node.
    #[must_use]
    pub fn local(mut self, address: IpAddr) -> Self {
        self.local.insert(address);
        self
    }

    /// Packets to `net` leave by `interface`; the longest prefix counts.
    #[must_use]
    pub fn route(mut self, net: IpNet, interface: impl Into<Arc<str>>) -> Self {
        self.routes.push((net, interface.into()));
        self
    }

    /// An address stands in a list of `-m recent`, just seen.
    #[must_use]
    pub fn recent(mut self, list: impl Into<Arc<str>>, address: IpAddr) -> Self {
        self.recent.insert((list.into(), address));
        self
    }

    /// Answers for sets: name of the set, the packet as it is then, the directions of the key.
    #[must_use]
    pub fn sets(mut self, sets: impl Fn(&str, &Packet, &[SetDir]) -> Option<SetEntry> + 'a) -> Self {
        self.sets = Box::new(sets);
        self
    }

    /// Follows a packet along every branch.
    #[must_use]
    pub fn trace(&self, packet: &Packet) -> Trace {
        let mut outcomes = Vec::new();
        let mut decisions: Vec<bool> = Vec::new();
        while outcomes.len() < MAX_OUTCOMES {
            let (outcome, taken) = walk::Walk::new(self, packet, decisions).run();
            outcomes.push(outcome);
            decisions = taken;
            // The next branch: the last decision that was a yes becomes a no.
            while decisions.pop_if(|yes| !*yes).is_some() {}
            match decisions.last_mut() {
                Some(last) => *last = false,
                None => break,
            }
        }
        Trace { packet: packet.clone(), outcomes }
    }

    fn is_local(&self, address: IpAddr) -> bool {
        address.is_loopback()
            || self.local.contains(&address)
            || self.surroundings.local.as_ref().is_some_and(|is_local| is_local(address))
    }

    /// Where a packet goes on, as far as it is known.
    fn route_of(&self, packet: &Packet) -> Option<Route> {
        if let Some(routing) = &self.surroundings.routing {
            return Some(routing(packet));
        }
        if self.is_local(packet.destination) {
            return Some(Route::Local);
        }
        self.out_interface(packet.destination).map(Route::Via)
    }

    fn out_interface(&self, destination: IpAddr) -> Option<Arc<str>> {
        let routes = self.routes.iter().filter(|(net, _)| net.contains(&destination));
        routes.max_by_key(|(net, _)| net.prefix_len()).map(|(_, interface)| Arc::clone(interface))
    }
}

impl fmt::Debug for Tracer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tracer").field("local", &self.local).field("routes", &self.routes).finish_non_exhaustive()
    }
}
