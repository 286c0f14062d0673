//! One child process: fed, listened to and waited for without threads, and killed when it takes too long.

use std::borrow::Cow;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// What is read and written at once: what a pipe holds.
pub(crate) const PIECE: usize = 64 << 10;

/// How a child ended.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
}

/// Why there is no such end.
#[derive(Debug)]
pub(crate) enum RunError {
    /// It did not start.
    Start(io::Error),
    /// Pipe trouble; the child was killed.
    Pipe(io::Error),
    /// It was killed; what it had said until then.
    TimedOut { after: Duration, stderr: Vec<u8> },
}

/// What a program reads, piece by piece.
pub(crate) type Input<'a> = dyn Iterator<Item = Cow<'a, str>> + 'a;

/// Runs a program to its end.
pub(crate) fn run(
    program: &Path,
    arguments: &[String],
    input: &mut Input<'_>,
    timeout: Duration,
) -> Result<Run, RunError> {
    let deadline = Instant::now() + timeout;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(RunError::Start)?;
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let talked = talk(&mut child, input, deadline, &mut stdout, &mut stderr);
    let ended = match talked {
        Ok(true) => wait_until(&mut child, deadline),
        Ok(false) => Ok(None),
        Err(error) => Err(error),
    };
    match ended {
        Ok(Some(status)) => Ok(Run { status, stdout, stderr }),
        Ok(None) => {
            end(&mut child);
            Err(RunError::TimedOut { after: timeout, stderr })
        }
        Err(error) => {
            end(&mut child);
            Err(RunError::Pipe(error))
        }
    }
}

/// A child that is listened to little by little.
#[derive(Debug)]
pub(crate) struct Reading {
    child: Child,
    out: Option<ChildStdout>,
    err: Option<ChildStderr>,
    stderr: Vec<u8>,
    deadline: Instant,
    timeout: Duration,
    ended: bool,
}

impl Reading {
    /// Starts a program without input.
    pub(crate) fn start(program: &Path, arguments: &[String], timeout: Duration) -> Result<Self, RunError> {
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(RunError::Start)?;
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let deadline = Instant::now() + timeout;
        let reading = Self { child, out, err, stderr: Vec::new(), deadline, timeout, ended: false };
        nonblocking(reading.out.as_ref()).and_then(|()| nonblocking(reading.err.as_ref())).map_err(RunError::Pipe)?;
        Ok(reading)
    }

    /// Hands over what it prints until it ends, or until that instant: then `None`. What it takes to wait for the next
    /// piece is waited only if `patient`.
    pub(crate) fn step(
        &mut self,
        until: Instant,
        patient: bool,
        take: &mut dyn FnMut(&[u8]),
    ) -> Result<Option<ExitStatus>, RunError> {
        let mut piece = vec![0; PIECE];
        loop {
            let mut idle = true;
            if let Some(pipe) = &mut self.out {
                match pipe.read(&mut piece) {
                    Ok(0) => self.out = None,
                    Ok(count) => {
                        idle = false;
                        take(piece.get(..count).unwrap_or_default());
                    }
                    Err(error) if pending(&error) => {}
                    Err(error) => return Err(RunError::Pipe(error)),
                }
            }
            drain(&mut self.err, &mut self.stderr).map_err(RunError::Pipe)?;
            if self.out.is_none() && self.err.is_none() {
                return self.end(until, patient);
            }
            let now = Instant::now();
            if now >= self.deadline {
                return Err(self.timed_out());
            }
            if now >= until || (idle && !patient) {
                return Ok(None);
            }
            if idle {
                let mut waiting = Vec::with_capacity(2);
                waiting.extend(self.out.iter().map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN)));
                waiting.extend(self.err.iter().map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN)));
                wait_for(&mut waiting, until.min(self.deadline) - now).map_err(RunError::Pipe)?;
            }
        }
    }

    /// Gives it the whole time from now on.
    pub(crate) fn restart_clock(&mut self) {
        self.deadline = Instant::now() + self.timeout;
    }

    /// What it said beside its output.
    pub(crate) fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    fn end(&mut self, until: Instant, patient: bool) -> Result<Option<ExitStatus>, RunError> {
        let until = if patient { until.min(self.deadline) } else { Instant::now() };
        match wait_until(&mut self.child, until).map_err(RunError::Pipe)? {
            Some(status) => {
                self.ended = true;
                Ok(Some(status))
            }
            None if Instant::now() >= self.deadline => Err(self.timed_out()),
            None => Ok(None),
        }
    }

    fn timed_out(&mut self) -> RunError {
        RunError::TimedOut { after: self.timeout, stderr: std::mem::take(&mut self.stderr) }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        if !self.ended {
            end(&mut self.child);
        }
    }
}

