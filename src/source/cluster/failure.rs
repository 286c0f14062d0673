//! What goes wrong with the API server, by what has to be done about it.

use kube::core::Status;
use std::error::Error;
use std::time::Duration;

/// A request or a stream that came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The server has forgotten that version: everything has to be listed again.
    #[error("the version is too old (410)")]
    Expired,
    /// The server answered with an error.
    #[error("{code} {message}")]
    Refused {
        /// HTTP status.
        code: u16,
        /// What the server said.
        message: String,
        /// How long it asked to be left alone.
        retry_after: Duration,
    },
    /// No answer, or one that broke off or makes no sense.
    #[error("{0}")]
    Unreachable(String),
    /// Nothing came for too long.
    #[error("no answer within {0:?}")]
    Silent(Duration),
    /// The stream ended before everything was listed.
    #[error("the list broke off")]
    Incomplete,
}

impl Failure {
    /// Reads what the server said.
    pub fn from_status(status: &Status) -> Self {
        if status.code == 410 || status.reason == "Expired" || status.reason == "Gone" {
            return Self::Expired;
        }
        let details = status.details.as_ref();
        let seconds = details.map(|details| details.retry_after_seconds).unwrap_or_default();
        let message = if status.message.is_empty() { &status.reason } else { &status.message };
        // Somebody between us and the server may answer with a whole page.
        let message = message.chars().take(300).collect();
        Self::Refused { code: status.code, message, retry_after: Duration::from_secs(seconds.min(60).into()) }
    }

    /// The server does not know that kind of request (client-go: `checkWatchListDataConsistencyIfRequested` and its
    /// fall-back on invalid requests).
    pub fn is_unsupported(&self) -> bool {
        matches!(self, Self::Refused { code: 400 | 404 | 405 | 406 | 415 | 422 | 501, .. })
    }

    /// The API is not there, or we may not see it.
    pub fn is_absence(&self) -> bool {
        matches!(self, Self::Refused { code: 403 | 404, .. })
    }

    /// Whether asking for what follows the same version may help. It does not when the server's store is younger than
    /// that version (504, after a restore), or does not understand the question.
    pub fn allows_resuming(&self) -> bool {
        match self {
            Self::Expired => false,
            Self::Refused { code: 401 | 403 | 429, .. } => true,
            Self::Refused { code, message, .. } => *code >= 500 && !message.contains("Too large resource version"),
            Self::Unreachable(_) | Self::Silent(_) | Self::Incomplete => true,
        }
    }

    /// One word for the kind of trouble: each kind is told once in an outage.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Refused { code: 401 | 403, .. } => "denied",
            Self::Refused { .. } | Self::Expired => "refused",
            Self::Unreachable(_) | Self::Silent(_) | Self::Incomplete => "unreachable",
        }
    }
}

impl From<kube::Error> for Failure {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::from_status(&status),
            // What these say of themselves is only the name of the variant.
            kube::Error::Service(cause) => Self::Unreachable(chain(&*cause)),
            kube::Error::HyperError(cause) => Self::Unreachable(chain(&cause)),
            kube::Error::ReadEvents(cause) => Self::Unreachable(chain(&cause)),
            other => Self::Unreachable(chain(&other)),
        }
    }
}

/// An error with its causes, each said once.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let words = cause.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: u16, message: &str, reason: &str) -> Failure {
        Failure::from_status(&Status::failure(message, reason).with_code(code))
    }

    #[test]
    fn what_a_server_says_decides_on_the_next_step() {
        assert_eq!(refused(410, "too old resource version", "Expired"), Failure::Expired);
        assert_eq!(refused(0, "too old resource version", "Gone"), Failure::Expired);
        let too_new = refused(504, "Too large resource version: 9, current: 3", "Timeout");
        assert!(!too_new.allows_resuming() && refused(504, "etcd is slow", "Timeout").allows_resuming());
        assert!(!refused(400, "no such parameter", "BadRequest").allows_resuming());
        assert!(refused(429, "too many requests", "TooManyRequests").allows_resuming());
        assert!(refused(422, "sendInitialEvents is forbidden", "Invalid").is_unsupported());
        assert!(refused(403, "not yours", "Forbidden").is_absence() && !refused(401, "", "").is_absence());
        assert_eq!(refused(503, &"x".repeat(5000), "").to_string().len(), 304, "nobody reads whole pages in a log");
    }
}
