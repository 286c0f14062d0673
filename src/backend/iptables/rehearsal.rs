//! What this mode would give iptables-restore, without running it: benchmarks run the very same texts barely, to see what
//! the kernel and the program take for them at the least.

use super::{Observed, Op, Ours, plan};
use crate::backend::Ahead;
use crate::backend::rules::{Recorder, Writer};
use crate::desired::{Desired, Touched};
use crate::model::IpFamily;
use iptables::Commands;

/// A kernel that was empty at first and takes everything.
#[derive(Debug, Default)]
pub struct Rehearsal(Observed);

impl Rehearsal {
    /// The input of each run of iptables-restore that a sync would make, in pieces as large as these programs take best.
    pub fn sync(
        &mut self,
        commands: &Commands,
        family: IpFamily,
        desired: &Desired,
        touched: Touched<'_>,
    ) -> Vec<String> {
        let (mut texts, mut ahead) = (Vec::new(), Ahead::default());
        if matches!(touched, Touched::All) && commands.variant == iptables::Variant::Nft {
            while let Some(piece) = plan::ahead(family, desired, &self.0, false, &mut ahead) {
                self.write(commands, piece, &mut texts);
            }
        }
        let rest = plan::plan(family, desired, &self.0, touched);
        self.write(commands, rest, &mut texts);
        self.0.remember(desired);
        texts
    }

    fn write(&mut self, commands: &Commands, steps: Vec<Op>, texts: &mut Vec<String>) {
        let rules = steps.into_iter().filter_map(|op| if let Op::Rule(op) = op { Some(op) } else { None }).collect();
        let recorder = Recorder { most: commands.chains_per_restore(), texts };
        Writer::new(recorder, &Ours).write(rules, &mut self.0.rules);
    }
}
