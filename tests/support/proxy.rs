//! The running program and its log.

use std::io::{BufRead, BufReader};
use std::process::{Child, ExitStatus};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{wait_for, wait_until};

/// A running `kube-ipvs run`; killed when this is dropped.
pub struct Proxy {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    reader: JoinHandle<()>,
}

impl Proxy {
    /// Watches over a child whose stderr is a pipe.
    pub fn new(mut child: Child) -> Self {
        let log = Arc::new(Mutex::new(Vec::new()));
        let (stderr, lines) = (child.stderr.take().unwrap(), Arc::clone(&log));
        let reader = thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                lines.lock().unwrap().push(line);
            }
        });
        Self { child, log, reader }
    }

    /// The whole log.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().join("\n")
    }

    /// Whether some line of the log has all of these words.
    pub fn says(&self, words: &[&str]) -> bool {
        self.log.lock().unwrap().iter().any(|line| words.iter().all(|word| line.contains(word)))
    }

    /// How many lines of the log have these words.
    pub fn said(&self, words: &str) -> usize {
        self.log.lock().unwrap().iter().filter(|line| line.contains(words)).count()
    }

    /// Waits for a line with all of these words.
    pub fn wait_to_say(&mut self, words: &[&str]) {
        let log = Arc::clone(&self.log);
        let said = || log.lock().unwrap().iter().any(|line| words.iter().all(|word| line.contains(word)));
        wait_until(&format!("{words:?} in the log:\n{}", self.log()), || {
            let ended = self.child.try_wait().unwrap();
            // What it said last may not have been read yet.
            let unread = !self.reader.is_finished();
            assert!(ended.is_none() || unread || said(), "the proxy ended ({ended:?}):\n{}", self.log());
            said()
        });
    }

    /// Waits until both families have been in sync once.
    pub fn wait_in_sync(&mut self) {
        self.wait_to_say(&["family=IPv4", "in sync"]);
        self.wait_to_say(&["family=IPv6", "in sync"]);
    }

    /// `kill -9`.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to end; it must do so cleanly.
    pub fn stop(mut self) {
        kill(self.pid(), Signal::SIGTERM).unwrap();
        let status = self.wait();
        assert!(status.success(), "{status}:\n{}", self.log());
    }

    /// Waits until it ends by itself, and all that it said was read.
    pub fn wait(&mut self) -> ExitStatus {
        let status = wait_for("the proxy's end", || self.child.try_wait().unwrap());
        wait_until("the end of its log", || self.reader.is_finished());
        status
    }

    /// The process.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().try_into().unwrap())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("log of the proxy:\n{}", self.log());
        }
    }
}
