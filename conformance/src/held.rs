//! Connections that are open while a step happens.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use kube_ipvs::lab::{Answer, NetNs, Outcome, Probe, Protocol, Request};
use nix::libc::IPPROTO_SCTP;
use socket2::{Domain, Socket, Type};

use crate::flow::{Before, Flow, Held};
use crate::judge::{judge, summary};
use crate::world::{Sender, World};

/// Connections tried until one reaches the endpoint that it is to reach.
const ATTEMPTS: u16 = 80;

/// How often a datagram is sent.
const PERIOD: Duration = Duration::from_millis(100);

/// All datagrams of so long must be answered.
const WATCHED: Duration = Duration::from_secs(2);

/// Time for the answer to the last of them.
const LAST_ANSWER: Duration = Duration::from_millis(400);

/// A new connection from a port used before must be there within this time: a lost SYN is repeated after a second.
const AT_ONCE: Duration = Duration::from_secs(1);

/// A flow that lasts across a step.
#[derive(Debug)]
pub enum Open {
    /// A connection with a responder at its other end.
    Stream(Stream),
    /// A socket that goes on sending.
    Datagrams(Datagrams),
    /// Nothing but the port to use again.
    Port(u16),
}

impl Open {
    /// Opens `flow` before the step; the error says what came instead.
    pub fn before(world: &World, flow: &Flow, held: &Held, patience: Duration) -> Result<Result<Self, String>> {
        let sender = world.sender(flow)?;
        if held.reopen {
            return visit_before(world, flow, held, sender, patience);
        }
        match flow.protocol {
            Protocol::Udp => Datagrams::open(flow, held, sender, patience),
            Protocol::Tcp | Protocol::Sctp => Stream::open(flow, held, sender, patience),
        }
    }

    /// The sender's port, while something is open.
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Stream(stream) => stream.stream.local_addr().ok().map(|address| address.port()),
            Self::Datagrams(datagrams) => Some(datagrams.port),
            Self::Port(_) => None,
        }
    }

    /// Whether the flow does after the step what it must.
    pub fn check(&self, world: &World, flow: &Flow, patience: Duration) -> Result<Result<(), String>> {
        let view = world.view(flow)?;
        let outcomes = match self {
            Self::Stream(stream) => vec![stream.ask(patience)],
            Self::Datagrams(datagrams) => datagrams.watch(),
            Self::Port(port) => {
                let sender = world.sender(flow)?;
                let probe = probe(flow, sender, *port, AT_ONCE, Request::AskAndBye);
                vec![world.prober(flow)?.probe(probe)?]
            }
        };
        // One connection has one endpoint, whichever port it is from.
        let mut one = flow.clone();
        one.source_port = one.source_port.max(1);
        Ok(judge(&one, &outcomes, view))
    }
}

fn probe(flow: &Flow, sender: Sender<'_>, port: u16, timeout: Duration, request: Request) -> Probe {
    let source = sender.bind;
    Probe { source, source_port: port, request, ..Probe::ask(flow.to, flow.protocol, timeout) }
}

/// For `reopen`: a connection from the port, closed by the endpoint first.
fn visit_before(
    world: &World,
    flow: &Flow,
    held: &Held,
    sender: Sender<'_>,
    patience: Duration,
) -> Result<Result<Open, String>> {
    let prober = world.prober(flow)?;
    let mut outcomes = Vec::new();
    for _ in 0..ATTEMPTS {
        let outcome = prober.probe(probe(flow, sender, flow.source_port, patience, Request::AskAndBye))?;
        if is_as_before(&held.before, &outcome) {
            return Ok(Ok(Open::Port(flow.source_port)));
        }
        let answered = matches!(outcome, Outcome::Answered(_));
        outcomes.push(outcome);
        if !answered {
            break;
        }
    }
    Ok(Err(summary(&outcomes)))
}

fn is_as_before(before: &Before, outcome: &Outcome) -> bool {
    match (before, outcome) {
        (Before::Endpoints(endpoints), Outcome::Answered(answer)) => endpoints.contains(&answer.local),
        (Before::Reject, Outcome::Refused) => true,
        _ => false,
    }
}

