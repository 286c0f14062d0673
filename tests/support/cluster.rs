//! The lab with its responders and the folder of manifests, and commands on its node.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use kube_ipvs::lab::{Host, Lab, Outcome, Probe, Prober, Protocol, Responder, Topology};

use super::{Api, Mode, Proxy, Service, wait_until};

/// The program under test.
const PROGRAM: &str = env!("CARGO_BIN_EXE_kube-ipvs");

/// The settings that go with the lab's addresses.
const SETTINGS: [&str; 6] = [
    "--hostname-override",
    "demo-node",
    "--cluster-cidr",
    "10.180.0.0/16,fd00:10:180::/48",
    "--service-cidr",
    "172.30.0.0/16,fd00:172:30::/108",
];

/// Ports on which every pod answers.
const PORTS: [(Protocol, u16); 4] =
    [(Protocol::Tcp, 80), (Protocol::Udp, 80), (Protocol::Tcp, 8080), (Protocol::Udp, 53)];

static FOLDERS: AtomicU32 = AtomicU32::new(0);

/// A cluster with one node under test. Its namespaces and its folder go with it.
pub struct Cluster {
    pub lab: Lab,
    pub folder: PathBuf,
    pub mode: Mode,
    _responders: Vec<Responder>,
}

impl Cluster {
    /// The demo's cluster, every pod answering on [`PORTS`], with an empty folder of manifests.
    pub fn new(mode: Mode) -> Self {
        let lab = Lab::build(&Topology::demo()).unwrap();
        let pods = lab.hosts().iter().filter(|host| host.name.contains("pod"));
        let responders = pods.map(|pod| Responder::start(&pod.ns, &pod.name, &PORTS).unwrap()).collect();
        let number = FOLDERS.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("kube-ipvs-test-{}-{number}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        let cluster = Self { lab, folder, mode, _responders: responders };
        // The kernel gives the number of a network namespace that is gone to a new one, and what a killed daemon had noted
        // about the former is not about this one.
        cluster.shell("rm -f /run/kube-ipvs/*-$(stat -L -c %i /proc/self/ns/net) /run/kube-ipvs/*-$(stat -L -c %i /proc/self/ns/net).*");
        cluster
    }

    /// Puts a file into the folder at once, never half of it.
    pub fn write(&self, name: &str, text: &str) {
        let beside = self.folder.join(format!(".{name}.new"));
        fs::write(&beside, text).unwrap();
        fs::rename(&beside, self.folder.join(name)).unwrap();
    }

    /// Puts a Service into a file of its own.
    pub fn apply(&self, service: &Service) {
        self.write(&format!("{}.json", service.name), &service.list());
    }

    /// Takes a Service's file away.
    pub fn delete(&self, service: &Service) {
        fs::remove_file(self.folder.join(format!("{}.json", service.name))).unwrap();
    }

    /// Copies the examples into the folder.
    pub fn write_examples(&self) {
        for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/examples")).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, self.folder.join(path.file_name().unwrap())).unwrap();
        }
    }

    /// Starts `kube-ipvs run` in the cluster's mode and waits until the kernel is in sync.
    pub fn start(&self, further: &[&str]) -> Proxy {
        let mut proxy = self.launch(further);
        proxy.wait_in_sync();
        proxy
    }

    /// Starts `kube-ipvs run` in the cluster's mode on the cluster's folder.
    pub fn launch(&self, further: &[&str]) -> Proxy {
        let folder = self.folder.to_str().unwrap();
        let mut arguments = vec!["run", "--manifests", folder];
        if !further.contains(&"--proxy-mode") {
            arguments.extend(["--proxy-mode", self.mode.name()]);
        }
        arguments.extend(SETTINGS);
        arguments.extend(further);
        self.spawn(&arguments, "")
    }

    /// Starts `kube-ipvs run` in the cluster's mode on an API server in the node's network namespace.
    pub fn launch_on(&self, api: &Api) -> Proxy {
        self.launch_on_as(api, self.mode.name())
    }

    /// The same with another `--proxy-mode`.
    pub fn launch_on_as(&self, api: &Api, mode: &str) -> Proxy {
        let kubeconfig = self.kubeconfig(api);
        let mut arguments = vec!["run", "--kubeconfig", &kubeconfig, "--proxy-mode", mode];
        arguments.extend(SETTINGS);
        self.spawn(&arguments, "")
    }

    /// `kube-ipvs plan` in the cluster's mode on an API server: its exit status and what it printed.
    pub fn plan_on(&self, api: &Api) -> (i32, String) {
        let kubeconfig = self.kubeconfig(api);
        let mut arguments = vec!["plan", "--kubeconfig", &kubeconfig, "--proxy-mode", self.mode.name()];
        arguments.extend(SETTINGS);
        told(&self.program(&arguments))
    }

