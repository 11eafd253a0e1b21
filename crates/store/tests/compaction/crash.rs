//! Power cuts at every point of a recorded run with copies, passes and deletions of log files: what was acknowledged and
//! is the newest of its key is there, an offset has one body, and a deletion is never undone.
//!
//! `FERROMQ_CRASH_STATES` sets how many states are tried.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ferromq_store::{Event, Faults, FlushMode, Store, StoreConfig};

use crate::common::open;
use crate::disk::{Dice, Disk, Fate, torn_and_reordered};
use crate::support::{Seen, all, body, newest, put, short_lived};

const KEYS: usize = 12;

/// A message of the run; `durable`: events before it was acknowledged, as far as a sync covers it.
struct Message {
    key: String,
    body: Vec<u8>,
    offset: i64,
    durable: usize,
}

fn settings(root: &Path, sync: bool) -> StoreConfig {
    StoreConfig {
        flush_disk_type: if sync { FlushMode::Sync } else { FlushMode::Async },
        flush_interval_commit_log: 10,
        flush_interval_consume_queue: 15,
        durable_checkpoint_interval: 40,
        ..short_lived(root, 30)
    }
}

fn record(root: &Path, sync: bool) -> (Vec<Event>, Vec<Message>) {
    let faults = Arc::new(Faults::recording());
    faults.set_volume(10, 1 << 40);
    let open = || open(StoreConfig { faults: Some(Arc::clone(&faults)), ..settings(root, sync) });
    let (mut store, mut dice, mut messages) = (open(), Dice(0xC0FFEE + u64::from(sync)), Vec::new());
    for n in 0..260 {
        match dice.below(20) {
            0 => {
                drop(store);
                store = open();
            }
            1..4 => std::thread::sleep(Duration::from_millis(40)),
            _ => {}
        }
        let batch: Vec<(String, Vec<u8>)> = (0..1 + dice.below(5))
            .map(|m| {
                // Some keys come often, some seldom.
                let common = 1 + dice.below(KEYS);
                let key = dice.below(common);
                (format!("k{key}"), if dice.below(12) == 0 { Vec::new() } else { body(n * 10 + m) })
            })
            .collect();
        let offsets = put(&store, &batch);
        let durable = faults.event_count();
        messages.extend(batch.into_iter().zip(offsets).map(|((key, body), offset)| Message {
            key,
            body,
            offset,
            durable,
        }));
    }
    assert!(store.min_physical_offset() > 0, "log files went");
    drop(store);
    (faults.events(), messages)
}

/// Opens what a cut left and compares.
fn check(events: &[Event], messages: &[Message], root: &Path, sync: bool, (cut, fate): (usize, Fate<'_>), what: &str) {
    let left = tempfile::tempdir().unwrap();
    let is_kill = matches!(fate, Fate::All);
    let mut disk = Disk::after(&events[..cut], fate);
    if !is_kill {
        disk.boot_again(root);
    }
    disk.write_to(root, left.path());
    // No pass of its own.
    let settings = || StoreConfig {
        compaction_schedule_internal: 3_600_000,
        file_reserved_time: 1000,
        ..settings(left.path(), sync)
    };
    let open = || Store::open(settings(), Arc::new(|_| ())).unwrap_or_else(|error| panic!("{what}: {error}"));
    let store = open();
    let found = all(&store);
    keeps_promises(&found, messages, cut, what);
    let end = found.last().map_or(0, |last| last.offset + 1);
    let queue = store.find_queue(crate::support::TOPIC, 0);
    let end = queue.map_or(end, |queue| queue.max_offset());
    let next = put(&store, &[("next".to_owned(), b"next".to_vec())])[0];
    assert_eq!(next, end, "{what}");
    drop(store);
    let again = all(&open());
    assert_eq!(again[..again.len() - 1], found, "{what}: after another start");
    assert_eq!(again[again.len() - 1].offset, next, "{what}");
}

fn keeps_promises(found: &[Seen], messages: &[Message], cut: usize, what: &str) {
    let by_offset: BTreeMap<i64, &Message> = messages.iter().map(|message| (message.offset, message)).collect();
    assert!(found.windows(2).all(|two| two[0].offset < two[1].offset), "{what}: order");
    for seen in found {
        let sent = by_offset.get(&seen.offset).unwrap_or_else(|| panic!("{what}: {seen:?} was never sent"));
        assert!((&sent.key, &sent.body) == (&seen.key, &seen.body), "{what}: {seen:?}");
    }
    let visible = newest(found);
    let promised: BTreeMap<&String, &Message> =
        messages.iter().filter(|message| message.durable <= cut).map(|message| (&message.key, message)).collect();
    for (key, last) in promised {
        match visible.get(key) {
            Some(seen) => assert!(seen.offset >= last.offset, "{what}: {key} has gone back to {}", seen.offset),
            // A deletion may have done its work, this one or one that was not acknowledged.
            None => {
                let later = messages.iter().filter(|message| message.key == *key && message.offset >= last.offset);
                assert!(later.clone().any(|message| message.body.is_empty()), "{what}: {key} is lost");
            }
        }
    }
}

fn torture(sync: bool) {
    let states = std::env::var("FERROMQ_CRASH_STATES").ok().and_then(|n| n.parse().ok()).unwrap_or(100_usize);
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let (events, messages) = record(&root, sync);
    let is_name = |event: &Event| matches!(event, Event::Rename { .. });
    assert!(events.iter().any(is_name), "there were passes");
    // Just around each step of a pass that matters, and elsewhere by chance.
    let near = |n: usize| events[n.saturating_sub(6)..(n + 6).min(events.len())].iter().any(is_name);
    let steps: Vec<usize> = (0..events.len()).filter(|n| near(*n)).collect();
    let each = (states / 3).max(1);
    for cut in steps.iter().step_by(steps.len().div_ceil(each).max(1)) {
        check(&events, &messages, &root, sync, (*cut, Fate::None), &format!("only what is durable before event {cut}"));
        check(&events, &messages, &root, sync, (*cut, Fate::All), &format!("killed before event {cut}"));
        let mut dice = Dice(*cut as u64 + 1);
        check(&events, &messages, &root, sync, (*cut, Fate::Random(&mut dice)), &format!("torn before event {cut}"));
    }
    torn_and_reordered(each, events.len(), |cut, fate, what| {
        check(&events, &messages, &root, sync, (cut, fate), what);
    });
}

#[test]
fn every_state_a_power_cut_leaves_of_a_compacted_topic_keeps_its_newest_messages() {
    torture(true);
}

#[test]
fn and_so_it_is_under_async_flush() {
    torture(false);
}
