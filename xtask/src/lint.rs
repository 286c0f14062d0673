//! `cargo xtask lint`: formatting, clippy with every warning an error, and cargo-deny where it is installed.

use std::process::ExitCode;

use anyhow::Result;

use crate::process::{self, CommandExt as _};
use crate::workspace::Workspace;

/// Runs all lints; goes on after a failure, so that one run names everything.
pub fn run() -> Result<ExitCode> {
    let workspace = Workspace::here()?;
    let mut lints = vec![
        vec!["fmt", "--all", "--check"],
        vec!["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"],
    ];
    if process::find_program("cargo-deny").is_some() {
        lints.push(vec!["deny", "--locked", "check", "bans", "licenses", "sources"]);
    } else {
        println!("lint: cargo deny not run, it is not installed");
    }
    let mut failed = false;
    for lint in lints {
        println!("=== cargo {}", lint.join(" "));
        if let Err(error) = workspace.cargo().args(&lint).run() {
            eprintln!("xtask: {error}");
            failed = true;
        }
    }
    Ok(if failed { ExitCode::from(1) } else { ExitCode::SUCCESS })
}
