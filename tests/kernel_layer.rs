//! `src/kernel` against the running kernel: every test in a thread with a network namespace of its own.
//!
//! A test that the kernel cannot run says `SKIPPED: …` on stderr; with `KUBE_IPVS_REQUIRE_IPVS=1` (dummy device, IPVS
//! sysctls) or `KUBE_IPVS_REQUIRE_IPTABLES=1` (ipset, connection tracking) it fails instead.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests may fail loudly, too")]

#[path = "kernel_layer/conntrack.rs"]
mod conntrack;
#[path = "kernel_layer/detour.rs"]
mod detour;
#[path = "kernel_layer/interface.rs"]
mod interface;
#[path = "kernel_layer/ipset.rs"]
mod ipset;
#[path = "kernel_layer/leftovers.rs"]
mod leftovers;
#[path = "kernel_layer/monitor.rs"]
mod monitor;
#[path = "kernel_layer/sysctl.rs"]
mod sysctl;

use std::io::Write;
use std::process::Command;

/// What a kernel may lack.
#[derive(Debug, Clone, Copy)]
pub enum Feature {
    Ipvs,
    Iptables,
}

/// Runs `test` in a new network namespace with `lo` up. The namespace goes with the thread.
pub fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::Builder::new().name("namespace".to_owned());
    let body = || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("unshare(CLONE_NEWNET) needs root");
        run("ip", &["link", "set", "lo", "up"]);
        test();
    };
    if let Err(panic) = thread.spawn(body).unwrap().join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs a program in the thread's namespace and returns what it printed.
pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {}: {errors}", arguments.join(" "));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Says why a test cannot run, or fails where it has to.
pub fn skip(feature: Feature, reason: &str) {
    let variable = match feature {
        Feature::Ipvs => "KUBE_IPVS_REQUIRE_IPVS",
        Feature::Iptables => "KUBE_IPVS_REQUIRE_IPTABLES",
    };
    assert!(std::env::var_os(variable).is_none_or(|value| value != "1"), "{variable}=1, but {reason}");
    // Past the test harness, which hides what a successful test prints.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {reason}");
}
