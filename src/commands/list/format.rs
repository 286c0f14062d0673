//! Virtual servers as the bytes that `ipvsadm` 1.31 prints for them (`print_title` and `print_service_entry` in
//! `ipvsadm.c`), and as the lines that `ipvsadm -R` reads.

use super::columns;
use super::request::{Columns, Format};
use super::resolve::{Resolver, cut};
use super::table::{
    Details, Forward, Frontend, Header, Netmask, Persistence, RealServer, Table, Traffic, Tunnel, VirtualServer,
};
use crate::model::IpFamily;
use ipvs::{TunnelFlags, TunnelKind};
use std::fmt::{self, Write};

/// How wide `ipvsadm` writes the names of IPv4 virtual servers and real servers, and where it cuts them off.
const SERVER: usize = 33;
const REAL_SERVER: usize = 28;

/// The whole listing in numbers. Only the first line depends on whether the table comes from IPVS.
#[must_use]
pub fn render(table: &Table) -> String {
    let mut printer = Printer::new(Format { numeric: true, ..Format::default() });
    let mut text = table.header.map(header).unwrap_or_default();
    text.push_str(title(Columns::Usual));
    for server in &table.servers {
        printer.server(&mut text, server);
    }
    text
}

/// The first line of a listing of the whole table.
#[must_use]
pub fn header(header: Header) -> String {
    let Header { version: (major, minor, patch), size } = header;
    format!("IP Virtual Server version {major}.{minor}.{patch} (size={size})\n")
}

/// The titles of the columns.
#[must_use]
pub fn title(columns: Columns) -> &'static str {
    match columns {
        Columns::Stats => concat!(
            "Prot LocalAddress:Port               Conns   InPkts  OutPkts  InBytes OutBytes\n",
            "  -> RemoteAddress:Port\n"
        ),
        Columns::Rate => concat!(
            "Prot LocalAddress:Port                 CPS    InPPS   OutPPS    InBPS   OutBPS\n",
            "  -> RemoteAddress:Port\n"
        ),
        Columns::Thresholds => concat!(
            "Prot LocalAddress:Port            Uthreshold Lthreshold ActiveConn InActConn \n",
            "  -> RemoteAddress:Port\n"
        ),
        Columns::PersistentConnections => concat!(
            "Prot LocalAddress:Port            Weight    PersistConn ActiveConn InActConn \n",
            "  -> RemoteAddress:Port\n"
        ),
        Columns::Tunnels => concat!(
            "Prot LocalAddress:Port Scheduler Flags\n",
            "  -> RemoteAddress:Port           Forward TunnelInfo    Weight ActiveConn InActConn\n"
        ),
        Columns::Usual => concat!(
            "Prot LocalAddress:Port Scheduler Flags\n",
            "  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn\n"
        ),
    }
}

/// Prints virtual servers one by one.
#[derive(Debug)]
pub struct Printer {
    format: Format,
    resolver: Resolver,
    name: String,
    /// The end of the last line, and of what: most real servers of a table have the same.
    end: (Option<(Forward, [u32; 3])>, String),
}

impl Printer {
    /// In this format.
    #[must_use]
    pub fn new(format: Format) -> Self {
        Self { format, resolver: Resolver::new(format.numeric), name: String::new(), end: (None, String::new()) }
    }

    /// A virtual server with its real servers.
    pub fn server(&mut self, text: &mut String, server: &VirtualServer) {
        self.name.clear();
        // Writing to a string cannot fail.
        let _ = self.server_name(server.frontend);
        let _ = self.server_line(text, server);
        let protocol = protocol_of(server.frontend);
        for real in &server.real_servers {
            self.name.clear();
            self.resolver.write(&mut self.name, real.address, real.port, protocol);
            if real.address.is_ipv4() {
                cut(&mut self.name, 0, REAL_SERVER);
            }
            text.push_str("  -> ");
            columns::left(text, &self.name, REAL_SERVER);
            match self.format.columns {
                Columns::Usual => self.usual_end(text, real),
                _ => drop(real_server(text, real, self.format)),
            }
        }
    }

    /// Method, weight, connections.
    fn usual_end(&mut self, text: &mut String, real: &RealServer) {
        let numbers = [real.weight, real.active_connections, real.inactive_connections];
        let (of, end) = &mut self.end;
        if *of != Some((real.forward, numbers)) {
            *of = Some((real.forward, numbers));
            end.clear();
            let ([weight, active, inactive], forward) = (numbers, forward_name(real.forward));
            let _ = writeln!(end, " {forward:<7} {:<6} {active:<10} {inactive:<10}", weight.cast_signed());
        }
        text.push_str(end);
    }

