//! Where something runs: on the running kernel, or in a virtual machine on another one.

use std::io::{self, BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::vm::{Job, Kernel, Machine, Stdout};

/// A kernel to run on.
#[derive(Debug, Clone)]
pub enum Place {
    /// The running kernel.
    Here,
    /// A virtual machine.
    Vm(Kernel),
}

/// How a script ended, and what it printed on both outputs.
#[derive(Debug)]
pub struct Run {
    /// The exit status; None after a signal.
    pub status: Option<u8>,
    /// Everything it printed.
    pub output: String,
}

/// How long a virtual machine may take for one suite or a demo. Emulation slows everything by 10 to 20 times: the kernel suite
/// takes half an hour, and more where the host has other work.
pub const VM_TIMEOUT: Duration = Duration::from_secs(60 * 60);

/// Memory of the machines of tests and demos, in MiB.
const VM_MEMORY: u32 = 4096;

impl Place {
    /// A virtual machine with Debian's newest kernel of a series.
    pub fn vm(series: &str) -> Result<Self> {
        Kernel::of_series(series).map(Self::Vm)
    }

    /// The kernel, in words.
    pub fn describe(&self) -> Result<String> {
        Ok(match self {
            Self::Here => format!("the running kernel {}", running_release()?),
            Self::Vm(kernel) => format!("kernel {} in a virtual machine", kernel.release),
        })
    }

    /// Runs a shell script, passes its output on to standard output and keeps it. `$1` and so on are the arguments.
    pub fn run(&self, script: &str, directory: PathBuf, environment: &[(&str, &str)]) -> Result<Run> {
        // Both outputs become one, so that a message stays beside the test that printed it.
        let script = format!("exec 2>&1\n{script}");
        match self {
            Self::Here => run_here(&script, &directory, environment),
            Self::Vm(kernel) => {
                let machine = Machine { kernel: kernel.clone(), memory: VM_MEMORY, timeout: VM_TIMEOUT };
                let mut job = Job::here(["sh", "-c", &script].map(String::from).to_vec())?;
                job.directory = directory;
                for (name, value) in environment {
                    job.set(name, value);
                }
                let outcome = machine.run(&job, Stdout::PassAndKeep)?;
                let output = String::from_utf8_lossy(&outcome.stdout).into_owned();
                Ok(Run { status: Some(outcome.status), output })
            }
        }
    }
}

fn run_here(script: &str, directory: &PathBuf, environment: &[(&str, &str)]) -> Result<Run> {
    let mut child = Command::new("sh")
        .args(["-c", script])
        .current_dir(directory)
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run sh in {}", directory.display()))?;
    let mut output = Vec::new();
    if let Some(pipe) = child.stdout.take() {
        let mut pipe = BufReader::new(pipe);
        let mut start = 0;
        while pipe.read_until(b'\n', &mut output).context("reading the output")? > 0 {
            let line = output.get(start..).unwrap_or_default();
            // Nobody may be reading our own output any more; the run goes on and its result counts.
            let _ = io::stdout().write_all(line);
            start = output.len();
        }
    }
    let status = child.wait().context("waiting for sh")?;
    let status = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(Run { status, output: String::from_utf8_lossy(&output).into_owned() })
}

/// The release of the running kernel.
pub fn running_release() -> Result<String> {
    let system = nix::sys::utsname::uname().context("uname")?;
    Ok(system.release().to_string_lossy().into_owned())
}

/// Whether the running kernel can do IPVS, found by asking for it: the kernel loads the module when it has one.
pub fn running_kernel_has_ipvs() -> bool {
    let proc = std::path::Path::new("/proc/net/ip_vs");
    if !proc.exists() {
        // Fails where there is no such module or no right to load it; what counts is what is there afterwards.
        let _ = crate::process::find_program("modprobe")
            .map(|modprobe| Command::new(modprobe).args(["-q", "ip_vs"]).stderr(Stdio::null()).status());
    }
    proc.exists()
}
