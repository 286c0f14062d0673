//! The checks: each a function from facts to findings, and no more.

use super::facts::Facts;
use super::finding::{Certainty, Finding, Severity};
use crate::kernel::sysctl::{KernelVersion, Needs, settings};
use std::collections::{BTreeMap, BTreeSet};

/// A check.
pub type Check = fn(&Facts) -> Vec<Finding>;

/// All checks with their names, in the order in which they are made.
pub const ALL: &[(&str, Check)] = &[
    ("kernel-modules", kernel_modules),
    ("iptables", iptables_works),
    ("sysctls", sysctls),
    ("rp-filter", rp_filter),
    ("conntrack-room", conntrack_room),
    ("iptables-variants", variants),
    ("nf-tables", nf_tables),
    ("forward-policy", forward_policy),
    ("foreign-virtual-servers", foreign_servers),
    ("service-ranges", service_ranges),
    ("kube-proxy", kube_proxy),
    ("mtu", mtu),
    ("estimation", estimation),
    ("state", state),
];

fn kernel_modules(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "kernel-modules";
    let Some(missing) = &facts.ipvs_missing else { return Vec::new() };
    if facts.modes.ipvs {
        let means = "IPVS mode does not work on this node: no Service is served in it";
        let command = format!("modprobe -a ip_vs ip_vs_{} dummy xt_set ip_set_hash_ipport", facts.scheduler);
        return vec![Finding::new(CHECK, Severity::Error, missing, means).mend(command)];
    }
    let means = "IPVS mode cannot be had; iptables mode does not need it";
    vec![Finding::new(CHECK, Severity::Note, missing, means)]
}

fn iptables_works(facts: &Facts) -> Vec<Finding> {
    let means = "both modes write rules with it: Services of that family are not served";
    let finding = |missing: &String| {
        Finding::new("iptables", Severity::Error, missing, means)
            .mend("apt-get install iptables   # or your distribution's")
    };
    facts.iptables_missing.iter().map(finding).collect()
}

/// The settings of a service proxy, as the daemon itself would set them.
fn sysctls(facts: &Facts) -> Vec<Finding> {
    let needs = Needs {
        ipvs: facts.modes.ipvs,
        ipv6: facts.ipv6,
        strict_arp: false,
        localhost_node_ports: facts.localhost_node_ports && facts.modes.iptables,
    };
    let kernel = facts.kernel.unwrap_or(KernelVersion::new(6, 1));
    let wrong = settings(&needs, kernel).into_iter().filter_map(|setting| {
        let found = facts.sysctl(setting.path)?;
        if setting.is_satisfied_by(found) {
            return None;
        }
        let what = format!("{} is {found}, not {}", setting.path, setting.value);
        // A daemon sets them all; without one this says what it would do.
        let severity = if facts.own_daemon.is_some() { Severity::Error } else { Severity::Warning };
        let command = format!("sysctl -w {}={}", setting.path.replace('/', "."), setting.value);
        Some(Finding::new("sysctls", severity, what, format!("wanted, as {}", setting.why)).mend(command))
    });
    wrong.collect()
}

/// Strict reverse path filtering and answers that come back by another way.
fn rp_filter(facts: &Facts) -> Vec<Finding> {
    let mode = |name: &str| facts.number(&format!("net/ipv4/conf/{name}/rp_filter"));
    let all = mode("all").unwrap_or(0);
    // The greater of both counts (`IN_DEV_RPFILTER`).
    let strict: Vec<&str> =
        facts.mtus.keys().map(String::as_str).filter(|name| mode(name).is_some_and(|own| own.max(all) == 1)).collect();
    let Some(first) = strict.first() else { return Vec::new() };
    let what = format!("rp_filter is strict (1) on {}", strict.join(", "));
    let means = "packets whose answer would leave by another interface are dropped: on nodes with several uplinks, or with \
                 pods behind other routes than their packets come by, Services then seem to time out";
    let finding = Finding::new("rp-filter", Severity::Note, what, means).sure(Certainty::Possible);
    vec![finding.mend(format!("sysctl -w net.ipv4.conf.all.rp_filter=2 net.ipv4.conf.{first}.rp_filter=2"))]
}

fn conntrack_room(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "conntrack-room";
    let (Some(tracked), Some(limit)) = (facts.tracked, facts.number("net/netfilter/nf_conntrack_max")) else {
        return Vec::new();
    };
    if limit == 0 {
        return Vec::new();
    }
    let percent = tracked.saturating_mul(100) / limit;
    let severity = match percent {
        0..75 => return Vec::new(),
        75..95 => Severity::Warning,
        _ => Severity::Error,
    };
    let what = format!("{tracked} of {limit} connections are tracked ({percent} %)");
    let means = "when the table is full, packets of new connections are dropped (\"nf_conntrack: table full\" in the kernel's log)";
    let command = format!(
        "sysctl -w net.netfilter.nf_conntrack_max={}   # or run with --conntrack-max-per-core",
        limit.saturating_mul(2)
    );
    vec![Finding::new(CHECK, severity, what, means).mend(command)]
}

