//! Power cuts in a run with batch queues and light queues: a record that is several messages, or that stands in several
//! queues, is there in all of its places or in none.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ferromq_store::{AppendBatch, Durability, Event, Faults, Store, StoreConfig, TopicKind};

use crate::common::{self, inner_batch, parts, read_all};
use crate::disk::{Dice, Disk, Fate, torn_and_reordered};

const BATCH: &str = "Batch";
const PLAIN: &str = "Plain";
const LIGHTS: [&str; 3] = ["%LMQ%a", "%LMQ%b", "%LMQ%c"];
const QUEUES: [&str; 5] = [BATCH, PLAIN, LIGHTS[0], LIGHTS[1], LIGHTS[2]];

/// A record of the run.
struct Sent {
    /// Queue 0 of a topic, and the offset of its first message there.
    places: Vec<(&'static str, i64)>,
    bodies: Vec<Vec<u8>>,
    /// It was begun before, and is durable since, that many events.
    begun: usize,
    durable: Option<usize>,
    /// Position of its end in the log.
    end: u64,
}

fn settings(root: &Path, sync: bool) -> StoreConfig {
    StoreConfig {
        batch_topics: [BATCH.to_owned()].into(),
        mapper_file_size_batch_consume_queue: 46 * 20,
        multi_dispatch: true,
        ..crate::settings(root, sync)
    }
}

/// Works on a store for some rounds: batches of both kinds, pauses, restarts.
fn record(root: &Path, sync: bool, rounds: usize) -> (Vec<Event>, Vec<Sent>) {
    let faults = Arc::new(Faults::recording());
    let open =
        || Store::open(StoreConfig { faults: Some(Arc::clone(&faults)), ..settings(root, sync) }, Arc::new(|_| ()));
    let (mut store, mut dice, mut all) = (open().unwrap(), Dice(0xBA7C4 + u64::from(sync)), Vec::<Sent>::new());
    for _ in 0..rounds {
        match dice.below(24) {
            0 => {
                drop(store);
                store = open().unwrap();
            }
            1 => store.checkpoint_now(),
            2 | 3 => std::thread::sleep(Duration::from_millis(12)),
            _ => append(&store, &faults, &mut dice, &mut all),
        }
        let (flushed, events) = (store.flushed_position(), faults.event_count());
        let newly = all.iter_mut().filter(|sent| sent.durable.is_none() && sent.end <= flushed);
        newly.for_each(|sent| sent.durable = Some(events));
    }
    drop(store);
    (faults.events(), all)
}

fn append(store: &Store, faults: &Faults, dice: &mut Dice, all: &mut Vec<Sent>) {
    let (mut batch, begun) = (AppendBatch::default(), faults.event_count());
    let mut new: Vec<(Vec<&'static str>, Vec<Vec<u8>>)> = Vec::new();
    for n in 0..1 + dice.below(6) {
        let mut body = || format!("{}-{n}-{}", all.len(), "x".repeat(dice.below(400))).into_bytes();
        if n % 2 == 0 {
            let bodies: Vec<Vec<u8>> = (0..1 + n).map(|_| body()).collect();
            let whole = inner_batch(&common::as_slices(&bodies));
            let queue = store.topic_queue(BATCH, 0, TopicKind::Batch);
            batch.push_inner_batch(&queue, &parts(BATCH, 0, &whole, b""), bodies.len() as i16).unwrap();
            new.push((vec![BATCH], bodies));
        } else {
            let body = body();
            let lights: Vec<&str> = LIGHTS.into_iter().filter(|_| dice.below(3) > 0).collect();
            let list = format!("INNER_MULTI_DISPATCH\u{1}{}\u{2}", lights.join(","));
            let text = if lights.is_empty() { b"" } else { list.as_bytes() };
            batch.push(&store.queue(PLAIN, 0), &parts(PLAIN, 0, &body, text)).unwrap();
            new.push(([&[PLAIN][..], &lights].concat(), vec![body]));
        }
    }
    let mut next: BTreeMap<&str, i64> = QUEUES.iter().map(|name| (*name, end_of(store, name))).collect();
    store.append(&mut batch).unwrap();
    store.dispatch();
    if store.is_sync_flush() {
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        store.when_durable(batch.end_position(), Box::new(move |durability| tell.send(durability).unwrap()));
        assert_eq!(told.recv().unwrap(), Durability::Durable);
    }
    let durable = store.is_sync_flush().then(|| faults.event_count());
    for ((queues, bodies), at) in new.into_iter().zip(batch.results()) {
        let mut take = |name: &'static str| {
            let next = next.get_mut(name).unwrap();
            (name, std::mem::replace(next, *next + bodies.len() as i64))
        };
        let places: Vec<_> = queues.into_iter().map(&mut take).collect();
        assert_eq!(places[0].1, at.queue_offset);
        all.push(Sent { places, bodies, begun, durable, end: at.physical_offset + u64::from(at.size) });
    }
}

/// The offset that the next message of queue 0 gets.
fn end_of(store: &Store, topic: &str) -> i64 {
    store.find_queue(topic, 0).map_or(0, |queue| queue.next_offset())
}

fn check(events: &[Event], all: &[Sent], root: &Path, sync: bool, (cut, fate): (usize, Fate<'_>), what: &str) {
    let left = tempfile::tempdir().unwrap();
    let is_kill = matches!(fate, Fate::All);
    let mut disk = Disk::after(&events[..cut], fate);
    if !is_kill {
        disk.boot_again(root);
    }
    disk.write_to(root, left.path());
    let open = || Store::open(settings(left.path(), sync), Arc::new(|_| ())).unwrap_or_else(|e| panic!("{what}: {e}"));
    let store = open();
    common::dispatch(&store);
    let content = |store: &Store| QUEUES.map(|name| read_all(store, name, 0));
    let before = content(&store);
    let found: BTreeMap<(&str, i64), &Vec<u8>> = QUEUES
        .iter()
        .zip(&before)
        .flat_map(|(name, all)| all.iter().map(move |(offset, body)| ((*name, *offset), body)))
        .collect();
    assert_eq!(found.len(), before.iter().map(Vec::len).sum::<usize>(), "{what}: an offset has two messages");
    let mut known = BTreeSet::new();
    for sent in all.iter().filter(|sent| sent.begun < cut) {
        let places =
            sent.places.iter().flat_map(|(name, first)| (*first..).zip(&sent.bodies).map(move |at| (*name, at)));
        let is_there = |(name, (offset, body)): (&'static str, (i64, &Vec<u8>))| {
            let is_it = found.get(&(name, offset)).is_some_and(|found| *found == body);
            known.extend(is_it.then_some((name, offset)));
            is_it
        };
        let there: BTreeSet<bool> = places.map(is_there).collect();
        assert!(there.len() == 1, "{what}: {:?} is in some of its places", sent.places);
        let is_promised = sent.durable.is_some_and(|durable| durable <= cut);
        assert!(!is_promised || there.contains(&true), "{what}: {:?} is lost", sent.places);
    }
    assert!(found.keys().all(|place| known.contains(place)), "{what}: something was never sent");
    // It goes on: each queue takes the next message at its end, and another start changes nothing.
    let ends = QUEUES.map(|name| before[QUEUES.iter().position(|q| *q == name).unwrap()].last().map_or(0, |l| l.0 + 1));
    assert_eq!(QUEUES.map(|name| end_of(&store, name)), ends, "{what}: ends");
    let mut batch = AppendBatch::default();
    let queue = store.topic_queue(BATCH, 0, TopicKind::Batch);
    batch.push_inner_batch(&queue, &parts(BATCH, 0, &inner_batch(&[b"next", b"and next"]), b""), 2).unwrap();
    let list = format!("INNER_MULTI_DISPATCH\u{1}{}\u{2}", LIGHTS.join(","));
    batch.push(&store.queue(PLAIN, 0), &parts(PLAIN, 0, b"next", list.as_bytes())).unwrap();
    store.append(&mut batch).unwrap();
    common::dispatch(&store);
    drop(store);
    let (store, more) = (open(), [2, 1, 1, 1, 1]);
    for (n, after) in content(&store).iter().enumerate() {
        let kept = after.len() - more[n];
        assert!(after[..kept] == before[n][..], "{what}: {} after another start", QUEUES[n]);
        assert_eq!(after[kept].0, ends[n], "{what}: {} goes on at its end", QUEUES[n]);
    }
}

fn torture(sync: bool) {
    let states = std::env::var("FERROMQ_CRASH_STATES").ok().and_then(|n| n.parse().ok()).unwrap_or(100_usize);
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let (events, all) = record(&root, sync, 120 + states / 2);
    let borders: Vec<usize> = (1..events.len())
        .filter(|n| matches!(events[n - 1], Event::Sync { .. } | Event::SyncFolder { .. } | Event::SyncVolume { .. }))
        .collect();
    let each = (states / 4).max(1);
    for cut in borders.iter().step_by(borders.len().div_ceil(each).max(1)) {
        check(&events, &all, &root, sync, (*cut, Fate::None), &format!("only what is durable before event {cut}"));
        check(&events, &all, &root, sync, (*cut, Fate::All), &format!("killed before event {cut}"));
    }
    torn_and_reordered(each, events.len(), |cut, fate, what| {
        check(&events, &all, &root, sync, (cut, fate), what);
    });
}

#[test]
fn batch_and_light_queues_keep_all_places_of_a_record_or_none_under_sync_flush() {
    torture(true);
}

#[test]
fn and_so_they_do_under_async_flush() {
    torture(false);
}
