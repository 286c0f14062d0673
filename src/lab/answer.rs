//! What is said over the wire: one line asks, one line of JSON answers. The same over TCP, SCTP and UDP.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The longest question or answer, in bytes.
pub(super) const MAX_LINE: usize = 1024;

/// The question after which the responder closes the connection first.
pub(super) const BYE: &str = "bye";

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP, as one-to-one sockets.
    Sctp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

impl FromStr for Protocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "TCP" => Ok(Self::Tcp),
            "UDP" => Ok(Self::Udp),
            "SCTP" => Ok(Self::Sctp),
            other => Err(format!("{other} is not one of TCP, UDP, SCTP")),
        }
    }
}

/// An answer: who gave it and what it saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Name of the responder.
    pub name: String,
    /// The address and port that the request arrived at, after all translation.
    pub local: SocketAddr,
    /// The source of the request, after all translation.
    pub peer: SocketAddr,
    /// The question, so that late datagrams can be told apart.
    pub question: String,
}

impl Answer {
    /// The answer as one line.
    pub(super) fn to_line(&self) -> Vec<u8> {
        let mut line = serde_json::to_vec(self).unwrap_or_default();
        line.push(b'\n');
        line
    }

    /// Reads a line; `None` if it is not an answer.
    pub(super) fn from_line(line: &[u8]) -> Option<Self> {
        serde_json::from_slice(line).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_survives_the_wire() {
        let answer = Answer {
            name: "pod-1".to_owned(),
            local: "10.180.0.1:80".parse().unwrap(),
            peer: "[fd00::2]:4711".parse().unwrap(),
            question: "ask 7".to_owned(),
        };
        assert_eq!(Answer::from_line(&answer.to_line()), Some(answer));
        assert_eq!(Answer::from_line(b"HTTP/1.1 200 OK"), None);
    }
}
