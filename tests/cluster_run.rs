//! The program on an API server of our own, in iptables mode, with a thousand Services: whatever happens to the server, no
//! Service that it has is ever without its rules, seen by reading the kernel's rules all the time.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests may fail loudly, too"
)]

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use support::api::Trouble;
use support::follow::{fill, name, service, slice};
use support::{Api, Cluster, Mode, Proxy, may_run, patience, wait_until};

const SERVICES: usize = 1000;

/// How long what lasts.
struct Lengths {
    errors: Duration,
    changes: Duration,
}

#[test]
fn no_service_is_ever_absent() {
    through_everything(&Lengths { errors: Duration::from_secs(20), changes: Duration::from_secs(10) });
}

#[test]
#[ignore = "takes a quarter of an hour: cargo test --test cluster_run -- --ignored"]
fn no_service_is_ever_absent_in_ten_minutes_of_errors() {
    through_everything(&Lengths { errors: Duration::from_secs(600), changes: Duration::from_secs(30) });
}

#[test]
fn without_a_source_it_says_what_to_give() {
    if !may_run(Mode::Iptables) {
        return;
    }
    let run = |arguments: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_kube-ipvs"));
        command.args(arguments).env("KUBECONFIG", "/nonexistent").env_remove("KUBERNETES_SERVICE_HOST");
        let output = command.output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    for command in ["run", "plan"] {
        let (status, text) = run(&[command]);
        let words = ["give --manifests PATH, or --kubeconfig FILE or --master URL", "KUBECONFIG is set, but"];
        assert!(status == 1 && words.iter().all(|word| text.contains(word)), "{status}: {text}");
        let (status, text) = run(&[command, "--kubeconfig", "/nonexistent"]);
        assert!(status == 1 && text.contains("--kubeconfig /nonexistent: failed to read"), "{status}: {text}");
        let (status, text) = run(&[command, "--manifests", "/tmp", "--master", "http://127.0.0.1:1"]);
        assert!(status == 2 && text.contains("cannot be used with"), "{status}: {text}");
    }
}

fn through_everything(lengths: &Lengths) {
    if !may_run(Mode::Iptables) {
        return;
    }
    let cluster = Cluster::new(Mode::Iptables);
    let mut api = cluster.lab.node().ns.run(Api::start).unwrap();
    fill(&api, 0..SERVICES);
    let started = Instant::now();
    let mut proxy = cluster.launch_on(&api);
    wait_in_sync(&mut proxy);
    eprintln!("in sync {:?} after the start", started.elapsed());
    let watch = Watch::start(&cluster);

    let restart = |api: &mut Api| {
        api.stop();
        thread::sleep(Duration::from_secs(3));
        cluster.lab.node().ns.run(|| api.restart()).unwrap();
    };
    restart(&mut api);
    applied(&cluster, &api, 2000, "after a restart of the server");
    api.delete("Service", "default", &name(2000).name);
    api.forget();
    gone(&cluster, 2000, "after a 410");
    api.trouble(Trouble { status: Some(500), ..Trouble::default() });
    api.cut();
    thread::sleep(lengths.errors);
    api.trouble(Trouble::default());
    applied(&cluster, &api, 2001, "after errors");
    let changes = change(&api, lengths.changes);
    applied(&cluster, &api, 2002, "after the changes");

    // A start while the server is away touches nothing and can be stopped.
    proxy.kill();
    api.stop();
    let mut early = cluster.launch_on(&api);
    early.wait_to_say(&["the API server", "fails", "Connection refused"]);
    thread::sleep(Duration::from_secs(3));
    early.stop();
    let mut proxy = cluster.launch_on(&api);
    proxy.wait_to_say(&["Connection refused"]);
    cluster.lab.node().ns.run(|| api.restart()).unwrap();
    wait_in_sync(&mut proxy);

    let (reads, longest) = watch.end();
    eprintln!("{changes} changes; the rules were read {reads} times, at most {longest:?} apart, and always complete");
    assert!(reads > 50, "{reads}");
    let (status, text) = cluster.plan_on(&api);
    assert!(status == 0 && text.contains("in sync"), "plan: exit status {status}\n{text}");
    proxy.stop();
}

