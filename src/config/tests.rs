//! From command lines and files to what the program goes by.

use super::*;
use crate::backend::ipvs::VipBinding;
use crate::desired::{ConnectionTimeouts, DetectLocal, NodePortSelector};
use clap::{CommandFactory, FromArgMatches, Parser};
use std::path::{Path, PathBuf};

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    proxy: ProxyArgs,
}

fn load_as(invocation: Invocation, line: &str) -> Result<Loaded, String> {
    let line = format!("x {line}");
    let arguments = pflag::normalise(line.split_whitespace().map(Into::into));
    let matches = pflag::last_one_counts(Line::command()).try_get_matches_from(arguments);
    let args = matches.and_then(|matches| Line::from_arg_matches(&matches)).map_err(|error| error.to_string())?.proxy;
    Loader { args, logging_format: None, invocation }.load().map_err(|error| error.to_string())
}

fn own(line: &str) -> Result<Config, String> {
    load_as(Invocation::KubeIpvs, line).map(|loaded| loaded.config)
}

fn upstream(line: &str) -> Result<Loaded, String> {
    load_as(Invocation::KubeProxy, line)
}

fn fixture(name: &str) -> Loaded {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kube-proxy-config");
    upstream(&format!("--config {}", folder.join(name).display())).unwrap()
}

/// A file that goes with this.
struct Temporary(PathBuf);

