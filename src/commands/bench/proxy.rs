//! The proxy under measurement: this program as a process of its own in the node's namespace, asked by its control socket.

use super::child::{self, Task};
use super::field::Field;
use super::program::{self, Usage};
use crate::control::Client;
use crate::control::protocol::{Ask, Event, Families, Status, WishName};
use anyhow::{Context, bail};
use ipvs::connections::{self, Connection};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// How long IPVS keeps a UDP flow on which nothing happens. With the kernel's 300 s a measurement would wait for as long until
/// IPVS mode has nothing left that drains.
pub const UDP_TIMEOUT: &str = "10s";
/// How often is looked whether it is ready.
const PAUSE: Duration = Duration::from_millis(20);
/// Time to end after SIGTERM before it is killed.
const GRACE: Duration = Duration::from_secs(30);

/// A running proxy; killed when this is dropped.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    socket: PathBuf,
    log: PathBuf,
}

impl Daemon {
    /// Starts it and waits until the kernel is as wanted in all families. Returns how long that took.
    ///
    /// # Errors
    /// When it ends or is not ready in time; its last words are in the error.
    pub fn start(field: &Field, mode: &str, patience: Duration) -> anyhow::Result<(Self, Duration)> {
        Self::start_with(field, mode, patience, &[])
    }

    /// The same with further arguments.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_with(
        field: &Field,
        mode: &str,
        patience: Duration,
        further: &[&str],
    ) -> anyhow::Result<(Self, Duration)> {
        let (socket, log) = (field.folder().join("control.sock"), field.folder().join("daemon.log"));
        let path = socket.display().to_string();
        let mut arguments: Vec<String> = ["--log-level", "info", "run"].map(str::to_owned).to_vec();
        arguments.extend(["--proxy-mode", mode, "--control-socket", &path].map(str::to_owned));
        arguments.extend(["--ipvs-udp-timeout", UDP_TIMEOUT].map(str::to_owned));
        arguments.extend(field.arguments());
        arguments.extend(further.iter().map(|word| (*word).to_owned()));
        let mut command = child::command(&Task::Program(arguments))?;
        let file = File::options().create(true).append(true).open(&log).context("the daemon's log")?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
        let started = Instant::now();
        let mut daemon = Self { child: field.node().spawn_process(command)?, socket, log };
        while !daemon.status().is_ok_and(|status| is_ready(&status)) {
            if let Some(status) = daemon.child.try_wait().context("looking after the daemon")? {
                bail!("the daemon ended ({status}); its last words:\n{}", daemon.last_words(10));
            }
            if started.elapsed() > patience {
                bail!(
                    "the daemon is not ready after {} s; its last words:\n{}",
                    patience.as_secs(),
                    daemon.last_words(10)
                );
            }
            thread::sleep(PAUSE);
        }
        Ok((daemon, started.elapsed()))
    }

    /// How it stands.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn status(&self) -> anyhow::Result<Status> {
        let mut client = Client::connect(&self.socket)?;
        client.ask(Ask::Status)?;
        match client.answer()? {
            Event::Status { status } => Ok(*status),
            other => bail!("the daemon answered with {other:?}"),
        }
    }

    /// The mode that serves IPv4.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn mode(&self) -> anyhow::Result<String> {
        let status = self.status()?;
        Ok(status.families.first().context("the daemon serves no family")?.mode.clone())
    }

    /// Asks for another mode. What happens comes with the instant at which it was heard of.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn switch(&self, mode: WishName, drain: Duration) -> anyhow::Result<mpsc::Receiver<(Instant, Event)>> {
        let mut client = Client::connect(&self.socket)?;
        let drain_ms = u64::try_from(drain.as_millis()).ok();
        client.ask(Ask::Switch { mode, family: Families::Both, drain_ms })?;
        let (sender, events) = mpsc::channel();
        thread::Builder::new().name("switch".into()).spawn(move || {
            // A daemon that goes away ends the channel.
            while let Ok(event) = client.answer() {
                let last = event.is_last();
                if sender.send((Instant::now(), event)).is_err() || last {
                    return;
                }
            }
        })?;
        Ok(events)
    }

    /// What it has used so far.
    ///
    /// # Errors
    /// When it is gone.
    pub fn usage(&self) -> anyhow::Result<Usage> {
        program::usage_of(self.child.id()).context("the daemon's processor time")
    }

    /// `kill -9`, and waits until it is gone.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Asks it to end, and waits until it has.
    ///
    /// # Errors
    /// When it had to be killed.
    pub fn stop(mut self) -> anyhow::Result<()> {
        let process = Pid::from_raw(i32::try_from(self.child.id())?);
        kill(process, Signal::SIGTERM)?;
        let asked = Instant::now();
        while self.child.try_wait()?.is_none() {
            if asked.elapsed() > GRACE {
                bail!("the daemon did not end within {} s; its last words:\n{}", GRACE.as_secs(), self.last_words(10));
            }
            thread::sleep(PAUSE);
        }
        Ok(())
    }

    /// What IPVS remembers in the node's namespace; nothing where it can't be read.
    pub fn ipvs_connections(&self) -> Vec<Connection> {
        let mut found = Vec::new();
        let read = connections::for_each(format!("/proc/{}/net/ip_vs_conn", self.child.id()), |connection| {
            found.push(connection)
        });
        if let Err(error) = read {
            eprintln!("bench: the connections of IPVS: {error}");
        }
        found
    }

    /// The line that says why the mode is not another one.
    pub fn about_mode(&self) -> Option<String> {
        let log = fs::read_to_string(&self.log).ok()?;
        let line = log.lines().find_map(|line| line.split_once("proxy mode iptables, as "))?;
        Some(line.1.to_owned())
    }

    /// The last lines of its log.
    pub fn last_words(&self, count: usize) -> String {
        program::last_lines(&self.log, count)
    }
}

fn is_ready(status: &Status) -> bool {
    let synced =
        |family: &crate::control::protocol::FamilyStatus| family.in_sync && family.last_success_ago_ms.is_some();
    !status.families.is_empty() && status.families.iter().all(synced)
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
