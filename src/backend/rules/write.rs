//! Carries out steps through iptables-restore: one run for a change, chunks for a cold start, and a search for the
//! culprit when the kernel refuses a run, so that one bad object never stops the others.

use super::found::{Ownership, target_chain};
use super::{Found, RuleOp};
use crate::backend::{Aftermath, Effort, Failure};
use iptables::{Chain, ChainName, Commands, Rule, Table, Transaction};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Runs spent on finding what the kernel refuses, in one sync. What is left is tried again with the next one.
const SEARCH_RUNS: usize = 64;

/// The chain in which rules are tried out. It belongs to whoever has shared chains, in every table: where its removal
/// fails, or the program is killed before, the next round finds it and removes it.
pub fn scratch() -> ChainName {
    ChainName::from_static("KUBE-IPVS-SCRATCH")
}

/// Why a transaction did not come to the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What was said.
    pub reason: String,
    /// Whether it is known that nothing of it was written.
    pub nothing_done: bool,
}

/// What takes a transaction to the kernel as a whole, or not at all.
pub trait Run {
    /// Steps that are best put into one run. iptables-nft-restore is quadratic in the chains of one transaction
    /// (5,000 services in one take 108 s, in pieces 2 to 3 s), legacy rewrites the table with every run.
    fn steps_per_run(&self) -> usize;

    /// Runs a transaction.
    ///
    /// # Errors
    /// What was said; nothing of a table that is named in it was written then.
    fn run(&mut self, transaction: &Transaction) -> Result<(), Refusal>;
}

impl Run for &Commands {
    fn steps_per_run(&self) -> usize {
        self.chains_per_restore()
    }

    fn run(&mut self, transaction: &Transaction) -> Result<(), Refusal> {
        self.restore(transaction).map(drop).map_err(|error| {
            // Each table is written as a whole, one after the other. Who was killed may have written before.
            let ended = error.status().is_some_and(|status| status.code().is_some());
            Refusal { nothing_done: ended && transaction.tables().count() == 1, reason: error.to_string() }
        })
    }
}

/// Keeps what would have been run, and says that all went well.
#[derive(Debug)]
pub struct Recorder<'a> {
    /// Steps of a run at most.
    pub most: usize,
    /// The input of each run.
    pub texts: &'a mut Vec<String>,
}

impl Run for Recorder<'_> {
    fn steps_per_run(&self) -> usize {
        self.most
    }

    fn run(&mut self, transaction: &Transaction) -> Result<(), Refusal> {
        self.texts.push(transaction.render());
        Ok(())
    }
}

/// Writes the rules of one family.
#[derive(Debug)]
pub struct Writer<'a, R> {
    run: R,
    ownership: &'a dyn OwnershipDebug,
    /// Runs so far.
    pub effort: Effort,
    search: usize,
    /// Tables that take nothing at all, and why: found out once, not for each object.
    broken: BTreeMap<Table, String>,
    /// A run failed of which something may have been written.
    unsure: bool,
}

/// [`Ownership`] that can be printed.
pub trait OwnershipDebug: Ownership + std::fmt::Debug + Sync {}
impl<T: Ownership + std::fmt::Debug + Sync> OwnershipDebug for T {}

impl<'a, R: Run> Writer<'a, R> {
    /// A writer through this means.
    pub fn new(run: R, ownership: &'a dyn OwnershipDebug) -> Self {
        Self { run, ownership, effort: Effort::default(), search: SEARCH_RUNS, broken: BTreeMap::new(), unsure: false }
    }

    /// Carries out the steps. `found` moves forward for those that the kernel took.
    pub fn write(&mut self, ops: Vec<RuleOp>, found: &mut Found) -> Vec<Failure> {
        let mut failures = Vec::new();
        let leaves = ops.iter().all(removes);
        for phase in phases(ops) {
            let ways_in = phase.iter().filter(|op| leaves && is_way_in(op));
            let ways_in: Vec<String> = ways_in.map(ToString::to_string).collect();
            let before = failures.len();
            if !phase.is_empty() {
                self.write_phase(phase, found, &mut failures);
            }
            // Packets that still come in need what comes behind it: masquerading, say. The next round begins here again.
            if failures.iter().skip(before).any(|failure| ways_in.contains(&failure.step)) {
                break;
            }
        }
        self.tell_doubt(failures)
    }

    /// What was written in halves after a run of which nobody knows what it did may stand twice.
    fn tell_doubt(&self, mut failures: Vec<Failure>) -> Vec<Failure> {
        let told = failures.iter().any(|failure| failure.aftermath == Aftermath::Unknown);
        if self.unsure && !told {
            let (step, reason) = ("write rules".to_owned(), "a run failed, and maybe not all of it".to_owned());
            failures.push(Failure { step, reason, aftermath: Aftermath::Unknown, of_one: false });
        }
        failures
    }

