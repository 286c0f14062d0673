//! The `kube-ipvs` program: parses the command line and hands over to a command.

use clap::Parser;
use kube_ipvs::cli::Cli;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.run() {
        Ok(exit) => exit,
        Err(error) => {
            eprintln!("kube-ipvs: {error:#}");
            ExitCode::FAILURE
        }
    }
}
