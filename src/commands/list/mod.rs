//! `kube-ipvs list`: the table of virtual and real servers, byte for byte as `ipvsadm` prints it, or with the names of the
//! cluster. In iptables mode the rules are the same table. docs/list.md shows it.
//!
//! | file | what |
//! |---|---|
//! | `args.rs`, `request.rs` | flags; what they ask for |
//! | `ipvsadm/` | the command line of `ipvsadm`, for when the program is started under that name |
//! | `table.rs` | what a listing shows, wherever it comes from |
//! | `from_ipvs.rs`, `from_rules.rs` | the kernel's IPVS, the iptables rules |
//! | `sort.rs`, `format.rs`, `columns.rs`, `resolve.rs` | `ipvsadm`'s order, bytes, columns, names |
//! | `connections.rs`, `settings.rs` | `-c`; `--timeout`, `--daemon` |
//! | `named/` | the table with names, as columns, JSON, YAML, CSV; filters |
//! | `beside.rs`, `output.rs` | rows are filled while others are printed; standard output in pieces |
//! | `watch.rs` | again and again |

pub mod args;
mod beside;
mod columns;
pub mod connections;
pub mod format;
pub mod from_ipvs;
pub mod from_rules;
pub mod ipvsadm;
pub mod named;
mod output;
pub mod request;
mod resolve;
mod rules;
mod settings;
pub mod sort;
pub mod table;
mod watch;

pub use args::{ListArgs, ListMode};
pub use output::Output;

use args::OutputForm;
use beside::fill_and_print;
use format::Printer;
use from_ipvs::{Depth, RealServers};
use ipvs::Client;
use output::{Failure, exit, finish};
use request::{Columns, Request, What};
use std::io::{BufRead, BufReader};
use std::process::ExitCode;
use table::{Frontend, Table, VirtualServer};

/// Prints the listing to standard output. A reader who has seen enough (`| head`) is no failure.
///
/// # Errors
/// The table cannot be read: no IPVS, no permission; the message says what helps. At most the titles were printed then.
pub fn run(args: &ListArgs) -> anyhow::Result<ExitCode> {
    Ok(exit(match args.watch {
        Some(period) => watch::run(args, period),
        None => print(args, &mut Output::stdout()),
    }))
}

/// Prints the listing of the calling thread's network namespace.
///
/// # Errors
/// The table cannot be read, or `out` fails.
pub fn print(args: &ListArgs, out: &mut Output<'_>) -> anyhow::Result<()> {
    let request = args.ipvsadm.request().map_err(|message| Failure { message: message.to_owned(), status: 2 })?;
    if args.output != OutputForm::Ipvsadm || args.filter.given() {
        if !of_table(request.what) {
            let message = "names, filters and other forms are of the table only: not with -c, -S, --timeout, --daemon";
            return Err(Failure { message: message.to_owned(), status: 2 }.into());
        }
        return named::print(args, &request, read(args.proxy_mode)?, out);
    }
    match of_table(request.what) {
        true => match read(args.proxy_mode)? {
            Found::Ipvs(mut client) => list(&mut client, &request, out).map_err(with_remedy),
            Found::Rules(table) => list_rules(&table, &request, out),
        },
        false => {
            if args.proxy_mode == ListMode::Iptables {
                let message = "only IPVS has connections, timeouts, daemons and rules of its own; see conntrack -L, \
                               iptables-save"
                    .to_owned();
                return Err(Failure { message, status: 2 }.into());
            }
            let mut client = Client::connect().map_err(|error| with_remedy(error.into()))?;
            list(&mut client, &request, out).map_err(with_remedy)
        }
    }
}

/// Whether virtual servers are asked for, which both modes have.
fn of_table(what: What) -> bool {
    matches!(what, What::All | What::Service(_))
}

/// What `ipvsadm` prints, with its words and exit codes.
///
/// # Errors
/// The table cannot be read, or `out` fails.
pub fn print_ipvs(request: &Request, out: &mut Output<'_>) -> anyhow::Result<()> {
    let mut client = Client::connect().map_err(|error| {
        let reason = match &error {
            ipvs::Error::FamilyMissing => "Protocol not available".to_owned(),
            ipvs::Error::PermissionDenied { .. } => "Permission denied (you must be root)".to_owned(),
            other => other.to_string(),
        };
        let sure = "Are you sure that IP Virtual Server is built in the kernel or as module?";
        Failure { message: format!("Can't initialize ipvs: {reason}\n{sure}"), status: 2 }
    })?;
    list(&mut client, request, out)
}

/// Text on standard output.
fn write_text(text: &str) -> anyhow::Result<()> {
    let mut out = Output::stdout();
    out.text().push_str(text);
    out.flush()
}

