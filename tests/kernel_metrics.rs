//! What the running program shows of itself: health, metrics and the other pages, in the network namespace of a node.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests may fail loudly, too"
)]

mod support;

use std::net::TcpListener;
use std::time::{Duration, Instant, SystemTime};
use support::web::{HEALTHZ, METRICS, Numbers, page};
use support::{Cluster, Mode, Service, emulated, in_both_modes, may_run, wait_until};

in_both_modes!(every_page_answers, numbers_follow_changes, traffic_is_counted, what_happened_is_timed);

fn body(cluster: &Cluster, address: &str, path: &str) -> String {
    let (status, body) = page(cluster, address, path).unwrap();
    assert_eq!(status, 200, "{path}: {body}");
    body
}

fn every_page_answers(mode: Mode) {
    let cluster = Cluster::new(mode);
    cluster.apply(&Service { node_port: Some(30080), ..Service::new("web", 20) });
    let proxy = cluster.start(&[]);
    // It tells how it stands at the end of a round, which is after the sync that the log tells of.
    let in_sync = || Numbers::scrape(&cluster).get("kube_ipvs_in_sync", &[("ip_family", "IPv6")]) == Some(1.0);
    wait_until("the first round to end", in_sync);
    for path in ["/healthz", "/livez"] {
        let answer: serde_json::Value = serde_json::from_str(&body(&cluster, HEALTHZ, path)).unwrap();
        let eligible = answer.get("nodeEligible");
        assert_eq!(eligible.is_some(), path == "/healthz", "{answer}");
        assert!(answer["healthy"] == true && answer["status"]["IPv6"]["healthy"] == true, "{answer}");
    }
    assert_eq!(body(&cluster, METRICS, "/proxyMode"), mode.name());
    assert_eq!(body(&cluster, METRICS, "/healthz"), "ok");
    assert!(
        body(&cluster, METRICS, "/metrics/slis").contains("kubernetes_healthcheck{name=\"ping\",type=\"healthz\"} 1\n")
    );
    let configz: serde_json::Value = serde_json::from_str(&body(&cluster, METRICS, "/configz")).unwrap();
    let config = &configz["kubeproxy.config.k8s.io"];
    assert!(config["Mode"] == mode.name() && config["IPTables"]["MasqueradeBit"] == 14, "{configz}");
    assert_eq!(config["DetectLocal"]["ClusterCIDRs"][0], "10.180.0.0/16");
    assert!(body(&cluster, METRICS, "/flagz").contains("\nhostname-override=demo-node\n"));
    assert!(body(&cluster, METRICS, "/statusz").contains("\nPaths:  /configz "));
    for (address, path) in [(METRICS, "/debug/pprof/"), (METRICS, "/"), (HEALTHZ, "/metrics")] {
        assert_eq!(page(&cluster, address, path).unwrap().0, 404, "{path}");
    }
    check_metrics(&cluster, mode);
    proxy.stop();
}

fn check_metrics(cluster: &Cluster, mode: Mode) {
    let numbers = Numbers::scrape(cluster);
    let number = |name: &str, labels: &[(&str, &str)]| {
        numbers.get(name, labels).unwrap_or_else(|| panic!("no {name} {labels:?}:\n{}", numbers.text))
    };
    for family in ["IPv4", "IPv6"] {
        let family = [("ip_family", family)];
        assert!(number("kubeproxy_sync_proxy_rules_duration_seconds", &family) >= 1.0);
        assert!(number("kubeproxy_sync_proxy_rules_last_timestamp_seconds", &family) > 1e9);
        assert!(number("kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds", &family) > 1e9);
        assert_eq!(number("kubeproxy_sync_proxy_rules_iptables_restore_failures_total", &family), 0.0);
        assert_eq!(number("kube_ipvs_service_ports", &family), 1.0);
        assert_eq!(number("kube_ipvs_in_sync", &family), 1.0);
        assert_eq!(number("kube_ipvs_proxy_mode", &[family[0], ("mode", mode.name())]), 1.0);
    }
    for pending in ["endpoint", "service"] {
        assert_eq!(number(&format!("kubeproxy_sync_proxy_rules_{pending}_changes_pending"), &[]), 0.0);
    }
    assert_eq!(number("kubeproxy_sync_proxy_rules_service_changes_total", &[]), 1.0);
    assert_eq!(number("kubeproxy_sync_proxy_rules_endpoint_changes_total", &[]), 2.0);
    assert!(number("process_resident_memory_bytes", &[]) > 1e6);
    assert_eq!(number("kubernetes_build_info", &[("minor", "36")]), 1.0);
    assert!(numbers.text.contains("# HELP kubeproxy_sync_proxy_rules_duration_seconds [ALPHA] SyncProxyRules latency"));
    assert_rules_counted(cluster);
    let iptables = [
        "kubeproxy_sync_full_proxy_rules_duration_seconds",
        "kubeproxy_iptables_ct_state_invalid_dropped_packets_total",
    ];
    for name in iptables {
        assert_eq!(numbers.get(name, &[]).is_some(), mode == Mode::Iptables, "{name}:\n{}", numbers.text);
    }
}