    /// Carries out a few steps of one table, all or none of them.
    pub fn write_as_one(&mut self, ops: Vec<RuleOp>, found: &mut Found) -> Vec<Failure> {
        let search = std::mem::take(&mut self.search);
        let mut failures = Vec::new();
        if !ops.is_empty() {
            self.write_or_search(ops, found, &mut failures);
        }
        self.search = search;
        self.tell_doubt(failures)
    }

    fn write_phase(&mut self, ops: Vec<RuleOp>, found: &mut Found, failures: &mut Vec<Failure>) {
        let most = self.run.steps_per_run().max(1);
        if ops.len() <= most {
            return self.write_or_search(ops, found, failures);
        }
        // Leaf chains come first in a plan, so a prefix never jumps to what does not exist yet.
        let mut rest = ops;
        while !rest.is_empty() {
            let tail = rest.split_off(rest.len().min(most));
            self.write_or_search(std::mem::replace(&mut rest, tail), found, failures);
        }
    }

    fn write_or_search(&mut self, ops: Vec<RuleOp>, found: &mut Found, failures: &mut Vec<Failure>) {
        let reason = match self.run(&ops) {
            Ok(()) => return ops.iter().for_each(|op| found.acknowledge(op, self.ownership)),
            Err(reason) => reason,
        };
        self.effort.refused += 1;
        self.try_tables(&ops);
        let (lost, ops): (Vec<_>, Vec<_>) = ops.into_iter().partition(|op| self.broken.contains_key(&op.table()));
        if !lost.is_empty() {
            failures.extend(lost.iter().map(|op| Failure { of_one: false, ..self.refused(op, &reason) }));
            if !ops.is_empty() {
                self.write_or_search(ops, found, failures);
            }
            return;
        }
        if let [RuleOp::Write { table, chain, .. }] = ops.as_slice()
            && self.ownership.is_shared(*table, &chain.name)
            && chain.rules.len() > 1
        {
            return self.write_without_culprits(*table, chain, found, failures);
        }
        if ops.len() == 1 || self.search == 0 {
            return failures.extend(ops.iter().map(|op| self.refused(op, &reason)));
        }
        self.search -= 1;
        let mut first = ops;
        let second = first.split_off(first.len() / 2);
        self.write_or_search(first, found, failures);
        self.write_or_search(second, found, failures);
    }

    fn run(&mut self, ops: &[RuleOp]) -> Result<(), String> {
        if let Some(reason) = ops.iter().find_map(|op| self.broken.get(&op.table())) {
            return Err(reason.clone());
        }
        self.effort.restores += 1;
        self.run.run(&transaction(ops)).map_err(|refusal| {
            self.unsure |= !refusal.nothing_done;
            refusal.reason
        })
    }

    fn aftermath(&self) -> Aftermath {
        if self.unsure { Aftermath::Unknown } else { Aftermath::Refused }
    }

    /// Whether a rule is a single service's, in a chain that all share; those that lead on to another such chain are not.
    fn is_single(&self, table: Table, chain: &ChainName, rule: &Rule) -> bool {
        let leads_on = target_chain(rule).is_some_and(|to| self.ownership.is_shared(table, to));
        self.ownership.is_shared(table, chain) && !leads_on
    }

    fn refused(&self, op: &RuleOp, reason: &str) -> Failure {
        let of_one = match op {
            RuleOp::Write { table, chain, .. } => {
                let single = matches!(chain.rules.as_slice(), [rule] if self.is_single(*table, &chain.name, rule));
                single || self.ownership.is_of_one(*table, &chain.name)
            }
            RuleOp::Insert { table, chain, rule, .. } | RuleOp::Remove { table, chain, rule } => {
                self.is_single(*table, chain, rule)
            }
            RuleOp::Delete { table, name } => self.ownership.is_of_one(*table, name),
        };
        let aftermath = match op {
            RuleOp::Write { .. } | RuleOp::Insert { .. } => self.aftermath(),
            // What could not be taken away is not what it was taken for.
            RuleOp::Remove { .. } | RuleOp::Delete { .. } => Aftermath::Unknown,
        };
        Failure { step: op.to_string(), reason: reason.to_owned(), aftermath, of_one }
    }

    /// Where not even an empty chain can be made and deleted, what was refused is not to blame, and looking for a culprit
    /// among thousands of chains would take for ever.
    fn try_tables(&mut self, ops: &[RuleOp]) {
        let tables: BTreeSet<Table> = ops.iter().map(RuleOp::table).collect();
        for table in tables {
            if let Err(reason) = self.run(&[RuleOp::Delete { table, name: scratch() }]) {
                self.broken.insert(table, reason);
            }
        }
    }
}

