//! Push consumers: sharing, tags, two groups, and members that come and go.

use crate::common::{ALL, DELIVERY, Stage, bodies, each_once, numbered, start};
use ferromq_contract::cluster::Cluster;
use ferromq_contract::driver::Msg;
use ferromq_contract::flood::{Message, Width, flood};
use ferromq_contract::owners::Owners;
use ferromq_contract::runner::{Case, Client, Lab};
use ferromq_contract::wire::{Conn, code};
use ferromq_contract::{Outcome, ensure, ensure_eq, wait_for};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// GET_HAS_UNIT_SUB_TOPIC_LIST of a NameServer.
const GET_HAS_UNIT_SUB_TOPIC_LIST: i32 = 312;
const INVOKE_BROKER_TO_RESET_OFFSET: i32 = 222;
const INVOKE_BROKER_TO_GET_CONSUMER_STATUS: i32 = 223;
const CLONE_GROUP_OFFSET: i32 = 314;

pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for client in ALL {
        let label = client.label();
        all.push(Case::shared(format!("consume::{label}::concurrently"), move |lab| concurrently(lab, client)));
        all.push(Case::shared(format!("consume::{label}::tags"), move |lab| tags(lab, client)));
        all.push(Case::shared(format!("consume::{label}::two_groups"), move |lab| two_groups(lab, client)));
        all.push(Case::shared(format!("consume::{label}::members_join_and_leave"), move |lab| {
            join_and_leave(lab, client)
        }));
    }
    for client in ALL {
        all.push(Case::waiting(format!("consume::{}::in_a_namespace", client.label()), move |lab| {
            namespace(lab, client)
        }));
    }
    for client in [Client::Java4, Client::Go] {
        let label = client.label();
        all.push(Case::waiting(format!("consume::{label}::goes_back_and_skips"), move |lab| back_and_on(lab, client)));
    }
    all.push(Case::waiting("consume::consumers_go_back_when_they_are_told", told_to_go_back));
    all.push(Case::alone("consume::java5::eight_members_are_eight_times_as_fast", eight));
    all.push(Case::shared("consume::raw::tags_are_filtered_at_the_broker", filtered_at_the_broker));
    all
}

fn messages(topic: &str, prefix: &str, count: usize) -> Vec<Msg> {
    numbered(prefix, count).into_iter().map(|body| Msg::new(topic, body)).collect()
}

/// What was there before the group and what comes later, each once.
fn concurrently(lab: &Lab, client: Client) -> Outcome {
    let stage = Stage::new(lab, client, "concurrent", 4)?;
    let producer = stage.producer(&[])?;
    stage.driver.send(&producer, "sync", &messages(&stage.topic, "before", 50))?;
    let consumer = stage.consumer(&stage.name("group"), &[])?;
    stage.driver.wait_events(&consumer, 50, DELIVERY)?;
    stage.driver.send(&producer, "sync", &messages(&stage.topic, "after", 50))?;
    stage.driver.wait_events(&consumer, 100, DELIVERY)?;
    std::thread::sleep(Duration::from_millis(500));
    let got = stage.driver.events(&consumer);
    stage.stop(&consumer)?;
    stage.stop(&producer)?;
    each_once(&got, numbered("before", 50).into_iter().chain(numbered("after", 50)))
}

/// One tag, two tags, all tags; "Aa" and "BB" have the same hash, which the client sorts out.
fn tags(lab: &Lab, client: Client) -> Outcome {
    let stage = Stage::new(lab, client, "tags", 4)?;
    let expressions: [(&str, &[&str]); 4] =
        [("A || B", &["A", "B"]), ("C", &["C"]), ("*", &["A", "B", "C", "Aa", "BB", ""]), ("Aa", &["Aa"])];
    let mut consumers = Vec::new();
    for (expression, _) in expressions {
        consumers.push(stage.consumer(&stage.name("group"), &[("expression", expression)])?);
    }
    let producer = stage.producer(&[])?;
    let mut all = Vec::new();
    for tag in ["A", "B", "C", "Aa", "BB", ""] {
        for i in 0..8 {
            let message = Msg::new(&stage.topic, format!("{tag}-{i}"));
            all.push(if tag.is_empty() { message } else { message.with("tags", tag) });
        }
    }
    stage.driver.send(&producer, "sync", &all)?;
    for ((_, expected), consumer) in expressions.iter().zip(&consumers) {
        stage.driver.wait_events(consumer, expected.len() * 8, DELIVERY)?;
    }
    std::thread::sleep(Duration::from_millis(500));
    for ((expression, expected), consumer) in expressions.iter().zip(&consumers) {
        let wanted = expected.iter().flat_map(|tag| numbered(tag, 8));
        ferromq_contract::While::doing(
            each_once(&stage.driver.events(consumer), wanted),
            format!("expression '{expression}'"),
        )?;
        stage.stop(consumer)?;
    }
    stage.stop(&producer)
}

