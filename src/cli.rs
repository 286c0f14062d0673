//! The command line: under which name, which command, and how it logs.

mod examples;
mod kube_proxy;
mod log;
mod manual;

pub use kube_proxy::KubeProxyCli;
pub use log::LogArgs;

use crate::commands;
use crate::config::{Invocation, Loaded, Loader, Logging, ProxyArgs};
use crate::exit::Exit;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

/// A Kubernetes service proxy for the node: IPVS and iptables through one reconciler.
#[derive(Debug, Parser)]
#[command(name = "kube-ipvs", version, max_term_width = 110)]
pub struct Cli {
    #[command(flatten)]
    log: LogArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Keep the kernel as the Services want it, until stopped
    Run(Box<commands::run::RunArgs>),
    /// Say what `run` would change, changing nothing. Exit status: 0 in sync, 2 with changes, 1 on errors
    #[command(visible_alias = "diff")]
    Plan(Box<commands::plan::PlanArgs>),
    /// Print the table of virtual servers as `ipvsadm -Ln` prints it, or with names; in iptables mode the same from the rules
    List(Box<commands::list::ListArgs>),
    /// Say what happens to a packet here and why, from what is wanted and from the kernel
    Explain(Box<commands::explain::ExplainArgs>),
    /// Check the node: for each finding what it means, how sure that is, and the command that mends it
    Doctor(commands::doctor::DoctorArgs),
    /// Show the virtual servers live: rates, connections, trouble
    Top(commands::top::TopArgs),
    /// Let the running daemon take over another mode without losing a connection
    Switch(commands::switch::SwitchArgs),
    /// Say how the running daemon stands: modes, what drains, last sync, last failure
    Status(commands::status::StatusArgs),
    /// Remove everything that is ours from the kernel, and nothing else
    Cleanup(commands::cleanup::CleanupArgs),
    /// Show it at work: a cluster of network namespaces on this machine, real requests, nothing left behind
    Demo(commands::demo::DemoArgs),
    /// Measure on this machine's kernel, in network namespaces of its own
    #[command(subcommand)]
    Bench(commands::bench::BenchCommand),
    /// Print what a shell needs to complete our command line
    Completions(manual::CompletionsArgs),
    /// Print the man page, or write a page for every command
    Man(manual::ManArgs),
}

/// Runs what a command line asks for.
pub fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.collect();
    let name = arguments.first().and_then(|program| Path::new(program).file_name());
    if name.is_some_and(|name| name == "kube-proxy") {
        return kube_proxy::run(arguments.into_iter());
    }
    if name.is_some_and(|name| name == "ipvsadm") {
        let words: Vec<String> = arguments.iter().map(|word| word.to_string_lossy().into_owned()).collect();
        return commands::list::ipvsadm::run(&words);
    }
    match Cli::dressed(arguments).run() {
        Ok(exit) => exit,
        Err(error) => {
            eprintln!("kube-ipvs: {error:#}");
            ExitCode::FAILURE
        }
    }
}

impl Cli {
    /// Parses; whoever asks for help is shown the examples as well.
    fn dressed(arguments: Vec<OsString>) -> Self {
        let matches = examples::dress(Self::command()).get_matches_from(arguments);
        Self::from_arg_matches(&matches).unwrap_or_else(|error| error.format(&mut Self::command()).exit())
    }

    fn run(self) -> anyhow::Result<ExitCode> {
        if let Command::Run(args) = &self.command {
            return start_run(args, &self.log, Invocation::KubeIpvs, None).map(Into::into);
        }
        if let Command::Plan(args) = &self.command {
            let (_, loaded) = load(&args.proxy, &self.log, Invocation::KubeIpvs, None)?;
            return commands::plan::run(args, &loaded.config).map(Into::into);
        }
        if let Command::Explain(args) = &self.command {
            let (_, loaded) = load(args.proxy(), &self.log, Invocation::KubeIpvs, None)?;
            return commands::explain::run(args, &loaded.config).map(Into::into);
        }
        self.log.start(&Logging::default())?;
        match self.command {
            Command::List(args) => commands::list::run(&args),
            Command::Doctor(args) => commands::doctor::run(&args).map(Into::into),
            Command::Top(args) => commands::top::run(&args).map(Into::into),
            Command::Switch(args) => commands::switch::run(&args).map(Into::into),
            Command::Status(args) => commands::status::run(&args).map(Into::into),
            Command::Demo(args) => commands::demo::run(&args),
            Command::Bench(command) => commands::bench::run(&command),
            Command::Cleanup(args) => commands::cleanup::run(&args).map(Into::into),
            Command::Completions(args) => manual::completions(&args).map(|()| ExitCode::SUCCESS),
            Command::Man(args) => manual::man(&args).map(|()| ExitCode::SUCCESS),
            Command::Run(_) | Command::Plan(_) | Command::Explain(_) => Ok(ExitCode::SUCCESS),
        }
    }
}

/// Loads the configuration and starts logging as it says; what has no effect is the first thing told.
fn load(
    args: &ProxyArgs,
    log: &LogArgs,
    invocation: Invocation,
    warning: Option<String>,
) -> anyhow::Result<(Loader, Loaded)> {
    let loader = Loader { args: args.clone(), logging_format: log.logging_format.clone(), invocation };
    let loaded = loader.load()?;
    log.start(&loaded.config.logging)?;
    for warning in loaded.warnings.iter().chain(&warning) {
        tracing::warn!("{warning}");
    }
    Ok((loader, loaded))
}

/// `run`, under either name.
fn start_run(
    args: &commands::run::RunArgs,
    log: &LogArgs,
    invocation: Invocation,
    warning: Option<String>,
) -> anyhow::Result<Exit> {
    let (loader, loaded) = load(&args.proxy, log, invocation, warning)?;
    commands::run::run(args, loader, loaded)
}
