//! Reading without a push consumer: pull, lite pull, offsets, a message by its id and by its key.

use crate::common::{ALL, DELIVERY, JAVA, Stage, each_once, numbered, start};
use ferromq_contract::driver::{Msg, Row};
use ferromq_contract::runner::{Case, Client, Lab};
use ferromq_contract::wire::now_ms;
use ferromq_contract::{Outcome, Stop, ensure, ensure_eq, wait_for};
use std::time::Duration;

pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for client in ALL {
        all.push(Case::shared(format!("read::{}::pull", client.label()), move |lab| pull(lab, client)));
    }
    for client in JAVA {
        let label = client.label();
        all.push(Case::shared(format!("read::{label}::lite_pull"), move |lab| lite_pull(lab, client)));
        all.push(Case::shared(format!("read::{label}::view_by_id"), move |lab| view_by_id(lab, client)));
        all.push(Case::shared(format!("read::{label}::query_by_key"), move |lab| query_by_key(lab, client)));
        all.push(Case::shared(format!("read::{label}::offsets"), move |lab| offsets(lab, client)));
    }
    all
}

fn fill(stage: &Stage, count: usize) -> Outcome<Vec<Row>> {
    let producer = stage.producer(&[])?;
    let messages: Vec<Msg> = numbered("m", count)
        .into_iter()
        .map(|body| Msg::new(&stage.topic, &body).with("keys", format!("key-{body} shared")).with("tags", "T"))
        .collect();
    let rows = stage.driver.send(&producer, "sync", &messages)?;
    stage.stop(&producer)?;
    Ok(rows)
}

/// The puller walks one queue by the offsets the broker returns, and is told when it ends and when it has left it.
fn pull(lab: &Lab, client: Client) -> Outcome {
    let stage = Stage::new(lab, client, "pull", 1)?;
    fill(&stage, 50)?;
    let puller = stage.name("puller");
    let group = stage.name("group");
    start(stage.driver, "puller", &stage.cluster.namesrv.addr, &puller, &group, &[("topic", &stage.topic)])?;
    let mut offset = 0;
    let mut got = Vec::new();
    let pull = |offset: i64| -> Outcome<(Vec<Row>, Row)> {
        let offset = offset.to_string();
        let place = [("name", puller.as_str()), ("topic", &stage.topic), ("broker", "broker-a"), ("queue", "0")];
        let mut all = place.to_vec();
        all.extend([("offset", offset.as_str()), ("max", "8")]);
        let mut rows = stage.driver.call("pull", &all)?;
        let last = rows.pop().ok_or("no row")?;
        Ok((rows, last))
    };
    while got.len() < 50 {
        let (rows, last) = pull(offset)?;
        ensure_eq!(last.get("status"), "FOUND", "status at offset {offset}");
        ensure!(!rows.is_empty() && rows.len() <= 8, "{} messages at once", rows.len());
        ensure_eq!((last.num("min")?, last.num("max")?), (0, 50), "bounds");
        offset += rows.len() as i64;
        ensure_eq!(last.num("next")?, offset, "next offset");
        got.extend(rows);
    }
    each_once(&got, numbered("m", 50))?;
    if client != Client::Go {
        // The Go client turns these answers into errors of its own.
        ensure_eq!(pull(50)?.1.get("status"), "NO_NEW_MSG", "status at the end");
        let (_, beyond) = pull(1000)?;
        ensure_eq!((beyond.get("status"), beyond.get("next")), ("OFFSET_ILLEGAL", "50"), "beyond the end");
    }
    stage.stop(&puller)
}

/// A lite pull consumer gets everything once; its successor continues at the committed offsets.
fn lite_pull(lab: &Lab, client: Client) -> Outcome {
    let stage = Stage::new(lab, client, "lite", 4)?;
    fill(&stage, 60)?;
    let group = stage.name("group");
    let poll_all = |count: usize| -> Outcome<Vec<Row>> {
        let lite = stage.name("lite");
        let further = [("topic", stage.topic.as_str()), ("autocommit", "false")];
        start(stage.driver, "lite", &stage.cluster.namesrv.addr, &lite, &group, &further)?;
        let mut got = Vec::new();
        wait_for(DELIVERY, format!("{count} messages"), || {
            got.extend(stage.driver.call("poll", &[("name", &lite), ("timeout", "500")])?);
            Ok((got.len() >= count).then_some(()))
        })?;
        stage.driver.call("commit", &[("name", &lite)])?;
        std::thread::sleep(Duration::from_millis(300));
        stage.stop(&lite)?;
        Ok(got)
    };
    each_once(&poll_all(60)?, numbered("m", 60))?;
    let producer = stage.producer(&[])?;
    let later: Vec<Msg> = numbered("later", 12).into_iter().map(|body| Msg::new(&stage.topic, body)).collect();
    stage.driver.send(&producer, "sync", &later)?;
    stage.stop(&producer)?;
    each_once(&poll_all(12)?, numbered("later", 12))
}