/// What crosses the wire: only records whose tag's hash fits.
fn filtered_at_the_broker(lab: &Lab) -> Outcome {
    let cluster = lab.cluster()?;
    let topic = lab.name("filter");
    cluster.create_topic(&topic, 1)?;
    let mut conn = cluster.broker.conn()?;
    for tag in ["A", "B", "Aa", "BB", "C", "A"] {
        conn.send(&topic, 0, &format!("TAGS\u{1}{tag}\u{2}"), tag.as_bytes())?;
    }
    conn.send(&topic, 0, "", b"none")?;
    wait_for(DELIVERY, "seven messages in the queue", || {
        Ok((conn.bound(code::GET_MAX_OFFSET, &topic, 0)? == 7).then_some(()))
    })?;
    let expectations: [(&str, &[&str]); 5] = [
        ("A", &["A", "A"]),
        ("A||C", &["A", "C", "A"]),
        ("Aa", &["Aa", "BB"]),
        ("*", &["A", "B", "Aa", "BB", "C", "A", "none"]),
        ("nothing", &[]),
    ];
    for (expression, expected) in expectations {
        let mut fields = ferromq_contract::wire::pull_fields(&topic, "0", "0", "32").to_vec();
        fields.retain(|(key, _)| *key != "subscription");
        fields.push(("subscription", expression));
        let answer = conn.call(code::PULL_MESSAGE, &fields, &[])?;
        let got = ferromq_contract::record::decode_all(&answer.body)?;
        let got: Vec<String> = got.iter().map(|r| String::from_utf8_lossy(&r.body).into_owned()).collect();
        ensure_eq!(got, expected.to_vec(), "records sent for '{expression}'");
        ensure_eq!(answer.code, if expected.is_empty() { 20 } else { 0 }, "code for '{expression}'");
        ensure_eq!(answer.num("nextBeginOffset")?, 7, "next offset for '{expression}'");
    }
    Ok(())
}

fn two_groups(lab: &Lab, client: Client) -> Outcome {
    let stage = Stage::new(lab, client, "groups", 4)?;
    let first = stage.consumer(&stage.name("group"), &[])?;
    let second = stage.consumer(&stage.name("group"), &[("mode", "orderly")])?;
    let producer = stage.producer(&[])?;
    stage.driver.send(&producer, "sync", &messages(&stage.topic, "m", 60))?;
    for consumer in [&first, &second] {
        stage.driver.wait_events(consumer, 60, DELIVERY)?;
    }
    std::thread::sleep(Duration::from_millis(300));
    for consumer in [&first, &second] {
        each_once(&stage.driver.events(consumer), numbered("m", 60))?;
        stage.stop(consumer)?;
    }
    stage.stop(&producer)
}

