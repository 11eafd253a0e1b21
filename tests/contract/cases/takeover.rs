//! A stopped or killed store of one make is served by the other: every record byte for byte, ids, keys and consumer
//! offsets. `ferromq check-store` must find nothing against it each time.

use crate::common::{check_store, start};
use ferromq_contract::cluster::create_topic;
use ferromq_contract::driver::Msg;
use ferromq_contract::flood::{Message, Width, flood};
use ferromq_contract::runner::{Case, Client, Lab};
use ferromq_contract::server::{Broker, Make, Namesrv};
use ferromq_contract::wire::{Conn, code, now_ms};
use ferromq_contract::{Outcome, While, ensure, ensure_eq, wait_for};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

pub fn cases() -> Vec<Case> {
    use Between::{Kill, Rebuild, Stop};
    let case = |name: &str, first: Option<Make>, second: Option<Make>, between: Between| {
        Case::alone(format!("takeover::{name}"), move |lab| {
            there_and_back(lab, first.unwrap_or(lab.make), second.unwrap_or(lab.make), between)
        })
    };
    let (ours, java, java4) = (None, Some(Make::Java), Some(Make::Java4));
    vec![
        case("our_store_by_java_and_back", ours, java, Stop),
        case("java_store_by_ours_and_back", java, ours, Stop),
        case("our_killed_store_by_java", ours, java, Kill),
        case("java_killed_store_by_ours", java, ours, Kill),
        case("java4_store_by_ours_and_back", java4, ours, Stop),
        case("java4_killed_store_by_ours", java4, ours, Kill),
        case("our_killed_store_by_java4", ours, java4, Kill),
        case("java_store_with_its_queues_and_index_built_again", java, ours, Rebuild),
        Case::alone("takeover::longest_topic_ipv6_hosts_and_a_broken_table", long_and_v6),
        Case::alone("takeover::many_messages_by_ours_and_back", many),
    ]
}

/// What happens to a store before the next broker opens it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Between {
    Stop,
    Kill,
    /// Stopped; all that is derived from the log is removed and built again by `check-store --rebuild`.
    Rebuild,
}

type Topics = &'static [(&'static str, i32)];
/// Topics of a store and their queues.
const TOPICS: Topics = &[("takeover-a", 4), ("takeover-b", 1), ("takeover-c", 8)];
const MANY_TOPICS: Topics = &[("takeover-many", 8)];
/// The longest topic that clients can send to, 127 bytes. (Longer ones are POP retry topics, made by the broker alone.)
const LONG_TOPICS: Topics = &[(
    "ttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttt",
    2,
)];
const GROUP: &str = "takeover-group";
/// Messages of the large store (`FERROMQ_TAKEOVER`).
const MANY: usize = 20_000;

/// All that readers can see of a store.
#[derive(Debug, PartialEq, Eq, Default)]
struct Digest {
    /// By topic and queue: number of records, and the CRC of all their bytes.
    queues: BTreeMap<(String, i32), (usize, u32)>,
    offsets: BTreeMap<(String, i32), String>,
    /// By key: the physical offsets found.
    keys: BTreeMap<String, Vec<i64>>,
}

