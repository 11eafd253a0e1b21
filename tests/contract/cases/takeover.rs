//! A stopped store of one make is served by the other: every record byte for byte, ids, keys and consumer offsets.

use crate::common::start;
use ferromq_contract::driver::Msg;
use ferromq_contract::runner::{Case, Client, Lab};
use ferromq_contract::server::{Broker, Make, Namesrv, create_topic};
use ferromq_contract::wire::{Conn, code, now_ms};
use ferromq_contract::{Outcome, While, ensure, ensure_eq, wait_for};
use std::collections::BTreeMap;
use std::time::Duration;

pub fn cases() -> Vec<Case> {
    vec![
        Case::alone("takeover::our_store_by_java_and_back", |lab| there_and_back(lab, lab.make, Make::Java, true)),
        Case::alone("takeover::java_store_by_ours_and_back", |lab| there_and_back(lab, Make::Java, lab.make, true)),
        Case::alone("takeover::our_killed_store_by_java", |lab| there_and_back(lab, lab.make, Make::Java, false)),
        Case::alone("takeover::java_killed_store_by_ours", |lab| there_and_back(lab, Make::Java, lab.make, false)),
    ]
}

/// Topics of a store and their queues.
const TOPICS: [(&str, i32); 3] = [("takeover-a", 4), ("takeover-b", 1), ("takeover-c", 8)];
const GROUP: &str = "takeover-group";

/// All that readers can see of a store.
#[derive(Debug, PartialEq, Eq, Default)]
struct Digest {
    /// By topic and queue: number of records, and the CRC of all their bytes.
    queues: BTreeMap<(String, i32), (usize, u32)>,
    offsets: BTreeMap<(String, i32), String>,
    /// By key: the physical offsets found.
    keys: BTreeMap<String, Vec<i64>>,
}

fn digest(addr: &str, keys: &[String]) -> Outcome<Digest> {
    let mut conn = Conn::open(addr)?;
    let mut digest = Digest::default();
    for (topic, queues) in TOPICS {
        for queue in 0..queues {
            let records = conn.read_queue(topic, queue, 0).doing(format!("{topic} queue {queue}"))?;
            let mut crc = crc32fast::Hasher::new();
            for (i, record) in records.iter().enumerate() {
                crc.update(&record.raw);
                if i % 50 == 0 {
                    let place = record.physical_offset.to_string();
                    let viewed = conn.call(code::VIEW_MESSAGE_BY_ID, &[("offset", &place)], &[])?.ok()?;
                    ensure_eq!(viewed.body, record.raw, "{topic} queue {queue} offset {i} by its id");
                }
            }
            let id = queue.to_string();
            let fields = [("consumerGroup", GROUP), ("topic", topic), ("queueId", id.as_str())];
            let answer = conn.call(code::QUERY_CONSUMER_OFFSET, &fields, &[])?;
            let offset = answer.fields.get("offset").cloned().unwrap_or_else(|| format!("code {}", answer.code));
            digest.offsets.insert((topic.to_owned(), queue), offset);
            digest.queues.insert((topic.to_owned(), queue), (records.len(), crc.finalize()));
        }
    }
    for key in keys {
        let end = (now_ms() + 100_000).to_string();
        let fields = [
            ("topic", TOPICS[0].0),
            ("key", key),
            ("maxNum", "64"),
            ("beginTimestamp", "0"),
            ("endTimestamp", end.as_str()),
        ];
        let found = wait_for(Duration::from_secs(15), format!("messages by key {key}"), || {
            let answer = conn.call(code::QUERY_MESSAGE, &fields, &[])?;
            Ok((answer.code == 0).then_some(answer.body))
        })?;
        let mut places: Vec<i64> =
            ferromq_contract::record::decode_all(&found)?.iter().map(|r| r.physical_offset).collect();
        places.sort_unstable();
        digest.keys.insert(key.clone(), places);
    }
    Ok(digest)
}

