//! Lite topics by official clients of the gRPC protocol: one consumer takes from as many of them as it names.

use crate::common::{DELIVERY, bodies, each_once, numbered};
use crate::grpc::Stage;
use ferromq_contract::driver::Msg;
use ferromq_contract::runner::Client;
use ferromq_contract::wire::now_ms;
use ferromq_contract::{Outcome, Stop, ensure, ensure_eq, wait_for};

/// Messages of lite topics, each of which tells its own.
fn messages(parent: &str, lite: &str, bodies: &[String]) -> Vec<Msg> {
    bodies.iter().map(|body| Msg::new(parent, body.clone()).with("lite", lite)).collect()
}

fn group(stage: &Stage<'_>, parent: &str, further: &str) -> Outcome<String> {
    stage.group(&format!(
        ",\"consumeMessageOrderly\":true,\"attributes\":{{\"+lite.bind.topic\":\"{parent}\"{further}}}"
    ))
}

fn on(stage: &Stage<'_>, verb: &str, consumer: &str, lite: &str) -> Outcome {
    stage.driver.call(verb, &[("name", consumer), ("lite", lite)]).map(drop)
}

/// In order of each lite topic, as the group asks, a failed message before the one behind it; what is not subscribed to does not come.
pub fn lite_topics(stage: &Stage<'_>) -> Outcome {
    let parent = stage.topic("LITE")?;
    let group = group(stage, &parent, ",\"+lite.sub.client.quota\":\"3\"")?;
    let producer = stage.open("producer", &parent, &[])?;
    // Java's client tries a failed message again before the one behind it; the others go on.
    let fails = stage.client == Client::GrpcJava;
    let failing = [("group", &*group), ("fail", if fails { "1" } else { "0" })];
    let consumer = stage.open("lite", &parent, &failing)?;
    on(stage, "subscribe", &consumer, "a")?;
    on(stage, "subscribe", &consumer, "b")?;
    for lite in ["a", "b", "c"] {
        stage.send(&producer, &messages(&parent, lite, &numbered(lite, 3)))?;
    }
    stage.driver.wait_events(&consumer, if fails { 12 } else { 6 }, DELIVERY)?;
    for lite in ["a", "b"] {
        let events = stage.driver.events(&consumer);
        let of_lite: Vec<_> = events.into_iter().filter(|event| event.get("lite") == lite).collect();
        let times = if fails { 2 } else { 1 };
        let expected: Vec<String> = numbered(lite, 3).into_iter().flat_map(|body| vec![body; times]).collect();
        let came: Vec<String> = of_lite.iter().map(|event| event.get("body").to_owned()).collect();
        ensure_eq!(came, expected, "the order in lite topic {lite}");
    }
    // A topic more brings what it has; one less brings nothing more.
    on(stage, "unsubscribe", &consumer, "a")?;
    on(stage, "subscribe", &consumer, "c")?;
    stage.send(&producer, &messages(&parent, "a", &numbered("late", 2)))?;
    stage.send(&producer, &messages(&parent, "c", &numbered("new", 2)))?;
    wait_for(DELIVERY, "messages of the lite topic that came later", || {
        let all = bodies(&stage.driver.events(&consumer));
        Ok(numbered("new", 2).iter().all(|body| all.contains_key(body)).then_some(()))
    })?;
    let all = bodies(&stage.driver.events(&consumer));
    ensure!(!all.keys().any(|body| body.starts_with("late")), "{all:?}");
    // The group's limit of lite topics for each client, which clients count; that of Go does not.
    if stage.client != Client::GrpcGo {
        on(stage, "subscribe", &consumer, "d")?;
        match on(stage, "subscribe", &consumer, "e") {
            // The Node client says 429, the first digits of the server's 42902.
            Err(Stop::Failed(why)) if why.contains("429") => {}
            other => return Err(format!("a lite topic beyond the quota: {other:?}").into()),
        }
    }
    stage.stop(&[&producer, &consumer])
}

