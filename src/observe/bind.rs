//! Keeps a port open. One that cannot be bound is told to the node's owner and tried again every 5 s, as upstream does,
//! or ends the program where `bindAddressHardFail` says so.

use super::http::{Handler, Server};
use crate::model::{Event, Events, Reason};
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

    fn failed(self) -> Reason {
        match self {
            Self::Healthz => Reason::FailedToStartProxierHealthcheck,
            Self::Metrics => Reason::FailedToStartMetricServer,
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
    events: &Events,
) -> Result<impl Future<Output = ()> + Send + 'static, BindError> {
    // At once, so that it answers from the start.
    let first = Server::listen(address, handler.clone()).map_err(|reason| BindError { purpose, address, reason });
    if hard_fail && first.is_err() {
        return first.map(|_| keep(purpose, address, handler, None));
    }
    if let Err(error) = &first {
        warn!("{error}; it is tried again");
        events.tell(Event::of_node(purpose.failed(), error.to_string()));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::http::Answer;
    use hyper::{Request, body::Incoming};
    use std::net::TcpListener;

    struct Nothing;
    impl Handler for Nothing {
        fn answer(&self, _request: &Request<Incoming>) -> Answer {
            Answer::default()
        }
    }

    #[tokio::test]
    async fn a_port_in_use_is_told_or_ends_the_start() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let (events, mut queue) = Events::queue();
        let attempt = |purpose, hard_fail| open(purpose, address, Arc::new(Nothing), hard_fail, &events);
        assert!(attempt(Purpose::Healthz, true).is_err());
        drop((attempt(Purpose::Healthz, false).unwrap(), attempt(Purpose::Metrics, false).unwrap()));
        for (reason, flag) in [
            (Reason::FailedToStartProxierHealthcheck, "--healthz-bind-address"),
            (Reason::FailedToStartMetricServer, "--metrics-bind-address"),
        ] {
            let event = queue.next().await.unwrap();
            assert_eq!(event.reason, reason);
            assert!(event.note.contains(flag) && event.note.contains(&address.to_string()), "{event}");
        }
    }
}
