//! The table of test suites. To add one, add a line; a new kind of work is a variant of [`Work`].

use crate::workspace::TestBinary;

/// One suite.
#[derive(Debug, Clone, Copy)]
pub struct Suite {
    /// What `--only` takes, and what its closing line starts with.
    pub name: &'static str,
    /// What it does.
    pub work: Work,
    /// On which kernels.
    pub kernels: Kernels,
}

/// What a suite does.
#[derive(Debug, Clone, Copy)]
pub enum Work {
    /// Runs the test binaries that the function picks.
    Tests(fn(&TestBinary) -> bool),
    /// Compiles and runs the examples in the documentation.
    DocumentationTests,
    /// Runs `kube-ipvs demo` in a proxy mode.
    Demo(&'static str),
    /// Plays the scenarios of tests/scenarios in a proxy mode.
    Conformance(&'static str),
    /// Runs every fuzz target for a few seconds.
    Fuzz,
    /// Counts the instructions of a change among few and among many services, which must be about the same.
    Instructions,
}

/// On which kernels a suite runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernels {
    /// On the running one.
    Running,
    /// On those with IPVS: the running one when it has it and no other was asked for, and otherwise in virtual machines.
    Ipvs,
    /// As [`Ipvs`](Self::Ipvs), but in virtual machines only when the suite is asked for by name: where the processor is
    /// emulated and shared, what is judged by the clock tells more of the machine than of the product.
    IpvsInTime,
}

/// All suites, in the order in which they run.
pub const SUITES: &[Suite] = &[
    Suite { name: "workspace", work: Work::Tests(|_| true), kernels: Kernels::Running },
    Suite { name: "doc", work: Work::DocumentationTests, kernels: Kernels::Running },
    Suite { name: "kernel", work: Work::Tests(TestBinary::is_steady_kernel_test), kernels: Kernels::Ipvs },
    Suite { name: "kernel-timing", work: Work::Tests(TestBinary::is_timing_test), kernels: Kernels::IpvsInTime },
    Suite { name: "demo-iptables", work: Work::Demo("iptables"), kernels: Kernels::Running },
    Suite { name: "demo-ipvs", work: Work::Demo("ipvs"), kernels: Kernels::Ipvs },
    Suite { name: "conformance-iptables", work: Work::Conformance("iptables"), kernels: Kernels::Running },
    Suite { name: "conformance-ipvs", work: Work::Conformance("ipvs"), kernels: Kernels::Ipvs },
    Suite { name: "fuzz", work: Work::Fuzz, kernels: Kernels::Running },
    Suite { name: "instructions", work: Work::Instructions, kernels: Kernels::Running },
];
