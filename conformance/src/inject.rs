//! Packets put on the wire of eth0 by hand, since no host would route them.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use kube_ipvs::lab::{Answer, NetNs, Outcome, Protocol};
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{LinkAddr, MsgFlags, SockaddrLike, bind, recv, send};
use socket2::{Domain, Socket, Type};

use crate::flow::Flow;
use crate::world::World;

/// The outer end of the wire.
const WIRE: &str = "wire0";

/// How many packets, each from a port of its own.
const PACKETS: u16 = 3;

/// Ethernet's and IP's numbers (IEEE 802.3, RFC 791, RFC 8200).
const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// Sends the flow's packets and watches the wire for what comes back.
pub fn inject(world: &World, flow: &Flow, patience: Duration) -> Result<Vec<Outcome>> {
    if flow.inject.as_deref() != Some("eth0") {
        bail!("flow {flow}: packets can be put on the wire of eth0 only");
    }
    let from = world.sender(flow)?.address.with_context(|| format!("flow {flow}: its sender has no address"))?;
    let (to_node, from_wire) = (hardware_address(world.node(), "eth0")?, hardware_address(world.router(), WIRE)?);
    let first = if flow.source_port == 0 { 47_000 } else { flow.source_port };
    let count = if flow.source_port == 0 { PACKETS } else { 1 };
    let sources: Vec<_> = (first..first.saturating_add(count)).map(|port| SocketAddr::new(from, port)).collect();
    let mut frames = Vec::new();
    for source in &sources {
        let packet = packet(flow, *source).with_context(|| format!("flow {flow}: SCTP cannot be injected"))?;
        let kind = if from.is_ipv4() { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 };
        frames.push([to_node.as_slice(), &from_wire, &kind, &packet].concat());
    }
    let replies = world.router().run(|| exchange(&frames, patience))??;
    let outcome = |source: &SocketAddr| {
        let mut about = replies.iter().filter_map(|frame| reply_to(frame.get(14..)?, flow, *source));
        about.next().unwrap_or(Outcome::TimedOut)
    };
    Ok(sources.iter().map(outcome).collect())
}

fn hardware_address(ns: &NetNs, interface: &str) -> Result<[u8; 6]> {
    let address = ns.run(|| link_address(interface))??;
    address.addr().with_context(|| format!("{interface} has no hardware address"))
}

fn link_address(interface: &str) -> Result<LinkAddr> {
    let mut all = getifaddrs().context("listing interfaces")?;
    let found = all.find_map(|entry| {
        let address = entry.address.filter(|_| entry.interface_name == interface)?;
        address.as_link_addr().copied()
    });
    found.with_context(|| format!("there is no interface {interface}"))
}

/// Sends all frames and returns everything seen on the wire until the time is over.
fn exchange(frames: &[Vec<u8>], patience: Duration) -> Result<Vec<Vec<u8>>> {
    let everything = i32::from(u16::try_from(nix::libc::ETH_P_ALL)?.to_be());
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(everything.into())).context("opening a packet socket")?;
    let wire = link_address(WIRE)?;
    debug_assert!(wire.len() > 0, "an address of the kernel's has a length");
    bind(socket.as_raw_fd(), &wire).with_context(|| format!("binding to {WIRE}"))?;
    for frame in frames {
        send(socket.as_raw_fd(), frame, MsgFlags::empty()).context("sending a frame")?;
    }
    let started = Instant::now();
    let mut seen = Vec::new();
    while let Some(left) = patience.checked_sub(started.elapsed()).filter(|left| !left.is_zero()) {
        socket.set_read_timeout(Some(left))?;
        let mut buffer = vec![0; 2048];
        match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()).map_err(io::Error::from) {
            Ok(length) => {
                buffer.truncate(length);
                seen.push(buffer);
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => return Err(error).context("watching the wire"),
        }
    }
    Ok(seen)
}

