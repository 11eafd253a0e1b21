//! Transactions by the official clients: commit, rollback, check-back, the limit of checks, and a broker that is killed in the
//! middle.

use crate::common::{ALL, DELIVERY, bodies, start};
use ferromq_contract::cluster::Cluster;
use ferromq_contract::driver::{Driver, Msg, Row};
use ferromq_contract::runner::{Case, Client, Lab};
use ferromq_contract::{Outcome, ensure, ensure_eq, wait_for};
use std::collections::BTreeMap;
use std::time::Duration;

/// The topic of messages whose checks are used up.
const GIVEN_UP: &str = "TRANS_CHECK_MAX_TIME_TOPIC";
/// Checks before a message is given up.
const MAX_CHECKS: usize = 3;

pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for client in ALL {
        let label = client.label();
        all.push(Case::waiting(format!("transaction::{label}::outcomes"), move |lab| outcomes(lab, client)));
        all.push(Case::waiting(format!("transaction::{label}::broker_killed"), move |lab| killed(lab, client)));
    }
    all
}

/// A cluster of its own that checks soon and often, with a transactional producer and a consumer.
struct Stage<'a> {
    driver: &'a Driver,
    cluster: Cluster,
    topic: String,
    producer: String,
    consumer: String,
}

impl<'a> Stage<'a> {
    fn new(lab: &'a Lab, client: Client) -> Outcome<Stage<'a>> {
        let driver = lab.driver(client)?;
        let settings =
            [("transactionTimeOut", "1000"), ("transactionCheckInterval", "1000"), ("transactionCheckMax", "3")];
        let cluster = Cluster::start(&lab.tools, lab.make, &lab.folder("transaction")?, &settings)?;
        let topic = lab.name("transaction");
        cluster.create_topic(&topic, 4)?;
        let (producer, consumer) = (lab.name("producer"), lab.name("consumer"));
        let namesrv = &cluster.namesrv.addr;
        start(driver, "transactional", namesrv, &producer, "contract-transactions", &[])?;
        start(driver, "consumer", namesrv, &consumer, &lab.name("group"), &[("topic", &topic)])?;
        Ok(Stage { driver, cluster, topic, producer, consumer })
    }

    /// A message whose local transaction and checks end so.
    fn message(&self, body: &str, local: &str, check: &str, unknowns: usize) -> Msg {
        Msg::new(&self.topic, body).with("p.local", local).with("p.check", check).with("p.unknowns", unknowns)
    }

    fn send(&self, messages: &[Msg]) -> Outcome<Vec<Row>> {
        self.driver.begin("transact", &[("name", &self.producer)], messages)?.rows()
    }

    fn stop(&self) -> Outcome {
        for name in [&self.producer, &self.consumer] {
            self.driver.call("stop", &[("name", name)])?;
        }
        Ok(())
    }
}

fn outcomes(lab: &Lab, client: Client) -> Outcome {
    let stage = Stage::new(lab, client)?;
    let messages = [
        stage.message("committed", "commit", "rollback", 0),
        stage.message("rolled back", "rollback", "commit", 0),
        stage.message("checked and committed", "unknown", "commit", 0),
        stage.message("checked twice and committed", "unknown", "commit", 1),
        stage.message("checked and rolled back", "unknown", "rollback", 0),
        stage.message("never decided", "unknown", "unknown", 0),
    ];
    let sent = stage.send(&messages)?;
    ensure_eq!(sent.iter().filter(|row| row.get("status") == "SEND_OK").count(), messages.len(), "halves stored");
    let got = stage.driver.wait_events(&stage.consumer, 3, DELIVERY)?;
    let mut conn = stage.cluster.broker.conn()?;
    let given_up = wait_for(DELIVERY, "a message that is given up", || {
        let all = conn.read_queue(GIVEN_UP, 0, 0).unwrap_or_default();
        Ok((!all.is_empty()).then_some(all))
    })?;
    ensure_eq!(given_up.len(), 1, "messages given up");
    ensure_eq!(given_up[0].property("REAL_TOPIC"), Some(stage.topic.as_str()), "where it was to go");
    std::thread::sleep(Duration::from_millis(1500));
    let checks = bodies(&stage.driver.events(&stage.producer));
    let expected: BTreeMap<String, usize> = [
        ("checked and committed", 1),
        ("checked twice and committed", 2),
        ("checked and rolled back", 1),
        ("never decided", MAX_CHECKS),
    ]
    .map(|(body, count)| (body.to_owned(), count))
    .into();
    ensure_eq!(checks, expected, "checks by message");
    for row in stage.driver.events(&stage.producer) {
        ensure_eq!(row.get("topic"), stage.topic, "the topic a check shows");
        ensure!(!row.get("transaction").is_empty(), "a check without a transaction id");
    }
    let all = bodies(&stage.driver.events(&stage.consumer));
    let expected: BTreeMap<String, usize> =
        ["committed", "checked and committed", "checked twice and committed"].map(|body| (body.to_owned(), 1)).into();
    ensure_eq!(all, expected, "messages delivered");
    for row in &got {
        ensure_eq!(row.get("p.REAL_TOPIC"), "", "REAL_TOPIC of a committed message");
        ensure_eq!(row.get("p.PGROUP"), "contract-transactions", "PGROUP of a committed message");
    }
    stage.stop()
}

/// Halves without an outcome survive a kill and end by their checks; what had ended is not asked about.
fn killed(lab: &Lab, client: Client) -> Outcome {
    let mut stage = Stage::new(lab, client)?;
    let mut messages = Vec::new();
    for n in 0..10 {
        messages.push(stage.message(&format!("commit-{n}"), "commit", "rollback", 0));
        messages.push(stage.message(&format!("rollback-{n}"), "rollback", "commit", 0));
        messages.push(stage.message(&format!("later-{n}"), "unknown", "commit", 1));
        messages.push(stage.message(&format!("never-{n}"), "unknown", "rollback", 0));
    }
    stage.send(&messages)?;
    // The ends are one-way requests: they have come when their messages are delivered.
    stage.driver.wait_events(&stage.consumer, 10, DELIVERY)?;
    stage.cluster.broker.kill();
    stage.cluster.broker.start(&lab.tools)?;
    stage.driver.wait_events(&stage.consumer, 20, DELIVERY)?;
    std::thread::sleep(Duration::from_millis(2500));
    let all = bodies(&stage.driver.events(&stage.consumer));
    let expected: BTreeMap<String, usize> =
        (0..10).flat_map(|n| [format!("commit-{n}"), format!("later-{n}")]).map(|body| (body, 1)).collect();
    ensure_eq!(all, expected, "messages delivered");
    let asked = bodies(&stage.driver.events(&stage.producer));
    ensure!(asked.keys().all(|body| body.starts_with("later-") || body.starts_with("never-")), "asked about {asked:?}");
    stage.stop()
}
