//! One connection for one question: at a rate, and from clients with affinity.

use super::events::Between;
use super::ledger::{End, Kind};
use super::talk::{answer_to, in_time, right};
use super::{Shared, Turns, pick};
use crate::commands::bench::field::Field;
use crate::lab::Answer;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tokio::net::{TcpSocket, TcpStream};

/// Connections that may be under way at once. At more the machine does not keep up, which is told.
const MOST_AT_ONCE: u32 = 4000;

/// Opens a connection. Closing it sends a reset: neither ports nor the kernel's tables fill up with connections that
/// wait for their end.
pub async fn connect(to: SocketAddr, from: Option<SocketAddr>) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_linger(Some(Duration::ZERO))?;
    if let Some(from) = from {
        socket.bind(&from.into())?;
    }
    let stream = TcpSocket::from_std_stream(socket.into()).connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// New connections at this thread's share of the rate.
pub async fn stream(shared: Arc<Shared>, quarters: u32, to: Vec<SocketAddr>) {
    let rate = f64::from(shared.plan.rate) * f64::from(quarters) / 4.0;
    if rate <= 0.0 {
        return;
    }
    let under_way = Arc::new(AtomicU32::new(0));
    let mut turns = Turns::new(Duration::from_secs_f64(1.0 / rate), 0, 1);
    let mut tasks = tokio::task::JoinSet::new();
    let mut number = 0_u32;
    while !shared.stopping() {
        let due = turns.due().await;
        while tasks.try_join_next().is_some() {}
        for _ in 0..due {
            number = number.wrapping_add(1);
            if under_way.load(Ordering::Relaxed) >= MOST_AT_ONCE {
                shared.ledger().not_made(1);
                continue;
            }
            let Some(to) = pick(&to, number) else { return };
            let (shared, under_way) = (Arc::clone(&shared), Arc::clone(&under_way));
            under_way.fetch_add(1, Ordering::Relaxed);
            tasks.spawn(async move {
                request(&shared, Kind::Connections, to, None, number.into()).await;
                under_way.fetch_sub(1, Ordering::Relaxed);
            });
        }
    }
    while tasks.join_next().await.is_some() {}
}

/// A client with an address of its own, which is to get the same endpoint every time.
pub async fn client(shared: Arc<Shared>, number: u32, to: SocketAddr) {
    let plan = shared.plan;
    let from = Field::caller(number);
    let mut turns = Turns::new(Duration::from_millis(plan.client_ms.into()), number, plan.clients);
    let mut known: Option<(SocketAddr, Instant)> = None;
    let mut question = 0;
    while !shared.stopping() {
        turns.turn().await;
        question += 1;
        let Some(line) = request(&shared, Kind::Affinity, to, Some(from), question).await else { continue };
        let Ok(answer) = serde_json::from_slice::<Answer>(&line) else { continue };
        if let Some((before, since)) = known
            && before != answer.local
        {
            shared.ledger().broke(from, since, before, answer.local);
        }
        known = Some((answer.local, Instant::now()));
    }
}

/// One connection, one question. The time that counts is that of the handshake: the first packet and its answer. Its gap is
/// all of its time.
pub async fn request(
    shared: &Shared,
    kind: Kind,
    to: SocketAddr,
    from: Option<SocketAddr>,
    question: u64,
) -> Option<Vec<u8>> {
    let started = Instant::now();
    let mut between = Between { from: None, to, since: started };
    let whole = async {
        let mut stream = connect(to, from).await?;
        let shaken = started.elapsed();
        between.from = stream.local_addr().ok();
        let line = answer_to(&mut stream, question).await?;
        right(question, &line).map(|()| (shaken, line))
    };
    let outcome = in_time(shared, whole).await;
    let mut ledger = shared.ledger();
    match outcome {
        Ok((shaken, line)) => {
            ledger.ended(kind, End::Answered(shaken));
            ledger.gap(kind, started.elapsed());
            return Some(line);
        }
        Err(error) => ledger.lost(kind, between, &error),
    }
    None
}
