//! Keeps a port open. One that cannot be bound is tried again every 5 s, as upstream does, or ends the program where
//! `bindAddressHardFail` says so.

use super::http::{Handler, Server};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tracing::{info, warn};

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
    "the port for {} cannot be opened on {address}: {source}. Stop what listens there, or set {} (field {}BindAddress)",
    purpose.name(), purpose.flag(), purpose.name()
)]
pub struct BindError {
    /// What for.
    pub purpose: Purpose,
    /// Where.
    pub address: SocketAddr,
    /// Why not.
    #[source]
    pub source: std::io::Error,
}

/// Serves until the future is dropped.
///
/// # Errors
/// When the port cannot be bound, if that is to end the program.
pub async fn keep(
    purpose: Purpose,
    address: SocketAddr,
    handler: Arc<dyn Handler>,
    hard_fail: bool,
) -> Result<Infallible, BindError> {
    let mut told = None;
    loop {
        match Server::listen(address, handler.clone()) {
            Ok(server) => {
                if told.is_some() {
                    info!(%address, "the port for {} is open now", purpose.name());
                }
                // Held for as long as we are.
                let _server = server;
                return std::future::pending().await;
            }
            Err(source) => {
                let (kind, error) = (source.kind(), BindError { purpose, address, source });
                if hard_fail {
                    return Err(error);
                }
                if told.replace(kind) != Some(kind) {
                    warn!("{error}; it is tried again");
                }
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}
