//! The gRPC protocol by its official client: every kind of message, both kinds of consumers, and messages that cross from
//! one protocol to the other.

use crate::common::{DELIVERY, bodies, each_once, numbered, start};
use ferromq_contract::cluster::Cluster;
use ferromq_contract::driver::{Driver, Msg, Row};
use ferromq_contract::runner::{Case, Client, Lab};
use ferromq_contract::{Outcome, Stop, ensure, ensure_eq, wait_for};

/// The official clients of the protocol.
const CLIENTS: [Client; 2] = [Client::GrpcJava, Client::GrpcGo];

pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for client in CLIENTS {
        let label = client.label();
        let mut shared = |name: &str, case: fn(&Stage<'_>) -> Outcome| {
            all.push(Case::shared(format!("grpc::{label}::{name}"), move |lab| {
                case(&Stage::new(lab, client, lab.proxied()?)?)
            }));
        };
        shared("simple_consumer", simple_consumer);
        shared("push_consumer_retries_and_dead_letters", push_and_dead_letters);
        shared("fifo", fifo);
        shared("delayed_and_recalled", delayed_and_recalled);
        shared("transactions", transactions);
        shared("filters", filters);
        shared("to_remoting_and_back", crossing);
        if client == Client::GrpcJava {
            // The Go client chooses TLS for its whole process, and checks less by itself.
            shared("plaintext_and_tls", plaintext_and_tls);
            shared("refusals", refusals);
        }
        all.push(Case::waiting(format!("grpc::{label}::through_a_broker_kill"), move |lab| {
            through_a_kill(lab, client)
        }));
    }
    all
}

/// A client of the protocol on a server with a proxy.
struct Stage<'a> {
    lab: &'a Lab,
    driver: &'a Driver,
    cluster: &'a Cluster,
}

impl<'a> Stage<'a> {
    fn new(lab: &'a Lab, client: Client, cluster: &'a Cluster) -> Outcome<Stage<'a>> {
        Ok(Stage { lab, driver: lab.driver(client)?, cluster })
    }

    /// A topic for messages of a kind.
    fn topic(&self, kind: &str) -> Outcome<String> {
        let topic = self.lab.name("grpc");
        self.cluster.create_typed_topic(&topic, 4, kind)?;
        Ok(topic)
    }

    fn group(&self, further: &str) -> Outcome<String> {
        let group = self.lab.name("grpc-group");
        let body = format!("{{\"groupName\":\"{group}\"{further}}}");
        self.cluster.broker.conn()?.update_group(&body)?;
        Ok(group)
    }

    fn open(&self, verb: &str, topic: &str, further: &[(&str, &str)]) -> Outcome<String> {
        let name = self.lab.name(verb);
        let endpoints = self.cluster.endpoints();
        let mut all = vec![("name", name.as_str()), ("endpoints", endpoints.as_str()), ("topic", topic)];
        all.extend_from_slice(further);
        self.driver.call(verb, &all)?;
        Ok(name)
    }

    fn send(&self, producer: &str, messages: &[Msg]) -> Outcome<Vec<Row>> {
        self.driver.begin("send", &[("name", producer)], messages)?.rows()
    }

    /// Receives until there are `count` messages, and acknowledges none.
    fn receive(&self, simple: &str, count: usize, invisible: &str) -> Outcome<Vec<Row>> {
        let mut all = Vec::new();
        wait_for(DELIVERY, format!("{count} messages of a simple consumer"), || {
            all.extend(self.driver.call("receive", &[("name", simple), ("invisible", invisible)])?);
            Ok((all.len() >= count).then_some(()))
        })?;
        Ok(all)
    }

    fn of_held(&self, verb: &str, simple: &str, row: &Row) -> Outcome {
        self.driver.call(verb, &[("name", simple), ("id", row.get("id"))]).map(drop)
    }

    fn stop(&self, names: &[&str]) -> Outcome {
        // A push consumer ends when its calls that wait have ended: all at once, then.
        let stops: Outcome<Vec<_>> =
            names.iter().map(|name| self.driver.begin("stop", &[("name", name)], &[])).collect();
        stops?.into_iter().try_for_each(|stop| stop.rows().map(drop))
    }
}

