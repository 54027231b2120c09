//! Counting results in what the test runner prints.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// Most failed tests that are run once more.
const MOST_SECOND_TRIES: usize = 3;

/// What came of one tier.
#[derive(Debug, Default)]
pub struct Report {
    name: &'static str,
    reported_passed: u32,
    reported_failed: u32,
    ignored: u32,
    /// Runs that ended without success although no test of theirs was reported as failed: a crash.
    broken: u32,
    failed_before: u32,
    /// Names of failed tests, from the lists that the runner prints.
    failures: BTreeSet<String>,
    /// Whether the lines that come are such a list.
    listing: bool,
    /// Tests that failed and passed when they were run once more.
    unsteady: BTreeSet<String>,
    /// Tests that found out that they can't run here, with the reason. The runner counts them as passed.
    skips: BTreeMap<String, String>,
    /// Tests that weren't started, with the reason.
    left_out: BTreeMap<String, String>,
    /// How long the tier took, s.
    pub seconds: f64,
}

impl Report {
    /// Nothing counted yet.
    pub fn new(name: &'static str) -> Self {
        Self { name, ..Self::default() }
    }

    /// A test isn't started, for this reason.
    pub fn leave_out(&mut self, name: &str, reason: &str) {
        self.left_out.insert(name.to_owned(), reason.to_owned());
    }

    /// Takes in one line of output.
    pub fn read(&mut self, line: &str) {
        // A test that runs alone has its name printed before its output, on the same line.
        let printed = match line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... ")) {
            Some((_, printed)) => printed,
            None => line,
        };
        if let Some((name, reason)) = printed.strip_prefix("skipped: ").and_then(|skip| skip.split_once(": ")) {
            self.skips.insert(name.to_owned(), reason.to_owned());
        }
        if let Some((name, reason)) = line.strip_prefix("left out: ").and_then(|rest| rest.split_once(": ")) {
            self.leave_out(name, reason);
        }
        match line.strip_prefix("    ") {
            // A backtrace that got in between has spaces in it.
            Some(name) if self.listing && !name.contains(' ') => drop(self.failures.insert(name.to_owned())),
            _ if line == "failures:" => self.listing = true,
            _ if line.starts_with("test result: ") => self.listing = false,
            _ => {}
        }
        let Some(counts) = line.find("test result: ").map(|at| &line[at..]) else { return };
        self.reported_passed += count(counts, "passed");
        self.reported_failed += count(counts, "failed");
        self.ignored += count(counts, "ignored");
    }

    /// A run of the runner has ended.
    pub fn finish(&mut self, success: bool) {
        if !success && self.reported_failed == self.failed_before {
            self.broken += 1;
        }
        self.failed_before = self.reported_failed;
    }

    /// The tests to run once more: those that failed, unless they are so many that it can't be chance, or something
    /// crashed.
    pub fn second_tries(&self) -> Vec<String> {
        let few = self.failures.len() as u32 == self.reported_failed && self.failures.len() <= MOST_SECOND_TRIES;
        if few && self.broken == 0 { self.failures.iter().cloned().collect() } else { Vec::new() }
    }

    /// Takes in what came of them. Only if all of them passed, and no fewer than that, does the first failure not count.
    pub fn tried_again(&mut self, second: &Self) {
        if second.failed() > 0 || second.reported_passed < self.reported_failed {
            return;
        }
        self.reported_passed += self.reported_failed;
        self.reported_failed = 0;
        self.unsteady.append(&mut self.failures);
    }

    /// Tests that ran to their end with success.
    pub fn passed(&self) -> u32 {
        self.reported_passed.saturating_sub(self.skips.len() as u32)
    }

    /// Tests that failed, and runs that crashed.
    pub fn failed(&self) -> u32 {
        self.reported_failed + self.broken
    }

    /// Tests that could not run here.
    pub fn skipped(&self) -> u32 {
        self.ignored + (self.skips.len() + self.left_out.len()) as u32
    }
}

/// The table of all tiers, the skipped tests with their reasons, and the closing line.
pub fn summary(reports: &[Report]) -> String {
    let mut text = format!("\n{:<12} {:>7} {:>7} {:>7} {:>9}\n", "tier", "passed", "failed", "skipped", "seconds");
    for report in reports {
        let (passed, failed, skipped) = (report.passed(), report.failed(), report.skipped());
        let _ = writeln!(text, "{:<12} {passed:>7} {failed:>7} {skipped:>7} {:>9.1}", report.name, report.seconds);
    }
    for report in reports {
        for (name, reason) in report.skips.iter().chain(&report.left_out) {
            let _ = writeln!(text, "skipped in {}: {name}: {reason}", report.name);
        }
        for name in &report.unsteady {
            let _ = writeln!(
                text,
                "unsteady in {}: {name}: failed, and passed when it was run again; see above",
                report.name
            );
        }
        if report.broken > 0 {
            let _ = writeln!(text, "failed in {}: a test program crashed or didn't start; see above", report.name);
        }
    }
    let total = |count: fn(&Report) -> u32| reports.iter().map(count).sum::<u32>();
    let (passed, failed, skipped) = (total(Report::passed), total(Report::failed), total(Report::skipped));
    let _ = writeln!(text, "\n{passed} passed, {failed} failed, {skipped} skipped");
    text
}

/// The number before a word: 5 for `passed` in `ok. 5 passed; 0 failed;`. 0 when the word isn't there.
fn count(line: &str, word: &str) -> u32 {
    let words: Vec<&str> = line.split_whitespace().collect();
    let pair = words.windows(2).find(|pair| pair[1].trim_end_matches(';') == word);
    pair.and_then(|pair| pair[0].parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests;
