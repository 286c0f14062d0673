//! The flags of `kube-ipvs list`: `ipvsadm`'s own, and those for what `ipvsadm` cannot.

use super::ipvsadm;
use super::request::{Format, Given, Request, What};
use crate::commands::names::{NamesArgs, Selector};
use clap::{Args, ValueEnum};
use ipvs::{AddressFamily, Protocol, ServiceId};
use std::net::IpAddr;
use std::time::Duration;

/// Prints virtual and real servers, as `ipvsadm` does or with the names of the cluster.
#[derive(Debug, Clone, Default, Args)]
pub struct ListArgs {
    /// Which table: the kernel's IPVS, or the same table read out of the iptables rules
    #[arg(long, value_name = "MODE", value_enum, default_value_t)]
    pub proxy_mode: ListMode,
    #[command(flatten)]
    pub ipvsadm: IpvsadmArgs,
    /// How it is printed; all but ipvsadm's form have names
    #[arg(short, long, value_enum, default_value_t)]
    pub output: OutputForm,
    #[command(flatten)]
    pub filter: FilterArgs,
    /// Print it again and again, every so many seconds
    #[arg(short, long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "2", value_parser = seconds)]
    pub watch: Option<Duration>,
    /// Colours, with -o wide; not where NO_COLOR is set
    #[arg(long, value_enum, default_value_t, value_name = "WHEN")]
    pub color: Colors,
    #[command(flatten)]
    pub names: NamesArgs,
}

/// Which table is listed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum ListMode {
    /// The one in use: IPVS if it has virtual servers, otherwise the iptables rules.
    #[default]
    Auto,
    /// The kernel's IPVS.
    Ipvs,
    /// The iptables rules.
    Iptables,
}

/// How a listing is printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum OutputForm {
    /// The bytes of `ipvsadm -Ln`
    #[default]
    Ipvsadm,
    /// With names, kinds of address, pods, nodes, zones and states, in columns
    Wide,
    /// The same as one JSON array
    Json,
    /// The same as YAML
    Yaml,
    /// The same as a line of CSV for each real server
    Csv,
}

/// When there are colours.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Colors {
    /// On a terminal
    #[default]
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// `ipvsadm`'s options of a listing.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "As ipvsadm")]
pub struct IpvsadmArgs {
    /// Addresses and ports as numbers; so they are printed anyway, unless --resolve is given
    #[arg(short, long, conflicts_with = "resolve")]
    pub numeric: bool,
    /// Names of hosts and ports instead of numbers, as ipvsadm without -n prints them
    #[arg(long)]
    pub resolve: bool,
    /// Connections, packets and bytes so far
    #[arg(long)]
    pub stats: bool,
    /// The same in a second
    #[arg(long)]
    pub rate: bool,
    /// Connections at which real servers are full
    #[arg(long)]
    pub thresholds: bool,
    /// Clients that stay with a real server; with -c the data of persistence engines
    #[arg(long)]
    pub persistent_conn: bool,
    /// Encapsulations
    #[arg(long)]
    pub tun_info: bool,
    /// How long idle connections live
    #[arg(long, conflicts_with_all = SERVICES)]
    pub timeout: bool,
    /// The synchronisation daemons
    #[arg(long, conflicts_with_all = SERVICES, conflicts_with = "timeout")]
    pub daemon: bool,
    /// The connections
    #[arg(short, long, conflicts_with_all = SERVICES, conflicts_with_all = ["timeout", "daemon"])]
    pub connection: bool,
    /// Only this virtual server
    #[arg(short, long, value_name = "ADDRESS[:PORT]", group = "virtual_server", value_parser = tcp)]
    pub tcp_service: Option<ServiceId>,
    /// Only this virtual server
    #[arg(short, long, value_name = "ADDRESS[:PORT]", group = "virtual_server", value_parser = udp)]
    pub udp_service: Option<ServiceId>,
    /// Only this virtual server
    #[arg(long, value_name = "ADDRESS[:PORT]", group = "virtual_server", value_parser = sctp)]
    pub sctp_service: Option<ServiceId>,
    /// Only the virtual server of this firewall mark
    #[arg(short, long, value_name = "MARK", group = "virtual_server", value_parser = clap::value_parser!(u32).range(1..))]
    pub fwmark_service: Option<u32>,
    /// The firewall mark's virtual server for IPv6
    #[arg(short = '6', long, requires = "fwmark_service")]
    pub ipv6: bool,
    /// All digits of large numbers
    #[arg(short = 'X', long)]
    pub exact: bool,
    /// In the kernel's order
    #[arg(long)]
    pub nosort: bool,
    /// In ipvsadm's order, which is the default
    #[arg(long, overrides_with = "nosort")]
    pub sort: bool,
    /// The whole table as lines that `ipvsadm -R` restores
    #[arg(short = 'S', long, conflicts_with_all = SERVICES, conflicts_with_all = ["stats", "rate", "thresholds", "persistent_conn", "tun_info", "timeout", "daemon", "connection", "exact", "nosort"])]
    pub save: bool,
}

