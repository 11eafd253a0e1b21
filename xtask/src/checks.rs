//! `cargo xtask test`: every check in order, all of them even when one fails, and one line with the sum at the end.
//!
//! It installs nothing by itself. Cargo, Maven and Go fetch what the tests need from the package registries. A tool that is not
//! there means skipped checks, each named and counted, never silence.

use crate::{complain, say, tidy};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// The crate that drives the built binary with the official clients.
pub(crate) const CONTRACT: &str = "ferromq-contract";
/// Most failed unit and integration tests that run once more: more than that is no matter of a busy machine.
const MAX_AGAIN: usize = 5;

/// How many passed, failed, were skipped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: u64,
    failed: u64,
    skipped: u64,
}

impl Tally {
    fn one(passed: bool) -> Self {
        Self { passed: passed.into(), failed: (!passed).into(), skipped: 0 }
    }

    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }

    fn line(&self) -> String {
        let skipped = if self.skipped > 0 { format!(", {} skipped", self.skipped) } else { String::new() };
        format!("{} passed, {} failed{skipped}", self.passed, self.failed)
    }
}

/// Runs everything.
pub fn run(root: &Path) -> ExitCode {
    let started = Instant::now();
    let mut sum = Tally::default();
    let mut summary = Vec::new();
    let mut step = |name: &str, check: &dyn Fn() -> Tally| {
        say(&format!("\n== {name}"));
        let began = Instant::now();
        let tally = check();
        sum.add(tally);
        summary.push(format!("{name:<28} {:>7}   {}", seconds(began.elapsed()), tally.line()));
    };
    let cargo = |arguments: &[&str]| Tally::one(succeeds(root, arguments));

    step("format", &|| with_component(root, "fmt", || cargo(&["fmt", "--all", "--check"])));
    step("lints", &|| {
        with_component(root, "clippy", || cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))
    });
    step("tidy", &|| {
        let problems = tidy::run(root, false);
        problems.iter().for_each(|problem| complain(problem));
        Tally::one(problems.is_empty())
    });
    step("unit and integration tests", &|| {
        unit_tests(root, &["test", "--workspace", "--exclude", CONTRACT, "--no-fail-fast"])
    });
    step("release build", &|| cargo(&["build", "--release", "-p", "ferromq"]));
    step("contract tests", &|| {
        for (tool, needed_for) in [("java", "the Java clients"), ("mvn", "the Java clients"), ("go", "the Go client")] {
            if !is_there(tool) {
                say(&format!("{tool} is not installed: the tests of {needed_for} are skipped"));
            }
        }
        tests(root, &["test", "--release", "-p", CONTRACT, "--no-fail-fast"]).0
    });

    say("");
    summary.iter().for_each(|line| say(line));
    say(&format!("{:<28} {:>7}\n", "all", seconds(started.elapsed())));
    say(&sum.line());
    if sum.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Measures the second protocol beside the Java server.
