//! Failures of the programs: what was run, what it said, and for a restore the exact input.

use std::fmt::Write as _;
use std::io;
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use thiserror::Error;

use super::process::RunError;
use crate::ParseError;

/// A restore that failed. The display form names the command, the cause and the line; the input is kept for the log.
#[derive(Debug, Error)]
#[error("{command}: {failure}{}", named_line(.line.as_ref()))]
pub struct RestoreError {
    /// The command line.
    pub command: String,
    /// What happened.
    #[source]
    pub failure: RunFailure,
    /// Exactly what the program was given.
    pub input: String,
    /// The line of the input that the program named, with its number from 1. For legacy programs that is often the
    /// `COMMIT` of the table; iptables-nft 1.8.9 names a later line for a jump to a missing chain.
    pub line: Option<(usize, String)>,
}

/// Why a program did not do its work.
#[derive(Debug, Error)]
pub enum RunFailure {
    /// The program did not start.
    #[error("cannot start: {0}")]
    Start(#[source] io::Error),
    /// Its pipes failed.
    #[error("cannot talk to it: {0}")]
    Pipe(#[source] io::Error),
    /// It was killed after this time.
    #[error("killed after {after:?}: {}", .stderr.trim())]
    TimedOut {
        /// How long it had run.
        after: Duration,
        /// What it had said.
        stderr: String,
    },
    /// It said no.
    #[error("{status}: {}", .stderr.trim())]
    Refused {
        /// How it ended.
        status: ExitStatus,
        /// What it said.
        stderr: String,
    },
}

impl RestoreError {
    pub(super) fn new(command: String, failure: RunFailure, input: String) -> Self {
        let line = match &failure {
            RunFailure::Refused { stderr, .. } => line_number(stderr).and_then(|number| {
                let text = input.lines().nth(number.checked_sub(1)?)?;
                Some((number, text.to_owned()))
            }),
            _ => None,
        };
        Self { command, failure, input, line }
    }

    /// The exit status, where there was one.
    #[must_use]
    pub fn status(&self) -> Option<ExitStatus> {
        match &self.failure {
            RunFailure::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// What the program said.
    #[must_use]
    pub fn stderr(&self) -> &str {
        match &self.failure {
            RunFailure::Refused { stderr, .. } | RunFailure::TimedOut { stderr, .. } => stderr,
            _ => "",
        }
    }

    /// Whether another program held the lock for too long: worth another try (exit status 4, `XTABLES` resource
    /// problem; iptables-nft uses the same status for what the kernel refuses).
    #[must_use]
    pub fn is_lock_timeout(&self) -> bool {
        self.stderr().contains("xtables lock")
    }
}

impl From<RunError> for RunFailure {
    fn from(error: RunError) -> Self {
        match error {
            RunError::Start(error) => Self::Start(error),
            RunError::Pipe(error) => Self::Pipe(error),
            RunError::TimedOut { after, stderr } => {
                Self::TimedOut { after, stderr: String::from_utf8_lossy(&stderr).into_owned() }
            }
        }
    }
}

/// Tables that could not be read.
#[derive(Debug, Error)]
#[error("{command}: {failure}")]
pub struct SaveError {
    /// The command line.
    pub command: String,
    /// What happened.
    #[source]
    pub failure: SaveFailure,
}

/// Why tables could not be read.
#[derive(Debug, Error)]
pub enum SaveFailure {
    /// The program did not do its work.
    #[error(transparent)]
    Run(#[from] RunFailure),
    /// What it printed is no iptables-save output, or ends half-way.
    #[error("{error}: {}", .stderr.trim())]
    Unreadable {
        /// Where and why.
        #[source]
        error: ParseError,
        /// What it said.
        stderr: String,
    },
    /// It exited with success and yet did not print the table.
    #[error("the table is missing in the output: {}", .stderr.trim())]
    Incomplete {
        /// What it said.
        stderr: String,
    },
}

impl From<RunError> for SaveFailure {
    fn from(error: RunError) -> Self {
        Self::Run(error.into())
    }
}

/// A command and its arguments for messages.
pub(super) fn command_line(program: &Path, arguments: &[String]) -> String {
    let mut line = program.display().to_string();
    for argument in arguments {
        // Writing into a String does not fail.
        let _ = write!(line, " {argument}");
    }
    line
}

/// Whether there is more than warnings, such as that tables of the other variant exist.
pub(super) fn complains(stderr: &str) -> bool {
    stderr.lines().any(|line| !line.trim().is_empty() && !line.starts_with("# Warning"))
}

fn named_line(line: Option<&(usize, String)>) -> String {
    line.map(|(number, text)| format!(" (line {number}: {text})")).unwrap_or_default()
}

/// `line 3 failed`, `Error occurred at line: 3`, `line 3: RULE_APPEND failed`, `COMMIT expected at line 3`.
fn line_number(stderr: &str) -> Option<usize> {
    stderr.match_indices("line").find_map(|(at, word)| {
        let after = stderr.get(at + word.len()..)?.trim_start_matches([':', ' ']);
        let digits = after.split(|c: char| !c.is_ascii_digit()).next()?;
        digits.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_no_complaint() {
        let warning = "# Warning: iptables-legacy tables present, use iptables-legacy-save to see them\n";
        assert!(!complains(warning) && !complains(""));
        assert!(complains(&format!("{warning}Could not fetch rule set generation id: Permission denied\n")));
    }

    #[test]
    fn the_named_line_is_found_in_every_wording() {
        for (stderr, line) in [
            ("iptables-restore: line 3 failed", Some(3)),
            (
                "iptables-restore v1.8.9 (legacy): Couldn't load match `nope':No such file\n\nError occurred at line: 12\nTry",
                Some(12),
            ),
            (
                "iptables-nft-restore v1.8.9 (nf_tables): \nline 5: CHAIN_DEL failed (Device or resource busy): chain B",
                Some(5),
            ),
            ("iptables-restore: COMMIT expected at line 3", Some(3)),
            ("offline, permission denied", None),
        ] {
            assert_eq!(line_number(stderr), line, "{stderr}");
        }
    }
}
