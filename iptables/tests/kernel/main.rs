//! Rules against the real kernel, each test in a network namespace of its own.
//!
//! Without root or iptables the tests say `SKIPPED: reason` on stderr; with `KUBE_IPVS_REQUIRE_IPTABLES=1` they fail.

#[cfg(test)]
mod cold_start;
#[cfg(test)]
mod detect;
#[cfg(test)]
mod netns;
#[cfg(test)]
mod restore;
#[cfg(test)]
mod roundtrip;
#[cfg(test)]
mod vocabulary;
