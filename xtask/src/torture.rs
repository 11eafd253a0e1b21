//! `cargo xtask torture`: the proofs of the store in their full size, and a table of what they came to. The short size runs
//! with `cargo xtask test`; both are the same cases, see `tests/contract/torture`.

use crate::checks::CONTRACT;
use crate::{complain, say};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

/// Option, the variable that carries it to the cases, and the full size.
const SIZES: &[(&str, &str, u64)] = &[
    ("--kills", "FERROMQ_KILL_CYCLES", 1000),
    ("--cuts", "FERROMQ_POWER_CUTS", 200),
    ("--states", "FERROMQ_CRASH_STATES", 2000),
    ("--errors", "FERROMQ_ERROR_POINTS", 300),
    ("--flips", "FERROMQ_BIT_FLIPS", 10_000),
    ("--seconds", "FERROMQ_CRASH_SECONDS", 60),
    ("--takeover", "FERROMQ_TAKEOVER", 1_000_000),
    ("--pending", "FERROMQ_PENDING", 100_000),
    ("--gib", "FERROMQ_LOG_GIB", 50),
    ("--rebuild", "FERROMQ_REBUILD_GIB", 4),
    ("--queues", "FERROMQ_QUEUES", 100_000),
    ("--sends", "FERROMQ_SYNC_SENDS", 400_000),
    ("--pulled", "FERROMQ_PULL_MESSAGES", 1_000_000),
    ("--late", "FERROMQ_LATE_MESSAGES", 50_000),
    ("--histories", "FERROMQ_MODEL_HISTORIES", 10),
    // Zero: another one each time.
    ("--seed", "FERROMQ_MODEL_SEED", 0),
];

/// Cases of the contract tests that belong to the table, too.
const OF_CONTRACT: [&str; 2] = ["takeover::many_messages_by_ours_and_back", "later::raw::killed_with_many_pending"];

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
struct Plan<'a> {
    sizes: Vec<(&'static str, u64)>,
    /// Parts of names of cases; none stands for all.
    cases: Vec<&'a str>,
}

fn plan<'a>(words: &[&'a str]) -> Result<Plan<'a>, String> {
    let mut plan =
        Plan { sizes: SIZES.iter().map(|(_, variable, full)| (*variable, *full)).collect(), cases: Vec::new() };
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if let Some(at) = SIZES.iter().position(|(option, ..)| option == word) {
            let size = words.next().and_then(|number| number.replace('_', "").parse().ok());
            plan.sizes[at].1 = size.ok_or_else(|| format!("{word} wants a number"))?;
        } else if word.starts_with('-') {
            let known: Vec<&str> = SIZES.iter().map(|(option, ..)| *option).collect();
            return Err(format!("unknown option {word}; there are {}", known.join(", ")));
        } else {
            plan.cases.push(word);
        }
    }
    Ok(plan)
}

/// Runs the proofs and prints their table.
pub fn run(root: &Path, words: &[&str]) -> ExitCode {
    let plan = match plan(words) {
        Ok(plan) => plan,
        Err(why) => {
            complain(&why);
            return ExitCode::from(2);
        }
    };
    let mut table = Vec::new();
    let mut succeeded = true;
    // The states of recorded runs are tests of store and broker; those cases have no theme in their names.
    for package in ["ferromq-store", "ferromq-broker"].iter().filter(|_| plan.cases.is_empty()) {
        succeeded &= cases(root, &["-p", package, "--test", "crash_states"], &[], &plan, &mut table);
    }
    succeeded &= cases(root, &["-p", CONTRACT, "--test", "torture"], &plan.cases, &plan, &mut table);
    let is_chosen = |case: &str| plan.cases.is_empty() || plan.cases.iter().any(|part| case.contains(part));
    let of_contract: Vec<&str> = OF_CONTRACT.into_iter().filter(|case| is_chosen(case)).collect();
    if !of_contract.is_empty() {
        succeeded &= cases(root, &["-p", CONTRACT, "--test", "contract"], &of_contract, &plan, &mut table);
    }
    say("");
    table.iter().for_each(|line| say(line));
    if succeeded { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs `cargo test` with these arguments and the chosen cases, none for all; lines of tables go to `table`, too.
fn cases(root: &Path, arguments: &[&str], chosen: &[&str], plan: &Plan<'_>, table: &mut Vec<String>) -> bool {
    let mut command = Command::new(env!("CARGO"));
    command.current_dir(root).args(["test", "--release"]).args(arguments).arg("--").args(chosen);
    command.envs(plan.sizes.iter().map(|(variable, size)| (*variable, size.to_string()))).stdout(Stdio::piped());
    let status = command.spawn().and_then(|mut child| {
        if let Some(output) = child.stdout.take() {
            for line in BufReader::new(output).split(b'\n') {
                let line = String::from_utf8_lossy(&line?).into_owned();
                say(&line);
                if line.starts_with("| ") {
                    table.push(line);
                }
            }
        }
        child.wait()
    });
    match status {
        Ok(status) => status.success(),
        Err(error) => {
            complain(&format!("cargo test {}: {error}", arguments.join(" ")));
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_full_unless_told() {
        let chosen = plan(&["--cuts", "1_0", "power"]).unwrap();
        assert_eq!(chosen.cases, ["power"]);
        assert!(chosen.sizes.contains(&("FERROMQ_POWER_CUTS", 10)));
        assert!(chosen.sizes.contains(&("FERROMQ_KILL_CYCLES", 1000)));
    }

    #[test]
    fn what_is_no_option_is_refused() {
        assert!(plan(&["--cuts"]).unwrap_err().contains("number"));
        assert!(plan(&["--kill", "3"]).unwrap_err().contains("--kills"));
    }
}
