//! A table as the bytes that `ipvsadm -Ln` 1.31 prints for it (`print_service_entry` in `ipvsadm.c`).
//!
//! `ipvsadm` cuts the names of IPv4 servers at 33 and 28 characters; a numeric one is never that long.

use super::table::{Forward, Frontend, Header, Netmask, Persistence, RealServer, Table, VirtualServer};
use crate::model::IpFamily;
use std::fmt::{self, Display, Write};
use std::net::{IpAddr, Ipv4Addr};

/// The whole listing. Only the first line depends on whether the table comes from IPVS.
#[must_use]
pub fn render(table: &Table) -> String {
    Listing(table).to_string()
}

struct Listing<'a>(&'a Table);

impl Display for Listing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(Header { version: (major, minor, patch), size }) = self.0.header {
            writeln!(f, "IP Virtual Server version {major}.{minor}.{patch} (size={size})")?;
        }
        f.write_str("Prot LocalAddress:Port Scheduler Flags\n")?;
        f.write_str("  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn\n")?;
        for server in &self.0.servers {
            virtual_server(f, server)?;
            for real in &server.real_servers {
                real_server(f, real)?;
            }
        }
        Ok(())
    }
}

fn virtual_server(f: &mut fmt::Formatter<'_>, server: &VirtualServer) -> fmt::Result {
    match server.frontend {
        Frontend::Address { protocol, address, port } => {
            write!(f, "{:<4} {}", protocol_name(protocol), Place(address, port))?;
        }
        // Marks are unsigned, but printed as signed.
        Frontend::Fwmark { mark, family: IpFamily::V4 } => write!(f, "FWM  {}", mark.cast_signed())?,
        Frontend::Fwmark { mark, family: IpFamily::V6 } => write!(f, "FWM  {} IPv6", mark.cast_signed())?,
    }
    write!(f, " {}", server.scheduler)?;
    if server.scheduler_flags.contains(&true) {
        write!(f, " ({})", flag_names(&server.scheduler, server.scheduler_flags))?;
    }
    if let Some(Persistence { seconds, netmask, engine }) = &server.persistence {
        write!(f, " persistent {seconds}")?;
        match netmask {
            Netmask::Host => {}
            Netmask::V4(mask) => write!(f, " mask {mask}")?,
            Netmask::V6(length) => write!(f, " mask {}", length.cast_signed())?,
        }
        if let Some(engine) = engine {
            write!(f, " pe {engine}")?;
        }
    }
    f.write_str(if server.one_packet { " ops\n" } else { "\n" })
}

fn real_server(f: &mut fmt::Formatter<'_>, real: &RealServer) -> fmt::Result {
    writeln!(
        f,
        "  -> {:<28} {:<7} {:<6} {:<10} {:<10}",
        Place(real.address, real.port),
        forward_name(real.forward),
        real.weight.cast_signed(),
        real.active_connections,
        real.inactive_connections
    )
}

fn protocol_name(number: u16) -> &'static str {
    match number {
        6 => "TCP",
        17 => "UDP",
        132 => "SCTP",
        _ => "?",
    }
}

fn forward_name(forward: Forward) -> &'static str {
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

/// `10.0.0.1:80` or `[fd00::1]:80`, the address as glibc's `inet_ntop` writes it.
struct Place(IpAddr, u16);

impl Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(address, port) = self;
        let mut text = String::with_capacity(48);
        match address {
            IpAddr::V4(v4) => write!(text, "{v4}:{port}")?,
            IpAddr::V6(v6) => match v6.segments() {
                // The deprecated "IPv4-compatible" addresses, which Rust writes like any other.
                [0, 0, 0, 0, 0, 0, high, low] if high != 0 => {
                    let v4 = Ipv4Addr::from_bits((u32::from(high) << 16) | u32::from(low));
                    write!(text, "[::{v4}]:{port}")?;
                }
                _ => write!(text, "[{v6}]:{port}")?,
            },
        }
        f.pad(&text)
    }
}

#[cfg(test)]
#[path = "format_tests.rs"]
mod tests;
