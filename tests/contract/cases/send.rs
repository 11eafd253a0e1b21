//! Every way of sending: sync, async, one-way, batch, and to a topic that does not exist yet.

use crate::common::{ALL, Stage, numbered};
use ferromq_contract::driver::{Msg, Row};
use ferromq_contract::runner::{Case, Client, Lab};
use ferromq_contract::wire::code;
use ferromq_contract::{Outcome, ensure, ensure_eq, wait_for};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for client in ALL {
        let label = client.label();
        all.push(Case::shared(format!("send::{label}::sync"), move |lab| answered(lab, client, "sync")));
        all.push(Case::shared(format!("send::{label}::async"), move |lab| answered(lab, client, "async")));
        all.push(Case::shared(format!("send::{label}::oneway"), move |lab| oneway(lab, client)));
        all.push(Case::shared(format!("send::{label}::batch"), move |lab| batch(lab, client)));
        all.push(Case::shared(format!("send::{label}::creates_the_topic"), move |lab| creates_the_topic(lab, client)));
    }
    all
}

fn messages(topic: &str, count: usize) -> Vec<Msg> {
    numbered("m", count).into_iter().map(|body| Msg::new(topic, body)).collect()
}

/// Each send is answered with its true place: the record stands there, with the id of the answer.
fn answered(lab: &Lab, client: Client, mode: &str) -> Outcome {
    let stage = Stage::new(lab, client, mode, 4)?;
    let producer = stage.producer(&[])?;
    let rows = stage.driver.send(&producer, mode, &messages(&stage.topic, 40))?;
    stage.stop(&producer)?;
    ensure_eq!(rows.len(), 40, "results");
    for row in &rows {
        ensure_eq!(row.get("status"), "SEND_OK", "status ({})", row.get("error"));
        ensure_eq!(row.get("broker"), "broker-a", "broker name");
    }
    let stored = stage.stored(4, 40)?;
    let used = stored.iter().filter(|queue| !queue.is_empty()).count();
    ensure_eq!(used, 4, "queues used by round robin");
    for row in &rows {
        let queue = stored.get(row.num("queue")? as usize).ok_or("a queue that is not there")?;
        let record = queue.get(row.num("offset")? as usize).ok_or("an offset that is not there")?;
        ensure_eq!(
            record.body,
            format!("m-{}", row.num("index")?).into_bytes(),
            "the record at the acknowledged place"
        );
        ensure_eq!(record.property("UNIQ_KEY"), Some(row.get("id")), "the message id");
        let viewed = stage.cluster.broker.conn()?.call(
            code::VIEW_MESSAGE_BY_ID,
            &[("offset", &record.physical_offset.to_string())],
            &[],
        )?;
        ensure_eq!(viewed.ok()?.body, record.raw, "the record by its physical offset");
    }
    Ok(())
}

fn oneway(lab: &Lab, client: Client) -> Outcome {
    let stage = Stage::new(lab, client, "oneway", 4)?;
    let producer = stage.producer(&[])?;
    // The clients may lose a first one-way message while they connect, so a synchronous one opens the connection.
    stage.driver.send(&producer, "sync", &[Msg::new(&stage.topic, "first")])?;
    stage.driver.send(&producer, "oneway", &messages(&stage.topic, 40))?;
    let stored = stage.stored(4, 41)?;
    stage.stop(&producer)?;
    let bodies: BTreeSet<Vec<u8>> = stored.into_iter().flatten().map(|r| r.body).collect();
    ensure_eq!(bodies.len(), 41, "different messages");
    Ok(())
}

/// One request with many messages: consecutive offsets of one queue, every message by itself, every id readable.
fn batch(lab: &Lab, client: Client) -> Outcome {
    let stage = Stage::new(lab, client, "batch", 4)?;
    let producer = stage.producer(&[])?;
    let batch: Vec<Msg> = (0..20)
        .map(|i| {
            Msg::new(&stage.topic, format!("b-{i}"))
                .with("tags", if i % 2 == 0 { "even" } else { "odd" })
                .with("p.number", i)
        })
        .collect();
    let rows = stage.driver.send(&producer, "batch", &batch)?;
    stage.stop(&producer)?;
    let row: &Row = rows.first().ok_or("no result")?;
    ensure_eq!(row.get("status"), "SEND_OK", "status");
    let stored = stage.stored(4, 20)?;
    let queue = stored.get(row.num("queue")? as usize).ok_or("a queue that is not there")?;
    ensure_eq!(row.num("offset")?, 0, "queue offset of the first message");
    ensure_eq!(queue.len(), 20, "messages of the batch in its queue");
    let ids: Vec<&str> = row.get("offsetid").split(',').collect();
    ensure_eq!(ids.len(), 20, "offset ids in the answer");
    for (i, record) in queue.iter().enumerate() {
        ensure_eq!(record.body, format!("b-{i}").into_bytes(), "message {i}");
        ensure_eq!(record.property("number"), Some(i.to_string().as_str()), "property of message {i}");
        ensure_eq!(record.property("TAGS"), Some(if i % 2 == 0 { "even" } else { "odd" }), "tag of message {i}");
        let tail = format!("{:016X}", record.physical_offset);
        ensure!(ids[i].ends_with(&tail), "offset id {} of message {i} does not name position {tail}", ids[i]);
    }
    Ok(())
}

/// The first send to an unknown topic succeeds through the route of TBW102, and makes the topic.
fn creates_the_topic(lab: &Lab, client: Client) -> Outcome {
    let stage = Stage::new(lab, client, "auto", 0)?;
    let producer = stage.producer(&[])?;
    let rows = stage.driver.send(&producer, "sync", &messages(&stage.topic, 8))?;
    stage.stop(&producer)?;
    let mut per_queue = BTreeMap::new();
    for row in &rows {
        ensure_eq!(row.get("status"), "SEND_OK", "status");
        *per_queue.entry(row.num("queue")?).or_insert(0) += 1;
    }
    ensure_eq!(per_queue.len(), 4, "queues used of the new topic");
    let mut route = ferromq_contract::wire::Conn::open(&stage.cluster.namesrv.addr)?;
    wait_for(Duration::from_secs(35), "the new topic's route", || {
        let fields = [("topic", stage.topic.as_str()), ("acceptStandardJsonOnly", "true")];
        Ok((route.call(code::GET_ROUTEINFO_BY_TOPIC, &fields, &[])?.code == 0).then_some(()))
    })
}
