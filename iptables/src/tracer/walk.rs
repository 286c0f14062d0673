//! One way of a packet through the hooks, with given decisions wherever chance decides.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

use super::{Outcome, Packet, Remark, Route, Step, Tracer, Verdict};
use crate::{ChainName, CtState, DnatTo, Policy, RecentMatch, Rule, SetAction, Table, Target};

/// The kernel refuses loops; a ruleset that is only planned may have one.
const MAX_DEPTH: usize = 64;

pub(super) struct Walk<'t, 'a> {
    pub(super) tracer: &'t Tracer<'a>,
    pub(super) packet: Packet,
    /// Destination before any translation.
    pub(super) original: SocketAddr,
    pub(super) translated: bool,
    pub(super) masqueraded: bool,
    balanced: bool,
    /// The source that a SNAT gives, once the packet is out.
    new_source: Option<IpAddr>,
    probability: f64,
    /// Answers of chance: the first `decided` are given, those after them are made up as yes.
    decisions: Vec<bool>,
    used: usize,
    pub(super) remembered: Vec<Arc<str>>,
    steps: Vec<Step>,
    remarks: Vec<Remark>,
    /// Where it was sent last.
    route: Option<Route>,
    pub(super) unknown: Vec<String>,
}

const OUTPUT: ChainName = ChainName::from_static("OUTPUT");
const INPUT: ChainName = ChainName::from_static("INPUT");
const POSTROUTING: ChainName = ChainName::from_static("POSTROUTING");

/// How a chain was left.
enum Flow {
    /// At its end, or by RETURN.
    Through,
    /// This table is done with the packet.
    Accept,
    /// The packet is gone.
    Gone(Verdict),
}

impl<'t, 'a> Walk<'t, 'a> {
    pub(super) fn new(tracer: &'t Tracer<'a>, packet: &Packet, decisions: Vec<bool>) -> Self {
        Self {
            tracer,
            packet: packet.clone(),
            original: SocketAddr::new(packet.destination, packet.destination_port),
            translated: false,
            masqueraded: false,
            balanced: false,
            new_source: None,
            probability: 1.0,
            decisions,
            used: 0,
            remembered: Vec::new(),
            steps: Vec::new(),
            remarks: Vec::new(),
            route: None,
            unknown: Vec::new(),
        }
    }

    /// The outcome, and all decisions that led to it.
    pub(super) fn run(mut self) -> (Outcome, Vec<bool>) {
        let verdict = self.hooks().err().unwrap_or(Verdict::Accept);
        let outcome = Outcome {
            probability: self.probability,
            verdict,
            destination: SocketAddr::new(self.packet.destination, self.packet.destination_port),
            translated: self.translated,
            balanced: self.balanced,
            masqueraded: self.masqueraded,
            delivered_locally: self.tracer.is_local(self.packet.destination),
            mark: self.packet.mark,
            remembered: self.remembered,
            steps: self.steps,
            remarks: self.remarks,
            unknown: self.unknown,
        };
        self.decisions.truncate(self.used);
        (outcome, self.decisions)
    }

    /// Hooks and the tables in each, in the kernel's order; `Err` where the packet ends.
    fn hooks(&mut self) -> Result<(), Verdict> {
        use Table::{Filter, Mangle, Nat, Raw};
        if self.packet.in_interface.is_none() {
            self.routed()?;
            self.hook(OUTPUT, &[Raw, Mangle, Nat])?;
            if self.balance()? {
                return self.sent_by_ipvs();
            }
            self.hook(OUTPUT, &[Filter])?;
            return self.sent();
        }
        self.hook(ChainName::from_static("PREROUTING"), &[Raw, Mangle, Nat])?;
        if self.routed()? {
            self.hook(INPUT, &[Mangle, Filter])?;
            if self.balance()? && !self.tracer.is_local(self.packet.destination) {
                return self.sent_by_ipvs();
            }
            return self.hook(INPUT, &[Nat]);
        }
        self.hook(ChainName::from_static("FORWARD"), &[Mangle, Filter])?;
        self.hook(POSTROUTING, &[Mangle, Nat])?;
        self.through_cable()
    }

    /// What IPVS sends passes OUTPUT once more (`ip_vs_nat_send_or_cont`). Its connection's destination is settled, so nat
    /// is not asked again.
    fn sent_by_ipvs(&mut self) -> Result<(), Verdict> {
        self.routed()?;
        self.hook(OUTPUT, &[Table::Raw, Table::Mangle, Table::Filter])?;
        self.sent()
    }

