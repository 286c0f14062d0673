//! Carries out the steps of IPVS mode. Neighbouring steps of one kind go to the kernel in batches; every step has its
//! own result, and the belief moves only for those that the kernel acknowledged.

use super::names::Set;
use super::observed::Observed;
use super::order::Broken;
use super::verdict::{Verdict, aftermath_of, taken, unserved};
use super::{Ipvs, Op, Ours};
use crate::backend::rules::{RuleOp, Writer};
use crate::backend::{Aftermath, Failure};
use crate::kernel::ipset::SetCommand;
use crate::model::IpFamily;
use ipvs::{Command, Scheduler};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;
use tracing::trace;

/// What carries a step out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Means {
    Sysctl,
    Link,
    Sets,
    Routes,
    Bridges,
    Addresses,
    Rules,
    Ipvs,
    Nothing,
}

fn means(op: &Op) -> Means {
    match op {
        Op::Sysctl(_) => Means::Sysctl,
        Op::MakeInterface | Op::DeleteInterface | Op::MakeDetour | Op::DeleteDetour => Means::Link,
        Op::MakeSet(_) | Op::DestroySet(_) | Op::AddEntry(..) | Op::DeleteEntry(..) => Means::Sets,
        Op::Route(_) | Op::Unroute(_) => Means::Routes,
        Op::Bridge(_) | Op::Unbridge(_) => Means::Bridges,
        Op::AddAddress(_) | Op::DeleteAddress(_) => Means::Addresses,
        Op::Rule(_) => Means::Rules,
        Op::Ipvs(_) => Means::Ipvs,
        Op::LeaveAlone(_) => Means::Nothing,
    }
}

/// What a step can share a batch with: steps that wait for others of the same means are no part of theirs.
fn batch_of(op: &Op) -> (Means, u8) {
    let turn = match op {
        Op::AddEntry(set, _) if set.diverts() => 1,
        Op::DeleteEntry(..) => 2,
        Op::DestroySet(_) => 3,
        _ => 0,
    };
    (means(op), turn)
}

pub(in crate::backend) fn failure(op: &Op, reason: impl ToString) -> Failure {
    let of_one = match op {
        // Timeouts are everybody's.
        Op::Ipvs(command) => command.service().is_some(),
        // So are ranges of addresses.
        Op::AddEntry(set, _) | Op::DeleteEntry(set, _) => *set != Set::Addresses,
        _ => false,
    };
    Failure { step: op.to_string(), reason: reason.to_string(), aftermath: Aftermath::Unknown, of_one }
}

/// A step that the kernel answered with an error.
fn answered<E: Verdict + ToString>(op: &Op, error: E) -> Failure {
    Failure { aftermath: error.aftermath(), ..failure(op, error) }
}

/// The outcome of a batch of one step.
fn first<E: Verdict + ToString>(op: &Op, outcome: Vec<Result<(), E>>) -> Result<(), Failure> {
    outcome.into_iter().next().unwrap_or(Ok(())).map_err(|error| answered(op, error))
}

impl Ipvs {
    pub(super) fn apply_all(&mut self, family: IpFamily, plan: Vec<Op>, observed: &mut Observed) -> Vec<Failure> {
        let mut failures = Vec::new();
        let mut broken = Broken::default();
        let mut rest = plan.as_slice();
        while let Some(first) = rest.first() {
            let shared = batch_of(first);
            let (kind, _) = shared;
            let count = rest.iter().take_while(|op| batch_of(op) == shared).count();
            let (batch, tail) = rest.split_at(count);
            rest = tail;
            let started = Instant::now();
            let waits = |op: &Op, reason| Failure { aftermath: Aftermath::Refused, ..failure(op, reason) };
            let possible = broken.possible(batch, |op, reason| failures.push(waits(op, reason)));
            self.apply_batch(family, kind, &possible, observed, &mut broken, &mut failures);
            trace!(%family, ?kind, steps = count, elapsed = ?started.elapsed(), "carried out");
        }
        if !broken.taken.is_empty() {
            self.give_back(broken.taken, observed);
        }
        failures
    }

