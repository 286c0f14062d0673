//! What cannot be used is refused clearly and changes nothing; what is broken does not stop what is good.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests may fail loudly, too"
)]

mod support;

use std::fs;

use support::{Cluster, Mode, Service, State, in_both_modes, may_run, no_ipvs};

in_both_modes!(
    one_broken_file_beside_a_good_one,
    a_half_written_file_keeps_its_last_good_state,
    standard_input_lists_and_json,
);

/// The program refuses `arguments` with exit status 1 and says all of `words`, changing nothing.
fn assert_refused(cluster: &Cluster, program: &str, arguments: &[&str], words: &[&str]) {
    let before = State::of(cluster);
    let output = cluster.output(program, arguments);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {stderr}");
    for word in words {
        assert!(stderr.contains(word), "{arguments:?} does not say {word:?}: {stderr}");
    }
    assert!(stderr.lines().all(|line| !line.contains("panicked")), "{stderr}");
    State::of(cluster).assert_same(&before, &format!("after {arguments:?}"));
}

const PROGRAM: &str = env!("CARGO_BIN_EXE_kube-ipvs");

#[test]
fn ipvs_on_a_kernel_without_it() {
    if !may_run(Mode::Iptables) {
        return;
    }
    if no_ipvs().is_none() {
        // Nothing is missing: the fall-back is tested where something is.
        eprintln!("this kernel has IPVS: nothing to refuse");
        return;
    }
    let cluster = Cluster::new(Mode::Ipvs);
    cluster.apply(&Service::new("web", 20));
    let folder = cluster.folder.to_str().unwrap();
    for command in ["run", "plan"] {
        let arguments = [command, "--proxy-mode", "ipvs", "--manifests", folder];
        assert_refused(&cluster, PROGRAM, &arguments, &["--proxy-mode ipvs", "IPVS", "nothing was changed"]);
    }
    // And `auto` says in one line what is missing and takes iptables.
    let mut proxy = cluster.launch(&["--proxy-mode", "auto"]);
    proxy.wait_in_sync();
    assert!(proxy.says(&["iptables", "IPVS does not work here"]), "{}", proxy.log());
    cluster.wait_answerers("172.30.0.20:80", &["far-pod-1", "pod-1", "pod-2"]);
}

#[test]
fn not_root() {
    if !may_run(Mode::Iptables) {
        return;
    }
    let cluster = Cluster::new(Mode::Iptables);
    cluster.apply(&Service::new("web", 20));
    // Nobody may not look into the folder of the build.
    let copy = cluster.folder.join("kube-ipvs");
    fs::copy(PROGRAM, &copy).unwrap();
    let (program, folder) = (copy.to_str().unwrap(), cluster.folder.to_str().unwrap());
    let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups", "--", program];
    for command in [&["run", "--manifests", folder][..], &["plan", "--manifests", folder], &["cleanup"]] {
        for mode in ["auto", "ipvs", "iptables"] {
            let mode: &[&str] = if command.len() > 1 { &["--proxy-mode", mode] } else { &[] };
            assert_refused(&cluster, "setpriv", &[&nobody, command, mode].concat(), &["root"]);
        }
    }
}

#[test]
fn wrong_settings() {
    if !may_run(Mode::Iptables) {
        return;
    }
    let cluster = Cluster::new(Mode::Iptables);
    cluster.apply(&Service::new("web", 20));
    let folder = cluster.folder.to_str().unwrap();
    let cases: [(&[&str], &[&str]); 8] = [
        (&["--ipvs-scheduler", "best"], &["--ipvs-scheduler", "\"best\"", "wlc"]),
        (&["--cluster-cidr", "10.180.0.0/33"], &["--cluster-cidr", "10.180.0.0/33"]),
        (&["--cluster-cidr", "10.180.0.0/16,nonsense"], &["--cluster-cidr", "nonsense"]),
        (&["--service-cidr", "172.30.0.0"], &["--service-cidr", "172.30.0.0"]),
        (&["--nodeport-addresses", "primary,10.0.0.0/8"], &["--nodeport-addresses"]),
        (&["--iptables-masquerade-bit", "32"], &["--iptables-masquerade-bit", "32"]),
        (&["--detect-local-mode", "BridgeInterface"], &["--detect-local-mode", "--pod-bridge-interface"]),
        (&["--sync-period", "0"], &["--sync-period"]),
    ];
    for (setting, words) in cases {
        for command in ["run", "plan"] {
            let arguments = [&[command, "--proxy-mode", "iptables", "--manifests", folder], setting].concat();
            assert_refused(&cluster, PROGRAM, &arguments, words);
        }
    }
    for command in ["run", "plan"] {
        let arguments = [command, "--proxy-mode", "iptables", "--manifests", folder, "/nonexistent/services.yaml"];
        assert_refused(&cluster, PROGRAM, &arguments, &["/nonexistent/services.yaml", "No such file"]);
    }
}

