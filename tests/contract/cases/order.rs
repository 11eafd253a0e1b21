//! Order: the textbook's program (a MessageQueueSelector by order number, a MessageListenerOrderly), also through restarts
//! of the broker.

use crate::common::{ALL, DELIVERY, Stage, start};
use ferromq_contract::cluster::Cluster;
use ferromq_contract::driver::{Driver, Msg, Row};
use ferromq_contract::runner::{Case, Client, Lab};
use ferromq_contract::{Outcome, Stop, ensure, ensure_eq, wait_for};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for client in ALL {
        let label = client.label();
        all.push(Case::shared(format!("order::{label}::selector_and_orderly_listener"), move |lab| {
            ordered(lab, client)
        }));
        all.push(Case::waiting(format!("order::{label}::through_a_broker_restart"), move |lab| {
            restart(lab, client, true)
        }));
        all.push(Case::waiting(format!("order::{label}::through_a_broker_kill"), move |lab| {
            restart(lab, client, false)
        }));
        all.push(Case::waiting(format!("order::{label}::through_the_death_of_an_owner"), move |lab| {
            owner_killed(lab, client)
        }));
    }
    all
}

const ORDERS: usize = 7;
const STEPS: usize = 12;

fn step(topic: &str, order: usize, step: usize) -> Msg {
    Msg::new(topic, format!("{order}/{step}")).with("hash", order).with("keys", format!("order-{order}"))
}

/// The mode in which the driver applies the selector; the Go client takes it as an option of the producer.
fn mode(client: Client) -> &'static str {
    if client == Client::Go { "sync" } else { "selector" }
}

fn ordered(lab: &Lab, client: Client) -> Outcome {
    let stage = Stage::new(lab, client, "order", 4)?;
    // The first messages are refused by the listener for a moment: the queue waits, nothing overtakes.
    let consumer = stage.consumer(&stage.name("group"), &[("mode", "orderly"), ("suspend", "3")])?;
    let producer = stage.producer(&[("selector", "hash")])?;
    let all: Vec<Msg> =
        (0..STEPS).flat_map(|s| (0..ORDERS).map(move |o| (o, s))).map(|(o, s)| step(&stage.topic, o, s)).collect();
    let sent = stage.driver.send(&producer, mode(client), &all)?;
    for (i, row) in sent.iter().enumerate() {
        ensure_eq!(row.num("queue")? as usize, (i % ORDERS) % 4, "queue of order {}", i % ORDERS);
    }
    let got = stage.driver.wait_events(&consumer, ORDERS * STEPS, DELIVERY)?;
    stage.stop(&consumer)?;
    stage.stop(&producer)?;
    ensure_eq!(got.len(), ORDERS * STEPS, "messages received");
    in_order(&got, STEPS)
}

/// Each order in one queue; the first arrivals of its steps in order.
fn in_order(rows: &[Row], through: usize) -> Outcome {
    let mut steps: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    let mut queues: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for row in rows {
        let (order, step) = row.get("body").split_once('/').ok_or("a foreign body")?;
        let step: usize = step.parse().map_err(|_| "a foreign body")?;
        let seen = steps.entry(order).or_default();
        if !seen.contains(&step) {
            seen.push(step);
        }
        queues.entry(order).or_default().insert(row.get("queue"));
    }
    ensure_eq!(steps.len(), ORDERS, "orders received");
    for (order, seen) in &steps {
        ensure_eq!(*seen, (0..through).collect::<Vec<_>>(), "steps of order {order} as they arrived");
        ensure_eq!(queues[order].len(), 1, "queues of order {order}");
    }
    Ok(())
}