    fn apply_batch(
        &mut self,
        family: IpFamily,
        kind: Means,
        ops: &[Op],
        observed: &mut Observed,
        broken: &mut Broken,
        failures: &mut Vec<Failure>,
    ) {
        let results: Vec<Result<(), Failure>> = match kind {
            Means::Rules => return self.apply_rules(family, ops, observed, failures),
            Means::Sysctl | Means::Link | Means::Nothing => ops.iter().map(|op| self.apply_single(op)).collect(),
            Means::Sets => self.apply_sets(family, ops),
            Means::Routes => self.apply_routes(ops, observed),
            Means::Bridges | Means::Addresses => self.apply_one_by_one(ops),
            Means::Ipvs => self.apply_commands(ops, broken),
        };
        for (op, result) in ops.iter().zip(results) {
            match result {
                Ok(()) => observed.acknowledge(op),
                Err(failure) => {
                    broken.note(op);
                    failures.push(failure);
                }
            }
        }
    }

    fn apply_single(&mut self, op: &Op) -> Result<(), Failure> {
        match op {
            Op::Sysctl(setting) => self
                .sysctl
                .ensure(setting)
                .map_err(|error| Failure { aftermath: Aftermath::Lasting, ..failure(op, error) }),
            Op::MakeInterface => self.interface.ensure_dummy().map(drop).map_err(|error| failure(op, error)),
            Op::DeleteInterface => self.interface.delete().map(drop).map_err(|error| failure(op, error)),
            Op::MakeDetour => self.detour.ensure().map_err(|error| failure(op, error)),
            Op::DeleteDetour => self.detour.delete().map_err(|error| failure(op, error)),
            _ => Err(Failure {
                aftermath: Aftermath::Lasting,
                ..failure(
                    op,
                    "another program made it; delete it there, or take the address or node port from the Service",
                )
            }),
        }
    }

    fn apply_sets(&mut self, family: IpFamily, ops: &[Op]) -> Vec<Result<(), Failure>> {
        let command = |op: &Op| {
            Some(match op {
                Op::MakeSet(set) => SetCommand::Create(set.spec(family)),
                Op::DestroySet(set) => SetCommand::Destroy(set.name(family).to_owned()),
                Op::AddEntry(set, entry) => {
                    SetCommand::Add { set: set.name(family).to_owned(), entry: (*entry).into() }
                }
                Op::DeleteEntry(set, entry) => SetCommand::Delete { set: set.name(family).to_owned(), entry: (*entry) },
                _ => return None,
            })
        };
        let commands: Vec<SetCommand> = ops.iter().filter_map(command).collect();
        self.effort.messages += commands.len() as u64;
        self.effort.syscalls += 2 * commands.len().div_ceil(100) as u64;
        let results = self.sets.batch(&commands);
        let lenient = |(op, result): (&Op, Result<(), crate::kernel::ipset::IpsetError>)| match (op, result) {
            (_, Ok(())) => Ok(()),
            (Op::AddEntry(..), Err(error)) if error.is_already_there() => Ok(()),
            (Op::DeleteEntry(..) | Op::DestroySet(_), Err(error)) if error.is_already_gone() => Ok(()),
            (op, Err(error)) => Err(answered(op, error)),
        };
        ops.iter().zip(results).map(lenient).collect()
    }

    fn apply_routes(&mut self, ops: &[Op], observed: &Observed) -> Vec<Result<(), Failure>> {
        let mut results = Vec::with_capacity(ops.len());
        let mut rest = ops;
        // Additions and deletions apart, so that the results stand in the order of the steps.
        while let Some(first) = rest.first() {
            let adding = matches!(first, Op::Route(_));
            let count = rest.iter().take_while(|op| matches!(op, Op::Route(_)) == adding).count();
            let (batch, tail) = rest.split_at(count);
            rest = tail;
            let routes: Vec<_> = batch
                .iter()
                .filter_map(|op| if let Op::Route(route) | Op::Unroute(route) = op { Some(*route) } else { None })
                .collect();
            self.effort.messages += routes.len() as u64;
            self.effort.syscalls += 2 * routes.len().div_ceil(100) as u64;
            // Named on both sides a route is replaced in place: for one whose source address changes. A new one must
            // not replace anybody's.
            let outcome = if adding {
                let known: Vec<_> =
                    routes.iter().filter(|route| observed.routes.contains_key(&route.net)).copied().collect();
                let mut outcome = self.interface.change_routes(&routes, &known);
                outcome.truncate(routes.len());
                outcome
            } else {
                self.interface.change_routes(&[], &routes)
            };
            results.extend(batch.iter().zip(outcome).map(|(op, result)| match result {
                Err(error) if !adding && error.is_already_gone() => Ok(()),
                result => result.map_err(|error| answered(op, error)),
            }));
        }
        results
    }