/// What is counted step by step is what there is.
fn assert_rules_counted(cluster: &Cluster) {
    let numbers = Numbers::scrape(cluster);
    for (table, family, save) in [("nat", "IPv4", "iptables-save"), ("filter", "IPv6", "ip6tables-save")] {
        let rules = cluster.shell(&format!("{save} -t {table} 2>/dev/null | grep KUBE- | grep -c '^-A'"));
        let labels = [("table", table), ("ip_family", family)];
        let told = numbers.get("kubeproxy_sync_proxy_rules_iptables_total", &labels).unwrap();
        assert_eq!(rules.trim(), told.to_string(), "{table} {family}:\n{}", numbers.text);
    }
}

/// Services come, change and go; the counts follow.
fn numbers_follow_changes(mode: Mode) {
    let cluster = Cluster::new(mode);
    cluster.apply(&Service::new("first", 20));
    let proxy = cluster.start(&[]);
    let ports = || Numbers::scrape(&cluster).get("kube_ipvs_service_ports", &[("ip_family", "IPv6")]);
    let second = Service { node_port: Some(30080), ..Service::new("second", 21) };
    for (step, expected) in [(Some(vec![1]), 2.0), (Some(vec![1, 2, 11]), 2.0), (Some(vec![]), 2.0), (None, 1.0)] {
        match step {
            Some(endpoints) => cluster.apply(&second.clone().on(&endpoints)),
            None => cluster.delete(&second),
        }
        wait_until("the change to be served", || ports() == Some(expected));
        cluster.wait_in_sync(&[]);
        assert_rules_counted(&cluster);
    }
    let pending = "kubeproxy_sync_proxy_rules_endpoint_changes_pending";
    assert_eq!(Numbers::scrape(&cluster).get(pending, &[]), Some(0.0));
    proxy.stop();
}

fn traffic_is_counted(mode: Mode) {
    let cluster = Cluster::new(mode);
    let web = Service { node_port: Some(30080), ..Service::new("web", 20) }.on(&[1, 11]);
    cluster.apply(&web);
    let ours = cluster.folder.join("ours.conf");
    let text = "apiVersion: kube-ipvs.io/v1alpha1\nkind: KubeIPVSConfiguration\ntrafficMetrics: endpoints\n";
    std::fs::write(&ours, text).unwrap();
    let proxy = cluster.start(&["--kube-ipvs-config", ours.to_str().unwrap()]);
    cluster.wait_answerers(&web.addresses()[0], &["far-pod-1", "pod-1"]);
    let labels = [("namespace", "default"), ("service", "web"), ("port", "web"), ("protocol", "TCP")];
    let connections = |numbers: &Numbers| numbers.get("kube_ipvs_service_connections_total", &labels);
    if mode == Mode::Iptables {
        assert_eq!(connections(&Numbers::scrape(&cluster)), None, "only IPVS counts");
        let localhost = "kubeproxy_iptables_localhost_nodeports_accepted_packets_total";
        let before = Numbers::scrape(&cluster).get(localhost, &[]).expect("it is there with the first scrape");
        assert_eq!(before, 0.0);
        assert!(cluster.answered_by("demo-node", "127.0.0.1:30080").is_some());
        assert!(cluster.answered_by("demo-node", "192.168.0.2:30080").is_some());
        // What was read is told again for some seconds.
        wait_until("the connection to be counted", || Numbers::scrape(&cluster).get(localhost, &[]) == Some(1.0));
        return proxy.stop();
    }
    // The kernel sums up every two seconds, and what was read is told again for some.
    let settled = || {
        std::thread::sleep(Duration::from_secs(if emulated() { 15 } else { 8 }));
        connections(&Numbers::scrape(&cluster)).unwrap_or_default()
    };
    let before = settled();
    eprintln!("{before} connections before");
    for address in [&web.addresses()[0], &web.addresses()[1], &"192.168.0.2:30080".to_owned()] {
        cluster.answerers("client", address, 10);
    }
    wait_until("30 connections to be counted", || connections(&Numbers::scrape(&cluster)) == Some(before + 30.0));
    let numbers = Numbers::scrape(&cluster);
    let endpoint = |address: &str| {
        let labels = [&labels[..], &[("endpoint", address)]].concat();
        numbers.get("kube_ipvs_service_endpoint_connections_total", &labels).unwrap_or_default()
    };
    assert!(endpoint("10.180.0.1:80") > 0.0 && endpoint("[fd00:10:180:1::1]:80") > 0.0, "{}", numbers.text);
    for name in ["incoming_packets", "outgoing_packets", "incoming_bytes", "outgoing_bytes"] {
        assert!(numbers.get(&format!("kube_ipvs_service_{name}_total"), &labels).unwrap() > 30.0, "{name}");
    }
    let lines = numbers.text.lines().filter(|line| line.starts_with("kube_ipvs_service") || line.contains("traffic_"));
    eprintln!("{}", lines.collect::<Vec<_>>().join("\n"));
    assert_eq!(numbers.get("kube_ipvs_traffic_cut", &[("kind", "service")]), Some(0.0));
    // A virtual server that is made anew takes nothing away.
    let sum = connections(&numbers).unwrap();
    cluster.shell("ip link del kube-ipvs0");
    cluster.wait_in_sync(&[]);
    assert!(settled() >= sum);
    proxy.stop();
}

