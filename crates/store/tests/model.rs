//! Random histories against a model: whatever is done to a store, every acknowledged message is there once, at its
//! offset, and nothing else is.
#![allow(clippy::unwrap_used, reason = "a test says by panicking what is wrong")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use common::{config, copy_as_killed, inner_batch, open, parts, read_all, sync_config};
use ferromq_store::{AppendBatch, Durability, Store, StoreConfig, TopicKind};
use proptest::prelude::*;

const TOPICS: [&str; 6] = ["A", "B", "%RETRY%C", BATCH, LIGHTS[0], LIGHTS[1]];
/// Topics that are sent to, the first of them; the others get what names them.
const SENT: usize = 4;
/// The one with batch queues: some messages come as several in one record.
const BATCH: &str = "Batch";
const LIGHTS: [&str; 2] = ["%LMQ%x", "%LMQ%y"];

#[derive(Clone, Debug)]
enum Step {
    /// One batch: topic, queue, body length and light queues (a bit each) of each message.
    Append(Vec<(usize, u32, usize, usize)>),
    Dispatch,
    Checkpoint,
    StopAndStart,
    /// The process dies; some derived files may be lost with it.
    Kill(Loss),
    DeleteTopic(usize),
    /// The other flush mode from the next start on.
    OtherMode,
}

#[derive(Clone, Copy, Debug)]
enum Loss {
    Nothing,
    Queues,
    OneQueue,
    OneBatchQueue,
    Index,
    Checkpoint,
}

fn step() -> impl Strategy<Value = Step> {
    let message = (0..SENT, 0..3_u32, 0..3000_usize, prop_oneof![2 => Just(0), 1 => 0..4_usize]);
    let loss = prop_oneof![
        3 => Just(Loss::Nothing),
        1 => Just(Loss::Queues),
        1 => Just(Loss::OneQueue),
        1 => Just(Loss::OneBatchQueue),
        1 => Just(Loss::Index),
        1 => Just(Loss::Checkpoint),
    ];
    prop_oneof![
        8 => proptest::collection::vec(message, 1..40).prop_map(Step::Append),
        2 => Just(Step::Dispatch),
        1 => Just(Step::Checkpoint),
        1 => Just(Step::StopAndStart),
        2 => loss.prop_map(Step::Kill),
        1 => (0..TOPICS.len()).prop_map(Step::DeleteTopic),
        1 => Just(Step::OtherMode),
    ]
}

type Model = BTreeMap<(usize, u32), Vec<Vec<u8>>>;

fn append(store: &Store, messages: &[(usize, u32, usize, usize)], model: &mut Model, serial: &mut u64) {
    let mut batch = AppendBatch::default();
    let mut expected = Vec::new();
    for (topic, queue, len, lights) in messages {
        *serial += 1;
        let body = [&serial.to_be_bytes()[..], &vec![b'x'; *len]].concat();
        let mut properties = format!("UNIQ_KEY\u{1}k{serial}\u{2}");
        let lights: Vec<usize> = (0..LIGHTS.len()).filter(|n| lights & (1 << n) != 0).collect();
        if !lights.is_empty() {
            let names: Vec<&str> = lights.iter().map(|n| LIGHTS[*n]).collect();
            properties += &format!("INNER_MULTI_DISPATCH\u{1}{}\u{2}", names.join(","));
        }
        let is_batch = TOPICS[*topic] == BATCH;
        let kind = if is_batch { TopicKind::Batch } else { TopicKind::Simple };
        let handle = store.topic_queue(TOPICS[*topic], *queue, kind);
        let stored = model.entry((*topic, *queue)).or_default();
        expected.push(stored.len() as i64);
        if is_batch && lights.is_empty() && len % 2 == 0 {
            let messages = vec![body; len % 5 + 1];
            let whole = inner_batch(&messages.iter().map(Vec::as_slice).collect::<Vec<_>>());
            let parts = parts(TOPICS[*topic], *queue, &whole, properties.as_bytes());
            batch.push_inner_batch(&handle, &parts, messages.len() as i16).unwrap();
            stored.extend(messages);
            continue;
        }
        batch.push(&handle, &parts(TOPICS[*topic], *queue, &body, properties.as_bytes())).unwrap();
        stored.push(body.clone());
        // What is to be consumed again stands in its own queue only.
        for light in lights.iter().filter(|_| !TOPICS[*topic].starts_with("%RETRY%")) {
            model.entry((SENT + light, 0)).or_default().push(body.clone());
        }
    }
    store.append(&mut batch).unwrap();
    let offsets: Vec<i64> = batch.results().iter().map(|r| r.queue_offset).collect();
    assert_eq!(offsets, expected);
    if store.is_sync_flush() {
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        store.when_durable(batch.end_position(), Box::new(move |durability| tell.send(durability).unwrap()));
        assert_eq!(told.recv().unwrap(), Durability::Durable);
    }
}

