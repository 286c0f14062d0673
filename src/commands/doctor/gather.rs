//! Reads the facts from the node. What cannot be read is left out: a doctor that fails helps nobody.

use super::DoctorArgs;
use super::facts::{Facts, Modes, Servers, VariantRules};
use super::processes;
use crate::backend::ipvs::names::{INTERFACE, Set};
use crate::commands::dataplane;
use crate::control::protocol::{Ask, Event};
use crate::control::{self, Client};
use crate::kernel::interface::Interface;
use crate::kernel::ipset::{self, Entry};
use crate::kernel::sysctl::{ALL, KernelVersion, Sysctl};
use crate::kernel::{addresses, links};
use crate::model::{IpFamily, parse_network};
use ipnet::IpNet;
use iptables::{Commands, Family};
use ipvs::{Protocol, ServiceId, proc};
use std::collections::{BTreeSet, HashSet};
use std::path::Path;
use std::process::{Command, Stdio};

/// Settings that checks read beside those that we set.
const FURTHER: [&str; 2] = ["net/netfilter/nf_conntrack_max", "net/ipv4/vs/run_estimation"];

/// Reads everything.
///
/// # Errors
/// When an argument is no network.
pub fn facts(args: &DoctorArgs) -> anyhow::Result<Facts> {
    let mut facts = Facts {
        kernel: KernelVersion::running().ok(),
        scheduler: args.ipvs_scheduler.clone(),
        localhost_node_ports: true,
        ipv6: Path::new("/proc/sys/net/ipv6").exists(),
        service_ranges: args.service_cidr.iter().map(|net| parse_network(net)).collect::<Result<_, _>>()?,
        state: (control::FOLDER.into(), unwritable(Path::new(control::FOLDER))),
        ..Facts::default()
    };
    let in_daemon = daemon(&mut facts);
    rules(&mut facts);
    facts.virtual_servers = servers();
    modes(args, in_daemon, &mut facts);
    interfaces(&mut facts);
    processes::look(&mut facts);
    settings(&mut facts);
    Ok(facts)
}

/// What a daemon of ours says of itself: the modes that serve.
fn daemon(facts: &mut Facts) -> Option<Modes> {
    let mut client = Client::connect(&control::default_socket()).ok()?;
    client.ask(Ask::Status).ok()?;
    let Ok(Event::Status { status }) = client.answer() else { return None };
    facts.own_daemon = Some(status.pid);
    let modes: BTreeSet<String> = status.families.iter().map(|family| family.mode.to_string()).collect();
    Some(Modes { ipvs: modes.contains("ipvs"), iptables: modes.contains("iptables") })
}

/// Each variant of each family by itself; a program that is not there has no rules.
fn rules(facts: &mut Facts) {
    for (program, family) in [("iptables", Family::V4), ("ip6tables", Family::V6)] {
        if facts.ipv6 || family == Family::V4 {
            facts.iptables_missing.extend(Commands::detect(family).err().map(|error| error.to_string()));
        }
        for variant in ["nft", "legacy"] {
            let mut command = Command::new(format!("{program}-{variant}-save"));
            let Ok(output) = command.stdin(Stdio::null()).output() else { continue };
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let lines = || text.lines();
            facts.rules.push(VariantRules {
                program,
                variant,
                rules: lines().filter(|line| line.starts_with("-A ")).count(),
                services: lines()
                    .any(|line| line.starts_with(":KUBE-SERVICES") || line.starts_with(":KUBE-IPVS-SERVICES")),
            });
            let incompatible = lines().filter(|line| line.contains("is incompatible, use 'nft' tool"));
            facts
                .incompatible
                .extend(incompatible.map(|line| format!("{program}-nft: {}", line.trim_matches(['#', ' ']))));
            if variant == "nft" && !output.status.success() {
                let errors = String::from_utf8_lossy(&output.stderr).into_owned();
                facts.incompatible.extend(errors.lines().next().map(str::to_owned));
            }
            traces(&text, facts);
            if forward_drops(&text) {
                facts.forward_drops.push(if program == "iptables" { "IPv4" } else { "IPv6" });
            }
        }
    }
}

/// kube-proxy's chains without the one that only we have beside them.
fn traces(saved: &str, facts: &mut Facts) {
    let has =
        |chain: &str| saved.lines().any(|line| line.strip_prefix(':').is_some_and(|rest| rest.starts_with(chain)));
    if has("KUBE-SERVICES ") && !has("KUBE-UNTRANSLATED ") {
        facts.proxy_traces.push("chains KUBE-SERVICES and its like".into());
    }
}

fn forward_drops(saved: &str) -> bool {
    let filter = saved.split("*filter").nth(1).unwrap_or_default();
    filter.lines().take_while(|line| *line != "COMMIT").any(|line| line.starts_with(":FORWARD DROP"))
}

