//! The proxy under test: the real program, as a child process in the node's namespace.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use kube_ipvs::lab::NetNs;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpid};

use crate::scenario::NodeSettings;
use crate::surroundings::Surroundings;

/// Time to end after SIGTERM before it is killed.
const GRACE: Duration = Duration::from_secs(10);

/// Without a word of a sync for so long, the proxy has done what it wanted to.
const QUIET: Duration = Duration::from_millis(400);

/// In this part of the patience it syncs what it took notice of, if that needs a sync at all: on an emulated machine under
/// load 4 s were seen.
const NEEDLESS: u32 = 2;

/// It says of each IP family that it is in sync.
const FAMILIES: usize = 2;

/// A data plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Virtual servers.
    Ipvs,
    /// Rules.
    Iptables,
}

impl Mode {
    /// As --proxy-mode takes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ipvs => "ipvs",
            Self::Iptables => "iptables",
        }
    }
}

/// The program under test.
#[derive(Debug, Clone, Copy)]
pub struct Program<'a> {
    /// Its file.
    pub file: &'a Path,
    /// The node's namespace.
    pub node: &'a NetNs,
}

/// How far its log has come.
#[derive(Debug, Clone, Copy, Default)]
pub struct Mark {
    notices: usize,
    syncs: usize,
    lines: usize,
}

/// A running proxy; killed when this is dropped.
#[derive(Debug)]
pub struct Proxy {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
}

impl Program<'_> {
    /// Starts `run` on the manifests in `folder`.
    pub fn start(
        &self,
        surroundings: &Surroundings,
        settings: &NodeSettings,
        folder: &Path,
        mode: Mode,
    ) -> Result<Proxy> {
        let mut command = self.command(&["run", "--proxy-mode", mode.as_str(), "--manifests"]);
        command.arg(folder).args(arguments(surroundings, settings)?);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = self.node.spawn_process(command)?;
        let log = Arc::new(Mutex::new(Vec::new()));
        if let Some(stderr) = child.stderr.take() {
            let log = Arc::clone(&log);
            thread::Builder::new()
                .name("proxy log".to_owned())
                .spawn(move || {
                    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                        log.lock().unwrap_or_else(PoisonError::into_inner).push(line);
                    }
                })
                .context("starting a thread for the proxy's log")?;
        }
        Ok(Proxy { child, log })
    }

    /// Runs a subcommand to its end and returns what it printed on both outputs.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.command(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = self.node.spawn_process(command)?.wait_with_output().context("running the program under test")?;
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        text += &String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            bail!("kube-ipvs {}: {}\n{text}", arguments.join(" "), output.status);
        }
        Ok(text)
    }

    /// Runs a subcommand to its end and returns what it printed on standard output, whatever its exit status.
    pub fn run_for_output(&self, arguments: &[String]) -> Result<String> {
        let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut command = self.command(&words);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = self.node.spawn_process(command)?.wait_with_output().context("running the program under test")?;
        if output.stdout.is_empty() {
            bail!("kube-ipvs {}: {}\n{}", words.join(" "), output.status, String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The program with `arguments`, in a form that dies with this process and that Ctrl-C on the terminal does not reach.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.file);
        command.args(["demo", "--tied-to", &getpid().to_string(), "--"]).args(arguments).process_group(0);
        command
    }
}

/// The flags that say how the node is set up.
pub fn arguments(surroundings: &Surroundings, settings: &NodeSettings) -> Result<Vec<String>> {
    let list = |nets: &[ipnet::IpNet]| nets.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let mut arguments = vec!["--hostname-override".to_owned(), surroundings.node_name().to_owned()];
    arguments.extend(["--service-cidr".to_owned(), list(surroundings.service_ranges())]);
    match settings.detect_local.as_str() {
        "clusterCIDR" => arguments.extend(["--cluster-cidr".to_owned(), list(surroundings.cluster_ranges())]),
        "none" => {}
        other => bail!("node.detectLocal: {other} is not a word of the format"),
    }
    arguments.push(format!("--masquerade-all={}", settings.masquerade_all));
    arguments.push(format!("--iptables-localhost-nodeports={}", settings.localhost_node_ports));
    if !settings.node_port_addresses.is_empty() {
        arguments.extend(["--nodeport-addresses".to_owned(), settings.node_port_addresses.join(",")]);
    }
    if !settings.service_proxy_name.is_empty() {
        arguments.extend(["--service-proxy-name".to_owned(), settings.service_proxy_name.clone()]);
    }
    Ok(arguments)
}