fn variants(facts: &Facts) -> Vec<Finding> {
    let mut by_program: BTreeMap<&str, Vec<_>> = BTreeMap::new();
    for rules in facts.rules.iter().filter(|rules| rules.rules > 0) {
        by_program.entry(rules.program).or_default().push(rules);
    }
    let mut findings = Vec::new();
    for (program, both) in by_program.into_iter().filter(|(_, both)| both.len() > 1) {
        let counts: Vec<String> = both.iter().map(|one| format!("{} of {}", one.rules, one.variant)).collect();
        let what = format!("{program} has rules of both variants: {}", counts.join(", "));
        let means = "the kernel asks both; a verdict of one does not show in the other's listing, and the order between them is that \
                     of their registration";
        let twice = both.iter().all(|one| one.services);
        let severity = if twice { Severity::Error } else { Severity::Warning };
        // The lesser part is what was left behind.
        let left = both.iter().min_by_key(|one| one.rules).map_or("legacy", |one| one.variant);
        let command = format!("{program}-{left}-save   # look first; then remove what is left of it and reboot");
        findings.push(Finding::new("iptables-variants", severity, what, means).sure(Certainty::Likely).mend(command));
    }
    findings
}

fn nf_tables(facts: &Facts) -> Vec<Finding> {
    let means = "another program writes to iptables' tables with nft; rules that iptables-nft cannot show are not seen when rules \
                 are compared, and `explain` does not follow them";
    let finding = |what: &String| {
        Finding::new("nf-tables", Severity::Warning, what, means).sure(Certainty::Likely).mend("nft list ruleset")
    };
    facts.incompatible.iter().map(finding).collect()
}

fn forward_policy(facts: &Facts) -> Vec<Finding> {
    let means = "what is forwarded for Services is accepted by our chain; pods that talk to each other directly need a rule of the \
                 network plugin";
    let finding = |family: &&'static str| {
        let what = format!("the policy of filter FORWARD is DROP for {family}");
        Finding::new("forward-policy", Severity::Note, what, means).sure(Certainty::Possible)
    };
    facts.forward_drops.iter().map(finding).collect()
}

fn foreign_servers(facts: &Facts) -> Vec<Finding> {
    let foreign = &facts.virtual_servers.foreign;
    let Some(first) = foreign.first() else { return Vec::new() };
    let more = if foreign.len() > 1 { format!(" and {} more", foreign.len() - 1) } else { String::new() };
    let what = format!("virtual servers that are not ours: {first}{more}");
    let means = "somebody else programs IPVS here (kube-proxy in IPVS mode, keepalived, ipvsadm). They are left alone; a Service that \
                 wants the same address and port is not served";
    let finding = Finding::new("foreign-virtual-servers", Severity::Warning, what, means);
    vec![finding.mend(format!("ipvsadm -Ln   # then: ipvsadm -D {}", delete_words(first)))]
}

/// `TCP 10.0.0.1:80` as options of ipvsadm.
fn delete_words(server: &str) -> String {
    let (protocol, address) = server.split_once(' ').unwrap_or(("TCP", server));
    let option = match protocol {
        "UDP" => "-u",
        "SCTP" => "--sctp-service",
        "FWM" => "-f",
        _ => "-t",
    };
    format!("{option} {address}")
}

fn service_ranges(facts: &Facts) -> Vec<Finding> {
    let inside = facts.addresses.iter().filter_map(|(address, interface)| {
        let range = facts.service_ranges.iter().find(|range| range.contains(address))?;
        Some((address, interface, range))
    });
    let finding = |(address, interface, range)| {
        let what = format!("{address} on {interface} lies within the service range {range}");
        let means = "a Service may be given that address; its clients, and who wants to reach the node by it, get the other one";
        let command = format!("ip address del {address} dev {interface}   # or move --service-cidr");
        Finding::new("service-ranges", Severity::Error, what, means).mend(command)
    };
    inside.map(finding).collect()
}

