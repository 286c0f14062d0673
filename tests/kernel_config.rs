//! kube-proxy's configuration file on a running kernel: what it says is done, and a change of it is taken over.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests may fail loudly, too"
)]

mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use support::follow::{fill, name};
use support::{Api, Cluster, Mode, Proxy, Service, in_both_modes, may_run, no_ipvs, wait_until};

in_both_modes!(the_file_counts_and_is_followed);

/// The configuration files of a node, and the program under the name of kube-proxy. Goes with this.
struct Node<'a> {
    cluster: &'a Cluster,
    folder: PathBuf,
}

impl<'a> Node<'a> {
    fn new(cluster: &'a Cluster) -> Self {
        let folder = cluster.folder.with_extension("config");
        fs::create_dir(&folder).unwrap();
        symlink(env!("CARGO_BIN_EXE_kube-ipvs"), folder.join("kube-proxy")).unwrap();
        let node = Self { cluster, folder };
        let manifests = cluster.folder.display();
        let own = "apiVersion: kube-ipvs.io/v1alpha1\nkind: KubeIPVSConfiguration\n";
        let ranges = "serviceCIDRs: [172.30.0.0/16, fd00:172:30::/108]\n";
        fs::write(node.path("kube-ipvs.yaml"), format!("{own}manifests: [{manifests}]\n{ranges}")).unwrap();
        node
    }

    fn path(&self, name: &str) -> String {
        self.folder.join(name).to_str().unwrap().to_owned()
    }

    /// Writes kube-proxy's file, put in place at once.
    fn configure(&self, mode: &str, text: &str) {
        let config = format!(
            "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: {mode}\n\
             hostnameOverride: demo-node\nclusterCIDR: 10.180.0.0/16,fd00:10:180::/48\n{text}"
        );
        let beside = self.path("config.new");
        fs::write(&beside, config).unwrap();
        fs::rename(beside, self.path("config.yaml")).unwrap();
    }

    fn arguments(&self) -> [String; 4] {
        let files = [self.path("config.yaml"), self.path("kube-ipvs.yaml")];
        [format!("--config={}", files[0]), "--kube-ipvs-config".into(), files[1].clone(), "-v=2".into()]
    }

    fn start(&self) -> Proxy {
        let mut proxy = self.start_without_waiting();
        proxy.wait_in_sync();
        proxy
    }

    fn start_without_waiting(&self) -> Proxy {
        self.start_with(&[])
    }

    fn start_with(&self, flags: &[&str]) -> Proxy {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(self.path("kube-proxy")).args(self.arguments()).args(flags);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        Proxy::new(self.cluster.lab.node().ns.spawn_process(command).unwrap())
    }

    /// How often a word stands in the rules.
    fn rules_with(&self, word: &str) -> usize {
        let rules = self.cluster.shell("iptables-save -t filter; iptables-save -t nat; iptables-save -t mangle");
        rules.lines().filter(|line| line.contains(word)).count()
    }
}

impl Drop for Node<'_> {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

const SYSCTLS: &str = "cat /proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close_wait \
                       /proc/sys/net/netfilter/nf_conntrack_udp_timeout_stream \
                       /proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal";

/// What is asked for here, as flags.
const FLAGS: [&str; 3] = ["--iptables-masquerade-bit", "15", "--conntrack-tcp-be-liberal"];
const TAKEN_OVER: &str = "iptables:\n  masqueradeBit: 15\nconntrack:\n  tcpBeLiberal: true\n";

