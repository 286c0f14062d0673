//! The packet that is asked about, as it is typed: `SRC DST:PORT/PROTO`.

use crate::model::Protocol;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

/// Where a packet comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    /// The node, from the address that the kernel chooses. The port is known where it matters.
    Node(Option<u16>),
    /// This address: a pod's, the node's own, or one outside. The port is known where it matters.
    Address(IpAddr, Option<u16>),
}

impl FromStr for Sender {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "node" {
            return Ok(Self::Node(None));
        }
        if let Some(Ok(port)) = text.strip_prefix("node:").map(str::parse) {
            return Ok(Self::Node(Some(port)));
        }
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        if let Ok(address) = bare.parse() {
            return Ok(Self::Address(address, None));
        }
        let with_port: Result<SocketAddr, _> = text.parse();
        with_port.map(|at| Self::Address(at.ip(), Some(at.port()))).map_err(|_| {
            format!(
                "{text:?} is no sender: give an address (10.180.0.1, fd00::1), an address and port (10.180.0.1:4711, \
                 [fd00::1]:4711), `node` or `node:4711`"
            )
        })
    }
}

/// Where it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// Address and port.
    pub address: SocketAddr,
    /// The protocol; TCP unless it is said.
    pub protocol: Protocol,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address, protocol) = text.rsplit_once('/').unwrap_or((text, "tcp"));
        let protocol = match protocol.to_ascii_lowercase().as_str() {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            "sctp" => Protocol::Sctp,
            _ => return Err(format!("{protocol:?} is no protocol: give tcp, udp or sctp")),
        };
        let address = address.parse().map_err(|_| {
            format!("{address:?} is no address and port: give 172.30.0.10:80/tcp or [fd00:172:30::10]:80/tcp")
        })?;
        Ok(Self { address, protocol })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn senders_and_targets() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!("node".parse(), Ok(Sender::Node(None)));
        assert_eq!("node:7".parse(), Ok(Sender::Node(Some(7))));
        assert_eq!("fd00::1".parse(), Ok(Sender::Address(address("fd00::1"), None)));
        assert_eq!("[fd00::1]".parse(), Ok(Sender::Address(address("fd00::1"), None)));
        assert_eq!("[fd00::1]:7".parse(), Ok(Sender::Address(address("fd00::1"), Some(7))));
        assert_eq!("10.0.0.1:7".parse(), Ok(Sender::Address(address("10.0.0.1"), Some(7))));
        assert!("pod-1".parse::<Sender>().unwrap_err().contains("pod-1"));
        let target = |text: &str| text.parse::<Target>();
        assert_eq!(target("172.30.0.1:53/UDP").unwrap().protocol, Protocol::Udp);
        assert_eq!(target("172.30.0.1:80").unwrap().protocol, Protocol::Tcp);
        assert_eq!(target("[fd00::1]:80/sctp").unwrap().address.port(), 80);
        assert!(target("172.30.0.1/tcp").is_err() && target("172.30.0.1:80/icmp").is_err());
        assert!(target("fd00::1:80/tcp").unwrap_err().contains("[fd00:172:30::10]:80/tcp"));
    }
}
