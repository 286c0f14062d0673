//! The limits and timeouts of connection tracking, by kube-proxy's rules (pkg/proxy/conntrack/sysctls.go): the table only
//! grows, a timeout of 0 is left as it is. `cleanup` puts the timeouts back. It leaves the size of the table, as
//! kube-proxy does: on a node that has grown beyond the old limit, going back to it would refuse new connections.

use super::{Ledger, Sysctl, SysctlError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Beyond this the table takes more memory than it is worth on machines with many processors.
const MOST_ENTRIES: u64 = 1_048_576;
const HASHSIZE: &str = "/sys/module/nf_conntrack/parameters/hashsize";
const ONLINE: &str = "/sys/devices/system/cpu/online";

/// What is wanted of connection tracking; the default wants nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ConntrackSettings {
    /// Entries for each processor; 0 leaves the limit as it is.
    pub max_per_core: u64,
    /// Entries at least.
    pub min: u64,
    /// Idle established TCP connections.
    pub tcp_established_timeout: Duration,
    /// TCP connections in CLOSE_WAIT.
    pub tcp_close_wait_timeout: Duration,
    /// TCP packets outside of the window are not invalid.
    pub tcp_be_liberal: bool,
    /// UDP flows without an answer.
    pub udp_timeout: Duration,
    /// UDP flows with answers.
    pub udp_stream_timeout: Duration,
}

/// Something about connection tracking that could not be set.
#[derive(Debug, thiserror::Error)]
pub enum ConntrackError {
    /// A setting.
    #[error(transparent)]
    Setting(#[from] SysctlError),
    /// The size of the hash table; only the initial network namespace can set it, and only where /sys can be written.
    #[error("{action} {} for {entries} connections: {source}", path.display())]
    HashSize {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The limit that it has to serve.
        entries: u64,
        /// Why not.
        source: io::Error,
    },
}

impl ConntrackError {
    /// Whether /sys is mounted read-only, which kube-proxy reports as an event of the node.
    #[must_use]
    pub fn is_read_only_sysfs(&self) -> bool {
        matches!(self, Self::HashSize { source, .. } if source.kind() == io::ErrorKind::ReadOnlyFilesystem)
    }
}

/// What was changed, as `path = value`, and what could not be.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What was changed.
    pub changed: Vec<String>,
    /// What could not be.
    pub errors: Vec<ConntrackError>,
}

impl ConntrackSettings {
    /// The limit for so many processors; `None` leaves it as it is.
    #[must_use]
    pub fn limit(&self, processors: u64) -> Option<u64> {
        match self.max_per_core.saturating_mul(processors) {
            0 => None,
            scaled if scaled > MOST_ENTRIES => Some(MOST_ENTRIES),
            scaled => Some(scaled.max(self.min)).filter(|limit| *limit > 0),
        }
    }

    /// Sets what differs. One that cannot be set does not keep the others from it.
    pub fn apply(&self, ledger: &Ledger) -> Outcome {
        self.apply_with(ledger, processors(), Path::new(HASHSIZE))
    }

    fn apply_with(&self, ledger: &Ledger, processors: u64, hashsize: &Path) -> Outcome {
        let mut outcome = Outcome::default();
        let sysctl = ledger.sysctl();
        if let Some(limit) = self.limit(processors) {
            let path = "net/netfilter/nf_conntrack_max";
            let enough = sysctl.read(path).is_ok_and(|found| found.parse::<u64>().is_ok_and(|found| found >= limit));
            if !enough {
                outcome.note(path, limit, sysctl.ensure(path, &limit.to_string()));
            }
            match grow(hashsize, limit) {
                Ok(None) => {}
                Ok(Some(size)) => outcome.changed.push(format!("{} = {size}", hashsize.display())),
                Err(error) => outcome.errors.push(error),
            }
        }
        for (name, timeout) in [
            ("tcp_timeout_established", self.tcp_established_timeout),
            ("tcp_timeout_close_wait", self.tcp_close_wait_timeout),
            ("udp_timeout", self.udp_timeout),
            ("udp_timeout_stream", self.udp_stream_timeout),
        ] {
            if !timeout.is_zero() {
                let (path, seconds) = (format!("net/netfilter/nf_conntrack_{name}"), timeout.as_secs());
                outcome.note(&path, seconds, ledger.set(&path, &seconds.to_string()));
            }
        }
        if self.tcp_be_liberal {
            outcome.note(TCP_BE_LIBERAL, 1, ledger.set(TCP_BE_LIBERAL, "1"));
        }
        outcome
    }
}

const TCP_BE_LIBERAL: &str = "net/netfilter/nf_conntrack_tcp_be_liberal";

/// Whether TCP packets outside of the window are valid, whoever said so.
#[must_use]
pub fn is_liberal(sysctl: &Sysctl) -> bool {
    sysctl.read(TCP_BE_LIBERAL).is_ok_and(|value| value != "0")
}

impl Outcome {
    fn note(&mut self, path: &str, value: u64, result: Result<Option<String>, SysctlError>) {
        match result {
            Ok(None) => {}
            Ok(Some(_)) => self.changed.push(format!("{path} = {value}")),
            Err(error) => self.errors.push(error.into()),
        }
    }
}

