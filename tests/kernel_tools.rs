//! `explain` and `doctor` on a node: what they say of it while it is in order, and when something was changed behind their
//! back. And the manners of all commands: errors on standard error, exit statuses, pipes that close.

#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

mod support;

use serde_json::Value;
use std::process::{Command, Output};
use support::{Cluster, Mode, Service, in_both_modes, succeeded};

const PROGRAM: &str = env!("CARGO_BIN_EXE_kube-ipvs");

const SETTINGS: [&str; 4] =
    ["--cluster-cidr", "10.180.0.0/16,fd00:10:180::/48", "--service-cidr", "172.30.0.0/16,fd00:172:30::/108"];

/// `kube-ipvs explain … -o json` with the cluster's manifests: its exit status and its report.
fn explain(cluster: &Cluster, from: &str, to: &str) -> (i32, Value) {
    let mut arguments = vec!["explain", from, to, "-o", "json", "--proxy-mode", cluster.mode.name(), "--manifests"];
    arguments.push(cluster.folder.to_str().unwrap());
    arguments.extend(SETTINGS);
    json_of(&cluster.program(&arguments))
}

fn json_of(output: &Output) -> (i32, Value) {
    let errors = String::from_utf8_lossy(&output.stderr);
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {errors}"));
    (output.status.code().unwrap(), report)
}

fn endpoints(answer: &Value) -> Vec<&str> {
    answer["endpoints"].as_array().unwrap().iter().map(|endpoint| endpoint["address"].as_str().unwrap()).collect()
}

in_both_modes!(explain_agrees_and_names_what_differs, doctor_finds_what_was_broken);

fn explain_agrees_and_names_what_differs(mode: Mode) {
    let cluster = Cluster::new(mode);
    let service = Service::new("web", 10);
    cluster.apply(&service);
    let proxy = cluster.start(&[]);
    let [to, to_v6] = service.addresses().map(|address| format!("{address}/tcp"));
    for (from, to) in [("node", &to), ("10.180.0.1", &to), ("203.0.113.2", &to), ("node", &to_v6)] {
        let (status, report) = explain(&cluster, from, to);
        assert_eq!((status, &report["kernel"]["fate"]), (0, &Value::from("balanced")), "{from}: {report:#}");
        assert_eq!(endpoints(&report["wanted"]), endpoints(&report["kernel"]), "{from}: {report:#}");
        assert_eq!(report["doubts"], Value::Array(Vec::new()), "{report:#}");
        assert_eq!(report["modes"][0], mode.name(), "{report:#}");
    }
    let (status, refused) = explain(&cluster, "10.180.0.1", "172.30.0.10:4/tcp");
    assert_eq!((status, &refused["kernel"]["fate"]), (0, &Value::from("refused")), "{refused:#}");
    // The Service changes while nobody looks.
    drop(proxy);
    cluster.apply(&service.on(&[2, 11]));
    let (status, report) = explain(&cluster, "10.180.0.1", &to);
    let difference = report["differences"][0].as_str().unwrap_or_default();
    assert_eq!(status, 2, "{report:#}");
    assert!(difference.contains("is not to get connections, and does"), "{report:#}");
    cluster.cleanup();
}

fn doctor_finds_what_was_broken(mode: Mode) {
    let cluster = Cluster::new(mode);
    cluster.write_examples();
    let proxy = cluster.start(&[]);
    let doctor = ["doctor", "--service-cidr", "172.30.0.0/16", "-o", "json"];
    let (status, report) = json_of(&cluster.program(&doctor));
    assert!(status != 3, "nothing is broken yet: {report:#}");
    // It would mend the sysctl as soon as it looks at the new address.
    drop(proxy);
    cluster.shell(
        "iptables-legacy -A FORWARD -j ACCEPT; iptables-nft -A FORWARD -j ACCEPT; sysctl -qw net.ipv4.ip_forward=0; ip address add 172.30.9.9/32 dev eth0; sysctl -qw net.ipv4.conf.eth0.rp_filter=1; \
         ip link set eth0 mtu 1000",
    );
    let (status, report) = json_of(&cluster.program(&doctor));
    let found: Vec<&str> =
        report["findings"].as_array().unwrap().iter().map(|finding| finding["check"].as_str().unwrap()).collect();
    for check in ["sysctls", "service-ranges", "rp-filter", "mtu", "iptables-variants"] {
        assert!(found.contains(&check), "{check}: {report:#}");
    }
    assert_eq!(status, 3, "{report:#}");
    let remedies = report["findings"].as_array().unwrap().iter().filter_map(|finding| finding["remedy"].as_str());
    let forwarding = remedies.into_iter().find(|remedy| remedy.contains("ip_forward")).unwrap().to_owned();
    cluster.shell(&forwarding);
    assert_eq!(cluster.on_node("sysctl -n net.ipv4.ip_forward").trim(), "1", "the remedy mends it");
    cluster.cleanup();
}

/// Runs the program where nothing can be harmed: commands that fail before they touch anything.
fn run(arguments: &[&str]) -> Output {
    Command::new(PROGRAM).args(arguments).output().unwrap()
}

#[test]
fn errors_go_to_standard_error_with_a_remedy() {
    let cases: [(&[&str], i32, &str); 5] = [
        (&["explain", "node", "172.30.0.10/tcp"], 2, "172.30.0.10:80/tcp"),
        (&["explain", "pod-1", "172.30.0.10:80/tcp"], 2, "`node`"),
        (&["status", "--control-socket", "/nonexistent/socket"], 1, "run"),
        (&["plan", "--manifests", "/nonexistent/folder"], 1, "/nonexistent/folder"),
        (&["doctor", "--service-cidr", "10.96.0.0"], 1, "CIDR"),
    ];
    for (arguments, status, remedy) in cases {
        let output = run(arguments);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {errors}");
        assert!(output.stdout.is_empty() && errors.contains(remedy), "{arguments:?}: {errors}");
    }
}

#[test]
fn pipes_that_close_are_no_error() {
    for command in ["completions bash", "completions zsh", "completions fish", "man", "--help", "explain --help"] {
        let script = format!("{PROGRAM} {command} | true; echo ${{PIPESTATUS[0]}}");
        let output = Command::new("bash").args(["-c", &script]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(text.trim().lines().last(), Some("0"), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(!String::from_utf8_lossy(&output.stderr).contains("panicked"), "{command}");
    }
}

#[test]
fn man_pages_are_written_for_every_command() {
    let folder = std::env::temp_dir().join(format!("kube-ipvs-man-{}", std::process::id()));
    succeeded("man", &run(&["man", "--dir", folder.to_str().unwrap()]));
    for page in ["kube-ipvs.1", "kube-ipvs-explain.1", "kube-ipvs-doctor.1", "kube-ipvs-bench-sync.1"] {
        let text = std::fs::read_to_string(folder.join(page)).unwrap_or_else(|error| panic!("{page}: {error}"));
        assert!(text.contains(".SH SYNOPSIS"), "{page}");
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn bash_takes_its_completions() {
    let script = format!("source <({PROGRAM} completions bash) && complete -p kube-ipvs");
    let output = Command::new("bash").args(["-c", &script]).output().unwrap();
    assert!(succeeded("bash", &output).contains("kube-ipvs"));
}
