//! The cases of upstream's validation_test.go (pkg/proxy/apis/config/validation), with its paths and messages.

use super::duration::GoDuration;
use super::kubeproxy::{KubeProxyConfiguration, VmoduleItem};
use super::validation::validate;

const ROOT: &str = "KubeProxyConfiguration.";

fn errors(change: impl FnOnce(&mut KubeProxyConfiguration)) -> Vec<String> {
    let mut config = KubeProxyConfiguration::with_defaults();
    config.mode = "ipvs".into();
    change(&mut config);
    let errors = validate(&config).iter().map(ToString::to_string).collect::<Vec<_>>();
    errors.iter().map(|error| error.strip_prefix(ROOT).unwrap_or(error).to_owned()).collect()
}

fn secs(seconds: i64) -> GoDuration {
    GoDuration::from_secs(seconds)
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

type Change = fn(&mut KubeProxyConfiguration);
/// A change, and what is wrong then.
type Case = (Change, &'static [&'static str]);

fn check(cases: &[Case]) {
    for (change, expected) in cases {
        assert_eq!(errors(change), *expected);
    }
}

#[test]
fn the_default_and_other_valid_ones() {
    check(&[
        (|_| {}, &[]),
        (|config| config.mode.clear(), &[]),
        (|config| config.mode = "iptables".into(), &[]),
        (|config| config.mode = "nftables".into(), &[]),
        (|config| config.mode = "auto".into(), &[]),
        (|config| config.healthz_bind_address.clear(), &[]),
        (|config| config.bind_address = "fd00:192:168:59::103".into(), &[]),
        (|config| config.metrics_bind_address = "[::1]:10249".into(), &[]),
        (|config| config.cluster_cidr = "192.168.59.0/24".into(), &[]),
        (|config| config.cluster_cidr = "192.168.59.0/24,fd00:192:168::/64".into(), &[]),
        (|config| config.client_connection.burst = 0, &[]),
        (|config| config.oom_score_adj = Some(900), &[]),
        (|config| config.port_range = "300-2000".into(), &[]),
        (|config| config.show_hidden_metrics_for_version = "1.35".into(), &[]),
        (|config| config.node_port_addresses = strings(&["primary"]), &[]),
        (|config| config.node_port_addresses = strings(&["127.0.0.1/32", "1.2.3.0/24", "::/0"]), &[]),
        (|config| config.ipvs.exclude_cidrs = strings(&["10.20.0.0/16", "2001:db8::/32"]), &[]),
        (|config| config.ipvs.tcp_timeout = secs(1), &[]),
        (
            |config| {
                config.conntrack.tcp_established_timeout = Some(secs(0));
                config.conntrack.tcp_close_wait_timeout = Some(secs(0));
            },
            &[],
        ),
        (
            |config| {
                config.detect_local_mode = "InterfaceNamePrefix".into();
                config.detect_local.interface_name_prefix = "vethabcde".into();
            },
            &[],
        ),
        (
            |config| {
                config.detect_local_mode = "BridgeInterface".into();
                config.detect_local.bridge_interface = "avz".into();
            },
            &[],
        ),
    ]);
}

#[test]
fn addresses() {
    check(&[
        (
            |config| config.bind_address = "10.10.12.11:2000".into(),
            &["BindAddress: Invalid value: \"10.10.12.11:2000\": not a valid textual representation of an IP address"],
        ),
        (
            |config| config.healthz_bind_address = "10.10.10.10".into(),
            &["HealthzBindAddress: Invalid value: \"10.10.10.10\": must be IP:port"],
        ),
        (
            |config| config.metrics_bind_address = "127.0.0.1".into(),
            &["MetricsBindAddress: Invalid value: \"127.0.0.1\": must be IP:port"],
        ),
        (
            |config| config.healthz_bind_address = "123.456.789.10:12345".into(),
            &["HealthzBindAddress: Invalid value: \"123.456.789.10\": must be a valid IP"],
        ),
        (
            |config| config.healthz_bind_address = "10.10.10.10:foo".into(),
            &["HealthzBindAddress: Invalid value: \"foo\": must be a valid port"],
        ),
        (
            |config| config.healthz_bind_address = "10.10.10.10:0".into(),
            &["HealthzBindAddress: Invalid value: \"0\": must be a valid port"],
        ),
        (
            |config| config.healthz_bind_address = "10.10.10.10:65536".into(),
            &["HealthzBindAddress: Invalid value: \"65536\": must be a valid port"],
        ),
        (
            |config| config.port_range = "2000-300".into(),
            &["PortRange: Invalid value: \"2000-300\": must be a valid port range (e.g. 300-2000)"],
        ),
    ]);
}

