//! Whether everything is in the kernel, whatever the kube-proxy says of itself: Services are counted, and every endpoint
//! has to be there. More endpoints than those are no mistake: some are removed later.

use super::Mode;
use crate::commands::bench::program;
use crate::commands::bench::synthetic::Synthetic;
use anyhow::Context;
use iptables::{Commands, Family};
use ipvs::proc;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;

/// What is there.
#[derive(Debug, Default, PartialEq)]
struct Found {
    services: usize,
    endpoints: BTreeSet<Ipv4Addr>,
}

/// What is missing, in words; `None`: nothing. `replaced` has the numbers of new endpoints by service.
///
/// # Errors
/// When the kernel could not be asked.
pub fn missing(mode: Mode, cluster: Synthetic, replaced: &BTreeMap<u32, u32>) -> anyhow::Result<Option<String>> {
    let found = match mode {
        Mode::Ipvs => of_ipvs()?,
        Mode::Iptables => {
            let save = Commands::detect(Family::V4)?.save_path;
            of_iptables(&output(program::command(save).args(["-t", "nat"]))?)
        }
        Mode::Nftables => of_nft(&output(program::command("nft").args(["list", "table", "ip", "kube-proxy"]))?),
    };
    Ok(found.lack(cluster, replaced))
}

impl Found {
    fn lack(&self, cluster: Synthetic, replaced: &BTreeMap<u32, u32>) -> Option<String> {
        let wanted = (0..cluster.services)
            .flat_map(|index| cluster.endpoint_addresses(index, replaced.get(&index).copied()))
            .filter(|address| !self.endpoints.contains(address))
            .count();
        let services = usize::try_from(cluster.services).unwrap_or(usize::MAX);
        (self.services != services || wanted > 0).then(|| {
            format!(
                "the kernel has {} services instead of {services}, and {wanted} endpoints are missing",
                self.services
            )
        })
    }
}

fn of_ipvs() -> anyhow::Result<Found> {
    let rows = proc::read_table(proc::PATH).context("reading the table")?;
    let endpoints = rows.iter().flat_map(|(_, destinations)| destinations).filter(|row| row.weight > 0);
    let endpoints = endpoints.filter_map(|row| if let IpAddr::V4(ip) = row.address { Some(ip) } else { None });
    Ok(Found { services: rows.len(), endpoints: endpoints.collect() })
}

fn of_iptables(text: &str) -> Found {
    of_rules(text, |line| line.starts_with(":KUBE-SVC-"), "--to-destination ")
}

/// A Service's chain has the Service's name in its own, as `service-UYOCGMQF-namespace/name/tcp/port`; others have none.
fn of_nft(text: &str) -> Found {
    of_rules(text, |line| line.starts_with("chain service-") && line.contains('/'), " dnat ")
}

/// Counts the chains of services, and collects the addresses after `to`: one, or a map of them.
fn of_rules(text: &str, is_service: impl Fn(&str) -> bool, to: &str) -> Found {
    let mut found = Found::default();
    for line in text.lines().map(str::trim_start) {
        found.services += usize::from(is_service(line));
        let words = line.split_once(to).map(|(_, rest)| rest.split_whitespace()).into_iter().flatten();
        let address = |word: &str| word.split(':').next()?.parse::<Ipv4Addr>().ok();
        found.endpoints.extend(words.filter_map(address));
    }
    found
}

fn output(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let error = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "{command:?}: {}: {error}", output.status);
    String::from_utf8(output.stdout).with_context(|| format!("{command:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: &str = ":KUBE-SVC-AAAA - [0:0]\n:KUBE-SEP-BBBB - [0:0]\n\
        -A KUBE-SEP-BBBB -p tcp -m tcp -j DNAT --to-destination 10.128.0.1:8080\n";
    const TABLE: &str = "\tchain service-endpoints-check {\n\tchain service-AAAA-bench/a/tcp/http {\n\
        \t\tmeta l4proto tcp dnat ip to numgen random mod 2 map { 0 : 10.128.0.1 . 8080, 1 : 10.128.0.2 . 8080 }\n\
        \tchain endpoint-BBBB-bench/a/tcp/http__10.128.0.3/8080 {\n\t\tmeta l4proto tcp dnat to 10.128.0.3:8080\n";

    #[test]
    fn services_and_endpoints_are_counted() {
        let addresses = |last: &[u8]| last.iter().map(|last| Ipv4Addr::new(10, 128, 0, *last)).collect();
        assert_eq!(of_iptables(RULES), Found { services: 1, endpoints: addresses(&[1]) });
        assert_eq!(of_nft(TABLE), Found { services: 1, endpoints: addresses(&[1, 2, 3]) });
    }

    #[test]
    fn what_is_missing_is_said() {
        let found = of_iptables(RULES);
        let lack = |services, replaced| found.lack(Synthetic { services, endpoints: 1 }, &replaced);
        assert_eq!(lack(1, BTreeMap::new()), None);
        let text = lack(2, BTreeMap::new()).unwrap();
        assert_eq!(text, "the kernel has 1 services instead of 2, and 1 endpoints are missing");
        assert!(lack(1, BTreeMap::from([(0, 7)])).is_some(), "the replaced one is not there yet");
    }
}
