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
