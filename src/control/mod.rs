//! The control socket: how commands talk to the running daemon. docs/control-socket.md describes the protocol.

mod client;
mod lock;
pub mod names;
pub mod packed;
pub mod protocol;
mod record;
mod server;

pub use client::{Client, ClientError};
pub use lock::{Lock, LockError};
pub use record::Record;
pub use server::{Server, ServerError};

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Where the socket, the lock and the record are.
pub const FOLDER: &str = "/run/kube-ipvs";

/// Where the socket is unless somebody says otherwise. A network namespace other than that of the first process has its
/// own, so that daemons in several don't meet.
pub fn default_socket() -> PathBuf {
    let inode = |path: &str| fs::metadata(path).map(|metadata| metadata.ino()).ok();
    let own = inode("/proc/thread-self/ns/net");
    match own {
        Some(number) if own != inode("/proc/1/ns/net") => Path::new(FOLDER).join(format!("control-{number}.sock")),
        _ => Path::new(FOLDER).join("control.sock"),
    }
}