/// Sends one message until it is acknowledged, as a program that must not lose a step does.
fn insist(driver: &Driver, producer: &str, mode: &str, message: &Msg) -> Outcome {
    let start = Instant::now();
    loop {
        match driver.send(producer, mode, std::slice::from_ref(message)) {
            Ok(rows) if rows.iter().all(|r| r.get("status") == "SEND_OK") => return Ok(()),
            Ok(rows) => ensure!(start.elapsed() < DELIVERY, "never acknowledged: {rows:?}"),
            Err(Stop::Failed(why)) => ensure!(start.elapsed() < DELIVERY, "never acknowledged: {why}"),
            Err(skipped) => return Err(skipped),
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn restart(lab: &Lab, client: Client, politely: bool) -> Outcome {
    let driver = lab.driver(client)?;
    let mut cluster = Cluster::start(&lab.tools, lab.make, &lab.folder("order")?, &[])?;
    let (topic, namesrv) = (lab.name("order"), cluster.namesrv.addr.clone());
    cluster.create_topic(&topic, 4)?;
    let (producer, consumer, group) = (lab.name("producer"), lab.name("consumer"), lab.name("group"));
    start(driver, "consumer", &namesrv, &consumer, &group, &[("topic", &topic), ("mode", "orderly")])?;
    start(driver, "producer", &namesrv, &producer, "contract-producers", &[("selector", "hash"), ("timeout", "2000")])?;
    for s in 0..STEPS {
        if s == STEPS / 2 {
            // Something was delivered before, something remains.
            driver.wait_events(&consumer, ORDERS, DELIVERY)?;
            if politely {
                cluster.broker.stop()?;
            } else {
                cluster.broker.kill();
            }
            cluster.broker.start(&lab.tools)?;
        }
        for o in 0..ORDERS {
            insist(driver, &producer, mode(client), &step(&topic, o, s))?;
        }
    }
    let complete = wait_for(DELIVERY, "all steps of all orders", || {
        let got = driver.events(&consumer);
        let distinct: BTreeSet<&str> = got.iter().map(|r| r.get("body")).collect();
        Ok((distinct.len() == ORDERS * STEPS).then_some(()))
    });
    let got = driver.events(&consumer);
    driver.call("stop", &[("name", &consumer)])?;
    driver.call("stop", &[("name", &producer)])?;
    complete.map_err(|e| Stop::Failed(format!("{e}; {} messages came", got.len())))?;
    in_order(&got, STEPS)
}

/// A second owner joins and takes its share of the queues, and its process is killed: the first one goes on with what the
/// dead one left, each order's steps in order all along.
fn owner_killed(lab: &Lab, client: Client) -> Outcome {
    let (driver, other) = (lab.driver(client)?, lab.own_driver(client)?);
    let cluster = Cluster::start(&lab.tools, lab.make, &lab.folder("owner")?, &[])?;
    let (topic, namesrv) = (lab.name("order"), &cluster.namesrv.addr);
    cluster.create_topic(&topic, 4)?;
    let (producer, group) = (lab.name("producer"), lab.name("group"));
    let members = [lab.name("consumer"), lab.name("consumer")];
    let join = |driver: &Driver, name: &str| {
        start(driver, "consumer", namesrv, name, &group, &[("topic", &topic), ("mode", "orderly")])
    };
    join(driver, &members[0])?;
    start(driver, "producer", namesrv, &producer, "contract-producers", &[("selector", "hash")])?;
    let mut steps = 0;
    let mut round = || -> Outcome {
        for order in 0..ORDERS {
            insist(driver, &producer, mode(client), &step(&topic, order, steps))?;
        }
        steps += 1;
        std::thread::sleep(Duration::from_millis(50));
        Ok(())
    };
    round()?;
    driver.wait_events(&members[0], ORDERS, DELIVERY)?;
    join(&other, &members[1])?;
    wait_for(DELIVERY, "steps at the second owner", || {
        round()?;
        Ok((other.count(&members[1]) > ORDERS).then_some(()))
    })?;
    other.kill()?;
    let killed = Instant::now();
    round()?;
    round()?;
    let mut got = Vec::new();
    wait_for(DELIVERY, "all steps of all orders", || {
        got = other.events(&members[1]);
        got.extend(driver.events(&members[0]));
        let distinct: BTreeSet<&str> = got.iter().map(|r| r.get("body")).collect();
        Ok((distinct.len() == ORDERS * steps).then_some(()))
    })?;
    lab.tell(&format!(
        "an orderly owner killed: the other had its queues after {:.1} s",
        killed.elapsed().as_secs_f64()
    ));
    driver.call("stop", &[("name", &members[0])])?;
    driver.call("stop", &[("name", &producer)])?;
    // The dead one's come first where times are equal.
    got.sort_by_key(|row| row.num("at").unwrap_or(0));
    in_order(&got, steps)
}
