//! What the test binaries said, added up. A test that leaves itself out prints the line
//! `SKIP <test>: <reason>` and passes for libtest; here it counts as skipped.

use std::{
    collections::BTreeMap,
    fmt::{self, Display, Formatter},
};

use super::Outcome;

/// The sum over all binaries so far.
#[derive(Default)]
pub(super) struct Report {
    passed: u64,
    failed: u64,
    failures: Vec<String>,
    /// Reason by binary and test: a test may say so more than once.
    skipped: BTreeMap<(String, String), String>,
    /// Skips by SKIP lines in the binary that is running; libtest counts them as passed.
    skips_of_current: u64,
    /// Whether the running binary gave its totals, and how many failures it counted.
    result_of_current: Option<u64>,
    /// Runs that began and gave no totals yet. A test may run its own binary again, whose results
    /// are not ours.
    open_runs: u32,
    /// The last totals that seemed to be of such an inner run.
    inner: Option<Totals>,
    /// Below which of libtest's headings the lines are.
    section: Section,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Section {
    /// The tests as they run.
    #[default]
    Running,
    /// What passing tests printed, and their names once more.
    Successes,
    /// What failing tests printed, and their names.
    Failures,
}

impl Report {
    /// Takes in a line that the binary `title` printed; whether a person should see it, too. What
    /// passing tests printed is left out, but for skips.
    pub(super) fn line(&mut self, title: &str, line: &str) -> bool {
        let line = line.trim_end_matches('\r');
        match line {
            "successes:" => self.section = Section::Successes,
            "failures:" => self.section = Section::Failures,
            _ => {}
        }
        if let Some(skip) = skip(line) {
            self.skip(title, skip);
            return true;
        } else if is_begin(line) {
            self.open_runs += 1;
        } else if let Some(totals) = Totals::parse(line) {
            self.open_runs = self.open_runs.saturating_sub(1);
            if self.open_runs == 0 {
                self.count(totals);
            } else {
                self.inner = Some(totals);
            }
            self.section = Section::Running;
        } else if let Some((test, reason)) = ignored(line) {
            let key = (title.to_owned(), test.to_owned());
            self.skipped.insert(key, reason.to_owned());
        } else if let Some(name) = failed(line) {
            self.failures.push(format!("{title}: {name}"));
        }
        self.section != Section::Successes && !line.is_empty()
    }

    fn count(&mut self, totals: Totals) {
        self.passed += totals.passed;
        self.failed += totals.failed;
        *self.result_of_current.get_or_insert(0) += totals.failed;
    }

    fn skip(&mut self, title: &str, (test, reason): (&str, &str)) {
        let key = (title.to_owned(), test.to_owned());
        if self.skipped.insert(key, reason.to_owned()).is_none() {
            self.skips_of_current += 1;
        }
    }

    /// Takes in that the binary `title` ended. One that hung, or died before its totals, is a
    /// failure of its own.
    pub(super) fn end(&mut self, title: &str, outcome: &Outcome) {
        // Where an inner run died without totals, the outer's were taken for an inner's.
        self.open_runs = 0;
        if let Some(totals) = self.inner.take()
            && self.result_of_current.is_none()
            && matches!(outcome, Outcome::Exited(_))
        {
            self.count(totals);
        }
        let counted = self.result_of_current.take();
        self.passed = self.passed.saturating_sub(std::mem::take(&mut self.skips_of_current));
        self.section = Section::Running;
        let failure = match outcome {
            Outcome::TimedOut(deadline) => {
                Some(format!("not done after {} s, stopped", deadline.as_secs()))
            }
            Outcome::Exited(Some(0)) => None,
            Outcome::Exited(code) if counted.is_none_or(|failed| failed == 0) => Some(match code {
                Some(code) => format!("ended with code {code} before it told its results"),
                None => "was killed by a signal".to_owned(),
            }),
            Outcome::Exited(_) => None,
        };
        if let Some(failure) = failure {
            self.failed += 1;
            self.failures.push(format!("{title}: {failure}"));
        }
    }

    /// Whether nothing failed, and there was something to test.
    pub(super) fn is_success(&self) -> bool {
        self.failures.is_empty()
            && self.failed == 0
            && (self.passed > 0 || !self.skipped.is_empty())
    }
}

impl Display for Report {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        if !self.failures.is_empty() {
            writeln!(formatter, "Failed:")?;
            for failure in &self.failures {
                writeln!(formatter, "  {failure}")?;
            }
        }
        if !self.skipped.is_empty() {
            writeln!(formatter, "Skipped:")?;
            for ((title, test), reason) in &self.skipped {
                writeln!(formatter, "  {title}: {test}: {reason}")?;
            }
        }
        writeln!(
            formatter,
            "{} passed, {} failed, {} skipped",
            self.passed,
            self.failed,
            self.skipped.len()
        )
    }
}

/// Test and reason of a line `SKIP <test>: <reason>`. The test may be a path with `::`.
fn skip(line: &str) -> Option<(&str, &str)> {
    let (test, reason) = line.trim_start().strip_prefix("SKIP ")?.split_once(": ")?;
    Some((test.trim(), reason.trim()))
}