fn the_file_counts_and_is_followed(mode: Mode) {
    let cluster = Cluster::new(mode);
    let web = Service::new("web", 20);
    cluster.apply(&web);
    let node = Node::new(&cluster);
    node.configure(mode.name(), "conntrack:\n  tcpCloseWaitTimeout: 90m\n  udpStreamTimeout: 4m\n");
    let mut proxy = node.start();
    for address in web.addresses() {
        cluster.wait_answerers(&address, &["far-pod-1", "pod-1", "pod-2"]);
    }
    assert_eq!(cluster.shell(SYSCTLS), "5400\n240\n0\n");
    assert!(node.rules_with("INVALID") > 0 && node.rules_with("0x8000") == 0);

    // What can be taken over is.
    node.configure(mode.name(), TAKEN_OVER);
    proxy.wait_to_say(&["configuration file was updated", "taken over"]);
    wait_until("the rules of the new file", || node.rules_with("INVALID") == 0 && node.rules_with("0x8000") > 0);
    assert_eq!(cluster.shell(SYSCTLS), "3600\n240\n1\n", "what is left out is left as it is");
    cluster.wait_in_sync(&FLAGS);

    // What is wrong is told, and all stays as it is.
    node.configure(mode.name(), "iptables:\n  masqueradeBit: 32\n");
    proxy.wait_to_say(&["KubeProxyIPTablesConfiguration.MasqueradeBit: Invalid value: 32", "stays in force"]);
    node.configure(mode.name(), "iptable:\n  masqueradeBit: 3\n");
    proxy.wait_to_say(&["line 6: unknown field \"iptable\"", "stays in force"]);
    cluster.assert_in_sync(&FLAGS);

    another_mode_and_back(&cluster, &node, &mut proxy, mode);

    // For what takes a new start it ends cleanly, leaving the kernel as it is.
    node.configure(mode.name(), &format!("{TAKEN_OVER}enableProfiling: true\n"));
    proxy.wait_to_say(&["configuration file was updated", "beside the metrics changed"]);
    assert_eq!(proxy.wait().code(), Some(0), "{}", proxy.log());
    cluster.assert_in_sync(&FLAGS);

    // And cleanup by kube-proxy's flag leaves nothing.
    let cleanup = [&node.arguments()[..], &["--cleanup".to_owned()]].concat();
    let output = cluster.output(&node.path("kube-proxy"), &cleanup);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && stderr.contains("nothing of ours is left"), "{stderr}");
    assert_eq!(node.rules_with("KUBE"), 0);
}

/// It is switched to; where it does not work, that is told, and the one of before serves on.
fn another_mode_and_back(cluster: &Cluster, node: &Node, proxy: &mut Proxy, mode: Mode) {
    let other = if mode == Mode::Ipvs { Mode::Iptables } else { Mode::Ipvs };
    let works = other == Mode::Iptables || no_ipvs().is_none();
    node.configure(other.name(), TAKEN_OVER);
    if works {
        proxy.wait_to_say(&["switched", "family=IPv6", &format!("to={}", other.name())]);
    } else {
        proxy.wait_to_say(&["the mode stays as it is", "ipvs does not work on this node"]);
        cluster.assert_in_sync(&FLAGS);
    }
    node.configure(mode.name(), TAKEN_OVER);
    proxy.wait_to_say(&["the configuration asks for another mode", &format!("mode={}", mode.name())]);
    if works {
        proxy.wait_to_say(&["switched", "family=IPv6", &format!("to={}", mode.name())]);
    }
    cluster.wait_in_sync(&FLAGS);
}

#[test]
fn the_api_server_of_the_file() {
    if !may_run(Mode::Iptables) {
        return;
    }
    let cluster = Cluster::new(Mode::Iptables);
    let mut api = cluster.lab.node().ns.run(Api::start).unwrap();
    fill(&api, 0..3);
    api.stop();
    let node = Node::new(&cluster);
    fs::write(node.path("kube-ipvs.yaml"), "apiVersion: kube-ipvs.io/v1alpha1\nkind: KubeIPVSConfiguration\n").unwrap();
    fs::write(node.path("kubeconfig"), api.kubeconfig()).unwrap();
    let connection = |name: &str| format!("clientConnection:\n  kubeconfig: {}\n", node.path(name));
    node.configure("iptables", &connection("kubeconfig"));
    let mut proxy = node.start_without_waiting();
    proxy.wait_to_say(&["the API server", "fails", "Connection refused"]);

    // The file is followed while the server is waited for.
    node.configure("iptables", &format!("{}iptables:\n  masqueradeBit: 15\n", connection("kubeconfig")));
    proxy.wait_to_say(&["configuration file was updated", "taken over"]);
    assert_eq!(node.rules_with("KUBE"), 0, "nothing is touched before everything was listed");
    cluster.lab.node().ns.run(|| api.restart()).unwrap();
    proxy.wait_in_sync();
    assert!(node.rules_with("0x8000") > 0 && node.rules_with("0x4000") == 0);
    assert!(!proxy.says(&["kube_client"]), "{}", proxy.log());
    assert!(node.rules_with(&name(2).to_string()) > 0, "its Services are served");

    // Another way to the server takes a new start, also while it is waited for; --master counts beside the file.
    node.configure("iptables", &connection("other"));
    proxy.wait_to_say(&["the way to the API server changed"]);
    assert_eq!(proxy.wait().code(), Some(0), "{}", proxy.log());
    fs::write(node.path("other"), api.kubeconfig()).unwrap();
    let mut proxy = node.start_with(&["--master=http://127.0.0.1:1"]);
    proxy.wait_to_say(&["the API server http://127.0.0.1:1", "Connection refused"]);
    node.configure("iptables", &connection("kubeconfig"));
    assert_eq!(proxy.wait().code(), Some(0), "{}", proxy.log());
}

