//! The state of the node's kernel, as text that can be compared: rules, sets, virtual servers, routes, links, settings.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use kube_ipvs::lab::NetNs;

use crate::proxy::Mode;

/// Rules of somebody else, so that all tables are there before the proxy comes, as on any node that kubelet runs on, and
/// so that a cleanup which takes too much is seen. They match nothing that scenarios send.
const FOREIGN_RULES: &str = "*mangle\n:PREROUTING ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n\
:OUTPUT ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n:KUBE-KUBELET-CANARY - [0:0]\n:FOREIGN - [0:0]\n\
-A PREROUTING -i foreign0 -j FOREIGN\nCOMMIT\n*nat\n:PREROUTING ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n\
:OUTPUT ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n:KUBE-KUBELET-CANARY - [0:0]\n:FOREIGN - [0:0]\n\
-A PREROUTING -i foreign0 -j FOREIGN\n-A POSTROUTING -o foreign0 -j MASQUERADE\nCOMMIT\n*filter\n:INPUT ACCEPT [0:0]\n\
:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:KUBE-KUBELET-CANARY - [0:0]\n:FOREIGN - [0:0]\n\
-A INPUT -i foreign0 -j FOREIGN\n-A FORWARD -i foreign0 -j DROP\nCOMMIT\n";

/// What is read, each with the program that prints it. A program that is missing prints nothing, before and after.
const LISTINGS: &[(&str, &[&str])] = &[
    ("IPv4 rules", &["iptables-save"]),
    ("IPv6 rules", &["ip6tables-save"]),
    ("IPv4 rules, legacy", &["iptables-legacy-save"]),
    ("IPv6 rules, legacy", &["ip6tables-legacy-save"]),
    ("sets", &["ipset", "save"]),
    ("IPv4 routes", &["ip", "-4", "route", "show", "table", "all"]),
    ("IPv6 routes", &["ip", "-6", "route", "show", "table", "all"]),
    ("IPv4 routing rules", &["ip", "-4", "rule", "show"]),
    ("IPv6 routing rules", &["ip", "-6", "rule", "show"]),
    ("addresses", &["ip", "-o", "address", "show"]),
];

/// Settings that change by themselves.
const RESTLESS: &[&str] = &["nf_conntrack_count"];

/// A state. Sections by name; settings by path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    sections: BTreeMap<String, Vec<String>>,
    settings: BTreeMap<String, String>,
}

/// Removes the record of changed settings that a namespace of the same number has left: numbers are used again, and
/// whatever was killed there has not cleaned up.
pub fn forget_dead_namespace(node: &NetNs) -> Result<()> {
    let number = node.run(|| fs::metadata("/proc/thread-self/ns/net").map(|metadata| metadata.ino()))?;
    let number = number.context("looking up the namespace's number")?;
    match fs::remove_file(format!("/run/kube-ipvs/sysctl-{number}")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).context("removing an old record of settings")
        }
        _ => Ok(()),
    }
}

/// Puts somebody else's rules, set and (in IPVS mode) virtual server into the namespace.
pub fn put_foreign(node: &NetNs, mode: Mode) -> Result<()> {
    for program in ["iptables-restore", "ip6tables-restore"] {
        feed(node, &[program, "--noflush"], FOREIGN_RULES)?;
    }
    feed(node, &["ipset", "restore"], "create foreign hash:ip\nadd foreign 192.0.2.7\n")?;
    if mode == Mode::Ipvs {
        feed(node, &["ipvsadm", "-R"], "-A -t 192.0.2.1:9 -s rr\n-a -t 192.0.2.1:9 -r 192.0.2.2:9 -m -w 1\n")?;
    }
    Ok(())
}

