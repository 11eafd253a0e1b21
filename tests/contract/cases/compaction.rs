//! Compaction topics (`cleanup.policy=COMPACTION`) with official tools and clients: made by mqadmin, filled by the Java
//! client, compacted, and read from the beginning; also when the store goes to a broker of the other make and back.

use crate::common::{check_store, start};
use ferromq_contract::cluster::wait_route;
use ferromq_contract::driver::Msg;
use ferromq_contract::runner::{Case, Client, Lab};
use ferromq_contract::server::{Broker, Make, Namesrv};
use ferromq_contract::wire::code;
use ferromq_contract::{Outcome, While, ensure, ensure_eq, wait_for};
use std::collections::BTreeMap;
use std::time::Duration;

pub fn cases() -> Vec<Case> {
    vec![
        Case::alone("compaction::our_store_by_java_and_back", |lab| there_and_back(lab, lab.make, Make::Java)),
        Case::alone("compaction::java_store_by_ours_and_back", |lab| there_and_back(lab, Make::Java, lab.make)),
    ]
}

const TOPIC: &str = "compacted";
const GROUP: &str = "compacted-group";
/// Messages of one round, and the keys they share; a round's first message has a key of its own.
const COUNT: usize = 400;
const KEYS: usize = 10;
/// Bytes of a file of entries, and of one of records: about a hundred messages.
const ENTRIES: usize = 46 * 100;
/// More than a compacted topic may show of all rounds: what is in the last pair of files, and the newest.
const COMPACTED: usize = 180;

fn there_and_back(lab: &Lab, first: Make, second: Make) -> Outcome {
    let folder = lab.folder("compaction")?;
    let namesrv = Namesrv::start(&lab.tools, lab.make, &folder.join("namesrv"))?;
    let mut broker = Broker::new(first, &folder.join("broker"), "broker-a", &namesrv.addr)
        .set("mappedFileSizeCommitLog", 8 << 20)
        .set("maxIndexNum", 100_000)
        .set("maxHashSlotNum", 20_000)
        .set("compactionCqMappedFileSize", ENTRIES)
        .set("compactionMappedFileSize", 7 * ENTRIES)
        .set("compactionScheduleInternal", 1000);
    for (round, make) in [first, second, first].into_iter().enumerate() {
        broker.make = make;
        broker.start(&lab.tools).doing(format!("the store opened by {make:?}"))?;
        if round == 0 {
            create(lab, &broker)?;
        } else {
            read(lab, &broker, round).doing(format!("the topic of the other make as {make:?} serves it"))?;
        }
        send(lab, &broker, round)?;
        read(lab, &broker, round + 1).doing(format!("the topic of {make:?}"))?;
        broker.stop()?;
        let (code, report) = check_store(lab, &broker, &[])?;
        let copied = report["compacted"]["messages"].as_u64();
        ensure!(code == Some(0) && copied > Some(0), "check-store of a store of {make:?}: {report}");
    }
    Ok(())
}

fn create(lab: &Lab, broker: &Broker) -> Outcome {
    let command = format!("updateTopic -b {} -t {TOPIC} -r 1 -w 1 -a +cleanup.policy=COMPACTION", broker.addr());
    let printed = lab.mqadmin(&broker.namesrv, &command)?;
    ensure!(printed.contains("success"), "mqadmin: {printed}");
    wait_route(&broker.namesrv, TOPIC, "\"writeQueueNums\":1")
}

/// Key and body of a round's messages.
fn messages(round: usize) -> Vec<(String, String)> {
    let text = |n: usize| format!("round-{round}-{n}-{}", "x".repeat(n % 50));
    let key = |n: usize| if n == 0 { format!("rare-{round}") } else { format!("k{}", n % KEYS) };
    (0..COUNT).map(|n| (key(n), text(n))).collect()
}

fn send(lab: &Lab, broker: &Broker, round: usize) -> Outcome {
    let driver = lab.driver(Client::Java5)?;
    let producer = lab.name("compacted-producer");
    start(driver, "producer", &broker.namesrv, &producer, "compacted-producers", &[])?;
    let refused = driver.send(&producer, "sync", &[Msg::new(TOPIC, "no key")]);
    let why = refused.err().map(|why| why.to_string()).unwrap_or_default();
    ensure!(why.contains("Required message key is missing"), "a message without a key: {why}");
    let sent = messages(round).into_iter().map(|(key, body)| Msg::new(TOPIC, body).with("keys", key));
    let sent = driver.send(&producer, "sync", &sent.collect::<Vec<_>>())?;
    ensure_eq!(sent[0].num("offset")?, (round * COUNT) as i64, "offset of the first message");
    driver.call("stop", &[("name", &producer)]).map(drop)
}

/// Waits until what `rounds` rounds sent is compacted: each key has its newest message and its offset, in order.
fn read(lab: &Lab, broker: &Broker, rounds: usize) -> Outcome {
    let driver = lab.driver(Client::Java5)?;
    let puller = lab.name("compacted-puller");
    start(driver, "puller", &broker.namesrv, &puller, GROUP, &[("topic", TOPIC)])?;
    let sent: Vec<(String, String)> = (0..rounds).flat_map(messages).collect();
    let newest: BTreeMap<&str, usize> = sent.iter().enumerate().map(|(n, (key, _))| (key.as_str(), n)).collect();
    wait_for(Duration::from_secs(60), "a pass", || {
        let (mut seen, mut next) = (Vec::new(), 0);
        while next < sent.len() as i64 {
            let offset = next.to_string();
            let place = [("name", puller.as_str()), ("topic", TOPIC), ("broker", "broker-a"), ("queue", "0")];
            let mut rows =
                driver.call("pull", &place.into_iter().chain([("offset", offset.as_str())]).collect::<Vec<_>>())?;
            let status = rows.pop().ok_or("no status")?;
            if status.num("next")? <= next {
                // Not all is dispatched yet.
                return Ok(None);
            }
            next = status.num("next")?;
            for row in rows {
                let at = row.num("offset")?;
                ensure_eq!(row.get("body"), sent[at as usize].1.as_str(), "body at {at}");
                ensure!(seen.last().is_none_or(|last| *last < at), "{at} comes behind {seen:?}");
                seen.push(at);
            }
        }
        for (key, at) in &newest {
            ensure!(seen.contains(&(*at as i64)), "the newest message of {key}, {at}, is not in {seen:?}");
        }
        Ok((seen.len() < COMPACTED).then_some(()))
    })?;
    driver.call("stop", &[("name", &puller)])?;
    let end = broker.conn()?.bound(code::GET_MAX_OFFSET, TOPIC, 0)?;
    ensure_eq!(end, sent.len() as i64, "end of the queue");
    Ok(())
}
