//! One daemon a network namespace: a file that is locked for as long as the process lives. The kernel frees the lock,
//! however the process ends.

use super::FOLDER;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

/// A daemon that is being replaced may take this long to end.
const ATTEMPTS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(100);

/// Why this process may not run.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another one is there.
    #[error(
        "another kube-ipvs (process {pid}) serves this network namespace and holds {file}; nothing was changed. \
         Stop it first, or ask it: kube-ipvs status, kube-ipvs switch"
    )]
    Taken {
        /// The other process, as it wrote itself down.
        pid: String,
        /// The file that it holds.
        file: PathBuf,
    },
    /// It could not be found out.
    #[error("{file}: {source}; without it two daemons could work against each other")]
    File {
        /// The file.
        file: PathBuf,
        /// What went wrong.
        source: std::io::Error,
    },
}

/// The right to change this network namespace. Its file goes with it.
#[derive(Debug)]
pub struct Lock {
    held: Flock<File>,
    file: PathBuf,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // While it is held: who waits for it finds out that it holds a file that is no longer there.
        if is_at(&self.held, &self.file) {
            let _ = fs::remove_file(&self.file);
        }
    }
}

impl Lock {
    /// Takes the right for the network namespace of the calling thread.
    ///
    /// # Errors
    /// When another process has it.
    pub fn take() -> Result<Self, LockError> {
        let number = fs::metadata("/proc/thread-self/ns/net").map(|metadata| metadata.ino());
        let number = number.map_err(|source| LockError::File { file: "/proc/thread-self/ns/net".into(), source })?;
        Self::take_at(&Path::new(FOLDER).join(format!("lock-{number}")), ATTEMPTS)
    }

    fn take_at(file: &Path, attempts: u32) -> Result<Self, LockError> {
        let failed = |source| LockError::File { file: file.to_owned(), source };
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder).map_err(failed)?;
        }
        let mut pid = String::new();
        for attempt in 0..attempts.max(1) {
            if attempt > 0 {
                thread::sleep(PAUSE);
            }
            let open = File::options().read(true).write(true).create(true).truncate(false).open(file);
            match Flock::lock(open.map_err(failed)?, FlockArg::LockExclusiveNonblock) {
                Ok(mut held) if is_at(&held, file) => {
                    // For people only: the lock is what counts.
                    let _ = held.set_len(0).and_then(|()| held.write_all(std::process::id().to_string().as_bytes()));
                    return Ok(Self { held, file: file.to_owned() });
                }
                // Its former holder has just removed it.
                Ok(_) => {}
                Err((mut other, Errno::EWOULDBLOCK)) => {
                    pid.clear();
                    let _ = other.read_to_string(&mut pid);
                }
                Err((_, errno)) => return Err(failed(errno.into())),
            }
        }
        Err(LockError::Taken { pid, file: file.to_owned() })
    }
}

/// Whether an open file is still the one at this place.
fn is_at(open: &File, place: &Path) -> bool {
    let of = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    open.metadata().map(of).ok() == fs::metadata(place).map(of).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_refused_until_the_first_ends() {
        let folder = std::env::temp_dir().join(format!("kube-ipvs-lock-{}", std::process::id()));
        let file = folder.join("lock-1");
        let first = Lock::take_at(&file, 1).unwrap();
        let error = Lock::take_at(&file, 1).unwrap_err().to_string();
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
        drop(first);
        assert!(!file.exists(), "nothing is left behind");
        drop(Lock::take_at(&file, 1).unwrap());
        fs::remove_dir_all(folder).unwrap();
    }
}
