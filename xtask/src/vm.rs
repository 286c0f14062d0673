//! A virtual machine that runs one command on another kernel, with this machine's file system.
//!
//! The whole file system is there at the same paths; what the command writes stays in the machine's memory. Emulated in
//! software on purpose: it works on any machine, while `/dev/kvm` may be there and hang.

mod image;
mod initramfs;
mod kernel;
mod qemu;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

pub use kernel::Kernel;

use crate::shell::{quoted, quoted_command};

/// What a virtual machine is made of.
#[derive(Debug, Clone)]
pub struct Machine {
    /// The kernel to boot.
    pub kernel: Kernel,
    /// Memory in MiB; written files live in it too.
    pub memory: u32,
    /// From the start of the machine to the end of the command.
    pub timeout: Duration,
}

/// What to run in a virtual machine.
#[derive(Debug, Clone)]
pub struct Job {
    /// Program and arguments.
    pub command: Vec<String>,
    /// The directory to run in.
    pub directory: PathBuf,
    /// The whole environment.
    pub environment: Vec<(String, String)>,
    /// A folder whose changes outlive the machine.
    pub shared: Option<PathBuf>,
}

/// How a job ended.
#[derive(Debug)]
pub struct Outcome {
    /// The exit status of the command, or [`TIMED_OUT`].
    pub status: u8,
    /// From the start of the machine to the start of the command.
    pub boot: Duration,
    /// Standard output, where it was asked for.
    pub stdout: Vec<u8>,
}

/// The exit status of a job that took too long, as timeout(1) has it.
pub const TIMED_OUT: u8 = 124;

/// Where the output of a job goes. Standard error always goes on to standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stdout {
    /// On to standard output.
    Pass,
    /// On to standard output and into [`Outcome::stdout`].
    PassAndKeep,
}

/// Names of variables that a job inherits; a closing `*` stands for any rest.
const INHERITED: [&str; 12] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "TERM",
    "LANG",
    "LC_*",
    "CARGO_*",
    "RUST*",
    "PROPTEST_*",
    "KUBE_IPVS_*",
];

/// The variable that names a folder to share with the machine, writable.
const SHARED: &str = "KUBE_IPVS_VM_OUT";

impl Job {
    /// A job in the current directory with the part of this environment that concerns it.
    pub fn here(command: Vec<String>) -> Result<Self> {
        let directory = std::env::current_dir().context("the current directory is gone")?;
        let environment = std::env::vars().filter(|(name, _)| is_inherited(name)).collect();
        let shared = match std::env::var_os(SHARED) {
            Some(path) => Some(
                Path::new(&path)
                    .canonicalize()
                    .with_context(|| format!("{SHARED} names no folder: {}", path.display()))?,
            ),
            None => None,
        };
        Ok(Self { command, directory, environment, shared })
    }

    /// Sets a variable of the job.
    pub fn set(&mut self, name: &str, value: &str) {
        self.environment.retain(|(other, _)| other != name);
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// The job as a shell script.
    fn script(&self) -> String {
        let mut script = String::new();
        for (name, value) in self.environment.iter().filter(|(name, _)| is_identifier(name)) {
            script += &format!("export {name}={}\n", quoted(value));
        }
        script += &format!("cd {} || exit 125\n", quoted(&self.directory.to_string_lossy()));
        script + "exec " + &quoted_command(self.command.iter().map(String::as_str)) + "\n"
    }
}

impl Machine {
    /// Boots the machine, runs the job and returns how it ended. An error means that the machine failed, not the job.
    pub fn run(&self, job: &Job, stdout: Stdout) -> Result<Outcome> {
        let mut job = job.clone();
        job.set("KUBE_IPVS_KERNEL", &self.kernel.release);
        let initramfs = self.initramfs(&job)?;
        qemu::run(self, &initramfs, job.shared.as_deref(), stdout)
    }

    fn initramfs(&self, job: &Job) -> Result<Vec<u8>> {
        let busybox = crate::process::program("busybox")?;
        let busybox = std::fs::read(&busybox).with_context(|| format!("reading {}", busybox.display()))?;
        let mut archive = initramfs::Archive::default();
        archive.file("init", 0o755, include_bytes!("vm/guest/init.sh"))?;
        archive.directory("bin")?;
        archive.file("bin/busybox", 0o755, &busybox)?;
        archive.directory("modules")?;
        for (name, content) in self.kernel.boot_modules()? {
            archive.file(&format!("modules/{name}"), 0o644, &content)?;
        }
        archive.directory("job")?;
        archive.file("job/start.sh", 0o644, include_bytes!("vm/guest/start.sh"))?;
        archive.file("job/command.sh", 0o644, job.script().as_bytes())?;
        archive.file("job/modules", 0o644, format!("{}\n", self.kernel.modules().display()).as_bytes())?;
        let shares = job.shared.iter().map(|path| format!("{} {}\n", qemu::SHARE_TAG, path.display()));
        archive.file("job/shares", 0o644, shares.collect::<String>().as_bytes())?;
        archive.finish()
    }
}

fn is_inherited(name: &str) -> bool {
    INHERITED.iter().any(|pattern| match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => name == *pattern,
    })
}

fn is_identifier(name: &str) -> bool {
    name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') && !name.starts_with(|c: char| c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_a_script_that_changes_nothing_in_its_words() {
        let job = Job {
            command: ["sh", "-c", "echo \"it's\" $X"].map(String::from).to_vec(),
            directory: "/a b".into(),
            environment: vec![("X".into(), "1\n2".into()), ("BASH_FUNC_x%%".into(), "() {}".into())],
            shared: None,
        };
        assert_eq!(
            job.script(),
            "export X='1\n2'\ncd '/a b' || exit 125\nexec 'sh' '-c' 'echo \"it'\\''s\" $X'\n",
            "a name that no shell can export is left out"
        );
    }

    #[test]
    fn the_environment_is_passed_through_by_name() {
        assert!(is_inherited("PATH") && is_inherited("CARGO_TARGET_DIR") && is_inherited("KUBE_IPVS_REQUIRE_IPVS"));
        assert!(!is_inherited("PATHS") && !is_inherited("SSH_AUTH_SOCK"));
    }
}
