//! The number of a topic's queues is changed by mqadmin while producers and consumers run: none of them is started anew,
//! nothing is lost.

use crate::common::{DELIVERY, start};
use ferromq_contract::cluster::{Cluster, wait_route};
use ferromq_contract::driver::{Driver, Msg, Place, Row};
use ferromq_contract::owners::{Owners, committed};
use ferromq_contract::runner::{Case, Client, Lab};
use ferromq_contract::wire::Conn;
use ferromq_contract::{Outcome, ensure, ensure_eq, wait_for};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

pub fn cases() -> Vec<Case> {
    vec![
        Case::waiting("queues::java5::more_and_fewer_under_load", |lab| change(lab, Client::Java5)),
        Case::waiting("queues::go::more_under_load", |lab| change(lab, Client::Go)),
        Case::waiting("queues::java5::a_topic_of_1024", |lab| many(lab, Client::Java5)),
        Case::waiting("queues::go::a_topic_of_1024", |lab| many(lab, Client::Go)),
    ]
}

/// More than there are queues at first.
const MEMBERS: usize = 4;
/// Messages of one burst.
const BURST: usize = 16;

/// A topic, a producer of it, and a group of consumers, all running.
struct Running<'a> {
    driver: &'a Driver,
    conn: Conn,
    topic: String,
    group: String,
    producer: String,
    consumers: Vec<String>,
    sent: usize,
    /// Where the acknowledged messages are.
    acked: BTreeSet<Place>,
}

impl Running<'_> {
    /// Sends a burst while `meanwhile` happens; which queues its messages went to.
    fn burst_while(&mut self, meanwhile: impl FnOnce() -> Outcome) -> Outcome<BTreeSet<i32>> {
        let messages: Vec<Msg> =
            (self.sent..self.sent + BURST).map(|n| Msg::new(&self.topic, format!("m-{n}"))).collect();
        self.sent += BURST;
        let options = [("name", self.producer.as_str()), ("mode", "sync"), ("pace", "5")];
        let sending = self.driver.begin("send", &options, &messages)?;
        meanwhile()?;
        let rows = sending.rows()?;
        ensure_eq!(rows.len(), BURST, "answers to a burst");
        let mut queues = BTreeSet::new();
        for row in &rows {
            ensure_eq!(row.get("status"), "SEND_OK", "status of {row:?}");
            let at = row.place()?;
            queues.insert(at.0);
            self.acked.insert(at);
        }
        Ok(queues)
    }

    fn burst(&mut self) -> Outcome<BTreeSet<i32>> {
        self.burst_while(|| Ok(()))
    }

    /// Sends on until the members share so many queues evenly.
    fn share_out(&mut self, queues: i32) -> Outcome {
        wait_for(DELIVERY, format!("{MEMBERS} members share {queues} queues"), || {
            self.burst()?;
            let owners = Owners::ask(self.consumers.iter().map(|name| (self.driver, name)), &self.topic)?;
            Ok(owners.even(queues).then_some(()))
        })
    }

    /// Sends on until a burst goes to all of so many queues and to no other.
    fn spread(&mut self, queues: i32) -> Outcome {
        wait_for(DELIVERY, format!("a producer uses {queues} queues"), || {
            Ok(self.burst()?.into_iter().eq(0..queues).then_some(()))
        })
    }

    /// How often each message was consumed.
    fn consumed(&self) -> Outcome<BTreeMap<Place, usize>> {
        let mut consumed = BTreeMap::new();
        for row in self.consumers.iter().flat_map(|name| self.driver.events(name)) {
            *consumed.entry(row.place()?).or_insert(0) += 1;
        }
        Ok(consumed)
    }

    /// Waits until all that was acknowledged is consumed, and that is committed: whoever takes a queue over begins behind it.
    fn catch_up(&mut self) -> Outcome {
        wait_for(DELIVERY, "all messages are consumed", || {
            let consumed = self.consumed()?;
            Ok(self.acked.iter().all(|at| consumed.contains_key(at)).then_some(()))
        })?;
        let ends: BTreeMap<i32, i64> = self.acked.iter().copied().collect();
        let queues = ends.keys().last().map_or(0, |queue| queue + 1);
        wait_for(DELIVERY, "all queues are committed up to their ends", || {
            let committed = committed(&mut self.conn, &self.group, &self.topic, queues)?;
            Ok(ends.iter().all(|(queue, last)| committed[*queue as usize] > *last).then_some(()))
        })
    }

    /// While nothing changes, each message is consumed once.
    fn each_once(&mut self) -> Outcome {
        self.catch_up()?;
        let before = self.acked.clone();
        for _ in 0..5 {
            self.burst()?;
        }
        self.catch_up()?;
        let consumed = self.consumed()?;
        let twice: Vec<_> = self.acked.difference(&before).filter(|at| consumed[*at] != 1).collect();
        ensure!(twice.is_empty(), "consumed more than once although nothing changed (queue, offset): {twice:?}");
        Ok(())
    }
}

