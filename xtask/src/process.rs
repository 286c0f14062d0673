//! Running other programs: what was run and how it ended belong into every error.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

/// Ways of running a command to its end that turn a failure into an error naming the command.
pub trait CommandExt {
    /// Runs with output to the terminal.
    fn run(&mut self) -> Result<()>;
    /// Runs and shows output only in the error.
    fn run_quiet(&mut self) -> Result<()>;
    /// Runs and returns standard output.
    fn read(&mut self) -> Result<Vec<u8>>;
}

impl CommandExt for Command {
    fn run(&mut self) -> Result<()> {
        let status = self.status().with_context(|| format!("cannot run {self:?}"))?;
        if !status.success() {
            bail!("{self:?} failed: {status}");
        }
        Ok(())
    }

    fn run_quiet(&mut self) -> Result<()> {
        checked(self).map(drop)
    }

    fn read(&mut self) -> Result<Vec<u8>> {
        checked(self).map(|output| output.stdout)
    }
}

fn checked(command: &mut Command) -> Result<Output> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {command:?}"))?;
    if !output.status.success() {
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        bail!("{command:?} failed: {}\n{out}{err}", output.status);
    }
    Ok(output)
}

/// Where a program is: on the path or in the folders for administrators, which a user's path often lacks.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let administrators = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(administrators).map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// As [`find_program`], with an error that names the program.
pub fn program(name: &str) -> Result<PathBuf> {
    find_program(name).with_context(|| format!("the program {name} is not installed"))
}
