//! The process of a kube-proxy, and its log.

use super::{Run, config};
use crate::commands::bench::child::{self, Task};
use crate::commands::bench::daemon::server::Server;
use crate::commands::bench::program::{self, Usage};
use crate::lab::NetNs;
use anyhow::Context;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

/// A kube-proxy; killed when this is dropped, and when this process ends in any other way.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
    /// Where its metrics are.
    pub metrics: SocketAddr,
}

impl Process {
    /// Starts it.
    ///
    /// # Errors
    /// When its files can't be written or no process be made.
    pub fn start(run: &Run, node: &NetNs, server: &Server) -> anyhow::Result<Self> {
        let metrics = SocketAddr::from((Ipv4Addr::LOCALHOST, 10249));
        let config = config::write(&run.folder, run.mode, server.address, metrics)?;
        let log = run.folder.join("kube-proxy.log");
        let arguments = vec![format!("--config={}", config.display())];
        let mut command = child::command(&Task::Other(run.program.clone(), arguments))?;
        let file = File::create(&log).with_context(|| format!("creating {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        Ok(Self { child: node.spawn_process(command)?, log, metrics })
    }

    /// Whether it runs.
    ///
    /// # Errors
    /// When it ended.
    pub fn ensure_it_runs(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait().context("looking after it")? {
            Some(status) => anyhow::bail!("it ended: {status}"),
            None => Ok(()),
        }
    }

    /// What it has used so far; nothing when it is gone.
    pub fn usage(&self) -> Usage {
        program::usage_of(self.child.id()).unwrap_or_default()
    }

    /// An error, and the last lines of the log.
    pub fn last_words(&self, error: &anyhow::Error) -> String {
        match program::last_lines(&self.log, 5) {
            lines if lines.is_empty() => format!("{error:#}; it said nothing"),
            lines => format!("{error:#}; the last it said:\n{lines}"),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What it calls itself: `kube-proxy 1.36.2`.
///
/// # Errors
/// When it can't be run.
pub fn version(program: &Path) -> anyhow::Result<String> {
    const PATIENCE: Duration = Duration::from_secs(60);
    let mut command = program::command(program);
    command.arg("--version");
    let answer = program::answer(command, PATIENCE).with_context(|| program.display().to_string())?;
    let answer = answer.with_context(|| format!("{} --version: no end after {PATIENCE:?}", program.display()))?;
    Ok(name(&answer))
}

fn name(answer: &str) -> String {
    match answer.lines().next().unwrap_or_default().trim() {
        "" => "kube-proxy".to_owned(),
        line => {
            line.strip_prefix("Kubernetes v").map_or_else(|| line.to_owned(), |number| format!("kube-proxy {number}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_called_by_its_version() {
        assert_eq!(name("Kubernetes v1.36.2\n"), "kube-proxy 1.36.2");
        assert_eq!(name(""), "kube-proxy");
        assert_eq!(name("kube-ipvs 0.1.0\n"), "kube-ipvs 0.1.0");
    }

    #[test]
    fn what_cannot_be_run_is_named() {
        let error = version(Path::new("/no/such/program")).unwrap_err();
        assert!(format!("{error:#}").starts_with("/no/such/program: No such file"), "{error:#}");
    }
}
