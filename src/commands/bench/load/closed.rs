//! Requests as fast as they are answered: what a path can carry.

use super::Shared;
use super::ledger::{Kind, Ledger, Period};
use super::request::request;
use crate::lab::NetNs;
use anyhow::Context;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// So many callers at once, each making a new connection as soon as its last one was answered, for so long.
///
/// # Errors
/// When the namespace cannot be entered. What was not answered is in the result.
pub fn closed_loop(ns: &NetNs, to: SocketAddr, parallel: u32, duration: Duration) -> anyhow::Result<Period> {
    let shared = Arc::new(Shared::idle(Ledger::new(Instant::now())));
    ns.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("an event loop")?;
        runtime.block_on(async {
            let end = Instant::now() + duration;
            let mut tasks = tokio::task::JoinSet::new();
            for _ in 0..parallel {
                let shared = Arc::clone(&shared);
                tasks.spawn(async move {
                    let mut question = 0;
                    while Instant::now() < end {
                        question += 1;
                        request(&shared, Kind::Connections, to, None, question).await;
                    }
                });
            }
            while tasks.join_next().await.is_some() {}
        });
        anyhow::Ok(())
    })??;
    let period = shared.ledger().cut();
    Ok(period)
}
