//! Connections that keep talking: a question in every turn, and an answer to it.

use super::events::Between;
use super::ledger::{End, Kind};
use super::{Shared, Turns, question_of};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long one that broke waits before it opens again.
const PAUSE: Duration = Duration::from_millis(500);

/// One connection; opened anew when it broke or is asked to.
pub async fn talk(shared: Arc<Shared>, number: u32, to: SocketAddr) {
    let plan = shared.plan;
    let mut turns = Turns::new(Duration::from_millis(plan.message_ms.into()), number, plan.connections);
    let (mut question, mut known) = (0, false);
    let mut seen = shared.renewal.load(Ordering::Relaxed);
    while !shared.stopping() {
        // All at once would be a burst that no node has.
        turns.turn().await;
        let since = Instant::now();
        let Some(mut stream) = open(&shared, to, since).await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let between = Between { from: stream.local_addr().ok(), to, since };
        let mut last: Option<Instant> = None;
        loop {
            turns.turn().await;
            if shared.is_renewed(number, &mut seen) || shared.stopping() {
                break;
            }
            question += 1;
            if !exchange(&shared, &mut stream, between, question, &mut last).await {
                tokio::time::sleep(PAUSE).await;
                break;
            }
            if !known {
                known = true;
                shared.opened.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

async fn open(shared: &Shared, to: SocketAddr, since: Instant) -> Option<TcpStream> {
    match in_time(shared, super::request::connect(to, None)).await {
        Ok(stream) => Some(stream),
        Err(error) => {
            shared.ledger().lost(Kind::Messages, Between { from: None, to, since }, &error);
            None
        }
    }
}

/// One question and its answer; `false` when the connection is of no use any more.
async fn exchange(
    shared: &Shared,
    stream: &mut TcpStream,
    between: Between,
    question: u64,
    last: &mut Option<Instant>,
) -> bool {
    let asked = Instant::now();
    let outcome = in_time(shared, async { right(question, &answer_to(stream, question).await?) }).await;
    let answered = Instant::now();
    let mut ledger = shared.ledger();
    match &outcome {
        Ok(()) => ledger.ended(Kind::Messages, End::Answered(answered.saturating_duration_since(asked))),
        Err(error) => ledger.lost(Kind::Messages, between, error),
    }
    if let Some(before) = last.replace(answered) {
        ledger.gap(Kind::Messages, answered.saturating_duration_since(before));
    }
    outcome.is_ok()
}

/// What comes too late is an error as well.
pub async fn in_time<T>(shared: &Shared, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(shared.plan.timeout(), work).await.map_err(|late| io::Error::new(io::ErrorKind::TimedOut, late)).flatten()
}

/// Whether a line answers this question; another one is an error.
pub fn right(question: u64, line: &[u8]) -> io::Result<()> {
    (question_of(line) == Some(question)).then_some(()).ok_or_else(|| io::Error::other("answered wrongly"))
}

/// Asks, and returns the line that comes back.
pub async fn answer_to(stream: &mut TcpStream, question: u64) -> io::Result<Vec<u8>> {
    stream.write_all(format!("{question}\n").as_bytes()).await?;
    let mut line = Vec::with_capacity(256);
    while line.last() != Some(&b'\n') {
        if stream.read_buf(&mut line).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(line)
}