/// Two queues become eight: the producer uses them, and all four members get two, of which two had none before. Then, with
/// Java's client, the queues written become four, and when the others are empty, the queues read as well. Java's client
/// asks for the route every second here, Go's every 30 s; both share out by a timer of 20 s.
fn change(lab: &Lab, client: Client) -> Outcome {
    let (driver, cluster) = (lab.driver(client)?, lab.cluster()?);
    let (topic, group, producer) = (lab.name("queues"), lab.name("group"), lab.name("producer"));
    let namesrv = &cluster.namesrv.addr;
    cluster.create_topic(&topic, 2)?;
    let consumers: Vec<String> = (0..MEMBERS).map(|_| lab.name("consumer")).collect();
    for name in &consumers {
        let options = [("topic", topic.as_str()), ("brief", "true"), ("poll", "1000")];
        start(driver, "consumer", namesrv, name, &group, &options)?;
    }
    start(driver, "producer", namesrv, &producer, "contract-producers", &[("poll", "1000")])?;
    let conn = cluster.broker.conn()?;
    let (sent, acked) = (0, BTreeSet::new());
    let mut running = Running { driver, conn, topic, group, producer, consumers, sent, acked };
    let topic = running.topic.clone();
    let set = |read: u32, write: u32| -> Outcome {
        let command = format!("updateTopic -c DefaultCluster -t {topic} -r {read} -w {write}");
        let printed = lab.mqadmin(namesrv, &command)?;
        ensure!(printed.contains("success"), "mqadmin {command}:\n{printed}");
        Ok(())
    };
    running.share_out(2)?;
    running.each_once()?;

    let begun = Instant::now();
    running.burst_while(|| set(8, 8))?;
    running.spread(8)?;
    let used = begun.elapsed();
    running.share_out(8)?;
    let shared = begun.elapsed();
    running.each_once()?;
    lab.tell(&format!(
        "{}: 2 queues become 8: a producer uses them after {:.1} s, {MEMBERS} consumers share them after {:.1} s",
        client.label(),
        used.as_secs_f64(),
        shared.as_secs_f64()
    ));

    if client == Client::Java5 {
        let begun = Instant::now();
        running.burst_while(|| set(8, 4))?;
        running.spread(4)?;
        running.catch_up()?;
        running.burst_while(|| set(4, 4))?;
        running.share_out(4)?;
        running.each_once()?;
        lab.tell(&format!("8 queues become 4 after {:.1} s", begun.elapsed().as_secs_f64()));
    }
    let known: BTreeSet<Place> = running.consumed()?.into_keys().collect();
    let foreign: Vec<_> = known.difference(&running.acked).collect();
    ensure!(foreign.is_empty(), "stored without an acknowledgement although nothing failed: {foreign:?}");
    for name in running.consumers.iter().chain([&running.producer]) {
        driver.call("stop", &[("name", name)])?;
    }
    Ok(())
}

