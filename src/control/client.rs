//! The commands' side of the control socket.

use super::names::NamedService;
use super::packed;
use super::protocol::{Answer, Ask, Event, Request, VERSION};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tracing::warn;

/// Why the daemon could not be talked to, and what helps.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody is there.
    #[error(
        "no daemon answers at {path} ({source}). Start one with `kube-ipvs run`, run this in its network namespace, \
         or name its socket with --control-socket"
    )]
    NoDaemon {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Not root.
    #[error("{path}: {source}; the daemon listens to root only. Run this with sudo")]
    Permission {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The conversation broke off.
    #[error("{path}: {problem}")]
    Broken {
        /// The socket.
        path: PathBuf,
        /// How.
        problem: String,
    },
}

/// After so long without a first answer people are told.
const SILENCE: Duration = Duration::from_secs(3);
/// So much is read at a time: the names of a large cluster are megabytes.
const READ: usize = 64 * 1024;
/// No piece of names is longer.
const LONGEST_PIECE: u32 = 64 * 1024 * 1024;

/// A conversation with the daemon.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    reader: BufReader<UnixStream>,
    last: u64,
    /// It has answered already, or it was said that it is waited for.
    heard: bool,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// When no daemon listens there, or not to us.
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        let path = path.to_owned();
        match UnixStream::connect(&path) {
            Ok(stream) => Ok(Self { path, reader: BufReader::with_capacity(READ, stream), last: 0, heard: false }),
            Err(source) if source.kind() == io::ErrorKind::PermissionDenied => {
                Err(ClientError::Permission { path, source })
            }
            Err(source) => Err(ClientError::NoDaemon { path, source }),
        }
    }

    fn broken(&self, problem: impl ToString) -> ClientError {
        ClientError::Broken { path: self.path.clone(), problem: problem.to_string() }
    }

    /// Asks; [`Client::answer`] gives the answers.
    ///
    /// # Errors
    /// When the daemon went away.
    pub fn ask(&mut self, ask: Ask) -> Result<(), ClientError> {
        self.last += 1;
        let request = Request { version: VERSION, id: self.last, ask };
        let mut line = serde_json::to_string(&request).map_err(|error| self.broken(error))?;
        line.push('\n');
        self.reader.get_mut().write_all(line.as_bytes()).map_err(|error| self.broken(error))
    }

    /// Hands each Service to `each` as it arrives.
    ///
    /// # Errors
    /// When the daemon went away, or does not know the question.
    pub fn names(&mut self, each: &mut dyn FnMut(NamedService)) -> Result<(), ClientError> {
        self.ask(Ask::PackedNames { program: env!("CARGO_PKG_VERSION").to_owned() })?;
        match self.answer()? {
            Event::Names { .. } => self.pieces(each)?,
            // A daemon of another version.
            Event::Failed { .. } => self.lines(each)?,
            other => return Err(self.broken(format!("not the answer to what was asked: {other:?}"))),
        }
        self.answer().map(|_| ())
    }

    fn pieces(&mut self, each: &mut dyn FnMut(NamedService)) -> Result<(), ClientError> {
        let mut piece = Vec::new();
        loop {
            let mut length = [0; 4];
            self.reader.read_exact(&mut length).map_err(|error| self.broken(error))?;
            match u32::from_le_bytes(length) {
                0 => return Ok(()),
                length if length > LONGEST_PIECE => return Err(self.broken("a piece of names that is too long")),
                length => piece.resize(usize::try_from(length).unwrap_or_default(), 0),
            }
            self.reader.read_exact(&mut piece).map_err(|error| self.broken(error))?;
            packed::unpack(&piece).map_err(|error| self.broken(error))?.into_iter().for_each(&mut *each);
        }
    }

    fn lines(&mut self, each: &mut dyn FnMut(NamedService)) -> Result<(), ClientError> {
        self.ask(Ask::Names)?;
        let services = match self.answer()? {
            Event::Names { services } => services,
            Event::Failed { reason } => return Err(self.broken(reason)),
            other => return Err(self.broken(format!("not the answer to what was asked: {other:?}"))),
        };
        let mut line = String::new();
        for _ in 0..services {
            line.clear();
            if self.reader.read_line(&mut line).map_err(|error| self.broken(error))? == 0 {
                return Err(self.broken("the daemon ended in the middle of the Services"));
            }
            each(serde_json::from_str(&line).map_err(|error| self.broken(format!("not understood: {error}: {line}")))?);
        }
        Ok(())
    }

    /// A line. The daemon listens before it has anything to tell: it is said once that it is waited for.
    fn read_answer(&mut self, line: &mut String) -> io::Result<usize> {
        if std::mem::replace(&mut self.heard, true) {
            return self.reader.read_line(line);
        }
        self.reader.get_ref().set_read_timeout(Some(SILENCE))?;
        let read = self.reader.read_line(line);
        self.reader.get_ref().set_read_timeout(None)?;
        match read {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                warn!(
                    "no answer yet: the daemon answers between two rounds; its first one waits until the API server has listed everything"
                );
                self.reader.read_line(line)
            }
            read => read,
        }
    }

    /// The next answer to what was asked last.
    ///
    /// # Errors
    /// When the daemon went away, or is of another version.
    pub fn answer(&mut self) -> Result<Event, ClientError> {
        loop {
            let mut line = String::new();
            if self.read_answer(&mut line).map_err(|error| self.broken(error))? == 0 {
                return Err(self.broken(
                    "the daemon ended before it was done. What was asked for may have happened: see kube-ipvs status",
                ));
            }
            let answer: Answer =
                serde_json::from_str(&line).map_err(|error| self.broken(format!("not understood: {error}: {line}")))?;
            if answer.id == self.last || answer.id == 0 {
                return Ok(answer.event);
            }
        }
    }
}
