//! The proxy under test: this program itself, as a child process in the node's namespace.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpid, getppid};

use crate::lab::Lab;

/// Log lines kept to be shown when something went wrong.
const KEPT_LINES: usize = 200;

/// Time for the proxy to end after SIGTERM before it is killed.
const GRACE: Duration = Duration::from_secs(5);

/// The settings that go with the demo's addresses.
const SETTINGS: [&str; 6] = [
    "--hostname-override",
    "demo-node",
    "--cluster-cidr",
    "10.180.0.0/16,fd00:10:180::/48",
    "--service-cidr",
    "172.30.0.0/16,fd00:172:30::/108",
];

/// A running proxy; killed when this is dropped.
#[derive(Debug)]
pub(super) struct Proxy {
    child: Child,
    log: Arc<Mutex<VecDeque<String>>>,
}

impl Proxy {
    /// Starts `kube-ipvs run` on the manifests in `folder`.
    pub(super) fn start(lab: &Lab, folder: &Path, mode: &str) -> anyhow::Result<Self> {
        let mut command = tied(["run", "--proxy-mode", mode, "--manifests"])?;
        command.arg(folder).args(SETTINGS).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = lab.node().ns.spawn_process(command)?;
        let log = Arc::new(Mutex::new(VecDeque::new()));
        if let Some(stderr) = child.stderr.take() {
            let log = Arc::clone(&log);
            thread::Builder::new()
                .name("proxy log".to_owned())
                .spawn(move || keep_lines(BufReader::new(stderr), &log))
                .context("starting a thread for the proxy's log")?;
        }
        Ok(Self { child, log })
    }

    /// The exit status if it has ended.
    pub(super) fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        self.child.try_wait().context("looking after the proxy")
    }

    /// Fails, with its last words, if it has ended.
    pub(super) fn must_run(&mut self) -> anyhow::Result<()> {
        let Some(status) = self.ended()? else { return Ok(()) };
        // The log's reader may still be at it.
        thread::sleep(Duration::from_millis(100));
        bail!("the proxy ended ({status}); its last words:\n{}", self.last_lines(15));
    }

    /// Whether it has said that the kernel is in sync.
    pub(super) fn says_in_sync(&self) -> bool {
        self.lines(|mut lines| lines.any(|line| line.contains("in sync")))
    }

    /// What it said about the mode it took and why.
    pub(super) fn line_about_mode(&self) -> Option<String> {
        self.lines(|mut lines| {
            lines.find(|line| line.contains("mode") && (line.contains("ipvs") || line.contains("iptables"))).cloned()
        })
    }

    /// The last `count` lines of its log.
    pub(super) fn last_lines(&self, count: usize) -> String {
        self.lines(|lines| {
            let mut last: Vec<_> = lines.rev().take(count).map(|line| format!("  {line}")).collect();
            last.reverse();
            last.join("\n")
        })
    }

    fn lines<T>(&self, look: impl FnOnce(std::collections::vec_deque::Iter<'_, String>) -> T) -> T {
        look(self.log.lock().unwrap_or_else(PoisonError::into_inner).iter())
    }

    /// Asks it to end, and makes it.
    pub(super) fn stop(&mut self) {
        if let Ok(pid) = i32::try_from(self.child.id())
            && let Ok(None) = self.child.try_wait()
        {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let asked = Instant::now();
        while let Ok(None) = self.child.try_wait() {
            if asked.elapsed() > GRACE {
                let _ = self.child.kill();
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop();
    }
}

fn keep_lines(stderr: impl BufRead, log: &Mutex<VecDeque<String>>) {
    for line in stderr.lines().map_while(Result::ok) {
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        if log.len() == KEPT_LINES {
            // The first lines tell about the mode; what is dropped is the middle.
            log.remove(KEPT_LINES / 2);
        }
        log.push_back(line);
    }
}

/// Prints the table of the node's namespace with `kube-ipvs list`.
pub(super) fn list(lab: &Lab) -> anyhow::Result<String> {
    let mut command = tied(["list"])?;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = lab.node().ns.spawn_process(command)?.wait_with_output().context("running kube-ipvs list")?;
    if !output.status.success() {
        bail!("kube-ipvs list: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The mode that the kernel shows, whatever the proxy says: IPVS if there are virtual servers, otherwise iptables.
pub(super) fn mode_in_kernel(lab: &Lab) -> anyhow::Result<&'static str> {
    // No file: no IPVS.
    let table = lab.node().ns.run(|| fs::read_to_string("/proc/thread-self/net/ip_vs").unwrap_or_default())?;
    let is_virtual_server = |line: &str| ["TCP ", "UDP ", "SCTP ", "FWM "].iter().any(|kind| line.starts_with(kind));
    Ok(if table.lines().any(is_virtual_server) { "ipvs" } else { "iptables" })
}

/// This program with `arguments`, as a process that Ctrl-C on the terminal does not reach and that dies with the demo.
fn tied<const N: usize>(arguments: [&str; N]) -> anyhow::Result<Command> {
    let program = std::env::current_exe().context("finding this program's own file")?;
    let mut command = Command::new(program);
    command.args(["demo", "--tied-to", &getpid().to_string(), "--"]).args(arguments).process_group(0);
    Ok(command)
}

/// The other side of [`tied`]: asks to be killed when the demo is gone, then becomes what was asked for. Signals at a
/// parent's death survive execve(2), and without unsafe code a child cannot be told before it runs.
pub(super) fn become_tied(parent: i32, command: &[OsString]) -> anyhow::Result<ExitCode> {
    set_pdeathsig(Signal::SIGKILL).context("asking for a signal at the parent's death")?;
    if getppid().as_raw() != parent {
        bail!("the demo has ended");
    }
    let program = std::env::current_exe().context("finding this program's own file")?;
    Err(Command::new(program).args(command).exec()).context("becoming the proxy")
}
