//! Topics with batch queues (`queue.type=BatchCQ`) with official tools and clients: made by mqadmin, filled with single
//! messages and with batches that are one record, read from any offset, also when the store goes to a broker of the other
//! make and back.

use crate::common::{check_store, each_once, numbered, start};
use ferromq_contract::cluster::wait_route;
use ferromq_contract::driver::{Msg, Row};
use ferromq_contract::runner::{Case, Client, Lab};
use ferromq_contract::server::{Broker, Make, Namesrv};
use ferromq_contract::wire::code;
use ferromq_contract::{Outcome, While, ensure, ensure_eq, wait_for};
use std::time::Duration;

pub fn cases() -> Vec<Case> {
    vec![
        Case::alone("batch_queue::our_store_by_java_and_back", |lab| there_and_back(lab, lab.make, Make::Java)),
        Case::alone("batch_queue::java_store_by_ours_and_back", |lab| there_and_back(lab, Make::Java, lab.make)),
    ]
}

const TOPIC: &str = "batch-queue";
const GROUP: &str = "batch-queue-group";
/// Messages of one record, and of one round: the first of a round is sent alone.
const BATCH: usize = 10;
const COUNT: usize = 2 * BATCH + 1;

fn there_and_back(lab: &Lab, first: Make, second: Make) -> Outcome {
    let folder = lab.folder("batch-queue")?;
    let namesrv = Namesrv::start(&lab.tools, lab.make, &folder.join("namesrv"))?;
    let mut broker = Broker::new(first, &folder.join("broker"), "broker-a", &namesrv.addr)
        .set("mappedFileSizeCommitLog", 8 << 20)
        .set("maxIndexNum", 100_000)
        .set("maxHashSlotNum", 20_000);
    for (round, make) in [first, second, first].into_iter().enumerate() {
        broker.make = make;
        broker.start(&lab.tools).doing(format!("the store opened by {make:?}"))?;
        if round == 0 {
            create(lab, &broker)?;
        } else {
            read(lab, &broker, round).doing(format!("the queue of the other make as {make:?} serves it"))?;
        }
        send(lab, &broker, round)?;
        read(lab, &broker, round + 1).doing(format!("the queue of {make:?}"))?;
        broker.stop()?;
        let (code, report) = check_store(lab, &broker, &[])?;
        let findings = report["findings"].as_array().ok_or("a report without findings")?;
        let are_notes = findings.iter().all(|finding| finding["kind"] == "not-checked");
        ensure!(are_notes && code == Some(0), "check-store after {make:?}: {report}");
    }
    Ok(())
}

/// The kind of the queues is told when the topic is made, and not afterwards.
fn create(lab: &Lab, broker: &Broker) -> Outcome {
    let update = |attributes: &str| {
        let command = format!("updateTopic -b {} -t {TOPIC} -r 1 -w 1 -a {attributes}", broker.addr());
        lab.mqadmin(&broker.namesrv, &command)
    };
    let printed = update("+queue.type=BatchCQ")?;
    ensure!(printed.contains("success"), "mqadmin: {printed}");
    let printed = update("+queue.type=SimpleCQ")?;
    ensure!(printed.contains("attempt to update an unchangeable attribute. key: queue.type"), "mqadmin: {printed}");
    wait_route(&broker.namesrv, TOPIC, "\"writeQueueNums\":1")
}

fn bodies(round: usize) -> Vec<String> {
    numbered(&format!("round-{round}"), COUNT)
}

fn send(lab: &Lab, broker: &Broker, round: usize) -> Outcome {
    let driver = lab.driver(Client::Java5)?;
    let producer = lab.name("batch-queue-producer");
    start(driver, "producer", &broker.namesrv, &producer, "batch-queue-producers", &[])?;
    let messages: Vec<Msg> = bodies(round).into_iter().map(|body| Msg::new(TOPIC, body)).collect();
    let mut next = (round * COUNT) as i64;
    for (mode, part) in [("sync", &messages[..1]), ("batch", &messages[1..=BATCH]), ("batch", &messages[BATCH + 1..])] {
        let sent = driver.send(&producer, mode, part)?;
        ensure_eq!(sent[0].num("offset")?, next, "offset of the first of {} messages", part.len());
        // One id for all: the batch is one record.
        ensure!(!sent[0].get("id").contains(','), "ids of {} messages: {}", part.len(), sent[0].get("id"));
        next += part.len() as i64;
    }
    driver.call("stop", &[("name", &producer)]).map(drop)
}

/// The queue holds what `rounds` rounds put into it, in order, and a record is found by any of its offsets.
fn read(lab: &Lab, broker: &Broker, rounds: usize) -> Outcome {
    let driver = lab.driver(Client::Java5)?;
    let puller = lab.name("batch-queue-puller");
    start(driver, "puller", &broker.namesrv, &puller, GROUP, &[("topic", TOPIC)])?;
    let sent: Vec<String> = (0..rounds).flat_map(bodies).collect();
    let pull = |offset: i64| -> Outcome<Vec<Row>> {
        let offset = offset.to_string();
        let place = [("name", puller.as_str()), ("topic", TOPIC), ("broker", "broker-a"), ("queue", "0")];
        driver.call("pull", &place.into_iter().chain([("offset", offset.as_str())]).collect::<Vec<_>>())
    };
    let (mut got, mut next) = (Vec::new(), 0);
    wait_for(Duration::from_secs(30), "all messages", || {
        let mut rows = pull(next)?;
        next = rows.pop().ok_or("no status")?.num("next")?;
        got.extend(rows);
        Ok((got.len() >= sent.len()).then_some(()))
    })?;
    each_once(&got, sent.iter().cloned())?;
    for (n, row) in got.iter().enumerate() {
        ensure_eq!((row.get("body"), row.num("offset")?), (sent[n].as_str(), n as i64), "message {n}");
    }
    // In the middle of a record: all of it comes.
    let rows = pull(1 + BATCH as i64 / 2)?;
    ensure_eq!(rows[0].num("offset")?, 1, "first message of the record");
    driver.call("stop", &[("name", &puller)])?;
    let mut conn = broker.conn()?;
    let bounds = (conn.bound(code::GET_MIN_OFFSET, TOPIC, 0)?, conn.bound(code::GET_MAX_OFFSET, TOPIC, 0)?);
    ensure_eq!(bounds, (0, sent.len() as i64), "bounds of the queue");
    Ok(())
}
