//! Asks from a namespace, many times at once, and says what came of each request.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Semaphore, mpsc as tokio_mpsc};

use super::answer::{Answer, BYE, MAX_LINE, Protocol};
use super::connection::{connecting, read_line, sending};
use super::{LabError, NetNs};

/// What is sent once the way is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Asks a [`super::Responder`] who it is; this side closes.
    Ask,
    /// The same, but the responder closes first.
    AskAndBye,
    /// An HTTP GET of this path; everything that comes back until the end is the reply. Not over UDP.
    HttpGet(String),
}

/// One request to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// The asker's own number for it.
    pub tag: usize,
    /// Where to.
    pub to: SocketAddr,
    /// How.
    pub protocol: Protocol,
    /// Source address; `None` leaves it to the kernel.
    pub source: Option<IpAddr>,
    /// Source port; 0 leaves it to the kernel.
    pub source_port: u16,
    /// What to send.
    pub request: Request,
    /// Time for all of it: connecting, asking, the answer.
    pub timeout: Duration,
    /// End the connection by a reset, leaving no TIME_WAIT.
    pub reset: bool,
}

impl Probe {
    /// Asks whoever answers at `to`, from an address and port of the kernel's choice.
    #[must_use]
    pub fn ask(to: SocketAddr, protocol: Protocol, timeout: Duration) -> Self {
        let request = Request::Ask;
        Self { tag: 0, to, protocol, source: None, source_port: 0, request, timeout, reset: false }
    }

    fn source_address(&self) -> Option<SocketAddr> {
        match (self.source, self.source_port) {
            (None, 0) => None,
            (None, port) if self.to.is_ipv4() => Some(SocketAddr::from(([0, 0, 0, 0], port))),
            (None, port) => Some(SocketAddr::from(([0_u16; 8], port))),
            (Some(address), port) => Some(SocketAddr::from((address, port))),
        }
    }
}

/// What came of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A responder answered.
    Answered(Answer),
    /// Something that is not a responder's answer came back.
    Replied(Vec<u8>),
    /// Refused at once: a reset instead of a handshake, or ICMP port unreachable.
    Refused,
    /// A router or the own host said that there is no way there, or that it is forbidden.
    Unreachable(String),
    /// The own host would not send it (EPERM).
    NotSent,
    /// The connection was open and then reset or closed without an answer.
    Broken(String),
    /// Nothing until the time was over.
    TimedOut,
    /// Something else went wrong here; no statement about the other side.
    Failed(String),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answered(answer) => write!(f, "answered by {} at {}", answer.name, answer.local),
            Self::Replied(bytes) => write!(f, "{} bytes of something else", bytes.len()),
            Self::Refused => f.write_str("refused"),
            Self::Unreachable(why) => write!(f, "unreachable ({why})"),
            Self::NotSent => f.write_str("not sent (operation not permitted)"),
            Self::Broken(why) => write!(f, "connection broken ({why})"),
            Self::TimedOut => f.write_str("timed out"),
            Self::Failed(why) => write!(f, "failed ({why})"),
        }
    }
}

/// A request and what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// The request.
    pub probe: Probe,
    /// Its result.
    pub outcome: Outcome,
    /// The address and port that it was sent from, if it came to that.
    pub local: Option<SocketAddr>,
    /// How long it took.
    pub elapsed: Duration,
}

struct Batch {
    probes: Vec<Probe>,
    parallel: usize,
    results: mpsc::Sender<Finished>,
}

/// A thread in a namespace that makes requests. It ends when this is dropped.
#[derive(Debug)]
pub struct Prober {
    ns: NetNs,
    batches: tokio_mpsc::UnboundedSender<Batch>,
}

impl Prober {
    /// Starts a prober in `ns`.
    ///
    /// # Errors
    /// When the thread or its event loop cannot be started.
    pub fn start(ns: &NetNs) -> Result<Self, LabError> {
        let (batches, queue) = tokio_mpsc::unbounded_channel();
        let (ready, started) = mpsc::channel();
        let inside = ns.clone();
        thread::Builder::new()
            .name(format!("probe {}", ns.name()))
            .spawn(move || work(&inside, queue, &ready))
            .map_err(|error| LabError::step(ns.name(), "starting the prober", error))?;
        started.recv().map_err(|_| LabError::ThreadGone { host: ns.name().to_owned() })??;
        Ok(Self { ns: ns.clone(), batches })
    }

    /// Makes all `probes`, at most `parallel` at a time, and sends each result as it comes. Returns at once; batches
    /// run side by side.
    ///
    /// # Errors
    /// When the prober's thread is gone.
    pub fn submit(&self, probes: Vec<Probe>, parallel: usize, results: mpsc::Sender<Finished>) -> Result<(), LabError> {
        self.batches
            .send(Batch { probes, parallel: parallel.max(1), results })
            .map_err(|_| LabError::ThreadGone { host: self.ns.name().to_owned() })
    }

    /// Makes all `probes` and waits for them; results come in the order in which they were ready.
    ///
    /// # Errors
    /// As [`Self::submit`].
    pub fn probe_all(&self, probes: Vec<Probe>, parallel: usize) -> Result<Vec<Finished>, LabError> {
        let (results, finished) = mpsc::channel();
        self.submit(probes, parallel, results)?;
        Ok(finished.iter().collect())
    }