fn digest(addr: &str, topics: Topics, keys: &[String]) -> Outcome<Digest> {
    let mut conn = Conn::open(addr)?;
    let mut digest = Digest::default();
    for (topic, queues) in topics {
        for queue in 0..*queues {
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
            let fields = [("consumerGroup", GROUP), ("topic", *topic), ("queueId", id.as_str())];
            let answer = conn.call(code::QUERY_CONSUMER_OFFSET, &fields, &[])?;
            let offset = answer.fields.get("offset").cloned().unwrap_or_else(|| format!("code {}", answer.code));
            digest.offsets.insert(((*topic).to_owned(), queue), offset);
            digest.queues.insert(((*topic).to_owned(), queue), (records.len(), crc.finalize()));
        }
    }
    for key in keys {
        let end = (now_ms() + 100_000).to_string();
        let fields = [
            ("topic", topics[0].0),
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
            conn.send(topic, (i as i32) % *queues, &properties, &body)?;
            if i % 100 == 0 && *topic == TOPICS[0].0 {
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
    commit_offsets(&mut conn, TOPICS, round)?;
    Ok(keys)
}

/// Commits offsets of the group that tell the round.
fn commit_offsets(conn: &mut Conn, topics: Topics, round: usize) -> Outcome {
    for (topic, queues) in topics {
        for queue in 0..*queues {
            let (id, offset) = (queue.to_string(), (round * 10 + queue as usize).to_string());
            let fields = [
                ("consumerGroup", GROUP),
                ("topic", *topic),
                ("queueId", id.as_str()),
                ("commitOffset", offset.as_str()),
            ];
            conn.call(code::UPDATE_CONSUMER_OFFSET, &fields, &[])?.ok()?;
        }
    }
    Ok(())
}

/// Creates the topics, and a group that a consumer used: the broker keeps offsets of known groups only.
fn set_up(lab: &Lab, broker: &Broker, topics: Topics) -> Outcome {
    for (topic, queues) in topics {
        create_topic(&broker.addr(), &broker.namesrv, topic, *queues as u32)?;
    }
    let driver = lab.driver(Client::Java5)?;
    let consumer = lab.name("consumer");
    start(driver, "consumer", &broker.namesrv, &consumer, GROUP, &[("topic", topics[0].0)])?;
    driver.call("stop", &[("name", &consumer)]).map(drop)
}

/// Ends the broker in the way the case is about, and has `check-store` say that the store is safe to take over.
fn end(lab: &Lab, broker: &mut Broker, topics: Topics, between: Between, round: usize) -> Outcome {
    if between == Between::Kill {
        // The offsets reach their file by a timer; Java's begins after ten seconds.
        let (topic, queues) = topics[topics.len() - 1];
        let last = format!("{}:{}", queues - 1, round * 10 + queues as usize - 1);
        wait_for(Duration::from_secs(25), "the offsets in their file", || {
            let file = std::fs::read_to_string(broker.store().join("config/consumerOffset.json")).unwrap_or_default();
            let file = file.replace([' ', '\t', '\n', '"'], "");
            Ok(file.split_once(&format!("{topic}@{GROUP}:")).filter(|(_, rest)| rest.contains(&last)).map(drop))
        })?;
        broker.kill();
    } else {
        broker.stop()?;
    }
    let (code, report) = check_store(lab, broker, &[])?;
    ensure_eq!(code, Some(0), "check-store of a store of {:?}: {report}", broker.make);
    let kinds = report["findings"].as_array().into_iter().flatten().filter_map(|finding| finding["kind"].as_str());
    // A Java broker notes the time of the last message when it flushes everything, every ten seconds: one that lived
    // shorter leaves zeros in its checkpoint, stopped or not.
    let unsaid = |kind: &&str| *kind != "not-checked" && !(*kind == "no-checkpoint" && broker.make != Make::Ferro);
    let kinds: Vec<&str> = kinds.filter(unsaid).collect();
    ensure!(
        between == Between::Kill || kinds.is_empty(),
        "a stopped store of {:?} has findings: {report}",
        broker.make
    );
    if between == Between::Rebuild {
        for derived in ["consumequeue", "index"] {
            std::fs::remove_dir_all(broker.store().join(derived))?;
        }
        let (code, report) = check_store(lab, broker, &[])?;
        ensure_eq!(code, Some(1), "check-store without queues and index: {report}");
        let (code, report) = check_store(lab, broker, &["--rebuild"])?;
        ensure_eq!(code, Some(0), "check-store --rebuild: {report}");
    }
    Ok(())
}

fn there_and_back(lab: &Lab, first: Make, second: Make, between: Between) -> Outcome {
    let folder = lab.folder("takeover")?;
    let namesrv = Namesrv::start(&lab.tools, lab.make, &folder.join("namesrv"))?;
    let mut broker = Broker::new(first, &folder.join("broker"), "broker-a", &namesrv.addr)
        .set("mappedFileSizeCommitLog", 8 << 20)
        .set("flushConsumerOffsetInterval", 1000)
        .set("maxIndexNum", 100_000)
        .set("maxHashSlotNum", 20_000);
    broker.start(&lab.tools)?;
    set_up(lab, &broker, TOPICS)?;
    let mut keys = fill(lab, &broker, 1)?;
    let mut before = digest(&broker.addr(), TOPICS, &keys)?;
    ensure!(
        before.queues.values().map(|(count, _)| count).sum::<usize>() == 1234,
        "the store is not what was sent: {before:?}"
    );
    for (round, make) in [(2, second), (3, first)] {
        end(lab, &mut broker, TOPICS, between, round - 1)?;
        broker.make = make;
        broker.start(&lab.tools).doing(format!("the store opened by {make:?}"))?;
        let after = digest(&broker.addr(), TOPICS, &keys).doing(format!("the store read by {make:?}"))?;
        same(&before, &after, make)?;
        // It goes on writing where the other ended.
        keys.extend(fill(lab, &broker, round)?);
        before = digest(&broker.addr(), TOPICS, &keys)?;
        let count: usize = before.queues.values().map(|(count, _)| count).sum();
        ensure_eq!(count, 1234 * round, "messages after round {round}");
    }
    broker.stop()?;
    Ok(())
}

fn same(before: &Digest, after: &Digest, make: Make) -> Outcome {
    ensure_eq!(after.queues, before.queues, "records as {make:?} serves them");
    ensure_eq!(after.offsets, before.offsets, "consumer offsets as {make:?} knows them");
    ensure_eq!(after.keys, before.keys, "messages by key as {make:?} finds them");
    Ok(())
}

/// Records of the longest topic with an IPv6 store host, and a `topics.json` of which only the copy is whole.
fn long_and_v6(lab: &Lab) -> Outcome {
    const STORE_HOST_V6: i32 = 0x20;
    let (topic, queues) = LONG_TOPICS[0];
    let folder = lab.folder("takeover-long")?;
    let namesrv = Namesrv::start(&lab.tools, lab.make, &folder.join("namesrv"))?;
    let mut broker = Broker::new(Make::Java, &folder.join("broker"), "broker-a", &namesrv.addr)
        .set("mappedFileSizeCommitLog", 8 << 20)
        .set("maxIndexNum", 10_000)
        .set("maxHashSlotNum", 2000)
        .set("brokerIP1", "::1");
    broker.start(&lab.tools)?;
    create_topic(&broker.addr(), &namesrv.addr, topic, queues as u32)?;
    for (round, next) in [(1, lab.make), (2, Make::Java)] {
        let mut conn = broker.conn()?;
        for i in 0..100 {
            conn.send(
                topic,
                i % queues,
                &format!("KEYS\u{1}long-{round}-{i}\u{2}"),
                format!("{round} {i}").as_bytes(),
            )?;
        }
        let keys = [format!("long-{round}-7")];
        let before = digest(&broker.addr(), LONG_TOPICS, &keys)?;
        for record in conn.read_queue(topic, 0, 0)? {
            ensure!(record.sys_flag & STORE_HOST_V6 != 0, "{:?} stored no IPv6 host", broker.make);
        }
        drop(conn);
        end(lab, &mut broker, LONG_TOPICS, Between::Stop, round)?;
        let table = broker.store().join("config/topics.json");
        let copy = table.with_extension("json.bak");
        std::fs::rename(&table, &copy)?;
        std::fs::write(&table, "{\"dataVersion\":{")?;
        let (code, report) = check_store(lab, &broker, &[])?;
        ensure_eq!(code, Some(1), "check-store with a broken topics.json: {report}");
        broker.make = next;
        broker.start(&lab.tools).doing(format!("the store opened by {next:?}"))?;
        same(&before, &digest(&broker.addr(), LONG_TOPICS, &keys)?, next)?;
        // As the report advises; a broker writes the table anew only when it changes.
        std::fs::copy(&copy, &table)?;
    }
    broker.stop()
}

/// A large store: written by Java, killed, read and doubled by ours, stopped, read by Java.
fn many(lab: &Lab) -> Outcome {
    let count = std::env::var("FERROMQ_TAKEOVER").ok().and_then(|n| n.parse().ok()).unwrap_or(MANY);
    let folder = lab.folder("takeover-many")?;
    let namesrv = Namesrv::start(&lab.tools, lab.make, &folder.join("namesrv"))?;
    let mut broker = Broker::new(Make::Java, &folder.join("broker"), "broker-a", &namesrv.addr)
        .set("mappedFileSizeCommitLog", 64 << 20)
        .set("flushConsumerOffsetInterval", 1000)
        .set("maxIndexNum", 1_000_000)
        .set("maxHashSlotNum", 250_000);
    broker.start(&lab.tools)?;
    set_up(lab, &broker, MANY_TOPICS)?;
    let mut keys = send_many(&broker, 1, count)?;
    let mut before = digest(&broker.addr(), MANY_TOPICS, &keys)?;
    for (round, make, between) in [(2, lab.make, Between::Kill), (3, Make::Java, Between::Stop)] {
        let total: usize = before.queues.values().map(|(count, _)| count).sum();
        ensure_eq!(total, count * (round - 1), "messages in the store");
        end(lab, &mut broker, MANY_TOPICS, between, round - 1)?;
        broker.make = make;
        let began = Instant::now();
        broker.start(&lab.tools).doing(format!("the store opened by {make:?}"))?;
        let ready = began.elapsed();
        same(&before, &digest(&broker.addr(), MANY_TOPICS, &keys)?, make)?;
        lab.row("takeover", format!("{total} messages by {make:?}"), format!("equal; ready after {ready:.1?}"));
        if round == 2 {
            keys.extend(send_many(&broker, round, count)?);
            before = digest(&broker.addr(), MANY_TOPICS, &keys)?;
        }
    }
    broker.stop()
}

/// Sends so many messages on four connections, with properties and keys; some of the keys.
fn send_many(broker: &Broker, round: usize, count: usize) -> Outcome<Vec<String>> {
    const WIDTH: Width = Width { connections: 4, under_way: 64 };
    let (topic, queues) = MANY_TOPICS[0];
    flood(&broker.addr(), WIDTH, 0..count, |i| Message {
        topic: topic.to_owned(),
        queue: (i / WIDTH.connections) as i32 % queues,
        properties: format!("KEYS\u{1}many-{round}-{}\u{2}TAGS\u{1}t{}\u{2}n\u{1}{i}\u{2}", i / 8, i % 9),
        body: (0..i % 300 + 1).map(|b| (b * (i + round)) as u8).collect(),
    })?;
    commit_offsets(&mut broker.conn()?, MANY_TOPICS, round)?;
    Ok((0..100).map(|n| format!("many-{round}-{}", n * count / 8 / 100)).collect())
}