/// Four connections share a bucket, as the kernel has it by default.
fn grow(path: &Path, entries: u64) -> Result<Option<u64>, ConntrackError> {
    let error = |action, source| ConntrackError::HashSize { action, path: path.to_owned(), entries, source };
    let found = std::fs::read_to_string(path).map_err(|source| error("read", source))?;
    let found: u64 = found.trim().parse().unwrap_or(0);
    let wanted = entries / 4;
    if found >= wanted {
        return Ok(None);
    }
    std::fs::write(path, wanted.to_string()).map_err(|source| error("enlarge", source))?;
    Ok(Some(wanted))
}

/// The node's processors, not those that we may run on: the limit counts for all of the node.
fn processors() -> u64 {
    let online = std::fs::read_to_string(ONLINE).ok().and_then(|text| count(text.trim()));
    let own = || std::thread::available_parallelism().ok().and_then(|count| u64::try_from(count.get()).ok());
    online.or_else(own).unwrap_or(1)
}

/// `0-3,8` are five.
fn count(list: &str) -> Option<u64> {
    let range = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
        Some(last.checked_sub(first)? + 1)
    };
    list.split(',').map(range).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(name: &str, files: &[(&str, &str)]) -> PathBuf {
        let root = std::env::temp_dir().join(format!("kube-ipvs-conntrack-{}-{name}", std::process::id()));
        for (path, value) in files {
            let file = root.join(path);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, value).unwrap();
        }
        root
    }

    const NAMES: [&str; 6] = [
        "nf_conntrack_max",
        "nf_conntrack_tcp_timeout_established",
        "nf_conntrack_tcp_timeout_close_wait",
        "nf_conntrack_udp_timeout",
        "nf_conntrack_udp_timeout_stream",
        "nf_conntrack_tcp_be_liberal",
    ];

    /// The table of `TestGetConntrackMax`.
    #[test]
    fn limits() {
        let limit = |max_per_core, min, processors| {
            ConntrackSettings { max_per_core, min, ..ConntrackSettings::default() }.limit(processors)
        };
        assert_eq!(limit(0, 0, 8), None);
        assert_eq!(limit(0, 131_072, 8), None, "min alone does nothing");
        assert_eq!(limit(67, 1, 8), Some(67 * 8));
        assert_eq!(limit(1, 131_072, 8), Some(131_072));
        assert_eq!(limit(32_768, 131_072, 128), Some(1_048_576));
    }

    #[test]
    fn processors_are_counted() {
        assert_eq!(count("0-3,8"), Some(5));
        assert_eq!(count("0"), Some(1));
        assert_eq!(count("3-1"), None);
        assert!(processors() >= 1);
    }

    #[test]
    fn the_table_only_grows_and_timeouts_are_set() {
        let files: Vec<(String, &str)> =
            NAMES.iter().map(|name| (format!("net/netfilter/{name}"), "100000\n")).collect();
        let mut files: Vec<(&str, &str)> = files.iter().map(|(path, value)| (&**path, *value)).collect();
        files.push(("hashsize", "1000\n"));
        let root = tree("grows", &files);
        let (sysctl, hashsize) = (Sysctl::at(&root), root.join("hashsize"));
        let ledger = Ledger::at(sysctl.clone(), root.join("ledger"));
        let wanted = ConntrackSettings {
            max_per_core: 20_000,
            min: 4,
            tcp_established_timeout: Duration::from_secs(86_400),
            tcp_be_liberal: true,
            ..ConntrackSettings::default()
        };
        let outcome = wanted.apply_with(&ledger, 4, &hashsize);
        assert!(outcome.errors.is_empty(), "{:?}", outcome.errors);
        assert_eq!(outcome.changed.len(), 3, "{:?}", outcome.changed);
        assert_eq!(sysctl.read("net/netfilter/nf_conntrack_max").unwrap(), "100000", "80000 are fewer");
        assert_eq!(std::fs::read_to_string(&hashsize).unwrap(), "20000");
        assert_eq!(sysctl.read("net/netfilter/nf_conntrack_tcp_timeout_established").unwrap(), "86400");
        assert_eq!(sysctl.read("net/netfilter/nf_conntrack_udp_timeout").unwrap(), "100000", "0 leaves it");
        assert!(is_liberal(&sysctl));
        assert!(wanted.apply_with(&ledger, 4, &hashsize).changed.is_empty());
        assert_eq!(wanted.apply_with(&ledger, 8, &hashsize).changed.len(), 2);
        assert_eq!(sysctl.read("net/netfilter/nf_conntrack_max").unwrap(), "160000");
        assert!(ledger.restore().unwrap().is_empty());
        assert_eq!(sysctl.read("net/netfilter/nf_conntrack_tcp_timeout_established").unwrap(), "100000");
        assert_eq!(sysctl.read("net/netfilter/nf_conntrack_max").unwrap(), "160000", "the table stays");
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn what_cannot_be_set_does_not_keep_the_others_from_it() {
        let root = tree("missing", &[("net/netfilter/nf_conntrack_udp_timeout", "30\n")]);
        let wanted = ConntrackSettings {
            max_per_core: 1,
            min: 4,
            udp_timeout: Duration::from_secs(60),
            ..ConntrackSettings::default()
        };
        let outcome = wanted.apply_with(&Ledger::at(Sysctl::at(&root), root.join("ledger")), 4, &root.join("hashsize"));
        assert_eq!(outcome.errors.len(), 2, "{:?}", outcome.errors);
        assert_eq!(outcome.changed, ["net/netfilter/nf_conntrack_udp_timeout = 60"]);
        std::fs::remove_dir_all(root).unwrap();
    }
}
