//! Results for people and for machines.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::play::Played;
use crate::proxy::Mode;
use crate::scenario::Scenario;

/// A scenario in a mode, with how it went.
#[derive(Debug)]
pub struct Entry<'a> {
    /// What was played.
    pub scenario: &'a Scenario,
    /// In which mode.
    pub mode: Mode,
    /// How it went.
    pub played: Played,
}

impl Entry<'_> {
    /// Whether it passed.
    pub fn passed(&self) -> bool {
        self.played.failure.is_empty()
    }

    /// A line, and more where it failed.
    pub fn print(&self, verbose: bool) {
        let played = &self.played;
        let rounds = played.rounds.iter().max().copied().unwrap_or(0);
        let word = if self.passed() { "PASS" } else { "FAIL" };
        let skipped = match played.skipped.len() {
            0 => String::new(),
            count => format!(", {count} flows skipped"),
        };
        let seconds = played.elapsed.as_secs_f64();
        let (name, mode) = (&self.scenario.name, self.mode.as_str());
        println!(
            "{word} {name} ({mode}) {seconds:.1} s, {rounds} round{}{skipped}",
            if rounds == 1 { "" } else { "s" }
        );
        if !self.passed() {
            played.failure.lines().for_each(|line| println!("  {line}"));
        }
        played.skipped.iter().for_each(|flow| println!("  skipped: {flow}"));
        if verbose || !self.passed() || rounds > 1 {
            played.notes.iter().for_each(|note| println!("  note: {note}"));
        }
    }

    fn json(&self) -> Value {
        let Played { failure, rounds, skipped, notes, elapsed, explained: _ } = &self.played;
        json!({
            "name": self.scenario.name,
            "area": self.scenario.area,
            "file": self.scenario.file,
            "mode": self.mode.as_str(),
            "passed": self.passed(),
            "failure": failure,
            "rounds": rounds,
            "skipped": skipped,
            "notes": notes,
            "seconds": elapsed.as_secs_f64(),
        })
    }

    fn junit(&self) -> String {
        let (name, area, mode) = (escaped(&self.scenario.name), escaped(&self.scenario.area), self.mode.as_str());
        let seconds = self.played.elapsed.as_secs_f64();
        let head = format!("  <testcase classname=\"conformance.{area}.{mode}\" name=\"{name}\" time=\"{seconds:.3}\"");
        if self.passed() {
            return head + "/>\n";
        }
        let first: Vec<_> = self.played.failure.lines().take(3).map(str::trim).collect();
        let message = escaped(&first.join(" "));
        format!(
            "{head}>\n    <failure message=\"{message}\">{}</failure>\n  </testcase>\n",
            escaped(&self.played.failure)
        )
    }
}

/// Writes all results as one JSON object.
pub fn write_json(file: &Path, kernel: &str, entries: &[Entry<'_>]) -> Result<()> {
    let results: Vec<_> = entries.iter().map(Entry::json).collect();
    let failed = entries.iter().filter(|entry| !entry.passed()).count();
    let all = json!({"kernel": kernel, "passed": entries.len() - failed, "failed": failed, "results": results});
    write(file, &(serde_json::to_string_pretty(&all)? + "\n"))
}

/// Writes all results as JUnit's XML.
pub fn write_junit(file: &Path, kernel: &str, entries: &[Entry<'_>]) -> Result<()> {
    let failed = entries.iter().filter(|entry| !entry.passed()).count();
    let cases: String = entries.iter().map(Entry::junit).collect();
    let (tests, kernel) = (entries.len(), escaped(kernel));
    let head = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n";
    write(
        file,
        &format!(
            "{head}<testsuite name=\"conformance\" hostname=\"{kernel}\" tests=\"{tests}\" failures=\"{failed}\">\n{cases}</testsuite>\n"
        ),
    )
}

fn write(file: &Path, text: &str) -> Result<()> {
    std::fs::write(file, text).with_context(|| format!("writing {}", file.display()))
}

fn escaped(text: &str) -> String {
    let mut result = String::new();
    for character in text.chars() {
        match character {
            '&' => result.push_str("&amp;"),
            '<' => result.push_str("&lt;"),
            '>' => result.push_str("&gt;"),
            '"' => result.push_str("&quot;"),
            '\n' | '\t' => result.push(character),
            other if other.is_control() => result.push('\u{fffd}'),
            other => result.push(other),
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xml_is_escaped() {
        assert_eq!(escaped("a<b> & \"c\"\u{1b}\n"), "a&lt;b&gt; &amp; &quot;c&quot;\u{fffd}\n");
    }
}