fn kube_proxy(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "kube-proxy";
    let means = "both write the same chains, or the same virtual servers, and undo each other's work";
    let stop = "kubectl -n kube-system delete daemonset kube-proxy";
    let mut findings: Vec<Finding> = facts
        .proxies
        .iter()
        .map(|(process, name)| {
            let what = format!("{name} runs on this node: process {process}");
            Finding::new(CHECK, Severity::Error, what, means).mend(stop)
        })
        .collect();
    if let (Some(who), true, None) = (&facts.healthz, findings.is_empty(), facts.own_daemon) {
        let what = format!("{who} is answered on port 10256, kube-proxy's health check");
        let found = Finding::new(
            CHECK,
            Severity::Warning,
            what,
            "a service proxy runs here, in another process namespace perhaps",
        );
        findings.push(found.sure(Certainty::Likely).mend(stop));
    }
    if !facts.proxy_traces.is_empty() && findings.is_empty() {
        let what = format!("left behind by kube-proxy: {}", facts.proxy_traces.join(", "));
        let means = "translates and accepts as it did when it stopped";
        let found = Finding::new(CHECK, Severity::Warning, what, means).sure(Certainty::Likely);
        findings.push(found.mend("kube-proxy --cleanup   # with the version that ran here"));
    }
    findings
}

/// Pods whose packets do not fit through the uplink.
fn mtu(facts: &Facts) -> Vec<Finding> {
    let mut sizes: BTreeMap<u32, Vec<&str>> = BTreeMap::new();
    for (name, size) in &facts.mtus {
        sizes.entry(*size).or_default().push(name);
    }
    let ipv6_needs = 1280;
    let too_small = sizes.range(..ipv6_needs).flat_map(|(size, names)| names.iter().map(move |name| (size, name)));
    let small = too_small.filter(|_| facts.ipv6).map(|(size, name)| {
        let what = format!("the MTU of {name} is {size}; IPv6 needs {ipv6_needs}");
        let means = "the kernel takes IPv6 from such an interface";
        Finding::new("mtu", Severity::Error, what, means).mend(format!("ip link set {name} mtu {ipv6_needs}"))
    });
    let mut findings: Vec<Finding> = small.collect();
    if sizes.len() > 1 {
        let list: Vec<String> = sizes.iter().map(|(size, names)| format!("{size} ({})", few(names))).collect();
        let what = format!("interfaces have different MTUs: {}", list.join(", "));
        let means = "packets that fit one and not the other need ICMP \"fragmentation needed\" to get back to their sender; where a \
                     firewall drops that, small requests work and large answers hang";
        let probing = "sysctl -w net.ipv4.tcp_mtu_probing=1   # or give pods the smallest of them";
        findings.push(Finding::new("mtu", Severity::Note, what, means).sure(Certainty::Possible).mend(probing));
    }
    findings
}

fn few(names: &[&str]) -> String {
    let shown: Vec<&str> = names.iter().take(3).copied().collect();
    let more = names.len() - shown.len();
    if more > 0 { format!("{} and {more} more", shown.join(", ")) } else { shown.join(", ") }
}

/// Every two seconds the kernel goes through all virtual servers and destinations for their rates.
fn estimation(facts: &Facts) -> Vec<Finding> {
    let many = 2000;
    let on = facts.number("net/ipv4/vs/run_estimation").is_none_or(|value| value != 0);
    if facts.virtual_servers.all < many || !on {
        return Vec::new();
    }
    let what = format!("rates are estimated for {} virtual servers", facts.virtual_servers.all);
    // `ip_vs_est.c`: kernel threads since 6.2, a timer in softirq before.
    let threads = facts.kernel.is_some_and(|kernel| kernel >= KernelVersion::new(6, 2));
    let means = if threads {
        format!("{} kernel threads (ipvs-e) spend time on it; `ipvsadm --rate` is all that it is for", facts.estimators)
    } else {
        "a timer goes over all of them in one softirq every 2 s, which shows as latency of other packets".to_owned()
    };
    let severity = if threads { Severity::Note } else { Severity::Warning };
    let finding = Finding::new("estimation", severity, what, means);
    vec![finding.mend("sysctl -w net.ipv4.vs.run_estimation=0   # rates then read 0")]
}

fn state(facts: &Facts) -> Vec<Finding> {
    let (folder, Some(problem)) = &facts.state else { return Vec::new() };
    let what = format!("{} cannot be written: {problem}", folder.display());
    let means = "what sysctls were before, the mode that was switched to and the control socket lie there: `run` does not start, `cleanup` \
                 cannot put sysctls back";
    vec![
        Finding::new("state", Severity::Error, what, means)
            .mend(format!("mkdir -p {0} && mount -o remount,rw {0}", folder.display())),
    ]
}

/// Runs all checks; the worst comes first.
pub fn examine(facts: &Facts) -> Vec<Finding> {
    let mut findings: Vec<Finding> = ALL.iter().flat_map(|(_, check)| check(facts)).collect();
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    findings
}

/// The checks that found nothing.
pub fn sound(findings: &[Finding]) -> Vec<&'static str> {
    let named: BTreeSet<&str> = findings.iter().map(|finding| finding.check).collect();
    ALL.iter().map(|(name, _)| *name).filter(|name| !named.contains(name)).collect()
}

#[cfg(test)]
#[path = "checks_tests.rs"]
mod tests;