fn view_by_id(lab: &Lab, client: Client) -> Outcome {
    let stage = Stage::new(lab, client, "view", 2)?;
    let sent = fill(&stage, 10)?;
    let producer = stage.producer(&[])?;
    for row in &sent {
        for (kind, id) in [("offset id", row.get("offsetid")), ("unique id", row.get("id"))] {
            // The index of a unique id follows the log a moment later.
            let found = wait_for(Duration::from_secs(10), format!("the message by its {kind} {id}"), || {
                let view = stage.driver.call("view", &[("name", &producer), ("topic", &stage.topic), ("id", id)]);
                match view {
                    Ok(rows) if rows[0].get("absent").is_empty() => Ok(Some(rows[0].clone())),
                    Ok(_) | Err(Stop::Failed(_)) => Ok(None),
                    Err(e) => Err(e),
                }
            })?;
            ensure_eq!(found.get("body"), format!("m-{}", row.get("index")), "body by {kind}");
            ensure_eq!(
                (found.get("queue"), found.get("offset")),
                (row.get("queue"), row.get("offset")),
                "place by {kind}"
            );
        }
    }
    let unknown = [("name", producer.as_str()), ("topic", &stage.topic), ("id", "7F00000100002A9F00000000FFFFFFFF")];
    ensure!(
        stage.driver.call("view", &unknown).map_or(true, |rows| rows[0].get("absent") == "true"),
        "a message was found at an offset that does not exist"
    );
    stage.stop(&producer)
}

fn query_by_key(lab: &Lab, client: Client) -> Outcome {
    let stage = Stage::new(lab, client, "query", 2)?;
    let begun = now_ms();
    fill(&stage, 12)?;
    let producer = stage.producer(&[])?;
    let (begin, end) = ((begun - 1000).to_string(), (now_ms() + 60_000).to_string());
    let query = |key: &str, max: &str| {
        let fields = [
            ("name", producer.as_str()),
            ("topic", stage.topic.as_str()),
            ("key", key),
            ("max", max),
            ("begin", &begin),
            ("end", &end),
        ];
        stage.driver.call("query", &fields)
    };
    wait_for(Duration::from_secs(10), "all messages in the index", || {
        Ok(query("shared", "64").ok().filter(|rows| rows.len() == 12))
    })?;
    each_once(&query("shared", "64")?, numbered("m", 12))?;
    each_once(&query("key-m-7", "64")?, ["m-7".to_owned()])?;
    ensure_eq!(query("shared", "5")?.len(), 5, "messages when 5 are asked for");
    ensure!(query("no-such-key", "5").map_or(true, |rows| rows.is_empty()), "a key that was never used finds messages");
    stage.stop(&producer)
}

/// Bounds, the offset of a time, and a group's own offset.
fn offsets(lab: &Lab, client: Client) -> Outcome {
    let stage = Stage::new(lab, client, "offsets", 1)?;
    fill(&stage, 5)?;
    std::thread::sleep(Duration::from_millis(50));
    let between = now_ms();
    std::thread::sleep(Duration::from_millis(50));
    fill(&stage, 5)?;
    let producer = stage.producer(&[])?;
    let bounds = |time: i64| -> Outcome<Row> {
        let time = time.to_string();
        let place = [
            ("name", producer.as_str()),
            ("topic", &stage.topic),
            ("broker", "broker-a"),
            ("queue", "0"),
            ("time", &time),
        ];
        stage.driver.call("bounds", &place)?.pop().ok_or_else(|| "no row".into())
    };
    let row = bounds(between)?;
    ensure_eq!(
        (row.num("min")?, row.num("max")?, row.num("at")?),
        (0, 10, 5),
        "min, max, and offset of a time in the middle"
    );
    ensure_eq!(bounds(0)?.num("at")?, 0, "offset of the time 0");
    ensure_eq!(bounds(now_ms() + 100_000)?.num("at")?, 10, "offset of a time to come");
    let earliest = row.num("earliest")?;
    ensure!(earliest > 0 && earliest <= between, "earliest store time {earliest}");
    stage.stop(&producer)?;

    let puller = stage.name("puller");
    let group = stage.name("group");
    start(stage.driver, "puller", &stage.cluster.namesrv.addr, &puller, &group, &[("topic", &stage.topic)])?;
    let place = [("name", puller.as_str()), ("topic", &stage.topic), ("broker", "broker-a"), ("queue", "0")];
    let mut commit = place.to_vec();
    commit.push(("offset", "7"));
    let mut last = 0;
    let committed = wait_for(Duration::from_secs(10), "", || {
        // One-way, and the broker ignores it until the heartbeat has made the group known: so more than once.
        stage.driver.call("commit-offset", &commit)?;
        std::thread::sleep(Duration::from_millis(200));
        let row = stage.driver.call("committed", &place)?.pop().ok_or("no row")?;
        last = row.num("offset")?;
        Ok((last == 7).then_some(()))
    });
    ensure!(committed.is_ok(), "the committed offset reads {last}");
    stage.stop(&puller)
}