/// The times of a slice, from its annotation on to when the kernel had it.
fn what_happened_is_timed(mode: Mode) {
    let cluster = Cluster::new(mode);
    let at = |endpoints: &[u8], time: SystemTime| {
        let mut objects = Service::new("web", 20).on(endpoints).objects();
        let time = jiff::Timestamp::try_from(time).unwrap().to_string();
        objects[1]["metadata"]["annotations"] =
            serde_json::json!({"endpoints.kubernetes.io/last-change-trigger-time": time});
        let list = serde_json::json!({"apiVersion": "v1", "kind": "List", "items": objects});
        cluster.write("web.json", &list.to_string());
    };
    at(&[1], SystemTime::now());
    std::thread::sleep(Duration::from_millis(10));
    let proxy = cluster.start(&[]);
    let name = "kubeproxy_network_programming_duration_seconds";
    let count = || Numbers::scrape(&cluster).get(name, &[("ip_family", "IPv4")]).unwrap_or_default();
    assert_eq!(count(), 0.0, "it happened before the start");
    let began = SystemTime::now();
    at(&[1, 2], began);
    wait_until("the change to be timed", || count() == 1.0);
    let longest = began.elapsed().unwrap().as_secs_f64();
    let text = Numbers::scrape(&cluster).text;
    let sum = text.lines().find_map(|line| line.strip_prefix(&format!("{name}_sum{{ip_family=\"IPv4\"}} "))).unwrap();
    let sum: f64 = sum.parse().unwrap();
    assert!(sum > 0.0 && sum <= longest, "{sum} of at most {longest}");
    proxy.stop();
}

#[test]
fn a_node_that_is_about_to_go_says_so() {
    if !may_run(Mode::Iptables) {
        return;
    }
    let cluster = Cluster::new(Mode::Iptables);
    let node = |metadata: &str, spec: &str| {
        let object =
            format!("{{apiVersion: v1, kind: Node, metadata: {{name: demo-node{metadata}}}, spec: {{{spec}}}}}\n");
        cluster.write("node.yaml", &object);
    };
    node("", "");
    let proxy = cluster.start(&[]);
    let statuses = || (page(&cluster, HEALTHZ, "/healthz").unwrap().0, page(&cluster, HEALTHZ, "/livez").unwrap().0);
    assert_eq!(statuses(), (200, 200));
    node("", "taints: [{key: ToBeDeletedByClusterAutoscaler, effect: NoSchedule}]");
    wait_until("the taint to count", || statuses() == (503, 200));
    assert!(page(&cluster, HEALTHZ, "/healthz").unwrap().1.contains("\"nodeEligible\":false,\"healthy\":true"));
    node("", "taints: [{key: other, effect: NoSchedule}]");
    wait_until("the taint to be gone", || statuses() == (200, 200));
    node(", deletionTimestamp: \"2026-01-01T00:00:00Z\"", "");
    wait_until("the deletion to count", || statuses() == (503, 200));
    let counted = Numbers::scrape(&cluster).get("kubeproxy_proxy_healthz_total", &[("code", "503")]);
    assert!(counted >= Some(2.0), "{counted:?}");
    proxy.stop();
}

