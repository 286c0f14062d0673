//! Reads the iptables rules for a listing.

use super::from_rules;
use super::table::Table;
use crate::backend::ipvs::names as ipvs_mode;
use crate::kernel::addresses::{self, NodeAddress};
use anyhow::Context;
use iptables::{Commands, Family, Saved};
use std::net::IpAddr;

/// The table of the rules, and whether there are chains of IPVS mode among them.
///
/// # Errors
/// No iptables program works, or the node's addresses cannot be read.
pub fn read() -> anyhow::Result<(Table, bool)> {
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
                saved.push((family, commands.save_with_counters(&tables).context(cannot)?));
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
