//! `cargo xtask demo`: builds the product and runs its demo, here or in a virtual machine.

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};

use crate::libtest::Tally;
use crate::place::{Place, VM_TIMEOUT};
use crate::setup;
use crate::shell::quoted_command;
use crate::vm::{Job, Kernel, Machine, Stdout};
use crate::workspace::Workspace;

#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Run in a virtual machine with a kernel that has IPVS
    #[arg(long, value_name = "SERIES", num_args = 0..=1, default_missing_value = "6.1")]
    vm: Option<String>,
    /// The proxy mode; auto takes IPVS when the kernel has it
    #[arg(long, alias = "proxy-mode", value_enum, default_value_t = Mode::Auto)]
    mode: Mode,
    /// More arguments for `kube-ipvs demo`
    #[arg(last = true)]
    arguments: Vec<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Mode {
    Auto,
    Ipvs,
    Iptables,
}

/// Runs the demo with its output to the terminal; its exit code is ours.
pub fn run(args: &DemoArgs) -> Result<ExitCode> {
    setup::ensure(&[setup::KERNEL_TOOLS])?;
    let product = Workspace::here()?.product()?;
    let mode = args.mode.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
    let mut arguments = vec!["demo".to_owned(), "--proxy-mode".to_owned(), mode];
    arguments.extend(args.arguments.iter().cloned());
    let Some(series) = &args.vm else {
        eprintln!("xtask: demo on {}", Place::Here.describe()?);
        let status = Command::new(&product).args(&arguments).status().context("running the demo")?;
        return Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::from(1), ExitCode::from));
    };
    setup::ensure(&[setup::VM])?;
    let kernel = Kernel::of_series(series)?;
    eprintln!("xtask: demo on {}", Place::Vm(kernel.clone()).describe()?);
    arguments.insert(0, product.to_string_lossy().into_owned());
    let machine = Machine { kernel, memory: 4096, timeout: VM_TIMEOUT };
    Ok(ExitCode::from(machine.run(&Job::here(arguments)?, Stdout::Pass)?.status))
}

/// Runs the demo as a test: it must end with success and show something.
pub fn check(workspace: &Workspace, product: &Path, place: &Place, mode: &str) -> Result<Tally> {
    let product = product.to_string_lossy();
    let script = format!("exec {}\n", quoted_command([product.as_ref(), "demo", "--proxy-mode", mode]));
    let run = place.run(&script, workspace.root.clone(), &[])?;
    let silent = run.output.trim().is_empty();
    if silent {
        println!("the demo printed nothing, so it has shown nothing");
    }
    let good = run.status == Some(0) && !silent;
    Ok(Tally { passed: u32::from(good), failed: u32::from(!good), ..Tally::default() })
}