/// The last one to subscribe has an exclusive lite topic for itself, and the first is told.
pub fn exclusive(stage: &Stage<'_>) -> Outcome {
    let parent = stage.topic("LITE")?;
    let group = group(stage, &parent, ",\"+lite.sub.model\":\"Exclusive\"")?;
    let producer = stage.open("producer", &parent, &[])?;
    let [first, second] = ["one", "two"].map(|_| stage.open("lite", &parent, &[("group", &group)]));
    let (first, second) = (first?, second?);
    on(stage, "subscribe", &first, "x")?;
    stage.send(&producer, &messages(&parent, "x", &numbered("before", 2)))?;
    each_once(&stage.driver.wait_events(&first, 2, DELIVERY)?, numbered("before", 2))?;
    on(stage, "subscribe", &second, "x")?;
    stage.send(&producer, &messages(&parent, "x", &numbered("after", 3)))?;
    each_once(&stage.driver.wait_events(&second, 3, DELIVERY)?, numbered("after", 3))?;
    ensure_eq!(stage.driver.events(&first).len(), 2, "what came to the first consumer");
    if stage.client == Client::GrpcJava {
        tools_tell(stage, &parent, &group)?;
    }
    stage.stop(&[&producer, &first, &second])
}

/// Lite topics by a consumer that asks for messages: what it has not acknowledged comes again, and holds up its lite topic alone.
pub fn simple_consumer(stage: &Stage<'_>) -> Outcome {
    if stage.brokers[0].make.is_java() {
        return Err(Stop::Skipped("RocketMQ's proxy takes it for no consumer".into()));
    }
    let parent = stage.topic("LITE")?;
    let group = group(stage, &parent, "")?;
    let producer = stage.open("producer", &parent, &[])?;
    let simple = stage.open("lite_simple", &parent, &[("group", &group)])?;
    on(stage, "subscribe", &simple, "a")?;
    on(stage, "subscribe", &simple, "b")?;
    for lite in ["a", "b", "c"] {
        stage.send(&producer, &messages(&parent, lite, &[format!("{lite}-1")]))?;
    }
    let begun = now_ms();
    let first = stage.receive(&simple, 2, stage.invisible)?;
    each_once(&first, ["a-1", "b-1"].map(str::to_owned))?;
    for row in &first {
        ensure!(row.get("body").starts_with(row.get("lite")), "the lite topic of {row:?}");
    }
    let of = |lite: &str| first.iter().find(|row| row.get("lite") == lite).ok_or("no message of a lite topic");
    stage.of_held("ack", &simple, of("b")?)?;
    for lite in ["a", "b"] {
        stage.send(&producer, &messages(&parent, lite, &[format!("{lite}-2")]))?;
    }
    // At once behind an acknowledged message; behind another one when its time is over.
    each_once(&stage.receive(&simple, 1, "60000")?, ["b-2".to_owned()])?;
    let again = stage.receive(&simple, 2, "60000")?;
    each_once(&again, ["a-1", "a-2"].map(str::to_owned))?;
    // The broker counts from the first receipt, which the client may have noticed late.
    let waited = again[0].num("at")? - begun;
    let invisible: i64 = stage.invisible.parse().map_err(|_| "the invisible time is no number")?;
    ensure!(waited >= invisible, "came back after {waited} ms, not {invisible}: {again:?}");
    again.iter().try_for_each(|row| stage.of_held("ack", &simple, row))?;
    stage.stop(&[&producer, &simple])
}

/// What the official tool says of a lite topic `x` whose five messages one client of the group has taken.
fn tools_tell(stage: &Stage<'_>, parent: &str, group: &str) -> Outcome {
    let tells = |command: String, texts: &[&str]| {
        wait_for(DELIVERY, "", || {
            let printed = stage.lab.mqadmin(stage.namesrv, &command)?;
            Ok(texts.iter().all(|text| printed.contains(text)).then_some(()))
        })
        .map_err(|_| {
            let printed = stage.lab.mqadmin(stage.namesrv, &command).unwrap_or_else(|stop| format!("{stop:?}"));
            Stop::Failed(format!("mqadmin {command} does not come to print {texts:?}:\n{printed}"))
        })
    };
    tells("getBrokerLiteInfo -c DefaultCluster".to_owned(), &["default 20000"])?;
    tells(format!("getParentTopicInfo -p {parent}"), &[parent, group])?;
    tells(format!("getLiteTopicInfo -p {parent} -l x -s"), &["broker-a 0 5", group])?;
    tells(format!("getLiteGroupInfo -p {parent} -g {group} -l x"), &["broker-a 5 5 0"])?;
    tells(format!("getLiteGroupInfo -p {parent} -g {group} -k 5"), &["Total Lag Count: 0"])?;
    tells(format!("triggerLiteDispatch -p {parent} -g {group}"), &["broker-a"])
}
