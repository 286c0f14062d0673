//! One run of ours: a namespace with a node address and a default route, a cold start, a reading of everything, single
//! changes.

use super::super::Mode;
use super::super::in_namespace;
use super::super::measure::{Cost, Talk, measured, peak_memory};
use super::super::program;
use super::super::synthetic::Synthetic;
use super::audit::Audited;
use super::churn::{Churn, Load};
use super::{saved_routes, saved_table};
use crate::backend::ipvs::names::INTERFACE;
use crate::backend::ipvs::{Options, VipBinding};
use crate::backend::{Dataplane, Times};
use crate::commands::{dataplane, node};
use crate::config::Config;
use crate::desired::{Builder, NodeFacts, Settings, Touched};
use crate::kernel::sysctl::Ledger;
use crate::model::{IpFamily, Snapshot};
use crate::reconcile::{decide, still_draining};
use anyhow::Context;
use iptables::{Commands, Family};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

/// The synthetic cluster is IPv4 only; IPv6 takes the same ways.
const FAMILY: IpFamily = IpFamily::V4;

/// What to do in a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Trial {
    /// The mode.
    pub mode: Mode,
    /// How many services.
    pub services: u32,
    /// How many endpoints each.
    pub endpoints: u32,
    /// How many changes of each kind.
    pub changes: u32,
    /// Changes without end.
    pub churn: Option<Load>,
    /// The proxy knows the service range.
    pub range_known: bool,
    /// A folder in which to leave what was written.
    pub save: Option<PathBuf>,
}

/// What a run found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Found {
    /// The mode that it was.
    pub mode: String,
    /// An empty kernel brought there, from the snapshot.
    pub cold: Step,
    /// Reading everything back and comparing it: what a restart with an unchanged kernel costs.
    pub audit: Step,
    /// The same beside other work, after the changes.
    pub audited: Audited,
    /// One endpoint of one service replaced by a new one; from the snapshot to the kernel's word.
    pub endpoint_changed: Vec<Step>,
    /// One service more.
    pub service_added: Vec<Step>,
    /// One service less.
    pub service_removed: Vec<Step>,
    /// Changes without end.
    pub churn: Option<Churn>,
    /// Memory, in bytes.
    pub memory: Memory,
}

/// One sync.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Step {
    /// What it cost; for a change with building what is desired.
    pub cost: Cost,
    /// Where the time of the sync went, in seconds: reading the kernel,
    pub observe: f64,
    /// comparing,
    pub plan: f64,
    /// writing.
    pub apply: f64,
    /// Steps that the kernel took.
    pub steps: usize,
    /// How much the kernel was talked to.
    pub talk: Talk,
}

/// Peaks of memory, in bytes.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Memory {
    /// With the snapshot in memory, before anything was built from it.
    pub snapshot: u64,
    /// After the cold start.
    pub cold: u64,
    /// At the end.
    pub end: u64,
}

impl Trial {
    /// Does it, in a namespace of its own.
    ///
    /// # Errors
    /// When the namespace could not be made, the mode does not work, or a sync failed or was not what it should be.
    pub fn run(&self) -> anyhow::Result<Found> {
        in_namespace(|_| self.run_inside())
    }

    fn run_inside(&self) -> anyhow::Result<Found> {
        let ledger = Ledger::open().context("the network namespace")?;
        let result = self.measure();
        // The namespace goes, and so must the file that remembers its settings.
        ledger.restore().context("forgetting the namespace's settings")?;
        result
    }

    fn measure(&self) -> anyhow::Result<Found> {
        let cluster = Synthetic { services: self.services, endpoints: self.endpoints };
        let settings = Arc::new(cluster.settings(self.range_known));
        let mut planes = dataplane::choose(&config(self.mode, settings.clone()))?;
        let mut snapshot = cluster.snapshot();
        let mut memory = Memory { snapshot: peak_memory(), ..Memory::default() };
        let plane = planes.active(FAMILY).context("the mode is not open")?.as_mut();
        let mut proxy = Proxy { builder: Builder::new(settings), facts: node::facts()?, plane };
        let cold = proxy.start(&snapshot).context("the cold start")?;
        let refused = proxy.builder.refusals().next();
        anyhow::ensure!(refused.is_none(), "refused: {refused:?}");
        memory.cold = peak_memory();
        if let Some(folder) = &self.save {
            self.save(proxy.plane.name(), folder)?;
        }
        proxy.plane.distrust(FAMILY);
        let audit = proxy.sync_all().context("reading everything back")?;
        anyhow::ensure!(audit.steps == 0, "after a sync, {} steps were left to do", audit.steps);
        let (services, changes) = (self.services, self.changes);
        let mut endpoint_changed = Vec::new();
        for number in 0..changes.min(services) {
            // All over the table, as a change at its start may be cheaper than one at its end.
            cluster.replace_endpoint(&mut snapshot, number * (services / changes.min(services)));
            endpoint_changed.push(proxy.change(&snapshot)?);
            proxy.drain()?;
        }
        let (mut service_added, mut service_removed) = (Vec::new(), Vec::new());
        for number in services..services + changes {
            cluster.add(&mut snapshot, number);
            service_added.push(proxy.change(&snapshot)?);
        }
        for number in services..services + changes {
            cluster.remove(&mut snapshot, number);
            service_removed.push(proxy.change(&snapshot)?);
        }
        let audited = Audited::of(proxy.plane, FAMILY)?;
        let churn = self.churn.map(|load| load.run(cluster, &mut snapshot, &mut proxy)).transpose()?;
        memory.end = peak_memory();
        let mode = proxy.plane.name().to_owned();
        Ok(Found { mode, cold, audit, audited, endpoint_changed, service_added, service_removed, churn, memory })
    }

