//! `/proc/net/ip_vs`: all virtual servers and destinations with weights and connections in one pass, where netlink
//! needs a dump for each virtual server. At 10,000 × 5 that is about fifteen times faster.
//!
//! It tells less than netlink (`ip_vs_info_seq_show` in `net/netfilter/ipvs/ip_vs_ctl.c`). Missing are thresholds,
//! tunnels, persistent connections, traffic, flags other than persistence and one-packet scheduling (which is missing
//! for IPv6, too), persistence engines, and **the family of firewall-mark services**: a mark that has both an IPv4 and
//! an IPv6 service appears twice, undistinguished. The persistence timeout is in the kernel's jiffies, whose length
//! (`CONFIG_HZ`) user space is not told. Take those from [`Client::services`](crate::Client::services).
//!
//! The kernel hands the file out in pieces. When the table changes between two of them, a virtual server can be missing
//! or appear twice. Kernels that keep the virtual servers of all network namespaces in one table (before 2026) also pass
//! over rows between two pieces when another namespace has virtual servers: take the list itself from netlink.

use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use crate::{AddressFamily, ForwardMethod, Info, Netmask, Protocol, Scheduler, ServiceId};

/// The file of the calling thread's own network namespace. (`/proc/net` is that of the process's first thread.)
pub const PATH: &str = "/proc/thread-self/net/ip_vs";

/// What identifies a virtual server in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RowId {
    /// Protocol, address and port.
    Address {
        /// Transport protocol.
        protocol: Protocol,
        /// Virtual address.
        address: IpAddr,
        /// Virtual port.
        port: u16,
    },
    /// A firewall mark; the file does not tell the family.
    Fwmark {
        /// The mark.
        mark: u32,
    },
}

impl RowId {
    /// The whole identity, where the file tells it: not for firewall marks.
    #[must_use]
    pub const fn service_id(&self) -> Option<ServiceId> {
        match *self {
            Self::Address { protocol, address, port } => Some(ServiceId::Address { protocol, address, port }),
            Self::Fwmark { .. } => None,
        }
    }
}

impl From<ServiceId> for RowId {
    /// What the file tells about this virtual server's identity.
    fn from(id: ServiceId) -> Self {
        match id {
            ServiceId::Address { protocol, address, port } => Self::Address { protocol, address, port },
            ServiceId::Fwmark { mark, .. } => Self::Fwmark { mark },
        }
    }
}

/// Persistence as the file shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RowPersistence {
    /// Timeout in the kernel's jiffies: seconds times `CONFIG_HZ` (Debian: 250).
    pub timeout_jiffies: u32,
    /// The netmask as printed. [`RowPersistence::netmask`] knows what it means.
    pub netmask_word: u32,
}

impl RowPersistence {
    /// The netmask of a virtual server of `family`.
    #[must_use]
    pub fn netmask(&self, family: AddressFamily) -> Netmask {
        match family {
            AddressFamily::Ipv4 => Netmask::Ipv4(Ipv4Addr::from(self.netmask_word)),
            // The kernel prints the IPv6 prefix length, which it keeps as a native number, through ntohl().
            AddressFamily::Ipv6 => Netmask::Ipv6(self.netmask_word.to_be()),
        }
    }
}

/// A virtual server in the file.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServiceRow {
    /// Its identity.
    pub id: RowId,
    /// Its scheduler.
    pub scheduler: Scheduler,
    /// One-packet scheduling; always `false` for IPv6, where the file does not tell.
    pub one_packet: bool,
    /// Persistence, if it has any.
    pub persistence: Option<RowPersistence>,
}

/// A destination in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DestinationRow {
    /// Address.
    pub address: IpAddr,
    /// Port.
    pub port: u16,
    /// Forwarding method; [`ForwardMethod::Bypass`], too, is printed as masquerading.
    pub forward: ForwardMethod,
    /// Weight.
    pub weight: u32,
    /// Established connections.
    pub active_connections: u32,
    /// Connections in any other state.
    pub inactive_connections: u32,
}

/// A virtual server with its destinations, in the kernel's order.
pub type Row = (ServiceRow, Vec<DestinationRow>);

/// The whole file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Its first line.
    pub info: Info,
    /// Virtual servers with their destinations.
    pub rows: Vec<Row>,
}

/// The file cannot be read or understood.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TableError {
    /// It cannot be read. `NotFound` means that the kernel has no IPVS, or not yet: it is loaded on first use.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A line is not understood.
    #[error("line {line}: {reason}: {text:?}")]
    Line {
        /// Number of the line, from 1.
        line: usize,
        /// What is wrong.
        reason: &'static str,
        /// The line.
        text: String,
    },
}

/// Reads and parses the file; [`PATH`] is the usual one.
///
/// # Errors
/// It cannot be read, or a line is not understood.
pub fn read_table(path: impl AsRef<Path>) -> Result<Vec<Row>, TableError> {
    let mut rows = Vec::new();
    for_each_row(path, |service, destinations| rows.push((service, destinations.to_vec())))?;
    Ok(rows)
}

