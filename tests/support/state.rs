//! Everything in a node's kernel that a proxy might change, as the system's tools tell it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::{Cluster, no_ipvs};

/// A snapshot: what each command printed, and each sysctl.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State(BTreeMap<String, String>);

/// Rules of both variants, sets, links, addresses, routes, virtual servers.
const COMMANDS: [&str; 10] = [
    "iptables-nft-save",
    "ip6tables-nft-save",
    "iptables-legacy-save",
    "ip6tables-legacy-save",
    "ipset save",
    "ip link show",
    "ip address show",
    "ip -4 route show table all",
    "ip -6 route show table all",
    "ip rule show",
];

impl State {
    /// Looks at everything now.
    pub fn of(cluster: &Cluster) -> Self {
        let mut commands = COMMANDS.to_vec();
        if no_ipvs().is_none() {
            commands.push("ipvsadm -Sn");
        }
        let mut state: BTreeMap<String, String> =
            commands.into_iter().map(|command| (command.to_owned(), canonical(&cluster.on_node(command)))).collect();
        cluster.lab.node().ns.run(|| read_sysctls(Path::new("/proc/sys/net"), &mut state)).unwrap();
        Self(state)
    }

    /// What a command printed.
    pub fn printed(&self, command: &str) -> &str {
        &self.0[command]
    }

    /// Everything is as it was.
    pub fn assert_same(&self, before: &Self, when: &str) {
        let keys: std::collections::BTreeSet<&String> = self.0.keys().chain(before.0.keys()).collect();
        let mut differences = String::new();
        for key in keys {
            let (was, is) = (before.0.get(key), self.0.get(key));
            if was != is {
                let text = |side: Option<&String>| side.map_or("(nothing)".to_owned(), Clone::clone);
                differences += &format!("--- {key}: before\n{}\n--- {key}: {when}\n{}\n", text(was), text(is));
            }
        }
        assert!(differences.is_empty(), "not as before:\n{differences}");
    }
}

/// Without comments (they bear the time) and counters.
fn canonical(text: &str) -> String {
    let line = |line: &str| match line.split_once(" [") {
        Some((chain, _)) if line.starts_with(':') => chain.to_owned(),
        _ => line.to_owned(),
    };
    text.lines().filter(|line| !line.starts_with('#')).map(line).collect::<Vec<_>>().join("\n")
}

/// All settings below a folder of /proc/sys that can be read and that don't change by themselves.
fn read_sysctls(folder: &Path, into: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read_sysctls(&path, into);
        } else if !path.ends_with("nf_conntrack_count")
            && let Ok(value) = fs::read_to_string(&path)
        {
            into.insert(path.display().to_string(), value);
        }
    }
}
