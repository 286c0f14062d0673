//! The floor: the very messages and texts of our cold start and of our changes, made beforehand, and sent by a bare loop.
//! What remains of our own time above it is what deciding, comparing and remembering cost.

use super::super::in_namespace;
use super::super::measure::{Cost, measured};
use super::super::synthetic::Synthetic;
use crate::backend::{iptables, ipvs};
use crate::commands::node;
use crate::desired::{Builder, Desired, Touched};
use crate::kernel::interface::Interface;
use crate::kernel::ipset;
use crate::model::IpFamily;
use ::iptables::{Commands, Family};
use ::ipvs::netlink::Messages;
use ::ipvs::{Client, Command, Scheduler, Service, ServiceId};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Instant;

const FAMILY: IpFamily = IpFamily::V4;

/// What to send.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Floor {
    /// Of IPVS mode; otherwise of iptables mode.
    pub ipvs: bool,
    /// How many services our run had.
    pub services: u32,
    /// How many endpoints each.
    pub endpoints: u32,
    /// How many endpoints are replaced.
    pub changes: u32,
}

/// What it cost.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Floors {
    /// Of the cold start.
    pub cold: Cost,
    /// Of that: the IPVS table alone.
    pub table: Option<Cost>,
    /// Of each change.
    pub changes: Vec<Cost>,
}

impl Floor {
    /// Does it, in a namespace of its own.
    ///
    /// # Errors
    /// When the namespace could not be made or the kernel refused something.
    pub fn run(&self) -> anyhow::Result<Floors> {
        in_namespace(|_| self.measure())
    }

    fn measure(&self) -> anyhow::Result<Floors> {
        let cluster = Synthetic { services: self.services, endpoints: self.endpoints };
        let mut builder = Builder::new(Arc::new(cluster.settings(true)));
        let (mut snapshot, facts) = (cluster.snapshot(), node::facts()?);
        builder.update(&snapshot, &facts, Instant::now());
        let mut sender: Box<dyn Sender> =
            if self.ipvs { Box::new(IpvsSender::open()?) } else { Box::new(IptablesSender::open()?) };
        sender.prepare(builder.desired().get(FAMILY), Touched::All)?;
        let (cold, table) = sender.send()?;
        let mut changes = Vec::new();
        let count = self.changes.min(self.services);
        for number in 0..count {
            cluster.replace_endpoint(&mut snapshot, number * (self.services / count));
            let change = builder.update(&snapshot, &facts, Instant::now());
            sender.prepare(builder.desired().get(FAMILY), Touched::Ports(change.ports.get(FAMILY)))?;
            changes.push(sender.send()?.0);
        }
        Ok(Floors { cold, table, changes })
    }
}

/// Makes what is to be sent, then sends it.
trait Sender {
    fn prepare(&mut self, desired: &Desired, touched: Touched<'_>) -> anyhow::Result<()>;
    /// The cost of all, and of the IPVS table alone.
    fn send(&mut self) -> anyhow::Result<(Cost, Option<Cost>)>;
}

struct IptablesSender {
    commands: Commands,
    rehearsal: iptables::Rehearsal,
    texts: Vec<String>,
}

impl IptablesSender {
    fn open() -> anyhow::Result<Self> {
        let commands = Commands::detect(Family::V4)?;
        Ok(Self { commands, rehearsal: iptables::Rehearsal::default(), texts: Vec::new() })
    }
}

impl Sender for IptablesSender {
    fn prepare(&mut self, desired: &Desired, touched: Touched<'_>) -> anyhow::Result<()> {
        self.texts = self.rehearsal.sync(&self.commands, FAMILY, desired, touched);
        Ok(())
    }

    fn send(&mut self) -> anyhow::Result<(Cost, Option<Cost>)> {
        let texts = std::mem::take(&mut self.texts);
        let (outcome, cost) = measured(|| restore_all(&self.commands, &texts));
        outcome?;
        Ok((cost, None))
    }
}

fn restore_all(commands: &Commands, texts: &[String]) -> anyhow::Result<()> {
    for text in texts {
        commands.restore(text)?;
    }
    Ok(())
}

struct IpvsSender {
    commands: Commands,
    rehearsal: ipvs::Rehearsal,
    client: Client,
    sets: ipset::Client,
    script: Encoded,
}

/// What is to be sent, down to its bytes.
#[derive(Default)]
struct Encoded {
    sets: Messages,
    restores: Vec<String>,
    table: Messages,
}

impl IpvsSender {
    fn open() -> anyhow::Result<Self> {
        let mut client = Client::connect()?;
        // The kernel loads the scheduler's module with the first service that uses it.
        let id = ServiceId::Address { protocol: ::ipvs::Protocol::Tcp, address: "192.0.2.1".parse()?, port: 1 };
        client.execute(&Command::AddService(Service::new(id, Scheduler::Rr)))?;
        client.execute(&Command::DeleteService(id))?;
        Interface::open(ipvs::names::INTERFACE)?.ensure_dummy()?;
        Ok(Self {
            commands: Commands::detect(Family::V4)?,
            rehearsal: ipvs::Rehearsal::default(),
            client,
            sets: ipset::Client::open()?,
            script: Encoded::default(),
        })
    }
}

impl Sender for IpvsSender {
    fn prepare(&mut self, desired: &Desired, touched: Touched<'_>) -> anyhow::Result<()> {
        let script = self.rehearsal.sync(&self.commands, FAMILY, desired, touched);
        let (sets, table) = (self.sets.encode(&script.sets), self.client.encode(&script.commands)?);
        self.script = Encoded { sets, restores: script.restores, table };
        Ok(())
    }

    fn send(&mut self) -> anyhow::Result<(Cost, Option<Cost>)> {
        let Encoded { mut sets, restores, mut table } = std::mem::take(&mut self.script);
        let (outcome, cost) = measured(|| -> anyhow::Result<Cost> {
            self.sets.send(&mut sets).into_iter().collect::<Result<Vec<()>, _>>()?;
            restore_all(&self.commands, &restores)?;
            let (results, table) = measured(|| self.client.send(&mut table));
            results.into_iter().collect::<Result<Vec<()>, _>>()?;
            Ok(table)
        });
        Ok((cost, Some(outcome?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::NodeFacts;
    use ::iptables::Variant;

    #[test]
    fn a_change_sends_no_more_than_it_changes() {
        let cluster = Synthetic { services: 3, endpoints: 2 };
        let mut builder = Builder::new(Arc::new(cluster.settings(true)));
        let (mut snapshot, facts) = (cluster.snapshot(), NodeFacts::default());
        builder.update(&snapshot, &facts, Instant::now());
        let commands = Commands::new(Family::V4, Variant::Nft, "iptables-restore".into(), "iptables-save".into());
        let mut rehearsal = ipvs::Rehearsal::default();
        let all = rehearsal.sync(&commands, FAMILY, builder.desired().get(FAMILY), Touched::All);
        assert!(!all.restores.is_empty() && !all.sets.is_empty());
        assert_eq!(all.commands.len(), 3 * 3);
        for number in 0..3 {
            cluster.replace_with(&mut snapshot, number, 10 + number);
            let change = builder.update(&snapshot, &facts, Instant::now());
            let touched = Touched::Ports(&change.ports.v4);
            let script = rehearsal.sync(&commands, FAMILY, builder.desired().get(FAMILY), touched);
            assert_eq!((script.restores.len(), script.commands.len()), (0, 2), "{:?}", script.commands);
        }
    }
}