    fn kubeconfig(&self, api: &Api) -> String {
        let path = self.folder.join("kubeconfig");
        fs::write(&path, api.kubeconfig()).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Starts the program with these arguments and this standard input. It dies with this process.
    pub fn spawn(&self, arguments: &[&str], stdin: &str) -> Proxy {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", PROGRAM]).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = self.lab.node().ns.spawn_process(command).unwrap();
        child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
        Proxy::new(child)
    }

    /// The program's output for a command that ends by itself.
    pub fn program(&self, arguments: &[&str]) -> Output {
        self.output(PROGRAM, arguments)
    }

    /// `kube-ipvs plan` in the cluster's mode: its exit status and what it printed.
    pub fn plan(&self, further: &[&str]) -> (i32, String) {
        let folder = self.folder.to_str().unwrap();
        let mut arguments = vec!["plan", "--manifests", folder];
        if !further.contains(&"--proxy-mode") {
            arguments.extend(["--proxy-mode", self.mode.name()]);
        }
        arguments.extend(SETTINGS);
        arguments.extend(further);
        told(&self.program(&arguments))
    }

    /// `kube-ipvs plan` says that nothing would change.
    pub fn assert_in_sync(&self, further: &[&str]) {
        let (status, text) = self.plan(further);
        assert!(text.contains("in sync") && status == 0, "plan: exit status {status}\n{text}");
    }

    /// Waits until `kube-ipvs plan` says that nothing would change.
    pub fn wait_in_sync(&self, further: &[&str]) {
        let mut last = String::new();
        wait_until("plan to say in sync", || {
            let (status, text) = self.plan(further);
            if text != last {
                eprintln!("plan: exit status {status}\n{text}");
                last = text;
            }
            status == 0
        });
    }

    /// `kube-ipvs cleanup` succeeds.
    pub fn cleanup(&self) {
        succeeded("cleanup", &self.program(&["cleanup"]));
    }

    /// Runs a program on the node; it must succeed. Returns what it printed.
    pub fn on_node(&self, command: &str) -> String {
        let mut words = command.split_whitespace();
        let program = words.next().unwrap();
        succeeded(command, &self.output(program, &words.collect::<Vec<_>>()))
    }

    /// Runs a shell script on the node; it must succeed. Returns what it printed.
    pub fn shell(&self, script: &str) -> String {
        succeeded(script, &self.output("sh", &["-ec", script]))
    }

    /// Runs a program on the node to its end.
    pub fn output(&self, program: &str, arguments: &[impl AsRef<OsStr>]) -> Output {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        self.lab.node().ns.spawn_process(command).unwrap().wait_with_output().unwrap()
    }

    pub fn host(&self, name: &str) -> &Host {
        self.lab.host(name).unwrap()
    }

    /// One request from a host.
    pub fn ask(&self, from: &str, to: &str, protocol: Protocol) -> Outcome {
        let prober = Prober::start(&self.host(from).ns).unwrap();
        let to: SocketAddr = to.parse().unwrap();
        prober
            .probe(Probe { reset: protocol == Protocol::Tcp, ..Probe::ask(to, protocol, Duration::from_secs(5)) })
            .unwrap()
    }

    /// Who answers a TCP request from a host.
    pub fn answered_by(&self, from: &str, to: &str) -> Option<String> {
        match self.ask(from, to, Protocol::Tcp) {
            Outcome::Answered(answer) => Some(answer.name),
            _ => None,
        }
    }

    /// Every answer to `count` TCP requests from a host, by name, sorted, each once. All must be answered.
    pub fn answerers(&self, from: &str, to: &str, count: usize) -> Vec<String> {
        let prober = Prober::start(&self.host(from).ns).unwrap();
        let probe = Probe { reset: true, ..Probe::ask(to.parse().unwrap(), Protocol::Tcp, Duration::from_secs(20)) };
        let mut names: Vec<String> = prober
            .probe_all(vec![probe; count], 8)
            .unwrap()
            .into_iter()
            .map(|finished| match finished.outcome {
                Outcome::Answered(answer) => answer.name,
                other => panic!("{from} to {to}: {other}"),
            })
            .collect();
        names.sort();
        names.dedup();
        names
    }

    /// Waits until exactly these answer, seen in a row of requests from the client, the node and a pod.
    pub fn wait_answerers(&self, to: &str, wanted: &[&str]) {
        for from in ["client", "demo-node", "pod-3"] {
            let mut last = Vec::new();
            wait_until(&format!("{to} to be answered by {wanted:?}"), || {
                if self.answered_by(from, to).is_none() {
                    return false;
                }
                let names = self.answerers(from, to, 6 * wanted.len());
                if names != last {
                    eprintln!("{from} to {to}: {names:?}");
                    last = names;
                }
                last == wanted
            });
        }
    }

    /// Waits until nobody answers any more.
    pub fn wait_refused(&self, from: &str, to: &str) {
        wait_until(&format!("{to} to be refused"), || self.answered_by(from, to).is_none());
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // What outlives the program is named after the namespace, whose number may be used again.
        let _ = self.lab.node().ns.run(|| {
            use std::os::unix::fs::MetadataExt;
            if let Ok(metadata) = fs::metadata("/proc/thread-self/ns/net") {
                for name in ["sysctl", "mode", "lock", "control"] {
                    let suffix = if name == "control" { ".sock" } else { "" };
                    let _ = fs::remove_file(format!("/run/kube-ipvs/{name}-{}{suffix}", metadata.ino()));
                }
            }
            // The kernel removes a namespace some time after its last user is gone; kernels before 2026 keep the virtual
            // servers of all namespaces in one table, and those of this one would disturb the dumps of the next.
            if let Ok(mut client) = ipvs::Client::connect() {
                let _ = client.execute(&ipvs::Command::Flush);
            }
        });
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The exit status of a command and what it printed.
fn told(output: &Output) -> (i32, String) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap(), format!("{}{stderr}", String::from_utf8_lossy(&output.stdout)))
}

/// What a command printed; it must have succeeded.
pub fn succeeded(command: &str, output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {}\n{errors}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}
