//! `cargo xtask bench`: builds the product optimised and runs one of its benchmarks, here or in a virtual machine.

use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;

use crate::place::{Place, running_kernel_has_ipvs};
use crate::setup;
use crate::vm::{Job, Kernel, Machine, Stdout};
use crate::workspace::Workspace;

#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Run in a virtual machine with a kernel that has IPVS; done without asking where the benchmark needs it
    #[arg(long, value_name = "SERIES", num_args = 0..=1, default_missing_value = DEFAULT_SERIES)]
    vm: Option<String>,
    /// Stop the virtual machine after so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    vm_timeout: u64,
    /// Run this binary instead of building one
    #[arg(long, value_name = "PATH")]
    binary: Option<std::path::PathBuf>,
    /// Which benchmark, and its arguments, as in `kube-ipvs bench --help`: sync --services 1000 --mode ipvs
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    benchmark: Vec<String>,
}

const DEFAULT_SERIES: &str = "6.1";

/// Memory of the machine in MiB: 44,000 services and the files of the tmpfs under them.
const MEMORY: u32 = 6144;

/// Runs the benchmark with its output to the terminal; its exit code is ours.
pub fn run(args: &BenchArgs) -> Result<ExitCode> {
    let mut benchmark = args.benchmark.clone();
    let counts = benchmark.first().is_some_and(|name| name == "instructions");
    setup::install(&[if counts { setup::COUNTING } else { setup::KERNEL_TOOLS }])?;
    let series = args.vm.clone().or_else(|| take_vm(&mut benchmark)).or_else(|| {
        let needed = wants_ipvs(&benchmark) && !running_kernel_has_ipvs();
        needed.then(|| {
            eprintln!(
                "xtask: the running kernel has no IPVS; measuring in a virtual machine, whose processor is emulated"
            );
            DEFAULT_SERIES.to_owned()
        })
    });
    let product = match &args.binary {
        Some(path) => path.canonicalize().with_context(|| format!("no binary {}", path.display()))?,
        None => {
            eprintln!("xtask: building optimised; this takes minutes the first time");
            Workspace::here()?.optimised_product()?
        }
    };
    match series {
        None => run_here(&product, &benchmark),
        Some(series) => run_in_vm(&product, &benchmark, &series, Duration::from_secs(args.vm_timeout)),
    }
}

fn run_here(product: &Path, benchmark: &[String]) -> Result<ExitCode> {
    eprintln!("xtask: bench on {}", Place::Here.describe()?);
    let status = Command::new(product).arg("bench").args(benchmark).status().context("running the benchmark")?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::from(1), ExitCode::from))
}

fn run_in_vm(product: &Path, benchmark: &[String], series: &str, timeout: Duration) -> Result<ExitCode> {
    setup::install(&[setup::VM])?;
    let kernel = Kernel::of_series(series)?;
    eprintln!("xtask: bench on {}", Place::Vm(kernel.clone()).describe()?);
    let mut command = vec![product.to_string_lossy().into_owned(), "bench".to_owned()];
    command.extend_from_slice(benchmark);
    let machine = Machine { kernel, memory: MEMORY, timeout };
    Ok(ExitCode::from(machine.run(&Job::here(command)?, Stdout::Pass)?.status))
}

/// Takes `--vm [SERIES]` out of the benchmark's own arguments: people write it last.
fn take_vm(benchmark: &mut Vec<String>) -> Option<String> {
    if let Some(index) = benchmark.iter().position(|word| word.starts_with("--vm=")) {
        return benchmark.remove(index).strip_prefix("--vm=").map(str::to_owned);
    }
    let index = benchmark.iter().position(|word| word == "--vm")?;
    benchmark.remove(index);
    let series = benchmark.get(index).filter(|word| word.starts_with(|c: char| c.is_ascii_digit())).cloned();
    if series.is_some() {
        benchmark.remove(index);
    }
    Some(series.unwrap_or_else(|| DEFAULT_SERIES.to_owned()))
}

fn wants_ipvs(benchmark: &[String]) -> bool {
    let pair = |words: &[String]| matches!(words, [flag, mode] if flag == "--mode" && mode == "ipvs");
    // Only IPVS has such a table.
    let list = benchmark.first().is_some_and(|word| word == "list");
    list || benchmark.windows(2).any(pair) || benchmark.iter().any(|word| word == "--mode=ipvs")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn the_machine_may_be_named_anywhere() {
        for (line, series, rest) in [
            ("sync --vm --mode ipvs", Some("6.1"), "sync --mode ipvs"),
            ("sync --services 10 --vm 6.12", Some("6.12"), "sync --services 10"),
            ("sync --vm=6.12 --runs 1", Some("6.12"), "sync --runs 1"),
            ("sync --mode iptables", None, "sync --mode iptables"),
        ] {
            let mut benchmark = words(line);
            assert_eq!(take_vm(&mut benchmark).as_deref(), series, "{line}");
            assert_eq!(benchmark, words(rest), "{line}");
        }
    }

    #[test]
    fn ipvs_is_wanted_only_where_it_is_named() {
        assert!(wants_ipvs(&words("sync --mode ipvs")) && wants_ipvs(&words("sync --mode=ipvs")));
        assert!(!wants_ipvs(&words("sync --mode auto --services 5")) && wants_ipvs(&words("list --runs 1")));
    }
}