pub fn figures(root: &Path, words: &[&str]) -> ExitCode {
    let arguments = [&["run", "--release", "-p", "ferromq-figures", "--"], words].concat();
    if succeeds(root, &arguments) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn seconds(elapsed: Duration) -> String {
    format!("{:.1} s", elapsed.as_secs_f64())
}

fn cargo(root: &Path) -> Command {
    let mut command = Command::new(env!("CARGO"));
    command.current_dir(root);
    command
}

fn succeeds(root: &Path, arguments: &[&str]) -> bool {
    match cargo(root).args(arguments).status() {
        Ok(status) => status.success(),
        Err(error) => {
            complain(&format!("cargo {}: {error}", arguments.join(" ")));
            false
        }
    }
}

fn with_component(root: &Path, component: &str, check: impl Fn() -> Tally) -> Tally {
    let there = cargo(root).args([component, "--version"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if there.is_ok_and(|status| status.success()) {
        return check();
    }
    say(&format!("cargo {component} is not installed: skipped (`rustup component add` brings it)"));
    Tally { skipped: 1, ..Tally::default() }
}

fn is_there(tool: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths).any(|folder| folder.join(tool).is_file())
}

/// Unit and integration tests. What fails beside others runs once more, one after the other: no test asks how it fares on
/// a machine that is busy with something else. The first failure is printed all the same.
fn unit_tests(root: &Path, arguments: &[&str]) -> Tally {
    let (mut tally, failed) = tests(root, arguments);
    if failed.is_empty() || failed.len() as u64 != tally.failed || failed.len() > MAX_AGAIN {
        return tally;
    }
    say(&format!("\n== failed beside others, once more one after the other: {}", failed.join(", ")));
    let names: Vec<&str> = failed.iter().map(String::as_str).collect();
    let again = [arguments, &["--", "--exact", "--test-threads=1"], &names].concat();
    let again = tests(root, &again).0;
    // A name may stand for tests of two crates; then one more has passed than had failed.
    let passed = if again.failed == 0 { again.passed.min(tally.failed) } else { 0 };
    tally.passed += passed;
    tally.failed -= passed;
    tally
}

/// Runs `cargo test ...`, lets its output through, sums its result lines and gathers the names of what failed. A run that fails
/// without a failed test (it did not build, it crashed) counts as one failure.
fn tests(root: &Path, arguments: &[&str]) -> (Tally, Vec<String>) {
    let mut tally = Tally::default();
    let mut names = Vec::new();
    let spawned = cargo(root).args(arguments).stdout(Stdio::piped()).spawn();
    let status = spawned.and_then(|mut child| {
        if let Some(output) = child.stdout.take() {
            for line in BufReader::new(output).split(b'\n') {
                let line = String::from_utf8_lossy(&line?).into_owned();
                say(&line);
                tally.add(result_line(&line).unwrap_or_default());
                names.extend(failed_name(&line));
            }
        }
        child.wait()
    });
    let succeeded = match status {
        Ok(status) => status.success(),
        Err(error) => {
            complain(&format!("cargo {}: {error}", arguments.join(" ")));
            false
        }
    };
    if !succeeded && tally.failed == 0 {
        tally.failed = 1;
    }
    (tally, names)
}

/// The test of a line `test name ... FAILED`.
fn failed_name(line: &str) -> Option<String> {
    Some(line.strip_prefix("test ")?.strip_suffix(" ... FAILED")?.to_owned())
}

/// `test result: ok. 3 passed; 0 failed; 1 ignored; ...`, as Rust's test harness and the contract tests print it.
fn result_line(line: &str) -> Option<Tally> {
    let counts = line.strip_prefix("test result: ")?.split_once(". ")?.1;
    let mut tally = Tally::default();
    for part in counts.split(';') {
        match part.trim().split_once(' ') {
            Some((count, "passed")) => tally.passed = count.parse().ok()?,
            Some((count, "failed")) => tally.failed = count.parse().ok()?,
            Some((count, "ignored")) => tally.skipped = count.parse().ok()?,
            _ => {}
        }
    }
    Some(tally)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_lines_are_summed() {
        let line = "test result: FAILED. 12 passed; 2 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.01s";
        assert_eq!(result_line(line), Some(Tally { passed: 12, failed: 2, skipped: 1 }));
        assert_eq!(result_line("test common::x ... ok"), None);
        assert_eq!(result_line("test result: ok"), None);
    }

    #[test]
    fn failed_tests_are_known_by_name() {
        assert_eq!(failed_name("test dlq::a_case ... FAILED").as_deref(), Some("dlq::a_case"));
        assert_eq!(failed_name("test dlq::a_case ... ok"), None);
        assert_eq!(failed_name("test result: FAILED. 1 passed; 1 failed; 0 ignored"), None);
    }

    #[test]
    fn the_last_line_names_skipped_only_when_there_are_any() {
        assert_eq!(Tally { passed: 3, failed: 0, skipped: 0 }.line(), "3 passed, 0 failed");
        assert_eq!(Tally { passed: 3, failed: 1, skipped: 2 }.line(), "3 passed, 1 failed, 2 skipped");
    }
}
