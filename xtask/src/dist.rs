//! `cargo xtask dist`: the product as one static file that runs on any Linux of this architecture, checked.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::process::CommandExt as _;
use crate::workspace::Workspace;

/// Larger than this it is not what was promised.
const MOST_BYTES: u64 = 14_000_000;

#[derive(Debug, Args)]
pub struct DistArgs {
    /// Where the file is put, as kube-ipvs
    #[arg(long, value_name = "FOLDER", default_value = "target/dist")]
    output: PathBuf,
    /// What it is built for: a target of rustup that is installed, such as x86_64-unknown-linux-musl [default: this
    /// machine's]
    #[arg(long, value_name = "TRIPLE")]
    target: Option<String>,
}

/// Builds and checks it.
pub fn run(args: &DistArgs) -> Result<ExitCode> {
    let workspace = Workspace::here()?;
    let here = this_machine()?;
    let target = args.target.as_deref().unwrap_or(&here);
    let built = workspace.static_product(target)?;
    fs::create_dir_all(&args.output).with_context(|| format!("making {}", args.output.display()))?;
    let file = args.output.join("kube-ipvs");
    fs::copy(&built, &file).with_context(|| format!("copying to {}", file.display()))?;
    let bytes = check(&file)?;
    let version = match architecture(target) == architecture(&here) {
        true => String::from_utf8_lossy(&Command::new(&file).arg("--version").read()?).trim().to_owned(),
        false => "not run: it is for another architecture".to_owned(),
    };
    println!("{}: {target}, static, {:.1} MB, {version}", file.display(), bytes as f64 / 1e6);
    Ok(ExitCode::SUCCESS)
}

fn architecture(target: &str) -> &str {
    target.split('-').next().unwrap_or_default()
}

/// The target that rustc builds for when nobody says anything.
fn this_machine() -> Result<String> {
    let told = String::from_utf8_lossy(&Command::new("rustc").arg("-vV").read()?).into_owned();
    let host = told.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("rustc does not tell its host")
}

/// Whether it is what it should be; its size.
fn check(file: &Path) -> Result<u64> {
    let content = fs::read(file).with_context(|| format!("reading {}", file.display()))?;
    if let Some(loader) = interpreter(&content)? {
        bail!("{} is not static: it wants {loader}", file.display());
    }
    let bytes = u64::try_from(content.len())?;
    ensure!(bytes <= MOST_BYTES, "{} has {bytes} bytes; at most {MOST_BYTES} are allowed", file.display());
    Ok(bytes)
}

/// The loader that an ELF file of 64 bits names (`PT_INTERP`), if it names one.
fn interpreter(content: &[u8]) -> Result<Option<String>> {
    const PT_INTERP: u64 = 3;
    let number = |at: usize, length: usize| -> Result<u64> {
        let bytes = content.get(at..at + length).context("the file is cut short")?;
        Ok(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    };
    // 64 bits, little endian: all that is built here.
    ensure!(content.get(..6) == Some(&[0x7f, b'E', b'L', b'F', 2, 1]), "this is no ELF file of 64 bits, little endian");
    let (table, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
    for index in 0..count {
        let entry = usize::try_from(table + index * size)?;
        if number(entry, 4)? == PT_INTERP {
            let (at, length) = (usize::try_from(number(entry + 8, 8)?)?, usize::try_from(number(entry + 32, 8)?)?);
            let name = content.get(at..at + length).context("the file is cut short")?;
            return Ok(Some(String::from_utf8_lossy(name).trim_end_matches('\0').to_owned()));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dynamic_program_is_told_from_others() {
        let own = fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(interpreter(&own).unwrap().unwrap().contains("ld-"), "tests are linked dynamically");
        assert!(interpreter(b"#!/bin/sh\n").is_err());
        assert!(interpreter(&own[..70]).is_err());
    }
}
