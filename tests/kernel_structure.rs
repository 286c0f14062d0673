//! iptables mode with the examples: the rules have kube-proxy's structure and names, in both variants of iptables.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests may fail loudly, too"
)]

mod support;

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};

use support::{Cluster, Mode, may_run};

/// Endpoints of all examples, as kube-proxy writes them.
const ENDPOINTS: [[&str; 3]; 2] =
    [["10.180.0.1", "10.180.0.2", "10.180.1.1"], ["[fd00:10:180::1]", "[fd00:10:180::2]", "[fd00:10:180:1::1]"]];

/// Rules by chain, without `-A CHAIN`.
type Chains = BTreeMap<String, Vec<String>>;

fn chains(saved: &str) -> Chains {
    let mut chains = Chains::new();
    for line in saved.lines() {
        if let Some(name) = line.strip_prefix(':') {
            chains.entry(name.split(' ').next().unwrap().to_owned()).or_default();
        } else if let Some(rule) = line.strip_prefix("-A ") {
            let (chain, rule) = rule.split_once(' ').unwrap();
            chains.get_mut(chain).unwrap().push(rule.to_owned());
        }
    }
    chains
}

/// The first 16 characters of the base32 of the SHA-256, as kube-proxy's `portProtoHash` and
/// `servicePortEndpointChainName` make them, from coreutils' own SHA-256.
fn hash(text: &str) -> String {
    let mut child = Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let digest = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
    // 16 characters of 5 bits are 80 bits: 20 hexadecimal digits.
    let bits = u128::from_str_radix(&digest[..20], 16).unwrap();
    let letter =
        |index: u32| b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"[usize::try_from((bits >> (75 - 5 * index)) & 31).unwrap()];
    (0..16).map(|index| char::from(letter(index))).collect()
}

#[test]
fn hashes_are_those_seen_in_every_cluster() {
    assert_eq!(hash("default/kubernetes:httpstcp"), "NPX46M4PTMTKRN6Y");
    assert_eq!(hash("kube-system/kube-dns:dnsudp"), "TCOU7JCQXEZGVUNU");
    assert_eq!(hash("kube-system/kube-dns:dns-tcptcp"), "ERIFXISQEP7F7OF4");
}

#[test]
fn nft_variant() {
    check_variant("nft", "legacy");
}

#[test]
fn legacy_variant() {
    check_variant("legacy", "nft");
}

/// The node uses `variant` already, so that the proxy does, too, and leaves the `other` alone.
fn check_variant(variant: &str, other: &str) {
    if !may_run(Mode::Iptables) {
        return;
    }
    let cluster = Cluster::new(Mode::Iptables);
    for family in ["iptables", "ip6tables"] {
        for port in 1..=3 {
            cluster.on_node(&format!("{family}-{variant} -w -A INPUT -p tcp --dport {port} -j ACCEPT"));
        }
    }
    cluster.write_examples();
    let proxy = cluster.start(&[]);
    for (family, program) in ["iptables", "ip6tables"].into_iter().enumerate() {
        let untouched = cluster.on_node(&format!("{program}-{other}-save"));
        assert!(!untouched.contains("KUBE-"), "{untouched}");
        let save = |table: &str| chains(&cluster.on_node(&format!("{program}-{variant}-save -t {table}")));
        let (nat, filter) = (save("nat"), save("filter"));
        Checks { nat: &nat, filter: &filter, family }.all();
    }
    cluster.assert_in_sync(&[]);
    proxy.stop();
    cluster.cleanup();
    for program in ["iptables", "ip6tables"] {
        let left = cluster.on_node(&format!("{program}-{variant}-save"));
        assert!(!left.contains("KUBE-") && left.contains("--dport 3 "), "{left}");
    }
}

struct Checks<'a> {
    nat: &'a Chains,
    filter: &'a Chains,
    family: usize,
}

