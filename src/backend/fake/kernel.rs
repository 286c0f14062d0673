//! The state of the kernel in memory, in one family, and its refusals.

use crate::backend::ipvs::names::Set;
use crate::backend::ipvs::{FoundServer, Op};
use crate::backend::rules::{Refusal, Run};
use crate::kernel::interface::{FoundDetour, LocalRoute};
use crate::kernel::ipset::Entry;
use ipnet::IpNet;
use iptables::{Saved, Transaction};
use ipvs::{Command, ServiceId};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

/// The kernel.
#[derive(Debug, Clone, Default)]
pub struct FakeKernel {
    pub tables: Saved,
    pub servers: BTreeMap<ServiceId, FoundServer>,
    pub sets: BTreeMap<Set, BTreeSet<Entry>>,
    pub routes: BTreeMap<IpNet, LocalRoute>,
    pub interface: bool,
    pub detour: FoundDetour,
    pub refusals: Vec<String>,
    /// Calls so far.
    pub calls: u64,
    /// After so many calls whoever made them is dead: nothing happens any more.
    pub dead_after: Option<u64>,
    /// The device is somebody else's.
    pub takes_no_routes: bool,
    /// It refuses what has this in it.
    pub refuses: Option<&'static str>,
    faults_per_thousand: u32,
    random: u64,
}

impl FakeKernel {
    pub fn new(faults_per_thousand: u32, seed: u64) -> Self {
        Self { faults_per_thousand, random: seed | 1, ..Self::default() }
    }

    /// From now on nothing fails.
    pub fn heal(&mut self) {
        self.falter(0);
    }

    /// From now on this many calls in a thousand fail.
    pub fn falter(&mut self, faults_per_thousand: u32) {
        self.faults_per_thousand = faults_per_thousand;
    }

    /// Whether the program was killed.
    pub fn is_dead(&self) -> bool {
        self.dead_after.is_some_and(|calls| self.calls > calls)
    }

    /// Whether this call fails (xorshift64: the same seed fails the same calls).
    pub fn fails(&mut self) -> bool {
        self.calls += 1;
        if self.is_dead() {
            return true;
        }
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % 1000 < u64::from(self.faults_per_thousand)
    }

    /// A call that may fail. Where it does by accident, it may have been carried out for all that, and only sometimes it is
    /// known that it was not.
    fn call(
        &mut self,
        what: &impl ToString,
        carry_out: impl FnOnce(&mut Self) -> Result<(), String>,
    ) -> Result<(), Refusal> {
        if self.fails() {
            let nothing_done = !self.is_dead() && self.random.is_multiple_of(2);
            if !self.is_dead() && !nothing_done && self.random.is_multiple_of(3) {
                let _ = carry_out(self);
            }
            return Err(Refusal { reason: "injected fault".into(), nothing_done });
        }
        let what = what.to_string();
        if self.refuses.is_some_and(|text| what.contains(text)) {
            let reason = "Protocol not supported".to_owned();
            self.refusals.push(format!("{what}: {reason}"));
            return Err(Refusal { reason, nothing_done: true });
        }
        carry_out(self).map_err(|reason| {
            self.refusals.push(format!("{what}: {reason}"));
            // It is not what it was taken for.
            Refusal { reason, nothing_done: false }
        })
    }

    /// Carries out a step of IPVS mode other than a rule.
    pub fn execute(&mut self, op: &Op) -> Result<(), Refusal> {
        self.call(op, |kernel| kernel.try_execute(op))
    }

    fn try_execute(&mut self, op: &Op) -> Result<(), String> {
        match op {
            Op::MakeInterface => self.interface = true,
            Op::DeleteInterface => {
                self.interface = false;
                self.routes.clear();
            }
            Op::MakeDetour => self.detour = FoundDetour::Whole,
            Op::DeleteDetour => self.detour = FoundDetour::Missing,
            Op::MakeSet(set) => refuse(self.sets.insert(*set, BTreeSet::new()).is_some(), "EEXIST")?,
            Op::DestroySet(set) => {
                let name = set.name(crate::model::IpFamily::V4);
                refuse(
                    self.tables.tables.values().any(|table| format!("{table:?}").contains(&format!("\"{name}\""))),
                    "EBUSY",
                )?;
                refuse(self.sets.remove(set).is_none(), "ENOENT")?;
            }
            Op::AddEntry(set, entry) => {
                refuse(!self.sets.get_mut(set).ok_or("no such set")?.insert(*entry), "EEXIST")?;
            }
            Op::DeleteEntry(set, entry) => {
                refuse(!self.sets.get_mut(set).ok_or("no such set")?.remove(entry), "ENOENT")?;
            }
            Op::Route(route) => {
                refuse(!self.interface || self.takes_no_routes, "ENODEV")?;
                self.routes.insert(route.net, *route);
            }
            Op::Unroute(route) => refuse(self.routes.remove(&route.net).is_none(), "ESRCH")?,
            Op::Ipvs(command) => self.command(command)?,
            Op::Bridge(_) | Op::Unbridge(_) => {}
            Op::Sysctl(_) | Op::AddAddress(_) | Op::DeleteAddress(_) | Op::Rule(_) | Op::LeaveAlone(_) => {}
        }
        Ok(())
    }

    fn command(&mut self, command: &Command) -> Result<(), String> {
        match command {
            Command::AddService(service) => {
                let server = FoundServer { service: service.clone(), destinations: Default::default() };
                refuse(self.servers.insert(service.id, server).is_some(), "EEXIST")
            }
            Command::SetService(service) => {
                self.servers.get_mut(&service.id).ok_or("ESRCH")?.service = service.clone();
                Ok(())
            }
            Command::DeleteService(id) => refuse(self.servers.remove(id).is_none(), "ESRCH"),
            Command::AddDestination { service, destination } | Command::SetDestination { service, destination } => {
                let server = self.servers.get_mut(service).ok_or("ESRCH")?;
                let address = SocketAddr::new(destination.address, destination.port);
                let known = server.destinations.contains_key(&address);
                let adding = matches!(command, Command::AddDestination { .. });
                refuse(adding && known, "EEXIST")?;
                refuse(!adding && !known, "ENOENT")?;
                let found = crate::backend::ipvs::FoundDestination {
                    weight: destination.weight,
                    masqueraded: true,
                    connections: 0,
                    drained_since: None,
                };
                server.destinations.insert(address, found);
                Ok(())
            }
            Command::DeleteDestination { service, address, port } => {
                let server = self.servers.get_mut(service).ok_or("ESRCH")?;
                refuse(server.destinations.remove(&SocketAddr::new(*address, *port)).is_none(), "ENOENT")
            }
            _ => Err("not used".into()),
        }
    }
}

fn refuse(condition: bool, errno: &str) -> Result<(), String> {
    if condition { Err(errno.to_owned()) } else { Ok(()) }
}

impl Run for &mut FakeKernel {
    fn steps_per_run(&self) -> usize {
        7
    }

    fn run(&mut self, transaction: &Transaction) -> Result<(), Refusal> {
        self.call(transaction, |kernel| kernel.tables.apply(transaction).map_err(|error| error.to_string()))
    }
}