impl Temporary {
    fn new(name: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("kube-ipvs-config-{}-{name}", std::process::id()));
        std::fs::write(&path, text).unwrap();
        Self(path)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

const HEAD: &str = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";

fn from_file(name: &str, text: &str, flags: &str) -> Result<Loaded, String> {
    let file = Temporary::new(name, &format!("{HEAD}{text}"));
    upstream(&format!("--config {} {flags}", file.0.display())).map_err(|error| {
        let name = file.0.display().to_string();
        error.replace(&name, "FILE")
    })
}

#[test]
fn defaults_are_upstreams() {
    let config = own("--hostname-override Node-1").unwrap();
    let expected = Settings { node_name: "node-1".into(), ..Settings::default() };
    assert_eq!(*config.settings, expected);
    assert_eq!(config.mode, ProxyMode::Auto);
    assert_eq!(config.timing("iptables").min, Duration::ZERO);
    assert_eq!(config.oom_score_adj, Some(-999));
    assert_eq!(config.healthz_bind_address, Some("0.0.0.0:10256".parse().unwrap()));
    assert_eq!(config.metrics_bind_address, Some("127.0.0.1:10249".parse().unwrap()));
    let config = upstream("--hostname-override Node-1").unwrap().config;
    assert_eq!(config.mode, ProxyMode::Iptables, "who says nothing to kube-proxy means iptables");
    assert_eq!(config.timing("iptables").min, Duration::from_secs(1));
    assert_eq!(config.timing("ipvs").min, Duration::ZERO);
}

#[test]
fn each_invalid_setting_is_named() {
    for (line, message) in [
        (
            "--cluster-cidr 10.0.0.0",
            "--cluster-cidr: KubeProxyConfiguration.DetectLocalConfiguration.ClusterCIDRs[0]: ",
        ),
        ("--ipvs-scheduler fastest", "--ipvs-scheduler: "),
        ("--ipvs-scheduler fastest --proxy-mode iptables", "--ipvs-scheduler: "),
        ("--iptables-masquerade-bit 32", "--iptables-masquerade-bit: "),
        ("--nodeport-addresses primary,10.0.0.0/8", "--nodeport-addresses: "),
        ("--detect-local-mode BridgeInterface", "--detect-local-mode, --pod-bridge-interface: "),
        ("--sync-period 0s", "--sync-period, "),
        ("--drain-timeout soon", "\"soon\" is no duration"),
        ("--oom-score-adj -2000", "--oom-score-adj: "),
        ("--conntrack-udp-timeout -1s", "--conntrack-udp-timeout: "),
        ("--service-cidr 10.0.0.0", "--service-cidr: KubeIPVSConfiguration.serviceCIDRs[0]: "),
        ("--proxy-mode fast", "--proxy-mode: KubeProxyConfiguration.Mode.ProxyMode: Invalid value: \"fast\""),
        ("--v many", "invalid value 'many'"),
        ("--config /nonexistent/file", "/nonexistent/file: No such file"),
    ] {
        let error = own(line).map(|_| ()).unwrap_err();
        assert!(error.contains(message), "{line}: {error}");
    }
}

#[test]
fn ranges_and_lists() {
    let config =
        own("--cluster-cidr 10.180.0.0/16,fd00:10:180::/48,10.181.0.0/16 --service-cidr 172.30.0.0/16").unwrap();
    assert!(matches!(&config.settings.detect_local, DetectLocal::Cidrs(nets) if nets.len() == 3));
    assert_eq!(config.settings.service_ranges.len(), 1);
    assert!(upstream("--cluster-cidr 10.180.0.0/16,10.181.0.0/16").is_err(), "kube-proxy takes one for each family");
    assert_eq!(own("--nodeport-addresses=").unwrap().settings.node_port_addresses, NodePortSelector::All);
}

#[test]
fn as_pflag_reads() {
    let line = "--proxy_mode=ipvs --masquerade-all --ipvs-strict-arp=T --iptables-localhost-nodeports=false -v=2 \
                --oom-score-adj -5 --oom-score-adj=-998 --feature-gates=A=true,B=false --ipvs-exclude-cidrs=10.0.0.0/8 \
                --ipvs-exclude-cidrs 11.0.0.0/8 --vmodule=round=5 --ipvs-tcp-timeout=2h --ipvs-udp-timeout 1500ms";
    let config = upstream(line).unwrap().config;
    assert_eq!(config.mode, ProxyMode::Ipvs);
    assert!(config.settings.masquerade_all && config.ipvs.strict_arp && !config.settings.localhost_node_ports);
    assert_eq!(config.oom_score_adj, Some(-998), "the last one counts");
    assert_eq!(config.settings.excluded.len(), 2, "lists grow");
    assert_eq!(config.settings.timeouts, ConnectionTimeouts { tcp: 7200, tcp_fin: 0, udp: 1 });
    assert_eq!(config.feature_gates.get("B"), Some(&false));
    assert_eq!((config.logging.verbosity, config.logging.vmodule.len()), (2, 1));
    for line in ["--masquerade-all=maybe", "--unknown-flag", "--feature-gates=A"] {
        assert!(upstream(line).is_err(), "{line}");
    }
}

#[test]
fn ports_of_deprecated_flags() {
    let healthz = |line: &str| upstream(line).unwrap().config.healthz_bind_address.map(|address| address.to_string());
    assert_eq!(healthz("--healthz-port 0"), None);
    assert_eq!(healthz("--healthz-port 1234").as_deref(), Some("0.0.0.0:1234"));
    assert_eq!(healthz("--healthz-bind-address ::1 --healthz-port 1234").as_deref(), Some("[::1]:1234"));
    assert_eq!(healthz("--healthz-bind-address 127.0.0.1:99 --healthz-port 1234").as_deref(), Some("127.0.0.1:99"));
    assert_eq!(healthz("--healthz-bind-address="), None);
    assert_eq!(upstream("--metrics-port=0").unwrap().config.metrics_bind_address, None);
}

#[test]
fn the_file_comes_before_flags_but_for_a_few() {
    let flags = "--proxy-mode iptables --masquerade-all --hostname-override Me --master https://1.2.3.4 -v 5";
    let loaded = from_file("precedence", "mode: ipvs\nhostnameOverride: other\n", flags).unwrap();
    assert_eq!(loaded.config.mode, ProxyMode::Ipvs);
    assert!(!loaded.config.settings.masquerade_all);
    assert_eq!(&*loaded.config.settings.node_name, "me");
    assert_eq!(loaded.config.source, cluster(None, Some("https://1.2.3.4")), "also without a kubeconfig");
    assert_eq!(loaded.config.logging.verbosity, 5);
    let [warning] = loaded.warnings.as_slice() else { panic!("{:?}", loaded.warnings) };
    assert!(warning.starts_with("--proxy-mode, --masquerade-all have no effect, as "), "{warning}");
}

fn cluster(kubeconfig: Option<&str>, master: Option<&str>) -> Source {
    Source::Cluster(Access { kubeconfig: kubeconfig.map(Into::into), master: master.map(Into::into) })
}

#[test]
fn without_manifests_it_is_the_api_server() {
    for load in [own, |line: &str| upstream(line).map(|loaded| loaded.config)] {
        let source = |line: &str| load(&format!("--hostname-override n {line}")).unwrap().source;
        assert_eq!(source(""), cluster(None, None), "as a pod");
        assert_eq!(source("--kubeconfig= --master="), cluster(None, None));
        assert_eq!(source("--kubeconfig /k --master https://m"), cluster(Some("/k"), Some("https://m")));
        assert_eq!(source("--manifests -"), Source::Manifests(vec![Input::Stdin]));
        assert!(load("--manifests /m --kubeconfig /k").is_err_and(|error| error.contains("cannot be used with")));
    }
}

#[test]
fn the_way_to_the_api_server_by_file_and_flags() {
    let text = "clientConnection:\n  kubeconfig: /file\n  qps: 50\n";
    let flags = "--hostname-override n --kubeconfig /flag --kube-api-burst 7 --master https://m";
    let loaded = from_file("client-connection", text, flags).unwrap();
    assert_eq!(loaded.config.source, cluster(Some("/file"), Some("https://m")));
    let connection = &loaded.kube_proxy.client_connection;
    assert_eq!((connection.qps, connection.burst), (50.0, 10), "the file comes before flags, and so do its defaults");
    let [ignored, unused] = loaded.warnings.as_slice() else { panic!("{:?}", loaded.warnings) };
    assert!(ignored.starts_with("--kubeconfig, --kube-api-burst have no effect, as "), "{ignored}");
    assert!(unused.ends_with("clientConnection.qps, burst (there are four watches and nothing to limit)"), "{unused}");
    let loaded = from_file("manifests", "clientConnection:\n  kubeconfig: /file\n", "--manifests /m").unwrap();
    assert_eq!(loaded.config.source, Source::Manifests(vec![Input::Path("/m".into())]), "manifests come first");
}

#[test]
fn what_is_wrong_with_a_file_is_named_with_its_line() {
    for (text, expected) in [
        ("iptables:\n  masqueradeBits: 3\n", "FILE: line 4: unknown field \"iptables.masqueradeBits\""),
        ("Mode: ipvs\n", "FILE: line 3: unknown field \"Mode\""),
        ("iptables:\n  syncPeriod: 30\n", "FILE: line 4: iptables.syncPeriod: invalid type: integer `30`"),
        ("iptables:\n  syncPeriod: 30x\n", "FILE: line 4: iptables.syncPeriod: time: unknown unit \"x\""),
        ("oomScoreAdj: high\n", "FILE: line 3: oomScoreAdj: invalid type: string \"high\""),
        ("logging:\n  vmodule:\n  - file: x\n", "FILE: line 5: logging.vmodule[0]"),
        ("mode: ipvs\n---\nkind: X\n", "FILE: line 5: a second document"),
        ("mode: [ipvs\n", "FILE: line "),
        ("mode: ipvs\nmode: iptables\n", "FILE: line 4: "),
        ("conntrack:\n  min: -1\n", "FILE: KubeProxyConfiguration.KubeProxyLinuxConfiguration.KubeProxyConntrackConf"),
        (
            "bindAddress: x\noomScoreAdj: 2000\n",
            "FILE: [KubeProxyConfiguration.KubeProxyLinuxConfiguration.OOMScoreAdj: Invalid value: 2000: must be within \
             the range [-1000, 1000], KubeProxyConfiguration.BindAddress: ",
        ),
    ] {
        let error = from_file("wrong", text, "").map(|loaded| loaded.kube_proxy).unwrap_err();
        assert!(error.starts_with(expected), "{text}\n{error}");
    }
    for (text, expected) in [
        ("", "line 1: the file is empty"),
        ("kind: KubeProxyConfiguration\n", "line 1: apiVersion is missing"),
        (
            "apiVersion: kubeproxy.config.k8s.io/v1alpha2\nkind: X\n",
            "line 1: apiVersion \"kubeproxy.config.k8s.io/v1alph",
        ),
        ("- a\n", "line 1: a KubeProxyConfiguration"),
    ] {
        let error = decode::kube_proxy(text).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn kubeadms_file_means_upstreams_defaults() {
    let loaded = fixture("kubeadm.yaml");
    assert_eq!(loaded.warnings, [""; 0]);
    let expected = upstream("--cluster-cidr 10.244.0.0/16 --kubeconfig /var/lib/kube-proxy/kubeconfig.conf").unwrap();
    assert_eq!(loaded.config, expected.config);
}

#[test]
fn five_variants() {
    let ipvs = fixture("ipvs.yaml").config;
    assert_eq!(ipvs.mode, ProxyMode::Ipvs);
    assert!(ipvs.ipvs.strict_arp && &*ipvs.settings.scheduler == "wlc" && ipvs.settings.excluded.len() == 1);
    assert_eq!(ipvs.settings.timeouts, ConnectionTimeouts { tcp: 7200, tcp_fin: 30, udp: 0 });
    let dual = fixture("dual-stack.yaml").config;
    assert_eq!(dual.healthz_bind_address, Some("[::]:10256".parse().unwrap()));
    assert_eq!(dual.settings.detect_local, DetectLocal::InterfacePrefix("cali".into()));
    assert_eq!(dual.settings.masquerade_mark, 1 << 15);
    let contained = fixture("in-containers.yaml").config;
    assert_eq!(contained.conntrack, ConntrackSettings { min: 131_072, ..ConntrackSettings::default() });
    assert_eq!(contained.conntrack.limit(64), None);
    let minimal = fixture("minimal.json").config;
    assert_eq!((&*minimal.logging.format, minimal.logging.verbosity), ("json", 2));
    assert_eq!(minimal.source, cluster(Some("/var/lib/kube-proxy/kubeconfig"), None));
    let nftables = fixture("nftables.yaml");
    assert_eq!(nftables.config.mode, ProxyMode::Auto);
    assert_eq!(nftables.config.settings.node_port_addresses, NodePortSelector::Primary);
    assert_eq!(nftables.config.timing("ipvs").min, Duration::from_millis(100));
    assert!(!nftables.config.settings.drop_invalid && nftables.config.settings.masquerade_mark == 1 << 10);
    let warnings = nftables.warnings.join("\n");
    assert_eq!(nftables.warnings.len(), 2, "{warnings}");
    for word in ["udpIdleTimeout", "conntrack.max", "mode nftables", "NFTablesProxyMode", "winkernel"] {
        let known = word != "conntrack.max";
        assert_eq!(warnings.contains(word), known, "{word}: {warnings}");
    }
}

#[test]
fn what_is_written_is_read_again() {
    for name in ["kubeadm.yaml", "ipvs.yaml", "dual-stack.yaml", "in-containers.yaml", "minimal.json", "nftables.yaml"]
    {
        let loaded = fixture(name);
        let text = to_yaml(&loaded.kube_proxy).unwrap();
        let read = decode::kube_proxy(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        assert_eq!(read.object, loaded.kube_proxy, "{text}");
    }
    let text = to_yaml(&upstream("").unwrap().kube_proxy).unwrap();
    assert!(text.starts_with("apiVersion: kubeproxy.config.k8s.io/v1alpha1\nbindAddress: 0.0.0.0\n"), "{text}");
    assert!(text.contains("\n  qps: 5\n") && text.contains("\nconfigSyncPeriod: 15m0s\n"), "{text}");
}

#[test]
fn our_own_file() {
    let text = "apiVersion: kube-ipvs.io/v1alpha1\nkind: KubeIPVSConfiguration\nvipBinding: address\nmanifests: [/m]\n\
                serviceCIDRs: [10.96.0.0/12]\ndrainTimeout: 1m\n";
    let file = Temporary::new("own", text);
    let line = format!("--kube-ipvs-config {} --drain-timeout 5m --service-proxy-name mine", file.0.display());
    let config = own(&line).unwrap();
    assert_eq!((config.ipvs.binding, config.ipvs.drain_timeout), (VipBinding::Address, Duration::from_secs(60)));
    assert_eq!(config.settings.proxy_name.as_deref(), Some("mine"));
    assert_eq!(config.source, Source::Manifests(vec![Input::Path("/m".into())]));
    assert_eq!(config.settings.service_ranges.len(), 1);
}

#[test]
fn what_a_running_program_takes_over() {
    let old = upstream("--hostname-override me").unwrap().config;
    let differs = |line: &str| {
        let new = upstream(&format!("--hostname-override me {line}")).unwrap().config;
        assert_ne!(new, old, "{line}");
        old.needs_restart(&new)
    };
    for line in [
        "--proxy-mode ipvs",
        "--ipvs-scheduler wrr",
        "--iptables-sync-period 10s",
        "--cluster-cidr 10.0.0.0/8",
        "--nodeport-addresses primary",
        "--detect-local-mode NodeCIDR",
        "--ipvs-tcp-timeout 1h",
        "--conntrack-min 5",
        "--conntrack-tcp-be-liberal",
        "--oom-score-adj 0",
        "--masquerade-all",
        "--service-cidr 10.0.0.0/8",
        "--service-chains address",
    ] {
        assert_eq!(differs(line), None, "{line}");
    }
    for line in [
        "--hostname-override other",
        "--ipvs-strict-arp",
        "--drain-timeout 1s",
        "--metrics-port 1",
        "--master x",
        "--kubeconfig /k",
        "--manifests /m",
        "-v 5",
        "--profiling",
        "--feature-gates A=true",
    ] {
        assert!(differs(line).is_some(), "{line}");
    }
}
