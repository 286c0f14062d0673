//! The project's own commands: `cargo xtask --help`.

mod bench;
mod conformance;
mod demo;
mod dist;
mod fuzz;
mod libtest;
mod lint;
mod man;
mod place;
mod process;
mod setup;
mod shell;
mod suites;
mod test;
mod vm;
mod workspace;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use vm::{Job, Kernel, Machine, Stdout};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "The project's own commands", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// One command a variant; each has its arguments and its code in a module of its own.
#[derive(Debug, Subcommand)]
enum Command {
    /// Run a command on another kernel, in an emulated virtual machine with this machine's file system
    Vm(VmArgs),
    /// Show packets being balanced: build the product and run its demo
    Demo(demo::DemoArgs),
    /// Measure: build the product optimised and run its benchmarks
    Bench(bench::BenchArgs),
    /// Play scenarios of Service behaviour with real packets against the product
    Conformance(conformance::ConformanceArgs),
    /// Build the product as one static file, and check it
    Dist(dist::DistArgs),
    /// Run all test suites, each on the kernel that it needs
    Test(test::TestArgs),
    /// Check formatting, clippy and, where installed, cargo-deny
    Lint,
    /// Write man pages and shell completions of the product
    Man(man::ManArgs),
    /// Install what the other commands need
    Setup,
}

#[derive(Debug, Args)]
struct VmArgs {
    /// The kernel's series; Debian's newest package of it is fetched once
    #[arg(long, default_value = "6.1", value_name = "SERIES")]
    kernel: String,
    /// Stop the machine after so many seconds and exit with 124
    #[arg(long, default_value_t = 1200, value_name = "SECONDS")]
    timeout: u64,
    /// Memory in MiB
    #[arg(long, default_value_t = 4096, value_name = "MIB")]
    memory: u32,
    /// Say on standard error which kernel booted and how long it took
    #[arg(long, short)]
    verbose: bool,
    /// What to run, as root, in the current directory. Files it writes vanish with the machine, except below the folder
    /// that the variable KUBE_IPVS_VM_OUT names
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Vm(args) => run_in_vm(args),
        Command::Demo(args) => demo::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Conformance(args) => conformance::run(&args),
        Command::Dist(args) => dist::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Lint => lint::run(),
        Command::Man(args) => man::run(&args),
        Command::Setup => {
            setup::install(&[setup::VM, setup::KERNEL_TOOLS, setup::COUNTING]).map(|()| ExitCode::SUCCESS)
        }
    };
    result.unwrap_or_else(|error| {
        eprintln!("xtask: {error:#}");
        ExitCode::from(125)
    })
}

fn run_in_vm(args: VmArgs) -> Result<ExitCode> {
    setup::install(&[setup::VM])?;
    let kernel = Kernel::of_series(&args.kernel)?;
    let release = kernel.release.clone();
    let machine = Machine { kernel, memory: args.memory, timeout: Duration::from_secs(args.timeout) };
    let outcome = machine.run(&Job::here(args.command)?, Stdout::Pass)?;
    if args.verbose {
        eprintln!("xtask: kernel {release} booted in {:.1} s", outcome.boot.as_secs_f64());
    }
    Ok(ExitCode::from(outcome.status))
}
