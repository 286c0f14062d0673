//! `kube-ipvs list`: the table of virtual and real servers, byte for byte as `ipvsadm -Ln` prints it.
//!
//! In iptables mode the rules are printed as the same table. There is no version of IPVS to name then, so the first
//! line is missing; what else differs is in [`from_rules`].

pub mod format;
pub mod from_ipvs;
pub mod from_rules;
pub mod sort;
pub mod table;

use crate::backend::ipvs::names as ipvs_mode;
use crate::kernel::addresses::{self, NodeAddress};
use anyhow::Context;
use iptables::{Commands, Family, Saved};
use ipvs::Client;
use std::io::{ErrorKind, Write};
use std::net::IpAddr;
use std::path::Path;
use std::process::ExitCode;
use table::Table;

/// Prints the table of virtual and real servers, as `ipvsadm -Ln` does.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ListArgs {
    /// Which table: the kernel's IPVS, or the same table read out of the iptables rules
    #[arg(long, value_name = "MODE", value_enum, default_value_t)]
    pub proxy_mode: ListMode,
    /// Accepted for the fingers' sake: addresses and ports are always printed as numbers
    #[arg(short, long)]
    pub numeric: bool,
}

/// Which table is listed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ListMode {
    /// The one in use: IPVS if it has virtual servers, otherwise the iptables rules.
    #[default]
    Auto,
    /// The kernel's IPVS.
    Ipvs,
    /// The iptables rules.
    Iptables,
}

/// Prints the listing to standard output. A reader who has seen enough (`| head`) is no failure.
///
/// # Errors
/// The table cannot be read: no IPVS, no permission; the message says what helps. Nothing was printed then.
pub fn run(args: &ListArgs) -> anyhow::Result<ExitCode> {
    match print(args, &mut std::io::stdout().lock()) {
        Err(error) if is_broken_pipe(&error) => Ok(ExitCode::SUCCESS),
        printed => printed.map(|()| ExitCode::SUCCESS),
    }
}

/// Prints the listing of the calling thread's network namespace to `out`.
///
/// # Errors
/// The table cannot be read, or `out` fails.
pub fn print(args: &ListArgs, out: &mut dyn Write) -> anyhow::Result<()> {
    let text = format::render(&read(args.proxy_mode)?);
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("cannot print the listing")
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}

/// Reads the table that `mode` names.
///
/// # Errors
/// It cannot be read.
pub fn read(mode: ListMode) -> anyhow::Result<Table> {
    match mode {
        ListMode::Auto => read_the_one_in_use(),
        ListMode::Ipvs => read_ipvs(),
        ListMode::Iptables => read_rules().map(|(table, _)| table),
    }
}

/// IPVS if it has virtual servers. Without any, the rules decide: a service in them means iptables mode, and chains of
/// IPVS mode mean that its table is empty.
fn read_the_one_in_use() -> anyhow::Result<Table> {
    // To ask over netlink would load the module.
    if !Path::new(ipvs::proc::PATH).exists() {
        return read_ipvs_or_rules(None);
    }
    let table = read_ipvs()?;
    if table.servers.is_empty() { read_ipvs_or_rules(Some(table)) } else { Ok(table) }
}

fn read_ipvs_or_rules(empty_ipvs: Option<Table>) -> anyhow::Result<Table> {
    match (read_rules(), empty_ipvs) {
        (Ok((rules, ipvs_mode)), Some(ipvs)) => Ok(if rules.servers.is_empty() && ipvs_mode { ipvs } else { rules }),
        (Ok((rules, _)), None) => Ok(rules),
        (Err(error), Some(ipvs)) => {
            tracing::debug!("{error:#}");
            Ok(ipvs)
        }
        (Err(error), None) => Err(error),
    }
}

fn read_ipvs() -> anyhow::Result<Table> {
    let mut client = Client::connect().map_err(with_remedy)?;
    from_ipvs::read(&mut client).map_err(with_remedy)
}

/// The table of the rules, and whether there are chains of IPVS mode among them.
fn read_rules() -> anyhow::Result<(Table, bool)> {
    let saved = saved_rules()?;
    let found = addresses::node_addresses().context("the node ports cannot be listed")?;
    let table = from_rules::table(&saved, &node_port_addresses(found));
    let of_ipvs_mode =
        |saved: &Saved| ipvs_mode::chains().into_iter().any(|(table, chain)| saved.chain(table, chain).is_some());
    Ok((table, saved.iter().any(|(_, saved)| of_ipvs_mode(saved))))
}

/// The rules of the families for which there are iptables programs that work: a node may well lack one.
fn saved_rules() -> anyhow::Result<Vec<(Family, Saved)>> {
    let cannot = "the iptables rules cannot be listed";
    let mut saved = Vec::new();
    let mut unusable = None;
    for family in [Family::V4, Family::V6] {
        match Commands::detect(family) {
            Ok(commands) => {
                let tables = [iptables::Table::Nat, iptables::Table::Filter];
                saved.push((family, commands.save(&tables).context(cannot)?));
            }
            Err(error) => {
                tracing::debug!("{family:?} rules are not listed: {error}");
                unusable = unusable.or(Some(error));
            }
        }
    }
    match unusable {
        Some(error) if saved.is_empty() => {
            let remedy = if nix::unistd::geteuid().is_root() { "install iptables" } else { "run this as root" };
            Err(anyhow::Error::new(error).context(format!("{cannot} ({remedy})")))
        }
        _ => Ok(saved),
    }
}

/// Where node ports can be: not on service addresses, nor on those that need an interface beside them.
fn node_port_addresses(found: Vec<NodeAddress>) -> Vec<IpAddr> {
    let usable = |found: &NodeAddress| {
        let link_local = matches!(found.address, IpAddr::V6(address) if address.is_unicast_link_local());
        found.interface != ipvs_mode::INTERFACE && !link_local
    };
    found.into_iter().filter(usable).map(|found| found.address).collect()
}

/// The error and what its reader can do about it.
fn with_remedy(error: ipvs::Error) -> anyhow::Error {
    let remedy = match error {
        ipvs::Error::FamilyMissing => {
            " (`modprobe ip_vs` loads it where the kernel has it as a module; `--proxy-mode iptables` lists the \
             iptables rules instead)"
        }
        ipvs::Error::PermissionDenied { .. } => " (run this as root)",
        _ => "",
    };
    anyhow::Error::new(error).context(format!("the IPVS table cannot be listed{remedy}"))
}
