//! `kube-ipvs explain`: what happens to a packet here and why, from what is desired and from the kernel, and where the two
//! differ. Changes nothing.
//!
//! Without a source of Services there is only the kernel's side. Its endpoints get the names that the wanted side knows
//! ([`Answer::name_after`]); whoever knows names from elsewhere can hand them over in the same way.

mod kernel;
mod print;
mod question;
pub mod report;
mod sets;
mod virtual_servers;

use super::output::Form;
use super::source::Opened;
use super::{duties, node, require_root};
use crate::config::{Config, ProxyArgs, ProxyMode};
use crate::desired::verdict::{self, Packet};
use crate::desired::{Builder, NodeFacts};
use crate::exit::Exit;
use crate::kernel::routing::{self, Query};
use crate::model::Protocol;
use anyhow::Context;
use clap::Args;
use kernel::Kernel;
use question::{Sender, Target};
use report::{Answer, Report};
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;
use tracing::warn;

/// Flags of `explain`.
#[derive(Debug, Clone, Args)]
pub struct ExplainArgs {
    /// The sender: an address, an address with its port, or `node`
    #[arg(value_name = "SRC")]
    from: Sender,
    /// What it asks for: address, port and protocol, such as 172.30.0.10:80/tcp or [fd00:172:30::10]:53/udp
    #[arg(value_name = "DST:PORT/PROTO")]
    to: Target,
    /// The interface by which the packet comes in [default: the one by which the node reaches SRC]
    #[arg(long = "in", value_name = "INTERFACE")]
    input: Option<String>,
    /// How it is printed; docs/explain.md names the fields
    #[arg(short, long, value_enum, default_value_t)]
    output: Form,
    #[command(flatten)]
    proxy: ProxyArgs,
}

impl ExplainArgs {
    /// The flags of a source of Services, and what they mean.
    pub fn proxy(&self) -> &ProxyArgs {
        &self.proxy
    }

    /// Whether a source of Services was named. A pod's own API server is not asked unasked.
    fn has_source(&self) -> bool {
        let named = self.proxy.config.is_some() || self.proxy.kube_ipvs_config.is_some();
        let api = self.proxy.master.is_some() || self.proxy.kube_proxy.kubeconfig.is_some();
        named || api || !self.proxy.manifests.is_empty()
    }
}

/// Explains the packet.
///
/// # Errors
/// When the kernel, or the source of Services, cannot be read.
pub fn run(args: &ExplainArgs, config: &Config) -> anyhow::Result<Exit> {
    require_root("explain")?;
    let report = explain(args, config)?;
    print::print(&report, args.output)?;
    Ok(if report.differences.is_empty() { Exit::Success } else { Exit::Changes })
}

fn explain(args: &ExplainArgs, config: &Config) -> anyhow::Result<Report> {
    let kernel = Kernel::read(crate::model::IpFamily::of(args.to.address.ip()))?;
    let asked = asked(args, &kernel)?;
    let modes = kernel.modes();
    let mut answer = match (&asked.unreachable, asked.source) {
        (None, Some(source)) => kernel.answer(&traced(args, &asked, source)),
        (reason, _) => unroutable(reason.clone().unwrap_or_default()),
    };
    let wanted = match asked.source.filter(|_| args.has_source()) {
        Some(source) => {
            let bound = bound(&modes, config);
            Some(wanted(args, config, &asked, source, bound)?)
        }
        None => None,
    };
    answer.open_with = asked.source.zip(asked.port).and_then(|(source, port)| {
        kernel.open_connection(args.to.protocol, SocketAddr::new(source, port), args.to.address)
    });
    if let Some(wanted) = &wanted {
        answer.name_after(wanted);
    }
    let differences = wanted.as_ref().map(|wanted| report::differences(wanted, &answer)).unwrap_or_default();
    Ok(Report {
        packet: report::Packet {
            protocol: args.to.protocol.as_str(),
            source: asked.source,
            source_port: asked.port,
            destination: args.to.address,
            input: asked.input,
        },
        wanted,
        kernel: answer,
        modes,
        differences,
        doubts: kernel.doubts(),
    })
}

/// Whether service addresses are the node's own: as the kernel has it, or else as is configured.
fn bound(modes: &[&str], config: &Config) -> bool {
    match modes {
        [] => config.mode == ProxyMode::Ipvs,
        modes => !modes.contains(&"iptables"),
    }
}

/// The packet, with what the kernel has to say of its sender.
struct Asked {
    source: Option<IpAddr>,
    port: Option<u16>,
    input: Option<String>,
    unreachable: Option<String>,
}

fn asked(args: &ExplainArgs, kernel: &Kernel) -> anyhow::Result<Asked> {
    let destination = args.to.address.ip();
    let query = |destination| Query { destination, source: None, input: None };
    let (source, port) = match args.from {
        Sender::Node(port) => {
            anyhow::ensure!(args.input.is_none(), "--in: what the node itself sends comes in by no interface");
            let route = kernel.route(query(destination));
            let unreachable = match &route {
                routing::Answer::Nowhere(reason) => Some(reason.clone()),
                _ => None,
            };
            return Ok(Asked { source: route.source(), port, input: None, unreachable });
        }
        Sender::Address(source, port) => (source, port),
    };
    anyhow::ensure!(
        source.is_ipv4() == destination.is_ipv4(),
        "{source} and {destination} are of different families; give both addresses of one family"
    );
    let input = match (&args.input, kernel.route(query(source))) {
        (Some(input), _) => Some(input.clone()),
        (None, routing::Answer::Local { .. }) => None,
        (None, routing::Answer::Out { interface, .. }) => Some(interface),
        (None, routing::Answer::Nowhere(reason)) => {
            anyhow::bail!("the node does not reach {source} ({reason}); say with --in by which interface it comes in")
        }
    };
    Ok(Asked { source: Some(source), port, input, unreachable: None })
}

fn traced(args: &ExplainArgs, asked: &Asked, source: IpAddr) -> iptables::tracer::Packet {
    let protocol = match args.to.protocol {
        Protocol::Tcp => iptables::Protocol::Tcp,
        Protocol::Udp => iptables::Protocol::Udp,
        Protocol::Sctp => iptables::Protocol::Sctp,
    };
    // Some port that a client would have.
    let source = SocketAddr::new(source, asked.port.unwrap_or(50_000));
    let packet = iptables::tracer::Packet::new(protocol, source, args.to.address);
    match &asked.input {
        Some(input) => packet.arriving_at(input.as_str()),
        None => packet,
    }
}

fn unroutable(reason: String) -> Answer {
    Answer {
        fate: "unroutable",
        service: None,
        kind: None,
        endpoints: Vec::new(),
        affinity_seconds: None,
        sticks_to: None,
        open_with: None,
        steps: vec![format!("the node cannot send it: {reason}")],
    }
}

/// What is to become of it, as the Services want it.
fn wanted(args: &ExplainArgs, config: &Config, asked: &Asked, source: IpAddr, bound: bool) -> anyhow::Result<Answer> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let snapshot = runtime.block_on(async { Opened::open(config).await?.look().await })?;
    let facts: NodeFacts = node::facts().context("reading the node's addresses")?;
    let mut builder = Builder::new(duties::settings(config)).naming_pods();
    builder.update(&snapshot, &facts, Instant::now());
    let packet = Packet {
        protocol: args.to.protocol,
        source,
        input: asked.input.as_deref().map(Into::into),
        destination: args.to.address,
    };
    for refusal in builder.refusals() {
        warn!("{refusal}");
    }
    Ok(verdict::verdict(builder.desired().get(packet.family()), &packet, bound).into())
}
