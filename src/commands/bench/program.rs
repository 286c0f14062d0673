//! Other programs, run to their end and measured.

use super::measure::{Cost, Stopwatch};
use anyhow::Context;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Read, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// What came of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It did what it was to do.
    Done {
        /// What it cost.
        cost: Cost,
        /// The most memory that it had at once, in bytes, as seen last before it ended.
        peak_memory: u64,
    },
    /// There is no such program here.
    NotInstalled,
    /// It was stopped after so many seconds.
    TooLong {
        /// Seconds.
        after: f64,
    },
    /// It failed.
    Failed {
        /// What it said.
        reason: String,
    },
}

/// A command whose program is also looked for where administrators' programs are, which a user's path often lacks.
pub fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/local/sbin:/usr/sbin:/sbin");
    let mut command = Command::new(program);
    command.env("PATH", path);
    command
}

/// What a program answers on a page of its own.
///
/// # Errors
/// When nobody answers; a program that has just been started does not listen yet.
pub fn page(address: SocketAddr, path: &str) -> anyhow::Result<String> {
    const PATIENCE: Duration = Duration::from_secs(10);
    let mut stream = TcpStream::connect(address).with_context(|| format!("connecting to {address}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").as_bytes())?;
    let mut page = String::new();
    stream.read_to_string(&mut page).with_context(|| format!("reading {path}"))?;
    Ok(page)
}

/// Runs a command with a file as its input, for as long as `patience` at most.
///
/// # Errors
/// When the input cannot be read or the program's end not be waited for.
pub fn run(mut command: Command, input: &Path, patience: Duration) -> io::Result<Outcome> {
    command.stdin(File::open(input)?).stdout(Stdio::null()).stderr(Stdio::piped());
    let watch = Stopwatch::start();
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Outcome::NotInstalled),
        Err(error) => return Err(error),
    };
    let mut peak_memory = 0;
    let Some(status) = wait(&mut child, patience, &mut peak_memory)? else {
        return Ok(Outcome::TooLong { after: patience.as_secs_f64() });
    };
    let cost = watch.stop();
    if status.success() {
        return Ok(Outcome::Done { cost, peak_memory });
    }
    let mut reason = format!("{status}");
    if let Some(mut pipe) = child.stderr.take() {
        reason.push_str(": ");
        pipe.by_ref().take(2000).read_to_string(&mut reason)?;
    }
    Ok(Outcome::Failed { reason })
}

/// Waits for its end; kills it when that takes too long.
fn wait(child: &mut Child, patience: Duration, peak_memory: &mut u64) -> io::Result<Option<ExitStatus>> {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        *peak_memory = peak_memory_of(child.id()).unwrap_or(0).max(*peak_memory);
        let elapsed = started.elapsed();
        if elapsed > patience {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        // Half a percent of what is measured, at most.
        std::thread::sleep((elapsed / 200).clamp(Duration::from_micros(100), Duration::from_millis(20)));
    }
}

/// What it prints, or nothing when it fails; waited for `patience` at most, `None` when that is over. Short answers only:
/// nothing reads before it ended.
///
/// # Errors
/// When it cannot be started or its end not be waited for.
pub fn answer(mut command: Command, patience: Duration) -> io::Result<Option<String>> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn()?;
    let Some(status) = wait(&mut child, patience, &mut 0)? else { return Ok(None) };
    let mut text = String::new();
    if let Some(pipe) = child.stdout.take().filter(|_| status.success()) {
        pipe.take(2000).read_to_string(&mut text)?;
    }
    Ok(Some(text))
}

/// The last lines of a log.
pub fn last_lines(log: &Path, count: usize) -> String {
    let log = fs::read(log).unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    let mut lines: Vec<&str> = log.lines().rev().take(count).collect();
    lines.reverse();
    lines.join("\n")
}

/// What a process has used since it was started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Usage {
    /// Processor seconds of its own, kernel included.
    pub own: f64,
    /// Processor seconds of the programs that it ran and waited for.
    pub programs: f64,
    /// Memory now, in bytes.
    pub memory: u64,
    /// The most memory at once until now, in bytes.
    pub peak_memory: u64,
}

/// `USER_HZ`, in which the kernel tells processor time: 100 everywhere (proc(5), `sysconf(_SC_CLK_TCK)`).
const TICKS_PER_SECOND: f64 = 100.0;

/// What a process has used so far.
///
/// # Errors
/// When it is gone.
pub fn usage_of(process: u32) -> io::Result<Usage> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The name, which may hold spaces, ends with the last bracket; utime is the 12th word after it (proc(5)).
    let words: Vec<f64> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .map(|word| word.parse().unwrap_or(0.0))
        .collect();
    let ticks = |at: usize| words.get(at).copied().unwrap_or(0.0) / TICKS_PER_SECOND;
    Ok(Usage {
        own: ticks(11) + ticks(12),
        programs: ticks(13) + ticks(14),
        memory: memory_of(process, "VmRSS").unwrap_or_default(),
        peak_memory: peak_memory_of(process).unwrap_or_default(),
    })
}

/// The most memory that a process has had until now. Not by getrusage(2), which counts for a child what its parent had
/// when it was started (`setmax_mm_hiwater_rss` in fs/exec.c).
pub fn peak_memory_of(process: u32) -> Option<u64> {
    memory_of(process, "VmHWM")
}

/// A field of `/proc/PID/status`, in bytes.
fn memory_of(process: u32, field: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let value = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    let kibibytes: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_of_all_kinds() {
        let shell = |script: &str| {
            let mut command = command("sh");
            command.args(["-c", script]);
            run(command, Path::new("/dev/null"), Duration::from_millis(500)).unwrap()
        };
        let ask = |script: &str| {
            let mut command = command("sh");
            command.args(["-c", script]);
            answer(command, Duration::from_millis(500)).unwrap()
        };
        assert!(matches!(shell("true"), Outcome::Done { .. }));
        assert_eq!(shell("echo why >&2; exit 3"), Outcome::Failed { reason: "exit status: 3: why\n".into() });
        assert_eq!(shell("exec sleep 30"), Outcome::TooLong { after: 0.5 });
        assert_eq!(ask("echo me; echo error >&2").as_deref(), Some("me\n"));
        assert_eq!(ask("echo me; exit 1").as_deref(), Some(""));
        assert_eq!(ask("exec sleep 30"), None);
        let missing = run(command("no-such-program-here"), Path::new("/dev/null"), Duration::ZERO).unwrap();
        assert_eq!(missing, Outcome::NotInstalled);
    }
}
