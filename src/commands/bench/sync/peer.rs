//! One run of another program that writes the very table that we wrote, in a namespace like ours.

use super::super::in_namespace;
use super::super::program::{self, Outcome};
use super::super::synthetic::Synthetic;
use super::{saved_routes, saved_table};
use crate::backend::ipvs::names::INTERFACE;
use crate::kernel::interface::Interface;
use anyhow::Context;
use iptables::{Commands, Family};
use ipvs::proc;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// Who writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// ipvsadm.
    Ipvsadm,
    /// ip, for a route to each service address.
    IpRoutes,
    /// ip, for the service addresses on the device.
    IpAddresses,
    /// iptables-restore.
    IptablesRestore,
}

/// The kinds that a mode is compared with.
pub fn kinds(mode: &str, single_routes: bool) -> &'static [Kind] {
    match (mode, single_routes) {
        ("ipvs", false) => &[Kind::Ipvsadm, Kind::IpAddresses],
        ("ipvs", true) => &[Kind::Ipvsadm, Kind::IpRoutes],
        _ => &[Kind::IptablesRestore],
    }
}

impl Kind {
    /// Its name in a table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ipvsadm => "ipvsadm -R",
            Self::IpRoutes | Self::IpAddresses => "ip -batch",
            Self::IptablesRestore => "iptables-restore",
        }
    }

    /// What it does, in a sentence.
    pub fn what(self) -> &'static str {
        match self {
            Self::Ipvsadm => {
                "the same virtual servers and destinations: `ipvsadm -S -n` after our cold start, read back by \
                 `ipvsadm -R`; without addresses, sets and rules"
            }
            Self::IpRoutes => "the same routes to the service addresses, by `ip -batch`",
            Self::IpAddresses => {
                "the service addresses on a device, where kube-proxy has them, by `ip -batch`; one route of ours has \
                 the same effect"
            }
            Self::IptablesRestore => {
                "exactly the same rules: `iptables-save` after our cold start, read back by one `iptables-restore`, one \
                 transaction a table"
            }
        }
    }
}

/// What to do in a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Peer {
    /// Who.
    pub kind: Kind,
    /// How many services our run had.
    pub services: u32,
    /// How many endpoints each.
    pub endpoints: u32,
    /// The folder with what our run left.
    pub saved: PathBuf,
    /// Seconds after which it is stopped.
    pub patience: u32,
}

impl Peer {
    /// Does it, in a namespace of its own.
    ///
    /// # Errors
    /// When the namespace could not be made, or the result is not what our run wrote.
    pub fn run(&self) -> anyhow::Result<Outcome> {
        in_namespace(|_| match self.kind {
            Kind::Ipvsadm => self.ipvsadm(),
            Kind::IpRoutes => self.ip_batch(fs::read_to_string(saved_routes(&self.saved)).ok()),
            Kind::IpAddresses => self.ip_batch(Some(self.addresses())),
            Kind::IptablesRestore => self.iptables_restore(),
        })
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(self.patience.into())
    }

    fn ipvsadm(&self) -> anyhow::Result<Outcome> {
        let table = saved_table(&self.saved);
        if !table.exists() {
            return Ok(Outcome::NotInstalled);
        }
        let mut command = program::command("ipvsadm");
        command.arg("-R");
        let outcome = program::run(command, &table, self.patience())?;
        if let Outcome::Done { .. } = outcome {
            self.check_table()?;
        }
        Ok(outcome)
    }

    fn check_table(&self) -> anyhow::Result<()> {
        let rows = proc::read_table(proc::PATH).context("reading the table")?;
        let destinations: usize = rows.iter().map(|(_, destinations)| destinations.len()).sum();
        let (services, wanted) = (self.services as usize, self.services as usize * self.endpoints as usize);
        anyhow::ensure!(
            rows.len() == services && destinations == wanted,
            "{} wrote {} virtual servers and {destinations} destinations instead of {services} and {wanted}",
            self.kind.name(),
            rows.len()
        );
        Ok(())
    }

    fn addresses(&self) -> String {
        let cluster = Synthetic { services: self.services, endpoints: self.endpoints };
        let line = |index| format!("addr add {}/32 dev {INTERFACE}\n", cluster.cluster_ip(index));
        (0..self.services).map(line).collect()
    }

    fn ip_batch(&self, lines: Option<String>) -> anyhow::Result<Outcome> {
        let Some(lines) = lines else { return Ok(Outcome::NotInstalled) };
        let input = self.saved.join("ip-batch");
        fs::write(&input, lines).context("keeping the lines for ip")?;
        Interface::open(INTERFACE)?.ensure_dummy()?;
        let mut command = program::command("ip");
        command.args(["-batch", "-"]);
        Ok(program::run(command, &input, self.patience())?)
    }

    fn iptables_restore(&self) -> anyhow::Result<Outcome> {
        let (commands, rules) = (Commands::detect(Family::V4)?, saved_table(&self.saved));
        let outcome = program::run(program::command(&commands.restore_path), &rules, self.patience())?;
        if let Outcome::Done { .. } = outcome {
            let wanted = count_rules(&fs::read_to_string(&rules).context("reading the rules")?);
            let mut found = 0;
            for table in ["filter", "nat"] {
                let output = program::command(&commands.save_path).args(["-t", table]).output()?;
                found += count_rules(&String::from_utf8_lossy(&output.stdout));
            }
            anyhow::ensure!(found == wanted, "iptables-restore wrote {found} rules instead of {wanted}");
        }
        Ok(outcome)
    }
}

fn count_rules(text: &str) -> usize {
    text.lines().filter(|line| line.starts_with("-A ")).count()
}
