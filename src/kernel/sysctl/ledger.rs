//! Remembers across restarts what settings were before we changed them, so that `cleanup` can put them back.
//!
//! A file for each network namespace, `/run/kube-ipvs/sysctl-<inode>`, a line a setting: `path=value`. /run is emptied
//! at boot, and so are the settings.

use super::{Previous, Setting, Sysctl, SysctlError};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Where the files are.
pub const FOLDER: &str = "/run/kube-ipvs";

/// The settings of a network namespace with what they were before.
#[derive(Debug, Clone)]
pub struct Ledger {
    sysctl: Sysctl,
    file: PathBuf,
}

impl Ledger {
    /// The ledger of the calling thread's network namespace.
    ///
    /// # Errors
    /// When /proc cannot be read.
    pub fn open() -> io::Result<Self> {
        let inode = fs::metadata("/proc/thread-self/ns/net")?.ino();
        Ok(Self::at(Sysctl::default(), Path::new(FOLDER).join(format!("sysctl-{inode}"))))
    }

    /// A ledger elsewhere, for tests.
    pub fn at(sysctl: Sysctl, file: PathBuf) -> Self {
        Self { sysctl, file }
    }

    /// The settings themselves.
    pub fn sysctl(&self) -> &Sysctl {
        &self.sysctl
    }

    /// Changes a setting if its value does not serve, and records what it was. What cannot be recorded is changed all
    /// the same: serving comes before tidying up.
    ///
    /// # Errors
    /// When the setting cannot be read or written.
    pub fn ensure(&self, setting: &Setting) -> Result<(), SysctlError> {
        let before = self.sysctl.read(setting.path)?;
        if setting.is_satisfied_by(&before) {
            return Ok(());
        }
        if setting.path == "net/ipv6/conf/all/forwarding" {
            self.keep_router_advertisements()?;
        }
        if let Err(error) = self.record(setting.path, &before) {
            tracing::warn!("cleanup will not restore {}: {}: {error}", setting.path, self.file.display());
        }
        self.sysctl.ensure(setting.path, setting.value).map(drop)
    }

    /// Sets a value and records what it was; returns that, `None` when it was right already.
    ///
    /// # Errors
    /// When the setting cannot be read or written.
    pub fn set(&self, path: &str, value: &str) -> Result<Option<String>, SysctlError> {
        let before = self.sysctl.read(path)?;
        if before == value {
            return Ok(None);
        }
        if let Err(error) = self.record(path, &before) {
            tracing::warn!("cleanup will not restore {path}: {}: {error}", self.file.display());
        }
        self.sysctl.ensure(path, value)
    }

    /// A host that becomes a router drops the default routes that it has from router advertisements, and takes no more
    /// (`rt6_purge_dflt_routers`), unless `accept_ra` is 2: without this an IPv6 node could cut itself off.
    fn keep_router_advertisements(&self) -> Result<(), SysctlError> {
        for interface in self.sysctl.list("net/ipv6/conf") {
            let path = format!("net/ipv6/conf/{interface}/accept_ra");
            if self.sysctl.read(&path).is_ok_and(|value| value == "1") {
                if let Err(error) = self.record(&path, "1") {
                    tracing::warn!("cleanup will not restore {path}: {}: {error}", self.file.display());
                }
                self.sysctl.ensure(&path, "2")?;
            }
        }
        Ok(())
    }

    /// Whether a setting is as we changed it, in this run or an earlier one.
    pub fn holds(&self, path: &str) -> bool {
        let recorded = self.recorded().unwrap_or_default();
        let before = recorded.into_iter().find(|previous| previous.path == path);
        before.is_some_and(|before| self.sysctl.read(path).is_ok_and(|now| now != before.value))
    }

    fn record(&self, path: &str, value: &str) -> io::Result<()> {
        let mut known = self.recorded()?;
        if known.iter().any(|previous| previous.path == path) {
            return Ok(());
        }
        known.push(Previous { path: path.to_owned(), value: value.to_owned() });
        let text: String = known.iter().map(|previous| format!("{}={}\n", previous.path, previous.value)).collect();
        fs::create_dir_all(self.file.parent().unwrap_or(Path::new(FOLDER)))?;
        let new = self.file.with_extension("new");
        fs::write(&new, text)?;
        fs::rename(new, &self.file)
    }

    /// What was changed and how it was before.
    ///
    /// # Errors
    /// When the file is there and cannot be read.
    pub fn recorded(&self) -> io::Result<Vec<Previous>> {
        let text = match fs::read_to_string(&self.file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let entry = |line: &str| {
            let (path, value) = line.split_once('=')?;
            // Written by root; but nobody else's path shall be opened because of it.
            let sane = path.starts_with("net/") && !path.contains("..");
            sane.then(|| Previous { path: path.to_owned(), value: value.to_owned() })
        };
        Ok(text.lines().filter_map(entry).collect())
    }

    /// Puts everything back and forgets it; returns what failed.
    ///
    /// # Errors
    /// When the ledger cannot be read or removed.
    pub fn restore(&self) -> io::Result<Vec<SysctlError>> {
        let recorded = self.recorded()?;
        // Settings that went with their module need no restoring.
        let failed = self.sysctl.restore(&recorded).into_iter().filter(|error| !error.is_missing()).collect();
        match fs::remove_file(&self.file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(failed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::sysctl::{KernelVersion, Needs, settings};

    #[test]
    fn what_was_changed_is_put_back_once() {
        let folder = std::env::temp_dir().join(format!("kube-ipvs-ledger-{}", std::process::id()));
        let root = folder.join("sys");
        fs::create_dir_all(root.join("net/ipv4")).unwrap();
        fs::write(root.join("net/ipv4/ip_forward"), "0\n").unwrap();
        let ledger = Ledger::at(Sysctl::at(&root), folder.join("ledger"));
        let wanted = settings(&Needs::default(), KernelVersion::new(6, 1));
        let forward = wanted.iter().find(|setting| setting.path == "net/ipv4/ip_forward").unwrap();
        ledger.ensure(forward).unwrap();
        ledger.ensure(forward).unwrap();
        assert_eq!(ledger.sysctl().read("net/ipv4/ip_forward").unwrap(), "1");
        assert_eq!(ledger.recorded().unwrap().len(), 1);
        assert!(ledger.holds("net/ipv4/ip_forward"));
        assert!(ledger.restore().unwrap().is_empty());
        assert_eq!(ledger.sysctl().read("net/ipv4/ip_forward").unwrap(), "0");
        assert!(ledger.recorded().unwrap().is_empty());
        assert!(!ledger.holds("net/ipv4/ip_forward"));
        fs::remove_dir_all(folder).unwrap();
    }
}