impl<R: Run> Writer<'_, R> {
    /// A chain to which all services add rules must not fail as a whole because of one of them (a kernel without SCTP
    /// matching, say): what the kernel takes is tried out in a chain that nothing jumps to, then written.
    fn write_without_culprits(&mut self, table: Table, chain: &Chain, found: &mut Found, failures: &mut Vec<Failure>) {
        let mut accepted = Vec::new();
        self.try_out(table, &chain.name, &chain.rules, &mut accepted, failures);
        let chain = Arc::new(Chain { name: chain.name, rules: accepted });
        let op = RuleOp::Write { table, chain, replaces: false };
        match self.run(std::slice::from_ref(&op)) {
            Ok(()) => found.acknowledge(&op, self.ownership),
            Err(reason) => failures.push(self.refused(&op, &reason)),
        }
    }

    fn try_out(
        &mut self,
        table: Table,
        chain: &ChainName,
        rules: &[Rule],
        accepted: &mut Vec<Rule>,
        failures: &mut Vec<Failure>,
    ) {
        let scratch = scratch();
        let tried = Arc::new(Chain { name: scratch, rules: rules.to_vec() });
        let write = RuleOp::Write { table, chain: tried, replaces: false };
        let outcome = self.run(&[write]);
        let removed = self.run(&[RuleOp::Delete { table, name: scratch }]);
        // Where nothing was written, that is the trial of the table.
        if let (Err(_), Err(reason)) = (&outcome, &removed) {
            self.broken.insert(table, reason.clone());
        }
        let broken = self.broken.contains_key(&table);
        match outcome {
            Ok(()) => accepted.extend(rules.iter().cloned()),
            Err(reason) if rules.len() == 1 || broken => {
                let failure = |rule: &Rule| {
                    let of_one = !broken && self.is_single(table, chain, rule);
                    let step = format!("add to {table}/{chain}: {rule}");
                    Failure { step, reason: reason.clone(), aftermath: self.aftermath(), of_one }
                };
                failures.extend(rules.iter().map(failure));
            }
            Err(_) => {
                let (first, second) = rules.split_at(rules.len() / 2);
                self.try_out(table, chain, first, accepted, failures);
                self.try_out(table, chain, second, accepted, failures);
            }
        }
        if let Err(reason) = removed {
            let step = format!("delete chain {table}/{scratch}");
            // It is there, and nobody knows of it.
            failures.push(Failure { step, reason, aftermath: Aftermath::Unknown, of_one: false });
        }
    }
}

/// Refusals are put in before the translation goes, and taken out after it has come, so that no packet of a service
/// falls between the two tables.
///
/// Where the translation goes, what masquerades goes a transaction later: a packet that was translated and marked just before
/// is still on its way to POSTROUTING, and connection tracking holds to what its first packet met there.
fn phases(ops: Vec<RuleOp>) -> [Vec<RuleOp>; 4] {
    let leaves = ops.iter().any(is_way_in);
    let mut phases = [Vec::new(), Vec::new(), Vec::new(), Vec::new()];
    let [adds, translation, masquerade, removals] = &mut phases;
    for op in ops {
        match op.table() {
            Table::Nat if leaves && removes(&op) && !is_way_in(&op) => masquerade.push(op),
            Table::Nat => translation.push(op),
            _ if removes(&op) => removals.push(op),
            _ => adds.push(op),
        }
    }
    phases
}

fn removes(op: &RuleOp) -> bool {
    matches!(op, RuleOp::Remove { .. } | RuleOp::Delete { .. })
}

/// Whether a step takes out the jump by which packets reach the translation.
fn is_way_in(op: &RuleOp) -> bool {
    let RuleOp::Remove { table: Table::Nat, chain, .. } = op else { return false };
    ["PREROUTING", "OUTPUT"].contains(&chain.as_str())
}

fn transaction(ops: &[RuleOp]) -> Transaction {
    let mut transaction = Transaction::new();
    for op in ops {
        match op {
            RuleOp::Write { table, chain, .. } => {
                transaction.add_chain(*table, chain.clone());
            }
            RuleOp::Insert { table, chain, position, rule } => {
                transaction.insert_jump(*table, *chain, *position, rule.clone());
            }
            RuleOp::Remove { table, chain, rule } => {
                transaction.delete_jump(*table, *chain, rule.clone());
            }
            RuleOp::Delete { table, name } => {
                transaction.delete_chain(*table, *name);
            }
        }
    }
    transaction
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_masquerades_goes_after_the_way_in() {
        let name = ChainName::from_static;
        let remove = |table, from| RuleOp::Remove { table, chain: name(from), rule: Rule::new() };
        let delete = |chain| RuleOp::Delete { table: Table::Nat, name: name(chain) };
        let [pre, out, post] = ["PREROUTING", "OUTPUT", "POSTROUTING"].map(|from| remove(Table::Nat, from));
        let forward = remove(Table::Filter, "FORWARD");
        let ops = vec![post.clone(), pre.clone(), delete("KUBE-SERVICES"), forward.clone(), out.clone()];
        let expected = [vec![], vec![pre, out], vec![post, delete("KUBE-SERVICES")], vec![forward]];
        assert_eq!(phases(ops), expected);
        // A change stays one transaction: its chains are passed through in one go.
        let chain = Arc::new(Chain { name: name("KUBE-SVC-A"), rules: Vec::new() });
        let change = vec![RuleOp::Write { table: Table::Nat, chain, replaces: true }, delete("KUBE-SEP-A")];
        assert_eq!(phases(change.clone()), [vec![], change, vec![], vec![]]);
    }
}