    fn server_name(&mut self, frontend: Frontend) -> fmt::Result {
        match frontend {
            Frontend::Address { protocol, address, port } => {
                write!(self.name, "{:<4} ", protocol_name(protocol))?;
                self.resolver.write(&mut self.name, address, port, protocol);
                if address.is_ipv4() {
                    cut(&mut self.name, 0, SERVER);
                }
                Ok(())
            }
            // Marks are unsigned, but printed as signed.
            Frontend::Fwmark { mark, family: IpFamily::V4 } => write!(self.name, "FWM  {}", mark.cast_signed()),
            Frontend::Fwmark { mark, family: IpFamily::V6 } => write!(self.name, "FWM  {} IPv6", mark.cast_signed()),
        }
    }

    fn server_line(&self, text: &mut String, server: &VirtualServer) -> fmt::Result {
        let numbers = match self.format.columns {
            Columns::Stats => counters(&server.traffic),
            Columns::Rate => rates(&server.traffic),
            _ => return virtual_server(text, &self.name, server),
        };
        write!(text, "{:<SERVER$}", self.name)?;
        numbers.into_iter().try_for_each(|number| large(text, number, self.format.exact))?;
        text.write_char('\n')
    }

    /// The same as lines for `ipvsadm -R`. Thresholds are not among them.
    pub fn save(&mut self, text: &mut String, server: &VirtualServer) {
        self.name.clear();
        let protocol = protocol_of(server.frontend);
        let _ = match server.frontend {
            Frontend::Address { protocol, address, port } => {
                self.name.push_str(match protocol {
                    6 => "-t ",
                    17 => "-u ",
                    132 => "--sctp-service ",
                    _ => "--xxx-service ",
                });
                self.resolver.write(&mut self.name, address, port, protocol);
                Ok(())
            }
            Frontend::Fwmark { mark, family: IpFamily::V4 } => write!(self.name, "-f {}", mark.cast_signed()),
            Frontend::Fwmark { mark, family: IpFamily::V6 } => write!(self.name, "-f {} -6", mark.cast_signed()),
        };
        let _ = saved_server(text, &self.name, server);
        for real in &server.real_servers {
            let _ = write!(text, "-a {} -r ", self.name);
            self.resolver.write(text, real.address, real.port, protocol);
            let _ = saved_real_server(text, real);
        }
    }
}

fn virtual_server(text: &mut String, name: &str, server: &VirtualServer) -> fmt::Result {
    write!(text, "{name} {}", server.scheduler)?;
    if server.scheduler_flags.contains(&true) {
        write!(text, " ({})", flag_names(&server.scheduler, server.scheduler_flags))?;
    }
    if let Some(Persistence { seconds, netmask }) = &server.persistence {
        write!(text, " persistent {seconds}")?;
        match netmask {
            Netmask::Host => {}
            Netmask::V4(mask) => write!(text, " mask {mask}")?,
            Netmask::V6(length) => write!(text, " mask {}", length.cast_signed())?,
        }
        if let Some(engine) = &server.engine {
            write!(text, " pe {engine}")?;
        }
    }
    text.write_str(if server.one_packet { " ops\n" } else { "\n" })
}

/// What follows the name, in other columns than the usual ones.
fn real_server(text: &mut String, real: &RealServer, format: Format) -> fmt::Result {
    let none = Details::default();
    let details = real.details.as_deref().unwrap_or(&none);
    let (active, inactive) = (real.active_connections, real.inactive_connections);
    match format.columns {
        Columns::Stats => {
            counters(&details.traffic).into_iter().try_for_each(|number| large(text, number, format.exact))?;
            text.write_char('\n')
        }
        Columns::Rate => {
            let [connections, incoming, outgoing, rest @ ..] = rates(&details.traffic);
            write!(text, " {connections:>8} {incoming:>8} {outgoing:>8}")?;
            rest.into_iter().try_for_each(|number| large(text, number, format.exact))?;
            text.write_char('\n')
        }
        Columns::Thresholds => {
            let (upper, lower) = (details.upper_threshold, details.lower_threshold);
            writeln!(text, " {upper:<10} {lower:<10} {active:<10} {inactive:<10}")
        }
        Columns::PersistentConnections => {
            let (weight, persistent) = (real.weight, details.persistent_connections);
            writeln!(text, " {weight:<9} {persistent:<11} {active:<10} {inactive:<10}")
        }
        Columns::Tunnels => {
            let (forward, weight) = (forward_name(real.forward), real.weight.cast_signed());
            let tunnel = tunnel_info(real.forward, details.tunnel);
            writeln!(text, " {forward:<7} {tunnel:<13} {weight:<6} {active:<10} {inactive:<10}")
        }
        Columns::Usual => Ok(()),
    }
}

fn saved_server(text: &mut String, name: &str, server: &VirtualServer) -> fmt::Result {
    write!(text, "-A {name} -s {}", server.scheduler)?;
    if let Some(Persistence { seconds, netmask }) = &server.persistence {
        write!(text, " -p {seconds}")?;
        match netmask {
            Netmask::Host => {}
            Netmask::V4(mask) => write!(text, " -M {mask}")?,
            Netmask::V6(length) => write!(text, " -M {}", length.cast_signed())?,
        }
    }
    if let Some(engine) = &server.engine {
        write!(text, " --pe {engine}")?;
    }
    if server.one_packet {
        text.write_str(" -o")?;
    }
    if server.scheduler_flags.contains(&true) {
        write!(text, " -b {}", flag_names(&server.scheduler, server.scheduler_flags))?;
    }
    text.write_char('\n')
}