/// What an IP packet says about the injected one from `source`, if it is about it.
fn reply_to(packet: &[u8], flow: &Flow, source: SocketAddr) -> Option<Outcome> {
    let (protocol, destination, payload) = match packet.first()? >> 4 {
        4 => {
            let length = usize::from(packet.first()? & 0xf) * 4;
            let destination = <[u8; 4]>::try_from(packet.get(16..20)?).ok()?;
            (*packet.get(9)?, IpAddr::from(destination), packet.get(length..)?)
        }
        6 => {
            let destination = <[u8; 16]>::try_from(packet.get(24..40)?).ok()?;
            (*packet.get(6)?, IpAddr::from(destination), packet.get(40..)?)
        }
        _ => return None,
    };
    if destination != source.ip() {
        return None;
    }
    let port_at = |bytes: &[u8], at: usize| Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    match protocol {
        TCP if flow.protocol == Protocol::Tcp && port_at(payload, 2)? == source.port() => {
            let is_reset = payload.get(13)? & 0x04 != 0;
            Some(if is_reset { Outcome::Refused } else { Outcome::Replied(b"a TCP segment that is no reset".to_vec()) })
        }
        UDP if flow.protocol == Protocol::Udp && port_at(payload, 2)? == source.port() => {
            let data = payload.get(8..)?;
            let answer = serde_json::from_slice::<Answer>(data);
            Some(answer.map_or_else(|_| Outcome::Replied(data.to_vec()), Outcome::Answered))
        }
        ICMP => {
            let quoted = payload.get(8..)?;
            let header = usize::from(quoted.first()? & 0xf) * 4;
            error(*payload.first()? == 3, *payload.get(1)? == 3, port_at(quoted, header)? == source.port())
        }
        ICMPV6 => error(*payload.first()? == 1, *payload.get(1)? == 4, port_at(payload, 48)? == source.port()),
        _ => None,
    }
}

fn error(is_unreachable: bool, is_port: bool, is_ours: bool) -> Option<Outcome> {
    (is_unreachable && is_ours)
        .then(|| if is_port { Outcome::Refused } else { Outcome::Unreachable("an ICMP error".to_owned()) })
}

/// A SYN or a datagram with a question.
fn packet(flow: &Flow, source: SocketAddr) -> Option<Vec<u8>> {
    let ports = [source.port().to_be_bytes(), flow.to.port().to_be_bytes()].concat();
    let (protocol, mut segment, checksum_at) = match flow.protocol {
        Protocol::Tcp => {
            let rest = [0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0];
            (TCP, [ports, rest.to_vec()].concat(), 16)
        }
        Protocol::Udp => {
            let question = b"ask 0\n";
            let length = u16::try_from(question.len() + 8).ok()?.to_be_bytes();
            (UDP, [&ports, length.as_slice(), &[0, 0], question].concat(), 6)
        }
        Protocol::Sctp => return None,
    };
    let length = u16::try_from(segment.len()).ok()?;
    let (from, to) = (octets(source.ip()), octets(flow.to.ip()));
    let pseudo = [&from, &to, [0, protocol].as_slice(), &length.to_be_bytes(), &segment].concat();
    segment.splice(checksum_at..checksum_at + 2, checksum(&pseudo));
    let header = if source.is_ipv4() {
        let total = (length + 20).to_be_bytes();
        let fixed = [0x45, 0, total[0], total[1], 0, 1, 0x40, 0, 64, protocol, 0, 0];
        let mut header = [fixed.as_slice(), &from, &to].concat();
        let sum = checksum(&header);
        header.splice(10..12, sum);
        header
    } else {
        let length = length.to_be_bytes();
        [[0x60, 0, 0, 0, length[0], length[1], protocol, 64].as_slice(), &from, &to].concat()
    };
    Some([header, segment].concat())
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(pair.first().copied().unwrap_or(0)) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)))
        .sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    let [_, _, high, low] = (!sum).to_be_bytes();
    [high, low]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::FlowFields;
    use serde_json::json;

    fn flow(to: &str) -> Flow {
        let fields = json!({"from": "client", "to": to, "expect": "drop", "inject": "eth0"});
        serde_json::from_value::<FlowFields>(fields).unwrap().try_into().unwrap()
    }

    #[test]
    fn checksums_add_up_to_zero() {
        let packet = packet(&flow("127.0.0.1:9090/TCP"), "203.0.113.2:47000".parse().unwrap()).unwrap();
        assert_eq!(packet.len(), 40);
        assert_eq!(checksum(&packet[..20]), [0, 0]);
    }

    #[test]
    fn replies_are_told_from_other_packets() {
        let source: SocketAddr = "203.0.113.2:47000".parse().unwrap();
        let flow = flow("127.0.0.1:9090/TCP");
        let mut reply = packet(&flow, "9.9.9.9:9090".parse().unwrap()).unwrap();
        reply[16..20].copy_from_slice(&[203, 0, 113, 2]);
        reply[22..24].copy_from_slice(&47000_u16.to_be_bytes());
        assert!(matches!(reply_to(&reply, &flow, source), Some(Outcome::Replied(_))));
        reply[33] = 0x14;
        assert_eq!(reply_to(&reply, &flow, source), Some(Outcome::Refused));
        reply[22..24].copy_from_slice(&47001_u16.to_be_bytes());
        assert_eq!(reply_to(&reply, &flow, source), None);
    }
}
