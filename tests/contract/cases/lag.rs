//! How far groups are behind, as mqadmin and `ferromq lag` say it: what members have in hand, popped or pulled, and what a filter
//! leaves out.

use crate::common::{DELIVERY, Stage, numbered};
use ferromq_contract::driver::Msg;
use ferromq_contract::runner::{Case, Client, Lab};
use ferromq_contract::server::Make;
use ferromq_contract::wire::code;
use ferromq_contract::{Outcome, Stop, ensure, ensure_eq, wait_for};
use serde_json::Value;
use std::process::Command;

pub fn cases() -> Vec<Case> {
    vec![
        Case::shared("lag::java5::popped_and_not_acknowledged", |lab| in_hand(lab, true)),
        Case::shared("lag::java5::pulled_and_not_committed", |lab| in_hand(lab, false)),
        Case::shared("lag::java5::what_a_filter_leaves_out", filtered),
    ]
}

/// What `ferromq lag` says of a topic.
fn lag(lab: &Lab, stage: &Stage<'_>, group: &str) -> Outcome<Value> {
    let mut command = Command::new(lab.tools.ferromq()?);
    let output = command.args(["lag", group, "--json", "-n", &stage.cluster.namesrv.addr]).output()?;
    let printed = String::from_utf8_lossy(&output.stdout);
    let topics = printed.lines().map(serde_json::from_str::<Value>).collect::<Result<Vec<_>, _>>();
    let found = topics.ok().and_then(|all| all.into_iter().find(|of| of["topic"] == stage.topic.as_str()));
    found
        .ok_or_else(|| Stop::Failed(format!("no lag of {group}: {printed}{}", String::from_utf8_lossy(&output.stderr))))
}

/// All messages are in the hands of listeners that take their time: none is ready, and all count until they are done.
fn in_hand(lab: &Lab, pops: bool) -> Outcome {
    const COUNT: usize = 8;
    if lab.make == Make::Java {
        return Err(Stop::Skipped("the Java server leaves popped messages out".to_owned()));
    }
    let stage = Stage::new(lab, Client::Java5, "in-hand", 1)?;
    let group = stage.name("group");
    if pops {
        let mode =
            format!(r#"{{"consumerGroup":"{group}","mode":"POP","popShareQueueNum":0,"topic":"{}"}}"#, stage.topic);
        stage.cluster.broker.conn()?.call(code::SET_MESSAGE_REQUEST_MODE, &[], mode.as_bytes())?.ok()?;
    }
    // The tool starts with its first command.
    lab.mqadmin(&stage.cluster.namesrv.addr, "clusterList")?;
    let producer = stage.producer(&[])?;
    let mut options = vec![("threads", "8"), ("pause", "45000")];
    options.extend(pops.then_some(("pop", "60000")));
    let consumer = stage.consumer(&group, &options)?;
    let messages: Vec<Msg> = numbered("m", COUNT).iter().map(|body| Msg::new(&stage.topic, body)).collect();
    stage.driver.send(&producer, "sync", &messages)?;
    let mut last = Value::Null;
    let whole = wait_for(DELIVERY, "", || {
        // A group without an offset has no lag yet.
        let Ok(said) = lag(lab, &stage, &group) else { return Ok(None) };
        last = said;
        Ok((last["inFlight"] == COUNT).then_some(()))
    });
    whole.map_err(|_| Stop::Failed(format!("{COUNT} messages in hand are said to be {last}")))?;
    ensure_eq!((&last["lag"], &last["queues"][0]["ready"]), (&COUNT.into(), &0.into()), "lag and ready in {last}");
    ensure!(last["behindSeconds"].as_f64() > Some(0.0), "the oldest has waited: {last}");
    let command = format!("consumerProgress -g {group}");
    let printed = lab.mqadmin(&stage.cluster.namesrv.addr, &command)?;
    for text in [format!("Consume Diff Total: {COUNT}"), format!("Consume Inflight Total: {COUNT}")] {
        ensure!(printed.contains(&text), "mqadmin {command} does not print '{text}':\n{printed}");
    }
    stage.driver.wait_events(&consumer, COUNT, DELIVERY)?;
    wait_for(DELIVERY, "no lag is left", || Ok((lag(lab, &stage, &group)?["lag"] == 0).then_some(())))?;
    stage.stop(&consumer)?;
    stage.stop(&producer)
}

/// A consumer of one tag waits for its next message while many of another tag come: they are no lag of its group.
fn filtered(lab: &Lab) -> Outcome {
    if lab.make == Make::Java {
        return Err(Stop::Skipped("the Java server shows such lags by its metrics alone".to_owned()));
    }
    let stage = Stage::new(lab, Client::Java5, "left-out", 1)?;
    let group = stage.name("group");
    let (producer, consumer) = (stage.producer(&[])?, stage.consumer(&group, &[("expression", "A")])?);
    let send = |tag: &str, count: usize| -> Outcome {
        let messages: Vec<Msg> =
            numbered(tag, count).iter().map(|body| Msg::new(&stage.topic, body).with("tags", tag)).collect();
        stage.driver.send(&producer, "sync", &messages).map(drop)
    };
    send("A", 3)?;
    stage.driver.wait_events(&consumer, 3, DELIVERY)?;
    // A group without an offset has no lag yet.
    wait_for(DELIVERY, "no lag is left", || {
        Ok(lag(lab, &stage, &group).is_ok_and(|said| said["lag"] == 0).then_some(()))
    })?;
    send("B", 20)?;
    let mut conn = stage.cluster.broker.conn()?;
    wait_for(DELIVERY, "all are dispatched", || {
        Ok((conn.bound(code::GET_MAX_OFFSET, &stage.topic, 0)? == 23).then_some(()))
    })?;
    let said = lag(lab, &stage, &group)?;
    ensure_eq!(
        (&said["lag"], &said["behindSeconds"]),
        (&0.into(), &0.0.into()),
        "lag beside 20 of another tag in {said}"
    );
    send("A", 1)?;
    stage.driver.wait_events(&consumer, 4, DELIVERY)?;
    stage.stop(&consumer)?;
    stage.stop(&producer)
}
