//! Sockets for the responder and the prober. A socket belongs to the namespace of the thread that opens it.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::{TcpListener, TcpSocket, UdpSocket};

use super::answer::{MAX_LINE, Protocol};

/// Connections that may wait to be accepted; a burst of requests must not look like a fault of the proxy.
const BACKLOG: i32 = 4096;

/// Bytes a UDP socket may have waiting, for the same reason.
const UDP_BUFFER: usize = 1 << 20;

/// Both wildcard addresses with `port`.
pub(super) fn wildcards(port: u16) -> [SocketAddr; 2] {
    [(Ipv4Addr::UNSPECIFIED, port).into(), (Ipv6Addr::UNSPECIFIED, port).into()]
}

/// A listening TCP or SCTP socket. SCTP's one-to-one sockets are used with the same calls as TCP's.
pub(super) fn listen(protocol: Protocol, at: SocketAddr) -> io::Result<TcpListener> {
    let socket = open(protocol, at)?;
    socket.set_reuse_address(true)?;
    socket.bind(&at.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// A UDP socket that is told which of its addresses each datagram was sent to.
pub(super) fn receive_datagrams(at: SocketAddr) -> io::Result<UdpSocket> {
    let socket = open(Protocol::Udp, at)?;
    // By force, as the limit for everybody is a fifth of it (net.core.rmem_max).
    // Without the permission for that it is what the limit allows.
    if setsockopt(&socket, sockopt::RcvBufForce, &UDP_BUFFER).is_err() {
        socket.set_recv_buffer_size(UDP_BUFFER)?;
    }
    if at.is_ipv4() {
        setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
    } else {
        setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
    }
    socket.bind(&at.into())?;
    UdpSocket::from_std(socket.into())
}

/// A TCP or SCTP socket about to connect to `to`, from `source` if that is given. With `reset`, closing it sends a reset
/// instead of taking leave, and no TIME_WAIT stays behind.
pub(super) fn connecting(
    protocol: Protocol,
    to: SocketAddr,
    source: Option<SocketAddr>,
    reset: bool,
) -> io::Result<TcpSocket> {
    let socket = open(protocol, to)?;
    if protocol == Protocol::Sctp {
        // Otherwise SCTP keeps "port unreachable" to itself (`sctp_v4_err_handle` in net/sctp/input.c).
        if to.is_ipv4() {
            setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?;
        } else {
            setsockopt(&socket, sockopt::Ipv6RecvErr, &true)?;
        }
    }
    if reset {
        socket.set_linger(Some(Duration::ZERO))?;
    }
    if source.is_none() && protocol == Protocol::Tcp {
        socket.bind(&port_of_its_own(to).into())?;
    }
    bind_source(&socket, source)?;
    Ok(TcpSocket::from_std_stream(socket.into()))
}

/// A UDP socket that sends to `to` only, and gets to know when `to` refuses.
pub(super) fn sending(to: SocketAddr, source: Option<SocketAddr>) -> io::Result<UdpSocket> {
    let socket = open(Protocol::Udp, to)?;
    bind_source(&socket, source)?;
    socket.connect(&SockAddr::from(to))?;
    UdpSocket::from_std(socket.into())
}

/// Reads up to and including a line feed, the end, or [`MAX_LINE`] bytes. Empty at the end.
pub(super) async fn read_line(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut line = Vec::with_capacity(256);
    while line.last() != Some(&b'\n') && line.len() < MAX_LINE {
        if stream.read_buf(&mut line).await? == 0 {
            break;
        }
    }
    Ok(line)
}

/// Bound there before it connects, a socket has a port that no other one here has. Left to itself `connect` gives the same port to
/// several connections to different places; and where two of these are services with an endpoint in common, IPVS takes the
/// endpoint's answers to one for answers to the other (docs/packet-path.md, "What IPVS can't tell apart").
fn port_of_its_own(to: SocketAddr) -> SocketAddr {
    let [v4, v6] = wildcards(0);
    if to.is_ipv4() { v4 } else { v6 }
}

fn bind_source(socket: &Socket, source: Option<SocketAddr>) -> io::Result<()> {
    let Some(source) = source else { return Ok(()) };
    // A scenario may ask for the same source port again while the last connection is in TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.bind(&source.into())
}

fn open(protocol: Protocol, like: SocketAddr) -> io::Result<Socket> {
    let (kind, number) = match protocol {
        Protocol::Tcp => (Type::STREAM, socket2::Protocol::TCP),
        Protocol::Udp => (Type::DGRAM, socket2::Protocol::UDP),
        Protocol::Sctp => (Type::STREAM, socket2::Protocol::from(nix::libc::IPPROTO_SCTP)),
    };
    let socket = Socket::new(Domain::for_address(like), kind, Some(number))?;
    if like.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}