fn one_broken_file_beside_a_good_one(mode: Mode) {
    let cluster = Cluster::new(mode);
    let good = Service::new("good", 20);
    cluster.apply(&good);
    let bad = "apiVersion: v1\nkind: Service\nmetadata:\n  name: bad\nspec:\n  clusterIP: 172.30.0.21\n  ports:\n  - port: many\n";
    cluster.write("bad.yaml", bad);
    cluster.write("torn.yaml", "apiVersion: v1\nkind: Service\nmetadata:\n  name: \"torn\n");
    cluster.write("notes.txt", "not a manifest");
    let mut proxy = cluster.start(&[]);
    proxy.wait_to_say(&["bad.yaml:8", "default/bad", "spec.ports[0].port"]);
    proxy.wait_to_say(&["torn.yaml:"]);
    for address in good.addresses() {
        cluster.wait_answerers(&address, &["far-pod-1", "pod-1", "pod-2"]);
    }
    cluster.write("bad.yaml", &bad.replace("many", "80"));
    proxy.wait_to_say(&["mended", "bad.yaml"]);
    cluster.assert_in_sync(&[]);
    proxy.stop();
}

fn a_half_written_file_keeps_its_last_good_state(mode: Mode) {
    let cluster = Cluster::new(mode);
    let (first, second) = (Service::new("first", 20).on(&[1]), Service::new("second", 21).on(&[2]));
    let both = |first: &Service| {
        let items: Vec<_> = first.objects().into_iter().chain(second.objects()).collect();
        serde_json::to_string_pretty(&serde_json::json!({"apiVersion": "v1", "kind": "List", "items": items})).unwrap()
    };
    cluster.write("both.json", &both(&first));
    let mut proxy = cluster.start(&[]);
    let text = both(&first);
    // Written in place, and never finished.
    fs::write(cluster.folder.join("both.json"), &text[..text.len() * 2 / 3]).unwrap();
    proxy.wait_to_say(&["both.json:", "its last good state is kept"]);
    for (service, pod) in [(&first, "pod-1"), (&second, "pod-2")] {
        for address in service.addresses() {
            cluster.wait_answerers(&address, &[pod]);
        }
    }
    fs::write(cluster.folder.join("both.json"), both(&first.clone().on(&[12]))).unwrap();
    cluster.wait_answerers("172.30.0.20:80", &["far-pod-2"]);
    cluster.wait_answerers("172.30.0.21:80", &["pod-2"]);
    fs::remove_file(cluster.folder.join("both.json")).unwrap();
    for address in first.addresses().iter().chain(&second.addresses()) {
        cluster.wait_refused("client", address);
        cluster.wait_refused("pod-3", address);
        cluster.wait_refused("demo-node", address);
    }
    cluster.wait_in_sync(&[]);
    proxy.stop();
}

/// What `kubectl get services,endpointslices -A -o yaml` prints, on standard input, with a file of many documents.
fn standard_input_lists_and_json(mode: Mode) {
    let cluster = Cluster::new(mode);
    let (listed, documents) = (Service::new("listed", 20).on(&[1]), Service::new("documents", 21).on(&[2]));
    let text: Vec<String> = documents.objects().iter().map(ToString::to_string).collect();
    let other = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: ignored}\ndata: {a: b}\n";
    cluster.write("documents.yaml", &format!("# comment\n---\n{}\n---\n{other}", text.join("\n---\n")));
    let folder = cluster.folder.to_str().unwrap();
    let arguments = ["run", "--once", "--proxy-mode", mode.name(), "--manifests", "-", folder];
    let mut proxy = cluster.spawn(&arguments, &listed.list());
    assert!(proxy.wait().success(), "{}", proxy.log());
    for (service, pod) in [(&listed, "pod-1"), (&documents, "pod-2")] {
        for address in service.addresses() {
            cluster.wait_answerers(&address, &[pod]);
        }
    }
    skip_nothing(&proxy.log());
}

/// Objects of other kinds are no problem and are not told as one.
fn skip_nothing(log: &str) {
    assert!(!log.contains("WARN") && !log.contains("ERROR"), "{log}");
}
