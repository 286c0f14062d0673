//! `cargo xtask test`: all suites, each on the kernel it needs, with one count at the end.

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};

use crate::libtest::{self, BEGIN, END, Tally};
use crate::place::{self, Place};
use crate::setup;
use crate::shell::quoted;
use crate::suites::{Kernels, SUITES, Suite, Work};
use crate::workspace::{TestBinary, Workspace};
use crate::{conformance, demo, fuzz};

#[derive(Debug, Args)]
pub struct TestArgs {
    /// Run only these suites
    #[arg(long, value_name = "SUITE", value_delimiter = ',', value_parser = suite_names())]
    only: Vec<String>,
    /// Run the suites that need IPVS in virtual machines with these kernels. Without it: on the running kernel when that
    /// has IPVS, otherwise on both
    #[arg(long, value_enum)]
    kernel: Option<VmKernels>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum VmKernels {
    #[value(name = "6.1")]
    Old,
    #[value(name = "6.12")]
    New,
    Both,
}

impl VmKernels {
    fn series(self) -> &'static [&'static str] {
        match self {
            Self::Old => &["6.1"],
            Self::New => &["6.12"],
            Self::Both => &["6.1", "6.12"],
        }
    }
}

fn suite_names() -> clap::builder::PossibleValuesParser {
    SUITES.iter().map(|suite| suite.name).collect::<Vec<_>>().into()
}

/// What all suites share; test binaries are compiled at their first use.
struct Session {
    workspace: Workspace,
    running_has_ipvs: bool,
    binaries: Option<Vec<TestBinary>>,
}

