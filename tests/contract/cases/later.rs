//! Messages that come later: retries with their delays, dead letters, delay levels, timer messages, recall, and the
//! broker killed in between.

use crate::common::{ALL, DELIVERY, start};
use ferromq_contract::cluster::{Cluster, create_topic};
use ferromq_contract::driver::{Driver, Msg};
use ferromq_contract::runner::{Case, Client, Lab};
use ferromq_contract::server::{Broker, Make, Namesrv};
use ferromq_contract::wire::now_ms;
use ferromq_contract::{Outcome, ensure, ensure_eq, scale, wait_for};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for client in ALL {
        let label = client.label();
        all.push(Case::waiting(format!("later::{label}::retries_and_dead_letters"), move |lab| retries(lab, client)));
        all.push(Case::waiting(format!("later::{label}::retries_through_a_broker_kill"), move |lab| {
            retries_killed(lab, client)
        }));
        all.push(Case::alone(format!("later::{label}::delay_levels_and_timers"), move |lab| delays(lab, client)));
    }
    all.push(Case::alone("later::java5::recall", recall));
    all.push(Case::alone("later::raw::killed_with_many_pending", killed));
    all.push(Case::alone("later::raw::lateness", lateness));
    all.push(Case::alone("later::raw::pending_of_java_by_ours", |lab| handed_over(lab, Make::Java, Make::Ferro)));
    all.push(Case::alone("later::raw::pending_of_ours_by_java", |lab| handed_over(lab, Make::Ferro, Make::Java)));
    all
}

/// Levels 3 and 4, where retries begin, are short; the rest is not waited for.
const LEVELS: &str = "1s 2s 1s 1s 2s 2s 2s 2s 2s 2s 2s 2s 2s 2s 2s 2s 2s 2s";
const TOPIC: &str = "later";
/// How late a delivery may be, milliseconds.
const LATE: i64 = 5000;
/// Timers the broker is killed with.
const PENDING: u64 = 20_000;

fn cluster(lab: &Lab, client: Client, what: &str) -> Outcome<Cluster> {
    let settings = [
        ("messageDelayLevel", LEVELS),
        ("recallMessageEnable", "true"),
        ("mappedFileSizeCommitLog", "16777216"),
        ("maxIndexNum", "100000"),
        ("maxHashSlotNum", "20000"),
    ];
    let folder = lab.folder(&format!("later-{what}-{}", client.label()))?;
    let cluster = Cluster::start(&lab.tools, lab.make, &folder, &settings)?;
    cluster.create_topic(TOPIC, 1)?;
    Ok(cluster)
}

fn producer(driver: &Driver, lab: &Lab, cluster: &Cluster) -> Outcome<String> {
    let name = lab.name("later-producer");
    start(driver, "producer", &cluster.namesrv.addr, &name, "contract-producers", &[])?;
    Ok(name)
}

/// A listener that asks for a later try gets it, with the count and the topic it subscribed to; after the last try the
/// message is a dead letter that says where it came from. Others of the queue are not held up.
fn retries(lab: &Lab, client: Client) -> Outcome {
    let cluster = cluster(lab, client, "retries")?;
    let driver = lab.driver(client)?;
    let (patient, hopeless) = (lab.name("patient"), lab.name("hopeless"));
    for (group, fail) in [(&patient, "2"), (&hopeless, "100")] {
        let further = [("topic", TOPIC), ("fail", fail), ("maxreconsume", "2")];
        start(driver, "consumer", &cluster.namesrv.addr, group, group, &further)?;
    }
    let producer = producer(driver, lab, &cluster)?;
    let sent = driver.send(&producer, "sync", &[Msg::new(TOPIC, "again").with("tags", "a").with("keys", "k")])?;
    for group in [&patient, &hopeless] {
        driver.wait_events(group, 3, DELIVERY)?;
        let mut tries = Vec::new();
        for event in driver.events(group) {
            ensure_eq!((event.get("topic"), event.get("body")), (TOPIC, "again"), "what comes again");
            tries.push(event.num("reconsume")?);
        }
        ensure_eq!(tries, [0, 1, 2], "counts of the tries");
    }
    let mut conn = cluster.broker.conn()?;
    let dlq = format!("%DLQ%{hopeless}");
    let dead =
        wait_for(DELIVERY, "a dead letter", || Ok(conn.read_queue(&dlq, 0, 0).unwrap_or_default().into_iter().next()))?;
    ensure_eq!(dead.body, b"again".to_vec(), "the dead letter");
    ensure_eq!(dead.property("RETRY_TOPIC"), Some(TOPIC), "where it came from");
    if lab.make == Make::Ferro {
        ensure_eq!(dead.property("DLQ_ORIGIN_TOPIC"), Some(TOPIC), "the origin");
        ensure_eq!(dead.property("DLQ_ORIGIN_MESSAGE_ID"), Some(sent[0].get("id")), "the origin's id");
    }
    for name in [&patient, &hopeless, &producer] {
        driver.call("stop", &[("name", name)])?;
    }
    Ok(())
}