/// Sends every kind of message: small, large, empty properties, batches, compressed, with keys and tags. Returns keys to look up.
fn fill(lab: &Lab, broker: &Broker, round: usize) -> Outcome<Vec<String>> {
    let mut conn = broker.conn()?;
    let mut keys = Vec::new();
    for (topic, queues) in TOPICS {
        for i in 0..400usize {
            let key = format!("key-{round}-{}", i / 4);
            let properties = format!("KEYS\u{1}{key}\u{2}TAGS\u{1}tag{}\u{2}größe\u{1}{i} 字\u{2}", i % 7);
            let body: Vec<u8> = (0..i * 11 % 9000 + 1).map(|b| (b * (i + round + 1)) as u8).collect();
            conn.send(topic, (i as i32) % queues, &properties, &body)?;
            if i % 100 == 0 && topic == TOPICS[0].0 {
                keys.push(key);
            }
        }
    }
    // Batches, compressed and big bodies as the official client makes them.
    let driver = lab.driver(Client::Java5)?;
    let producer = lab.name("producer");
    start(driver, "producer", &broker.namesrv, &producer, "takeover-producers", &[("compressover", "20000")])?;
    let batch: Vec<Msg> = (0..30)
        .map(|i| Msg::new(TOPICS[0].0, format!("batch {round} {i}")).with("p.i", i).with("keys", "batch"))
        .collect();
    driver.send(&producer, "batch", &batch)?;
    let big: Vec<Msg> = (0..4).map(|i| Msg::filled(TOPICS[2].0, 1_000_000 * i + 30_000, i as u8)).collect();
    driver.send(&producer, "sync", &big)?;
    driver.call("stop", &[("name", &producer)])?;
    for (topic, queues) in TOPICS {
        for queue in 0..queues {
            let (id, offset) = (queue.to_string(), (round * 10 + queue as usize).to_string());
            let fields = [
                ("consumerGroup", GROUP),
                ("topic", topic),
                ("queueId", id.as_str()),
                ("commitOffset", offset.as_str()),
            ];
            conn.call(code::UPDATE_CONSUMER_OFFSET, &fields, &[])?.ok()?;
        }
    }
    Ok(keys)
}

fn there_and_back(lab: &Lab, first: Make, second: Make, politely: bool) -> Outcome {
    let folder = lab.folder("takeover")?;
    let namesrv = Namesrv::start(&lab.tools, lab.make, &folder.join("namesrv"))?;
    let mut broker = Broker::new(first, &folder.join("broker"), "broker-a", &namesrv.addr)
        .set("mappedFileSizeCommitLog", 8 << 20)
        .set("flushConsumerOffsetInterval", 1000)
        .set("maxIndexNum", 100_000)
        .set("maxHashSlotNum", 20_000);
    broker.start(&lab.tools)?;
    for (topic, queues) in TOPICS {
        create_topic(&broker.addr(), &namesrv.addr, topic, queues as u32)?;
    }
    // A group that a consumer used: the broker keeps offsets of known groups only.
    let driver = lab.driver(Client::Java5)?;
    let consumer = lab.name("consumer");
    start(driver, "consumer", &namesrv.addr, &consumer, GROUP, &[("topic", TOPICS[1].0)])?;
    driver.call("stop", &[("name", &consumer)])?;
    let mut keys = fill(lab, &broker, 1)?;
    let mut before = digest(&broker.addr(), &keys)?;
    ensure!(
        before.queues.values().map(|(count, _)| count).sum::<usize>() == 1234,
        "the store is not what was sent: {before:?}"
    );
    for (round, make) in [(2, second), (3, first)] {
        if politely {
            broker.stop()?;
        } else {
            // The offsets reach their file by a timer; Java's begins after ten seconds.
            let last = format!("7:{}", (round - 1) * 10 + 7);
            wait_for(Duration::from_secs(25), "the offsets in their file", || {
                let file =
                    std::fs::read_to_string(broker.store().join("config/consumerOffset.json")).unwrap_or_default();
                let file = file.replace([' ', '\t', '\n', '"'], "");
                Ok(file.split_once(&format!("takeover-c@{GROUP}:")).filter(|(_, rest)| rest.contains(&last)).map(drop))
            })?;
            broker.kill();
        }
        broker.make = make;
        broker.start(&lab.tools).doing(format!("the store opened by {make:?}"))?;
        let after = digest(&broker.addr(), &keys).doing(format!("the store read by {make:?}"))?;
        ensure_eq!(after.queues, before.queues, "records as {make:?} serves them");
        ensure_eq!(after.offsets, before.offsets, "consumer offsets as {make:?} knows them");
        ensure_eq!(after.keys, before.keys, "messages by key as {make:?} finds them");
        // It goes on writing where the other ended.
        keys.extend(fill(lab, &broker, round)?);
        before = digest(&broker.addr(), &keys)?;
        let count: usize = before.queues.values().map(|(count, _)| count).sum();
        ensure_eq!(count, 1234 * round, "messages after round {round}");
    }
    broker.stop()?;
    Ok(())
}
