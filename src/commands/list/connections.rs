//! The connections of IPVS as `ipvsadm -Lc` prints them (`list_conn` and `print_conn` in `ipvsadm.c`): a line of
//! `/proc/net/ip_vs_conn` each, printed as it is read.

use super::request::Format;
use super::resolve::Resolver;
use anyhow::Context;
use ipvs::connections::Line;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};

/// Prints them.
///
/// # Errors
/// The file cannot be read or is not understood, or `out` fails.
pub fn print(format: Format, out: &mut dyn Write) -> anyhow::Result<()> {
    let path = ipvs::connections::PATH;
    let file = File::open(path).with_context(|| format!("cannot open file {path}"))?;
    out.write_all(title(format).as_bytes())?;
    let mut resolver = Resolver::new(format.numeric);
    let (mut line, mut text) = (String::new(), String::new());
    let mut reader = BufReader::with_capacity(64 * 1024, file);
    reader.read_line(&mut line).with_context(|| format!("unexpected input from {path}"))?;
    loop {
        line.clear();
        if reader.read_line(&mut line).with_context(|| format!("cannot read {path}"))? == 0 {
            return Ok(());
        }
        text.clear();
        let entry = Line::read(&line).with_context(|| format!("{path}: not a connection: {line:?}"))?;
        write(&entry, &mut text, format, &mut resolver)?;
        out.write_all(text.as_bytes())?;
    }
}

fn title(format: Format) -> String {
    let (state, source, server, destination) = ("state", "source", "virtual", "destination");
    let start = format!("IPVS connection entries\npro expire {state:<11} {source:<18} {server:<18} ");
    if format.engines {
        return format!("{start}{destination:<18} {:<16} pe_data\n", "pe name");
    }
    format!("{start}{destination}\n")
}

fn write(entry: &Line<'_>, text: &mut String, format: Format, resolver: &mut Resolver) -> std::fmt::Result {
    let protocol = match entry.protocol {
        "TCP" => 6,
        "UDP" => 17,
        "SCTP" => 132,
        _ => 0,
    };
    let [client, server, destination] = [entry.client, entry.server, entry.destination].map(|at| {
        let mut place = String::new();
        resolver.write(&mut place, at.ip(), at.port(), protocol);
        place
    });
    let expire = format!("{:02}:{:02}", entry.expires / 60, entry.expires % 60);
    let (name, state) = (entry.protocol, entry.state);
    write!(text, "{name:<3} {expire:<6} {state:<11} {client:<18} {server:<18} ")?;
    match entry.engine {
        Some((engine, data)) if format.engines => writeln!(text, "{destination:<16} {engine:<18} {data}"),
        _ => writeln!(text, "{destination}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(line: &str, engines: bool) -> String {
        let format = Format { numeric: true, engines, ..Format::default() };
        let mut text = String::new();
        write(&Line::read(line).unwrap(), &mut text, format, &mut Resolver::new(true)).unwrap();
        text
    }

    #[test]
    fn lines_as_ipvsadm_prints_them() {
        let tcp = "TCP C0A80001 9C40 AC1E0016 0050 0AB40001 1F90 ESTABLISHED    899";
        assert_eq!(
            printed(tcp, false),
            "TCP 14:59  ESTABLISHED 192.168.0.1:40000  172.30.0.22:80     10.180.0.1:8080\n"
        );
        let sip = "UDP C0A80001 0000 AC1E0016 13C4 0AB40001 13C4 UDP             42 sip 0123@host";
        assert_eq!(
            printed(sip, true),
            "UDP 00:42  UDP         192.168.0.1:0      172.30.0.22:5060   10.180.0.1:5060  sip                0123@host\n"
        );
        assert!(Line::read("TCP C0A80001 9C40").is_none());
    }
}