    /// Steps of which each is a message of its own.
    fn apply_one_by_one(&mut self, ops: &[Op]) -> Vec<Result<(), Failure>> {
        let each = |op: &Op| {
            self.effort.messages += 1;
            self.effort.syscalls += 2;
            match op {
                Op::Bridge(route) => first(op, self.loopback.change_routes(&[*route], &[])),
                Op::Unbridge(route) => {
                    let mut outcome = self.loopback.change_routes(&[], &[*route]);
                    outcome.retain(|result| !matches!(result, Err(error) if error.is_already_gone()));
                    first(op, outcome)
                }
                Op::AddAddress(net) => first(op, self.interface.change_addresses(&[*net], &[])),
                Op::DeleteAddress(net) => first(op, self.interface.change_addresses(&[], &[*net])),
                _ => Ok(()),
            }
        };
        ops.iter().map(each).collect()
    }

    fn apply_commands(&mut self, ops: &[Op], broken: &mut Broken) -> Vec<Result<(), Failure>> {
        let commands: Vec<Command> =
            ops.iter().filter_map(|op| if let Op::Ipvs(command) = op { Some(command.clone()) } else { None }).collect();
        let results = self.client.execute_batch(&commands);
        for (command, result) in commands.iter().zip(&results) {
            if let Err(error) = result {
                self.learn_missing_scheduler(command, error);
                broken.taken.extend(taken(command, error).map(|id| (id, Vec::new())));
            } else if let Command::AddDestination { service, destination } = command
                && let Some(undo) = broken.taken.get_mut(service)
            {
                let (address, port) = (destination.address, destination.port);
                undo.push(Command::DeleteDestination { service: *service, address, port });
            }
            self.forget_drained(command);
        }
        let unserved =
            unserved(commands.iter().zip(&results).filter_map(|(of, result)| Some((of, result.as_ref().err()?))));
        let each = |(op, result): (&Op, Result<(), ipvs::Error>)| match (op, result) {
            (_, Ok(())) => Ok(()),
            (Op::Ipvs(Command::DeleteService(_) | Command::DeleteDestination { .. }), Err(error))
                if error.is_not_there() =>
            {
                Ok(())
            }
            (Op::Ipvs(command), Err(error)) => {
                Err(Failure { aftermath: aftermath_of(command, &error, &unserved), ..failure(op, error) })
            }
            (op, Err(error)) => Err(answered(op, error)),
        };
        ops.iter().zip(results).map(each).collect()
    }

    /// Should it be there still, the next reading counts from then.
    fn forget_drained(&mut self, command: &Command) {
        match command {
            Command::DeleteDestination { service, address, port } => {
                self.drained.remove(&(*service, SocketAddr::new(*address, *port)));
            }
            Command::DeleteService(id) => self.drained.retain(|(service, _), _| service != id),
            _ => {}
        }
    }

    /// `ENOENT` to a virtual server means that its scheduler is not there (`ip_vs_add_service`). The next round uses
    /// another one: a wish for a scheduler must not cost a Service its traffic.
    pub(super) fn learn_missing_scheduler(&mut self, command: &Command, error: &ipvs::Error) {
        let (Command::AddService(service) | Command::SetService(service)) = command else { return };
        let missing = error.errno() == Some(nix::errno::Errno::ENOENT as i32) && service.scheduler != Scheduler::Rr;
        if missing && Arc::make_mut(&mut self.missing).insert(service.scheduler) {
            let (name, module) = (service.scheduler, service.scheduler.module());
            tracing::warn!(
                "this kernel has no scheduler {name} (module {module}); rr (wrr where there are weights) is used instead"
            );
        }
    }

    fn apply_rules(&mut self, family: IpFamily, ops: &[Op], observed: &mut Observed, failures: &mut Vec<Failure>) {
        let rules: Vec<RuleOp> =
            ops.iter().filter_map(|op| if let Op::Rule(op) = op { Some(op.clone()) } else { None }).collect();
        let Some(commands) = self.commands.get(family) else {
            let reason = format!("no iptables-restore for {family} was found");
            return failures.extend(ops.iter().map(|op| failure(op, &reason)));
        };
        let mut writer = Writer::new(commands, &Ours);
        failures.extend(writer.write(rules, &mut observed.rules));
        let effort = writer.effort;
        self.effort += effort;
    }
}
