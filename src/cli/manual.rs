//! Shell completions and man pages, made of the command line itself.

use super::{Cli, examples};
use crate::commands::output;
use anyhow::Context;
use clap::{Args, Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;
use std::path::{Path, PathBuf};

/// Flags of `completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Flags of `man`.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Write a page for every command into this folder, which is made if need be, instead of printing the first one
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
}

/// Prints the completions.
///
/// # Errors
/// When standard output fails.
pub fn completions(args: &CompletionsArgs) -> anyhow::Result<()> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "kube-ipvs", &mut text);
    output::print(&String::from_utf8_lossy(&text))
}

/// Prints or writes the pages.
///
/// # Errors
/// When they cannot be written.
pub fn man(args: &ManArgs) -> anyhow::Result<()> {
    let mut command = examples::dress(Cli::command());
    command.build();
    let Some(folder) = &args.dir else {
        return output::print(&String::from_utf8_lossy(&page(&command)?));
    };
    std::fs::create_dir_all(folder)
        .with_context(|| format!("{}: give a folder that can be written", folder.display()))?;
    write(&command, folder)
}

fn page(command: &Command) -> anyhow::Result<Vec<u8>> {
    let mut text = Vec::new();
    Man::new(command.clone()).render(&mut text)?;
    Ok(text)
}

/// The page of a command and those of its subcommands, as `kube-ipvs-bench-sync.1`.
fn write(command: &Command, folder: &Path) -> anyhow::Result<()> {
    let file = folder.join(format!("{}.1", command.get_display_name().unwrap_or_else(|| command.get_name())));
    std::fs::write(&file, page(command)?).with_context(|| format!("writing {}", file.display()))?;
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help") {
        write(sub, folder)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_and_every_page() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "kube-ipvs", &mut text);
            let text = String::from_utf8(text).unwrap();
            assert!(text.contains("explain") && text.contains("service-cidr"), "{shell}");
        }
        let mut command = examples::dress(Cli::command());
        command.build();
        let plan = command.find_subcommand("plan").unwrap();
        let text = String::from_utf8(page(plan).unwrap()).unwrap();
        assert!(
            text.contains(".TH kube-ipvs-plan") && text.contains("Examples") && text.contains("cluster\\-cidr"),
            "{text}"
        );
    }
}
