//! Groups of the gRPC protocol that broadcast (`docs/broadcast.md`).

use crate::common::{DELIVERY, each_once, numbered};
use crate::grpc::Stage;
use ferromq_contract::driver::Msg;
use ferromq_contract::wire::code;
use ferromq_contract::{Outcome, Stop, wait_for};

/// Each client of a group that says so gets every message, and what it acknowledges is its own affair.
pub fn broadcasting(stage: &Stage<'_>) -> Outcome {
    if stage.brokers[0].make.is_java() {
        return Err(Stop::Skipped("RocketMQ knows no broadcasting over gRPC".into()));
    }
    let (topic, group) = (stage.topic("NORMAL")?, stage.group(",\"attributes\":{\"+consume.broadcast\":\"true\"}")?);
    let producer = stage.open("producer", &topic, &[])?;
    let send = |topic: &str, bodies: &[String]| {
        stage.send(&producer, &bodies.iter().map(|body| Msg::new(topic, body.clone())).collect::<Vec<_>>())
    };
    send(&topic, &["before anybody came".to_owned()])?;
    let push = stage.open("consumer", &topic, &[("group", &group)])?;
    let [first, second] =
        [stage.open("simple", &topic, &[("group", &group)])?, stage.open("simple", &topic, &[("group", &group)])?];
    begun(stage, &topic, 3)?;
    send(&topic, &numbered("a", 10))?;
    each_once(&stage.driver.wait_events(&push, 10, DELIVERY)?, numbered("a", 10))?;
    let held = stage.receive(&first, 10, "60000")?;
    each_once(&held, numbered("a", 10))?;
    each_once(&stage.receive(&second, 10, "10000")?, numbered("a", 10))?;
    held.iter().try_for_each(|row| stage.of_held("ack", &first, row))?;

    // Another in the place of one that has left; the one that has acknowledged nothing gets all again.
    stage.stop(&[&first])?;
    begun(stage, &topic, 2)?;
    let third = stage.open("simple", &topic, &[("group", &group)])?;
    begun(stage, &topic, 3)?;
    send(&topic, &numbered("b", 5))?;
    each_once(&stage.receive(&third, 5, "10000")?, numbered("b", 5))?;
    let all = [numbered("a", 10), numbered("b", 5)].concat();
    let again = stage.receive(&second, 15, "30000")?;
    each_once(&again, all.clone())?;
    each_once(&stage.driver.wait_events(&push, 15, DELIVERY)?, all)?;

    // Switched off, they share.
    let off = format!("{{\"groupName\":\"{group}\",\"attributes\":{{\"-consume.broadcast\":\"\"}}}}");
    stage.brokers.iter().try_for_each(|broker| broker.conn()?.update_group(&off))?;
    let other = stage.topic("NORMAL")?;
    let [one, two] =
        [stage.open("simple", &other, &[("group", &group)])?, stage.open("simple", &other, &[("group", &group)])?];
    send(&other, &numbered("c", 10))?;
    let mut rows = Vec::new();
    wait_for(DELIVERY, "messages that two consumers share", || {
        for name in [&one, &two] {
            rows.extend(stage.driver.call("receive", &[("name", name.as_str()), ("invisible", "60000")])?);
        }
        Ok((rows.len() >= 10).then_some(()))
    })?;
    each_once(&rows, numbered("c", 10))?;
    stage.stop(&[&producer, &push, &second, &third, &one, &two])
}

/// Waits until `count` clients have begun with all queues: some official clients are ready before their settings are known.
fn begun(stage: &Stage<'_>, topic: &str, count: usize) -> Outcome {
    let mut conn = stage.brokers[0].conn()?;
    wait_for(DELIVERY, format!("{count} clients that have begun with {topic}"), || {
        let answer = conn.call(code::QUERY_TOPIC_CONSUME_BY_WHO, &[("topic", topic)], &[])?.ok()?;
        let groups: serde_json::Value = serde_json::from_slice(&answer.body).map_err(|error| error.to_string())?;
        let mut found = 0;
        for own in groups["groupList"].as_array().into_iter().flatten().filter_map(serde_json::Value::as_str) {
            let last = [("consumerGroup", own), ("topic", topic), ("queueId", "3"), ("setZeroIfNotFound", "false")];
            found += usize::from(conn.call(code::QUERY_CONSUMER_OFFSET, &last, &[])?.ok().is_ok());
        }
        Ok((found == count).then_some(()))
    })
}
