//! Every check, by itself: what makes it speak, and what does not.

use super::super::facts::{Modes, Servers, VariantRules};
use super::*;

fn sound_node() -> Facts {
    Facts {
        kernel: Some(KernelVersion::new(6, 12)),
        modes: Modes { ipvs: true, iptables: false },
        scheduler: "rr".into(),
        ..Facts::default()
    }
}

/// What one check says, and nothing else does.
fn only(check: &str, facts: &Facts) -> Vec<Finding> {
    let findings = examine(facts);
    assert!(findings.iter().all(|finding| finding.check == check), "{findings:?}");
    assert!(!findings.is_empty(), "{check} says nothing");
    findings
}

#[test]
fn a_sound_node_has_no_findings() {
    assert_eq!(examine(&sound_node()), []);
    assert_eq!(sound(&[]).len(), ALL.len());
}

#[test]
fn missing_modules_matter_where_ipvs_is_wanted() {
    let missing = Facts { ipvs_missing: Some("no family IPVS".into()), ..sound_node() };
    let found = only("kernel-modules", &missing);
    assert_eq!(found[0].severity, Severity::Error);
    assert!(found[0].remedy.as_ref().unwrap().contains("ip_vs_rr"));
    let iptables = Facts { modes: Modes { ipvs: false, iptables: true }, ..missing };
    assert_eq!(only("kernel-modules", &iptables)[0].severity, Severity::Note);
    let none = Facts { iptables_missing: vec!["iptables is not installed".into()], ..sound_node() };
    assert_eq!(only("iptables", &none)[0].severity, Severity::Error);
}

#[test]
fn settings_that_are_wrong_are_errors_beside_a_daemon() {
    let mut facts = sound_node();
    facts.sysctls = [("net/ipv4/ip_forward".to_owned(), "0".to_owned())].into();
    let found = only("sysctls", &facts);
    assert_eq!((found[0].severity, found.len()), (Severity::Warning, 1));
    assert_eq!(found[0].remedy.as_deref(), Some("sysctl -w net.ipv4.ip_forward=1"));
    facts.own_daemon = Some(7);
    assert_eq!(only("sysctls", &facts)[0].severity, Severity::Error);
}

#[test]
fn strict_path_filters_are_those_of_the_greater_number() {
    let mut facts = sound_node();
    facts.mtus = [("eth0".to_owned(), 1500)].into();
    let mut set = |all: &str, own: &str| {
        facts.sysctls = [("net/ipv4/conf/all/rp_filter", all), ("net/ipv4/conf/eth0/rp_filter", own)]
            .map(|(path, value)| (path.to_owned(), value.to_owned()))
            .into();
        rp_filter(&facts).len()
    };
    assert_eq!((set("0", "0"), set("1", "0"), set("0", "1"), set("2", "1"), set("1", "2")), (0, 1, 1, 0, 0));
}

#[test]
fn connection_tracking_fills_up() {
    let mut facts = sound_node();
    facts.sysctls = [("net/netfilter/nf_conntrack_max".to_owned(), "1000".to_owned())].into();
    let mut with = |tracked| {
        facts.tracked = Some(tracked);
        conntrack_room(&facts).first().map(|finding| finding.severity)
    };
    assert_eq!([with(749), with(750), with(950)], [None, Some(Severity::Warning), Some(Severity::Error)]);
}

#[test]
fn rules_of_both_variants() {
    let of = |variant, rules, services| VariantRules { program: "iptables", variant, rules, services };
    let facts = |rules| Facts { rules, ..sound_node() };
    assert_eq!(examine(&facts(vec![of("nft", 10, true), of("legacy", 0, false)])), []);
    let mixed = only("iptables-variants", &facts(vec![of("nft", 10, true), of("legacy", 3, false)]));
    assert_eq!(mixed[0].severity, Severity::Warning);
    assert!(mixed[0].remedy.as_ref().unwrap().contains("iptables-legacy-save"));
    let twice = only("iptables-variants", &facts(vec![of("nft", 10, true), of("legacy", 3, true)]));
    assert_eq!(twice[0].severity, Severity::Error);
}

#[test]
fn others_in_the_kernel() {
    let incompatible = vec!["iptables-nft: Table `nat' is incompatible, use 'nft' tool.".to_owned()];
    only("nf-tables", &Facts { incompatible, ..sound_node() });
    only("forward-policy", &Facts { forward_drops: vec!["IPv4"], ..sound_node() });
    let foreign = ["UDP 10.0.0.1:53".to_owned()].into();
    let servers = Servers { all: 1, foreign, ..Servers::default() };
    let found = only("foreign-virtual-servers", &Facts { virtual_servers: servers, ..sound_node() });
    assert!(found[0].remedy.as_ref().unwrap().ends_with("ipvsadm -D -u 10.0.0.1:53"));
}

#[test]
fn addresses_within_service_ranges() {
    let mut facts = sound_node();
    facts.service_ranges = vec!["10.96.0.0/12".parse().unwrap()];
    facts.addresses = vec![("192.168.0.2".parse().unwrap(), "eth0".into())];
    assert_eq!(examine(&facts), []);
    facts.addresses.push(("10.100.0.1".parse().unwrap(), "eth1".into()));
    let found = only("service-ranges", &facts);
    assert!(found[0].what.contains("10.100.0.1 on eth1") && found[0].remedy.as_ref().unwrap().contains("eth1"));
}

#[test]
fn kube_proxy_runs_or_has_left() {
    let running = Facts { proxies: vec![(77, "kube-proxy".into())], ..sound_node() };
    assert_eq!(only("kube-proxy", &running)[0].severity, Severity::Error);
    let answers = Facts { healthz: Some("HTTP/1.0 200 OK".into()), ..sound_node() };
    assert_eq!(only("kube-proxy", &answers)[0].certainty, Certainty::Likely);
    let ours = Facts { own_daemon: Some(1), ..answers };
    assert_eq!(examine(&ours), []);
    only("kube-proxy", &Facts { proxy_traces: vec!["chains".into()], ..sound_node() });
}

#[test]
fn mtus_that_differ_or_are_too_small() {
    let mtus = |list: &[(&str, u32)]| list.iter().map(|(name, size)| ((*name).to_owned(), *size)).collect();
    assert_eq!(examine(&Facts { mtus: mtus(&[("eth0", 1500), ("cni0", 1500)]), ..sound_node() }), []);
    let found = only("mtu", &Facts { mtus: mtus(&[("eth0", 1500), ("flannel.1", 1450)]), ..sound_node() });
    assert_eq!(found[0].severity, Severity::Note);
    let small = Facts { mtus: mtus(&[("eth0", 1000)]), ipv6: true, ..sound_node() };
    assert_eq!(only("mtu", &small)[0].severity, Severity::Error);
}

#[test]
fn estimation_costs_with_thousands() {
    let mut facts = sound_node();
    facts.virtual_servers.all = 5000;
    assert_eq!(only("estimation", &facts)[0].severity, Severity::Note);
    facts.kernel = Some(KernelVersion::new(6, 1));
    assert_eq!(only("estimation", &facts)[0].severity, Severity::Warning);
    facts.sysctls = [("net/ipv4/vs/run_estimation".to_owned(), "0".to_owned())].into();
    assert_eq!(examine(&facts), []);
}

#[test]
fn state_that_cannot_be_written() {
    let facts = Facts { state: ("/run/kube-ipvs".into(), Some("read-only file system".into())), ..sound_node() };
    assert_eq!(only("state", &facts)[0].severity, Severity::Error);
}
