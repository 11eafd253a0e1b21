//! `cargo xtask test`: every check in order, all of them even when one fails, and one line with the sum at the end. What
//! failed once and ran again is named above that line, with both outcomes.
//!
//! It installs nothing by itself. Cargo, Maven and Go fetch what the tests need from the package registries. A tool that is not
//! there means skipped checks, each named and counted, never silence.

use crate::{complain, say, tidy};
use std::cell::RefCell;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// The crate that drives the built binary with the official clients.
pub(crate) const CONTRACT: &str = "ferromq-contract";
/// Most failed unit and integration tests that run once more: more than that is no matter of a busy machine.
const MAX_AGAIN: usize = 5;
/// How a line begins that tells both outcomes of what ran twice, here and in the contract tests' own output.
const RAN_TWICE: &str = "RAN TWICE: ";

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

/// What became of the tests of one command.
#[derive(Debug, Default, PartialEq, Eq)]
struct Run {
    tally: Tally,
    /// Names of what failed.
    failed: Vec<String>,
    /// Lines that tell of what ran twice.
    twice: Vec<String>,
}

/// Runs everything.
pub fn run(root: &Path) -> ExitCode {
    let started = Instant::now();
    let mut sum = Tally::default();
    let mut summary = Vec::new();
    let twice = RefCell::new(Vec::new());
    let told = |mut run: Run| {
        twice.borrow_mut().append(&mut run.twice);
        run.tally
    };
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
        told(unit_tests(root, &["test", "--workspace", "--exclude", CONTRACT, "--no-fail-fast"]))
    });
    step("release build", &|| cargo(&["build", "--release", "-p", "ferromq"]));
    step("contract tests", &|| {
        for (tool, needed_for) in [("java", "the Java clients"), ("mvn", "the Java clients"), ("go", "the Go client")] {
            if !is_there(tool) {
                say(&format!("{tool} is not installed: the tests of {needed_for} are skipped"));
            }
        }
        told(tests(root, &["test", "--release", "-p", CONTRACT, "--no-fail-fast"]))
    });

    say("");
    summary.iter().for_each(|line| say(line));
    say(&format!("{:<28} {:>7}\n", "all", seconds(started.elapsed())));
    twice.borrow().iter().for_each(|line| say(line));
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
fn unit_tests(root: &Path, arguments: &[&str]) -> Run {
    let mut run = tests(root, arguments);
    if run.failed.is_empty() || run.failed.len() as u64 != run.tally.failed || run.failed.len() > MAX_AGAIN {
        return run;
    }
    say(&format!("\n== failed beside others, once more one after the other: {}", run.failed.join(", ")));
    let names: Vec<&str> = run.failed.iter().map(String::as_str).collect();
    let again = tests(root, &[arguments, &["--", "--exact", "--test-threads=1"], &names].concat());
    settle(&mut run, &again);
    run
}

/// Counts what failed as passed where the second run has passed it.
fn settle(run: &mut Run, again: &Run) {
    // A name may stand for tests of two crates; then one more has passed than had failed.
    let is_whole =
        again.tally.passed + again.tally.failed >= run.tally.failed && again.tally.failed == again.failed.len() as u64;
    let (failed, passed): (Vec<String>, Vec<String>) =
        std::mem::take(&mut run.failed).into_iter().partition(|name| !is_whole || again.failed.contains(name));
    for (names, then) in [(&passed, "passed"), (&failed, "failed")] {
        run.twice
            .extend(names.iter().map(|name| format!("{RAN_TWICE}{name} failed beside others, then {then} by itself")));
    }
    run.tally.passed += passed.len() as u64;
    run.tally.failed -= passed.len() as u64;
    run.failed = failed;
}

/// Runs `cargo test ...`, lets its output through, sums its result lines and gathers the names of what failed. A run that fails
/// without a failed test (it did not build, it crashed) counts as one failure.
fn tests(root: &Path, arguments: &[&str]) -> Run {
    let mut run = Run::default();
    let spawned = cargo(root).args(arguments).stdout(Stdio::piped()).spawn();
    let status = spawned.and_then(|mut child| {
        if let Some(output) = child.stdout.take() {
            for line in BufReader::new(output).split(b'\n') {
                let line = String::from_utf8_lossy(&line?).into_owned();
                say(&line);
                run.tally.add(result_line(&line).unwrap_or_default());
                run.failed.extend(failed_name(&line));
                run.twice.extend(line.starts_with(RAN_TWICE).then_some(line));
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
    if !succeeded && run.tally.failed == 0 {
        run.tally.failed = 1;
    }
    run
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
    fn what_the_second_run_passes_has_passed_and_is_named() {
        let tally = |passed, failed| Tally { passed, failed, skipped: 0 };
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let first = || Run { tally: tally(8, 2), failed: names(&["a", "b"]), twice: Vec::new() };
        let mut run = first();
        settle(&mut run, &Run { tally: tally(1, 1), failed: names(&["b"]), twice: Vec::new() });
        assert_eq!((run.tally, run.failed), (tally(9, 1), names(&["b"])));
        assert_eq!(run.twice[0], "RAN TWICE: a failed beside others, then passed by itself");
        assert_eq!(run.twice[1], "RAN TWICE: b failed beside others, then failed by itself");
        // It did not build, or ended before it said anything of one.
        for again in [Run { tally: tally(0, 1), ..Run::default() }, Run { tally: tally(1, 0), ..Run::default() }] {
            let mut run = first();
            settle(&mut run, &again);
            assert_eq!(run.tally, tally(8, 2));
        }
    }

    #[test]
    fn the_last_line_names_skipped_only_when_there_are_any() {
        assert_eq!(Tally { passed: 3, failed: 0, skipped: 0 }.line(), "3 passed, 0 failed");
        assert_eq!(Tally { passed: 3, failed: 1, skipped: 2 }.line(), "3 passed, 1 failed, 2 skipped");
    }
}