    /// Leaves what was written where other programs find it.
    fn save(&self, mode: &str, folder: &Path) -> anyhow::Result<()> {
        if mode == "iptables" {
            let commands = Commands::detect(Family::V4)?;
            let mut text = Vec::new();
            for table in ["filter", "nat"] {
                let mut save = Command::new(&commands.save_path);
                text.extend(output(save.args(["-t", table]))?.unwrap_or_default());
            }
            return fs::write(saved_table(folder), text).context("keeping the rules");
        }
        let Some(table) = output(program::command("ipvsadm").args(["-S", "-n"]))? else {
            // Without the program nobody will look for the file either.
            return Ok(());
        };
        fs::write(saved_table(folder), table).context("keeping the table")?;
        let mut ip = program::command("ip");
        let routes = output(ip.args(["route", "show", "table", "local", "dev", INTERFACE]))?.unwrap_or_default();
        let routes = String::from_utf8_lossy(&routes);
        let batch: String =
            routes.lines().map(|line| format!("route add {} dev {INTERFACE} table local\n", line.trim())).collect();
        fs::write(saved_routes(folder), batch).context("keeping the routes")
    }
}

/// What a program printed; `None` when there is no such program.
fn output(command: &mut Command) -> anyhow::Result<Option<Vec<u8>>> {
    match command.output() {
        Ok(output) => {
            let error = String::from_utf8_lossy(&output.stderr);
            anyhow::ensure!(output.status.success(), "{command:?}: {}: {error}", output.status);
            Ok(Some(output.stdout))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("{command:?}")),
    }
}

fn config(mode: Mode, settings: Arc<Settings>) -> Config {
    let ipvs = Options { binding: VipBinding::Route, drain_timeout: settings.drain_timeout, strict_arp: false };
    Config { mode: mode.into(), settings, ipvs, ..Config::default() }
}

/// What the reconciler has in `run`, without its clock.
pub struct Proxy<'a> {
    builder: Builder,
    facts: NodeFacts,
    plane: &'a mut dyn Dataplane,
}

impl Proxy<'_> {
    /// The first snapshot, as the reconciler takes it in.
    fn start(&mut self, snapshot: &Snapshot) -> anyhow::Result<Step> {
        let (step, cost) = measured(|| {
            let (now, plane) = (Instant::now(), &mut *self.plane);
            decide(&mut self.builder, (snapshot, &self.facts), now, Some(FAMILY), |family, desired, extent| {
                plane.begin(family, desired, extent, now)
            });
            self.sync(Touched::All)
        });
        Ok(Step { cost, ..step? })
    }

    fn sync_all(&mut self) -> anyhow::Result<Step> {
        let (step, cost) = measured(|| self.sync(Touched::All));
        Ok(Step { cost, ..step? })
    }

    fn sync(&mut self, touched: Touched<'_>) -> anyhow::Result<Step> {
        let desired = self.builder.desired().get(FAMILY);
        let report = self.plane.sync(FAMILY, desired, touched, Instant::now());
        if let Some(failure) = report.failures.first() {
            anyhow::bail!("{failure} (and {} more failures)", report.failures.len() - 1);
        }
        let Times { observe, plan, apply } = report.times;
        Ok(Step {
            cost: Cost::default(),
            observe: observe.as_secs_f64(),
            plan: plan.as_secs_f64(),
            apply: apply.as_secs_f64(),
            steps: report.done,
            talk: report.effort.into(),
        })
    }

    /// A new snapshot, as the reconciler takes it in.
    fn change(&mut self, snapshot: &Snapshot) -> anyhow::Result<Step> {
        let (step, cost) = measured(|| {
            let change = self.builder.update(snapshot, &self.facts, Instant::now());
            let ports = change.ports.get(FAMILY);
            anyhow::ensure!(
                !*change.node.get(FAMILY) && ports.len() == 1,
                "{} ports changed instead of one",
                ports.len()
            );
            self.sync(Touched::Ports(ports))
        });
        let step = Step { cost, ..step? };
        anyhow::ensure!(step.steps > 0, "a change led to nothing");
        Ok(step)
    }

    /// A new snapshot with any number of changes.
    pub fn follow(&mut self, snapshot: &Snapshot) -> anyhow::Result<()> {
        let change = self.builder.update(snapshot, &self.facts, Instant::now());
        self.sync(Touched::Ports(change.ports.get(FAMILY))).map(drop)
    }

    /// What there is left to do when everything is read back.
    pub fn left_to_do(&mut self) -> anyhow::Result<usize> {
        self.plane.distrust(FAMILY);
        self.sync_all().map(|step| step.steps)
    }

    /// Lets go of what drains, as the reconciler does a second later.
    pub fn drain(&mut self) -> anyhow::Result<()> {
        let draining: BTreeSet<_> = still_draining(&self.builder, self.plane, FAMILY).cloned().collect();
        if !draining.is_empty() {
            self.sync(Touched::Ports(&draining)).context("draining")?;
        }
        Ok(())
    }
}
