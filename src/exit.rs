//! Exit codes as a type.

use std::process::ExitCode;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done; for `plan`: in sync.
    Success,
    /// It could not be done; stderr says why.
    Failure,
    /// `plan`: something would change; `explain`: the kernel does otherwise than is wanted; `doctor`: warnings. Also what
    /// clap uses for a wrong command line.
    Changes,
    /// `doctor`: errors.
    Broken,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Success => 0,
            Exit::Failure => 1,
            Exit::Changes => 2,
            Exit::Broken => 3,
        })
    }
}
