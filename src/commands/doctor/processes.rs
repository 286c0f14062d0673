//! Who else programs Services here: processes of this network namespace, and who answers on kube-proxy's health port.

use super::facts::Facts;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

/// kube-proxy's default port for health checks.
const HEALTHZ: u16 = 10_256;

/// An answer from this machine comes within this time.
const PATIENCE: Duration = Duration::from_millis(500);

/// Looks at all processes.
pub fn look(facts: &mut Facts) {
    let own = inode(Path::new("/proc/thread-self/ns/net"));
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(process) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        let name = name.trim();
        facts.estimators += usize::from(name.starts_with("ipvs-e:"));
        let ours = facts.own_daemon == Some(process) || process == std::process::id();
        if name == "kube-proxy" && !ours && inode(&entry.path().join("ns/net")) == own {
            facts.proxies.push((process, name.to_owned()));
        }
    }
    facts.healthz = healthz();
}

fn inode(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().map(|namespace| namespace.ino())
}

/// The first line of the answer on kube-proxy's health port.
fn healthz() -> Option<String> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, HEALTHZ));
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.write_all(b"GET /healthz HTTP/1.0\r\n\r\n").ok()?;
    let mut answer = [0_u8; 64];
    let read = stream.read(&mut answer).ok()?;
    let text = String::from_utf8_lossy(answer.get(..read)?).into_owned();
    text.lines().next().map(str::to_owned)
}
