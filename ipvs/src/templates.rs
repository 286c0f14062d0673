//! Which client stays with which destination: the persistence templates in `/proc/net/ip_vs_conn`
//! (`ip_vs_conn_seq_show` in `net/netfilter/ipvs/ip_vs_conn.c`). Netlink does not tell them.

use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use crate::Protocol;

/// The file of the calling thread's own network namespace.
pub const PATH: &str = "/proc/thread-self/net/ip_vs_conn";

/// A client whose next connection goes where its last one went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Template {
    /// Transport protocol.
    pub protocol: Protocol,
    /// The client, masked as the virtual server says.
    pub client: IpAddr,
    /// The virtual server's address and port.
    pub server: SocketAddr,
    /// The destination.
    pub destination: SocketAddr,
}

/// Reads the templates; [`PATH`] is the usual file. Connections are passed over, and so is what is not understood.
///
/// # Errors
/// It cannot be read. `NotFound` means that the kernel has no IPVS, or not yet.
pub fn read(path: impl AsRef<Path>) -> std::io::Result<Vec<Template>> {
    let mut templates = Vec::new();
    for line in BufReader::new(std::fs::File::open(path)?).lines() {
        templates.extend(template(&line?));
    }
    Ok(templates)
}

/// `TCP C0A80001 0000 AC1E0016 0050 0AB40001 0050 NONE            42`. A template is an entry without a client's port.
fn template(line: &str) -> Option<Template> {
    let mut words = line.split_whitespace();
    let protocol = match words.next()? {
        "TCP" => Protocol::Tcp,
        "UDP" => Protocol::Udp,
        "SCTP" => Protocol::Sctp,
        _ => return None,
    };
    let mut place = || Some(SocketAddr::new(address(words.next()?)?, u16::from_str_radix(words.next()?, 16).ok()?));
    let (client, server, destination) = (place()?, place()?, place()?);
    let is_template = client.port() == 0 && destination.port() != 0;
    is_template.then_some(Template { protocol, client: client.ip(), server, destination })
}

/// An address as `/proc/net/ip_vs_conn` writes it: eight hexadecimal digits, or an IPv6 address.
#[must_use]
pub fn address(text: &str) -> Option<IpAddr> {
    if text.contains(':') {
        return text.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    }
    u32::from_str_radix(text, 16).ok().map(|word| IpAddr::V4(Ipv4Addr::from(word)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_told_from_connections() {
        let v4 = template("TCP C0A80001 0000 AC1E0016 0050 0AB40001 1F90 NONE            42").unwrap();
        assert_eq!((v4.client, v4.server), ("192.168.0.1".parse().unwrap(), "172.30.0.22:80".parse().unwrap()));
        assert_eq!((v4.protocol, v4.destination), (Protocol::Tcp, "10.180.0.1:8080".parse().unwrap()));
        let v6 = "UDP fd00:0000:0000:0000:0000:0000:0000:0001 0000 fd00:0172:0030:0000:0000:0000:0000:0016 0035 \
                  fd00:0010:0180:0000:0000:0000:0000:0001 0035 UDP            299";
        assert_eq!(template(v6).unwrap().destination, "[fd00:10:180::1]:53".parse().unwrap());
        for other in [
            "Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData",
            "TCP C0A80001 9C40 AC1E0016 0050 0AB40001 0050 ESTABLISHED    899",
            "IP  C0A80001 0000 00000007 0000 0AB40001 0050 NONE            42",
            "TCP C0A80001 0000",
            "",
        ] {
            assert_eq!(template(other), None, "{other}");
        }
    }
}
