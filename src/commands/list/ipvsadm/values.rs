//! The arguments of `ipvsadm`'s options, read as `ipvsadm` reads them: numbers by `strtol`, IPv4 addresses by `inet_aton`,
//! then names of hosts and ports.

use super::super::resolve::{Ports, host_address};
use super::options::Code;
use ipvs::{AddressFamily, Protocol, ServiceId};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The longest persistence, in seconds: 31 days.
const LONGEST: i64 = 86_400 * 31;

/// What was given that a listing needs; the rest is only checked.
#[derive(Debug, Default)]
pub struct Values {
    service: Option<ServiceId>,
}

impl Values {
    /// The virtual server.
    pub fn service(&self) -> Option<ServiceId> {
        self.service
    }

    /// Takes one option with its argument.
    pub fn take(&mut self, code: Code, given: Option<&str>) -> Result<(), String> {
        let argument = given.unwrap_or_default();
        let within = |most: i64, least: i64, what: &str| match number(argument) {
            Some(value) if (least..=most).contains(&value) => Ok(()),
            _ => Err(format!("illegal {what} specified")),
        };
        let threshold = i64::from(i32::MAX);
        match code {
            Code::TcpService => self.place(argument, Protocol::Tcp),
            Code::UdpService => self.place(argument, Protocol::Udp),
            Code::SctpService => self.place(argument, Protocol::Sctp),
            Code::FwmarkService => {
                let mark = number(argument).and_then(|mark| u32::try_from(mark).ok()).filter(|mark| *mark > 0);
                let mark = mark.ok_or_else(|| format!("invalid fwmark value `{argument}' specified"))?;
                self.service = Some(ServiceId::fwmark(mark, AddressFamily::Ipv4));
                Ok(())
            }
            Code::Ipv6 => match &mut self.service {
                Some(ServiceId::Fwmark { family, .. }) => {
                    *family = AddressFamily::Ipv6;
                    Ok(())
                }
                _ => Err("-6 used before -f\n".to_owned()),
            },
            Code::RealServer => match service(argument, Protocol::Tcp) {
                Some(_) => Ok(()),
                None => Err("illegal real server address[:port] specified".to_owned()),
            },
            Code::Weight => within(65_535, 0, "weight"),
            Code::UpperThreshold => within(threshold, 0, "u_threshold"),
            Code::LowerThreshold => within(threshold, 0, "l_threshold"),
            Code::SyncId => within(255, 0, "syncid"),
            Code::McastPort => within(65_535, 1, "mcast-port"),
            Code::McastTtl => within(255, 1, "mcast-ttl"),
            Code::SyncMaxlen => within(65_507, 1, "sync-maxlen"),
            Code::TunPort => within(65_535, 1, "tunnel port"),
            Code::Persistent => match given {
                Some(_) if number(argument).is_none_or(|seconds| !(1..=LONGEST).contains(&seconds)) => {
                    Err(format!("invalid timeout value `{argument}' specified"))
                }
                _ => Ok(()),
            },
            Code::Netmask if self.service.is_some_and(|id| id.family() == AddressFamily::Ipv6) => {
                within(128, 1, "ipv6 netmask")
            }
            Code::Netmask if inet_aton(argument).or_else(|| host_address(argument)).is_none() => {
                Err("illegal virtual server persistent mask specified".to_owned())
            }
            Code::McastGroup => group(argument),
            Code::TunType if !["ipip", "gue", "gre"].contains(&argument) => {
                Err("illegal tunnel type specified".to_owned())
            }
            _ => Ok(()),
        }
    }

    fn place(&mut self, argument: &str, protocol: Protocol) -> Result<(), String> {
        let id = service(argument, protocol);
        self.service = Some(id.ok_or_else(|| "illegal virtual server address[:port] specified".to_owned())?);
        Ok(())
    }
}

/// A multicast group.
fn group(text: &str) -> Result<(), String> {
    let (family, fine) = if text.contains(':') {
        ("IPv6", text.parse::<Ipv6Addr>().is_ok_and(|group| group.is_multicast()))
    } else {
        ("IPv4", text.parse::<Ipv4Addr>().is_ok_and(|group| group.is_multicast()))
    };
    if fine { Ok(()) } else { Err(format!("invalid {family} mcast-group `{text}'")) }
}