    /// Makes one request and waits for it.
    ///
    /// # Errors
    /// As [`Self::submit`].
    pub fn probe(&self, probe: Probe) -> Result<Outcome, LabError> {
        let gone = || LabError::ThreadGone { host: self.ns.name().to_owned() };
        self.probe_all(vec![probe], 1)?.pop().map(|finished| finished.outcome).ok_or_else(gone)
    }
}

/// The thread: takes batches until there is nobody left who could send one.
fn work(ns: &NetNs, mut queue: tokio_mpsc::UnboundedReceiver<Batch>, ready: &mpsc::Sender<Result<(), LabError>>) {
    let prepared = ns.enter().and_then(|()| {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| LabError::step(ns.name(), "starting an event loop", error))
    });
    let runtime = match prepared {
        Ok(runtime) => runtime,
        Err(error) => return drop(ready.send(Err(error))),
    };
    if ready.send(Ok(())).is_err() {
        return;
    }
    runtime.block_on(async {
        while let Some(batch) = queue.recv().await {
            tokio::spawn(make_all(batch));
        }
    });
}

/// How long to wait for the ICMP error of a datagram that was not sent.
const REFUSAL: Duration = Duration::from_millis(100);

async fn make_all(batch: Batch) {
    let slots = Arc::new(Semaphore::new(batch.parallel));
    for probe in batch.probes {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        let results = batch.results.clone();
        tokio::spawn(async move {
            let started = Instant::now();
            let local = Mutex::new(None);
            let outcome = match tokio::time::timeout(probe.timeout, make(&probe, &local)).await {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(error)) => explain(&error),
                Err(_) => Outcome::TimedOut,
            };
            // The asker may not want to know any more.
            let _ = results.send(Finished {
                probe,
                outcome,
                local: local.into_inner().ok().flatten(),
                elapsed: started.elapsed(),
            });
            drop(slot);
        });
    }
}

async fn make(probe: &Probe, local: &Mutex<Option<SocketAddr>>) -> io::Result<Outcome> {
    let sent_from = |address: io::Result<SocketAddr>| {
        if let (Ok(address), Ok(mut local)) = (address, local.lock()) {
            *local = Some(address);
        }
    };
    let question = match &probe.request {
        Request::Ask => format!("ask {}\n", probe.tag),
        Request::AskAndBye => format!("{BYE}\n"),
        Request::HttpGet(path) => format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", probe.to),
    };
    let reply = match probe.protocol {
        Protocol::Udp => {
            let socket = sending(probe.to, probe.source_address())?;
            sent_from(socket.local_addr());
            if let Err(error) = socket.send(question.as_bytes()).await {
                return Err(why_not_sent(&socket, error).await);
            }
            let mut buffer = vec![0; MAX_LINE];
            let length = socket.recv(&mut buffer).await?;
            buffer.truncate(length);
            buffer
        }
        Protocol::Tcp | Protocol::Sctp => {
            let socket = connecting(probe.protocol, probe.to, probe.source_address(), probe.reset)?;
            // It has its port by now, which is worth knowing where nobody answers.
            sent_from(socket.local_addr());
            let mut stream = socket.connect(probe.to).await?;
            sent_from(stream.local_addr());
            match ask(&mut stream, question.as_bytes(), &probe.request).await {
                Ok(reply) => reply,
                Err(error) => return Ok(Outcome::Broken(error.to_string())),
            }
        }
    };
    Ok(match Answer::from_line(&reply) {
        Some(answer) => Outcome::Answered(answer),
        None if reply.is_empty() => Outcome::Broken("closed without an answer".to_owned()),
        None => Outcome::Replied(reply),
    })
}

/// A rule of the own host that refuses a datagram makes sending it fail just as one that drops it does (EPERM); but
/// the ICMP error that it sends is there as well.
async fn why_not_sent(socket: &tokio::net::UdpSocket, error: io::Error) -> io::Error {
    if error.raw_os_error() != Some(nix::libc::EPERM) {
        return error;
    }
    let mut nothing = [0; 1];
    match tokio::time::timeout(REFUSAL, socket.recv(&mut nothing)).await {
        Ok(Err(refusal)) => refusal,
        _ => error,
    }
}

/// A question and its answer on an open connection.
async fn ask(stream: &mut tokio::net::TcpStream, question: &[u8], request: &Request) -> io::Result<Vec<u8>> {
    stream.write_all(question).await?;
    let mut reply = match request {
        Request::Ask => return read_line(stream).await,
        Request::AskAndBye => read_line(stream).await?,
        Request::HttpGet(_) => Vec::new(),
    };
    // Waits for the other side to close.
    stream.read_to_end(&mut reply).await?;
    Ok(reply)
}

/// An error of connecting or sending, in the words of [`Outcome`].
fn explain(error: &io::Error) -> Outcome {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Outcome::Refused,
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => Outcome::Unreachable(error.to_string()),
        // EACCES is what an ICMP "administratively prohibited" turns into, EPERM what a local filter does.
        io::ErrorKind::PermissionDenied if error.raw_os_error() == Some(nix::libc::EPERM) => Outcome::NotSent,
        io::ErrorKind::PermissionDenied => Outcome::Unreachable(error.to_string()),
        io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted => Outcome::Broken(error.to_string()),
        _ => Outcome::Failed(error.to_string()),
    }
}
