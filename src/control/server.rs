//! The daemon's side of the control socket.

use super::names::{Draining, NamedService};
use super::packed;
use super::protocol::{Answer, Ask, Event, LONGEST_LINE, Request, Status, VERSION};
use crate::reconcile::{self, Switcher};
use crate::source::Snapshots;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{debug, warn};

/// More conversations than that at a time are none of people.
const MOST_CLIENTS: usize = 64;
/// About so many bytes of names are written at a time.
const PIECE: usize = 64 * 1024;

/// Why nobody can talk to the daemon.
#[derive(Debug, thiserror::Error)]
#[error("control socket {path}: {problem}")]
pub struct ServerError {
    path: PathBuf,
    problem: String,
}

/// A socket that listens. Its file goes with it.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

impl Server {
    /// Listens. What a killed daemon left is replaced; what belongs to somebody else is not.
    ///
    /// # Errors
    /// When something else is there, or the socket cannot be made.
    pub fn bind(path: &Path) -> Result<Self, ServerError> {
        let failed = |problem: String| ServerError { path: path.to_owned(), problem };
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(|error| failed(format!("its folder cannot be made: {error}")))?;
        }
        clear(path).map_err(failed)?;
        // Nobody may connect between making it and narrowing its permissions: they are narrow where it is made.
        let beside = path.with_extension("new");
        let _ = fs::remove_file(&beside);
        let listener = UnixListener::bind(&beside).map_err(|error| failed(error.to_string()))?;
        fs::set_permissions(&beside, Permissions::from_mode(0o600))
            .and_then(|()| fs::rename(&beside, path))
            .map_err(|error| failed(error.to_string()))?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// Serves for as long as it is not dropped.
    pub async fn run(self, switcher: Switcher, status: watch::Receiver<reconcile::Status>, snapshots: Snapshots) {
        let daemon = Daemon { switcher, status, snapshots };
        let mut clients = JoinSet::new();
        loop {
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) if clients.len() >= MOST_CLIENTS => drop(stream),
                    Ok((stream, _)) => {
                        clients.spawn(converse(stream, daemon.clone()));
                    }
                    Err(error) => {
                        warn!("control socket {}: {error}", self.path.display());
                        tokio::time::sleep(Duration::from_secs(1)).await;
                    }
                },
                Some(_) = clients.join_next() => {}
            }
        }
    }
}

/// Whom a conversation is about.
#[derive(Debug, Clone)]
struct Daemon {
    switcher: Switcher,
    status: watch::Receiver<reconcile::Status>,
    snapshots: Snapshots,
}

/// Makes room where a killed daemon left its socket.
fn clear(path: &Path) -> Result<(), String> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.to_string()),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err("there is something that is no socket; it is left alone".to_owned());
        }
        Ok(_) => {}
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err("another daemon answers there; give this one another --control-socket".to_owned()),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(|error| format!("a killed daemon left it, and it cannot be removed: {error}"))
        }
        Err(error) => Err(error.to_string()),
    }
}

/// Everything that one client asks, in turn.
async fn converse(stream: UnixStream, daemon: Daemon) {
    let root = stream.peer_cred().is_ok_and(|peer| peer.uid() == 0);
    let (reader, mut writer) = stream.into_split();
    if !root {
        let reason = "only root may talk to the daemon".to_owned();
        let _ = send(&mut writer, 0, Event::Failed { reason }).await;
        return;
    }
    let mut reader = BufReader::new(reader);
    loop {
        let line = match next_line(&mut reader).await {
            Ok(Some(line)) => line,
            Ok(None) => return,
            Err(error) => {
                let _ = send(&mut writer, 0, Event::Failed { reason: error.to_string() }).await;
                return;
            }
        };
        if let Err(error) = answer(&line, &mut writer, &daemon).await {
            // Who went away does not stop what was asked for.
            debug!("a client of the control socket went away: {error}");
            return;
        }
    }
}