/// A second member takes half of the queues within seconds of its start, and the first one gets them back within seconds
/// of its end: the broker says so, nobody waits for the 20 s timer of the clients.
fn join_and_leave(lab: &Lab, client: Client) -> Outcome {
    const QUEUES: usize = 8;
    const SECONDS: u64 = 10;
    let stage = Stage::new(lab, client, "rebalance", QUEUES as u32)?;
    let group = stage.name("group");
    let producer = stage.producer(&[])?;
    let mut sent = 0;
    let mut round = |members: &[&String]| -> Outcome<Vec<usize>> {
        // One message to each queue by round robin; who got them shows who owns what.
        let before: Vec<usize> = members.iter().map(|m| stage.driver.count(m)).collect();
        let burst: Vec<Msg> = (0..QUEUES).map(|i| Msg::new(&stage.topic, format!("m-{}", sent + i))).collect();
        stage.driver.send(&producer, "sync", &burst)?;
        sent += QUEUES;
        std::thread::sleep(Duration::from_millis(400));
        Ok(members
            .iter()
            .zip(before)
            .map(|(member, before)| {
                let events = stage.driver.events(member);
                events[before..].iter().map(|r| r.get("queue").to_owned()).collect::<BTreeSet<_>>().len()
            })
            .collect())
    };
    let first = stage.consumer(&group, &[])?;
    wait_for(DELIVERY, "the only member owns all queues", || Ok((round(&[&first])? == [QUEUES]).then_some(())))?;
    // A client that drops a heartbeat at its start (see DELIVERY) says nothing about the server: it may try again.
    let mut members = vec![first];
    let mut took = (Duration::MAX, Duration::MAX);
    for _ in 0..3 {
        let second = stage.consumer(&group, &[])?;
        let joined = Instant::now();
        let halves = [QUEUES / 2, QUEUES / 2];
        wait_for(DELIVERY, "two members own half each", || {
            Ok((round(&[&members[0], &second])? == halves).then_some(()))
        })?;
        took.0 = joined.elapsed();
        stage.stop(&second)?;
        let left = Instant::now();
        wait_for(DELIVERY, "the remaining member owns all queues", || {
            Ok((round(&[&members[0]])? == [QUEUES]).then_some(()))
        })?;
        took.1 = left.elapsed();
        members.push(second);
        if took.0.max(took.1) < Duration::from_secs(SECONDS) {
            break;
        }
    }
    wait_for(DELIVERY, "all messages", || {
        let all: Vec<_> = members.iter().flat_map(|member| stage.driver.events(member)).collect();
        Ok((bodies(&all).len() == sent).then_some(()))
    })?;
    stage.stop(&members[0])?;
    stage.stop(&producer)?;
    ensure!(took.0 < Duration::from_secs(SECONDS), "the new member had its share after {:?} only", took.0);
    ensure!(took.1 < Duration::from_secs(SECONDS), "the leaving member's queues were idle for {:?}", took.1);
    Ok(())
}

/// A namespace is a part of names at the broker and none at the clients; retries, compressed bodies and the unit flag
/// pass through it.
fn namespace(lab: &Lab, client: Client) -> Outcome {
    const SPACE: &str = "space";
    let driver = lab.driver(client)?;
    let settings = [("messageDelayLevel", "1s 1s 1s 1s 1s 1s 1s 1s 1s 1s 1s 1s 1s 1s 1s 1s 1s 1s")];
    let cluster = Cluster::start(&lab.tools, lab.make, &lab.folder("namespace")?, &settings)?;
    let (topic, group, namesrv) = (lab.name("topic"), lab.name("group"), &cluster.namesrv.addr);
    cluster.create_topic(&format!("{SPACE}%{topic}"), 1)?;
    let (producer, consumer) = (lab.name("producer"), lab.name("consumer"));
    let options = [("topic", topic.as_str()), ("namespace", SPACE), ("fail", "1"), ("unit", "true")];
    start(driver, "consumer", namesrv, &consumer, &group, &options)?;
    let options = [("namespace", SPACE), ("compressover", "1000")];
    start(driver, "producer", namesrv, &producer, "contract-producers", &options)?;
    driver.send(&producer, "sync", &[Msg::filled(&topic, 5000, 7)])?;
    let got = driver.wait_events(&consumer, 2, DELIVERY)?;
    // The Go client shows its listener the name at the broker.
    let shown = if client == Client::Go { format!("{SPACE}%{topic}") } else { topic.clone() };
    for (count, row) in got.iter().enumerate() {
        ensure_eq!(row.get("topic"), shown, "topic at the client");
        ensure_eq!((row.get("len"), row.num("reconsume")?), ("5000", count as i64), "length and tries");
    }
    driver.call("stop", &[("name", &consumer)])?;
    driver.call("stop", &[("name", &producer)])?;
    let mut conn = cluster.broker.conn()?;
    let stored = conn.read_queue(&format!("{SPACE}%{topic}"), 0, 0)?;
    ensure!(stored.len() == 1 && stored[0].body.len() < 5000, "the stored body is not compressed");
    ensure_eq!(conn.read_queue(&format!("%RETRY%{SPACE}%{group}"), 0, 0)?.len(), 1, "messages in the retry topic");
    if client != Client::Go {
        let units = Conn::open(namesrv)?.call(GET_HAS_UNIT_SUB_TOPIC_LIST, &[], &[])?.ok()?;
        let units = String::from_utf8_lossy(&units.body).into_owned();
        ensure!(units.contains(&format!("%RETRY%{SPACE}%{group}")), "topics subscribed to by units: {units}");
    }
    Ok(())
}

