//! The proofs that the store keeps its word: kills, power cuts, failing disks, flipped bits, and the Java broker before the
//! same judge; and the figures it promises. `cargo test --release -p ferromq-contract --test torture` runs the short version
//! of the proofs, `cargo xtask torture` everything in full; the sizes are environment variables that tests/README.md lists.

mod disk;
mod flips;
mod growth;
mod kill;
mod late;
mod models;
mod pace;
mod power;

use ferromq_contract::runner::Failed;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut cases = kill::cases();
    cases.extend(power::cases());
    cases.extend(disk::cases());
    cases.extend(flips::cases());
    cases.extend(growth::cases());
    cases.extend(pace::cases());
    cases.extend(late::cases());
    cases.extend(models::cases());
    ferromq_contract::runner::main(cases, Failed::Fails)
}

/// What a row says of a promise about time: the machine may be busy with something else, so that missing it fails no case.
fn verdict(must: &str, is_met: bool) -> String {
    format!("must {must}: {}", if is_met { "met" } else { "missed" })
}
