//! The lists of clients that the match `recent` keeps: who is in one stays with its endpoint (`net/netfilter/xt_recent.c`).
//! A list is there while a rule names it.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::Path;

/// Where the lists of the calling thread's network namespace are.
const FOLDER: &str = "/proc/thread-self/net/xt_recent";

/// Puts a client on a list, as if its last connection had been a moment ago.
///
/// # Errors
/// When there is no such list, or it does not take the client.
pub fn put(list: &str, client: IpAddr) -> io::Result<()> {
    let path = Path::new(FOLDER).join(list);
    OpenOptions::new().write(true).open(path)?.write_all(format!("+{client}\n").as_bytes())
}

/// Whether a client is on a list, however long ago its last connection came.
#[must_use]
pub fn holds(list: &str, client: IpAddr) -> bool {
    // `recent_seq_show`: IPv6 addresses are written in full. Without the list nobody is on it.
    let text = std::fs::read_to_string(Path::new(FOLDER).join(list)).unwrap_or_default();
    let sources = text.lines().filter_map(|line| line.strip_prefix("src=")?.split_whitespace().next());
    sources.filter_map(|source| source.parse::<IpAddr>().ok()).any(|source| source == client)
}
