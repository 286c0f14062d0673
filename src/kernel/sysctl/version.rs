//! The running kernel's version, as far as settings depend on it.

use std::fmt;
use std::str::FromStr;

/// Major and minor number; distributions change little within one that settings depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KernelVersion {
    /// 6 in 6.1.0-13-amd64.
    pub major: u16,
    /// 1 in 6.1.0-13-amd64.
    pub minor: u16,
}

/// Text that does not begin with two numbers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` does not begin with a kernel version such as 6.1")]
pub struct KernelVersionError(String);

impl KernelVersion {
    /// A version.
    #[must_use]
    pub const fn new(major: u16, minor: u16) -> Self {
        Self { major, minor }
    }

    /// The version of the running kernel.
    ///
    /// # Errors
    /// `KernelVersionError` when its release is not understood.
    pub fn running() -> Result<Self, KernelVersionError> {
        match nix::sys::utsname::uname() {
            Ok(name) => name.release().to_string_lossy().parse(),
            Err(errno) => Err(KernelVersionError(format!("uname: {errno}"))),
        }
    }
}

impl FromStr for KernelVersion {
    type Err = KernelVersionError;

    fn from_str(release: &str) -> Result<Self, Self::Err> {
        let mut numbers = release.trim().split(|c: char| !c.is_ascii_digit()).map(str::parse);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(major)), Some(Ok(minor))) => Ok(Self { major, minor }),
            _ => Err(KernelVersionError(release.to_owned())),
        }
    }
}

impl fmt::Display for KernelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}