impl Checks<'_> {
    fn all(&self) {
        self.entrances();
        self.ladder("my-debian", self.address(10), 8081, 80);
        self.ladder("my-debian-nodeport", self.address(11), 80, 80);
        self.ladder("my-debian-lb", self.address(13), 80, 8080);
        self.node_port("my-debian-nodeport", 32767);
        self.node_port("my-debian-lb", 31080);
        self.external();
        self.affinity();
        self.masquerading();
    }

    fn address(&self, number: u8) -> String {
        [format!("172.30.0.{number}/32"), format!("fd00:172:30::{number}/128")][self.family].clone()
    }

    /// A single address as iptables-save prints it.
    fn single(&self, address: &str) -> String {
        format!("{}/{}", address.trim_matches(['[', ']']), [32, 128][self.family])
    }

    fn rules<'a>(&self, chains: &'a Chains, name: &str) -> &'a [String] {
        chains.get(name).unwrap_or_else(|| panic!("no chain {name}: {:#?}", chains.keys()))
    }

    /// The kernel's chains lead to ours, and the node ports come last.
    fn entrances(&self) {
        for (chains, chain, target) in [
            (self.nat, "PREROUTING", "KUBE-SERVICES"),
            (self.nat, "OUTPUT", "KUBE-SERVICES"),
            (self.nat, "POSTROUTING", "KUBE-POSTROUTING"),
            (self.filter, "FORWARD", "KUBE-FORWARD"),
            (self.filter, "FORWARD", "KUBE-SERVICES"),
            (self.filter, "OUTPUT", "KUBE-SERVICES"),
            (self.filter, "INPUT", "KUBE-EXTERNAL-SERVICES"),
            (self.filter, "FORWARD", "KUBE-EXTERNAL-SERVICES"),
            (self.filter, "OUTPUT", "KUBE-EXTERNAL-SERVICES"),
            (self.filter, "INPUT", "KUBE-NODEPORTS"),
            (self.filter, "INPUT", "KUBE-PROXY-FIREWALL"),
        ] {
            let jumps = self.rules(chains, chain).iter().filter(|rule| rule.ends_with(&format!("-j {target}"))).count();
            assert_eq!(jumps, 1, "{chain} to {target}");
        }
        let services = self.rules(self.nat, "KUBE-SERVICES");
        let (last, others) = services.split_last().unwrap();
        assert!(last.contains("-m addrtype --dst-type LOCAL") && last.ends_with("-j KUBE-NODEPORTS"), "{last}");
        assert!(others.iter().all(|rule| !rule.contains("KUBE-NODEPORTS")), "{others:#?}");
    }

    /// KUBE-SERVICES → KUBE-SVC → KUBE-SEP. kube-proxy's DNAT rule loads `-m tcp` as well, which tests nothing there.
    fn ladder(&self, service: &str, address: String, port: u16, target: u16) {
        let name = format!("default/{service}:web");
        let svc = format!("KUBE-SVC-{}", hash(&format!("{name}tcp")));
        let to = format!("-d {address} -p tcp -m comment --comment \"{name} cluster IP\" -m tcp --dport {port}");
        let services = self.rules(self.nat, "KUBE-SERVICES");
        assert!(services.contains(&format!("{to} -j {svc}")), "{to}: {services:#?}");

        let local = ["10.180.0.0/16", "fd00:10:180::/48"][self.family];
        let seps = self.seps(&name, target);
        let rung = |index: usize| format!("-m comment --comment \"{name} -> {}\"", self.endpoint(index, target));
        let random = |probability: &str| format!("-m statistic --mode random --probability {probability}");
        let expected = [
            format!("! -s {local} {to} -j KUBE-MARK-MASQ"),
            format!("{} {} -j {}", rung(0), random("0.33333333349"), seps[0]),
            format!("{} {} -j {}", rung(1), random("0.50000000000"), seps[1]),
            format!("{} -j {}", rung(2), seps[2]),
        ];
        assert_eq!(self.rules(self.nat, &svc), expected);
        for (index, sep) in seps.iter().enumerate() {
            let (source, comment) =
                (self.single(ENDPOINTS[self.family][index]), format!("-m comment --comment \"{name}\""));
            let expected = [
                format!("-s {source} {comment} -j KUBE-MARK-MASQ"),
                format!("-p tcp {comment} -j DNAT --to-destination {}", self.endpoint(index, target)),
            ];
            assert_eq!(self.rules(self.nat, sep), expected);
        }
    }

    fn endpoint(&self, index: usize, target: u16) -> String {
        format!("{}:{target}", ENDPOINTS[self.family][index])
    }

    fn seps(&self, name: &str, target: u16) -> Vec<String> {
        let sep = |index| format!("KUBE-SEP-{}", hash(&format!("{name}tcp{}", self.endpoint(index, target))));
        (0..3).map(sep).collect()
    }

    fn node_port(&self, service: &str, port: u16) {
        let name = format!("default/{service}:web");
        let hash = hash(&format!("{name}tcp"));
        let rule = format!("-p tcp -m comment --comment \"{name}\" -m tcp --dport {port} -j KUBE-EXT-{hash}");
        let node_ports = self.rules(self.nat, "KUBE-NODEPORTS");
        assert!(node_ports.contains(&rule), "{rule}: {node_ports:#?}");
        let comment = format!("-m comment --comment \"masquerade traffic for {name} external destinations\"");
        let expected = [format!("{comment} -j KUBE-MARK-MASQ"), format!("-j KUBE-SVC-{hash}")];
        assert_eq!(self.rules(self.nat, &format!("KUBE-EXT-{hash}")), expected);
    }

    fn external(&self) {
        let hash = hash("default/my-debian-lb:webtcp");
        let addresses = [["192.168.99.13", "198.51.100.13"], ["2001:db8:9999::13", "2001:db8:1234::13"]][self.family];
        for (address, kind) in addresses.into_iter().zip(["external IP", "loadbalancer IP"]) {
            let comment = format!("-m comment --comment \"default/my-debian-lb:web {kind}\"");
            let rule = format!("-d {} -p tcp {comment} -m tcp --dport 80 -j KUBE-EXT-{hash}", self.single(address));
            let services = self.rules(self.nat, "KUBE-SERVICES");
            assert!(services.contains(&rule), "{rule}: {services:#?}");
        }
    }

    /// `recent` in the endpoint's chain and before the ladder.
    fn affinity(&self) {
        let name = "default/my-debian-sticky:web";
        let rules = self.rules(self.nat, &format!("KUBE-SVC-{}", hash(&format!("{name}tcp"))));
        assert_eq!(rules.len(), 7, "{rules:#?}");
        for (index, sep) in self.seps(name, 80).iter().enumerate() {
            let mask = ["255.255.255.255", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"][self.family];
            let comment = format!("-m comment --comment \"{name}\"");
            let known = format!("-m recent --rcheck --seconds 10800 --reap --name {sep} --mask {mask} --rsource");
            assert_eq!(rules[index + 1], format!("{comment} {known} -j {sep}"));
            assert!(rules[index + 4].ends_with(&format!("-j {sep}")), "{rules:#?}");
            let set = format!("-m recent --set --name {sep} --mask {mask} --rsource");
            let endpoint = self.endpoint(index, 80);
            let translate = format!("-p tcp {comment} {set} -j DNAT --to-destination {endpoint}");
            assert_eq!(self.rules(self.nat, sep)[1], translate);
        }
    }

    fn masquerading(&self) {
        assert_eq!(self.rules(self.nat, "KUBE-MARK-MASQ"), ["-j MARK --set-xmark 0x4000/0x4000"]);
        let snat = "-m comment --comment \"kubernetes service traffic requiring SNAT\" -j MASQUERADE --random-fully";
        let mut expected = vec!["-m mark ! --mark 0x4000/0x4000 -j RETURN", "-j MARK --set-xmark 0x4000/0x0", snat];
        // Only counts, for kubeproxy_iptables_localhost_nodeports_accepted_packets_total; upstream counts with nfacct.
        let count =
            "-m conntrack --ctstate DNAT --ctorigdst 127.0.0.0/8 -m comment --comment \"node ports on localhost\"";
        if self.family == 0 {
            expected.insert(1, count);
        }
        assert_eq!(self.rules(self.nat, "KUBE-POSTROUTING"), expected);
        let forward = self.rules(self.filter, "KUBE-FORWARD");
        assert!(forward[1].contains("--mark 0x4000/0x4000") && forward[1].ends_with("-j ACCEPT"), "{forward:#?}");
    }
}
