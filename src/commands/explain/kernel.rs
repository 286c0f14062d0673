//! What the kernel does with a packet: its rules are walked as they stand, sets, routes and virtual servers are asked as
//! the way of the packet needs them.

use super::report::{Answer, Endpoint};
use super::sets::Sets;
use super::virtual_servers::VirtualServers;
use crate::backend::ipvs::names::{self, DETOUR};
use crate::backend::ipvs::shadow;
use crate::kernel::conntrack;
use crate::kernel::recent;
use crate::kernel::routing::{self, Query};
use crate::model::{IpFamily, Protocol};
use anyhow::Context;
use iptables::tracer::{Outcome, Packet, Route, Step, Trace, Tracer, Verdict};
use iptables::{ChainName, Commands, Family, Match, RecentAction, Rule, Saved, Table, Target};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};

/// What was read of the kernel, and what is read on the way.
#[derive(Debug)]
pub struct Kernel {
    rules: Saved,
    sets: Sets,
    servers: VirtualServers,
    routes: RefCell<HashMap<Query, routing::Answer>>,
    doubts: RefCell<BTreeSet<String>>,
}

impl Kernel {
    /// Reads the rules of a family.
    ///
    /// # Errors
    /// When there is no iptables, or it does not tell.
    pub fn read(family: IpFamily) -> anyhow::Result<Self> {
        let family = if family == IpFamily::V4 { Family::V4 } else { Family::V6 };
        let commands = Commands::detect(family).context("the rules cannot be read; install iptables")?;
        let tables = [Table::Raw, Table::Mangle, Table::Nat, Table::Filter];
        let rules = commands.save(&tables).context("the rules cannot be read")?;
        Ok(Self {
            rules,
            sets: Sets::default(),
            servers: VirtualServers::open(),
            routes: RefCell::default(),
            doubts: RefCell::default(),
        })
    }

    /// The modes of which something stands in the kernel.
    pub fn modes(&self) -> Vec<&'static str> {
        let has = |chain| self.rules.chain(Table::Nat, chain).is_some_and(|chain| !chain.rules.is_empty());
        let mut modes = Vec::new();
        if has(ChainName::from_static("KUBE-SERVICES")) {
            modes.push("iptables");
        }
        if has(names::services()) || self.servers.any() {
            modes.push("ipvs");
        }
        modes
    }

    /// Where the kernel sends something, each question asked once.
    pub fn route(&self, query: Query) -> routing::Answer {
        if let Some(known) = self.routes.borrow().get(&query) {
            return known.clone();
        }
        let answer = routing::route(&query).unwrap_or_else(|error| {
            self.doubts.borrow_mut().insert(error.to_string());
            routing::Answer::Nowhere(error.to_string())
        });
        self.routes.borrow_mut().insert(query, answer.clone());
        answer
    }

    /// Whether an address is the node's own.
    pub fn is_local(&self, address: IpAddr) -> bool {
        let query = Query { destination: address, source: None, input: None };
        matches!(self.route(query), routing::Answer::Local { .. })
    }

    /// What could not be read or followed.
    pub fn doubts(&self) -> Vec<String> {
        let own = self.doubts.borrow().iter().cloned().collect::<Vec<_>>();
        [own, self.sets.doubts(), self.servers.doubts()].concat()
    }

    /// Follows a packet, and says to whom its sender is bound.
    pub fn answer(&self, packet: &Packet) -> Answer {
        let trace = self.tracer().trace(packet);
        let mut answer = self.judge(&trace);
        let lists = affinity_lists(&trace);
        if !lists.is_empty() {
            answer.affinity_seconds = self.seconds_of(&lists);
            answer.sticks_to = self.remembered(packet, &lists);
        }
        answer.affinity_seconds = answer.affinity_seconds.or(self.servers.persistence.get());
        answer.sticks_to = answer.sticks_to.or(self.servers.sticks_to.get());
        answer
    }

    /// Who answers the connection that is open between these two, if one is.
    pub fn open_connection(&self, protocol: Protocol, from: SocketAddr, to: SocketAddr) -> Option<SocketAddr> {
        let number = match protocol {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        };
        let filter = conntrack::Filter {
            protocol: Some(number),
            destination: Some(to.ip()),
            destination_port: Some(to.port()),
            ..conntrack::Filter::family(IpFamily::of(to.ip()))
        };
        let mut found = None;
        let read = conntrack::Client::open().and_then(|mut client| {
            client.dump(&filter, |flow| {
                if flow.original.source == from {
                    found = Some(flow.reply);
                }
            })
        });
        if let Err(error) = read {
            self.doubts.borrow_mut().insert(format!("open connections could not be read: {error}"));
        }
        let reply = found?;
        if reply.source.ip() == IpAddr::V4(shadow::LOCALHOST_OUT) && reply.source != to {
            // Sent round by the detour for node ports on localhost, and tracked once more where it comes in again.
            return self.open_connection(protocol, reply.destination, reply.source);
        }
        Some(reply.source)
    }

    fn tracer(&self) -> Tracer<'_> {
        let [out, back] = DETOUR;
        Tracer::new(&self.rules)
            .locals(|address| self.is_local(address))
            .routing(|packet| self.route_of(packet))
            .sets(|set, packet, dirs| self.sets.find(set, packet, dirs))
            .balancer(|packet| self.servers.balance(packet))
            .cable(out, back)
    }

    fn route_of(&self, packet: &Packet) -> Route {
        let input = packet.in_interface.as_ref().map(ToString::to_string);
        let source = input.is_some().then_some(packet.source);
        match self.route(Query { destination: packet.destination, source, input }) {
            routing::Answer::Local { .. } => Route::Local,
            routing::Answer::Out { interface, .. } => Route::Via(interface.into()),
            routing::Answer::Nowhere(reason) => Route::Nowhere(reason.into()),
        }
    }

    fn judge(&self, trace: &Trace) -> Answer {
        let fates: BTreeSet<&'static str> = trace.outcomes.iter().map(fate).collect();
        let mut fates = fates.into_iter();
        let fate = match (fates.next(), fates.next()) {
            (Some(fate), None) => fate,
            _ => "mixed",
        };
        let mut endpoints: BTreeMap<SocketAddr, (f64, bool)> = BTreeMap::new();
        for outcome in trace.outcomes.iter().filter(|outcome| self::fate(outcome) == "balanced") {
            let entry = endpoints.entry(outcome.destination).or_insert((0.0, outcome.masqueraded));
            entry.0 += outcome.probability;
        }
        for unknown in trace.outcomes.iter().flat_map(|outcome| &outcome.unknown) {
            self.doubts.borrow_mut().insert(format!("not followed: {}", unknown.trim()));
        }
        let endpoint = |(address, (share, masqueraded))| Endpoint { address, share, masqueraded, pod: None };
        Answer {
            fate,
            service: None,
            kind: None,
            endpoints: endpoints.into_iter().map(endpoint).collect(),
            affinity_seconds: None,
            sticks_to: None,
            open_with: None,
            steps: trace.outcomes.first().map(steps).unwrap_or_default(),
        }
    }

    /// The endpoint with whose list of clients the sender is on.
    fn remembered(&self, packet: &Packet, lists: &BTreeSet<&str>) -> Option<SocketAddr> {
        let list = lists.iter().find(|list| recent::holds(list, packet.source))?;
        let tracer = self.tracer().recent(*list, packet.source);
        tracer.trace(packet).destinations().into_keys().next()
    }

    /// For how long lists count: what the rules that ask them say.
    fn seconds_of(&self, lists: &BTreeSet<&str>) -> Option<u32> {
        let chains = self.rules.tables.get(&Table::Nat)?.chains.values();
        let mut tests = chains.flat_map(|chain| &chain.rules).flat_map(|rule| &rule.matches);
        tests.find_map(|test| match test {
            Match::Recent(recent) if recent.action == RecentAction::Rcheck && lists.contains(&*recent.name) => {
                recent.seconds
            }
            _ => None,
        })
    }
}

