//! What is told one by one: clients that got another endpoint, connections that broke.

use super::ledger::Kind;
use serde::Serialize;
use std::net::SocketAddr;
use std::time::Instant;

/// A client with affinity that got another endpoint.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Broken {
    /// Its address.
    pub client: SocketAddr,
    /// When it was last with its endpoint, in milliseconds since the load was started.
    pub since_ms: f64,
    /// When it was with another one.
    pub at_ms: f64,
    /// The one before.
    pub from: SocketAddr,
    /// The one since.
    pub to: SocketAddr,
}

/// A connection that broke, or was not answered. Its addresses are what connection tracking and captures know it by.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Lost {
    /// What it was for.
    pub kind: Kind,
    /// What was met.
    pub how: String,
    /// The caller's address and port; `None` when there was no connection.
    pub from: Option<SocketAddr>,
    /// The service's.
    pub to: SocketAddr,
    /// When it began to be opened, in milliseconds since the load was started.
    pub opened_ms: f64,
    /// When it was lost.
    pub at_ms: f64,
}

/// Who talks to whom, and since when.
#[derive(Debug, Clone, Copy)]
pub struct Between {
    /// The caller's address and port, once there is a connection.
    pub from: Option<SocketAddr>,
    /// The service's.
    pub to: SocketAddr,
    /// Since when.
    pub since: Instant,
}
