//! Answers on ports of a namespace and says who it is and what it saw.
//!
//! One thread per namespace serves all its ports. It listens on the wildcard addresses of both families, so a host with
//! many addresses answers on all of them.

use std::io;
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Notify;

use super::answer::{Answer, BYE, Protocol};
use super::connection::{listen, read_line, receive_datagrams, wildcards};
use super::{LabError, NetNs, datagram};

/// A set of listeners; they close, and their connections with them, when this is dropped.
#[derive(Debug)]
pub struct Responder {
    stop: Arc<Notify>,
    thread: Option<JoinHandle<()>>,
}

enum Listener {
    Stream(TcpListener),
    Datagram(UdpSocket),
}

impl Responder {
    /// Listens on `ports` in `ns`, answering as `name`. When this returns, all of them are open.
    ///
    /// # Errors
    /// When a port cannot be bound (or, for SCTP, the kernel does not have it).
    pub fn start(ns: &NetNs, name: &str, ports: &[(Protocol, u16)]) -> Result<Self, LabError> {
        let stop = Arc::new(Notify::new());
        let (ready, opened) = mpsc::channel();
        let thread = {
            let (ns, name, ports, stop) = (ns.clone(), Arc::<str>::from(name), ports.to_vec(), Arc::clone(&stop));
            thread::Builder::new()
                .name(format!("answer {}", ns.name()))
                .spawn(move || serve(&ns, &name, &ports, &stop, &ready))
        };
        let thread = thread.map_err(|error| LabError::step(ns.name(), "starting the responder", error))?;
        let gone = || LabError::ThreadGone { host: ns.name().to_owned() };
        opened.recv().map_err(|_| gone())??;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.stop.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The thread: opens everything, reports, then serves until told to stop.
fn serve(
    ns: &NetNs,
    name: &Arc<str>,
    ports: &[(Protocol, u16)],
    stop: &Notify,
    ready: &mpsc::Sender<Result<(), LabError>>,
) {
    let prepared = ns.enter().and_then(|()| {
        tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .map_err(|error| LabError::step(ns.name(), "starting an event loop", error))
    });
    let runtime = match prepared {
        Ok(runtime) => runtime,
        Err(error) => return drop(ready.send(Err(error))),
    };
    runtime.block_on(async {
        let opened = open_all(ns, ports);
        let listeners = match opened {
            Ok(listeners) => listeners,
            Err(error) => return drop(ready.send(Err(error))),
        };
        for listener in listeners {
            let name = Arc::clone(name);
            match listener {
                Listener::Stream(listener) => drop(tokio::spawn(accept(listener, name))),
                Listener::Datagram(socket) => drop(tokio::spawn(answer_datagrams(socket, name))),
            }
        }
        if ready.send(Ok(())).is_ok() {
            stop.notified().await;
        }
    });
}

fn open_all(ns: &NetNs, ports: &[(Protocol, u16)]) -> Result<Vec<Listener>, LabError> {
    let mut listeners = Vec::new();
    for (protocol, port) in ports {
        for at in wildcards(*port) {
            let opened = match protocol {
                Protocol::Udp => receive_datagrams(at).map(Listener::Datagram),
                Protocol::Tcp | Protocol::Sctp => listen(*protocol, at).map(Listener::Stream),
            };
            let what = || format!("listening on {at}/{protocol}");
            listeners.push(opened.map_err(|error| LabError::step(ns.name(), what(), error))?);
        }
    }
    Ok(listeners)
}

async fn accept(listener: TcpListener, name: Arc<str>) {
    loop {
        // A failed accept concerns one connection that went away again, not the listener.
        if let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(converse(stream, Arc::clone(&name)));
        } else {
            tokio::task::yield_now().await;
        }
    }
}

/// One connection: a line, an answer, and again until the other side has enough or says [`BYE`].
async fn converse(mut stream: TcpStream, name: Arc<str>) -> io::Result<()> {
    let (local, peer) = (stream.local_addr()?, stream.peer_addr()?);
    // SCTP has no TCP_NODELAY; the answer is one write anyway.
    let _ = stream.set_nodelay(true);
    loop {
        let line = read_line(&mut stream).await?;
        if line.is_empty() {
            return Ok(());
        }
        let question = String::from_utf8_lossy(&line).trim_end().to_owned();
        let last = question == BYE;
        stream.write_all(&Answer { name: name.to_string(), local, peer, question }.to_line()).await?;
        if last {
            return stream.shutdown().await;
        }
    }
}

async fn answer_datagrams(socket: UdpSocket, name: Arc<str>) {
    let port = socket.local_addr().map_or(0, |address| address.port());
    loop {
        // An error here is an ICMP message about an earlier answer: nothing to do with the next question.
        let Ok(received) = datagram::receive(&socket).await else { continue };
        let question = String::from_utf8_lossy(&received.text).trim_end().to_owned();
        let local = (received.to, port).into();
        let answer = Answer { name: name.to_string(), local, peer: received.from, question };
        let _ = datagram::send(&socket, received.to, received.from, &answer.to_line()).await;
    }
}