fn saved_real_server(text: &mut String, real: &RealServer) -> fmt::Result {
    let method = match real.forward {
        Forward::Masquerade => "-m",
        Forward::Tunnel => "-i",
        Forward::Local | Forward::Route => "-g",
        Forward::Unnamed => "(null)",
    };
    write!(text, " {method} -w {}", real.weight.cast_signed())?;
    if real.forward == Forward::Tunnel {
        let tunnel = real.details.as_deref().map(|details| details.tunnel).unwrap_or_default();
        let checksum = match tunnel.flags.bits() {
            0 => "--tun-nocsum",
            1 => "--tun-csum",
            2 => "--tun-remcsum",
            _ => "(null)",
        };
        match tunnel.kind {
            TunnelKind::Ipip => text.write_str(" --tun-type ipip")?,
            TunnelKind::Gue => write!(text, " --tun-type gue --tun-port {} {checksum}", tunnel.port)?,
            TunnelKind::Gre => write!(text, " --tun-type gre {checksum}")?,
            TunnelKind::Other(_) => {}
        }
    }
    text.write_char('\n')
}

/// `ipip`, `gue:6080:+c`, `gre:-c`.
#[must_use]
pub fn tunnel_info(forward: Forward, tunnel: Tunnel) -> String {
    let checksum = match tunnel.flags {
        flags if flags.is_empty() => "-c",
        TunnelFlags::CHECKSUM => "+c",
        TunnelFlags::REMOTE_CHECKSUM => "r+c",
        _ => "(null)",
    };
    match tunnel.kind {
        _ if forward != Forward::Tunnel => "n/a".to_owned(),
        TunnelKind::Ipip => "ipip".to_owned(),
        TunnelKind::Gue => format!("gue:{}:{checksum}", tunnel.port),
        TunnelKind::Gre => format!("gre:{checksum}"),
        TunnelKind::Other(_) => "n/a".to_owned(),
    }
}

fn counters(traffic: &Traffic) -> [u64; 5] {
    let Traffic { connections, incoming_packets, outgoing_packets, incoming_bytes, outgoing_bytes, .. } = *traffic;
    [connections, incoming_packets, outgoing_packets, incoming_bytes, outgoing_bytes]
}

fn rates(traffic: &Traffic) -> [u64; 5] {
    [traffic.cps, traffic.inpps, traffic.outpps, traffic.inbps, traffic.outbps]
}

/// `print_largenum`.
fn large(text: &mut String, number: u64, exact: bool) -> fmt::Result {
    if exact {
        let digits = number.checked_ilog10().unwrap_or(0) + 1;
        let width = if digits <= 8 { 9 } else { usize::try_from(digits).unwrap_or(20) + 1 };
        return write!(text, "{number:>width$}");
    }
    match number {
        0..100_000_000 => write!(text, "{number:>9}"),
        100_000_000..1_000_000_000 => write!(text, "{:>8}K", number / 1_000),
        1_000_000_000..100_000_000_000 => write!(text, "{:>8}M", number / 1_000_000),
        100_000_000_000..100_000_000_000_000 => write!(text, "{:>8}G", number / 1_000_000_000),
        _ => write!(text, "{:>8}T", number / 1_000_000_000_000),
    }
}

/// Of a firewall mark `ipvsadm` knows none, so that its ports have no names.
fn protocol_of(frontend: Frontend) -> u16 {
    match frontend {
        Frontend::Address { protocol, .. } => protocol,
        Frontend::Fwmark { .. } => 0,
    }
}

/// As `ipvsadm` names a protocol.
#[must_use]
pub fn protocol_name(number: u16) -> &'static str {
    match number {
        6 => "TCP",
        17 => "UDP",
        132 => "SCTP",
        _ => "?",
    }
}

/// As `ipvsadm` names a forwarding method.
#[must_use]
pub fn forward_name(forward: Forward) -> &'static str {
    match forward {
        Forward::Masquerade => "Masq",
        Forward::Local => "Local",
        Forward::Tunnel => "Tunnel",
        Forward::Route => "Route",
        // What glibc's printf makes of the name that is not there.
        Forward::Unnamed => "(null)",
    }
}

/// The third flag of `sh` and `mh` has no name: alone it leaves the brackets empty.
fn flag_names(scheduler: &str, flags: [bool; 3]) -> String {
    let names: &[&str] = match scheduler {
        "sh" => &["sh-fallback", "sh-port"],
        "mh" => &["mh-fallback", "mh-port"],
        _ => &["flag-1", "flag-2", "flag-3"],
    };
    let set = names.iter().zip(flags).filter(|(_, set)| *set).map(|(name, _)| *name);
    set.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
#[path = "format_tests.rs"]
mod tests;