fn feed(node: &NetNs, words: &[&str], input: &str) -> Result<()> {
    let text = words.join(" ");
    let Some((program, arguments)) = words.split_first() else { return Ok(()) };
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = node.spawn_process(command)?;
    if let Some(mut stdin) = child.stdin.take() {
        io::Write::write_all(&mut stdin, input.as_bytes()).with_context(|| format!("writing to {text}"))?;
    }
    let output = child.wait_with_output().with_context(|| format!("running {text}"))?;
    ensure!(output.status.success(), "{text}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// What a program prints in the namespace; nothing if it is not installed.
pub fn listing(node: &NetNs, words: &[&str]) -> Result<String> {
    let Some((program, arguments)) = words.split_first() else { return Ok(String::new()) };
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    match node.spawn_process(command) {
        Ok(child) => {
            let output = child.wait_with_output().with_context(|| format!("running {}", words.join(" ")))?;
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        }
        Err(_) => Ok(String::new()),
    }
}

impl State {
    /// Reads the state of `node`.
    pub fn read(node: &NetNs) -> Result<Self> {
        let mut sections = BTreeMap::new();
        for (name, words) in LISTINGS {
            let text = listing(node, words)?;
            // Comments have the time in them, chains count packets.
            let mut lines: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).map(without_counters).collect();
            if name.contains("routes") {
                lines.sort();
            }
            sections.insert((*name).to_owned(), lines);
        }
        let table = node.run(|| fs::read_to_string("/proc/thread-self/net/ip_vs").unwrap_or_default())?;
        sections.insert("virtual servers".to_owned(), table.lines().map(str::to_owned).collect());
        let settings = node.run(|| {
            let mut settings = BTreeMap::new();
            read_settings(Path::new("/proc/sys/net"), &mut settings);
            settings
        })?;
        Ok(Self { sections, settings })
    }

    /// What is different now, line by line.
    pub fn difference(&self, now: &Self) -> Vec<String> {
        let mut found = Vec::new();
        for (name, before) in &self.sections {
            let after = now.sections.get(name).map(Vec::as_slice).unwrap_or_default();
            if before == after {
                continue;
            }
            let count = found.len();
            found.extend(before.iter().filter(|line| !after.contains(line)).map(|line| format!("{name}: - {line}")));
            found.extend(after.iter().filter(|line| !before.contains(line)).map(|line| format!("{name}: + {line}")));
            if found.len() == count {
                found.push(format!("{name}: the same lines in another order or number"));
            }
        }
        for (path, before) in &self.settings {
            match now.settings.get(path) {
                Some(after) if after == before => {}
                // Settings of links go and come with them, and links are compared themselves.
                None => found.push(format!("{path}: is gone")),
                Some(after) => found.push(format!("{path}: {before:?} before, {after:?} now")),
            }
        }
        found
    }
}

fn without_counters(line: &str) -> String {
    match (line.starts_with(':'), line.rsplit_once(" [")) {
        (true, Some((chain, _))) => chain.to_owned(),
        _ => line.to_owned(),
    }
}

fn read_settings(folder: &Path, settings: &mut BTreeMap<String, String>) {
    // Some settings cannot be read; those are not compared.
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            read_settings(&path, settings);
        } else if let Ok(value) = fs::read_to_string(&path)
            && !RESTLESS.iter().any(|name| path.ends_with(name))
        {
            settings.insert(path.display().to_string(), value.trim_end().to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(rules: &[&str], forward: &str) -> State {
        let lines = rules.iter().map(|line| without_counters(line)).collect();
        State {
            sections: [("IPv4 rules".to_owned(), lines)].into(),
            settings: [("net/ipv4/ip_forward".to_owned(), forward.to_owned())].into(),
        }
    }

    #[test]
    fn differences_are_named_and_counters_are_none() {
        let before = state(&["*nat", ":PREROUTING ACCEPT [1:52]", "COMMIT"], "0");
        assert_eq!(before.difference(&state(&["*nat", ":PREROUTING ACCEPT [9:99]", "COMMIT"], "0")), [""; 0]);
        let after = state(&["*nat", ":PREROUTING ACCEPT [1:52]", ":KUBE-SERVICES - [0:0]", "COMMIT"], "1");
        let found = before.difference(&after);
        assert_eq!(found, ["IPv4 rules: + :KUBE-SERVICES -", "net/ipv4/ip_forward: \"0\" before, \"1\" now"]);
        assert_eq!(before.difference(&state(&["COMMIT", "*nat", ":PREROUTING ACCEPT [0:0]"], "0")).len(), 1);
    }
}