/// The virtual servers. To ask over netlink would load the module, so the file is looked at first.
fn servers() -> Servers {
    let mut servers = Servers::default();
    if !Path::new(proc::PATH).exists() {
        return servers;
    }
    let ours = recorded();
    let Ok(mut client) = ipvs::Client::connect() else { return servers };
    // What was read before a failure counts all the same.
    let _ = client.for_each_service(|entry| {
        servers.all += 1;
        servers.schedulers.insert(entry.service.scheduler.to_string());
        if !entry_of(&entry.service.id).is_some_and(|entry| ours.contains(&entry)) {
            servers.foreign.insert(entry.service.id.to_string());
        }
    });
    servers
}

/// Addresses and ports of virtual servers of ours.
fn recorded() -> HashSet<Entry> {
    let mut ours = HashSet::new();
    let Ok(mut client) = ipset::Client::open() else { return ours };
    for set in Set::LEDGER {
        for family in IpFamily::BOTH {
            // A set that is not there records nothing.
            let _ = client.each_entry(set.name(family), |found| {
                ours.insert(found.entry);
            });
        }
    }
    ours
}

fn entry_of(id: &ServiceId) -> Option<Entry> {
    let ServiceId::Address { protocol, address, port } = *id else { return None };
    let protocol = match protocol {
        Protocol::Tcp => ipset::Protocol::TCP,
        Protocol::Udp => ipset::Protocol::UDP,
        Protocol::Sctp => ipset::Protocol::SCTP,
        Protocol::Other(_) => return None,
    };
    Some(Entry::IpPort { address, protocol, port })
}

/// Which modes count: what was asked for, else what serves, else what `auto` would choose.
fn modes(args: &DoctorArgs, in_daemon: Option<Modes>, facts: &mut Facts) {
    facts.ipvs_missing = dataplane::try_ipvs(&facts.scheduler).err();
    let works = facts.ipvs_missing.is_none();
    facts.modes = match (args.proxy_mode.as_str(), in_daemon) {
        ("ipvs", _) => Modes { ipvs: true, iptables: false },
        ("iptables", _) => Modes { ipvs: false, iptables: true },
        (_, Some(serving)) => serving,
        (_, None) => Modes { ipvs: works, iptables: !works },
    };
}

fn interfaces(facts: &mut Facts) {
    let ours = |name: &str| name == "lo" || name.starts_with("kube-ipvs");
    for link in links::links().unwrap_or_default() {
        if link.up && !ours(&link.name) {
            facts.mtus.insert(link.name.clone(), link.mtu);
        }
        if link.name == INTERFACE && !facts.rules.iter().any(|rules| rules.services) {
            facts.proxy_traces.push(format!("the device {INTERFACE}"));
        }
    }
    let found = addresses::node_addresses().unwrap_or_default();
    facts.addresses = found.into_iter().map(|one| (one.address, one.interface)).filter(|(_, on)| !ours(on)).collect();
    if facts.service_ranges.is_empty() {
        facts.service_ranges = routed_ranges();
    }
}

/// The service ranges, as IPVS mode has routed them.
fn routed_ranges() -> Vec<IpNet> {
    let Ok(mut interface) = Interface::open(INTERFACE) else { return Vec::new() };
    if !matches!(interface.index(), Ok(Some(_))) {
        return Vec::new();
    }
    let routes = IpFamily::BOTH.into_iter().flat_map(|family| interface.local_routes(family).unwrap_or_default());
    routes.map(|route| route.net).filter(|net| net.prefix_len() < net.max_prefix_len()).collect()
}

fn settings(facts: &mut Facts) {
    let sysctl = Sysctl::default();
    let mut paths: BTreeSet<String> = ALL.iter().map(|setting| setting.path.to_owned()).collect();
    paths.extend(FURTHER.map(str::to_owned));
    let links = facts.mtus.keys().map(String::as_str).chain(["all"]);
    paths.extend(links.map(|name| format!("net/ipv4/conf/{name}/rp_filter")));
    for path in paths {
        if let Ok(value) = sysctl.read(&path) {
            facts.sysctls.insert(path, value);
        }
    }
    facts.tracked = sysctl.read("net/netfilter/nf_conntrack_count").ok().and_then(|count| count.parse().ok());
}

/// Why nothing can be written to a folder, or to the one in which it would be made.
fn unwritable(folder: &Path) -> Option<String> {
    use nix::unistd::{AccessFlags, access};
    let there = folder.ancestors().find(|path| path.exists())?;
    access(there, AccessFlags::W_OK).err().map(|errno| errno.desc().to_lowercase())
}