#[test]
fn the_oom_score_and_the_sysctls_of_init_only() {
    if !may_run(Mode::Iptables) {
        return;
    }
    let cluster = Cluster::new(Mode::Iptables);
    cluster.apply(&Service::new("web", 20));
    let node = Node::new(&cluster);
    node.configure("iptables", "oomScoreAdj: 123\n");
    cluster.shell("echo 0 > /proc/sys/net/ipv4/ip_forward; echo 0 > /proc/sys/net/ipv4/conf/all/route_localnet");
    let init = [&node.arguments()[..], &["--init-only".to_owned()]].concat();
    let output = cluster.output(&node.path("kube-proxy"), &init);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let sysctls = cluster.shell("cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv4/conf/all/route_localnet");
    assert_eq!(sysctls, "1\n1\n");
    assert_eq!(node.rules_with("KUBE"), 0, "rules are for the run");
    let proxy = node.start();
    assert_eq!(fs::read_to_string(format!("/proc/{}/oom_score_adj", proxy.pid())).unwrap(), "123\n");
    proxy.stop();
}

/// IPVS's timeouts in the node's network namespace: tcp, tcpfin, udp.
fn timeouts(cluster: &Cluster) -> (u32, u32, u32) {
    let read = || ipvs::Client::connect().unwrap().timeouts().unwrap();
    let timeouts = cluster.lab.node().ns.run(read).unwrap();
    (timeouts.tcp, timeouts.tcp_fin, timeouts.udp)
}

#[test]
fn ipvs_timeouts_and_excluded_networks() {
    if !may_run(Mode::Ipvs) {
        return;
    }
    let cluster = Cluster::new(Mode::Ipvs);
    let (ours, theirs) = (Service::new("ours", 20), Service::new("theirs", 21));
    cluster.apply(&ours);
    cluster.apply(&theirs);
    cluster.shell("ipvsadm -A -t 172.30.0.21:80 -s sh; ipvsadm -a -t 172.30.0.21:80 -r 10.180.0.1:8080 -m");
    let (_, fin, udp) = timeouts(&cluster);
    let node = Node::new(&cluster);
    node.configure("ipvs", "ipvs:\n  tcpTimeout: 20m34s\n  excludeCIDRs: [172.30.0.21/32]\n");
    let mut proxy = node.start_without_waiting();
    proxy.wait_to_say(&["leave virtual server TCP 172.30.0.21:80 alone"]);
    cluster.wait_answerers("172.30.0.20:80", &["far-pod-1", "pod-1", "pod-2"]);
    assert_eq!(timeouts(&cluster), (1234, fin, udp), "those that are not asked for stay");
    node.configure("ipvs", "ipvs:\n  udpTimeout: 77s\n  syncPeriod: 1s\n  excludeCIDRs: [172.30.0.21/32]\n");
    wait_until("the new timeout", || timeouts(&cluster) == (1234, fin, 77));
    // Whoever changes it in between is corrected by the audit.
    cluster.shell("ipvsadm --set 0 0 99");
    wait_until("the timeout to be put right", || timeouts(&cluster) == (1234, fin, 77));
    let table = cluster.shell("ipvsadm -Sn");
    let server: Vec<&str> = table.lines().filter(|line| line.contains("172.30.0.21:80")).collect();
    assert_eq!(server.len(), 2, "{table}");
    assert!(server[0].contains("-s sh") && server[1].contains("10.180.0.1:8080"), "{server:?}");
    proxy.stop();
}
