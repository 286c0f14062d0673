//! `cargo xtask conformance`: builds the product and the scenario runner, and plays scenarios here or in a virtual machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::libtest::Tally;
use crate::place::{self, Place};
use crate::setup;
use crate::shell::quoted_command;
use crate::vm::{Job, Machine, Stdout};
use crate::workspace::{RUNNER, Workspace};

/// The project's own scenarios, below its root.
const SCENARIOS: &str = "tests/scenarios";

/// Where there is no word about it, IPVS mode is tried on this kernel.
const DEFAULT_SERIES: &str = "6.1";

/// How long a virtual machine may take for all scenarios.
const VM_TIMEOUT: Duration = Duration::from_secs(45 * 60);

/// Emulation slows everything by 10 to 20 times, and starting programs most.
const VM_PATIENCE: [&str; 6] =
    ["--answer=15", "--settle=25", "--notice=20", "--per-endpoint=10", "--jobs=4", "--verbose"];

#[derive(Debug, Args)]
pub struct ConformanceArgs {
    /// The proxy's mode
    #[arg(long, value_enum)]
    mode: Option<Modes>,
    /// The kernel: the running one, or one of a virtual machine. Without it: iptables mode on the running kernel, IPVS
    /// mode there too if it has IPVS and otherwise on 6.1
    #[arg(long, value_enum)]
    kernel: Option<KernelArg>,
    /// Play only the scenarios of these names; with commas, or several times
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,
    /// Leave out flows that need this: sctp, raw, slow
    #[arg(long, value_name = "NEED", value_delimiter = ',')]
    without: Vec<String>,
    /// After each step that holds, ask `kube-ipvs explain` about every flow, and fail where it says otherwise
    #[arg(long)]
    explain: bool,
    /// Write results as JUnit's XML
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Write results as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Scenario files, or folders with them [default: tests/scenarios]
    #[arg(value_name = "DIR")]
    paths: Vec<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Modes {
    Ipvs,
    Iptables,
    Both,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum KernelArg {
    Host,
    #[value(name = "6.1")]
    Old,
    #[value(name = "6.12")]
    New,
}

/// A kernel and the modes to play on it.
type Run = (Place, &'static str);

/// Plays the scenarios. The exit code is 1 when one failed.
pub fn run(args: &ConformanceArgs) -> Result<ExitCode> {
    setup::install(&[setup::KERNEL_TOOLS])?;
    let workspace = Workspace::here()?;
    let mut arguments = Vec::new();
    for (flag, list) in [("--only", &args.only), ("--without", &args.without)] {
        if !list.is_empty() {
            arguments.push(format!("{flag}={}", list.join(",")));
        }
    }
    arguments.extend(args.explain.then(|| "--explain".to_owned()));
    let absolute = |path: &PathBuf| path.canonicalize().with_context(|| format!("{}", path.display()));
    let mut paths: Vec<PathBuf> = args.paths.iter().map(absolute).collect::<Result<_>>()?;
    if paths.is_empty() {
        paths.push(workspace.root.join(SCENARIOS));
    }
    let results = Results::create()?;
    let mut total = Tally::default();
    let mut outputs = Vec::new();
    for (place, mode) in runs(args.mode, args.kernel)? {
        println!("=== {} on {}", mode_in_words(mode), place.describe()?);
        let output = results.folder.join(outputs.len().to_string());
        total += play(&workspace, &place, mode, &arguments, &paths, Some(&output))?;
        outputs.push(output);
    }
    if let Some(file) = &args.json {
        write_json(file, &outputs, total)?;
    }
    if let Some(file) = &args.junit {
        write_junit(file, &outputs)?;
    }
    if outputs.len() > 1 {
        println!("\nconformance: {} passed, {} failed", total.passed, total.failed);
    }
    Ok(if total.failed == 0 && total.passed > 0 { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// Plays the project's own scenarios as a test suite, without flows of minutes.
pub fn check(workspace: &Workspace, place: &Place, mode: &str) -> Result<Tally> {
    // What `explain` says of each flow as well, where that does not cost minutes.
    let explain = matches!(place, Place::Here).then(|| "--explain".to_owned());
    let arguments: Vec<String> = std::iter::once("--without=slow".to_owned()).chain(explain).collect();
    play(workspace, place, mode, &arguments, &[workspace.root.join(SCENARIOS)], None)
}

fn mode_in_words(mode: &str) -> String {
    if mode == "both" { "both modes".to_owned() } else { format!("{mode} mode") }
}

fn runs(modes: Option<Modes>, kernel: Option<KernelArg>) -> Result<Vec<Run>> {
    let word = |modes| match modes {
        Modes::Ipvs => "ipvs",
        Modes::Iptables => "iptables",
        Modes::Both => "both",
    };
    let has_ipvs = place::running_kernel_has_ipvs();
    let vm = |series| {
        setup::install(&[setup::VM])?;
        Place::vm(series)
    };
    Ok(match (kernel, modes) {
        (Some(KernelArg::Host), None) if !has_ipvs => {
            println!("the running kernel has no IPVS: iptables mode only");
            vec![(Place::Here, "iptables")]
        }
        (Some(KernelArg::Host), Some(Modes::Ipvs | Modes::Both)) if !has_ipvs => {
            bail!("the running kernel has no IPVS: choose --mode iptables or --kernel 6.1")
        }
        (Some(KernelArg::Host), modes) => vec![(Place::Here, word(modes.unwrap_or(Modes::Both)))],
        (Some(KernelArg::Old), modes) => vec![(vm("6.1")?, word(modes.unwrap_or(Modes::Both)))],
        (Some(KernelArg::New), modes) => vec![(vm("6.12")?, word(modes.unwrap_or(Modes::Both)))],
        (None, Some(Modes::Iptables)) => vec![(Place::Here, "iptables")],
        (None, Some(Modes::Ipvs)) if !has_ipvs => vec![(vm(DEFAULT_SERIES)?, "ipvs")],
        (None, modes) if has_ipvs => vec![(Place::Here, word(modes.unwrap_or(Modes::Both)))],
        (None, _) => vec![(Place::Here, "iptables"), (vm(DEFAULT_SERIES)?, "ipvs")],
    })
}

/// Runs the runner; `results` is the beginning of the names of its result files.
fn play(
    workspace: &Workspace,
    place: &Place,
    mode: &str,
    arguments: &[String],
    paths: &[PathBuf],
    results: Option<&Path>,
) -> Result<Tally> {
    let (product, runner) = (workspace.product()?, workspace.binary(RUNNER)?);
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let mut words = vec![text(&runner), format!("--proxy={}", text(&product)), format!("--mode={mode}")];
    words.extend(arguments.iter().cloned());
    if let Some(results) = results {
        words.push(format!("--json={}.json", text(results)));
        words.push(format!("--junit={}.xml", text(results)));
    }
    if matches!(place, Place::Vm(_)) {
        words.extend(VM_PATIENCE.map(str::to_owned));
    }
    words.extend(paths.iter().map(|path| text(path)));
    let output = match place {
        Place::Here => {
            let script = format!("exec {}\n", quoted_command(words.iter().map(String::as_str)));
            place.run(&script, workspace.root.clone(), &[])?.output
        }
        Place::Vm(kernel) => {
            let mut job = Job::here(words)?;
            if let Some(folder) = results.and_then(Path::parent) {
                job.shared = Some(folder.to_owned());
            }
            let machine = Machine { kernel: kernel.clone(), memory: 4096, timeout: VM_TIMEOUT };
            String::from_utf8_lossy(&machine.run(&job, Stdout::PassAndKeep)?.stdout).into_owned()
        }
    };
    closing_line(&output).context("the runner ended before its closing line")
}

/// What "conformance: N passed, N failed" says.
fn closing_line(output: &str) -> Option<Tally> {
    let line = output.lines().rev().find_map(|line| line.strip_prefix("conformance: "))?;
    let (passed, failed) = line.split_once(" passed, ")?;
    Some(Tally {
        passed: passed.parse().ok()?,
        failed: failed.strip_suffix(" failed")?.parse().ok()?,
        ..Tally::default()
    })
}

/// A temporary folder for result files; removed when this is dropped.
#[derive(Debug)]
struct Results {
    folder: PathBuf,
}

impl Results {
    fn create() -> Result<Self> {
        let template = std::env::temp_dir().join("conformance-results-XXXXXX");
        let folder = nix::unistd::mkdtemp(&template).with_context(|| format!("creating {}", template.display()))?;
        Ok(Self { folder })
    }
}

impl Drop for Results {
    fn drop(&mut self) {
        // A folder left in /tmp harms nobody.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn read(output: &Path, extension: &str) -> Result<String> {
    let file = output.with_extension(extension);
    fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))
}

fn write_json(file: &Path, outputs: &[PathBuf], total: Tally) -> Result<()> {
    let parse = |output: &PathBuf| Ok(serde_json::from_str::<Value>(&read(output, "json")?)?);
    let runs: Vec<Value> = outputs.iter().map(parse).collect::<Result<_>>()?;
    let all = json!({"passed": total.passed, "failed": total.failed, "runs": runs});
    let text = serde_json::to_string_pretty(&all)? + "\n";
    fs::write(file, text).with_context(|| format!("writing {}", file.display()))
}

fn write_junit(file: &Path, outputs: &[PathBuf]) -> Result<()> {
    let mut text = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n".to_owned();
    for output in outputs {
        text += read(output, "xml")?.split_once("?>\n").map_or("", |(_, suite)| suite);
    }
    fs::write(file, text + "</testsuites>\n").with_context(|| format!("writing {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closing_line_is_the_last_of_its_kind() {
        let output = "conformance: 1 passed, 0 failed\nFAIL x\nconformance: 31 passed, 2 failed\n";
        let tally = closing_line(output).unwrap();
        assert_eq!((tally.passed, tally.failed), (31, 2));
        assert_eq!(closing_line("PASS x\n"), None);
    }
}
