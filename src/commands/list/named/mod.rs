//! The table with the names of the cluster, in every form but `ipvsadm`'s; and what is left out of it.
//!
//! | file | what |
//! |---|---|
//! | `row.rs` | a virtual server and its real servers, named |
//! | `filter.rs` | which of them are wanted |
//! | `wide.rs` | columns for people |
//! | `data.rs` | JSON, YAML, CSV |

mod data;
mod filter;
mod row;
mod wide;

pub use row::{Namer, RealRow, ServerRow};

use super::args::{ListArgs, OutputForm};
use super::beside::fill_and_print;
use super::format::{self, Printer};
use super::from_ipvs::{self, RealServers};
use super::output::{Failure, Output};
use super::request::{Format, Request, What};
use super::table::VirtualServer;
use super::{Found, with_remedy};
use crate::kernel::addresses;
use anyhow::Context;
use filter::Filter;
use ipvs::Client;

/// Prints what matches.
///
/// # Errors
/// The table or the names that were asked for cannot be read, or `out` fails.
pub fn print(args: &ListArgs, request: &Request, found: Found, out: &mut Output<'_>) -> anyhow::Result<()> {
    let filter = Filter::new(&args.filter)?;
    // Beside each other: the daemon makes its lines while the kernel makes its own.
    let (names, opened) = std::thread::scope(|scope| {
        let names = scope.spawn(|| args.names.fetch());
        let opened = Source::open(found, request);
        (names.join(), opened)
    });
    let names = names.map_err(|_| anyhow::anyhow!("the names could not be fetched"))??;
    // They are needed to the end; to take them apart piece by piece then would be of no use to anybody.
    let names = std::mem::ManuallyDrop::new(names);
    if let Some(reason) = names.missing() {
        if filter.needs_names() {
            let message = format!("there are no names to select by: {reason}; or give --manifests or --kubeconfig");
            return Err(Failure { message, status: 1 }.into());
        }
        tracing::warn!("addresses only, no names: {reason}");
    }
    let own = addresses::node_addresses().context("the node ports cannot be told from foreign virtual servers")?;
    let namer = Namer::new(&names, own.into_iter().map(|found| found.address));
    let (mut source, mut servers) = opened?;
    let mut writer = Writer::new(args, request.format, &names);
    let mut text = String::new();
    // The names of all of them at once would take more room than the table.
    servers.retain(|server| {
        let row = namer.server(server);
        let matches = filter.may_match(&row) && wanted(request.what, server);
        if matches {
            writer.expect(&row, &mut text);
        }
        matches
    });
    writer.begin(out);
    let print = |(server, row): (VirtualServer, ServerRow<'_>)| {
        writer.server(&server, &row, out)?;
        out.pass()
    };
    let fill = |(server, row): &mut (VirtualServer, _)| {
        source.fill(server)?;
        namer.real_servers(server, row);
        let kept = filter.keep(row);
        if row.real_servers.len() < server.real_servers.len() {
            server.real_servers.retain(|real| row.real_servers.iter().any(|kept| kept.is(real)));
        }
        Ok(kept)
    };
    let rows = servers.into_iter().map(|server| {
        let row = namer.server(&server);
        (server, row)
    });
    fill_and_print(rows, fill, print)?;
    writer.end(out);
    out.flush()
}

fn wanted(what: What, server: &VirtualServer) -> bool {
    match what {
        What::Service(id) => from_ipvs::frontend(id) == server.frontend,
        _ => true,
    }
}

/// Where real servers come from.
enum Source {
    Kernel(Box<Client>, RealServers),
    /// They are there already.
    Table,
}

impl Source {
    fn open(found: Found, request: &Request) -> anyhow::Result<(Self, Vec<VirtualServer>)> {
        match found {
            Found::Ipvs(mut client) => {
                let sorted = !request.format.unsorted;
                let found = from_ipvs::servers(&mut client, request.format.columns.into(), sorted);
                let (servers, real_servers) = found.map_err(|error| with_remedy(error.into()))?;
                Ok((Self::Kernel(Box::new(client), real_servers), servers))
            }
            Found::Rules(table) => Ok((Self::Table, table.servers)),
        }
    }

    fn fill(&mut self, server: &mut VirtualServer) -> anyhow::Result<()> {
        match self {
            Self::Kernel(client, real_servers) => {
                real_servers.fill(client, server).map_err(|error| with_remedy(error.into()))
            }
            Self::Table => Ok(()),
        }
    }
}

/// A form.
enum Writer {
    Ipvsadm(Printer, Format),
    Wide(wide::Wide),
    Data(data::Data),
}

impl Writer {
    fn new(args: &ListArgs, format: Format, names: &crate::commands::names::Names) -> Self {
        match args.output {
            OutputForm::Ipvsadm => Self::Ipvsadm(Printer::new(format), format),
            OutputForm::Wide => Self::Wide(wide::Wide::new(wide::colored(args.color), names)),
            OutputForm::Json => Self::Data(data::Data::json()),
            OutputForm::Yaml => Self::Data(data::Data::yaml()),
            OutputForm::Csv => Self::Data(data::Data::csv()),
        }
    }

    fn expect(&mut self, row: &ServerRow<'_>, text: &mut String) {
        if let Self::Wide(wide) = self {
            wide.expect(row, text);
        }
    }

    fn begin(&mut self, out: &mut Output<'_>) {
        match self {
            Self::Ipvsadm(_, format) => out.text().push_str(format::title(format.columns)),
            Self::Wide(wide) => wide.begin(out.text()),
            Self::Data(data) => data.begin(out.text()),
        }
    }

    fn server(&mut self, server: &VirtualServer, row: &ServerRow<'_>, out: &mut Output<'_>) -> anyhow::Result<()> {
        match self {
            Self::Ipvsadm(printer, _) => printer.server(out.text(), server),
            Self::Wide(wide) => wide.server(row, out.text()),
            Self::Data(data) => data.server(row, out.text())?,
        }
        Ok(())
    }

    fn end(&mut self, out: &mut Output<'_>) {
        if let Self::Data(data) = self {
            data.end(out.text());
        }
    }
}
