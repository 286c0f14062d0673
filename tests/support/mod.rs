//! What the tests of the running product share: a cluster of network namespaces with the real program on its node.
//!
//! Everything is seen from outside: requests that are answered or not, what the system's own tools print, exit statuses.
//!
//! | file | what |
//! |---|---|
//! | `cluster.rs` | the lab, its responders, the folder of manifests, commands on the node |
//! | `proxy.rs` | the running program and its log |
//! | `manifest.rs` | Services and EndpointSlices to write into that folder |
//! | `traffic.rs` | long-lived connections and a stream of new ones, and what became of them |
//! | `witness.rs` | what the kernel saw of a connection that failed |
//! | `flow.rs` | UDP flows that never end |
//! | `api` | an API server of our own, with every trouble that one can have |
//! | `follow.rs` | the source that follows such a server, and its log |
//! | `switching.rs` | the cluster, traffic and questions of the tests of the live switch |
//! | `leftovers.rs` | what kube-proxy leaves on a node, in each of its modes |
//! | `tls.rs` | TLS in front of such a server, and a relay into another network namespace; for those who ask for it |
//! | `web.rs` | pages and metrics of the running program |
//! | `state.rs` | everything in the kernel that could differ afterwards |

#![allow(dead_code, unused_imports, unused_macros, reason = "every test binary uses a part")]

pub mod api;
mod cluster;
mod flow;
pub mod follow;
pub mod leftovers;
mod manifest;
mod proxy;
mod state;
pub mod switching;
mod traffic;
pub mod web;
mod witness;

pub use api::Api;
pub use cluster::{Cluster, succeeded};
pub use flow::Flow;
pub use follow::{Followed, quick};
pub use manifest::Service;
pub use proxy::Proxy;
pub use state::State;
pub use traffic::{Stream, Talks};
pub use witness::Witness;

use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

/// A way of programming the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Iptables,
    Ipvs,
}

impl Mode {
    pub fn name(self) -> &'static str {
        match self {
            Self::Iptables => "iptables",
            Self::Ipvs => "ipvs",
        }
    }
}

/// Makes two tests of each function that takes a [`Mode`].
macro_rules! in_both_modes {
    ($($name:ident),* $(,)?) => {
        mod iptables_mode {
            $(#[test] fn $name() { if $crate::support::may_run($crate::support::Mode::Iptables) { super::$name($crate::support::Mode::Iptables); } })*
        }
        mod ipvs_mode {
            $(#[test] fn $name() { if $crate::support::may_run($crate::support::Mode::Ipvs) { super::$name($crate::support::Mode::Ipvs); } })*
        }
    };
}
pub(crate) use in_both_modes;

/// Whether a mode can be tested here; says why not, and fails where it must be.
pub fn may_run(mode: Mode) -> bool {
    let (missing, variable) = match mode {
        _ if !nix::unistd::geteuid().is_root() => {
            (Some("needs root to make network namespaces".to_owned()), "KUBE_IPVS_REQUIRE_IPTABLES")
        }
        Mode::Iptables => (None, "KUBE_IPVS_REQUIRE_IPTABLES"),
        Mode::Ipvs => (no_ipvs(), "KUBE_IPVS_REQUIRE_IPVS"),
    };
    let Some(missing) = missing else { return true };
    assert!(std::env::var_os(variable).is_none_or(|value| value != "1"), "{variable}=1, but {missing}");
    skipped(&missing);
    false
}

/// Why there is no IPVS, if there is none.
pub fn no_ipvs() -> Option<String> {
    ipvs::Client::connect().err().map(|error| format!("the kernel has no IPVS: {error}"))
}

/// Says why a test does not run, past the test harness, which hides what a successful test prints.
pub fn skipped(reason: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED: {reason}");
}

/// Whether this is a virtual machine of `cargo xtask vm`: emulated, ten to twenty times slower.
pub fn emulated() -> bool {
    std::env::var_os("KUBE_IPVS_KERNEL").is_some()
}

/// How long a condition may take to come true.
pub fn patience() -> Duration {
    Duration::from_secs(if emulated() { 180 } else { 30 })
}

/// Waits until `condition` gives something, and returns it.
pub fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(started.elapsed() < patience(), "after {:?} still waiting for {what}", started.elapsed());
        thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until `condition` holds.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    wait_for(what, || condition().then_some(()));
}
