//! What can go wrong while building or using a lab.

use std::io;

/// A failed step of the lab, with what was tried on what.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// Creating or entering network namespaces needs CAP_SYS_ADMIN.
    #[error(
        "creating a network namespace: {0} (needs root, or a privileged container with CAP_SYS_ADMIN and CAP_NET_ADMIN)"
    )]
    CreateNamespace(#[source] io::Error),
    /// A step inside a namespace failed.
    #[error("{host}: {what}: {source}")]
    Step {
        /// Name of the namespace.
        host: String,
        /// The step, in words.
        what: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The thread that serves a namespace is gone.
    #[error("{host}: the thread serving this namespace has ended")]
    ThreadGone {
        /// Name of the namespace.
        host: String,
    },
}

impl LabError {
    /// `what` failed in the namespace `host`.
    pub(super) fn step(host: &str, what: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Step { host: host.to_owned(), what: what.into(), source: source.into() }
    }
}
