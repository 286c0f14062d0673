//! Reads what test binaries print, to add up results over many of them.

use std::ops::AddAssign;

/// Results added up. A test that was skipped is none that passed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// Tests that ran and held.
    pub passed: u32,
    /// Tests that didn't hold, and binaries that ended without a result.
    pub failed: u32,
    /// Tests that said why they could not run.
    pub skipped: u32,
    /// Tests that only run when asked for by name.
    pub ignored: u32,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.ignored += other.ignored;
    }
}

/// Starts the line that a run prints before each binary.
pub const BEGIN: &str = "--- begin ";
/// Starts the line that a run prints after each binary, with its exit status as the last word.
pub const END: &str = "--- end ";

/// What a test starts its reason with when it cannot run.
const SKIPPED: &str = "SKIPPED:";

/// The reasons of tests that need what is given or not: nothing that a kernel could have.
const NOT_GIVEN: [&str; 3] =
    ["SKIPPED: no API server is given", "SKIPPED: no kustomize is given", "SKIPPED: no static binary is given"];

/// How many tests were skipped because something was not given.
pub fn without_server(output: &str) -> u32 {
    let is_one = |line: &&str| NOT_GIVEN.iter().any(|reason| line.trim_start().starts_with(reason));
    let lines = output.lines().filter(is_one);
    u32::try_from(lines.count()).unwrap_or(u32::MAX)
}

/// Adds up the output of many test binaries, each between a line of [`BEGIN`] and one of [`END`]. A binary that ended
/// badly without saying that a test failed (killed, aborted, out of time) counts as one failure, and so does one whose
/// end was never seen.
pub fn tally(output: &str) -> Tally {
    let mut total = Tally::default();
    let mut open: Option<Binary> = None;
    for line in output.lines() {
        if line.starts_with(BEGIN) {
            total += open.take().map_or_else(Tally::default, |binary| binary.end(false));
            open = Some(Binary::default());
        } else if let Some(rest) = line.strip_prefix(END) {
            total += open.take().unwrap_or_default().end(rest.ends_with(" 0"));
        } else if let Some(binary) = &mut open {
            binary.line(line);
        }
    }
    total += open.map_or_else(Tally::default, |binary| binary.end(false));
    total
}

/// As [`tally`], for what `cargo test` itself prints.
pub fn tally_of_cargo(output: &str, succeeded: bool) -> Tally {
    let mut all = Binary::default();
    output.lines().for_each(|line| all.line(line));
    // Workspaces may have no documentation tests at all.
    all.results += u32::from(succeeded);
    all.end(succeeded)
}

#[derive(Default)]
struct Binary {
    tally: Tally,
    results: u32,
}

impl Binary {
    fn line(&mut self, line: &str) {
        if line.trim_start().starts_with(SKIPPED) {
            self.tally.skipped += 1;
        }
        // Output of a test may stand before it on the same line.
        if let Some((_, counts)) = line.split_once("test result: ") {
            self.results += 1;
            self.tally += result(counts);
        }
    }

    fn end(mut self, succeeded: bool) -> Tally {
        let silent = self.results == 0;
        if silent || (!succeeded && self.tally.failed == 0) {
            self.tally.failed += 1;
        }
        // A test that skips returns early, which libtest counts as passed.
        self.tally.passed = self.tally.passed.saturating_sub(self.tally.skipped);
        self.tally
    }
}

/// "ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.02s"
fn result(counts: &str) -> Tally {
    let mut tally = Tally::default();
    for part in counts.split_once(". ").map_or(counts, |(_, counts)| counts).split("; ") {
        let Some((number, word)) = part.split_once(' ') else { continue };
        let Ok(number) = number.parse() else { continue };
        match word {
            "passed" => tally.passed = number,
            "failed" => tally.failed = number,
            "ignored" => tally.ignored = number,
            _ => {}
        }
    }
    tally
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "\
--- begin ipvs-netlink src/lib.rs
running 3 tests
test a ... ok
SKIPPED: needs IPVS
test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.02s
--- end ipvs-netlink src/lib.rs 0
";

    #[test]
    fn no_kernel_has_an_api_server() {
        assert_eq!(without_server("SKIPPED: no API server is given: set KUBECONFIG\nSKIPPED: needs IPVS\n"), 1);
    }

    #[test]
    fn a_skipped_test_has_not_passed() {
        assert_eq!(tally(GOOD), Tally { passed: 2, failed: 0, skipped: 1, ignored: 1 });
    }

    #[test]
    fn results_add_up_over_binaries() {
        let bad = "--- begin b\nxtest result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured\n--- end b 101\n";
        assert_eq!(tally(&format!("{GOOD}{bad}")), Tally { passed: 3, failed: 2, skipped: 1, ignored: 1 });
    }

    #[test]
    fn a_binary_that_was_killed_is_a_failure() {
        assert_eq!(tally("--- begin b\nrunning 2 tests\ntest a ... ok\n--- end b 137\n").failed, 1);
        let after_its_result = "--- begin b\ntest result: ok. 2 passed; 0 failed\n--- end b 139\n";
        assert_eq!(tally(after_its_result).failed, 1);
    }

    #[test]
    fn a_binary_whose_end_is_missing_is_a_failure() {
        assert_eq!(tally("--- begin b\nrunning 2 tests\n").failed, 1);
        assert_eq!(tally(&format!("--- begin a\n{GOOD}")).failed, 1);
    }

    #[test]
    fn a_binary_that_says_nothing_has_proved_nothing() {
        assert_eq!(tally("--- begin b\n--- end b 0\n").failed, 1);
    }

    #[test]
    fn cargos_own_output_adds_up_over_packages() {
        let two = "test result: ok. 2 passed; 0 failed; 0 ignored\n\ntest result: ok. 1 passed; 0 failed; 1 ignored\n";
        assert_eq!(tally_of_cargo(two, true), Tally { passed: 3, failed: 0, skipped: 0, ignored: 1 });
        assert_eq!(tally_of_cargo("error: could not compile\n", false).failed, 1);
        assert_eq!(tally_of_cargo("", true), Tally::default());
    }
}