/// Runs the suites. The exit code is 1 when a test failed or could not run where it must.
pub fn run(args: &TestArgs) -> Result<ExitCode> {
    let wanted: Vec<_> =
        SUITES.iter().filter(|suite| args.only.is_empty() || args.only.iter().any(|name| name == suite.name)).collect();
    setup::install(&[setup::KERNEL_TOOLS])?;
    let workspace = Workspace::here()?;
    let mut session = Session { workspace, running_has_ipvs: place::running_kernel_has_ipvs(), binaries: None };
    let mut closing = Vec::new();
    let mut total = Tally::default();
    for suite in wanted {
        let by_name = args.only.iter().any(|name| name == suite.name);
        if suite.kernels == Kernels::IpvsInTime && !session.running_has_ipvs && !by_name {
            println!("=== {}: not in an emulated machine unless asked for: --only {}", suite.name, suite.name);
            continue;
        }
        for place in session.places(suite, args.kernel)? {
            let name = match &place {
                Place::Vm(kernel) => format!("{} on {}", suite.name, kernel.release),
                Place::Here => suite.name.to_owned(),
            };
            println!("=== {name}: on {}", place.describe()?);
            // A suite that cannot start is a failure of that suite; the others still run.
            let tally = session.run(suite, &place).unwrap_or_else(|error| {
                eprintln!("xtask: {name}: {error:#}");
                Some(Tally { failed: 1, ..Tally::default() })
            });
            let Some(tally) = tally else { continue };
            closing.push(report(&name, tally, &place.describe()?));
            total += tally;
        }
    }
    println!("\n=== all suites");
    closing.iter().for_each(|line| println!("{line}"));
    println!("{} passed, {} failed", total.passed, total.failed);
    Ok(if total.failed == 0 && total.passed > 0 { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// Prints the closing line of a suite, and what stands beside it in the summary.
fn report(name: &str, tally: Tally, kernel: &str) -> String {
    if tally.skipped + tally.ignored > 0 {
        println!("{name}: {} skipped, {} ignored (reasons above)", tally.skipped, tally.ignored);
    }
    let line = format!("{name}: {} passed, {} failed", tally.passed, tally.failed);
    println!("{line}");
    format!("{line} ({kernel}; {} skipped, {} ignored)", tally.skipped, tally.ignored)
}

impl Session {
    fn places(&self, suite: &Suite, asked: Option<VmKernels>) -> Result<Vec<Place>> {
        if suite.kernels == Kernels::Running {
            return Ok(vec![Place::Here]);
        }
        if self.running_has_ipvs && asked.is_none() {
            println!("=== {}: no virtual machine needed, the running kernel has IPVS", suite.name);
            return Ok(vec![Place::Here]);
        }
        setup::install(&[setup::VM])?;
        asked.unwrap_or(VmKernels::Both).series().iter().map(|series| Place::vm(series)).collect()
    }

    /// Runs one suite on one kernel. None: there is nothing to run it with, which has been said.
    fn run(&mut self, suite: &Suite, place: &Place) -> Result<Option<Tally>> {
        let has_ipvs = self.running_has_ipvs || matches!(place, Place::Vm(_));
        match suite.work {
            Work::Tests(picks) => {
                let binaries: Vec<_> = self.binaries()?.iter().filter(|binary| picks(binary)).cloned().collect();
                ensure!(!binaries.is_empty(), "the suite {} has no test binary", suite.name);
                run_tests(&binaries, place, has_ipvs, &self.workspace).map(Some)
            }
            Work::DocumentationTests => documentation_tests(&self.workspace).map(Some),
            Work::Demo(mode) => {
                let product = self.workspace.product()?;
                demo::check(&self.workspace, &product, place, mode).map(Some)
            }
            Work::Conformance(mode) => conformance::check(&self.workspace, place, mode).map(Some),
            Work::Fuzz => fuzz::smoke(&self.workspace),
            Work::Instructions => instructions(&self.workspace).map(Some),
        }
    }

    fn binaries(&mut self) -> Result<&[TestBinary]> {
        if self.binaries.is_none() {
            self.binaries = Some(self.workspace.test_binaries()?);
        }
        self.binaries.as_deref().context("no test binaries")
    }
}

/// How long one test binary may take, in seconds; in a virtual machine everything is slower.
const BINARY_TIMEOUT: u32 = 1200;

fn run_tests(binaries: &[TestBinary], place: &Place, has_ipvs: bool, workspace: &Workspace) -> Result<Tally> {
    let mut environment = vec![("KUBE_IPVS_REQUIRE_IPTABLES", "1")];
    if has_ipvs {
        environment.push(("KUBE_IPVS_REQUIRE_IPVS", "1"));
        // Kernels before 2026 keep the virtual servers of all namespaces in one table and number a dump's rows by their
        // place in it: what one test adds or deletes makes the dump of another one miss or repeat rows.
        environment.push(("RUST_TEST_THREADS", "1"));
    }
    // In iptables mode they ran on the running kernel already.
    let skipped = if matches!(place, Place::Vm(_)) { "--skip iptables_mode" } else { "" };
    let run = place.run(&tests_script(binaries, skipped), workspace.root.clone(), &environment)?;
    let mut tally = libtest::tally(&run.output);
    ensure!(
        run.status == Some(0),
        "the run ended early with {:?} after {} tests passed and {} failed",
        run.status,
        tally.passed,
        tally.failed
    );
    let missed = tally.skipped.saturating_sub(libtest::without_server(&run.output));
    if has_ipvs && missed > 0 {
        println!("{missed} tests were skipped where nothing should be missing: they count as failed");
        tally.failed += missed;
    }
    Ok(tally)
}

/// Runs one binary after the other as `cargo test` would, with marks between them.
fn tests_script(binaries: &[TestBinary], arguments: &str) -> String {
    let mut script = String::new();
    for TestBinary { name, folder, executable, .. } in binaries {
        let folder = quoted(&folder.to_string_lossy());
        let executable = quoted(&executable.to_string_lossy());
        script += &format!(
            "echo {}\n(cd {folder} && CARGO_MANIFEST_DIR={folder} timeout -k 10 {BINARY_TIMEOUT} {executable} --show-output {arguments})\n\
             status=$?\necho; echo {}\" $status\"\n",
            quoted(&format!("{BEGIN}{name}")),
            quoted(&format!("{END}{name}")),
        );
    }
    script + "exit 0\n"
}

/// What `bench instructions` counts of a mode: few services, many, and how many times as much a change may cost among these. A
/// change looks things up by name, which costs a few hundredths more among many; going over all of them costs more than that.
const COUNTED: [(&str, u32, u32, f64); 2] = [("ipvs", 50, 3000, 1.06), ("iptables", 50, 300, 1.05)];

/// By the build that the tests use, and with numbers of services that are small enough for it: two counts of one program are
/// compared, and each with what it was.
fn instructions(workspace: &Workspace) -> Result<Tally> {
    setup::install(&[setup::COUNTING])?;
    let product = quoted(&workspace.product()?.to_string_lossy());
    let mut tally = Tally::default();
    for (mode, few, many, ratio) in COUNTED {
        let mut script =
            format!("exec {product} bench instructions --mode {mode} --few {few} --many {many} --ratio {ratio}");
        // Each architecture has counts of its own.
        let bars = format!("benches/instructions-{mode}-{}.json", std::env::consts::ARCH);
        if workspace.root.join(&bars).exists() {
            script += &format!(" --bars {bars}");
        } else {
            println!("{bars} is missing: counts are compared with each other only");
        }
        let run = Place::Here.run(&script, workspace.root.clone(), &[])?;
        if run.status == Some(0) {
            tally.passed += 1;
        } else {
            tally.failed += 1;
        }
    }
    Ok(tally)
}

fn documentation_tests(workspace: &Workspace) -> Result<Tally> {
    let script = "exec \"$XTASK_CARGO\" test --doc --workspace --locked --no-fail-fast";
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let run = Place::Here.run(script, workspace.root.clone(), &[("XTASK_CARGO", &cargo)])?;
    Ok(libtest::tally_of_cargo(&run.output, run.status == Some(0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn binary(name: &str, executable: &str) -> TestBinary {
        TestBinary {
            name: name.into(),
            kind: "test".into(),
            target: "kernel".into(),
            folder: "/".into(),
            executable: executable.into(),
        }
    }

    #[test]
    fn a_run_goes_on_after_a_binary_that_ends_badly() {
        let script = tests_script(&[binary("it's a", "/bin/false"), binary("b", "/bin/true")], "");
        // Not by way of a Place: that would pass these marks on, into the output of the suite which runs this test.
        let run = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
        assert!(run.status.success());
        let output = String::from_utf8(run.stdout).unwrap();
        let marks: Vec<_> = output.lines().filter(|line| line.starts_with("---")).collect();
        assert_eq!(marks, ["--- begin it's a", "--- end it's a 1", "--- begin b", "--- end b 0"]);
    }

    #[test]
    fn names_of_suites_are_unique() {
        let names: BTreeSet<_> = SUITES.iter().map(|suite| suite.name).collect();
        assert_eq!(names.len(), SUITES.len());
    }
}