/// Seven further members join one whose listener takes its time: each gets a queue, and together they are as fast as they are
/// many. On a machine that is busy with something else eight times may be less.
fn eight(lab: &Lab) -> Outcome {
    const MEMBERS: usize = 8;
    const WINDOW: Duration = Duration::from_secs(6);
    const PAUSE_MS: &str = "5";
    /// So many that no queue is empty before the last member has joined on a slow machine.
    const MESSAGES: usize = 80_000;
    let driver = lab.driver(Client::Java5)?;
    let cluster = Cluster::start(&lab.tools, lab.make, &lab.folder("eight")?, &[])?;
    let (topic, group, namesrv) = (lab.name("eight"), lab.name("group"), &cluster.namesrv.addr);
    cluster.create_topic(&topic, MEMBERS as u32)?;
    flood(&cluster.broker.addr(), Width { connections: 1, under_way: 100 }, 0..MESSAGES, |number| Message {
        topic: topic.clone(),
        queue: (number % MEMBERS) as i32,
        properties: String::new(),
        body: b"work".to_vec(),
    })?;
    let mut members: Vec<String> = Vec::new();
    let join = |members: &mut Vec<String>| -> Outcome {
        let name = lab.name("member");
        let options = [("topic", topic.as_str()), ("threads", "1"), ("pause", PAUSE_MS), ("brief", "true")];
        start(driver, "consumer", namesrv, &name, &group, &options)?;
        members.push(name);
        Ok(())
    };
    let received = |members: &[String]| members.iter().map(|name| driver.count(name)).sum::<usize>();
    let rate = |members: &[String]| {
        let (before, begun) = (received(members), Instant::now());
        std::thread::sleep(WINDOW);
        (received(members) - before) as f64 / begun.elapsed().as_secs_f64()
    };
    join(&mut members)?;
    driver.wait_events(&members[0], 100, DELIVERY)?;
    let alone = rate(&members);
    let joined = Instant::now();
    while members.len() < MEMBERS {
        join(&mut members)?;
    }
    wait_for(DELIVERY, "a queue for each member", || {
        let owners = Owners::ask(members.iter().map(|name| (driver, name)), &topic)?;
        Ok(owners.even(MEMBERS as i32).then_some(()))
    })?;
    let owned = joined.elapsed();
    wait_for(DELIVERY, "messages at each member", || {
        Ok(members.iter().all(|name| driver.count(name) >= 20).then_some(()))
    })?;
    let together = rate(&members);
    for name in &members {
        driver.call("stop", &[("name", name)])?;
    }
    lab.tell(&format!(
        "1 to {MEMBERS} members with a {PAUSE_MS} ms listener: {alone:.0}/s to {together:.0}/s, {:.1} times; all had a queue after {:.1} s",
        together / alone,
        owned.as_secs_f64()
    ));
    ensure!(together >= 4.0 * alone, "{MEMBERS} members take {together:.0}/s, one alone {alone:.0}/s");
    Ok(())
}

/// Sets a group's offsets by time; -1 is the end.
fn reset(conn: &mut Conn, topic: &str, group: &str, timestamp: &str) -> Outcome<ferromq_contract::wire::Answer> {
    let fields = [("topic", topic), ("group", group), ("timestamp", timestamp), ("isForce", "true"), ("queueId", "-1")];
    conn.call(INVOKE_BROKER_TO_RESET_OFFSET, &fields, &[])
}