/// As [`read_table`], but hands over each virtual server with its destinations as it is read: neither text nor table is ever
/// in memory as a whole.
///
/// # Errors
/// It cannot be read, or a line is not understood; what comes before it was handed over.
pub fn for_each_row(path: impl AsRef<Path>, each: impl FnMut(ServiceRow, &[DestinationRow])) -> Result<(), TableError> {
    let path = path.as_ref();
    let failed = |source| TableError::Read { path: path.to_owned(), source };
    let mut reader = BufReader::new(std::fs::File::open(path).map_err(failed)?);
    let (mut parser, mut line) = (Parser::new(each), String::new());
    while reader.read_line(&mut line).map_err(failed)? > 0 {
        parser.line(line.trim_end_matches('\n'))?;
        line.clear();
    }
    parser.finish().map(drop)
}

/// Parses the text of the file.
///
/// # Errors
/// A line is not understood. Words that follow the known ones are ignored.
pub fn parse(text: &str) -> Result<Table, TableError> {
    let mut rows = Vec::new();
    let mut parser = Parser::new(|service, destinations: &[_]| rows.push((service, destinations.to_vec())));
    text.lines().try_for_each(|line| parser.line(line))?;
    let info = parser.finish()?;
    Ok(Table { info, rows })
}

/// Takes the file line by line.
struct Parser<Each> {
    lines: usize,
    info: Option<Info>,
    service: Option<ServiceRow>,
    destinations: Vec<DestinationRow>,
    each: Each,
}

impl<Each: FnMut(ServiceRow, &[DestinationRow])> Parser<Each> {
    fn new(each: Each) -> Self {
        Self { lines: 0, info: None, service: None, destinations: Vec::new(), each }
    }

    fn line(&mut self, line: &str) -> Result<(), TableError> {
        self.lines += 1;
        let number = self.lines;
        let wrong = |reason| TableError::Line { line: number, reason, text: line.to_owned() };
        match number {
            1 => self.info = Some(first_line(line).ok_or_else(|| wrong("not the first line of an IPVS table"))?),
            // The names of the columns.
            2 | 3 => {}
            _ => {
                if let Some(destination) = line.trim_ascii_start().strip_prefix("->") {
                    let destination = destination_row(destination).ok_or_else(|| wrong("not a destination"))?;
                    if self.service.is_none() {
                        return Err(wrong("no virtual server before it"));
                    }
                    self.destinations.push(destination);
                } else {
                    let service = service_row(line).ok_or_else(|| wrong("not a virtual server"))?;
                    self.hand_over();
                    self.service = Some(service);
                }
            }
        }
        Ok(())
    }

    fn hand_over(&mut self) {
        if let Some(service) = self.service.take() {
            (self.each)(service, &self.destinations);
            self.destinations.clear();
        }
    }

    fn finish(mut self) -> Result<Info, TableError> {
        self.hand_over();
        self.info.ok_or_else(|| TableError::Line { line: 1, reason: "empty", text: String::new() })
    }
}

/// `IP Virtual Server version 1.2.1 (size=4096)`
fn first_line(line: &str) -> Option<Info> {
    let rest = line.strip_prefix("IP Virtual Server version ")?;
    let (version, size) = rest.strip_suffix(')')?.split_once(" (size=")?;
    let mut numbers = version.split('.').map(str::parse::<u8>);
    let version = (numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next()?.ok()?);
    Some(Info { version, connection_table_size: size.parse().ok()? })
}

/// `TCP  0A000001:0050 wrr ops persistent 2700000 FFFFFFFF`, `FWM  00000007 rr persistent 75000 FFFFFFFF`
fn service_row(line: &str) -> Option<ServiceRow> {
    let mut words = line.split_ascii_whitespace();
    let id = match (words.next()?, words.next()?) {
        ("FWM", mark) => RowId::Fwmark { mark: u32::from_str_radix(mark, 16).ok()? },
        (name, place) => {
            let (address, port) = place_of(place)?;
            RowId::Address { protocol: protocol(name)?, address, port }
        }
    };
    let scheduler = words.next()?.parse().ok()?;
    let mut row = ServiceRow { id, scheduler, one_packet: false, persistence: None };
    while let Some(word) = words.next() {
        match word {
            "ops" => row.one_packet = true,
            "persistent" => {
                // Printed as signed although it is not.
                let timeout_jiffies = words.next()?.parse::<i32>().ok()?.cast_unsigned();
                let netmask_word = u32::from_str_radix(words.next()?, 16).ok()?;
                row.persistence = Some(RowPersistence { timeout_jiffies, netmask_word });
            }
            _ => {}
        }
    }
    Some(row)
}

