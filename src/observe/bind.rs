//! Keeps a port open. One that cannot be bound is tried again every 5 s, as upstream does, or ends the program where
//! `bindAddressHardFail` says so.

use super::http::{Handler, Server};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tracing::{debug, info, warn};

const RETRY: Duration = Duration::from_secs(5);

/// What a port is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Health checks.
    Healthz,
    /// Metrics.
    Metrics,
}

impl Purpose {
    fn flag(self) -> &'static str {
        match self {
            Self::Healthz => "--healthz-bind-address",
            Self::Metrics => "--metrics-bind-address",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Healthz => "healthz",
            Self::Metrics => "metrics",
        }
    }
}

/// A port that could not be bound.
#[derive(Debug, thiserror::Error)]
#[error(
    "the port for {} cannot be opened on {address}: {reason}. Stop what listens there, or set {} (field {}BindAddress)",
    purpose.name(), purpose.flag(), purpose.name()
)]
pub struct BindError {
    /// What for.
    pub purpose: Purpose,
    /// Where.
    pub address: SocketAddr,
    /// Why not.
    pub reason: std::io::Error,
}

/// Opens a port. What is returned keeps it open until it is dropped, and goes on trying where it could not be opened.
///
/// # Errors
/// When the port cannot be bound, if that is to end the program.
pub fn open(
    purpose: Purpose,
    address: SocketAddr,
    handler: Arc<dyn Handler>,
    hard_fail: bool,
) -> Result<impl Future<Output = ()> + Send + 'static, BindError> {
    // At once, so that it answers from the start.
    let first = Server::listen(address, handler.clone()).map_err(|reason| BindError { purpose, address, reason });
    if hard_fail && first.is_err() {
        return first.map(|_| keep(purpose, address, handler, None));
    }
    if let Err(error) = &first {
        warn!("{error}; it is tried again");
    }
    Ok(keep(purpose, address, handler, first.ok()))
}

async fn keep(purpose: Purpose, address: SocketAddr, handler: Arc<dyn Handler>, mut server: Option<Server>) {
    while server.is_none() {
        tokio::time::sleep(RETRY).await;
        server = Server::listen(address, handler.clone())
            .inspect(|_| info!(%address, "the port for {} is open now", purpose.name()))
            .inspect_err(|error| debug!(%address, "the port for {}: {error}", purpose.name()))
            .ok();
    }
    // Held for as long as we are.
    let _server = server;
    std::future::pending().await
}
