//! What the demo says while it works: on a terminal one line that renews itself, otherwise plain lines.
//!
//! It goes to stderr; the report goes to stdout.

use std::cell::Cell;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

/// How often the live line is renewed at most.
const PERIOD: Duration = Duration::from_millis(100);

/// Where progress goes.
#[derive(Debug)]
pub(super) struct Progress {
    quiet: bool,
    live: bool,
    drawn: Cell<Option<Instant>>,
}

impl Progress {
    /// Looks at stderr; `quiet` says nothing at all.
    pub(super) fn new(quiet: bool) -> Self {
        Self { quiet, live: !quiet && io::stderr().is_terminal(), drawn: Cell::new(None) }
    }

    /// One line that stays.
    pub(super) fn say(&self, line: &str) {
        if !self.quiet {
            self.clear();
            eprintln!("{line}");
        }
    }

    /// A part of the report, on stdout.
    ///
    /// # Errors
    /// When it cannot be written; that the reader went away (`| head`) is not an error.
    pub(super) fn print(&self, text: &str) -> io::Result<()> {
        self.clear();
        let mut stdout = io::stdout().lock();
        match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => other,
        }
    }

    /// Renews the live line, if there is one and it is time to.
    pub(super) fn show(&self, line: impl FnOnce() -> String) {
        let due = self.drawn.get().is_none_or(|drawn| drawn.elapsed() >= PERIOD);
        if self.live && due {
            eprint!("\r\x1b[2K{}", line());
            let _ = io::stderr().flush();
            self.drawn.set(Some(Instant::now()));
        }
    }

    /// Removes the live line.
    pub(super) fn clear(&self) {
        if self.live && self.drawn.take().is_some() {
            eprint!("\r\x1b[2K");
            let _ = io::stderr().flush();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}
