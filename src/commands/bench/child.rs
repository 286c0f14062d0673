//! This program started again for one run: a fresh process, so that peak memory is that of the run alone.

use super::{daemon, sync};
use anyhow::Context;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

/// One run.
#[derive(Debug, Serialize, Deserialize)]
pub enum Task {
    /// Our own sync.
    SyncTrial(sync::trial::Trial),
    /// The same table written by another program.
    SyncPeer(sync::peer::Peer),
    /// The same services by a kube-proxy.
    SyncKubeProxy(sync::kube_proxy::Run),
    /// The same messages, sent barely.
    SyncFloor(sync::floor::Floor),
    /// The whole program.
    Daemon(daemon::Run),
    /// This program with these arguments.
    Program(Vec<String>),
    /// Another program with these arguments.
    Other(PathBuf, Vec<String>),
}

/// The command that becomes a task. It is killed when the thread that starts it ends.
///
/// # Errors
/// When this program's own file is not found.
pub fn command(task: &Task) -> anyhow::Result<Command> {
    let program = std::env::current_exe().context("finding this program's own file")?;
    let task = serde_json::to_string(task).context("writing the task")?;
    let mut command = Command::new(program);
    // Ctrl-C on the terminal is for the benchmark, which ends it in order.
    command.args(["bench", "child", &task]).process_group(0);
    Ok(command)
}

/// Runs a task in a process of its own and returns what it found.
pub fn run<T: DeserializeOwned>(task: &Task) -> anyhow::Result<T> {
    let program = std::env::current_exe().context("finding this program's own file")?;
    let task = serde_json::to_string(task).context("writing the task")?;
    // The mode that is chosen and why would come with every run; who looks for what is slow asks for more.
    let level = std::env::var("KUBE_IPVS_LOG").unwrap_or_else(|_| "warn".to_owned());
    let output = Command::new(program)
        .args(["--log-level", &level, "bench", "child", &task])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("starting a run")?;
    anyhow::ensure!(output.status.success(), "a run failed: {}", output.status);
    serde_json::from_slice(&output.stdout).context("reading what a run found")
}

/// The other side of [`run`].
pub fn become_task(task: &str) -> anyhow::Result<ExitCode> {
    set_pdeathsig(Signal::SIGKILL).context("asking for a signal at the parent's death")?;
    let found = match serde_json::from_str(task).context("reading the task")? {
        Task::SyncTrial(trial) => serde_json::to_string(&trial.run()?)?,
        Task::SyncPeer(peer) => serde_json::to_string(&peer.run()?)?,
        Task::SyncKubeProxy(run) => serde_json::to_string(&run.run()?)?,
        Task::Daemon(run) => serde_json::to_string(&run.run()?)?,
        Task::SyncFloor(floor) => serde_json::to_string(&floor.run()?)?,
        Task::Program(arguments) => {
            let program = std::env::current_exe().context("finding this program's own file")?;
            return become_program(&program, &arguments);
        }
        Task::Other(program, arguments) => return become_program(&program, &arguments),
    };
    println!("{found}");
    Ok(ExitCode::SUCCESS)
}

/// The signal at the parent's death survives execve(2).
fn become_program(program: &Path, arguments: &[String]) -> anyhow::Result<ExitCode> {
    let error = super::program::command(program).args(arguments).exec();
    Err(error).with_context(|| format!("becoming {}", program.display()))
}
