//! `cargo xtask man`: man pages and shell completions, as packages carry them, made by the product itself.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::workspace::Workspace;

/// The shells, and what their completions are called.
const SHELLS: [(&str, &str); 3] = [("bash", "kube-ipvs.bash"), ("zsh", "_kube-ipvs"), ("fish", "kube-ipvs.fish")];

#[derive(Debug, Args)]
pub struct ManArgs {
    /// Where to write: pages in man1/, completions in completions/
    #[arg(long, value_name = "FOLDER", default_value = "target/share")]
    dir: PathBuf,
}

/// Writes them.
pub fn run(args: &ManArgs) -> Result<ExitCode> {
    let product = Workspace::here()?.product()?;
    let (pages, completions) = (args.dir.join("man1"), args.dir.join("completions"));
    let status = Command::new(&product).arg("man").arg("--dir").arg(&pages).status().context("running the product")?;
    ensure!(status.success(), "kube-ipvs man: {status}");
    fs::create_dir_all(&completions).with_context(|| format!("making {}", completions.display()))?;
    for (shell, name) in SHELLS {
        let output = Command::new(&product).args(["completions", shell]).output().context("running the product")?;
        ensure!(output.status.success(), "kube-ipvs completions {shell}: {}", output.status);
        let file = completions.join(name);
        fs::write(&file, output.stdout).with_context(|| format!("writing {}", file.display()))?;
    }
    println!("{} and {}", pages.display(), completions.display());
    Ok(ExitCode::SUCCESS)
}