const SERVICES: [&str; 4] = ["tcp_service", "udp_service", "sctp_service", "fwmark_service"];

/// What is listed of the table.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Only what matches")]
pub struct FilterArgs {
    /// Services of this namespace; -n is ipvsadm's
    #[arg(short = 'N', long, value_name = "NAME")]
    pub namespace: Option<String>,
    /// Services of this name, or NAMESPACE/NAME; * stands for anything
    #[arg(short, long, value_name = "NAME")]
    pub service: Option<String>,
    /// Virtual or real servers at this address
    #[arg(short, long, value_name = "IP")]
    pub address: Option<IpAddr>,
    /// Virtual or real servers at this port
    #[arg(short, long, value_name = "PORT")]
    pub port: Option<u16>,
    /// Real servers in this state
    #[arg(long, value_name = "STATE", value_parser = ["serving", "terminating", "draining", "not-ready", "unlisted"])]
    pub state: Option<String>,
    /// Services with these labels, as kubectl selects them: app=web,tier!=back
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    pub selector: Option<Selector>,
    /// Only virtual servers that belong to no Service
    #[arg(long, conflicts_with_all = ["namespace", "service", "selector"])]
    pub foreign: bool,
}

impl FilterArgs {
    /// Whether anything is asked for.
    #[must_use]
    pub fn given(&self) -> bool {
        let Self { namespace, service, address, port, state, selector, foreign } = self;
        namespace.is_some()
            || service.is_some()
            || address.is_some()
            || port.is_some()
            || state.is_some()
            || selector.is_some()
            || *foreign
    }
}

impl IpvsadmArgs {
    /// As a request.
    ///
    /// # Errors
    /// The options exclude each other.
    pub fn request(&self) -> Result<Request, &'static str> {
        if self.save {
            let format = Format { numeric: !self.resolve, ..Format::default() };
            return Ok(Request { what: What::Save, format });
        }
        let family = if self.ipv6 { AddressFamily::Ipv6 } else { AddressFamily::Ipv4 };
        let mark = self.fwmark_service.map(|mark| ServiceId::fwmark(mark, family));
        Given {
            numeric: !self.resolve,
            connection: self.connection,
            service: self.tcp_service.or(self.udp_service).or(self.sctp_service).or(mark),
            timeout: self.timeout,
            daemon: self.daemon,
            stats: self.stats,
            rate: self.rate,
            thresholds: self.thresholds,
            persistent: self.persistent_conn,
            tunnels: self.tun_info,
            unsorted: self.nosort,
            exact: self.exact,
        }
        .request()
    }
}

fn tcp(text: &str) -> Result<ServiceId, String> {
    place(text, Protocol::Tcp)
}

fn udp(text: &str) -> Result<ServiceId, String> {
    place(text, Protocol::Udp)
}

fn sctp(text: &str) -> Result<ServiceId, String> {
    place(text, Protocol::Sctp)
}

fn place(text: &str, protocol: Protocol) -> Result<ServiceId, String> {
    ipvsadm::service(text, protocol).ok_or_else(|| "illegal virtual server address[:port] specified".to_owned())
}

/// A number of seconds, `0.5` among them.
///
/// # Errors
/// It is none, or too small a one.
pub fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds
        .filter(|span| *span >= Duration::from_millis(100))
        .ok_or_else(|| "not a number of seconds, 0.1 at least".to_owned())
}
