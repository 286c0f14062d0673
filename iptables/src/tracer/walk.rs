//! One way of a packet through the hooks, with given decisions wherever chance decides.

use std::net::SocketAddr;
use std::sync::Arc;

use super::{Outcome, Packet, Step, Tracer, Verdict};
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
    probability: f64,
    /// Answers of chance: the first `decided` are given, those after them are made up as yes.
    decisions: Vec<bool>,
    used: usize,
    pub(super) remembered: Vec<Arc<str>>,
    steps: Vec<Step>,
    pub(super) unknown: Vec<String>,
}

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
            probability: 1.0,
            decisions,
            used: 0,
            remembered: Vec::new(),
            steps: Vec::new(),
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
            masqueraded: self.masqueraded,
            delivered_locally: self.tracer.is_local(self.packet.destination),
            mark: self.packet.mark,
            remembered: self.remembered,
            steps: self.steps,
            unknown: self.unknown,
        };
        self.decisions.truncate(self.used);
        (outcome, self.decisions)
    }

    /// Hooks and the tables in each, in the kernel's order; `Err` where the packet ends.
    fn hooks(&mut self) -> Result<(), Verdict> {
        use Table::{Filter, Mangle, Nat, Raw};
        if self.packet.in_interface.is_none() {
            self.routed();
            self.hook(ChainName::from_static("OUTPUT"), &[Raw, Mangle, Nat, Filter])?;
            self.routed();
            self.hook(ChainName::from_static("POSTROUTING"), &[Mangle, Nat])?;
            if !self.tracer.is_local(self.packet.destination) {
                return Ok(());
            }
            // Over loopback: translation was settled on the way out.
            self.packet.in_interface = Some("lo".into());
            self.packet.out_interface = None;
            self.hook(ChainName::from_static("PREROUTING"), &[Raw, Mangle])?;
            return self.hook(ChainName::from_static("INPUT"), &[Mangle, Filter]);
        }
        self.hook(ChainName::from_static("PREROUTING"), &[Raw, Mangle, Nat])?;
        if self.tracer.is_local(self.packet.destination) {
            return self.hook(ChainName::from_static("INPUT"), &[Mangle, Filter, Nat]);
        }
        self.routed();
        self.hook(ChainName::from_static("FORWARD"), &[Mangle, Filter])?;
        self.hook(ChainName::from_static("POSTROUTING"), &[Mangle, Nat])
    }

    /// The routing decision.
    fn routed(&mut self) {
        let local = self.tracer.is_local(self.packet.destination);
        let interface = if local { Some("lo".into()) } else { self.tracer.out_interface(self.packet.destination) };
        if interface.is_some() {
            self.packet.out_interface = interface;
        }
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