fn simple_consumer(stage: &Stage<'_>) -> Outcome {
    let (topic, group) = (stage.topic("NORMAL")?, stage.group("")?);
    let producer = stage.open("producer", &topic, &[])?;
    let simple = stage.open("simple", &topic, &[("group", &group)])?;
    let messages: Vec<Msg> = numbered("m", 20)
        .iter()
        .map(|body| Msg::new(&topic, body.clone()).with("tags", "red").with("keys", "k1 k2").with("p.colour", body))
        .collect();
    let sent = stage.send(&producer, &messages)?;
    let received = stage.receive(&simple, 20, "10000")?;
    each_once(&received, numbered("m", 20))?;
    for row in &received {
        ensure_eq!((row.get("tags"), row.get("keys")), ("red", "k1 k2"), "tag and keys");
        ensure_eq!(row.get("p.colour"), row.get("body"), "the user's property");
        ensure_eq!(row.get("attempt"), "1", "deliveries");
        ensure!(sent.iter().any(|sent| sent.get("id") == row.get("id")), "an id that was never sent: {row:?}");
    }
    // Two come back: one that is said to, one whose time is over.
    let (later, rest) = received.split_at(2);
    rest.iter().try_for_each(|row| stage.of_held("ack", &simple, row))?;
    stage.driver.call("invisible", &[("name", &simple), ("id", later[0].get("id")), ("invisible", "10000")])?;
    let again = stage.receive(&simple, 2, "10000")?;
    each_once(&again, later.iter().map(|row| row.get("body").to_owned()))?;
    ensure!(again.iter().all(|row| row.get("attempt") == "2"), "the second delivery tells so: {again:?}");
    again.iter().try_for_each(|row| stage.of_held("ack", &simple, row))?;
    stage.stop(&[&producer, &simple])
}

fn plaintext_and_tls(stage: &Stage<'_>) -> Outcome {
    let (topic, group) = (stage.topic("NORMAL")?, stage.group("")?);
    let simple = stage.open("simple", &topic, &[("group", &group), ("tls", "false")])?;
    for tls in ["true", "false"] {
        let producer = stage.open("producer", &topic, &[("tls", tls)])?;
        stage.send(&producer, &[Msg::new(&topic, tls)])?;
        stage.stop(&[&producer])?;
    }
    each_once(&stage.receive(&simple, 2, "10000")?, ["true".to_owned(), "false".to_owned()])?;
    stage.stop(&[&simple])
}

fn push_and_dead_letters(stage: &Stage<'_>) -> Outcome {
    // Two deliveries, the second after a second.
    let topic = stage.topic("NORMAL")?;
    let group = stage.group(",\"retryMaxTimes\":1")?;
    let producer = stage.open("producer", &topic, &[])?;
    let consumer = stage.open("consumer", &topic, &[("group", &group), ("fail", "9")])?;
    stage.send(&producer, &[Msg::new(&topic, "never").with("keys", "dead")])?;
    let rows = stage.driver.wait_events(&consumer, 2, DELIVERY)?;
    ensure_eq!(rows.iter().map(|row| row.get("attempt")).collect::<Vec<_>>(), ["1", "2"], "deliveries");
    let dlq = format!("%DLQ%{group}");
    let dead = wait_for(DELIVERY, "the dead letter", || {
        let Ok(letters) = stage.cluster.broker.conn()?.read_queue(&dlq, 0, 0) else { return Ok(None) };
        Ok(letters.into_iter().next())
    })?;
    ensure_eq!(String::from_utf8_lossy(&dead.body), "never", "body of the dead letter");
    let properties = &dead.properties;
    ensure!(
        properties.contains(&format!("DLQ_ORIGIN_TOPIC\u{1}{topic}\u{2}")),
        "the topic it comes from: {properties}"
    );
    ensure_eq!(stage.driver.count(&consumer), 2, "deliveries in all");
    stage.stop(&[&producer, &consumer])
}

