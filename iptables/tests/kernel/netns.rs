//! A network namespace for one test, and the commands to use in it.

use std::process::Command;

use iptables::{Commands, Family, Variant};
use nix::sched::{CloneFlags, unshare};

/// All four pairs of variant and family.
pub const ALL: [(Variant, Family); 4] = [
    (Variant::Nft, Family::V4),
    (Variant::Nft, Family::V6),
    (Variant::Legacy, Family::V4),
    (Variant::Legacy, Family::V6),
];

/// Runs a test on a thread of its own in a fresh network namespace; children inherit it, and it is gone with the
/// thread.
pub fn in_netns(test: impl FnOnce() + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        return skip("not root");
    }
    let outcome = std::thread::spawn(|| match unshare(CloneFlags::CLONE_NEWNET) {
        Ok(()) => {
            test();
            None
        }
        Err(errno) => Some(format!("no network namespace: {errno}")),
    })
    .join();
    match outcome {
        Ok(None) => {}
        Ok(Some(reason)) => skip(&reason),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// The commands of a variant, or a reason to skip.
pub fn commands(variant: Variant, family: Family) -> Option<Commands> {
    match Commands::with_variant(family, variant) {
        Ok(commands) => Some(commands),
        Err(error) => {
            skip(&error.to_string());
            None
        }
    }
}

/// Runs a program that a test needs to prepare; `false` if that cannot be done.
pub fn tool(program: &str, arguments: &[&str]) -> bool {
    Command::new(program).args(arguments).output().is_ok_and(|output| output.status.success())
}

pub fn skip(reason: &str) {
    assert!(std::env::var_os("KUBE_IPVS_REQUIRE_IPTABLES").is_none_or(|value| value != "1"), "required: {reason}");
    eprintln!("SKIPPED: {reason}");
}
