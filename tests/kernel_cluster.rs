//! The program on an API server of our own with a thousand Services, half of which come while it starts: whatever happens to
//! the server, no Service that it has is ever absent from the kernel after it was there once, seen by reading the kernel all
//! the time.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests may fail loudly, too"
)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use support::api::Trouble;
use support::follow::{fill, name, node, service, slice};
use support::{Api, Cluster, Mode, Proxy, Service, emulated, in_both_modes, may_run, patience, wait_until};

const SERVICES: usize = 1000;

in_both_modes!(no_service_is_ever_absent, the_api_server_is_served_before_all_is_listed);

/// How long what lasts.
struct Lengths {
    errors: Duration,
    changes: Duration,
}

impl Lengths {
    /// The environment variable `KUBE_IPVS_FULL_LENGTH=1` asks for ten minutes of errors and half a minute of changes.
    /// Without it both are shorter; the source's longest pause between two attempts, 30 s, is not in them then.
    fn asked_for() -> Self {
        let full = std::env::var_os("KUBE_IPVS_FULL_LENGTH").is_some_and(|value| value == "1");
        let (errors, changes) = if full { (600, 30) } else { (20, 10) };
        Self { errors: Duration::from_secs(errors), changes: Duration::from_secs(changes) }
    }
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

fn no_service_is_ever_absent(mode: Mode) {
    let lengths = Lengths::asked_for();
    let cluster = Cluster::new(mode);
    let mut api = cluster.lab.node().ns.run(Api::start).unwrap();
    fill(&api, 0..SERVICES / 2);
    let started = Instant::now();
    let mut proxy = cluster.launch_on(&api);
    let watch = Watch::start(&cluster);
    fill(&api, SERVICES / 2..SERVICES);
    wait_in_sync(&mut proxy);
    let deadline = Instant::now() + 4 * patience();
    while watch.seen() < SERVICES {
        assert!(Instant::now() < deadline, "{} Services", watch.seen());
        thread::sleep(Duration::from_millis(50));
    }
    eprintln!("{} mode: {SERVICES} Services in the kernel {:?} after the start", mode.name(), started.elapsed());

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
    eprintln!(
        "{} mode: {:?} of errors, {changes} changes in {:?}, three restarts: the kernel was read {reads} times, at most \
         {longest:?} apart, and no Service was absent",
        mode.name(),
        lengths.errors,
        lengths.changes
    );
    assert!(reads > if emulated() { 10 } else { 50 }, "{reads}");
    let (status, text) = cluster.plan_on(&api);
    assert!(status == 0 && text.contains("in sync"), "plan: exit status {status}\n{text}");
    proxy.stop();
}

/// A new node reaches its API server however long the lists take; and where something is there already, it stays.
fn the_api_server_is_served_before_all_is_listed(mode: Mode) {
    let cluster = Cluster::new(mode);
    let api = cluster.lab.node().ns.run(Api::start).unwrap();
    api.put(node("z1"));
    let (kubernetes, web) = (Service::new("kubernetes", 1), Service::new("web", 20));
    kubernetes.objects().into_iter().chain(web.objects()).for_each(|object| api.put(object));
    let lists_fail = |fail: bool| {
        api.adjust(|trouble| {
            trouble.statuses.clear();
            trouble.statuses.extend(fail.then_some(("/apis/discovery.k8s.io/v1/endpointslices", 503)));
        });
    };
    lists_fail(true);
    let proxy = cluster.launch_on(&api);
    let all = ["far-pod-1", "pod-1", "pod-2"];
    kubernetes.addresses().iter().for_each(|address| cluster.wait_answerers(address, &all));
    assert_eq!(cluster.answered_by("pod-3", "172.30.0.20:80"), None, "nothing else is known yet");
    lists_fail(false);
    // Both families, which are written one after the other: what is to stay has to be there.
    web.addresses().iter().for_each(|address| cluster.wait_answerers(address, &all));

    proxy.kill();
    lists_fail(true);
    kubernetes.clone().on(&[12]).objects().into_iter().for_each(|object| api.put(object));
    let proxy = cluster.launch_on(&api);
    kubernetes.addresses().iter().for_each(|address| cluster.wait_answerers(address, &["far-pod-2"]));
    web.addresses().iter().for_each(|address| cluster.wait_answerers(address, &all));
    lists_fail(false);
    wait_until("the rest to be looked at", || cluster.plan_on(&api).0 == 0);
    web.addresses().iter().for_each(|address| cluster.wait_answerers(address, &all));
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
    wait_until(&format!("service {number} {when}"), || serving(cluster).contains(&number));
}

/// A Service leaves the kernel.
fn gone(cluster: &Cluster, number: usize, when: &str) {
    wait_until(&format!("the end of service {number} {when}"), || !serving(cluster).contains(&number));
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

/// Reads the kernel all the time.
struct Watch {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<BTreeSet<usize>>>,
    thread: JoinHandle<(usize, Duration)>,
}

impl Watch {
    /// From now on every Service that was seen to be served is so always.
    fn start(cluster: &Cluster) -> Self {
        let (stop, seen): (Arc<AtomicBool>, Arc<Mutex<BTreeSet<usize>>>) = Default::default();
        let (stopped, known) = (stop.clone(), seen.clone());
        let (ns, mode) = (cluster.lab.node().ns.clone(), cluster.mode);
        let thread = thread::spawn(move || {
            let (mut reads, mut longest, mut last) = (0, Duration::ZERO, Instant::now());
            while !stopped.load(Ordering::SeqCst) {
                let now = ns.run(|| read(mode)).unwrap();
                // Those above come and go.
                let now: BTreeSet<usize> = now.into_iter().filter(|number| *number < SERVICES).collect();
                let missing: Vec<usize> = known.lock().unwrap().difference(&now).copied().collect();
                let absent: Vec<_> =
                    missing.into_iter().filter(|number| !ns.run(|| is_there(mode, *number)).unwrap()).collect();
                assert!(absent.is_empty(), "absent: {absent:?}");
                known.lock().unwrap().extend(now);
                longest = longest.max(last.elapsed());
                (reads, last) = (reads + 1, Instant::now());
                thread::sleep(Duration::from_millis(100));
            }
            (reads, longest)
        });
        Self { stop, seen, thread }
    }

    /// How many Services were seen so far.
    fn seen(&self) -> usize {
        assert!(!self.thread.is_finished(), "a Service was absent");
        self.seen.lock().unwrap().len()
    }

    /// How often the kernel was read, and how far apart at most.
    fn end(self) -> (usize, Duration) {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().expect("every Service was served all the time")
    }
}

fn serving(cluster: &Cluster) -> BTreeSet<usize> {
    let mode = cluster.mode;
    cluster.lab.node().ns.run(|| read(mode)).unwrap()
}

/// The numbers of the Services that the kernel of this thread's network namespace serves: reached, and with an endpoint.
fn read(mode: Mode) -> BTreeSet<usize> {
    match mode {
        Mode::Iptables => {
            let output = std::process::Command::new("iptables-save").args(["-t", "nat"]).output().unwrap();
            of_rules(&String::from_utf8(output.stdout).unwrap())
        }
        Mode::Ipvs => {
            let mut client = ipvs::Client::connect().unwrap();
            let mut ids = Vec::new();
            client.for_each_service(|entry| ids.push(entry.service.id)).unwrap();
            let numbered = ids.into_iter().filter_map(|id| Some((number_of(&id)?, id)));
            numbered.filter(|(_, id)| has_destination(&mut client, id)).map(|(number, _)| number).collect()
        }
    }
}

/// Asks for one Service that a reading did not have: the dump of a table that changes meanwhile may pass over entries.
fn is_there(mode: Mode, number: usize) -> bool {
    match mode {
        Mode::Iptables => false,
        Mode::Ipvs => has_destination(&mut ipvs::Client::connect().unwrap(), &id_of(number)),
    }
}

fn has_destination(client: &mut ipvs::Client, id: &ipvs::ServiceId) -> bool {
    client.destinations(id).is_ok_and(|found| found.iter().any(|entry| entry.destination.weight > 0))
}

/// The virtual server of Service number N; see [`service`].
fn id_of(number: usize) -> ipvs::ServiceId {
    let [third, fourth] = [number / 250, number % 250 + 1].map(|part| u8::try_from(part).unwrap());
    let address = IpAddr::V4(Ipv4Addr::new(172, 30, third, fourth));
    ipvs::ServiceId::Address { protocol: ipvs::Protocol::Tcp, address, port: 80 }
}

fn number_of(id: &ipvs::ServiceId) -> Option<usize> {
    match id {
        ipvs::ServiceId::Address { address: IpAddr::V4(address), port: 80, .. } => {
            let [172, 30, third, fourth] = address.octets() else { return None };
            Some(usize::from(third) * 250 + usize::from(fourth).checked_sub(1)?)
        }
        _ => None,
    }
}

/// The Services that `KUBE-SERVICES` jumps to, whose chains are there and jump to an endpoint.
fn of_rules(text: &str) -> BTreeSet<usize> {
    let mut reached = BTreeMap::new();
    let mut serving = BTreeSet::new();
    for line in text.lines() {
        let target = line.rsplit_once(" -j ").map_or("", |(_, target)| target);
        if line.starts_with("-A KUBE-SERVICES ") && target.starts_with("KUBE-SVC-") {
            let number = line.split_once("\"default/svc-").and_then(|(_, rest)| rest.get(..4)?.parse().ok());
            reached.extend(number.map(|number: usize| (target, number)));
        } else if line.starts_with("-A KUBE-SVC-") && target.starts_with("KUBE-SEP-") {
            serving.extend(line.split(' ').nth(1));
        }
    }
    reached.into_iter().filter(|(chain, _)| serving.contains(chain)).map(|(_, number)| number).collect()
}