    /// From OUTPUT on.
    fn sent(&mut self) -> Result<(), Verdict> {
        self.routed()?;
        self.hook(POSTROUTING, &[Table::Mangle, Table::Nat])?;
        if !self.tracer.is_local(self.packet.destination) {
            return self.through_cable();
        }
        // Over loopback: translation was settled on the way out.
        self.packet.in_interface = Some("lo".into());
        self.packet.out_interface = None;
        self.hook(ChainName::from_static("PREROUTING"), &[Table::Raw, Table::Mangle])?;
        self.hook(INPUT, &[Table::Mangle, Table::Filter])
    }

    /// A packet that leaves by a cable which leads back begins anew at its other end.
    fn through_cable(&mut self) -> Result<(), Verdict> {
        let Some((out, back)) = &self.tracer.surroundings.cable else { return Ok(()) };
        if self.packet.out_interface.as_ref() != Some(out) {
            return Ok(());
        }
        self.remark(format!("leaves by {out}, comes back in by {back}"));
        self.packet.in_interface = Some(Arc::clone(back));
        self.packet.out_interface = None;
        self.packet.mark = 0;
        self.packet.source = self.new_source.take().unwrap_or(self.packet.source);
        self.original = SocketAddr::new(self.packet.destination, self.packet.destination_port);
        self.route = None;
        self.hooks()
    }

    /// Lets IPVS choose; whether it did.
    fn balance(&mut self) -> Result<bool, Verdict> {
        let Some(balancer) = &self.tracer.surroundings.balancer else { return Ok(false) };
        if self.balanced {
            return Ok(false);
        }
        let Some(balancing) = balancer(&self.packet) else { return Ok(false) };
        self.remark(balancing.to_string());
        let mut left: f64 = balancing.destinations.iter().map(|(_, share)| share).sum();
        let last = balancing.destinations.len().saturating_sub(1);
        for (index, (destination, share)) in balancing.destinations.iter().enumerate() {
            if index == last || self.decide(share / left) {
                self.balanced = true;
                self.packet.destination = destination.ip();
                self.packet.destination_port = destination.port();
                return Ok(true);
            }
            left -= share;
        }
        Err(Verdict::Reject(None))
    }

    /// The routing decision; whether the node itself is where it goes.
    fn routed(&mut self) -> Result<bool, Verdict> {
        let route = self.tracer.route_of(&self.packet);
        if route != self.route {
            match &route {
                Some(Route::Local) => self.remark("route: to the node itself".to_owned()),
                Some(Route::Via(interface)) => self.remark(format!("route: out by {interface}")),
                Some(Route::Nowhere(_)) | None => {}
            }
            self.route.clone_from(&route);
        }
        match route {
            Some(Route::Local) => {
                if self.packet.in_interface.is_none() {
                    self.packet.out_interface = Some("lo".into());
                }
                Ok(true)
            }
            Some(Route::Via(interface)) => {
                self.packet.out_interface = Some(interface);
                Ok(false)
            }
            Some(Route::Nowhere(reason)) => {
                self.remark(format!("route: {reason}"));
                Err(Verdict::Unroutable(reason))
            }
            None => Ok(false),
        }
    }

    fn remark(&mut self, what: String) {
        self.remarks.push(Remark { after: self.steps.len(), what });
    }

    fn hook(&mut self, builtin: ChainName, tables: &[Table]) -> Result<(), Verdict> {
        for table in tables {
            // The kernel consults nat for the first packet of a connection only.
            if *table == Table::Nat && !matches!(self.packet.state, CtState::New | CtState::Related) {
                continue;
            }
            let tracer = self.tracer;
            let Some(chain) = tracer.rules.chain(*table, builtin) else { continue };
            match self.chain(*table, builtin, 0) {
                Flow::Gone(verdict) => return Err(verdict),
                Flow::Through if chain.policy == Some(Policy::Drop) => return Err(Verdict::Drop),
                Flow::Through | Flow::Accept => {}
            }
        }
        Ok(())
    }

