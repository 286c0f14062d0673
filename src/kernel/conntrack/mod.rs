//! Connection tracking over ctnetlink: list flows by filter, delete them, have them translated from now on.
//!
//! UDP has no end of connection: a client that goes on sending keeps its entry, and with it the translation to an
//! endpoint that is gone or to none at all, for ever. Such entries are deleted when a service changes.

mod client;
mod flow;

pub use client::{Client, ConntrackError};
pub use flow::{Filter, Flow, Tuple};

#[cfg(test)]
mod tests;