/// An open TCP or SCTP connection.
#[derive(Debug)]
pub struct Stream {
    stream: TcpStream,
    endpoint: SocketAddr,
    asked: AtomicU64,
}

impl Stream {
    fn open(flow: &Flow, held: &Held, sender: Sender<'_>, patience: Duration) -> Result<Result<Open, String>> {
        let mut outcomes = Vec::new();
        for _ in 0..ATTEMPTS {
            let connected = sender.host.ns.run(|| connect(flow, sender.bind, patience))?;
            let stream = match connected {
                Ok(stream) => stream,
                Err(error) => {
                    outcomes.push(Outcome::Failed(error.to_string()));
                    break;
                }
            };
            let mut stream = Self { stream, endpoint: flow.to, asked: AtomicU64::new(0) };
            let outcome = stream.ask(patience);
            if let (true, Outcome::Answered(answer)) = (is_as_before(&held.before, &outcome), &outcome) {
                stream.endpoint = answer.local;
                return Ok(Ok(Open::Stream(stream)));
            }
            outcomes.push(outcome);
        }
        Ok(Err(summary(&outcomes)))
    }

    /// A question and its answer.
    fn ask(&self, patience: Duration) -> Outcome {
        let question = format!("ask {}", self.asked.fetch_add(1, Ordering::Relaxed));
        match self.converse(&question, patience) {
            Ok(answer) if self.asked.load(Ordering::Relaxed) > 1 && answer.local != self.endpoint => {
                Outcome::Broken(format!("answered by {} in place of {}", answer.local, self.endpoint))
            }
            Ok(answer) => Outcome::Answered(answer),
            Err(error) if is_timeout(&error) => Outcome::TimedOut,
            Err(error) => Outcome::Broken(error.to_string()),
        }
    }

    fn converse(&self, question: &str, patience: Duration) -> io::Result<Answer> {
        self.stream.set_read_timeout(Some(patience))?;
        (&self.stream).write_all(format!("{question}\n").as_bytes())?;
        loop {
            let mut line = Vec::new();
            let mut byte = [0];
            while line.last() != Some(&b'\n') {
                if (&self.stream).read(&mut byte)? == 0 {
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed by the other side"));
                }
                line.extend(byte);
            }
            let answer: Answer = serde_json::from_slice(&line)?;
            // The answer to an earlier question may have come late.
            if answer.question == question {
                return Ok(answer);
            }
        }
    }
}

fn connect(flow: &Flow, bind: Option<IpAddr>, patience: Duration) -> io::Result<TcpStream> {
    let protocol = match flow.protocol {
        Protocol::Sctp => socket2::Protocol::from(IPPROTO_SCTP),
        _ => socket2::Protocol::TCP,
    };
    let socket = Socket::new(Domain::for_address(flow.to), Type::STREAM, Some(protocol))?;
    if let Some(source) = source(flow, bind, flow.source_port) {
        socket.set_reuse_address(true)?;
        socket.bind(&source.into())?;
    }
    socket.connect_timeout(&flow.to.into(), patience)?;
    Ok(socket.into())
}

