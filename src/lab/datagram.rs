//! Answering datagrams from the address that they were sent to.
//!
//! A host with several addresses would otherwise answer from the one its routing table prefers, and connection
//! tracking would not know the answer.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::AsRawFd;

use nix::libc;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, SockaddrIn6, SockaddrLike, SockaddrStorage, recvmsg,
    sendmsg,
};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::answer::MAX_LINE;

/// A datagram with both its ends.
#[derive(Debug)]
pub(super) struct Datagram {
    pub(super) from: SocketAddr,
    pub(super) to: IpAddr,
    pub(super) text: Vec<u8>,
}

/// Waits for the next datagram.
pub(super) async fn receive(socket: &UdpSocket) -> io::Result<Datagram> {
    socket.async_io(Interest::READABLE, || receive_now(socket)).await
}

/// Sends `text` to `to` with `from` as its source address.
pub(super) async fn send(socket: &UdpSocket, from: IpAddr, to: SocketAddr, text: &[u8]) -> io::Result<()> {
    socket.async_io(Interest::WRITABLE, || send_now(socket, from, to, text)).await
}

fn receive_now(socket: &UdpSocket) -> io::Result<Datagram> {
    let mut text = vec![0; MAX_LINE];
    let mut parts = [IoSliceMut::new(&mut text)];
    let mut control = nix::cmsg_space!(libc::in6_pktinfo, libc::in_pktinfo);
    let message = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::empty())?;
    let from = message.address.as_ref().and_then(socket_address).ok_or(io::ErrorKind::InvalidData)?;
    let to = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::Ipv4PacketInfo(info) => Some(IpAddr::from(info.ipi_addr.s_addr.to_ne_bytes())),
        ControlMessageOwned::Ipv6PacketInfo(info) => Some(IpAddr::from(info.ipi6_addr.s6_addr)),
        _ => None,
    });
    let length = message.bytes;
    text.truncate(length);
    Ok(Datagram { from, to: to.ok_or(io::ErrorKind::InvalidData)?, text })
}

fn send_now(socket: &UdpSocket, from: IpAddr, to: SocketAddr, text: &[u8]) -> io::Result<()> {
    let parts = [IoSlice::new(text)];
    let socket = socket.as_raw_fd();
    match (from, to) {
        (IpAddr::V4(from), SocketAddr::V4(to)) => {
            let source = libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: libc::in_addr { s_addr: u32::from_ne_bytes(from.octets()) },
                ipi_addr: libc::in_addr { s_addr: 0 },
            };
            transmit(socket, &parts, &ControlMessage::Ipv4PacketInfo(&source), &SockaddrIn::from(to))
        }
        (IpAddr::V6(from), SocketAddr::V6(to)) => {
            let ipi6_addr = libc::in6_addr { s6_addr: from.octets() };
            let source = libc::in6_pktinfo { ipi6_addr, ipi6_ifindex: 0 };
            transmit(socket, &parts, &ControlMessage::Ipv6PacketInfo(&source), &SockaddrIn6::from(to))
        }
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}

fn transmit(socket: i32, parts: &[IoSlice<'_>], source: &ControlMessage<'_>, to: &impl SockaddrLike) -> io::Result<()> {
    sendmsg(socket, parts, std::slice::from_ref(source), MsgFlags::empty(), Some(to))?;
    Ok(())
}

fn socket_address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(ipv4) = storage.as_sockaddr_in() {
        return Some(SocketAddrV4::new(ipv4.ip(), ipv4.port()).into());
    }
    let ipv6 = storage.as_sockaddr_in6()?;
    let address: Ipv6Addr = ipv6.ip();
    Some(SocketAddrV6::new(address, ipv6.port(), 0, ipv6.scope_id()).into())
}
