//! Kernel settings under `/proc/sys`: which, what value, why, on which kernels; read, written, and put back.

mod conntrack;
mod ledger;
mod table;
mod version;

pub use conntrack::{ConntrackError, ConntrackSettings, Outcome, is_liberal};
pub use ledger::Ledger;
pub use table::{ALL, Needs, ROUTE_LOCALNET, Setting, When, settings};
pub use version::KernelVersion;

use std::io;
use std::path::{Path, PathBuf};

/// A setting that could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum SysctlError {
    /// Reading failed; `NotFound` means that the kernel, or this network namespace, has no such setting.
    #[error("read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Writing failed.
    #[error("write {value} to {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What should be there.
        value: String,
        /// Why.
        source: io::Error,
    },
}

impl SysctlError {
    /// There is no such setting in this kernel or network namespace (its module may not be loaded yet).
    #[must_use]
    pub fn is_missing(&self) -> bool {
        let (Self::Read { source, .. } | Self::Write { source, .. }) = self;
        source.kind() == io::ErrorKind::NotFound
    }
}

/// A setting that was changed, with what it was before, so that cleanup can put it back.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Previous {
    /// The path below `/proc/sys`, with slashes.
    pub path: String,
    /// The value before.
    pub value: String,
}

/// Names the tree of settings where it is not `/proc/sys`: a container that is not privileged has that read-only, and can
/// have the node's mounted elsewhere.
pub const ROOT_VARIABLE: &str = "KUBE_IPVS_PROC_SYS";

/// The tree of settings, usually `/proc/sys`. Those under `net/` are the calling thread's network namespace's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sysctl {
    root: PathBuf,
}

impl Default for Sysctl {
    /// `/proc/sys`, or the folder that the environment variable [`ROOT_VARIABLE`] names. The kernel resolves `net/` there
    /// by the network namespace of the thread that opens a file.
    fn default() -> Self {
        Self::at(std::env::var_os(ROOT_VARIABLE).unwrap_or_else(|| "/proc/sys".into()))
    }
}

impl Sysctl {
    /// A tree elsewhere: the host's, mounted into a container, or one made for a test.
    #[must_use]
    pub fn at(root: impl AsRef<Path>) -> Self {
        Self { root: root.as_ref().to_owned() }
    }

    /// A setting's value, without white space around it.
    ///
    /// # Errors
    /// [`SysctlError::Read`].
    pub fn read(&self, path: &str) -> Result<String, SysctlError> {
        let path = self.root.join(path);
        match std::fs::read_to_string(&path) {
            Ok(value) => Ok(value.trim().to_owned()),
            Err(source) => Err(SysctlError::Read { path, source }),
        }
    }

    /// Whether a switch is on.
    #[must_use]
    pub fn is_on(&self, path: &str) -> bool {
        self.read(path).is_ok_and(|value| value == "1")
    }

    /// The names of the folders below a path, such as the interfaces below `net/ipv6/conf`; none if there is no such
    /// path.
    #[must_use]
    pub fn list(&self, path: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.root.join(path)).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    /// Sets a value, and returns the one before; `None` when it was right already, and nothing was written.
    ///
    /// # Errors
    /// [`SysctlError::Read`] or [`SysctlError::Write`].
    pub fn ensure(&self, path: &str, value: &str) -> Result<Option<String>, SysctlError> {
        let before = self.read(path)?;
        if before == value {
            return Ok(None);
        }
        let file = self.root.join(path);
        match std::fs::write(&file, value) {
            Ok(()) => Ok(Some(before)),
            Err(source) => Err(SysctlError::Write { path: file, value: value.to_owned(), source }),
        }
    }

    /// Applies settings in order and returns what was changed, and what failed; one that fails does not stop the
    /// others. [`Setting::is_satisfied_by`] decides whether a value is right: where a greater value is stricter, it
    /// is kept.
    pub fn apply(&self, settings: &[Setting]) -> (Vec<Previous>, Vec<SysctlError>) {
        let (mut changed, mut failed) = (Vec::new(), Vec::new());
        for setting in settings {
            let outcome = self.read(setting.path).and_then(|before| {
                if setting.is_satisfied_by(&before) { Ok(None) } else { self.ensure(setting.path, setting.value) }
            });
            match outcome {
                Ok(Some(value)) => changed.push(Previous { path: setting.path.to_owned(), value }),
                Ok(None) => {}
                Err(error) => failed.push(error),
            }
        }
        (changed, failed)
    }

    /// Puts values back that [`Self::apply`] replaced, the last first; returns what failed.
    pub fn restore(&self, previous: &[Previous]) -> Vec<SysctlError> {
        let put_back = previous.iter().rev().map(|previous| self.ensure(&previous.path, &previous.value));
        put_back.filter_map(Result::err).collect()
    }
}

#[cfg(test)]
mod tests;
