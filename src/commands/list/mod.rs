//! `kube-ipvs list`: the table of virtual and real servers, byte for byte as `ipvsadm -Ln` prints it.

pub mod format;
pub mod from_ipvs;
pub mod sort;
pub mod table;

use anyhow::Context;
use ipvs::Client;
use std::io::{ErrorKind, Write};
use std::process::ExitCode;
use table::Table;

/// Prints the table of virtual and real servers, as `ipvsadm -Ln` does.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ListArgs {
    /// Which table: the kernel's IPVS, or the same table read out of the iptables rules
    #[arg(long, value_name = "MODE", value_enum, default_value_t)]
    pub proxy_mode: ListMode,
    /// Accepted for the fingers' sake: addresses and ports are always printed as numbers
    #[arg(short, long)]
    pub numeric: bool,
}

/// Which table is listed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ListMode {
    /// The one in use: IPVS if it has virtual servers, otherwise the iptables rules.
    #[default]
    Auto,
    /// The kernel's IPVS.
    Ipvs,
    /// The iptables rules.
    Iptables,
}

/// Prints the listing to standard output. A reader who has seen enough (`| head`) is no failure.
///
/// # Errors
/// The table cannot be read: no IPVS, no permission; the message says what helps. Nothing was printed then.
pub fn run(args: &ListArgs) -> anyhow::Result<ExitCode> {
    match print(args, &mut std::io::stdout().lock()) {
        Err(error) if is_broken_pipe(&error) => Ok(ExitCode::SUCCESS),
        printed => printed.map(|()| ExitCode::SUCCESS),
    }
}

/// Prints the listing of the calling thread's network namespace to `out`.
///
/// # Errors
/// The table cannot be read, or `out` fails.
pub fn print(args: &ListArgs, out: &mut dyn Write) -> anyhow::Result<()> {
    let text = format::render(&read(args.proxy_mode)?);
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("cannot print the listing")
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}

/// Reads the table that `mode` names.
///
/// # Errors
/// It cannot be read.
pub fn read(mode: ListMode) -> anyhow::Result<Table> {
    match mode {
        ListMode::Auto | ListMode::Ipvs => read_ipvs(),
        ListMode::Iptables => anyhow::bail!("not yet"),
    }
}

fn read_ipvs() -> anyhow::Result<Table> {
    let mut client = Client::connect().map_err(|error| with_remedy(error))?;
    from_ipvs::read(&mut client).map_err(|error| with_remedy(error))
}

/// The error and what its reader can do about it.
fn with_remedy(error: ipvs::Error) -> anyhow::Error {
    let remedy = match error {
        ipvs::Error::FamilyMissing => {
            "the IPVS table cannot be listed; `modprobe ip_vs` loads it where the kernel was built with CONFIG_IP_VS, \
             and `--proxy-mode iptables` lists the iptables rules instead"
        }
        ipvs::Error::PermissionDenied { .. } => "the IPVS table cannot be listed; run this as root",
        _ => "the IPVS table cannot be listed",
    };
    anyhow::Error::new(error).context(remedy)
}
