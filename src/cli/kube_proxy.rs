//! The command line of kube-proxy, which the program takes when it is started under that name.

use super::LogArgs;
use super::start_run;
use crate::commands::run::RunArgs;
use crate::config::{Invocation, pflag};
use clap::{Args, CommandFactory, FromArgMatches, Parser};
use std::ffi::OsString;
use std::process::ExitCode;

/// kube-proxy's service: forwards what is sent to Services, in IPVS mode or in iptables mode. This is kube-ipvs.
#[derive(Debug, Parser)]
#[command(name = "kube-proxy", disable_version_flag = true, max_term_width = 110)]
pub struct KubeProxyCli {
    #[command(flatten)]
    log: LogArgs,
    #[command(flatten)]
    run: RunArgs,
    /// Print the version, and exit
    #[arg(long, value_name = "BOOL|raw", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    version: Option<String>,
    #[command(flatten)]
    klog: KlogFlags,
    /// There are none.
    #[arg(hide = true, value_parser = empty)]
    arguments: Vec<String>,
}

/// Flags of klog and of cadvisor that every Kubernetes program has had, most of them deprecated since 1.23.
#[derive(Debug, Args)]
pub struct KlogFlags {
    #[arg(long, hide = true, value_parser = pflag::boolean, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    add_dir_header: Option<bool>,
    #[arg(long, hide = true, value_parser = pflag::boolean, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    alsologtostderr: Option<bool>,
    #[arg(long, hide = true, value_parser = pflag::boolean, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    logtostderr: Option<bool>,
    #[arg(long, hide = true, value_parser = pflag::boolean, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    one_output: Option<bool>,
    #[arg(long, hide = true, value_parser = pflag::boolean, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    skip_headers: Option<bool>,
    #[arg(long, hide = true, value_parser = pflag::boolean, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    skip_log_headers: Option<bool>,
    #[arg(long, hide = true, value_name = "FILE:LINE")]
    log_backtrace_at: Option<String>,
    #[arg(long, hide = true, value_name = "FOLDER")]
    log_dir: Option<String>,
    #[arg(long, hide = true, value_name = "FILE")]
    log_file: Option<String>,
    #[arg(long, hide = true, value_name = "MEGABYTES")]
    log_file_max_size: Option<String>,
    #[arg(long, hide = true, value_name = "LEVEL")]
    stderrthreshold: Option<String>,
    #[arg(long, hide = true, value_name = "FILE,…")]
    boot_id_file: Option<String>,
    #[arg(long, hide = true, value_name = "FILE,…")]
    machine_id_file: Option<String>,
}

impl KlogFlags {
    fn given(&self) -> Option<String> {
        let names: Vec<&str> = [
            ("--add-dir-header", self.add_dir_header == Some(true)),
            ("--alsologtostderr", self.alsologtostderr == Some(true)),
            // Logs go to stderr, which is what is asked for.
            ("--logtostderr", self.logtostderr == Some(false)),
            ("--one-output", self.one_output == Some(true)),
            ("--skip-headers", self.skip_headers == Some(true)),
            ("--skip-log-headers", self.skip_log_headers == Some(true)),
            ("--log-backtrace-at", self.log_backtrace_at.is_some()),
            ("--log-dir", self.log_dir.is_some()),
            ("--log-file", self.log_file.is_some()),
            ("--log-file-max-size", self.log_file_max_size.is_some()),
            ("--stderrthreshold", self.stderrthreshold.is_some()),
            ("--boot-id-file", self.boot_id_file.is_some()),
            ("--machine-id-file", self.machine_id_file.is_some()),
        ]
        .into_iter()
        .filter_map(|(name, given)| given.then_some(name))
        .collect();
        (!names.is_empty()).then(|| format!("{} have no effect: logs go to stderr", names.join(", ")))
    }
}

fn empty(argument: &str) -> Result<String, String> {
    if argument.is_empty() {
        Ok(String::new())
    } else {
        Err(format!("\"kube-proxy\" does not take any arguments, got {argument:?}"))
    }
}

/// Runs as kube-proxy. Whatever is wrong ends with status 1, as there.
pub fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let command = pflag::last_one_counts(KubeProxyCli::command());
    let parsed = command
        .try_get_matches_from(pflag::normalise(arguments))
        .and_then(|matches| KubeProxyCli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => {
            // Nobody is left to tell if it cannot be printed.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
        }
    };
    if cli.version.as_deref().is_some_and(|version| pflag::boolean(version) != Ok(false)) {
        println!("kube-ipvs {}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    match start_run(&cli.run, &cli.log, Invocation::KubeProxy, cli.klog.given()) {
        Ok(exit) => exit.into(),
        Err(error) => {
            eprintln!("kube-proxy: {error:#}");
            ExitCode::FAILURE
        }
    }
}