/// The broker is killed between the tries: each message comes until its second retry, and none is a dead letter.
fn retries_killed(lab: &Lab, client: Client) -> Outcome {
    const MESSAGES: usize = 20;
    let mut cluster = cluster(lab, client, "retries-kill")?;
    let driver = lab.driver(client)?;
    let group = lab.name("stubborn");
    let further = [("topic", TOPIC), ("fail", "2"), ("maxreconsume", "5")];
    start(driver, "consumer", &cluster.namesrv.addr, &group, &group, &further)?;
    let producer = producer(driver, lab, &cluster)?;
    let messages: Vec<Msg> = (0..MESSAGES).map(|n| Msg::new(TOPIC, n.to_string())).collect();
    driver.send(&producer, "sync", &messages)?;
    driver.wait_events(&group, MESSAGES, DELIVERY)?;
    cluster.broker.kill();
    cluster.broker.start(&lab.tools)?;
    wait_for(DELIVERY, "the second retry of each message", || {
        let rows = driver.events(&group);
        let last: BTreeSet<_> =
            rows.iter().filter(|row| row.get("reconsume") == "2").map(|row| row.get("body")).collect();
        Ok((last.len() == MESSAGES).then_some(()))
    })?;
    for name in [&group, &producer] {
        driver.call("stop", &[("name", name)])?;
    }
    let dead = cluster.broker.conn()?.read_queue(&format!("%DLQ%{group}"), 0, 0).unwrap_or_default();
    ensure_eq!(dead.len(), 0, "dead letters");
    Ok(())
}

/// Nothing comes early; a timer message comes within the precision of a second. How late is too late says a limit that a
/// busy machine keeps.
fn delays(lab: &Lab, client: Client) -> Outcome {
    let cluster = cluster(lab, client, "delays")?;
    let driver = lab.driver(client)?;
    let group = lab.name("delayed");
    start(driver, "consumer", &cluster.namesrv.addr, &group, &group, &[("topic", TOPIC)])?;
    let producer = producer(driver, lab, &cluster)?;
    // The consumer is known to run before delays are measured.
    driver.send(&producer, "sync", &[Msg::new(TOPIC, "0")])?;
    driver.wait_events(&group, 1, DELIVERY)?;
    let begun = now_ms();
    let messages = [
        Msg::new(TOPIC, "2000").with("s.DELAY", 2),
        Msg::new(TOPIC, "1000").with("s.DELAY", 1),
        Msg::new(TOPIC, "1500").with("s.TIMER_DELAY_MS", 1500),
        Msg::new(TOPIC, "3000").with("s.TIMER_DELAY_SEC", 3),
        Msg::new(TOPIC, "2500").with("s.TIMER_DELIVER_MS", begun + 2500),
    ];
    driver.send(&producer, "sync", &messages)?;
    let sent = now_ms() - begun;
    driver.wait_events(&group, 6, DELIVERY)?;
    for event in driver.events(&group).iter().skip(1) {
        let due = event.num("body")?;
        let came = event.num("at")? - begun;
        let precision = if event.get("p.TIMER_OUT_MS").is_empty() { 0 } else { 1000 };
        ensure!(came >= due, "{due} came early, after {came} ms");
        ensure!(came <= due + sent + precision + LATE, "{due} came late, after {came} ms");
    }
    for name in [&group, &producer] {
        driver.call("stop", &[("name", name)])?;
    }
    Ok(())
}

