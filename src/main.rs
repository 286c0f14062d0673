//! The `kube-ipvs` program: hands the command line over.

use std::process::ExitCode;

fn main() -> ExitCode {
    kube_ipvs::cli::main(std::env::args_os())
}
