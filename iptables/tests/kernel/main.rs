//! Rules against the real kernel, each test in a network namespace of its own.
//!
//! Without root or iptables the tests say `SKIPPED: reason` on stderr; with `KUBE_IPVS_REQUIRE_IPTABLES=1` they fail.

mod cold_start;
mod detect;
mod netns;
mod restore;
mod roundtrip;
mod vocabulary;
