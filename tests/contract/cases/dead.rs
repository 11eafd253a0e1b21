//! Messages that an orderly listener never takes become dead letters, and what a dead letter's replay brings.

use crate::common::{ALL, DELIVERY, Stage, numbered};
use ferromq_contract::driver::{Msg, Row};
use ferromq_contract::runner::{Case, Client, Lab};
use ferromq_contract::server::Make;
use ferromq_contract::{Outcome, Stop, ensure, ensure_eq, wait_for};

pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for client in ALL {
        let label = client.label();
        all.push(Case::shared(format!("dead::{label}::orderly"), move |lab| orderly(lab, client)));
        all.push(Case::shared(format!("dead::{label}::replayed"), move |lab| replayed(lab, client)));
    }
    all
}

/// Numbers of the tries of a message.
fn tries(rows: &[Row], body: &str) -> Outcome<Vec<i64>> {
    rows.iter().filter(|row| row.get("body") == body).map(|row| row.num("reconsume")).collect()
}

/// One queue, a listener that takes nothing: each message is tried so often, all the while the next ones wait, and is a dead
/// letter before the next one is tried.
fn orderly(lab: &Lab, client: Client) -> Outcome {
    const MESSAGES: usize = 3;
    let stage = Stage::new(lab, client, "dead", 1)?;
    let (group, producer) = (stage.name("group"), stage.producer(&[])?);
    let messages: Vec<Msg> = numbered("m", MESSAGES).iter().map(|body| Msg::new(&stage.topic, body)).collect();
    let sent = stage.driver.send(&producer, "sync", &messages)?;
    let consumer = stage.consumer(&group, &[("mode", "orderly"), ("fail", "100"), ("maxreconsume", "2")])?;
    // Go's client counts one more.
    let each: Vec<i64> = (0..if client == Client::Go { 4 } else { 3 }).collect();
    let rows = stage.driver.wait_events(&consumer, MESSAGES * each.len(), DELIVERY)?;
    let came: Vec<&str> = rows.iter().map(|row| row.get("body")).collect();
    ensure!(came.is_sorted(), "a message was tried before the one before it was over: {came:?}");
    let mut conn = stage.cluster.broker.conn()?;
    let dead = wait_for(DELIVERY, "the dead letters", || {
        let dead = conn.read_queue(&format!("%DLQ%{group}"), 0, 0).unwrap_or_default();
        Ok((dead.len() >= MESSAGES).then_some(dead))
    })?;
    ensure_eq!(dead.len(), MESSAGES, "dead letters");
    for ((body, letter), sent) in numbered("m", MESSAGES).iter().zip(&dead).zip(&sent) {
        ensure_eq!(tries(&rows, body)?, each, "tries of {body}");
        ensure_eq!(String::from_utf8_lossy(&letter.body), body.as_str(), "the dead letter's body");
        ensure_eq!(letter.property("RETRY_TOPIC"), Some(stage.topic.as_str()), "where it came from");
        if lab.make == Make::Ferro {
            ensure_eq!(letter.property("DLQ_ORIGIN_TOPIC"), Some(stage.topic.as_str()), "the origin");
            ensure_eq!(letter.property("DLQ_ORIGIN_MESSAGE_ID"), Some(sent.get("id")), "the origin's id");
        }
    }
    stage.stop(&consumer)?;
    stage.stop(&producer)
}

/// A dead letter is replayed by hand: its own group gets it under the topic it subscribed to, once however often the replay is
/// asked for, and another group of the topic does not.
fn replayed(lab: &Lab, client: Client) -> Outcome {
    if lab.make == Make::Java {
        return Err(Stop::Skipped("the Java server has no replay".to_owned()));
    }
    let stage = Stage::new(lab, client, "replay", 1)?;
    let (group, producer) = (stage.name("group"), stage.producer(&[])?);
    let other = stage.consumer(&stage.name("other"), &[])?;
    // No second try: the first failure makes a dead letter.
    let failing = stage.consumer(&group, &[("fail", "100"), ("maxreconsume", "0")])?;
    stage.driver.send(&producer, "sync", &[Msg::new(&stage.topic, "body").with("tags", "t").with("keys", "k")])?;
    for name in [&failing, &other] {
        stage.driver.wait_events(name, 1, DELIVERY)?;
    }
    let mut conn = stage.cluster.broker.conn()?;
    wait_for(DELIVERY, "a dead letter", || {
        Ok((conn.read_queue(&format!("%DLQ%{group}"), 0, 0).unwrap_or_default().len() == 1).then_some(()))
    })?;
    stage.stop(&failing)?;

    let consumer = stage.consumer(&group, &[])?;
    let replay = || -> Outcome<String> {
        let namesrv = &stage.cluster.namesrv.addr;
        let mut command = std::process::Command::new(lab.tools.ferromq()?);
        let output = command.args(["dlq", "replay", &group, "--all", "-n", namesrv]).output()?;
        let (printed, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "the replay ended with {}: {error}", output.status);
        Ok(printed.into_owned())
    };
    // The NameServer may hear of the new topic a moment after the message is there.
    let first = wait_for(DELIVERY, "a group with dead letters", || match replay() {
        Err(Stop::Failed(why)) if why.contains("has no dead letters") => Ok(None),
        other => other.map(Some),
    })?;
    ensure!(first.ends_with("1 replayed, 0 passed over, 0 failed\n"), "the first replay: {first}");
    let second = replay()?;
    ensure!(second.ends_with("0 replayed, 1 passed over, 0 failed\n"), "the second replay: {second}");
    let rows = stage.driver.wait_events(&consumer, 1, DELIVERY)?;
    let shown = |row: &Row| ["topic", "body", "tags", "keys"].map(|key| row.get(key).to_owned());
    ensure_eq!(shown(&rows[0]), [stage.topic.as_str(), "body", "t", "k"].map(str::to_owned), "what came again");
    // What is sent now comes behind anything that a second replay would have brought.
    stage.driver.send(&producer, "sync", &[Msg::new(&stage.topic, "next")])?;
    for name in [&consumer, &other] {
        let rows = stage.driver.wait_events(name, 2, DELIVERY)?;
        let bodies: Vec<&str> = rows.iter().map(|row| row.get("body")).collect();
        ensure_eq!(bodies, ["body", "next"], "all that {name} got");
        stage.stop(name)?;
    }
    stage.stop(&producer)
}