/// The broker sends a connected consumer back, and lets one that is away skip what has piled up; another group begins where
/// this one is.
fn back_and_on(lab: &Lab, client: Client) -> Outcome {
    let stage = Stage::new(lab, client, "reset", 1)?;
    let (topic, group, clone) = (&stage.topic, stage.name("group"), stage.name("clone"));
    let mut conn = stage.cluster.broker.conn()?;
    let producer = stage.producer(&[])?;
    let consumer = stage.consumer(&group, &[("from", "FIRST_OFFSET")])?;
    stage.driver.send(&producer, "sync", &messages(topic, "old", 8))?;
    stage.driver.wait_events(&consumer, 8, DELIVERY)?;
    reset(&mut conn, topic, &group, "0")?.ok()?;
    let twice = stage.driver.wait_events(&consumer, 16, DELIVERY)?;
    ensure_eq!(bodies(&twice).len(), 8, "different messages after the reset");
    stage.stop(&consumer)?;
    stage.driver.send(&producer, "sync", &messages(topic, "skipped", 8))?;
    reset(&mut conn, topic, &group, "-1")?.ok()?;
    conn.call(code::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, &[], format!(r#"{{"groupName":"{clone}"}}"#).as_bytes())?
        .ok()?;
    let fields =
        [("srcGroup", group.as_str()), ("destGroup", clone.as_str()), ("topic", topic.as_str()), ("offline", "true")];
    conn.call(CLONE_GROUP_OFFSET, &fields, &[])?.ok()?;
    let members = [stage.consumer(&group, &[])?, stage.consumer(&clone, &[("from", "FIRST_OFFSET")])?];
    stage.driver.send(&producer, "sync", &messages(topic, "new", 8))?;
    for member in &members {
        stage.driver.wait_events(member, 8, DELIVERY)?;
        each_once(&stage.driver.events(member), numbered("new", 8))?;
        stage.stop(member)?;
    }
    stage.stop(&producer)
}

/// Without resets at the broker's side (`useServerSideResetOffset`) it tells the connected consumers (220), and asks them
/// where they are (221).
fn told_to_go_back(lab: &Lab) -> Outcome {
    let settings = [("useServerSideResetOffset", "false")];
    let cluster = Cluster::start(&lab.tools, lab.make, &lab.folder("told")?, &settings)?;
    let mut conn = cluster.broker.conn()?;
    let mut members = Vec::new();
    for client in [Client::Java4, Client::Go] {
        let driver = lab.driver(client)?;
        let (topic, group, name) = (lab.name("told"), lab.name("group"), lab.name("consumer"));
        cluster.create_topic(&topic, 1)?;
        for body in numbered("m", 8) {
            conn.send(&topic, 0, "", body.as_bytes())?;
        }
        let options = [("topic", topic.as_str()), ("from", "FIRST_OFFSET")];
        start(driver, "consumer", &cluster.namesrv.addr, &name, &group, &options)?;
        driver.wait_events(&name, 8, DELIVERY)?;
        members.push((client, driver, topic, group, name));
    }
    for (_, _, topic, group, _) in &members {
        // Only a group with an offset can be sent back.
        wait_for(DELIVERY, "a committed offset", || {
            let fields = [("topic", topic.as_str()), ("consumerGroup", group.as_str()), ("queueId", "0")];
            let answer = conn.call(code::QUERY_CONSUMER_OFFSET, &fields, &[])?;
            Ok((answer.fields.get("offset").map(String::as_str) == Some("8")).then_some(()))
        })?;
        reset(&mut conn, topic, group, "0")?.ok()?;
    }
    for (client, driver, topic, group, name) in &members {
        let twice = driver.wait_events(name, 16, DELIVERY)?;
        ensure_eq!(bodies(&twice).len(), 8, "different messages at {}", client.label());
        if *client == Client::Java4 {
            let status = conn.call(INVOKE_BROKER_TO_GET_CONSUMER_STATUS, &[("topic", topic), ("group", group)], &[])?;
            let text = String::from_utf8_lossy(&status.ok()?.body).into_owned();
            ensure!(text.contains(topic.as_str()), "the consumer tells no offset of its queue: {text}");
        }
        driver.call("stop", &[("name", name)])?;
    }
    Ok(())
}