impl Proxy {
    /// Fails, with its last words, if it has ended.
    pub fn must_run(&mut self) -> Result<()> {
        let Some(status) = self.child.try_wait().context("looking after the proxy")? else { return Ok(()) };
        // The log's reader may still be at it.
        thread::sleep(Duration::from_millis(100));
        bail!("the proxy ended ({status}); its last words:\n{}", self.last_lines(15));
    }

    /// How often it has said that the kernel is in sync, and how many lines it wrote.
    fn syncs(&self) -> usize {
        self.lines(|lines| lines.iter().filter(|line| line.contains("in sync")).count())
    }

    /// Waits until it has brought the kernel in sync for the first time, in both families.
    pub fn wait_until_ready(&mut self, patience: Duration) -> Result<()> {
        let started = Instant::now();
        while self.syncs() < FAMILIES {
            self.must_run()?;
            if started.elapsed() > patience {
                bail!("the proxy was not in sync after {} s; its log:\n{}", patience.as_secs(), self.last_lines(15));
            }
            thread::sleep(Duration::from_millis(10));
        }
        self.settle(Mark::default(), QUIET * 3);
        Ok(())
    }

    /// A mark to wait from.
    pub fn mark(&self) -> Mark {
        let count = |text: &str| self.lines(|lines| lines.iter().filter(|line| line.contains(text)).count());
        Mark { notices: count("manifests changed"), syncs: self.syncs(), lines: self.lines(<[String]>::len) }
    }

    /// Waits until it has synced since `mark` and has then been quiet for a moment. A change may need no sync: then until it
    /// has taken notice of it and said nothing for longer. At most `patience`. This only spares rounds that would come
    /// too early.
    pub fn settle(&self, mark: Mark, patience: Duration) {
        let started = Instant::now();
        let (mut seen, mut last) = (mark, Instant::now());
        while started.elapsed() < patience {
            thread::sleep(Duration::from_millis(10));
            let now = self.mark();
            if now.lines > seen.lines {
                (seen, last) = (now, Instant::now());
            }
            let synced = seen.syncs > mark.syncs && last.elapsed() > QUIET.min(patience / 6);
            let needless = seen.notices > mark.notices && last.elapsed() > QUIET.max(patience / NEEDLESS);
            if synced || needless {
                return;
            }
        }
    }

    /// The last `count` lines of its log.
    pub fn last_lines(&self, count: usize) -> String {
        self.lines(|lines| lines.get(lines.len().saturating_sub(count)..).unwrap_or_default().join("\n"))
    }

    /// Warnings and errors in its log.
    pub fn complaints(&self) -> Vec<String> {
        let serious = |line: &&String| line.contains(" WARN ") || line.contains(" ERROR ") || line.contains("panicked");
        self.lines(|lines| lines.iter().filter(serious).cloned().collect())
    }

    fn lines<T>(&self, look: impl FnOnce(&[String]) -> T) -> T {
        look(&self.log.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Asks it to end, and makes it.
    pub fn stop(&mut self) -> Result<()> {
        if let Ok(pid) = i32::try_from(self.child.id())
            && let Ok(None) = self.child.try_wait()
        {
            kill(Pid::from_raw(pid), Signal::SIGTERM).context("stopping the proxy")?;
        }
        let asked = Instant::now();
        while let Ok(None) = self.child.try_wait() {
            if asked.elapsed() > GRACE {
                self.child.kill().context("killing the proxy")?;
                self.child.wait().context("waiting for the proxy")?;
                bail!("the proxy did not end within {} s after SIGTERM", GRACE.as_secs());
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("{error:#}");
        }
    }
}