/// Test and reason of libtest's line `test <test> ... ignored, <reason>`.
fn ignored(line: &str) -> Option<(&str, &str)> {
    let (test, outcome) = line.strip_prefix("test ")?.split_once(" ... ignored")?;
    Some((test, outcome.strip_prefix(", ").unwrap_or("ignored without a reason")))
}

/// Whether a line is libtest's first, `running <N> tests`.
fn is_begin(line: &str) -> bool {
    line.strip_prefix("running ").and_then(|line| line.split_once(' ')).is_some_and(
        |(count, what)| count.parse::<u64>().is_ok() && matches!(what, "test" | "tests"),
    )
}

/// Test of libtest's line `test <test> ... FAILED`.
fn failed(line: &str) -> Option<&str> {
    line.strip_prefix("test ")?.strip_suffix(" ... FAILED")
}

/// libtest's last line.
struct Totals {
    passed: u64,
    failed: u64,
}

impl Totals {
    fn parse(line: &str) -> Option<Self> {
        let counts = line.strip_prefix("test result: ")?.split_once(". ")?.1;
        let count = |what: &str| {
            counts.split("; ").find_map(|part| part.strip_suffix(what)?.trim().parse().ok())
        };
        Some(Self { passed: count("passed")?, failed: count("failed")? })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn report(lines: &[&str], outcome: Outcome) -> Report {
        let mut report = Report::default();
        for line in lines {
            let _: bool = report.line("replay", line);
        }
        report.end("replay", &outcome);
        report
    }

    fn totals(passed: u64, failed: u64) -> String {
        format!(
            "test result: ok. {passed} passed; {failed} failed; 1 ignored; 0 measured; \
             0 filtered out; finished in 0.01s"
        )
    }

    #[test]
    fn a_skip_counts_once_and_not_as_passed() {
        let report = report(
            &[
                "---- gue::v6 stdout ----",
                "SKIP gue::v6: the kernel lacks X: really",
                "SKIP gue::v6: the kernel lacks X: really",
                "test slow ... ignored, takes a day",
                &totals(3, 0),
            ],
            Outcome::Exited(Some(0)),
        );
        assert!(report.is_success());
        let text = report.to_string();
        assert!(text.contains("replay: gue::v6: the kernel lacks X: really\n"), "{text}");
        assert!(text.contains("replay: slow: takes a day\n"), "{text}");
        assert!(text.ends_with("2 passed, 0 failed, 2 skipped\n"), "{text}");
    }

    #[test]
    fn failures_are_named_and_their_output_is_shown() {
        let mut report = Report::default();
        let mut shown = Vec::new();
        let last = totals(1, 1);
        for line in [
            "test gue::v4 ... FAILED",
            "test gue::v6 ... ok",
            "successes:",
            "---- gue::v6 stdout ----",
            "chatter",
            "SKIP gue::v6: no tunnel",
            "successes:",
            "    gue::v6",
            "failures:",
            "---- gue::v4 stdout ----",
            "thread 'gue::v4' panicked at x.rs:1:1:",
            &last,
        ] {
            if report.line("replay", line) {
                shown.push(line.split(':').next().unwrap());
            }
        }
        report.end("replay", &Outcome::Exited(Some(101)));
        assert_eq!(report.failures, ["replay: gue::v4"]);
        assert!(report.to_string().ends_with("0 passed, 1 failed, 1 skipped\n"));
        assert!(!shown.contains(&"chatter"), "{shown:?}");
        assert!(shown.contains(&"SKIP gue"), "{shown:?}");
        assert!(shown.contains(&"thread 'gue"), "{shown:?}");
    }

    #[test]
    fn a_binary_that_died_or_hung_is_a_failure() {
        let died = report(&["running 1 test"], Outcome::Exited(Some(134)));
        assert_eq!(died.failed, 1);
        let lied = report(&[&totals(2, 0)], Outcome::Exited(Some(1)));
        assert_eq!(lied.failed, 1);
        let hung = report(&[&totals(2, 0)], Outcome::TimedOut(Duration::from_secs(9)));
        assert!(hung.to_string().contains("not done after 9 s"));
        assert!(!hung.is_success());
    }

    #[test]
    fn a_binary_that_a_test_runs_again_is_not_counted() {
        let lines = ["running 6 tests", "running 1 test", &totals(1, 0), &totals(5, 0)];
        let nested = report(&lines, Outcome::Exited(Some(0)));
        assert!(nested.to_string().ends_with("5 passed, 0 failed, 0 skipped\n"), "{nested}");

        let lines = ["running 6 tests", "running 1 test", &totals(4, 1)];
        let inner_died = report(&lines, Outcome::Exited(Some(101)));
        assert!(inner_died.to_string().ends_with("4 passed, 1 failed, 0 skipped\n"));

        let lines = ["running 2 tests", &totals(2, 0), "running 3 tests", &totals(3, 0)];
        let examples = report(&lines, Outcome::Exited(Some(0)));
        assert!(examples.to_string().ends_with("5 passed, 0 failed, 0 skipped\n"));
    }

    #[test]
    fn nothing_tested_is_no_success() {
        assert!(!report(&[&totals(0, 0)], Outcome::Exited(Some(0))).is_success());
    }
}
