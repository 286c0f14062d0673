//! What the kernel holds that concerns a flow, for people who look why it failed.

use std::collections::BTreeSet;

use crate::flow::Flow;
use crate::proxy::{Mode, Program, Proxy};
use crate::state::listing;
use crate::world::World;

/// Lines shown of each kind.
const LINES: usize = 40;

/// The listing, the rules about the flow's address or port, and the proxy's log.
pub fn gather(world: &World, program: Program<'_>, mode: Mode, proxy: &Proxy, flow: &Flow) -> String {
    let mut text = String::new();
    let list = program.run(&["list", "--proxy-mode", mode.as_str()]).unwrap_or_else(|error| format!("{error:#}"));
    section(&mut text, "kube-ipvs list", list.lines());
    let save = if flow.to.is_ipv4() { "iptables-save" } else { "ip6tables-save" };
    let rules = listing(world.node(), &[save]).unwrap_or_else(|error| format!("{error:#}"));
    section(
        &mut text,
        &format!("{save}, what concerns {}", flow.to),
        concerning(&rules, flow).iter().map(String::as_str),
    );
    let log = proxy.last_lines(12);
    section(&mut text, "the proxy's log", log.lines());
    text
}

/// A titled piece of the text.
pub fn section<'a>(text: &mut String, title: &str, lines: impl Iterator<Item = &'a str>) {
    text.push_str(&format!("    --- {title}\n"));
    for (index, line) in lines.enumerate() {
        if index == LINES {
            text.push_str("    …\n");
            break;
        }
        text.push_str(&format!("    {line}\n"));
    }
}

/// Rules that name the address or the port, and what they jump to.
fn concerning(rules: &str, flow: &Flow) -> Vec<String> {
    let (address, port) = (flow.to.ip().to_string(), flow.to.port().to_string());
    let names_it = |line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        let address = words.iter().any(|word| word.split('/').next() == Some(address.as_str()));
        let port = words.windows(2).any(|pair| matches!(pair, ["--dport", found] if *found == port));
        address || port && !words.contains(&"-d")
    };
    let appended: Vec<&str> = rules.lines().filter(|line| line.starts_with("-A ")).collect();
    let mut shown: BTreeSet<usize> = BTreeSet::new();
    let mut targets: Vec<&str> = Vec::new();
    let mut take = |index: usize, line: &'_ str| -> bool { shown.insert(index) && !line.is_empty() };
    for (index, line) in appended.iter().enumerate().filter(|(_, line)| names_it(line)) {
        take(index, line);
        targets.extend(target(line));
    }
    let mut followed = BTreeSet::new();
    while let Some(chain) = targets.pop() {
        if !followed.insert(chain) {
            continue;
        }
        let of_chain = format!("-A {chain} ");
        for (index, line) in appended.iter().enumerate().filter(|(_, line)| line.starts_with(&of_chain)) {
            take(index, line);
            targets.extend(target(line));
        }
    }
    appended.iter().enumerate().filter(|(index, _)| shown.contains(index)).map(|(_, line)| (*line).to_owned()).collect()
}

fn target(rule: &str) -> Option<&str> {
    let mut words = rule.split_whitespace();
    words.find(|word| *word == "-j" || *word == "-g")?;
    words.next()
}
