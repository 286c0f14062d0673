//! What this mode would tell the kernel, without telling it: benchmarks send the very same barely, to see what the kernel
//! takes for it at the least.

use super::{Context, Observed, Op, Ours, VipBinding, plan};
use crate::backend::rules::{Recorder, RuleOp, Writer};
use crate::desired::{Desired, Touched};
use crate::kernel::ipset::SetCommand;
use crate::model::IpFamily;
use iptables::Commands;
use ipvs::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A kernel that was empty at first and takes everything.
#[derive(Debug, Default)]
pub struct Rehearsal(Observed);

/// What a sync consists of, but for single settings, links and routes of ranges.
#[derive(Debug, Default)]
pub struct Script {
    /// Changes of sets, in their order.
    pub sets: Vec<SetCommand>,
    /// The input of each run of iptables-restore.
    pub restores: Vec<String>,
    /// Changes of the IPVS table, in their order.
    pub commands: Vec<Command>,
}

impl Rehearsal {
    /// What a sync would send: nothing of it twice.
    pub fn sync(&mut self, commands: &Commands, family: IpFamily, desired: &Desired, touched: Touched<'_>) -> Script {
        let context = Context {
            family,
            binding: VipBinding::Route,
            now: Instant::now(),
            drain_timeout: Duration::ZERO,
            missing: Arc::default(),
        };
        let (mut script, mut rules): (Script, Vec<RuleOp>) = Default::default();
        for op in plan::plan(context.clone(), desired, &self.0, touched) {
            // Of rules it is the writer who takes note.
            if !matches!(op, Op::Rule(_)) {
                self.0.acknowledge(&op);
            }
            match op {
                Op::MakeSet(set) => script.sets.push(SetCommand::Create(set.spec(family))),
                Op::AddEntry(set, entry) => {
                    script.sets.push(SetCommand::Add { set: set.name(family).to_owned(), entry: entry.into() });
                }
                Op::DeleteEntry(set, entry) => {
                    script.sets.push(SetCommand::Delete { set: set.name(family).to_owned(), entry });
                }
                Op::Ipvs(command) => script.commands.push(command),
                Op::Rule(op) => rules.push(op),
                _ => {}
            }
        }
        let recorder = Recorder { most: commands.chains_per_restore(), texts: &mut script.restores };
        Writer::new(recorder, &Ours).write(rules, &mut self.0.rules);
        self.0.remember(desired, touched, &|port, rules| context.shared(port, rules));
        script
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::bench::Synthetic;
    use crate::desired::{Builder, NodeFacts};
    use iptables::{Family, Variant};

    #[test]
    fn a_change_sends_no_more_than_it_changes() {
        let cluster = Synthetic { services: 3, endpoints: 2 };
        let mut builder = Builder::new(Arc::new(cluster.settings(true)));
        let (mut snapshot, facts) = (cluster.snapshot(), NodeFacts::default());
        builder.update(&snapshot, &facts, Instant::now());
        let commands = Commands::new(Family::V4, Variant::Nft, "iptables-restore".into(), "iptables-save".into());
        let mut rehearsal = Rehearsal::default();
        let all = rehearsal.sync(&commands, IpFamily::V4, builder.desired().get(IpFamily::V4), Touched::All);
        assert!(!all.restores.is_empty() && !all.sets.is_empty());
        assert_eq!(all.commands.len(), 3 * 3);
        for number in 0..3 {
            cluster.replace_with(&mut snapshot, number, 10 + number);
            let change = builder.update(&snapshot, &facts, Instant::now());
            let touched = Touched::Ports(&change.ports.v4);
            let script = rehearsal.sync(&commands, IpFamily::V4, builder.desired().get(IpFamily::V4), touched);
            assert_eq!((script.restores.len(), script.commands.len()), (0, 2), "{:?}", script.commands);
        }
    }
}