/// A timer message that its producer takes back never comes; the others of the same time do.
fn recall(lab: &Lab) -> Outcome {
    let cluster = cluster(lab, Client::Java5, "recall")?;
    let driver = lab.driver(Client::Java5)?;
    let group = lab.name("recalled");
    start(driver, "consumer", &cluster.namesrv.addr, &group, &group, &[("topic", TOPIC)])?;
    let producer = producer(driver, lab, &cluster)?;
    let at = now_ms() + 3000;
    let messages: Vec<_> = (0..4).map(|n| Msg::new(TOPIC, n.to_string()).with("s.TIMER_DELIVER_MS", at)).collect();
    let sent = driver.send(&producer, "sync", &messages)?;
    for row in &sent[..2] {
        let handle = row.get("recall");
        ensure!(!handle.is_empty(), "no recall handle in {row:?}");
        let answer = driver.call("recall", &[("name", &producer), ("topic", TOPIC), ("handle", handle)])?;
        ensure_eq!(answer[0].get("id"), row.get("id"), "the message taken back");
    }
    driver.wait_events(&group, 2, DELIVERY)?;
    std::thread::sleep(Duration::from_millis(1500));
    let came: BTreeSet<_> = driver.events(&group).iter().map(|event| event.get("body").to_owned()).collect();
    ensure_eq!(came, BTreeSet::from(["2".to_owned(), "3".to_owned()]), "what came");
    for name in [&group, &producer] {
        driver.call("stop", &[("name", name)])?;
    }
    Ok(())
}

/// kill -9 with many timers pending, some due while the broker is away: all come, soon after both their time and the restart,
/// and none twice.
fn killed(lab: &Lab) -> Outcome {
    let pending = scale("FERROMQ_PENDING", PENDING) as usize;
    let folder = lab.folder("later-killed")?;
    let namesrv = Namesrv::start(&lab.tools, lab.make, &folder.join("namesrv"))?;
    let mut broker = Broker::new(lab.make, &folder.join("broker"), "broker-a", &namesrv.addr)
        .set("mappedFileSizeCommitLog", 64 << 20)
        .set("maxIndexNum", 1_000_000)
        .set("maxHashSlotNum", 200_000);
    broker.start(&lab.tools)?;
    create_topic(&broker.addr(), &namesrv.addr, TOPIC, 1)?;
    let mut conn = broker.conn()?;
    // Hardly any is due before all are sent.
    let first = 2000 + pending as i64 / 20;
    for n in 0..pending {
        let due = now_ms() + first + (n % 8) as i64 * 1000;
        conn.send(TOPIC, 0, &format!("TIMER_DELIVER_MS\u{1}{due}\u{2}"), format!("{n}:{due}").as_bytes())?;
    }
    drop(conn);
    let sent = Instant::now();
    std::thread::sleep(Duration::from_millis(1500));
    broker.kill();
    std::thread::sleep(Duration::from_millis(1500));
    broker.start(&lab.tools)?;
    let up = now_ms();
    let mut conn = broker.conn()?;
    let mut got = Vec::new();
    let mut seen = BTreeSet::new();
    wait_for(Duration::from_secs(60), "all timers", || {
        for message in conn.read_queue(TOPIC, 0, got.len() as i64)? {
            seen.insert(message.body.clone());
            got.push(message);
        }
        Ok((seen.len() >= pending).then_some(()))
    })?;
    let took = sent.elapsed();
    let mut latest = 0;
    let mut before = BTreeSet::new();
    let mut twice = 0;
    for message in &got {
        let text = String::from_utf8_lossy(&message.body).into_owned();
        let due: i64 = text.split(':').nth(1).and_then(|due| due.parse().ok()).unwrap_or(0);
        let excused = if message.store_timestamp < up { due } else { due.max(up) };
        latest = latest.max(message.store_timestamp - excused);
        if message.store_timestamp < up {
            ensure!(before.insert(text), "a timer was delivered twice without a crash between");
        } else {
            twice += usize::from(before.contains(&text));
        }
    }
    ensure_eq!(got.len(), pending + twice, "deliveries, those that the crash repeats included");
    lab.row(
        "kill -9 with timers pending",
        format!("{pending} timers, {} delivered before the kill, {twice} of them again", before.len()),
        format!("all {} ms after the last send, late by at most {latest} ms", took.as_millis()),
    );
    ensure!(latest <= LATE, "a message was late by {latest} ms");
    Ok(())
}