fn fifo(stage: &Stage<'_>) -> Outcome {
    let topic = stage.topic("FIFO")?;
    let group = stage.group(",\"consumeMessageOrderly\":true")?;
    let producer = stage.open("producer", &topic, &[])?;
    let consumer = stage.open("consumer", &topic, &[("group", &group)])?;
    let messages: Vec<Msg> =
        (0..40).map(|n| Msg::new(&topic, format!("{n}")).with("group", format!("order-{}", n % 4))).collect();
    stage.send(&producer, &messages)?;
    let rows = stage.driver.wait_events(&consumer, 40, DELIVERY)?;
    each_once(&rows, (0..40).map(|n| n.to_string()))?;
    for order in 0..4 {
        let group = format!("order-{order}");
        let of_group = rows.iter().filter(|row| row.get("group") == group);
        let numbers: Outcome<Vec<i64>> = of_group.map(|row| row.num("body")).collect();
        ensure!(numbers?.is_sorted(), "messages of {group} came in another order: {rows:?}");
    }
    stage.stop(&[&producer, &consumer])
}

fn delayed_and_recalled(stage: &Stage<'_>) -> Outcome {
    let (topic, group) = (stage.topic("DELAY")?, stage.group("")?);
    let producer = stage.open("producer", &topic, &[])?;
    let consumer = stage.open("consumer", &topic, &[("group", &group)])?;
    let sent = stage.send(
        &producer,
        &[Msg::new(&topic, "late").with("delay", 4000), Msg::new(&topic, "never").with("delay", 6000)],
    )?;
    let handle = sent[1].get("recall");
    ensure!(!handle.is_empty(), "a delayed message has a handle: {sent:?}");
    let recalled = stage.driver.call("recall", &[("name", &producer), ("topic", &topic), ("handle", handle)])?;
    ensure_eq!(recalled[0].get("id"), sent[1].get("id"), "the message taken back");
    stage.send(&producer, &[Msg::new(&topic, "later").with("delay", 8000)])?;
    let rows = stage.driver.wait_events(&consumer, 2, DELIVERY)?;
    ensure_eq!(rows.iter().map(|row| row.get("body")).collect::<Vec<_>>(), ["late", "later"], "deliveries");
    for row in &rows {
        ensure!(row.num("at")? + 50 >= row.num("delivery")?, "came before its time: {row:?}");
    }
    stage.stop(&[&producer, &consumer])
}

fn transactions(stage: &Stage<'_>) -> Outcome {
    let (topic, group) = (stage.topic("TRANSACTION")?, stage.group("")?);
    let producer = stage.open("producer", &topic, &[("check", "COMMIT")])?;
    let consumer = stage.open("consumer", &topic, &[("group", &group)])?;
    for end in ["commit", "rollback", "unknown"] {
        let messages = [Msg::new(&topic, end).with("p.end", end)];
        stage.driver.begin("transact", &[("name", &producer), ("end", end)], &messages)?.rows()?;
    }
    let rows = stage.driver.wait_events(&consumer, 2, DELIVERY)?;
    each_once(&rows, ["commit".to_owned(), "unknown".to_owned()])?;
    let asked = stage.driver.events(&producer);
    ensure!(
        !asked.is_empty() && asked.iter().all(|row| row.get("body") == "unknown" && row.get("p.end") == "unknown"),
        "only the open one is asked about: {asked:?}"
    );
    stage.stop(&[&producer, &consumer])
}

fn filters(stage: &Stage<'_>) -> Outcome {
    let topic = stage.topic("NORMAL")?;
    let producer = stage.open("producer", &topic, &[])?;
    let (tags, sql) = (stage.group("")?, stage.group("")?);
    let by_tag = stage.open("simple", &topic, &[("group", &tags), ("expression", "a || b")])?;
    let by_sql = stage.open("consumer", &topic, &[("group", &sql), ("sql", "n > 3 AND TAGS = 'a'")])?;
    let messages: Vec<Msg> =
        (0..12).map(|n| Msg::new(&topic, format!("{n}")).with("tags", ["a", "b", "c"][n % 3]).with("p.n", n)).collect();
    stage.send(&producer, &messages)?;
    let rows = stage.receive(&by_tag, 8, "10000")?;
    each_once(&rows, [0, 1, 3, 4, 6, 7, 9, 10].map(|n| n.to_string()))?;
    let rows = stage.driver.wait_events(&by_sql, 2, DELIVERY)?;
    each_once(&rows, ["6".to_owned(), "9".to_owned()])?;
    stage.stop(&[&producer, &by_tag, &by_sql])
}

