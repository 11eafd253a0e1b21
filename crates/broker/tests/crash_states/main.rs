//! Power cuts and kills at every point of a recorded run of a broker: delayed messages, transactions and pop. All of it
//! lies in the log, so the store's recording (`crates/store/tests/crash_states`) has what each disk is made of that a cut
//! could have left; the files of `config` are added as they were. On each such disk a broker starts and clients go on:
//! what was acknowledged is there, delayed messages come once and not early, each transaction has one outcome, and
//! popped messages come back unless they were acknowledged.
//!
//! `FERROMQ_CRASH_STATES` sets how many states are tried: at the borders of syncs, when tables were written, and torn and
//! reordered.
#![allow(clippy::unwrap_used, reason = "a test says by panicking what is wrong")]

mod check;
#[path = "../pop/client.rs"]
#[allow(dead_code, reason = "a part of it is used")]
mod client;
#[path = "../../../store/tests/crash_states/disk.rs"]
mod disk;
#[path = "../support/producer.rs"]
#[allow(dead_code, reason = "a part of it is used")]
mod producer;
mod run;
#[path = "../support/mod.rs"]
mod support;

use std::io::Write;

use disk::{Dice, Fate};
use ferromq_store::Event;

fn torture(sync: bool) {
    let states: usize = std::env::var("FERROMQ_CRASH_STATES").ok().and_then(|n| n.parse().ok()).unwrap_or(100);
    let (run, folder) = run::record(sync, 400 + states / 2);
    let root = folder.path();
    let is_sync =
        |event: &Event| matches!(event, Event::Sync { .. } | Event::SyncFolder { .. } | Event::SyncVolume { .. });
    let borders: Vec<usize> = (run.first..run.events.len()).filter(|n| is_sync(&run.events[*n])).collect();
    let each = (states / 6).max(1);
    let mut tried = 0;
    // The tables must not know of what the log may lack.
    let tables: Vec<usize> =
        run.tables.iter().map(|(events, _)| *events).filter(|events| *events > run.first).collect();
    for cut in tables.iter().step_by(tables.len().div_ceil(each).max(1)) {
        check::check(&run, root, *cut, Fate::None, &format!("only what is durable when tables were written, {cut}"));
        tried += 1;
    }
    for (n, border) in borders.iter().step_by(borders.len().div_ceil(each).max(1)).enumerate() {
        // Just before the sync returned, just after it, and a kill in its place.
        let (cut, fate, what) = match n % 3 {
            0 => (*border, Fate::None, "only what is durable before"),
            1 => (border + 1, Fate::None, "only what is durable after"),
            _ => (border + 1, Fate::All, "killed after"),
        };
        check::check(&run, root, cut, fate, &format!("{what} event {border}"));
        tried += 1;
    }
    for seed in 1..=each as u64 {
        let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let cut = run.first + 1 + dice.below(run.events.len() - run.first);
        let (cut, fate, what) = match seed % 3 {
            0 => (behind_mapped(&run.events, cut), Fate::All, "killed"),
            _ => (cut, Fate::Random(&mut dice), "torn and reordered by the dice"),
        };
        check::check(&run, root, cut, fate, &format!("{what} after event {cut} of seed {seed}"));
        tried += 1;
    }
    let mode = if sync { "SYNC_FLUSH" } else { "ASYNC_FLUSH" };
    let acknowledged = run.jobs.iter().filter(|job| job.acknowledged.is_some()).count();
    let ended = run.transactions.iter().filter(|transaction| transaction.end.is_some()).count();
    // A line of the table that `cargo xtask torture` prints.
    let row = format!(
        "| crash states of a broker, {mode} | {tried} states of {} popped messages ({acknowledged} acknowledged), {} transactions ({ended} ended), {} delayed messages, {} changes, {} syncs | all keep their promises",
        run.jobs.len(),
        run.transactions.len(),
        run.delayed.len(),
        run.events.len(),
        borders.len(),
    );
    writeln!(std::io::stdout().lock(), "{row}").unwrap();
}

/// The first place from `cut` on that is not amid the pages of an index file: they are noted when the file is synced, all that
/// changed since the last time, and a kill takes none of them back.
fn behind_mapped(events: &[Event], cut: usize) -> usize {
    let is_page = |event: &Event| matches!(event, Event::Write { path, .. } if path.parent().is_some_and(|folder| folder.ends_with("index")));
    cut + events[cut..].iter().take_while(|event| is_page(event)).count()
}

#[test]
fn every_state_keeps_the_promises_under_sync_flush() {
    torture(true);
}

#[test]
fn every_state_keeps_the_promises_under_async_flush() {
    torture(false);
}