/// A debug build writes 1,000 Services in a few seconds, on a busy machine in more.
fn wait_in_sync(proxy: &mut Proxy) {
    let deadline = Instant::now() + 4 * patience();
    while !(proxy.says(&["family=IPv4", "in sync"]) && proxy.says(&["family=IPv6", "in sync"])) {
        assert!(Instant::now() < deadline, "{}", proxy.log());
        thread::sleep(Duration::from_millis(50));
    }
}

/// A new Service reaches the kernel.
fn applied(cluster: &Cluster, api: &Api, number: usize, when: &str) {
    api.put(service(number));
    api.put(slice(number, "10.180.0.1"));
    let words = format!("default/{}:web cluster IP", name(number).name);
    wait_until(&format!("service {number} {when}"), || cluster.on_node("iptables-save -t nat").contains(&words));
}

/// A Service leaves the kernel.
fn gone(cluster: &Cluster, number: usize, when: &str) {
    let words = format!("default/{}:web cluster IP", name(number).name);
    wait_until(&format!("the end of service {number} {when}"), || {
        !cluster.on_node("iptables-save -t nat").contains(&words)
    });
}

/// Changes endpoints 200 times a second. Returns how many changes there were.
fn change(api: &Api, length: Duration) -> usize {
    let (started, mut count) = (Instant::now(), 0_usize);
    while started.elapsed() < length {
        let number = count * 7 % SERVICES;
        match count % 10 {
            0 => api.put(service(3000 + count % 50)),
            5 => api.delete("Service", "default", &name(3000 + (count + 45) % 50).name),
            _ => api.put(slice(number, ["10.180.0.2", "10.180.1.1", "10.180.0.1"][count / SERVICES % 3])),
        }
        count += 1;
        let due = started + Duration::from_millis(5) * u32::try_from(count).unwrap();
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    count
}

/// Reads the rules all the time.
struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<(usize, Duration)>,
}

impl Watch {
    /// From now on every Service that has rules has them always.
    fn start(cluster: &Cluster) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, ns) = (stop.clone(), cluster.lab.node().ns.clone());
        let read = move || {
            let output = ns.run(|| std::process::Command::new("iptables-save").args(["-t", "nat"]).output()).unwrap();
            Rules::read(&String::from_utf8(output.unwrap().stdout).unwrap())
        };
        let first = read();
        assert_eq!((first.chains.len(), first.reached.len(), first.serving.len()), (SERVICES, SERVICES, SERVICES));
        let thread = thread::spawn(move || {
            let (mut reads, mut longest, mut last) = (0, Duration::ZERO, Instant::now());
            while !stopped.load(Ordering::SeqCst) {
                let now = read();
                assert!(now.chains.is_superset(&first.chains), "chains are missing");
                assert!(now.reached.is_superset(&first.reached), "chains are not reached");
                assert!(now.serving.is_superset(&first.serving), "chains are empty");
                longest = longest.max(last.elapsed());
                (reads, last) = (reads + 1, Instant::now());
                thread::sleep(Duration::from_millis(100));
            }
            (reads, longest)
        });
        Self { stop, thread }
    }

    /// How often the rules were read, and how far apart at most.
    fn end(self) -> (usize, Duration) {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().expect("every Service had its rules all the time")
    }
}

/// The chains of Services: those that are there, those that are jumped to, those with an endpoint.
struct Rules {
    chains: BTreeSet<String>,
    reached: BTreeSet<String>,
    serving: BTreeSet<String>,
}

impl Rules {
    fn read(text: &str) -> Self {
        let mut rules = Self { chains: BTreeSet::new(), reached: BTreeSet::new(), serving: BTreeSet::new() };
        for line in text.lines() {
            let target = line.rsplit_once(" -j ").map(|(_, target)| target.to_owned()).unwrap_or_default();
            if let Some(chain) = line.strip_prefix(':').filter(|line| line.starts_with("KUBE-SVC-")) {
                rules.chains.extend(chain.split(' ').next().map(str::to_owned));
            } else if line.starts_with("-A KUBE-SERVICES ") && target.starts_with("KUBE-SVC-") {
                rules.reached.insert(target);
            } else if line.starts_with("-A KUBE-SVC-") && target.starts_with("KUBE-SEP-") {
                rules.serving.extend(line.split(' ').nth(1).map(str::to_owned));
            }
        }
        rules
    }
}
