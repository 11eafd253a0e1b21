//! Power cuts at every point of a recorded run. The store's changes are written down as it works; then each disk that a
//! cut could have left is made again, with what was forced to the disk and any part of the rest, and must open: what was
//! acknowledged is there, no offset has two bodies, queues and log agree, and the store goes on.
//!
//! `FERROMQ_CRASH_STATES` sets how many states are tried: half at the borders of syncs, half torn and reordered.
//! `FERROMQ_CRASH_SECONDS` makes the run last so long, at a pace that bounds what is recorded; each border of a sync is
//! tried then. Without it the run goes as fast as it can and ends after some rounds.
#![allow(clippy::unwrap_used, reason = "a test says by panicking what is wrong")]

#[path = "../common/mod.rs"]
mod common;
mod disk;
mod interrupted;
mod kinds;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{config, parts, read_all, sync_config};
use disk::{Dice, Disk, Fate, torn_and_reordered};
use ferromq_history::{Checker, Event as Seen, Outcome, Scan, Send};
use ferromq_protocol::record::{self, Entry};
use ferromq_store::{AppendBatch, Durability, Event, Faults, Store, StoreConfig};

const TOPICS: [&str; 3] = ["A", "B", "%RETRY%C"];
const QUEUES: u32 = 2;
/// Rounds in a second of a run whose length is given: a minute records about 10 MiB.
const ROUNDS_PER_SECOND: usize = 20;

/// A message of the run.
struct Message {
    /// Its topic's generation: deleting a topic begins the next.
    generation: u32,
    queue: (usize, u32),
    offset: i64,
    /// It was begun before, and is durable since, that many events.
    begun: usize,
    durable: Option<usize>,
    /// Position of its end in the log.
    end: u64,
}

/// What was done, and what was promised meanwhile.
struct Run {
    events: Vec<Event>,
    messages: Vec<Message>,
    /// Deletions of topics: topic, and the events between which it was deleted.
    deletions: Vec<(usize, usize, usize)>,
    sync: bool,
}

fn settings(root: &Path, sync: bool) -> StoreConfig {
    let settings = if sync { sync_config(root) } else { config(root) };
    StoreConfig {
        flush_interval_commit_log: 10,
        flush_interval_consume_queue: 15,
        durable_checkpoint_interval: 40,
        ..settings
    }
}

fn body(message: usize, len: usize) -> Vec<u8> {
    let mut body = (message as u64).to_be_bytes().to_vec();
    body.resize(8 + len, message as u8);
    body
}

