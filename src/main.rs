//! The `kube-ipvs` program: hands the command line over.

use std::process::ExitCode;

/// One heap for all threads: what reading a list has freed is there for the rules that are made of it by another thread. A
/// proxy asks for memory too seldom for threads to be in each other's way.
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

fn main() -> ExitCode {
    kube_ipvs::cli::main(std::env::args_os())
}
