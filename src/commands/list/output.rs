//! Standard output in pieces: what is printed comes out soon, and nothing is kept for a reader that waits.

use anyhow::Context;
use std::io::{ErrorKind, Write};
use std::process::ExitCode;

/// Text is handed on when there is this much of it.
const PIECE: usize = 32 * 1024;

/// Where a listing goes.
pub struct Output<'a> {
    out: Box<dyn Write + 'a>,
    text: String,
}

impl std::fmt::Debug for Output<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Output").field("text", &self.text).finish_non_exhaustive()
    }
}

impl<'a> Output<'a> {
    /// To `out`.
    pub fn new(out: impl Write + 'a) -> Self {
        Self { out: Box::new(out), text: String::new() }
    }

    /// To standard output.
    #[must_use]
    pub fn stdout() -> Self {
        Self::new(std::io::stdout())
    }

    /// Where to write the next text.
    pub fn text(&mut self) -> &mut String {
        &mut self.text
    }

    /// Hands text on if there is enough of it.
    ///
    /// # Errors
    /// The reader is gone, or the disk is full.
    pub fn pass(&mut self) -> anyhow::Result<()> {
        if self.text.len() < PIECE { Ok(()) } else { self.flush() }
    }

    /// Hands all text on.
    ///
    /// # Errors
    /// The reader is gone, or the disk is full.
    pub fn flush(&mut self) -> anyhow::Result<()> {
        let written = self.out.write_all(self.text.as_bytes()).and_then(|()| self.out.flush());
        self.text.clear();
        written.context("cannot print the listing")
    }
}

impl Write for Output<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.out.write_all(self.text.as_bytes())?;
        self.text.clear();
        self.out.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}

/// Whether the reader left, which is no failure: `| head`.
pub fn is_reader_gone(error: &anyhow::Error) -> bool {
    let broken = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
    };
    error.chain().any(broken)
}

/// An exit code of `ipvsadm`'s kind with what to say.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// On standard error.
    pub message: String,
    /// The exit code.
    pub status: u8,
}

/// Says what went wrong, after `prefix`, and tells the exit code.
pub fn finish(result: anyhow::Result<()>, prefix: &str) -> u8 {
    match result {
        Ok(()) => 0,
        Err(error) if is_reader_gone(&error) => 0,
        Err(error) => {
            eprintln!("{prefix}{error:#}");
            error.downcast_ref::<Failure>().map_or(1, |failure| failure.status)
        }
    }
}

/// The same as the process's exit code.
pub fn exit(result: anyhow::Result<()>) -> ExitCode {
    finish(result, "kube-ipvs: ").into()
}