/// `parse_service`: `10.0.0.1:80`, `[fd00::1]:80`, `fd00::1`, `host:http`; without a port it is 0.
#[must_use]
pub fn service(text: &str, protocol: Protocol) -> Option<ServiceId> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']')?;
            (host, Some(rest.strip_prefix(':')?))
        }
        None => (text, None),
    };
    if let Ok(address) = host.parse::<Ipv6Addr>() {
        return Some(ServiceId::new(protocol, IpAddr::V6(address), port_number(port, protocol)?));
    }
    // What stands behind the brackets is lost then, as in `ipvsadm`.
    let (host, port) = host.rsplit_once(':').map_or((host, None), |(host, port)| (host, Some(port)));
    let address = inet_aton(host).or_else(|| host_address(host))?;
    Some(ServiceId::new(protocol, IpAddr::V4(address), port_number(port, protocol)?))
}

fn port_number(text: Option<&str>, protocol: Protocol) -> Option<u16> {
    let Some(text) = text else { return Some(0) };
    match number(text) {
        Some(port) if (0..=65_535).contains(&port) => u16::try_from(port).ok(),
        _ => Ports::read().number(text, protocol.number()),
    }
}

/// `strtol` in base 10, where nothing may follow.
fn number(text: &str) -> Option<i64> {
    let text = text.trim_start_matches([' ', '\t', '\n', '\x0b', '\x0c', '\r']);
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let decimal = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    decimal.then(|| text.parse().ok()).flatten()
}

/// One to four numbers, decimal, octal or hexadecimal, the last of which fills what is left.
fn inet_aton(text: &str) -> Option<Ipv4Addr> {
    let text = text.trim_end_matches([' ', '\t', '\n', '\x0b', '\x0c', '\r']);
    let parts: Vec<u32> = text.split('.').map(part).collect::<Option<_>>()?;
    let (last, rest) = parts.split_last()?;
    if rest.len() > 3 || rest.iter().any(|part| *part > 255) {
        return None;
    }
    let left = 32 - 8 * u32::try_from(rest.len()).ok()?;
    if left < 32 && *last >> left != 0 {
        return None;
    }
    let shifts = [24_u32, 16, 8];
    let high = rest.iter().zip(shifts).fold(0, |bits, (part, shift)| bits | (part << shift));
    Some(Ipv4Addr::from_bits(high | last))
}

fn part(text: &str) -> Option<u32> {
    let (digits, radix) = if let Some(digits) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        (digits, 16)
    } else if text.len() > 1 && text.starts_with('0') {
        (text, 8)
    } else {
        (text, 10)
    };
    digits.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| u32::from_str_radix(digits, radix).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_as_inet_aton_reads_them() {
        let read = |text| inet_aton(text).map(|address| address.to_string());
        for (text, address) in
            [("10.0.0.1", "10.0.0.1"), ("10.1", "10.0.0.1"), ("0x0a.010.1", "10.8.0.1"), ("167772161", "10.0.0.1")]
        {
            assert_eq!(read(text).as_deref(), Some(address), "{text}");
        }
        for text in ["256.1.1.1", "1.2.3.4.5", "1.2.3.256", "09.1", "a", "1..2", "", "+1.2"] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn virtual_servers_as_ipvsadm_reads_them() {
        let read = |text| service(text, Protocol::Tcp).map(|id| id.to_string());
        for (text, id) in [
            ("10.0.0.1:80", "TCP 10.0.0.1:80"),
            ("10.0.0.1: +80", "TCP 10.0.0.1:80"),
            ("fd00::1", "TCP [fd00::1]:0"),
            ("fd00::1:80", "TCP [fd00::1:80]:0"),
            ("[fd00::1]:80", "TCP [fd00::1]:80"),
            ("[10.0.0.1]:80", "TCP 10.0.0.1:0"),
        ] {
            assert_eq!(read(text).as_deref(), Some(id), "{text}");
        }
        for text in ["80", "", "[fd00::1]", "[fd00::1", "10.0.0.1:", "10.0.0.1:-1", "10.0.0.1:no-such-port"] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
