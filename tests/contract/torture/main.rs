//! The proofs that the store keeps its word: kills, power cuts, failing disks, flipped bits, and the Java broker before the
//! same judge. `cargo test --release -p ferromq-contract --test torture` runs the short version, `cargo xtask torture` the
//! full one; the sizes are environment variables that tests/README.md lists.

mod disk;
mod flips;
mod kill;
mod power;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut cases = kill::cases();
    cases.extend(power::cases());
    cases.extend(disk::cases());
    cases.extend(flips::cases());
    ferromq_contract::runner::main(cases)
}