/// How late deliveries are at 5,000 a second: 1 s by a delay level, and by a timer to the millisecond.
fn lateness(lab: &Lab) -> Outcome {
    const RATE: u64 = 5000;
    const SECONDS: u64 = 3;
    let folder = lab.folder("later-lateness")?;
    let namesrv = Namesrv::start(&lab.tools, lab.make, &folder.join("namesrv"))?;
    let mut broker = Broker::new(lab.make, &folder.join("broker"), "broker-a", &namesrv.addr)
        .set("mappedFileSizeCommitLog", 64 << 20)
        .set("maxIndexNum", 1_000_000)
        .set("maxHashSlotNum", 200_000)
        .set("timerPrecisionMs", if lab.make == Make::Ferro { 1 } else { 100 });
    broker.start(&lab.tools)?;
    for (what, property) in [("level", "DELAY\u{1}1\u{2}"), ("timer", "TIMER_DELAY_MS\u{1}1000\u{2}")] {
        create_topic(&broker.addr(), &namesrv.addr, what, 1)?;
        let mut conn = broker.conn()?;
        let begun = Instant::now();
        for n in 0..RATE * SECONDS {
            let at = Duration::from_micros(n * 1_000_000 / RATE);
            std::thread::sleep(at.saturating_sub(begun.elapsed()));
            conn.send(what, 0, property, now_ms().to_string().as_bytes())?;
        }
        let took = begun.elapsed();
        let mut late = Vec::new();
        wait_for(Duration::from_secs(30), "all delayed messages", || {
            for message in conn.read_queue(what, 0, late.len() as i64)? {
                let sent: i64 = String::from_utf8_lossy(&message.body).parse().unwrap_or(0);
                late.push(message.store_timestamp - sent - 1000);
            }
            Ok((late.len() as u64 >= RATE * SECONDS).then_some(()))
        })?;
        late.sort_unstable();
        let at = |share: f64| late[((late.len() - 1) as f64 * share) as usize];
        let rate = late.len() as f64 / took.as_secs_f64();
        lab.tell(&format!(
            "{what}, {rate:.0}/s, 1 s: late by {} ms (p50), {} ms (p99), {} ms (max)",
            at(0.5),
            at(0.99),
            at(1.0)
        ));
        ensure!(late[0] >= 0, "a message came {} ms early", -late[0]);
        ensure!(at(0.5) <= 1000, "half of the messages came more than a second late");
    }
    Ok(())
}

/// What waits in a stopped store of one make is delivered by the other, at its time; what was delivered already does not
/// come again from ours. (RocketMQ reads the timer topic anew from the first pending message, so it may.)
fn handed_over(lab: &Lab, first: Make, second: Make) -> Outcome {
    const EACH: usize = 20;
    let folder = lab.folder("later-handed-over")?;
    let namesrv = Namesrv::start(&lab.tools, lab.make, &folder.join("namesrv"))?;
    let mut broker = Broker::new(first, &folder.join("broker"), "broker-a", &namesrv.addr)
        .set("messageDelayLevel", "1s 18s")
        .set("mappedFileSizeCommitLog", 8 << 20)
        .set("maxIndexNum", 100_000)
        .set("maxHashSlotNum", 20_000);
    broker.start(&lab.tools)?;
    create_topic(&broker.addr(), &namesrv.addr, TOPIC, 1)?;
    let mut conn = broker.conn()?;
    for n in 0..EACH {
        let now = now_ms();
        for (delay, property) in [
            (1000, "DELAY\u{1}1\u{2}".to_owned()),
            (18_000, "DELAY\u{1}2\u{2}".to_owned()),
            (1000, format!("TIMER_DELIVER_MS\u{1}{}\u{2}", now + 1000)),
            (18_000, format!("TIMER_DELIVER_MS\u{1}{}\u{2}", now + 18_000)),
        ] {
            let kind = &property[..5];
            conn.send(TOPIC, 0, &property, format!("{kind} {n}:{}", now + delay).as_bytes())?;
        }
    }
    wait_for(Duration::from_secs(10), "what is due soon", || {
        Ok((conn.read_queue(TOPIC, 0, 0)?.len() >= 2 * EACH).then_some(()))
    })?;
    drop(conn);
    broker.stop()?;
    broker.make = second;
    broker.start(&lab.tools)?;
    let up = now_ms();
    let mut conn = broker.conn()?;
    let mut seen = BTreeSet::new();
    let got = wait_for(Duration::from_secs(40), "what waited", || {
        let got = conn.read_queue(TOPIC, 0, 0)?;
        seen = got.iter().map(|message| String::from_utf8_lossy(&message.body).into_owned()).collect();
        Ok((seen.len() >= 4 * EACH).then_some(got))
    })?;
    for message in got.iter().skip(2 * EACH) {
        let text = String::from_utf8_lossy(&message.body);
        let due: i64 = text.split(':').nth(1).and_then(|due| due.parse().ok()).unwrap_or(0);
        ensure!(message.store_timestamp >= due, "'{text}' came {} ms early", due - message.store_timestamp);
        let late = message.store_timestamp - due.max(up);
        ensure!(late <= LATE || second == Make::Java, "'{text}' came {late} ms late");
    }
    if second == Make::Ferro {
        std::thread::sleep(Duration::from_millis(500));
        ensure_eq!(conn.read_queue(TOPIC, 0, 0)?.len(), 4 * EACH, "deliveries");
    }
    broker.stop()
}
