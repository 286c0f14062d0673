//! What this mode would tell the kernel, without telling it: benchmarks send the very same barely, to see what the kernel
//! takes for it at the least.

use super::{Context, Observed, Op, Ours, VipBinding, plan};
use crate::backend::rules::{Recorder, RuleOp, Writer};
use crate::desired::{Desired, Touched};
use crate::kernel::ipset::{self, SetCommand};
use crate::model::IpFamily;
use iptables::Commands;
use ipvs::Command;
use ipvs::netlink::Messages;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Numbers that a kernel might have; its messages are as long with any other.
const IPSET_PROTOCOL: u8 = 7;
const IPVS_FAMILY: u16 = 0x1c;

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

impl Script {
    /// The messages of sets and of the IPVS table, as they would be sent to some kernel.
    ///
    /// # Errors
    /// When a command cannot be sent.
    pub fn encoded(&self) -> Result<[Messages; 2], ipvs::Error> {
        Ok([ipset::encode(IPSET_PROTOCOL, &self.sets), ipvs::encode_commands(&self.commands, IPVS_FAMILY)?])
    }
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