/// Lists what IPVS has.
fn list(client: &mut Client, request: &Request, out: &mut Output<'_>) -> anyhow::Result<()> {
    let sorted = !request.format.unsorted;
    let depth = request.format.columns.into();
    let mut printer = Printer::new(request.format);
    match request.what {
        What::All => {
            out.text().push_str(&format::header(from_ipvs::header(client)?));
            out.text().push_str(format::title(request.format.columns));
            // At once, however large the table is.
            out.flush()?;
            each_server(client, depth, sorted, out, |text, server| printer.server(text, server))?;
        }
        What::Save => {
            let depth = Depth::Tunnels;
            each_server(client, depth, sorted, out, |text, server| printer.save(text, server))?;
        }
        What::Service(id) => {
            let mut server = from_ipvs::server(client, &id)?.ok_or_else(no_such_service)?;
            RealServers::new(Depth::All, sorted).fill(client, &mut server)?;
            out.text().push_str(format::title(request.format.columns));
            printer.server(out.text(), &server);
        }
        What::Connections => connections::print(request.format, out)?,
        What::Timeout => *out.text() = settings::timeouts(client)?,
        What::Daemon => *out.text() = settings::daemons(client)?,
    }
    out.flush()
}

/// Prints one virtual server of IPVS after the other.
fn each_server(
    client: &mut Client,
    depth: Depth,
    sorted: bool,
    out: &mut Output<'_>,
    mut print: impl FnMut(&mut String, &VirtualServer),
) -> anyhow::Result<()> {
    let (servers, mut real_servers) = from_ipvs::servers(client, depth, sorted)?;
    let fill = |server: &mut _| Ok(real_servers.fill(client, server).map(|()| true)?);
    fill_and_print(servers, fill, |server| {
        print(out.text(), &server);
        out.pass()
    })
}

fn no_such_service() -> Failure {
    Failure { message: "No such service".to_owned(), status: 1 }
}

/// Lists what the rules are.
fn list_rules(table: &Table, request: &Request, out: &mut Output<'_>) -> anyhow::Result<()> {
    if request.format.columns == Columns::Rate {
        let message = "iptables counts, but keeps no rates: see `kube-ipvs top`, or --stats twice".to_owned();
        return Err(Failure { message, status: 2 }.into());
    }
    let wanted = |frontend: Frontend| match request.what {
        What::Service(id) => from_ipvs::frontend(id) == frontend,
        _ => true,
    };
    let mut printer = Printer::new(request.format);
    let mut found = request.what == What::All;
    out.text().push_str(format::title(request.format.columns));
    for server in table.servers.iter().filter(|server| wanted(server.frontend)) {
        found = true;
        printer.server(out.text(), server);
        out.pass()?;
    }
    if !found {
        out.text().clear();
        return Err(no_such_service().into());
    }
    out.flush()
}

/// Where the table is.
#[derive(Debug)]
pub enum Found {
    /// In the kernel's IPVS.
    Ipvs(Client),
    /// In the iptables rules, sorted.
    Rules(Table),
}

/// Finds the table that `mode` names.
///
/// # Errors
/// It cannot be read.
pub fn read(mode: ListMode) -> anyhow::Result<Found> {
    match mode {
        ListMode::Auto => read_the_one_in_use(),
        ListMode::Ipvs => Client::connect().map(Found::Ipvs).map_err(|error| with_remedy(error.into())),
        ListMode::Iptables => rules::read().map(|(table, _)| Found::Rules(table)),
    }
}

/// IPVS if it has virtual servers. Without any, the rules decide: a service in them means iptables mode, and chains of
/// IPVS mode mean that its table is empty.
fn read_the_one_in_use() -> anyhow::Result<Found> {
    // To ask over netlink would load the module.
    let mut empty = None;
    if let Ok(file) = std::fs::File::open(ipvs::proc::PATH) {
        let mut client = Client::connect().map_err(|error| with_remedy(error.into()))?;
        // Three lines are titles. Before 2026 kernels pass over rows, so that only netlink is believed about none.
        let some = BufReader::new(file).lines().nth(3).is_some_and(|line| line.is_ok());
        if some || !client.services().map_err(|error| with_remedy(error.into()))?.is_empty() {
            return Ok(Found::Ipvs(client));
        }
        empty = Some(client);
    }
    match (rules::read(), empty) {
        (Ok((rules, true)), Some(client)) if rules.servers.is_empty() => Ok(Found::Ipvs(client)),
        (Ok((rules, _)), _) => Ok(Found::Rules(rules)),
        (Err(error), Some(client)) => {
            tracing::debug!("{error:#}");
            Ok(Found::Ipvs(client))
        }
        (Err(error), None) => Err(error),
    }
}

/// The error and what its reader can do about it.
fn with_remedy(error: anyhow::Error) -> anyhow::Error {
    let remedy = match error.downcast_ref::<ipvs::Error>() {
        Some(ipvs::Error::FamilyMissing) => {
            " (`modprobe ip_vs` loads it where the kernel has it as a module; `--proxy-mode iptables` lists the \
             iptables rules instead)"
        }
        Some(ipvs::Error::PermissionDenied { .. }) => " (run this as root)",
        Some(_) => "",
        None => return error,
    };
    error.context(format!("the IPVS table cannot be listed{remedy}"))
}