/// The address to bind to, if there is anything to bind.
fn source(flow: &Flow, address: Option<IpAddr>, port: u16) -> Option<SocketAddr> {
    let any = || if flow.to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    (address.is_some() || port != 0).then(|| SocketAddr::new(address.unwrap_or_else(any), port))
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// A socket that sends a datagram every 100 ms until it is dropped.
#[derive(Debug)]
pub struct Datagrams {
    port: u16,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    sent: Mutex<BTreeMap<u64, Sent>>,
}

#[derive(Debug)]
struct Sent {
    at: Instant,
    outcome: Option<Outcome>,
}

impl Datagrams {
    fn open(flow: &Flow, held: &Held, sender: Sender<'_>, patience: Duration) -> Result<Result<Open, String>> {
        let mut outcomes = Vec::new();
        for attempt in 0..ATTEMPTS {
            let port = if flow.source_port == 0 { 0 } else { flow.source_port.saturating_add(attempt) };
            let datagrams = Self::start(&sender.host.ns, flow, sender.bind, port)?;
            let outcome = datagrams.first(patience);
            if is_as_before(&held.before, &outcome) {
                return Ok(Ok(Open::Datagrams(datagrams)));
            }
            let elsewhere = matches!(outcome, Outcome::Answered(_));
            outcomes.push(outcome);
            if !elsewhere {
                break;
            }
        }
        Ok(Err(summary(&outcomes)))
    }

    fn start(ns: &NetNs, flow: &Flow, bind: Option<IpAddr>, port: u16) -> Result<Self> {
        let source = source(flow, bind, port).unwrap_or_else(|| {
            if flow.to.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() }
        });
        let to = flow.to;
        let socket = ns.run(|| {
            let socket = UdpSocket::bind(source)?;
            socket.connect(to)?;
            io::Result::Ok(socket)
        })?;
        let socket = socket.with_context(|| format!("opening UDP port {port} towards {to} at {}", ns.name()))?;
        let port = socket.local_addr().context("a socket's port")?.port();
        let shared = Arc::new(Shared::default());
        let thread = {
            let shared = Arc::clone(&shared);
            thread::Builder::new().name(format!("datagrams {}", ns.name())).spawn(move || send(&socket, &shared))
        };
        Ok(Self { port, shared, thread: Some(thread.context("starting a thread")?) })
    }

    /// What came of the first datagram of which something came.
    fn first(&self, patience: Duration) -> Outcome {
        let started = Instant::now();
        while started.elapsed() < patience {
            let sent = self.shared.sent.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(outcome) = sent.values().find_map(|sent| sent.outcome.clone()) {
                return outcome;
            }
            drop(sent);
            thread::sleep(Duration::from_millis(5));
        }
        Outcome::TimedOut
    }

    /// What comes of all datagrams that are sent within the next two seconds.
    fn watch(&self) -> Vec<Outcome> {
        let from = Instant::now();
        thread::sleep(WATCHED + LAST_ANSWER);
        let sent = self.shared.sent.lock().unwrap_or_else(PoisonError::into_inner);
        let watched = sent.values().filter(|sent| (from..from + WATCHED).contains(&sent.at));
        watched.map(|sent| sent.outcome.clone().unwrap_or(Outcome::TimedOut)).collect()
    }
}

impl Drop for Datagrams {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The thread: sends, and notes what comes until the next one is due.
fn send(socket: &UdpSocket, shared: &Shared) {
    for number in 0_u64.. {
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        let at = Instant::now();
        let note = |number: u64, outcome: Option<Outcome>| {
            let mut sent = shared.sent.lock().unwrap_or_else(PoisonError::into_inner);
            let entry = sent.entry(number).or_insert(Sent { at, outcome: None });
            // An answer counts more than a refusal that was about an earlier datagram.
            if !matches!(entry.outcome, Some(Outcome::Answered(_))) && outcome.is_some() {
                entry.outcome = outcome;
            }
        };
        note(number, None);
        if let Err(error) = socket.send(format!("ask {number}\n").as_bytes()) {
            note(number, Some(of_error(&error)));
        }
        while let Some(left) = PERIOD.checked_sub(at.elapsed()).filter(|left| !left.is_zero()) {
            let mut buffer = [0; 2048];
            // A timeout of 0 is refused, and it cannot be 0 here.
            let _ = socket.set_read_timeout(Some(left));
            match socket.recv(&mut buffer) {
                Ok(length) => {
                    let answer = serde_json::from_slice::<Answer>(buffer.get(..length).unwrap_or_default());
                    let Ok(answer) = answer else { continue };
                    let number = answer.question.strip_prefix("ask ").and_then(|number| number.parse().ok());
                    note(number.unwrap_or(u64::MAX), Some(Outcome::Answered(answer)));
                }
                Err(error) if is_timeout(&error) => {}
                Err(error) => note(number, Some(of_error(&error))),
            }
        }
    }
}

fn of_error(error: &io::Error) -> Outcome {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Outcome::Refused,
        io::ErrorKind::PermissionDenied => Outcome::NotSent,
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => Outcome::Unreachable(error.to_string()),
        _ => Outcome::Failed(error.to_string()),
    }
}
