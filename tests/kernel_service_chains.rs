//! `--service-chains address`: services are found by the end of their address, and packets notice nothing, also while the form of
//! the rules changes under traffic.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests may fail loudly, too"
)]

mod support;

use kube_ipvs::lab::Protocol;
use support::{Cluster, Mode, Service, Stream, Talks, may_run, wait_until};

const CALLERS: [&str; 3] = ["client", "demo-node", "pod-3"];
const BY_ADDRESS: [&str; 2] = ["--service-chains", "address"];

fn web() -> Service {
    Service { node_port: Some(30080), ..Service::new("web", 20) }
}

fn addresses() -> Vec<String> {
    web().all_addresses()
}

fn rules(cluster: &Cluster, chain: &str) -> [Vec<String>; 2] {
    ["iptables", "ip6tables"].map(|program| {
        let saved = cluster.on_node(&format!("{program}-save -t nat"));
        let of_chain = saved.lines().filter(|line| line.starts_with(&format!("-A {chain}")));
        of_chain.map(str::to_owned).collect()
    })
}

#[test]
fn services_are_found_by_the_end_of_their_address() {
    if !may_run(Mode::Iptables) {
        return;
    }
    let cluster = Cluster::new(Mode::Iptables);
    cluster.apply(&web());
    let proxy = cluster.start(&BY_ADDRESS);
    cluster.assert_in_sync(&BY_ADDRESS);
    let all = ["far-pod-1", "pod-1", "pod-2"];
    addresses().iter().for_each(|address| cluster.wait_answerers(address, &all));
    for (services, by_address) in rules(&cluster, "KUBE-SERVICES ").iter().zip(rules(&cluster, "KUBE-ADDR-")) {
        assert!(services.iter().all(|rule| !rule.contains("--dport")), "{services:?}");
        assert_eq!(by_address.len(), 1, "{by_address:?}");
    }
    let listed = cluster.program(&["list", "-n"]);
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(addresses().iter().all(|address| listed.contains(address.as_str())), "{listed}");

    // What comes and goes leaves nothing.
    let other = Service::new("other", 21);
    cluster.apply(&other);
    other.addresses().iter().for_each(|address| cluster.wait_answerers(address, &all));
    cluster.delete(&other);
    other.addresses().iter().for_each(|address| cluster.wait_refused("pod-3", address));
    assert!(rules(&cluster, "KUBE-ADDR-").iter().all(|rules| rules.len() == 1));
    cluster.assert_in_sync(&BY_ADDRESS);
    assert!(!proxy.says(&["ERROR"]), "{}", proxy.log());
    proxy.stop();
    cluster.cleanup();
    assert!(rules(&cluster, "KUBE").iter().all(Vec::is_empty));
}

#[test]
fn the_form_of_the_rules_changes_under_traffic() {
    if !may_run(Mode::Iptables) {
        return;
    }
    let cluster = Cluster::new(Mode::Iptables);
    cluster.apply(&web());
    let mut proxy = cluster.start(&[]);
    let talks = Talks::start(&cluster, &CALLERS, &addresses(), 1);
    let requests = Stream::start(&cluster, &CALLERS, &addresses(), Protocol::Tcp);
    let forms: [&[&str]; 3] = [&BY_ADDRESS, &[], &BY_ADDRESS];
    for form in forms {
        proxy.kill();
        proxy = cluster.start(form);
        talks.wait_for_more(5);
        requests.wait_for_more(60);
        cluster.assert_in_sync(form);
        let chains = rules(&cluster, "KUBE-ADDR-").map(|rules| rules.len());
        assert_eq!(chains, if form.is_empty() { [0, 0] } else { [1, 1] });
    }
    // And while it runs.
    proxy.kill();
    let file = std::env::temp_dir().join(format!("kube-ipvs-service-chains-{}", std::process::id()));
    let write = |form: &str| {
        let head = "apiVersion: kube-ipvs.io/v1alpha1\nkind: KubeIPVSConfiguration\n";
        std::fs::write(&file, format!("{head}serviceChains: {form}\n")).unwrap();
    };
    write("address");
    let proxy = cluster.start(&["--kube-ipvs-config", file.to_str().unwrap()]);
    for (form, chains) in [("plain", 0), ("address", 1)] {
        write(form);
        wait_until(form, || rules(&cluster, "KUBE-ADDR-").iter().all(|rules| rules.len() == chains));
        requests.wait_for_more(60);
    }
    assert_eq!(talks.end().len(), CALLERS.len() * addresses().len());
    eprintln!("{} requests", requests.end());
    assert!(!proxy.says(&["ERROR"]), "{}", proxy.log());
    proxy.stop();
    // While it runs it would say that its file is gone.
    std::fs::remove_file(&file).unwrap();
}
