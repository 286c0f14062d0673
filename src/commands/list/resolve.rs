//! Addresses and ports as `ipvsadm` writes them: as numbers with `-n`, otherwise by their names where there are any
//! (`addrport_to_anyname` in `ipvsadm.c`).
//!
//! Names of hosts come from the system's resolver, each asked for once. Names of ports come from `/etc/services`, which is
//! where the resolver has them from unless somebody keeps them in a directory service.

use super::columns;
use std::collections::HashMap;
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, ToSocketAddrs};

/// Bytes that `ipvsadm` has room for.
const ROOM: usize = 59;
const SERVICES: &str = "/etc/services";

/// Writes places.
#[derive(Debug, Default)]
pub struct Resolver {
    names: Option<(HashMap<IpAddr, String>, Ports)>,
}

impl Resolver {
    /// With names, or only numbers.
    #[must_use]
    pub fn new(numeric: bool) -> Self {
        Self { names: (!numeric).then(|| (HashMap::new(), Ports::read())) }
    }

    /// Writes `address:port`, with brackets around IPv6 addresses. `protocol` is its number; ports of other protocols
    /// than TCP, UDP and SCTP have no names.
    pub fn write(&mut self, text: &mut String, address: IpAddr, port: u16, protocol: u16) {
        let start = text.len();
        let (open, close) = if address.is_ipv4() { ("", "") } else { ("[", "]") };
        // Writing to a string cannot fail.
        let _ = match &mut self.names {
            None => write_address(text, open, address).map(|()| {
                text.push_str(close);
                text.push(':');
                columns::number_left(text, port, 0);
            }),
            Some((hosts, ports)) => {
                let host = hosts.entry(address).or_insert_with(|| host_name(address));
                match ports.name(port, protocol) {
                    Some(name) => write!(text, "{open}{host}{close}:{name}"),
                    None => write!(text, "{open}{host}{close}:{port}"),
                }
            }
        };
        cut(text, start, ROOM);
    }
}

/// Leaves at most `room` bytes of what stands from `start` on.
pub fn cut(text: &mut String, start: usize, room: usize) {
    if text.len() > start + room {
        let end = (start..=start + room).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(start);
        text.truncate(end);
    }
}

/// The address as glibc's `inet_ntop` writes it.
fn write_address(text: &mut String, open: &str, address: IpAddr) -> std::fmt::Result {
    match address {
        IpAddr::V4(v4) => {
            text.push_str(open);
            columns::ipv4(text, v4);
            Ok(())
        }
        IpAddr::V6(v6) => match v6.segments() {
            // The deprecated "IPv4-compatible" addresses, which Rust writes like any other.
            [0, 0, 0, 0, 0, 0, high, low] if high != 0 => {
                let v4 = Ipv4Addr::from_bits((u32::from(high) << 16) | u32::from(low));
                write!(text, "{open}::{v4}")
            }
            _ => write!(text, "{open}{v6}"),
        },
    }
}

fn host_name(address: IpAddr) -> String {
    dns_lookup::lookup_addr(&address).unwrap_or_else(|_| {
        let mut text = String::new();
        let _ = write_address(&mut text, "", address);
        text
    })
}

/// The IPv4 address of a host, as `gethostbyname` finds it.
pub fn host_address(name: &str) -> Option<Ipv4Addr> {
    let found = (name, 0).to_socket_addrs().ok()?;
    found.into_iter().find_map(|address| match address.ip() {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    })
}

/// `/etc/services`.
#[derive(Debug, Default)]
pub struct Ports {
    by_number: HashMap<(u16, u16), String>,
    by_name: HashMap<(String, u16), u16>,
}

impl Ports {
    /// Reads it; without it no port has a name.
    #[must_use]
    pub fn read() -> Self {
        std::fs::read_to_string(SERVICES).map(|text| Self::parse(&text)).unwrap_or_default()
    }

    fn parse(text: &str) -> Self {
        let mut all = Self::default();
        for line in text.lines() {
            let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
            let (Some(name), Some(place)) = (words.next(), words.next()) else { continue };
            let Some((port, protocol)) = place.split_once('/') else { continue };
            let (Ok(port), Some(protocol)) = (port.parse::<u16>(), number(protocol)) else { continue };
            all.by_number.entry((port, protocol)).or_insert_with(|| name.to_owned());
            for name in std::iter::once(name).chain(words) {
                all.by_name.entry((name.to_owned(), protocol)).or_insert(port);
            }
        }
        all
    }

    /// The name of a port.
    #[must_use]
    pub fn name(&self, port: u16, protocol: u16) -> Option<&str> {
        self.by_number.get(&(port, protocol)).map(String::as_str)
    }

    /// The port of a name.
    #[must_use]
    pub fn number(&self, name: &str, protocol: u16) -> Option<u16> {
        self.by_name.get(&(name.to_owned(), protocol)).copied()
    }
}

fn number(protocol: &str) -> Option<u16> {
    match protocol {
        "tcp" => Some(6),
        "udp" => Some(17),
        "sctp" => Some(132),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_have_names_by_protocol() {
        let text = "# a\nhttp 80/tcp www # web\nhttp 80/udp\ndomain\t53/udp\nm3ua 2905/sctp\nbroken 80\n";
        let ports = Ports::parse(text);
        assert_eq!((ports.name(80, 6), ports.name(53, 6), ports.name(2905, 132)), (Some("http"), None, Some("m3ua")));
        assert_eq!((ports.number("www", 6), ports.number("www", 17)), (Some(80), None));
    }

    #[test]
    fn places_are_cut_where_ipvsadm_has_no_more_room() {
        let address: IpAddr = "2001:db8::1".parse().unwrap();
        let mut resolver = Resolver::new(false);
        resolver.names.as_mut().unwrap().0.insert(address, "x".repeat(70));
        let mut text = "ab".to_owned();
        resolver.write(&mut text, address, 80, 6);
        assert_eq!(text, format!("ab[{}", "x".repeat(58)));
    }
}