#[test]
fn periods() {
    check(&[
        (
            |config| config.ipvs.sync_period = secs(-5),
            &[
                "SyncPeriod: Invalid value: \"-5s\": must be greater than 0",
                "SyncPeriod: Invalid value: \"0s\": must be greater than or equal to KubeProxyConfiguration.MinSyncPeriod",
            ],
        ),
        (
            |config| config.ipvs.min_sync_period = secs(-1),
            &["MinSyncPeriod: Invalid value: \"-1s\": must be greater than or equal to 0"],
        ),
        (
            |config| {
                config.ipvs.sync_period = secs(1);
                config.ipvs.min_sync_period = secs(5);
            },
            &[
                "SyncPeriod: Invalid value: \"5s\": must be greater than or equal to KubeProxyConfiguration.MinSyncPeriod",
            ],
        ),
        (|config| config.iptables.sync_period = secs(-5), &[]),
        (
            |config| config.config_sync_period = secs(-1),
            &["ConfigSyncPeriod: Invalid value: \"-1s\": must be greater than 0"],
        ),
    ]);
}

#[test]
fn modes_and_their_sections() {
    let mode = "Mode.ProxyMode: Invalid value: \"non-existing\": must be iptables, ipvs, nftables or blank (blank means \
                the best-available proxy [currently iptables])";
    let found = errors(|config| config.mode = "non-existing".into());
    assert!(found.len() == 1 && found[0].starts_with(mode), "{found:?}");
    check(&[
        (
            |config| config.iptables.masquerade_bit = Some(-10),
            &["KubeProxyIPTablesConfiguration.MasqueradeBit: Invalid value: -10: must be within the range [0, 31]"],
        ),
        (
            |config| config.iptables.masquerade_bit = Some(32),
            &["KubeProxyIPTablesConfiguration.MasqueradeBit: Invalid value: 32: must be within the range [0, 31]"],
        ),
        (
            |config| {
                config.mode = "nftables".into();
                config.nftables.masquerade_bit = Some(32);
            },
            &["KubeProxyNFTablesConfiguration.MasqueradeBit: Invalid value: 32: must be within the range [0, 31]"],
        ),
        (
            |config| {
                config.ipvs.tcp_timeout = secs(-1);
                config.ipvs.tcp_fin_timeout = secs(-1);
                config.ipvs.udp_timeout = secs(-1);
            },
            &[
                "KubeProxyIPVSConfiguration.TCPTimeout: Invalid value: \"-1s\": must be greater than or equal to 0",
                "KubeProxyIPVSConfiguration.TCPFinTimeout: Invalid value: \"-1s\": must be greater than or equal to 0",
                "KubeProxyIPVSConfiguration.UDPTimeout: Invalid value: \"-1s\": must be greater than or equal to 0",
            ],
        ),
        (
            |config| config.ipvs.exclude_cidrs = strings(&["::0", "::1", "2001:db8::/32"]),
            &[
                "KubeProxyIPVSConfiguration.ExcludeCidrs[0]: Invalid value: \"::0\": must be a valid CIDR",
                "KubeProxyIPVSConfiguration.ExcludeCidrs[1]: Invalid value: \"::1\": must be a valid CIDR",
            ],
        ),
        (
            |config| {
                config.mode = "iptables".into();
                config.ipvs.exclude_cidrs = strings(&["foo"]);
                config.ipvs.scheduler = "foo".into();
            },
            &[],
        ),
    ]);
    let found = errors(|config| config.ipvs.scheduler = "fastest".into());
    let expected = "KubeProxyIPVSConfiguration.Scheduler: Unsupported value: \"fastest\": supported values: \"rr\"";
    assert!(found.len() == 1 && found[0].starts_with(expected), "{found:?}");
}

#[test]
fn the_node() {
    check(&[
        (
            |config| config.oom_score_adj = Some(9000),
            &["KubeProxyLinuxConfiguration.OOMScoreAdj: Invalid value: 9000: must be within the range [-1000, 1000]"],
        ),
        (
            |config| config.oom_score_adj = Some(-9000),
            &["KubeProxyLinuxConfiguration.OOMScoreAdj: Invalid value: -9000: must be within the range [-1000, 1000]"],
        ),
        (
            |config| config.client_connection.burst = -5,
            &["ClientConnection.Burst: Invalid value: -5: must be greater than or equal to 0"],
        ),
        (
            |config| config.show_hidden_metrics_for_version = "latest".into(),
            &[
                "ShowHiddenMetricsForVersion: Invalid value: \"latest\": --show-hidden-metrics-for-version must be omitted \
               or have the form <major>.<minor>",
            ],
        ),
    ]);
    let section = "KubeProxyLinuxConfiguration.KubeProxyConntrackConfiguration";
    let negative: [(Change, &str, &str); 6] = [
        (|config| config.conntrack.max_per_core = Some(-1), "MaxPerCore", "-1"),
        (|config| config.conntrack.min = Some(-1), "Min", "-1"),
        (|config| config.conntrack.tcp_established_timeout = Some(secs(-5)), "TCPEstablishedTimeout", "\"-5s\""),
        (|config| config.conntrack.tcp_close_wait_timeout = Some(secs(-5)), "TCPCloseWaitTimeout", "\"-5s\""),
        (|config| config.conntrack.udp_timeout = secs(-5), "UDPTimeout", "\"-5s\""),
        (|config| config.conntrack.udp_stream_timeout = secs(-5), "UDPStreamTimeout", "\"-5s\""),
    ];
    for (change, field, value) in negative {
        let expected = format!("{section}.{field}: Invalid value: {value}: must be greater than or equal to 0");
        assert_eq!(errors(change), [expected]);
    }
}