/// A topic of 1,024 queues, made and shown by mqadmin: a producer reaches each, three members share them out and read each
/// message once, and all of it is committed, also after a restart of the broker.
fn many(lab: &Lab, client: Client) -> Outcome {
    const QUEUES: i32 = 1024;
    /// Messages for each queue.
    const EACH: usize = 2;
    let driver = lab.driver(client)?;
    let mut cluster = Cluster::start(&lab.tools, lab.make, &lab.folder("many-queues")?, &[])?;
    let (topic, group, producer) = (lab.name("many"), lab.name("group"), lab.name("producer"));
    let namesrv = cluster.namesrv.addr.clone();
    let shows = |command: &str, text: &str| -> Outcome<String> {
        let printed = lab.mqadmin(&namesrv, command)?;
        ensure!(
            printed.contains(text),
            "mqadmin {command} does not print '{text}':\n{}",
            &printed[..printed.len().min(400)]
        );
        Ok(printed)
    };
    shows(&format!("updateTopic -c DefaultCluster -t {topic} -r {QUEUES} -w {QUEUES}"), "success.")?;
    wait_route(&namesrv, &topic, &format!("\"writeQueueNums\":{QUEUES}"))?;
    start(driver, "producer", &namesrv, &producer, "contract-producers", &[])?;
    let count = QUEUES as usize * EACH;
    let messages: Vec<Msg> = (0..count).map(|n| Msg::new(&topic, n.to_string())).collect();
    let rows = driver.send(&producer, "sync", &messages)?;
    let acked = rows.iter().map(Row::place).collect::<Outcome<BTreeSet<Place>>>()?;
    let every = || (0..QUEUES).flat_map(|queue| (0..EACH as i64).map(move |offset| (queue, offset)));
    ensure!(acked.iter().copied().eq(every()), "round robin does not reach each of {QUEUES} queues {EACH} times");
    let status = shows(&format!("topicStatus -t {topic}"), "broker-a 1023 0 2 ")?;
    ensure_eq!(status.lines().filter(|line| line.starts_with("broker-a ")).count(), QUEUES as usize, "queues shown");

    let members: Vec<String> = (0..3).map(|_| lab.name("member")).collect();
    for name in &members {
        let options = [("topic", topic.as_str()), ("brief", "true")];
        start(driver, "consumer", &namesrv, name, &group, &options)?;
    }
    wait_for(DELIVERY, format!("three members share {QUEUES} queues"), || {
        Ok(Owners::ask(members.iter().map(|name| (driver, name)), &topic)?.even(QUEUES).then_some(()))
    })?;
    // Whoever takes a queue over begins where it was committed: what came while the members joined may come again.
    let seen =
        || members.iter().flat_map(|name| driver.events(name)).map(|row| row.place()).collect::<Outcome<Vec<_>>>();
    wait_for(DELIVERY, "all messages", || Ok((BTreeSet::from_iter(seen()?) == acked).then_some(())))?;
    let mut conn = cluster.broker.conn()?;
    wait_for(DELIVERY, "all queues are committed", || {
        Ok(committed(&mut conn, &group, &topic, QUEUES)?.iter().all(|offset| *offset == EACH as i64).then_some(()))
    })?;
    let before = seen()?.len();
    driver.send(&producer, "sync", &messages)?;
    wait_for(DELIVERY, "as many again", || Ok((seen()?.len() >= before + count).then_some(())))?;
    ensure_eq!(seen()?.len() - before, count, "messages consumed while nothing changed");
    wait_for(DELIVERY, "all queues are committed", || {
        Ok(committed(&mut conn, &group, &topic, QUEUES)?.iter().all(|offset| *offset == 2 * EACH as i64).then_some(()))
    })?;
    shows(&format!("consumerProgress -g {group}"), "Consume Diff Total: 0")?;
    for name in members.iter().chain([&producer]) {
        driver.call("stop", &[("name", name)])?;
    }
    cluster.broker.stop()?;
    cluster.broker.start(&lab.tools)?;
    let after = committed(&mut cluster.broker.conn()?, &group, &topic, QUEUES)?;
    ensure!(after.iter().all(|offset| *offset == 2 * EACH as i64), "offsets after a restart: {after:?}");
    cluster.broker.stop()
}
