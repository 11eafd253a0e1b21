//! Pop consumers: the official client with queues that the broker shares out, while messages fail and the broker is killed.

use crate::common::{DELIVERY, Stage, bodies, each_once, numbered, start};
use ferromq_contract::cluster::Cluster;
use ferromq_contract::driver::Msg;
use ferromq_contract::runner::{Case, Client, Lab};
use ferromq_contract::wire::{Conn, code};
use ferromq_contract::{Outcome, ensure, ensure_eq, wait_for};
use std::time::Duration;

pub fn cases() -> Vec<Case> {
    vec![
        Case::shared("pop::java5::each_once_and_failed_ones_again", failing),
        Case::shared("pop::java5::two_members_share_every_queue", sharing),
        Case::alone("pop::java5::sql92", selected),
        Case::alone("pop::java5::killed_broker", killed),
    ]
}

/// Sets that a group pops a topic, as `mqadmin setConsumeMode` does.
fn set_pop(conn: &mut Conn, topic: &str, group: &str) -> Outcome {
    let body = format!(r#"{{"consumerGroup":"{group}","mode":"POP","popShareQueueNum":0,"topic":"{topic}"}}"#);
    conn.call(code::SET_MESSAGE_REQUEST_MODE, &[], body.as_bytes())?.ok().map(drop)
}

/// Records in the revive topic: a client that pulls leaves none.
fn revive_records(conn: &mut Conn) -> Outcome<i64> {
    (0..8).map(|queue| conn.bound(code::GET_MAX_OFFSET, "rmq_sys_REVIVE_LOG_DefaultCluster", queue)).sum()
}

fn messages(topic: &str, count: usize) -> Vec<Msg> {
    numbered("m", count).into_iter().map(|body| Msg::new(topic, body)).collect()
}

/// The first deliveries fail; all messages come, the failed ones again with their count.
fn failing(lab: &Lab) -> Outcome {
    const FAIL: usize = 3;
    let stage = Stage::new(lab, Client::Java5, "pop", 4)?;
    let group = stage.name("group");
    let mut conn = stage.cluster.broker.conn()?;
    let before = revive_records(&mut conn)?;
    set_pop(&mut conn, &stage.topic, &group)?;
    let consumer = stage.consumer(&group, &[("pop", "60000"), ("later", &FAIL.to_string())])?;
    let producer = stage.producer(&[])?;
    stage.driver.send(&producer, "sync", &messages(&stage.topic, 60))?;
    stage.driver.wait_events(&consumer, 60, DELIVERY)?;
    std::thread::sleep(Duration::from_millis(300));
    let got = stage.driver.events(&consumer);
    each_once(&got, numbered("m", 60))?;
    let retried = got.iter().filter(|row| row.get("reconsume") == "1").count();
    ensure_eq!(retried, FAIL, "messages that came a second time");
    ensure!(got.iter().all(|row| row.get("topic") == stage.topic), "a message under another topic: {got:?}");
    ensure!(revive_records(&mut conn)? > before, "nothing was popped");
    stage.stop(&consumer)?;
    stage.stop(&producer)
}

/// One queue keeps two members busy, which pull cannot.
fn sharing(lab: &Lab) -> Outcome {
    let stage = Stage::new(lab, Client::Java5, "pop-share", 1)?;
    let group = stage.name("group");
    set_pop(&mut stage.cluster.broker.conn()?, &stage.topic, &group)?;
    let members = [stage.consumer(&group, &[("pop", "60000")])?, stage.consumer(&group, &[("pop", "60000")])?];
    let producer = stage.producer(&[])?;
    let mut sent = 0;
    let count = |member: &String| stage.driver.count(member);
    wait_for(DELIVERY, "messages at both members", || {
        let next: Vec<Msg> = (sent..sent + 20).map(|n| Msg::new(&stage.topic, format!("m-{n}"))).collect();
        stage.driver.send(&producer, "sync", &next)?;
        sent += 20;
        std::thread::sleep(Duration::from_millis(200));
        Ok((count(&members[0]) > 5 && count(&members[1]) > 5).then_some(()))
    })?;
    wait_for(DELIVERY, "all messages", || Ok((count(&members[0]) + count(&members[1]) >= sent).then_some(())))?;
    std::thread::sleep(Duration::from_millis(300));
    let all: Vec<_> = members.iter().flat_map(|member| stage.driver.events(member)).collect();
    each_once(&all, numbered("m", sent))?;
    for member in &members {
        stage.stop(member)?;
    }
    stage.stop(&producer)
}

/// An expression on properties selects among what is popped, and among what comes back.
fn selected(lab: &Lab) -> Outcome {
    let driver = lab.driver(Client::Java5)?;
    let settings = [("enablePropertyFilter", "true")];
    let cluster = Cluster::start(&lab.tools, lab.make, &lab.folder("pop-sql")?, &settings)?;
    let (topic, group, namesrv) = (lab.name("pop-sql"), lab.name("group"), &cluster.namesrv.addr);
    cluster.create_topic(&topic, 4)?;
    set_pop(&mut cluster.broker.conn()?, &topic, &group)?;
    let (producer, consumer) = (lab.name("producer"), lab.name("consumer"));
    let options = [("topic", topic.as_str()), ("pop", "60000"), ("later", "2"), ("sql", "price between 10 and 19")];
    start(driver, "consumer", namesrv, &consumer, &group, &options)?;
    start(driver, "producer", namesrv, &producer, "contract-producers", &[])?;
    let all: Vec<Msg> = (0..40).map(|n| Msg::new(&topic, format!("m-{n}")).with("p.price", n)).collect();
    driver.send(&producer, "sync", &all)?;
    driver.wait_events(&consumer, 10, DELIVERY)?;
    std::thread::sleep(Duration::from_millis(500));
    let got = driver.events(&consumer);
    driver.call("stop", &[("name", &consumer)])?;
    driver.call("stop", &[("name", &producer)])?;
    each_once(&got, (10..20).map(|n| format!("m-{n}")))?;
    ensure_eq!(got.iter().filter(|row| row.get("reconsume") == "1").count(), 2, "messages that came a second time");
    ensure!(revive_records(&mut cluster.broker.conn()?)? > 0, "nothing was popped");
    Ok(())
}

/// kill -9 while a consumer pops: nothing is lost, and only what was in its hands may come a second time.
fn killed(lab: &Lab) -> Outcome {
    const MESSAGES: usize = 600;
    let settings = [("mappedFileSizeCommitLog", "16777216")];
    let mut cluster = Cluster::start(&lab.tools, lab.make, &lab.folder("pop-kill")?, &settings)?;
    let (topic, group) = (lab.name("pop-kill"), lab.name("group"));
    cluster.create_topic(&topic, 4)?;
    set_pop(&mut cluster.broker.conn()?, &topic, &group)?;
    let driver = lab.driver(Client::Java5)?;
    let (producer, consumer) = (lab.name("producer"), lab.name("consumer"));
    start(driver, "producer", &cluster.namesrv.addr, &producer, "contract-producers", &[])?;
    driver.send(&producer, "sync", &messages(&topic, MESSAGES))?;
    start(driver, "consumer", &cluster.namesrv.addr, &consumer, &group, &[("topic", &topic), ("pop", "5000")])?;
    driver.wait_events(&consumer, 50, DELIVERY)?;
    cluster.broker.kill();
    let at_kill = bodies(&driver.events(&consumer)).len();
    cluster.broker.start(&lab.tools)?;
    wait_for(DELIVERY, "all messages", || Ok((bodies(&driver.events(&consumer)).len() == MESSAGES).then_some(())))?;
    // What was not acknowledged at the kill comes back when its 5 s are over.
    std::thread::sleep(Duration::from_secs(7));
    let got = bodies(&driver.events(&consumer));
    let twice = got.values().filter(|count| **count > 1).count();
    ensure!(got.values().all(|count| *count <= 2), "a message came more than twice: {got:?}");
    ensure!(twice <= MESSAGES / 2, "{twice} of {MESSAGES} messages came twice");
    lab.tell(&format!("broker killed after {at_kill} of {MESSAGES} popped messages: none lost, {twice} came twice"));
    driver.call("stop", &[("name", &consumer)])?;
    driver.call("stop", &[("name", &producer)])?;
    cluster.broker.stop()
}