#[test]
fn a_port_in_use_is_tried_again_or_ends_the_program() {
    if !may_run(Mode::Iptables) {
        return;
    }
    let cluster = Cluster::new(Mode::Iptables);
    let other = cluster.lab.node().ns.run(|| TcpListener::bind(METRICS)).unwrap().unwrap();
    let mut proxy = cluster.launch(&["--bind-address-hard-fail"]);
    assert_eq!(proxy.wait().code(), Some(1), "{}", proxy.log());
    let words = [
        "the port for metrics cannot be opened on 127.0.0.1:10249",
        "Address already in use",
        "--metrics-bind-address",
    ];
    // What it said last may not have been read yet.
    wait_until(&format!("{words:?} in the log:\n{}", proxy.log()), || proxy.says(&words));
    let mut proxy = cluster.start(&[]);
    proxy.wait_to_say(&["WARN", "the port for metrics cannot be opened", "it is tried again"]);
    drop(other);
    proxy.wait_to_say(&["the port for metrics is open now"]);
    assert_eq!(body(&cluster, METRICS, "/proxyMode"), "iptables");
    proxy.stop();
    // Nowhere, and elsewhere; and profiles, where they are asked for.
    let flags = ["--healthz-bind-address=", "--metrics-bind-address", "127.0.0.1:20249", "--profiling"];
    let proxy = cluster.start(&flags);
    wait_until("the other port", || page(&cluster, "127.0.0.1:20249", "/metrics").is_ok());
    assert!(page(&cluster, HEALTHZ, "/healthz").is_err() && page(&cluster, METRICS, "/metrics").is_err());
    assert!(body(&cluster, "127.0.0.1:20249", "/debug/pprof/threads").contains("reconciler"));
    proxy.stop();
}

#[test]
fn health_answers_while_the_api_server_is_waited_for() {
    if !may_run(Mode::Iptables) {
        return;
    }
    let cluster = Cluster::new(Mode::Iptables);
    let proxy = cluster.spawn(&["run", "--master", "http://127.0.0.1:1", "--proxy-mode", "iptables"], "");
    wait_until("an answer", || page(&cluster, HEALTHZ, "/healthz").is_ok_and(|(status, _)| status == 200));
    // Health checks answer while this port is not open yet.
    wait_until("the port for metrics", || page(&cluster, METRICS, "/proxyMode").is_ok());
    assert_eq!(body(&cluster, METRICS, "/proxyMode"), "iptables");
    proxy.stop();
}

/// In the middle of a first sync of many Services: the kernel stays as it is then, and the next start does the rest.
#[test]
fn a_loaded_daemon_ends_at_once() {
    if !may_run(Mode::Iptables) {
        return;
    }
    let cluster = Cluster::new(Mode::Iptables);
    let mut objects = Vec::new();
    // Where the processor is emulated, 2,000 take more than the three minutes that are waited for the first rules.
    for number in 0..if emulated() { 200 } else { 2000_u32 } {
        let ip = format!("172.30.{}.{}", 1 + number / 250, 1 + number % 250);
        let mut all = Service { name: format!("s{number}"), ..Service::new("s", 1) }.objects();
        all[0]["spec"]["clusterIP"] = ip.clone().into();
        all[0]["spec"]["clusterIPs"] = serde_json::json!([ip]);
        objects.extend(all.into_iter().take(2));
    }
    let list = serde_json::json!({"apiVersion": "v1", "kind": "List", "items": objects});
    cluster.write("all.json", &list.to_string());
    // Others may keep the processors busy: the best of three counts.
    let mut fastest = Duration::MAX;
    for _ in 0..3 {
        let proxy = cluster.launch(&[]);
        wait_until("rules", || {
            cluster.shell("iptables-save -t nat 2>/dev/null | grep -c KUBE-SEP- || true").trim() != "0"
        });
        let started = Instant::now();
        proxy.stop();
        fastest = fastest.min(started.elapsed());
        eprintln!("ended after {:?}", started.elapsed());
        let left = cluster.shell("iptables-save -t nat 2>/dev/null | grep -c KUBE-SEP- || true");
        assert_ne!(left.trim(), "0", "what is in the kernel stays");
        cluster.cleanup();
    }
    let limit = Duration::from_secs(if emulated() { 10 } else { 1 });
    assert!(fastest < limit, "{fastest:?}");
}
