//! Project chores: `cargo xtask tidy` checks what compilers do not, `cargo xtask test` runs every test there is.

mod arrows;
mod checks;
mod tidy;
mod torture;

use std::path::PathBuf;
use std::process::ExitCode;

const HELP: &str = "\
usage: cargo xtask COMMAND

  test           every check and test: format, lints, tidy, unit and integration tests, release build,
                 contract tests with the official clients; ends with `N passed, N failed`
  torture        the store's proofs in full: kills, power cuts, disk errors, flipped bits, crash states; ends with a
                 table. Sizes by --kills, --cuts, --states, --errors, --flips N; further words choose cases by their names
  figures        what gRPC clients cost, beside the Java server; rounds and seconds of each measurement by
                 FERROMQ_FIGURE_ROUNDS and FERROMQ_FIGURE_SECONDS, further words choose cases by their names
  tidy           arrows between crates, style rules, file lengths
  tidy --bless   the same, and lowers the recorded file lengths to what they are now
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["test"] => checks::run(&root()),
        ["torture", ref further @ ..] => torture::run(&root(), further),
        ["figures", ref further @ ..] => checks::figures(&root(), further),
        ["tidy"] => report(&tidy::run(&root(), false)),
        ["tidy", "--bless"] => report(&tidy::run(&root(), true)),
        ["help" | "--help" | "-h"] => {
            say(HELP);
            ExitCode::SUCCESS
        }
        _ => {
            complain(HELP);
            ExitCode::from(2)
        }
    }
}

/// The top folder of the project.
fn root() -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.parent().map(PathBuf::from).unwrap_or(here)
}

fn report(problems: &[String]) -> ExitCode {
    for problem in problems {
        complain(problem);
    }
    if problems.is_empty() {
        say("tidy: clean");
        ExitCode::SUCCESS
    } else {
        complain(&format!("tidy: {} problems", problems.len()));
        ExitCode::FAILURE
    }
}

#[allow(clippy::print_stdout, reason = "a chore talks to the person at the terminal")]
pub(crate) fn say(line: &str) {
    println!("{line}");
}

#[allow(clippy::print_stderr, reason = "a chore talks to the person at the terminal")]
pub(crate) fn complain(line: &str) {
    eprintln!("{line}");
}
