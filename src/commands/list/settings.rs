//! `--timeout` and `--daemon` as `ipvsadm` 1.31 prints them (`list_timeout` and `list_daemon` in `ipvsadm.c`).

use ipvs::{Client, DaemonState, Error};

/// The timeouts.
///
/// # Errors
/// The question to the kernel failed.
pub fn timeouts(client: &mut Client) -> Result<String, Error> {
    let ipvs::Timeouts { tcp, tcp_fin, udp } = client.timeouts()?;
    Ok(format!("Timeout (tcp tcpfin udp): {tcp} {tcp_fin} {udp}\n"))
}

/// The synchronisation daemons.
///
/// # Errors
/// The question to the kernel failed.
pub fn daemons(client: &mut Client) -> Result<String, Error> {
    let mut text = String::new();
    for daemon in client.daemons()? {
        let state = match daemon.state {
            DaemonState::Master => "master",
            DaemonState::Backup => "backup",
            DaemonState::Other(_) => continue,
        };
        text += &format!("{state} sync daemon (mcast={}, syncid={}", daemon.interface, daemon.sync_id);
        if let Some(length) = daemon.max_length.filter(|length| *length > 0) {
            text += &format!(", maxlen={length}");
        }
        if let Some(group) = daemon.group {
            text += &format!(", group={group}");
        }
        if let Some(port) = daemon.port.filter(|port| *port > 0) {
            text += &format!(", port={port}");
        }
        if let Some(ttl) = daemon.ttl.filter(|ttl| *ttl > 0) {
            text += &format!(", ttl={ttl}");
        }
        text += ")\n";
    }
    Ok(text)
}
