//! Every connection that IPVS remembers: `/proc/net/ip_vs_conn` (`ip_vs_conn_seq_show` in
//! `net/netfilter/ipvs/ip_vs_conn.c`). Netlink tells their number only.

use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use crate::{Protocol, ServiceId};

/// The file of the calling thread's own network namespace.
pub const PATH: &str = "/proc/thread-self/net/ip_vs_conn";

/// An entry of the connection table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Connection {
    /// Transport protocol.
    pub protocol: Protocol,
    /// The client.
    pub client: SocketAddr,
    /// The virtual server's address and port, as the client asks for them.
    pub server: SocketAddr,
    /// The destination.
    pub destination: SocketAddr,
    /// How far a TCP connection is; `None` for other protocols.
    pub state: Option<TcpState>,
    /// Seconds until it is forgotten, if nothing comes.
    pub expires: u32,
}

impl Connection {
    /// The virtual server, unless it is one of a firewall mark.
    #[must_use]
    pub const fn service(&self) -> ServiceId {
        ServiceId::Address { protocol: self.protocol, address: self.server.ip(), port: self.server.port() }
    }

    /// Whether this is no connection, but tells where the client's next one goes (persistence).
    #[must_use]
    pub const fn is_template(&self) -> bool {
        self.client.port() == 0 && self.destination.port() != 0
    }
}

/// How far IPVS thinks that a TCP connection is (`tcp_states` in `ip_vs_proto_tcp.c`). It sees both directions where it
/// masquerades, and only the client's otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TcpState {
    /// Nothing was seen yet.
    None,
    /// Both have agreed.
    Established,
    /// The destination has begun (or has answered a connection that was over).
    SynSent,
    /// The client has begun.
    SynReceived,
    /// The first has closed its half.
    FinWait,
    /// Both have closed their halves.
    TimeWait,
    /// One of both has reset it.
    Close,
    /// The destination has closed its half, where only the client is seen.
    CloseWait,
    /// The second has closed its half, where only the client is seen.
    LastAck,
    /// Listening.
    Listen,
    /// A SYN cookie is awaited.
    SynAck,
}

impl TcpState {
    const ALL: [(Self, &'static str); 11] = [
        (Self::None, "NONE"),
        (Self::Established, "ESTABLISHED"),
        (Self::SynSent, "SYN_SENT"),
        (Self::SynReceived, "SYN_RECV"),
        (Self::FinWait, "FIN_WAIT"),
        (Self::TimeWait, "TIME_WAIT"),
        (Self::Close, "CLOSE"),
        (Self::CloseWait, "CLOSE_WAIT"),
        (Self::LastAck, "LAST_ACK"),
        (Self::Listen, "LISTEN"),
        (Self::SynAck, "SYNACK"),
    ];

    /// `IP_VS_TCP_S_*`
    #[must_use]
    pub const fn number(self) -> u16 {
        self as u16
    }

    fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, own)| *own == name).map(|(state, _)| *state)
    }
}

/// Reads the connections and hands over each as it is read; [`PATH`] is the usual file. What is not understood is passed
/// over. The kernel hands the file out in pieces: what comes or goes meanwhile may be there or not.
///
/// # Errors
/// It cannot be read; what comes before was handed over. `NotFound` means that the kernel has no IPVS, or not yet.
pub fn for_each(path: impl AsRef<Path>, mut each: impl FnMut(Connection)) -> std::io::Result<()> {
    let mut reader = BufReader::with_capacity(64 * 1024, std::fs::File::open(path)?);
    let mut line = String::new();
    while reader.read_line(&mut line)? > 0 {
        if let Some(connection) = connection(&line) {
            each(connection);
        }
        line.clear();
    }
    Ok(())
}

pub(crate) fn connection(line: &str) -> Option<Connection> {
    let Line { protocol, client, server, destination, state, expires, .. } = Line::read(line)?;
    let protocol = match protocol {
        "TCP" => Protocol::Tcp,
        "UDP" => Protocol::Udp,
        "SCTP" => Protocol::Sctp,
        _ => return None,
    };
    let state = if protocol == Protocol::Tcp { TcpState::from_name(state) } else { None };
    Some(Connection { protocol, client, server, destination, state, expires })
}

/// A line of the file, its names as they are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line<'a> {
    /// Transport protocol.
    pub protocol: &'a str,
    /// The client.
    pub client: SocketAddr,
    /// The virtual server's address and port, as the client asks for them.
    pub server: SocketAddr,
    /// The destination.
    pub destination: SocketAddr,
    /// How far it is.
    pub state: &'a str,
    /// Seconds until it is forgotten, if nothing comes.
    pub expires: u32,
    /// Name and data of the persistence engine.
    pub engine: Option<(&'a str, &'a str)>,
}

impl<'a> Line<'a> {
    /// `TCP C0A80001 9C40 AC1E0016 0050 0AB40001 1F90 ESTABLISHED     899 sip data`; `None` where it is something else.
    #[must_use]
    pub fn read(line: &'a str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        let protocol = words.next()?;
        let mut place = || Some(SocketAddr::new(address(words.next()?)?, u16::from_str_radix(words.next()?, 16).ok()?));
        let (client, server, destination) = (place()?, place()?, place()?);
        let (state, expires) = (words.next()?, words.next()?.parse().ok()?);
        let engine = words.next().zip(words.next());
        Some(Self { protocol, client, server, destination, state, expires, engine })
    }
}

/// An address as the file writes it: eight hexadecimal digits, or an IPv6 address.
fn address(text: &str) -> Option<IpAddr> {
    if text.contains(':') {
        return text.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    }
    u32::from_str_radix(text, 16).ok().map(|word| IpAddr::V4(Ipv4Addr::from(word)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_understood_and_others_passed_over() {
        let found = connection("TCP C0A80001 9C40 AC1E0016 0050 0AB40001 1F90 ESTABLISHED     899\n").unwrap();
        assert_eq!(found.service().to_string(), "TCP 172.30.0.22:80");
        assert_eq!((found.client, found.destination), sockets("192.168.0.1:40000", "10.180.0.1:8080"));
        assert_eq!((found.state, found.expires, found.is_template()), (Some(TcpState::Established), 899, false));
        let v6 = "UDP fd00:0000:0000:0000:0000:0000:0000:0001 9C40 fd00:0172:0030:0000:0000:0000:0000:0016 0035 \
                  fd00:0010:0180:0000:0000:0000:0000:0001 0035 UDP            299";
        let found = connection(v6).unwrap();
        assert_eq!((found.client, found.destination), sockets("[fd00::1]:40000", "[fd00:10:180::1]:53"));
        assert_eq!((found.state, found.expires), (None, 299));
        for other in ["Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData", "TCP C0", ""] {
            assert_eq!(connection(other), None, "{other}");
        }
    }

    fn sockets(first: &str, second: &str) -> (SocketAddr, SocketAddr) {
        (first.parse().unwrap(), second.parse().unwrap())
    }

    #[test]
    fn states_have_the_numbers_of_the_kernel() {
        for (number, (state, name)) in (0..).zip(TcpState::ALL) {
            assert_eq!((state.number(), TcpState::from_name(name)), (number, Some(state)));
        }
    }
}