fn refusals(stage: &Stage<'_>) -> Outcome {
    let topic = stage.topic("NORMAL")?;
    let producer = stage.open("producer", &topic, &[])?;
    let refused = |message: Msg| match stage.send(&producer, &[message]) {
        Err(Stop::Failed(why)) => Ok(why),
        other => Err(Stop::Failed(format!("not refused: {other:?}"))),
    };
    let why = refused(Msg::new("TBW102", "x"))?;
    ensure!(why.contains("code 40002"), "a system topic: {why}");
    let big = refused(Msg::filled(&topic, 0, 0).with("body", "x".repeat(5 << 20)))?;
    ensure!(big.contains("body size exceeds") || big.contains("code 41301"), "a body above the limit: {big}");
    let fifo = refused(Msg::new(&topic, "x").with("group", "g"))?;
    ensure!(fifo.contains("message type not match"), "a message of another kind than the topic's: {fifo}");
    stage.stop(&[&producer])
}

/// A message keeps what it has on the way from one protocol to the other.
fn crossing(stage: &Stage<'_>) -> Outcome {
    let topic = stage.topic("MIXED")?;
    let remoting = stage.lab.driver(Client::Java5)?;
    let namesrv = &stage.cluster.namesrv.addr;
    let (there, back) = (stage.lab.name("producer"), stage.lab.name("consumer"));
    start(remoting, "producer", namesrv, &there, "contract-producers", &[])?;
    start(remoting, "consumer", namesrv, &back, &stage.lab.name("group"), &[("topic", &topic)])?;
    let producer = stage.open("producer", &topic, &[])?;
    let consumer = stage.open("consumer", &topic, &[("group", &stage.group("")?)])?;
    let message = |body: &str| Msg::new(&topic, body).with("tags", "t").with("keys", "k1 k2").with("p.own", "äöü €");
    remoting.send(&there, "sync", &[message("from remoting")])?;
    stage.send(&producer, &[message("from grpc"), message("grouped").with("group", "g")])?;
    let expected = ["from remoting", "from grpc", "grouped"].map(str::to_owned);
    for rows in [stage.driver.wait_events(&consumer, 3, DELIVERY)?, remoting.wait_events(&back, 3, DELIVERY)?] {
        ensure_eq!(bodies(&rows).into_keys().collect::<Vec<_>>().len(), expected.len(), "messages");
        each_once(&rows, expected.clone())?;
        for row in rows {
            ensure_eq!((row.get("tags"), row.get("keys")), ("t", "k1 k2"), "tag and keys of {}", row.get("body"));
            ensure_eq!(row.get("p.own"), "äöü €", "the user's property of {}", row.get("body"));
        }
    }
    stage.stop(&[&producer, &consumer])?;
    for name in [&there, &back] {
        remoting.call("stop", &[("name", name)])?;
    }
    Ok(())
}

fn through_a_kill(lab: &Lab, client: Client) -> Outcome {
    let mut cluster = Cluster::proxied(&lab.tools, lab.make, &lab.folder("grpc-kill")?)?;
    let (topic, producer, consumer);
    {
        let stage = Stage::new(lab, client, &cluster)?;
        topic = stage.topic("NORMAL")?;
        producer = stage.open("producer", &topic, &[])?;
        consumer = stage.open("consumer", &topic, &[("group", &stage.group("")?)])?;
        stage.send(&producer, &[Msg::new(&topic, "before")])?;
        stage.driver.wait_events(&consumer, 1, DELIVERY)?;
    }
    cluster.broker.kill();
    cluster.broker.start(&lab.tools)?;
    let stage = Stage::new(lab, client, &cluster)?;
    wait_for(DELIVERY, "sending after the broker was killed", || {
        Ok(stage.send(&producer, &[Msg::new(&topic, "after")]).ok().map(drop))
    })?;
    wait_for(DELIVERY, "the message sent after the kill", || {
        Ok(stage.driver.events(&consumer).iter().any(|row| row.get("body") == "after").then_some(()))
    })?;
    stage.stop(&[&producer, &consumer])
}
