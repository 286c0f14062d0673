//! The command line: which command, and how it logs.

use crate::commands;
use crate::config::ProxyArgs;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::io::IsTerminal;
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

/// How the program logs. Logs go to stderr.
#[derive(Debug, Args)]
struct LogArgs {
    /// What is logged: error, warn, info, debug, trace, or a filter such as "kube_ipvs::reconcile=debug"
    #[arg(long, global = true, default_value = "info", value_name = "LEVEL", env = "KUBE_IPVS_LOG")]
    log_level: String,
    /// How log lines look
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    logging_format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Keep the kernel as the Services want it, until stopped
    Run(Box<commands::run::RunArgs>),
    /// Say what `run` would change, changing nothing. Exit status: 0 in sync, 2 with changes, 1 on errors
    Plan(Box<ProxyArgs>),
    /// Print the table of virtual servers as `ipvsadm -Ln` prints it; in iptables mode the same table from the rules
    List(commands::list::ListArgs),
    /// Remove everything that is ours from the kernel, and nothing else
    Cleanup(commands::cleanup::CleanupArgs),
    /// Show it at work: a cluster of network namespaces on this machine, real requests, nothing left behind
    Demo(commands::demo::DemoArgs),
    /// Measure on this machine's kernel, in network namespaces of its own
    #[command(subcommand)]
    Bench(commands::bench::BenchCommand),
}

impl Cli {
    /// Runs the command.
    ///
    /// # Errors
    /// Whatever kept the command from its work, with what was tried.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        self.log.start()?;
        match self.command {
            Command::Run(args) => commands::run::run(&args).map(Into::into),
            Command::Plan(args) => commands::plan::run(&args).map(Into::into),
            Command::List(args) => commands::list::run(&args),
            Command::Demo(args) => commands::demo::run(&args),
            Command::Bench(command) => commands::bench::run(&command),
            Command::Cleanup(args) => commands::cleanup::run(&args).map(Into::into),
        }
    }
}

impl LogArgs {
    fn start(&self) -> anyhow::Result<()> {
        let filter = tracing_subscriber::EnvFilter::try_new(&self.log_level)
            .map_err(|error| anyhow::anyhow!("--log-level {:?}: {error}", self.log_level))?;
        // kube logs what the source tells in its own words, once per outage. Who names it gets its logs.
        let filter = if self.log_level.contains("kube_client") {
            filter
        } else {
            filter.add_directive("kube_client=off".parse()?)
        };
        let builder = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_target(false)
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal());
        match self.logging_format {
            LogFormat::Text => builder.init(),
            LogFormat::Json => builder.json().init(),
        }
        Ok(())
    }
}