/// ` 0A010001:1F90      Masq    1      0          0`, without the arrow.
fn destination_row(text: &str) -> Option<DestinationRow> {
    let mut words = text.split_ascii_whitespace();
    let (address, port) = place_of(words.next()?)?;
    let forward = match words.next()? {
        "Masq" => ForwardMethod::Masquerade,
        "Local" => ForwardMethod::Local,
        "Tunnel" => ForwardMethod::Tunnel,
        "Route" => ForwardMethod::DirectRoute,
        _ => return None,
    };
    let mut number = || words.next()?.parse::<i32>().ok().map(i32::cast_unsigned);
    let (weight, active_connections, inactive_connections) = (number()?, number()?, number()?);
    Some(DestinationRow { address, port, forward, weight, active_connections, inactive_connections })
}

/// `0A000001:0050` or `[2001:0db8:0000:0000:0000:0000:0000:0001]:0050`
fn place_of(text: &str) -> Option<(IpAddr, u16)> {
    let (address, port) = text.rsplit_once(':')?;
    let address = match address.strip_prefix('[') {
        Some(rest) => IpAddr::V6(rest.strip_suffix(']')?.parse::<Ipv6Addr>().ok()?),
        None => IpAddr::V4(Ipv4Addr::from(u32::from_str_radix(address, 16).ok()?)),
    };
    Some((address, u16::from_str_radix(port, 16).ok()?))
}

/// As `ip_vs_proto_name` names it.
fn protocol(name: &str) -> Option<Protocol> {
    Some(match name {
        "TCP" => Protocol::Tcp,
        "UDP" => Protocol::Udp,
        "SCTP" => Protocol::Sctp,
        "IP" => Protocol::Other(0),
        "ICMP" => Protocol::Other(1),
        "ICMPv6" => Protocol::Other(58),
        other => Protocol::from_number(other.strip_prefix("IP_")?.parse().ok()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SAMPLE: &str = "\
IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port Forward Weight ActiveConn InActConn
TCP  0A000001:0050 wrr persistent 2700000 FFFFFF00
  -> 0A010001:1F90      Masq    1      3          0         
  -> 0A010002:1F90      Tunnel  0      0          7         
UDP  [2001:0db8:0000:0000:0000:0000:0000:0001]:0035 sh persistent 75000 80000000
  -> [2001:0db8:0000:0000:0000:0000:0000:0002]:0035      Route   100    0          0         
UDP  0A000001:0035 rr ops 
FWM  0000000A mh 
";

    #[test]
    fn every_kind_of_row_is_understood() {
        let table = parse(SAMPLE).unwrap();
        assert_eq!(table.info, Info { version: (1, 2, 1), connection_table_size: 4096 });
        let [(tcp, tcp_dests), (v6, v6_dests), (udp, _), (mark, _)] = table.rows.as_slice() else {
            panic!("{table:?}")
        };
        assert_eq!(tcp.id.service_id().unwrap().to_string(), "TCP 10.0.0.1:80");
        let persistence = tcp.persistence.unwrap();
        assert_eq!(persistence.timeout_jiffies, 2_700_000);
        assert_eq!(persistence.netmask(AddressFamily::Ipv4).to_string(), "255.255.255.0");
        assert_eq!((tcp_dests[0].port, tcp_dests[0].active_connections), (8080, 3));
        assert_eq!((tcp_dests[1].forward, tcp_dests[1].weight), (ForwardMethod::Tunnel, 0));
        assert_eq!(tcp_dests[1].inactive_connections, 7);
        assert_eq!(v6.id.service_id().unwrap().to_string(), "UDP [2001:db8::1]:53");
        assert_eq!(v6.persistence.unwrap().netmask(AddressFamily::Ipv6), Netmask::Ipv6(128));
        assert_eq!((v6_dests[0].weight, v6_dests[0].forward), (100, ForwardMethod::DirectRoute));
        assert!(udp.one_packet && udp.persistence.is_none());
        assert_eq!((mark.id, mark.scheduler), (RowId::Fwmark { mark: 10 }, Scheduler::Mh));
        assert_eq!(mark.id, RowId::from(ServiceId::fwmark(10, AddressFamily::Ipv6)));
    }

    #[test]
    fn a_line_that_is_not_understood_is_named() {
        let broken = SAMPLE.replace("0A010002:1F90", "nonsense");
        assert_eq!(parse(&broken).unwrap_err().to_string().split(':').next(), Some("line 6"));
        assert!(parse("").is_err());
        let missing = read_table("/nonexistent/ip_vs").unwrap_err();
        assert!(matches!(missing, TableError::Read { .. }), "{missing}");
    }

    proptest! {
        #[test]
        fn any_text_ends_without_a_panic(text in "(IP Virtual Server version 1.2.1 \\(size=1\\)\na\nb\n)?(\\PC|\n){0,200}") {
            let _ = parse(&text);
        }
    }
}