fn check(store: &Store, model: &Model) {
    for (topic, name) in TOPICS.iter().enumerate() {
        for queue in 0..3 {
            let expected = model.get(&(topic, queue)).map_or(&[][..], Vec::as_slice);
            let all = read_all(store, name, queue);
            assert_eq!(all.len(), expected.len(), "{name}-{queue}");
            for (n, (offset, body)) in all.iter().enumerate() {
                assert!(*offset == n as i64 && *body == expected[n], "{name}-{queue} at {n}");
            }
            if let Some(last) = expected.last().filter(|_| topic < SENT) {
                let serial = u64::from_be_bytes(*last.first_chunk().unwrap());
                let hits = store.query_index(name, &format!("k{serial}"), 32, 0, i64::MAX);
                let found = hits.physical_offsets.iter().any(|place| {
                    let mut bytes = Vec::new();
                    store.record_at(*place, &mut bytes).is_some() && common::records(&bytes)[0].1 == *last
                });
                assert!(found, "key of {name}-{queue}");
            }
        }
    }
}

fn lose(root: &Path, loss: Loss) {
    let _ = match loss {
        Loss::Nothing => Ok(()),
        Loss::Queues => {
            let _ = fs::remove_dir_all(root.join("batchconsumequeue"));
            fs::remove_dir_all(root.join("consumequeue"))
        }
        Loss::OneBatchQueue => fs::remove_dir_all(root.join("batchconsumequeue/Batch/1")),
        Loss::OneQueue => fs::remove_dir_all(root.join("consumequeue/A/1")),
        Loss::Index => fs::remove_dir_all(root.join("index")),
        Loss::Checkpoint => fs::remove_file(root.join("checkpoint")),
    };
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn acknowledged_messages_are_there_once(steps in proptest::collection::vec(step(), 1..25)) {
        let mut dir = tempfile::tempdir().unwrap();
        let (mut model, mut serial, mut sync, mut deleted) = (Model::new(), 0, false, false);
        let start = |root: &Path, sync| {
            let config = if sync { sync_config(root) } else { config(root) };
            open(StoreConfig { multi_dispatch: true, batch_topics: [BATCH.to_owned()].into(), ..config })
        };
        let mut store = start(dir.path(), sync);
        for step in steps {
            match step {
                Step::Append(messages) => append(&store, &messages, &mut model, &mut serial),
                Step::Dispatch => {
                    common::dispatch(&store);
                    check(&store, &model);
                }
                Step::Checkpoint => store.checkpoint_now(),
                Step::StopAndStart => {
                    drop(store);
                    store = start(dir.path(), sync);
                    check(&store, &model);
                }
                // The log still has a deleted topic's messages, so what is rebuilt from all of it has them too.
                Step::Kill(loss) => {
                    let killed = tempfile::tempdir().unwrap();
                    copy_as_killed(dir.path(), killed.path());
                    drop(store);
                    dir = killed;
                    if !deleted {
                        lose(dir.path(), loss);
                    }
                    store = start(dir.path(), sync);
                    check(&store, &model);
                }
                Step::DeleteTopic(topic) => {
                    common::dispatch(&store);
                    store.delete_topic(TOPICS[topic]).unwrap();
                    store.checkpoint_now();
                    model.retain(|(of, _), _| *of != topic);
                    deleted = true;
                }
                Step::OtherMode => sync = !sync,
            }
        }
        common::dispatch(&store);
        check(&store, &model);
    }
}