/// A line without its end, or nothing at the end. Blank ones are passed over.
async fn next_line(reader: &mut BufReader<OwnedReadHalf>) -> io::Result<Option<String>> {
    loop {
        let mut line = String::new();
        let read = reader.take(LONGEST_LINE).read_line(&mut line).await?;
        if read == 0 {
            return Ok(None);
        }
        if !line.ends_with('\n') && u64::try_from(read).is_ok_and(|read| read >= LONGEST_LINE) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a line is longer than 64 KiB"));
        }
        if !line.trim().is_empty() {
            return Ok(Some(line));
        }
    }
}

async fn answer(line: &str, writer: &mut OwnedWriteHalf, daemon: &Daemon) -> io::Result<()> {
    let request = match understand(line) {
        Ok(request) => request,
        Err((id, reason)) => return send(writer, id, Event::Failed { reason }).await,
    };
    match request.ask {
        Ask::Status => {
            let status = Box::new(Status::of(&daemon.status.borrow(), Instant::now()));
            send(writer, request.id, Event::Status { status }).await
        }
        Ask::Names => send_names(writer, request.id, daemon).await,
        Ask::PackedNames { program } if program != env!("CARGO_PKG_VERSION") => {
            let reason = format!("this is version {}, not {program}: ask for names", env!("CARGO_PKG_VERSION"));
            send(writer, request.id, Event::Failed { reason }).await
        }
        Ask::PackedNames { .. } => send_packed(writer, request.id, daemon).await,
        Ask::Switch { mode, family, drain_ms } => {
            let drain = drain_ms.map(Duration::from_millis);
            let mut steps = daemon.switcher.switch(mode.into(), family.list(), drain);
            while let Some(step) = steps.recv().await {
                let event = Event::of_step(step, Instant::now());
                let last = event.is_last();
                send(writer, request.id, event).await?;
                if last {
                    return Ok(());
                }
            }
            let reason = "the daemon is stopping".to_owned();
            send(writer, request.id, Event::Failed { reason }).await
        }
    }
}

/// The Services, a few at a time: neither the reconciler nor another conversation waits for a slow reader, and memory
/// does not grow with the cluster.
async fn send_names(writer: &mut OwnedWriteHalf, id: u64, daemon: &Daemon) -> io::Result<()> {
    let snapshot = daemon.snapshots.borrow().clone();
    let draining = Draining::of(&daemon.status.borrow(), Instant::now());
    send(writer, id, Event::Names { services: snapshot.services.len() }).await?;
    let mut lines = Vec::new();
    for service in NamedService::all(&snapshot, &draining) {
        serde_json::to_writer(&mut lines, &service)?;
        lines.push(b'\n');
        if lines.len() > PIECE {
            writer.write_all(&lines).await?;
            lines.clear();
        }
    }
    writer.write_all(&lines).await?;
    send(writer, id, Event::Done).await
}

/// As [`send_names`], for this program itself.
async fn send_packed(writer: &mut OwnedWriteHalf, id: u64, daemon: &Daemon) -> io::Result<()> {
    let snapshot = daemon.snapshots.borrow().clone();
    let draining = Draining::of(&daemon.status.borrow(), Instant::now());
    send(writer, id, Event::Names { services: snapshot.services.len() }).await?;
    for piece in packed::pieces(&snapshot, &draining) {
        writer.write_all(&piece).await?;
    }
    send(writer, id, Event::Done).await
}

/// The request in a line, or its number and what is wrong with it.
fn understand(line: &str) -> Result<Request, (u64, String)> {
    let value: serde_json::Value =
        serde_json::from_str(line).map_err(|error| (0, format!("that is no line of JSON: {error}")))?;
    let number = |field: &str| value.get(field).and_then(serde_json::Value::as_u64);
    let id = number("id").unwrap_or_default();
    // Before the rest, which may be what another version says.
    if number("version") != Some(u64::from(VERSION)) {
        let theirs = value.get("version").map_or("none".to_owned(), ToString::to_string);
        return Err((id, format!("this daemon speaks version {VERSION} of the protocol, the request has {theirs}")));
    }
    serde_json::from_value(value).map_err(|error| (id, format!("the request is not understood: {error}")))
}

async fn send(writer: &mut OwnedWriteHalf, id: u64, event: Event) -> io::Result<()> {
    let mut line = serde_json::to_vec(&Answer { version: VERSION, id, event })?;
    line.push(b'\n');
    writer.write_all(&line).await
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