    fn chain(&mut self, table: Table, name: ChainName, depth: usize) -> Flow {
        let tracer = self.tracer;
        let Some(chain) = tracer.rules.chain(table, name).filter(|_| depth < MAX_DEPTH) else {
            self.unknown.push(format!("chain {name} of table {table}"));
            return Flow::Through;
        };
        for (index, rule) in chain.rules.iter().enumerate() {
            if !self.rule_matches(rule) {
                continue;
            }
            self.steps.push(Step { table, chain: name, number: index + 1, rule: rule.clone() });
            let Some(target) = &rule.target else { continue };
            match target {
                Target::Jump(to) => match self.chain(table, *to, depth + 1) {
                    Flow::Through => {}
                    left => return left,
                },
                Target::Goto(to) => return self.chain(table, *to, depth + 1),
                Target::Return => return Flow::Through,
                Target::Accept => return Flow::Accept,
                Target::Drop => return Flow::Gone(Verdict::Drop),
                Target::Reject { with } => return Flow::Gone(Verdict::Reject(with.clone())),
                other => {
                    if self.changes(other) {
                        return Flow::Accept;
                    }
                }
            }
        }
        Flow::Through
    }

    /// A target that changes the packet; whether the table is done with it then.
    fn changes(&mut self, target: &Target) -> bool {
        match target {
            Target::Dnat { to, .. } => {
                self.translated = true;
                match to {
                    DnatTo::Address(address) => self.packet.destination = *address,
                    DnatTo::Endpoint(endpoint) => {
                        self.packet.destination = endpoint.ip();
                        self.packet.destination_port = endpoint.port();
                    }
                }
                true
            }
            Target::Masquerade { .. } => {
                self.masqueraded = true;
                true
            }
            Target::Mark { value, mask } => {
                self.packet.mark = self.packet.mark & !mask ^ value;
                false
            }
            Target::Set(set) => {
                if let SetAction::Map { mark: true, .. } = set.action
                    && let Some((value, mask)) =
                        (self.tracer.sets)(&set.name, &self.packet, &set.dirs).and_then(|entry| entry.mark)
                {
                    self.packet.mark = self.packet.mark & !mask ^ value;
                }
                false
            }
            Target::Other(text) if text.starts_with("SNAT ") => {
                self.masqueraded = true;
                self.new_source = text.strip_prefix("SNAT --to-source ").and_then(|to| to.trim().parse().ok());
                true
            }
            Target::Other(text) if text.starts_with("NETMAP --to ") => {
                let net = text.strip_prefix("NETMAP --to ").and_then(|net| net.trim().parse().ok());
                match net.map(|net| mapped(self.packet.destination, net)) {
                    Some(destination) => {
                        self.translated = true;
                        self.packet.destination = destination;
                    }
                    None => self.unknown.push(format!("-j {text}")),
                }
                true
            }
            Target::Other(text) => {
                self.unknown.push(format!("-j {text}"));
                false
            }
            _ => false,
        }
    }

    fn rule_matches(&mut self, rule: &Rule) -> bool {
        // In order, and no further than the first no: later tests may have effects.
        rule.matches.iter().all(|test| {
            self.passes(test).unwrap_or_else(|| {
                self.unknown.push(Rule { matches: vec![test.clone()], target: None }.to_string());
                false
            })
        })
    }

    /// One throw of the dice.
    pub(super) fn decide(&mut self, probability: f64) -> bool {
        if probability <= 0.0 || probability >= 1.0 {
            return probability >= 1.0;
        }
        let answer = match self.decisions.get(self.used) {
            Some(answer) => *answer,
            None => {
                self.decisions.push(true);
                true
            }
        };
        self.used += 1;
        self.probability *= if answer { probability } else { 1.0 - probability };
        answer
    }

    /// Whether the list holds the packet's address, either from before or because a rule on the way put it there.
    pub(super) fn is_remembered(&self, recent: &RecentMatch) -> bool {
        let address = if recent.destination { self.packet.destination } else { self.packet.source };
        self.tracer.recent.contains(&(Arc::clone(&recent.name), address)) || self.remembered.contains(&recent.name)
    }
}

/// `-j NETMAP --to NET`: the network's bits in front, the address's own behind.
fn mapped(address: IpAddr, net: IpNet) -> IpAddr {
    match (address, net) {
        (IpAddr::V4(ip), IpNet::V4(net)) => {
            IpAddr::V4((net.network().to_bits() | ip.to_bits() & net.hostmask().to_bits()).into())
        }
        (IpAddr::V6(ip), IpNet::V6(net)) => {
            IpAddr::V6((net.network().to_bits() | ip.to_bits() & net.hostmask().to_bits()).into())
        }
        (address, _) => address,
    }
}