/// The rules of a way, and how it ends. Chains in which nothing happened are left out.
fn steps(outcome: &Outcome) -> Vec<String> {
    let remarks = |after: usize| outcome.remarks.iter().filter(move |remark| remark.after == after);
    let mut steps: Vec<String> = remarks(0).map(|remark| remark.what.clone()).collect();
    for (index, step) in outcome.steps.iter().enumerate() {
        let entered = step.rule.target.as_ref().and_then(Target::chain);
        let next = outcome.steps.get(index + 1).map(|next| next.chain);
        if entered.is_none() || entered == next {
            steps.push(describe(step));
        }
        steps.extend(remarks(index + 1).map(|remark| remark.what.clone()));
    }
    steps.push(match &outcome.verdict {
        Verdict::Accept if outcome.delivered_locally => format!("delivered on the node, at {}", outcome.destination),
        Verdict::Accept => format!("sent on to {}", outcome.destination),
        other => other.to_string(),
    });
    steps
}

/// A rule with its comment behind it.
fn describe(step: &Step) -> String {
    let (mut matches, mut comment) = (Vec::new(), String::new());
    for test in &step.rule.matches {
        match test {
            Match::Comment(text) => comment = format!("  # {text}"),
            test => matches.push(test.clone()),
        }
    }
    let rule = Rule { matches, target: step.rule.target.clone() };
    format!("{} {} #{}: {rule}{comment}", step.table, step.chain, step.number)
}

fn fate(outcome: &Outcome) -> &'static str {
    match outcome.verdict {
        Verdict::Reject(_) => "refused",
        Verdict::Drop => "dropped",
        Verdict::Unroutable(_) => "unroutable",
        Verdict::Accept if outcome.translated || outcome.balanced => "balanced",
        Verdict::Accept => "untouched",
    }
}

/// The lists of clients of the endpoints that may get the packet.
fn affinity_lists(trace: &Trace) -> BTreeSet<&str> {
    trace.outcomes.iter().flat_map(|outcome| &outcome.remembered).map(|list| &**list).collect()
}
