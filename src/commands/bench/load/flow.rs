//! UDP flows: one socket each, a datagram in every turn. Nothing is sent again: a datagram whose answer does not come is
//! counted. A flow that is to begin anew lets the answers come that are on their way, as a client does that ends.

use super::ledger::{End, Kind};
use super::{Shared, Turns, question_of};
use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::net::UdpSocket;

/// How long a socket that could not be had is waited for.
const PAUSE: Duration = Duration::from_millis(500);

/// One flow.
pub async fn flow(shared: Arc<Shared>, number: u32, to: SocketAddr) {
    let plan = shared.plan;
    let mut turns = Turns::new(Duration::from_millis(plan.datagram_ms.into()), number, plan.flows);
    let Some(socket) = open(&shared, to).await else { return };
    let mut seen = shared.renewal.load(Ordering::Relaxed);
    let mut ends = false;
    let mut flow = Flow { shared, socket, pending: VecDeque::new(), last: None, question: 0 };
    let mut buffer = vec![0; 2048];
    while !flow.shared.stopping() || !flow.pending.is_empty() {
        tokio::select! {
            received = flow.socket.recv(&mut buffer) => flow.received(received, &buffer),
            () = turns.turn() => {
                flow.expire();
                if flow.shared.stopping() {
                    continue;
                }
                ends |= flow.shared.is_renewed(number, &mut seen);
                if !ends {
                    flow.send().await;
                } else if flow.pending.is_empty() {
                    let Some(socket) = open(&flow.shared, to).await else { return };
                    (flow.socket, flow.last, ends) = (socket, None, false);
                }
            }
        }
    }
}

/// A socket for the flow; none when all comes to its end before there is one.
async fn open(shared: &Shared, to: SocketAddr) -> Option<UdpSocket> {
    while !shared.stopping() {
        match connect(to).await {
            Ok(socket) => return Some(socket),
            Err(error) => shared.ledger().error(Kind::Datagrams, &error),
        }
        tokio::time::sleep(PAUSE).await;
    }
    None
}

async fn connect(to: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
    socket.connect(to).await?;
    Ok(socket)
}

struct Flow {
    shared: Arc<Shared>,
    socket: UdpSocket,
    /// Numbers of what was sent and not answered yet, the oldest first.
    pending: VecDeque<(u64, Instant)>,
    last: Option<Instant>,
    question: u64,
}

impl Flow {
    async fn send(&mut self) {
        self.question += 1;
        match self.socket.send(format!("{}\n", self.question).as_bytes()).await {
            Ok(_) => self.pending.push_back((self.question, Instant::now())),
            // What an earlier datagram met is told here, or this one could not be sent.
            Err(error) => self.failed(&error),
        }
    }

    fn received(&mut self, received: io::Result<usize>, buffer: &[u8]) {
        let length = match received {
            Ok(length) => length,
            Err(error) => return self.failed(&error),
        };
        let now = Instant::now();
        let Some(question) = buffer.get(..length).and_then(question_of) else { return };
        // What comes after its time was counted already.
        let Some(at) = self.pending.iter().position(|(pending, _)| *pending == question) else { return };
        let Some((_, sent)) = self.pending.remove(at) else { return };
        let mut ledger = self.shared.ledger();
        ledger.ended(Kind::Datagrams, End::Answered(now.saturating_duration_since(sent)));
        if let Some(before) = self.last.replace(now) {
            ledger.gap(Kind::Datagrams, now.saturating_duration_since(before));
        }
    }

    /// An error that the socket tells is that of the oldest datagram under way: which one it was the kernel does not say.
    fn failed(&mut self, error: &io::Error) {
        self.pending.pop_front();
        self.shared.ledger().error(Kind::Datagrams, error);
    }

    fn expire(&mut self) {
        let patience = self.shared.plan.timeout();
        while self.pending.front().is_some_and(|(_, sent)| sent.elapsed() > patience) {
            self.pending.pop_front();
            self.shared.ledger().ended(Kind::Datagrams, End::TimedOut);
        }
    }
}