fn wait_for(waiting: &mut [PollFd<'_>], left: Duration) -> io::Result<()> {
    // Rounded up: a rest under a millisecond must not spin.
    let wait = PollTimeout::try_from(left.as_millis().saturating_add(1)).unwrap_or(PollTimeout::MAX);
    match poll(waiting, wait) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Kills the child and takes its exit status, so that no zombie stays. Both can only fail when it is gone already.
fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

/// Feeds and reads until both outputs are closed, which is when the child exits. `false` at the deadline.
fn talk(
    child: &mut Child,
    input: &mut Input<'_>,
    deadline: Instant,
    stdout: &mut Vec<u8>,
    stderr: &mut Vec<u8>,
) -> io::Result<bool> {
    let mut stdin = child.stdin.take();
    let (mut out, mut err) = (child.stdout.take(), child.stderr.take());
    nonblocking(stdin.as_ref())?;
    nonblocking(out.as_ref())?;
    nonblocking(err.as_ref())?;
    let (mut piece, mut at) = (Cow::Borrowed(""), 0);
    loop {
        if stdin.is_some() && at >= piece.len() {
            match input.next() {
                Some(next) => (piece, at) = (next, 0),
                None => stdin = None,
            }
        }
        let mut blocked = false;
        if let Some(pipe) = &mut stdin {
            match pipe.write(piece.as_bytes().get(at..).unwrap_or_default()) {
                Ok(written) => at += written,
                Err(error) if pending(&error) => blocked = true,
                // The child has read enough, probably to complain: its exit status tells.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => stdin = None,
                Err(error) => return Err(error),
            }
        }
        drain(&mut out, stdout)?;
        drain(&mut err, stderr)?;
        if out.is_none() && err.is_none() {
            return Ok(true);
        }
        let Some(left) = deadline.checked_duration_since(Instant::now()) else { return Ok(false) };
        let mut waiting = Vec::with_capacity(3);
        waiting.extend(stdin.iter().filter(|_| blocked).map(|p| PollFd::new(p.as_fd(), PollFlags::POLLOUT)));
        waiting.extend(out.iter().map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN)));
        waiting.extend(err.iter().map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN)));
        // Where the pipe took something, it may take more.
        if stdin.is_none() || blocked {
            wait_for(&mut waiting, left)?;
        }
    }
}

fn nonblocking<F: AsFd>(pipe: Option<&F>) -> io::Result<()> {
    let Some(pipe) = pipe else { return Ok(()) };
    let flags = OFlag::from_bits_retain(fcntl(pipe, FcntlArg::F_GETFL)?);
    fcntl(pipe, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

fn pending(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// Reads what is there; at the end of the stream the pipe is closed.
fn drain<R: Read>(pipe: &mut Option<R>, into: &mut Vec<u8>) -> io::Result<()> {
    let Some(reader) = pipe else { return Ok(()) };
    match reader.read_to_end(into) {
        Ok(_) => *pipe = None,
        Err(error) if pending(&error) => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

/// A child that has closed its outputs exits at once, as a rule.
fn wait_until(child: &mut Child, deadline: Instant) -> io::Result<Option<ExitStatus>> {
    let mut pause = Duration::from_micros(50);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, input: &str, timeout: Duration) -> Result<Run, RunError> {
        // In pieces of every size.
        let mut rest = input;
        let mut sizes = [1, 7, 4096, 65_536, 300_000].into_iter().cycle();
        let mut pieces = std::iter::from_fn(|| {
            let (piece, tail) = rest.split_at(sizes.next()?.min(rest.len()));
            rest = tail;
            (!piece.is_empty()).then_some(Cow::Borrowed(piece))
        });
        run(Path::new("/bin/sh"), &["-c".to_owned(), script.to_owned()], &mut pieces, timeout)
    }

    #[test]
    fn large_input_and_output_at_once_do_not_deadlock() {
        let input = "x".repeat(4 << 20);
        let run = sh("tee /dev/stderr", &input, Duration::from_secs(30)).unwrap();
        assert!(run.status.success());
        assert_eq!((run.stdout.len(), run.stderr.len()), (input.len(), input.len()));
    }

    #[test]
    fn a_child_that_does_not_read_its_input() {
        let run = sh("echo no >&2; exit 3", &"x".repeat(4 << 20), Duration::from_secs(30)).unwrap();
        assert_eq!(run.status.code(), Some(3));
        assert_eq!(run.stderr, b"no\n");
    }

    #[test]
    fn a_child_that_hangs_is_killed() {
        let started = Instant::now();
        let error = sh("echo hm >&2; exec sleep 60", "", Duration::from_millis(200)).unwrap_err();
        assert!(matches!(error, RunError::TimedOut { stderr, .. } if stderr == b"hm\n"));
        assert!(started.elapsed() < Duration::from_secs(10));
        // One that closes its outputs first.
        let error = sh("exec sleep 60 >/dev/null 2>&1", "", Duration::from_millis(200)).unwrap_err();
        assert!(matches!(error, RunError::TimedOut { .. }));
    }

    #[test]
    fn a_child_is_read_little_by_little() {
        let start = |script: &str, timeout| {
            Reading::start(Path::new("/bin/sh"), &["-c".to_owned(), script.to_owned()], timeout).unwrap()
        };
        let mut reading = start("sleep 0.2; seq 100000; echo hm >&2; exit 3", Duration::from_secs(30));
        let (mut text, mut steps) = (Vec::new(), 0);
        let status = loop {
            steps += 1;
            let step = reading.step(Instant::now(), false, &mut |piece| text.extend_from_slice(piece)).unwrap();
            if let Some(status) = step {
                break status;
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        assert_eq!((status.code(), text.len(), reading.stderr()), (Some(3), 588_895, "hm\n".to_owned()));
        assert!(steps > 5, "{steps}");
        let mut hanging = start("exec sleep 60", Duration::from_millis(100));
        let far = Instant::now() + Duration::from_secs(60);
        assert!(matches!(hanging.step(far, true, &mut |_| {}), Err(RunError::TimedOut { .. })));
    }

    #[test]
    fn a_missing_program() {
        let error =
            run(Path::new("/nonexistent/iptables-restore"), &[], &mut std::iter::empty(), Duration::from_secs(1))
                .unwrap_err();
        assert!(matches!(error, RunError::Start(error) if error.kind() == io::ErrorKind::NotFound));
    }
}