#[test]
fn node_port_addresses() {
    let invalid = |addresses: &[&str]| errors(|config| config.node_port_addresses = strings(addresses));
    let error = |index: usize, text: &str| {
        format!("NodePortAddresses[{index}]: Invalid value: \"{text}\": must be a valid CIDR")
    };
    assert_eq!(invalid(&["foo"]), [error(0, "foo")]);
    assert_eq!(invalid(&["10.0.0.0/0", "1.2.3"]), [error(1, "1.2.3")]);
    assert_eq!(invalid(&["127.0.0.1/32", "0", "1.2.3.0/24"]), [error(1, "0")]);
    assert_eq!(invalid(&["127.0.0.1/32", "10.20.30.40", "1.2.3.0/24"]), [error(1, "10.20.30.40")]);
    assert_eq!(invalid(&["::0", "::1", "2001:db8::/32"]), [error(0, "::0"), error(1, "::1")]);
    assert_eq!(invalid(&["::1/128", "2001:db8:xyz/64"]), [error(1, "2001:db8:xyz/64")]);
    let both = "NodePortAddresses[0]: Invalid value: \"primary\": can't use both 'primary' and CIDRs";
    assert_eq!(invalid(&["primary", "1.2.3.0/24"]), [both]);
}

#[test]
fn detection_of_local_traffic() {
    let section = "DetectLocalConfiguration";
    let cidrs = |text: &'static str| errors(move |config| config.cluster_cidr = text.into());
    let pair = "must be a either a single CIDR or dual-stack pair of CIDRs (e.g. [10.100.0.0/16, fde4:8dba:82e1::/48]";
    let block = "must be a valid CIDR block (e.g. 10.100.0.0/16 or fde4:8dba:82e1::/48)";
    assert_eq!(cidrs("192.168.59.0"), [format!("{section}.ClusterCIDRs[0]: Invalid value: \"192.168.59.0\": {block}")]);
    assert_eq!(
        cidrs("192.168.59.0/24,fd00:192:168::/64,10.0.0.0/16"),
        [format!(
            "{section}.ClusterCIDRs: Invalid value: [\"192.168.59.0/24\",\"fd00:192:168::/64\",\"10.0.0.0/16\"]: {pair}"
        )]
    );
    assert_eq!(
        cidrs("fd00:10:96::/112,fde4:8dba:82e1::/48"),
        [format!("{section}.ClusterCIDRs: Invalid value: [\"fd00:10:96::/112\",\"fde4:8dba:82e1::/48\"]: {pair}")]
    );
    assert_eq!(
        cidrs("fde4:8dba:82e1::/48,172.16.200.0:24"),
        [format!("{section}.ClusterCIDRs[1]: Invalid value: \"172.16.200.0:24\": {block}")]
    );
    check(&[
        (
            |config| config.detect_local_mode = "InterfaceNamePrefix".into(),
            &["DetectLocalConfiguration.InterfacePrefix: Invalid value: \"\": must not be empty"],
        ),
        (
            |config| {
                config.detect_local_mode = "BridgeInterface".into();
                config.detect_local.interface_name_prefix = "eth0".into();
            },
            &["DetectLocalConfiguration.InterfaceName: Invalid value: \"\": must not be empty"],
        ),
        (
            |config| config.detect_local_mode = "Guess".into(),
            &["DetectLocalMode: Unsupported value: \"Guess\": supported values: \"ClusterCIDR\", \"NodeCIDR\", \
               \"BridgeInterface\", \"InterfaceNamePrefix\", \"\""],
        ),
    ]);
}

#[test]
fn logging() {
    let item = |pattern: &str| VmoduleItem { file_pattern: pattern.into(), verbosity: 5 };
    assert_eq!(errors(|config| config.logging.vmodule = vec![item("round")]), [""; 0]);
    let found = errors(|config| config.logging.vmodule = vec![item("a=b")]);
    assert_eq!(
        found,
        ["logging.vmodule[0]: Invalid value: \"a=b\": File pattern must not contain equal sign or comma"]
    );
    let found = errors(|config| {
        config.logging.vmodule = vec![item("")];
        config.logging.format = "json".into();
    });
    assert_eq!(
        found,
        [
            "logging.vmodule: Forbidden: Only supported for text log format",
            "logging.vmodule[0]: Required value: File pattern must not be empty"
        ]
    );
    let split = "logging.options.json.splitStream: Forbidden: Feature LoggingAlphaOptions is disabled";
    assert_eq!(errors(|config| config.logging.options.json.split_stream = true), [split]);
    let found = errors(|config| {
        config.logging.options.json.split_stream = true;
        config.feature_gates.insert("LoggingAlphaOptions".into(), true);
    });
    assert_eq!(found, [""; 0]);
    check(&[
        (
            |config| config.logging.format = "xml".into(),
            &["logging.format: Invalid value: \"xml\": Unsupported log format"],
        ),
        (
            |config| config.logging.verbosity = 1 << 31,
            &["logging.verbosity: Invalid value: 2147483648: Must be <= 2147483647"],
        ),
    ]);
}