/// Works on a store for some rounds, each of which takes `pace` at least: batches, pauses, deletions of topics, restarts.
fn record(root: &Path, sync: bool, rounds: usize, pace: Duration) -> Run {
    let faults = Arc::new(Faults::recording());
    let open =
        || Store::open(StoreConfig { faults: Some(Arc::clone(&faults)), ..settings(root, sync) }, Arc::new(|_| ()));
    let mut run = Run { events: Vec::new(), messages: Vec::new(), deletions: Vec::new(), sync };
    let mut generations = [0; TOPICS.len()];
    let mut dice = Dice(0x5EED + u64::from(sync));
    let mut store = open().unwrap();
    for _ in 0..rounds {
        let next = Instant::now() + pace;
        match dice.below(24) {
            0 => {
                drop(store);
                store = open().unwrap();
            }
            1 => {
                let topic = dice.below(TOPICS.len());
                common::dispatch(&store);
                let before = faults.event_count();
                store.delete_topic(TOPICS[topic]).unwrap();
                run.deletions.push((topic, before, faults.event_count()));
                generations[topic] += 1;
            }
            2 => store.checkpoint_now(),
            3 | 4 => std::thread::sleep(Duration::from_millis(12)),
            _ => append(&store, &faults, &mut dice, &generations, &mut run),
        }
        // Under ASYNC_FLUSH the store says how far the disk is.
        let (flushed, events) = (store.flushed_position(), faults.event_count());
        let newly = run.messages.iter_mut().rev().take_while(|m| m.durable.is_none() || m.end > flushed);
        newly.filter(|m| m.durable.is_none() && m.end <= flushed).for_each(|m| m.durable = Some(events));
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    drop(store);
    run.events = faults.events();
    run
}

fn append(store: &Store, faults: &Faults, dice: &mut Dice, generations: &[u32], run: &mut Run) {
    let mut batch = AppendBatch::default();
    let begun = faults.event_count();
    let mut places = Vec::new();
    for n in 0..1 + dice.below(12) {
        let (topic, queue) = (dice.below(TOPICS.len()), dice.below(QUEUES as usize) as u32);
        let message = run.messages.len() + n;
        let properties = format!("UNIQ_KEY\u{1}k{message}\u{2}");
        let body = body(message, dice.below(1500));
        let handle = store.queue(TOPICS[topic], queue);
        batch.push(&handle, &parts(TOPICS[topic], queue, &body, properties.as_bytes())).unwrap();
        places.push((topic, queue));
    }
    store.append(&mut batch).unwrap();
    store.dispatch();
    if run.sync {
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        store.when_durable(batch.end_position(), Box::new(move |durability| tell.send(durability).unwrap()));
        assert_eq!(told.recv().unwrap(), Durability::Durable);
    }
    let durable = run.sync.then(|| faults.event_count());
    for (queue, at) in places.into_iter().zip(batch.results()) {
        run.messages.push(Message {
            generation: generations[queue.0],
            queue,
            offset: at.queue_offset,
            begun,
            durable,
            end: at.physical_offset + u64::from(at.size),
        });
    }
}

/// Opens what a cut after `cut` events left, and checks it against the run.
fn check(run: &Run, root: &Path, cut: usize, fate: Fate<'_>, what: &str) {
    let left = tempfile::tempdir().unwrap();
    let is_kill = matches!(fate, Fate::All);
    let mut disk = Disk::after(&run.events[..cut], fate);
    if !is_kill {
        disk.boot_again(root);
    }
    disk.write_to(root, left.path());
    let open = || {
        let opened = Store::open(settings(left.path(), run.sync), Arc::new(|_| ()));
        opened.unwrap_or_else(|error| panic!("{what}: the store does not open: {error}"))
    };
    let store = open();
    common::dispatch(&store);
    let before = promises(run, &store, cut, what);
    queues_equal_log(&store, what);
    // It goes on: each queue takes the next message at its end, and another start changes nothing.
    for (topic, name) in TOPICS.iter().enumerate() {
        for queue in 0..QUEUES {
            let mut batch = AppendBatch::default();
            let next = before.get(&(topic, queue)).map_or(0, |all| all.last().map_or(0, |(offset, _)| offset + 1));
            batch.push(&store.queue(name, queue), &parts(name, queue, b"the next", b"")).unwrap();
            store.append(&mut batch).unwrap();
            assert_eq!(batch.results()[0].queue_offset, next, "{what}: {name}-{queue} goes on at its end");
        }
    }
    common::dispatch(&store);
    drop(store);
    let store = open();
    for ((topic, queue), all) in &before {
        let again = read_all(&store, TOPICS[*topic], *queue);
        let of = |all: &[(i64, Vec<u8>)]| all.iter().map(|(offset, _)| *offset).collect::<Vec<_>>();
        assert_eq!(of(&again[..again.len() - 1]), of(all), "{what}: {}-{queue} after another start", TOPICS[*topic]);
        assert!(again[..again.len() - 1] == all[..], "{what}: {}-{queue} has other bodies", TOPICS[*topic]);
    }
}

type Content = BTreeMap<(usize, u32), Vec<(i64, Vec<u8>)>>;

/// What was promised until the cut is there; what is there was sent, and stands once.
fn promises(run: &Run, store: &Store, cut: usize, what: &str) -> Content {
    let mut content = Content::new();
    for (topic, name) in TOPICS.iter().enumerate() {
        for queue in 0..QUEUES {
            let all = read_all(store, name, queue);
            let number = |body: &[u8]| {
                let message = u64::from_be_bytes(*body.first_chunk()?);
                (*body == self::body(message as usize, body.len() - 8)).then_some(message)
            };
            let found: Vec<_> = all.iter().map(|(offset, body)| (*offset, number(body))).collect();
            let known = || run.messages.iter().enumerate().filter(|(_, m)| m.queue == (topic, queue) && m.begun < cut);
            let newest =
                known().filter(|(_, m)| m.durable.is_some_and(|durable| durable <= cut)).map(|(_, m)| m.generation);
            // A queue that was deleted and filled again is the old one or the new one, never something of both.
            let of_first = found.first().and_then(|(_, message)| run.messages.get((*message)? as usize));
            let generation = of_first.map_or_else(|| newest.clone().max().unwrap_or(0), |m| m.generation);
            assert!(
                newest.max().is_none_or(|n| generation >= n),
                "{what}: {name}-{queue} has a deleted topic's messages"
            );
            // From the beginning of a deletion on its messages may be there or not.
            let is_deleted = run.deletions.iter().filter(|(of, began, _)| *of == topic && *began < cut).count()
                > generation as usize;
            let mut judge = Checker::default();
            for (message, m) in known() {
                let is_promised =
                    m.durable.is_some_and(|durable| durable <= cut) && m.generation == generation && !is_deleted;
                let outcome = if is_promised { Outcome::Ok { queue, offset: m.offset } } else { Outcome::Unknown };
                let (begun, ended) = (2 * message as u64, 2 * message as u64 + 1);
                judge.observe(&Seen::Send(Send { message: message as u64, producer: 0, begun, ended, outcome }));
            }
            let end = all.last().map_or(0, |(offset, _)| offset + 1);
            judge.observe(&Seen::Fault { at: cut as u64, before: 0, after: 0 });
            judge.observe(&Seen::Scan(Scan { at: u64::MAX, queue, from: 0, end, found: found.clone() }));
            let report = judge.finish();
            assert!(report.is_clean(), "{what}: {name}-{queue}: {report}");
            for (offset, message) in &found {
                let m = &run.messages[message.unwrap() as usize];
                assert_eq!((m.generation, m.offset), (generation, *offset), "{what}: {name}-{queue}");
            }
            content.insert((topic, queue), all);
        }
    }
    content
}

/// Every entry of a queue points to its record, and every record of the log that a queue should have is in it.
fn queues_equal_log(store: &Store, what: &str) {
    let (mut position, mut bytes) = (store.min_physical_offset(), Vec::new());
    let mut offsets: BTreeMap<(String, u32), Vec<i64>> = BTreeMap::new();
    while position < store.max_physical_offset() {
        bytes.clear();
        if store.record_at(position, &mut bytes).is_none() {
            // The rest of a file, or what the disk did not get all of.
            position += 1;
            continue;
        }
        let Entry::Record(found) = record::read(&bytes) else { panic!("{what}: no record at {position}") };
        position += bytes.len() as u64;
        if !found.is_body_intact() || found.properties().last() == Some(&0) {
            // Torn, and left out by recovery.
            continue;
        }
        let (topic, queue) = (String::from_utf8(found.topic().to_vec()).unwrap(), found.queue_id() as u32);
        offsets.entry((topic, queue)).or_default().push(found.queue_offset());
    }
    for ((topic, id), offsets) in offsets {
        // Where they fall, a topic of this name was deleted before.
        let life = offsets.windows(2).rposition(|two| two[1] <= two[0]).map_or(0, |n| n + 1);
        if life > 0 && life + 1 == offsets.len() && offsets[life] > 0 {
            // The new one has nothing but a later record: no record beside it tells that it begins there.
            continue;
        }
        let offsets: BTreeSet<i64> = offsets[life..].iter().copied().collect();
        // Without a queue the topic was deleted.
        let Some(queue) = store.find_queue(&topic, id) else { continue };
        if queue.max_offset() == 0 {
            continue;
        }
        let last = offsets.last().map(|last| last + 1);
        assert_eq!(Some(queue.max_offset()), last, "{what}: end of {topic}-{id} and of its records in the log");
        for offset in queue.min_offset()..queue.max_offset() {
            let Some(entry) = store.entry(&queue, offset) else {
                // Nobody promised the message, and the disk did not get all of it before what follows it.
                assert!(!offsets.contains(&offset), "{what}: {topic}-{id} has no entry {offset}");
                continue;
            };
            bytes.clear();
            let len = store.record_at(entry.physical_offset as u64, &mut bytes);
            assert_eq!(len, Some(entry.size as usize), "{what}: entry {offset} of {topic}-{id}");
            let Entry::Record(found) = record::read(&bytes) else { panic!("{what}: entry {offset} of {topic}-{id}") };
            assert_eq!((found.queue_id() as u32, found.queue_offset()), (id, offset), "{what}: {topic}-{id}");
        }
    }
}

fn torture(sync: bool) {
    let number = |name| std::env::var(name).ok().and_then(|n| n.parse::<usize>().ok());
    let states = number("FERROMQ_CRASH_STATES").unwrap_or(100);
    let seconds = number("FERROMQ_CRASH_SECONDS");
    let dir = tempfile::tempdir().unwrap();
    // The folder of the store must not be there before: making it is part of the run.
    let root = dir.path().join("store");
    let began = Instant::now();
    let run = match seconds {
        Some(seconds) => {
            record(&root, sync, seconds * ROUNDS_PER_SECOND, Duration::from_secs(1) / ROUNDS_PER_SECOND as u32)
        }
        None => record(&root, sync, 150 + states / 2, Duration::ZERO),
    };
    let lasted = began.elapsed().as_secs_f64();
    let is_sync =
        |event: &Event| matches!(event, Event::Sync { .. } | Event::SyncFolder { .. } | Event::SyncVolume { .. });
    let borders: Vec<usize> = (0..run.events.len()).filter(|n| is_sync(&run.events[*n])).collect();
    let each = (states / 4).max(1);
    let step = if seconds.is_some() { 1 } else { borders.len().div_ceil(each).max(1) };
    let mut tried = 0;
    for border in borders.iter().step_by(step) {
        // Just before the sync returned, and just after.
        check(&run, &root, *border, Fate::None, &format!("only what is durable before event {border}"));
        check(&run, &root, border + 1, Fate::None, &format!("only what is durable after event {border}"));
        check(&run, &root, border + 1, Fate::All, &format!("killed after event {border}"));
        tried += 3;
    }
    let torn = if seconds.is_some() { states / 2 } else { each };
    torn_and_reordered(torn, run.events.len(), |cut, fate, what| {
        check(&run, &root, cut, fate, what);
        tried += 1;
    });
    let mode = if sync { "SYNC_FLUSH" } else { "ASYNC_FLUSH" };
    let (changes, messages, syncs) = (run.events.len(), run.messages.len(), borders.len());
    // A line of the table that `cargo xtask torture` prints.
    let row = format!(
        "| crash states, {mode} | {tried} states, {torn} of them torn or reordered, of a run of {lasted:.1} s: {messages} messages, {changes} changes, {syncs} syncs | all open and keep their promises"
    );
    let mut out = std::io::stdout().lock();
    writeln!(out, "{row}").unwrap();
}

#[test]
fn every_state_a_power_cut_leaves_opens_under_sync_flush() {
    torture(true);
}

#[test]
fn every_state_a_power_cut_leaves_opens_under_async_flush() {
    torture(false);
}
