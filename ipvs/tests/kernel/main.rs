//! The crate against the running kernel's IPVS, every test in a network namespace of its own.
//!
//! Needs root and a kernel with IPVS: `cargo xtask vm --kernel 6.12 -- cargo test -p ipvs-netlink --test kernel`.
//! Without, each test says `SKIPPED` and why on stderr; with `KUBE_IPVS_REQUIRE_IPVS=1` it fails instead.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test may fail loudly")]

mod batches;
mod changes;
mod namespace;
mod readback;
mod traffic;
