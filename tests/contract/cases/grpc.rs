//! The gRPC protocol by its official client: every kind of message, both kinds of consumers, and messages that cross from
//! one protocol to the other.

use crate::common::{DELIVERY, bodies, each_once, numbered, start};
use ferromq_contract::cluster::{Cluster, create_typed_topic};
use ferromq_contract::driver::{Driver, Msg, Row};
use ferromq_contract::runner::{Case, Client, Lab};
use ferromq_contract::server::Broker;
use ferromq_contract::{Outcome, Stop, ensure, ensure_eq, wait_for};

/// The official clients of the protocol.
pub const CLIENTS: [Client; 5] =
    [Client::GrpcJava, Client::GrpcGo, Client::GrpcPython, Client::GrpcNode, Client::GrpcRust];

pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for client in CLIENTS {
        let label = client.label();
        let mut shared = |name: &str, case: fn(&Stage<'_>) -> Outcome| {
            all.push(Case::shared(format!("grpc::{label}::{name}"), move |lab| {
                case(&Stage::beside(lab, client, lab.proxied()?)?)
            }));
        };
        shared("simple_consumer", simple_consumer);
        shared("push_consumer_retries_and_dead_letters", push_and_dead_letters);
        shared("fifo", fifo);
        shared("delayed_and_recalled", delayed_and_recalled);
        shared("transactions", transactions);
        shared("filters", filters);
        shared("to_remoting_and_back", crossing);
        if client != Client::GrpcRust {
            // The Rust client knows neither priorities nor lite topics.
            shared("priorities", priorities);
            shared("lite_topics", crate::grpc_lite::lite_topics);
            shared("exclusive_lite_topics", crate::grpc_lite::exclusive);
        }
        if matches!(client, Client::GrpcJava | Client::GrpcGo) {
            // The others answer no tool.
            shared("asked_by_tools", crate::grpc_asked::by_tools);
        }
        if client == Client::GrpcPython {
            // No other client has one.
            shared("lite_simple_consumer", crate::grpc_lite::simple_consumer);
        }
        if matches!(client, Client::GrpcJava | Client::GrpcGo | Client::GrpcPython) {
            shared("broadcasting", crate::grpc_broadcast::broadcasting);
        }
        if client == Client::GrpcJava {
            // The Go client chooses TLS for its whole process, those of Python and Node ask for a certificate of an
            // authority, that of Rust has none; all check less by themselves.
            shared("plaintext_and_tls", plaintext_and_tls);
            shared("refusals", refusals);
        }
        all.push(Case::waiting(format!("grpc::{label}::through_a_broker_kill"), move |lab| {
            through_a_kill(lab, client)
        }));
    }
    all
}

/// A client of the protocol on a proxy.
pub struct Stage<'a> {
    pub lab: &'a Lab,
    pub client: Client,
    pub driver: &'a Driver,
    /// Where the client connects.
    pub endpoints: String,
    /// What stands behind the proxy.
    pub namesrv: &'a str,
    pub brokers: &'a [Broker],
    /// For how long received messages are invisible, in milliseconds: a call may wait at one broker while another has some.
    pub invisible: &'a str,
}

impl<'a> Stage<'a> {
    /// On the proxy in a broker's own process.
    fn beside(lab: &'a Lab, client: Client, cluster: &'a Cluster) -> Outcome<Stage<'a>> {
        let (namesrv, brokers) = (cluster.namesrv.addr.as_str(), std::slice::from_ref(&cluster.broker));
        Ok(Stage {
            lab,
            client,
            driver: lab.driver(client)?,
            endpoints: cluster.endpoints(),
            namesrv,
            brokers,
            invisible: "10000",
        })
    }

    /// A topic for messages of a kind, on all brokers.
    pub fn topic(&self, kind: &str) -> Outcome<String> {
        let topic = self.lab.name("grpc");
        create_typed_topic(self.brokers, self.namesrv, &topic, 4, kind)?;
        Ok(topic)
    }

    pub fn group(&self, further: &str) -> Outcome<String> {
        let group = self.lab.name("grpc-group");
        let body = format!("{{\"groupName\":\"{group}\"{further}}}");
        self.brokers.iter().try_for_each(|broker| broker.conn()?.update_group(&body))?;
        Ok(group)
    }

    pub fn open(&self, verb: &str, topic: &str, further: &[(&str, &str)]) -> Outcome<String> {
        let name = self.lab.name(verb);
        let mut all = vec![("name", name.as_str()), ("endpoints", self.endpoints.as_str()), ("topic", topic)];
        all.extend_from_slice(further);
        self.driver.call(verb, &all)?;
        Ok(name)
    }

    pub fn send(&self, producer: &str, messages: &[Msg]) -> Outcome<Vec<Row>> {
        self.driver.begin("send", &[("name", producer)], messages)?.rows()
    }

    /// Receives until there are `count` messages, and acknowledges none.
    pub fn receive(&self, simple: &str, count: usize, invisible: &str) -> Outcome<Vec<Row>> {
        let mut all = Vec::new();
        wait_for(DELIVERY, format!("{count} messages of a simple consumer"), || {
            all.extend(self.driver.call("receive", &[("name", simple), ("invisible", invisible)])?);
            Ok((all.len() >= count).then_some(()))
        })?;
        Ok(all)
    }

    pub fn of_held(&self, verb: &str, simple: &str, row: &Row) -> Outcome {
        self.driver.call(verb, &[("name", simple), ("id", row.get("id"))]).map(drop)
    }

    pub fn stop(&self, names: &[&str]) -> Outcome {
        // A push consumer ends when its calls that wait have ended: all at once, then.
        let stops: Outcome<Vec<_>> =
            names.iter().map(|name| self.driver.begin("stop", &[("name", name)], &[])).collect();
        stops?.into_iter().try_for_each(|stop| stop.rows().map(drop))
    }
}

pub fn simple_consumer(stage: &Stage<'_>) -> Outcome {
    let (topic, group) = (stage.topic("NORMAL")?, stage.group("")?);
    let producer = stage.open("producer", &topic, &[])?;
    let simple = stage.open("simple", &topic, &[("group", &group)])?;
    let messages: Vec<Msg> = numbered("m", 20)
        .iter()
        .map(|body| Msg::new(&topic, body.clone()).with("tags", "red").with("keys", "k1 k2").with("p.colour", body))
        .collect();
    let sent = stage.send(&producer, &messages)?;
    let received = stage.receive(&simple, 20, stage.invisible)?;
    each_once(&received, numbered("m", 20))?;
    for row in &received {
        ensure_eq!((row.get("tags"), row.get("keys")), ("red", "k1 k2"), "tag and keys");
        ensure_eq!(row.get("p.colour"), row.get("body"), "the user's property");
        ensure_eq!(row.get("attempt"), "1", "deliveries");
        ensure!(sent.iter().any(|sent| sent.get("id") == row.get("id")), "an id that was never sent: {row:?}");
    }
    // Two come back when their time is over, which is longer for the one of which it is said.
    let (later, rest) = received.split_at(2);
    rest.iter().try_for_each(|row| stage.of_held("ack", &simple, row))?;
    let mut longer: i64 = stage.invisible.parse().map_err(|_| "the invisible time is no number")?;
    // The Rust client cannot say it.
    if stage.client != Client::GrpcRust {
        longer += 3000;
        let time = longer.to_string();
        stage.driver.call("invisible", &[("name", &simple), ("id", later[0].get("id")), ("invisible", &time)])?;
    }
    // A client asks one broker at a time and may wait there: the first must not come a third time meanwhile.
    let again = stage.receive(&simple, 2, "120000")?;
    each_once(&again, later.iter().map(|row| row.get("body").to_owned()))?;
    let back = again.iter().find(|row| row.get("id") == later[0].get("id")).ok_or("it has another id now")?;
    let away = back.num("at")? - later[0].num("at")?;
    ensure!(away >= longer, "came back after {away} ms, not {longer}: {back:?}");
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

pub fn push_and_dead_letters(stage: &Stage<'_>) -> Outcome {
    // Two deliveries, the second after a second.
    let topic = stage.topic("NORMAL")?;
    let group = stage.group(",\"retryMaxTimes\":1")?;
    let producer = stage.open("producer", &topic, &[])?;
    let consumer = stage.open("consumer", &topic, &[("group", &group), ("fail", "9")])?;
    stage.send(&producer, &[Msg::new(&topic, "never").with("keys", "dead")])?;
    let rows = stage.driver.wait_events(&consumer, 2, DELIVERY)?;
    ensure_eq!(rows.iter().map(|row| row.get("attempt")).collect::<Vec<_>>(), ["1", "2"], "deliveries");
    let dlq = format!("%DLQ%{group}");
    let (dead, make) = wait_for(DELIVERY, "the dead letter", || {
        for broker in stage.brokers {
            let letters = broker.conn()?.read_queue(&dlq, 0, 0).unwrap_or_default();
            if let Some(letter) = letters.into_iter().next() {
                return Ok(Some((letter, broker.make)));
            }
        }
        Ok(None)
    })?;
    ensure_eq!(String::from_utf8_lossy(&dead.body), "never", "body of the dead letter");
    let properties = &dead.properties;
    // A Java broker does not say so of a letter that a proxy forwards.
    ensure!(
        make.is_java() || properties.contains(&format!("DLQ_ORIGIN_TOPIC\u{1}{topic}\u{2}")),
        "the topic it comes from: {properties}"
    );
    ensure_eq!(stage.driver.count(&consumer), 2, "deliveries in all");
    stage.stop(&[&producer, &consumer])
}

pub fn fifo(stage: &Stage<'_>) -> Outcome {
    let topic = stage.topic("FIFO")?;
    let soon = ",\"groupRetryPolicy\":{\"type\":\"CUSTOMIZED\",\"customizedRetryPolicy\":{\"next\":[200,200]}}";
    let group = stage.group(&format!(",\"consumeMessageOrderly\":true{soon}"))?;
    let producer = stage.open("producer", &topic, &[])?;
    // Each message fails once where the order can be seen then: those of Go, Python and Node go on with the next one by
    // themselves. Java's tries again itself before the next one; to Rust's the server delivers again what was not acknowledged.
    let fails = matches!(stage.client, Client::GrpcJava | Client::GrpcRust);
    let consumer = stage.open("consumer", &topic, &[("group", &group), ("fail", if fails { "1" } else { "0" })])?;
    let messages: Vec<Msg> =
        (0..12).map(|n| Msg::new(&topic, format!("{n}")).with("group", format!("order-{}", n % 4))).collect();
    stage.send(&producer, &messages)?;
    let rows = stage.driver.wait_events(&consumer, if fails { 24 } else { 12 }, DELIVERY)?;
    for order in 0..4 {
        let group = format!("order-{order}");
        let of_group = rows.iter().filter(|row| row.get("group") == group);
        let deliveries: Outcome<Vec<_>> = of_group.map(|row| Ok((row.num("body")?, row.num("attempt")?))).collect();
        let mut deliveries = deliveries?;
        let attempts = if fails { 1..=2 } else { 1..=1 };
        let in_order = |n: i64| attempts.clone().map(move |attempt| (n, attempt));
        let mut expected: Vec<_> = [order, order + 4, order + 8].into_iter().flat_map(in_order).collect();
        if stage.client == Client::GrpcRust {
            // How many come at once is the server's affair.
            deliveries.sort_by_key(|(_, attempt)| *attempt);
            expected.sort_by_key(|(_, attempt)| *attempt);
        }
        ensure_eq!(deliveries, expected, "messages and deliveries of {group}");
    }
    stage.stop(&[&producer, &consumer])
}

pub fn delayed_and_recalled(stage: &Stage<'_>) -> Outcome {
    let (topic, group) = (stage.topic("DELAY")?, stage.group("")?);
    let producer = stage.open("producer", &topic, &[])?;
    let consumer = stage.open("consumer", &topic, &[("group", &group)])?;
    stage.send(&producer, &[Msg::new(&topic, "late").with("delay", 4000)])?;
    // The Rust client cannot take a message back.
    if stage.client != Client::GrpcRust {
        let sent = stage.send(&producer, &[Msg::new(&topic, "never").with("delay", 6000)])?;
        let handle = sent[0].get("recall");
        ensure!(!handle.is_empty(), "a delayed message has a handle: {sent:?}");
        let recalled = stage.driver.call("recall", &[("name", &producer), ("topic", &topic), ("handle", handle)])?;
        ensure_eq!(recalled[0].get("id"), sent[0].get("id"), "the message taken back");
    }
    stage.send(&producer, &[Msg::new(&topic, "later").with("delay", 8000)])?;
    let rows = stage.driver.wait_events(&consumer, 2, DELIVERY)?;
    ensure_eq!(rows.iter().map(|row| row.get("body")).collect::<Vec<_>>(), ["late", "later"], "deliveries");
    for row in &rows {
        ensure!(row.num("at")? + 50 >= row.num("delivery")?, "came before its time: {row:?}");
    }
    stage.stop(&[&producer, &consumer])
}

fn priorities(stage: &Stage<'_>) -> Outcome {
    let (topic, group) = (stage.topic("PRIORITY")?, stage.group("")?);
    let producer = stage.open("producer", &topic, &[])?;
    // The Node client takes a priority of 0 for none.
    let given = [1, 7, 1, 3, 2, 1, 3, 2];
    for (n, priority) in given.iter().enumerate() {
        stage.send(&producer, &[Msg::new(&topic, format!("{n}")).with("priority", priority)])?;
    }
    let simple = stage.open("simple", &topic, &[("group", &group)])?;
    let rows = stage.receive(&simple, given.len(), "10000")?;
    let received: Outcome<Vec<i64>> = rows.iter().map(|row| Ok(given[row.num("body")? as usize])).collect();
    // Of four queues the last one has all that is above.
    let by_queue: Vec<i64> = received?.into_iter().map(|priority| priority.min(3)).collect();
    ensure_eq!(by_queue, [3, 3, 3, 2, 2, 1, 1, 1], "priorities in the order of their messages");
    // The Go client does not tell a message's priority.
    for row in rows.iter().filter(|_| stage.client != Client::GrpcGo) {
        ensure_eq!(row.num("priority")?, given[row.num("body")? as usize], "the priority that was given");
    }
    stage.stop(&[&producer, &simple])
}

pub fn transactions(stage: &Stage<'_>) -> Outcome {
    let (topic, group) = (stage.topic("TRANSACTION")?, stage.group("")?);
    let gone = stage.open("producer", &topic, &[("check", "COMMIT")])?;
    let producer = stage.open("producer", &topic, &[("check", "COMMIT")])?;
    let consumer = stage.open("consumer", &topic, &[("group", &group)])?;
    for end in ["commit", "rollback", "unknown"] {
        let messages = [Msg::new(&topic, end).with("p.end", end)];
        stage.driver.begin("transact", &[("name", &gone), ("end", end)], &messages)?.rows()?;
    }
    // Whoever produces for the topic can answer for one that is not there any more.
    stage.stop(&[&gone])?;
    let rows = stage.driver.wait_events(&consumer, 2, DELIVERY)?;
    each_once(&rows, ["commit".to_owned(), "unknown".to_owned()])?;
    let asked = stage.driver.events(&producer);
    ensure_eq!(stage.driver.count(&gone), 0, "questions to the producer that is gone");
    ensure!(
        !asked.is_empty() && asked.iter().all(|row| row.get("body") == "unknown" && row.get("p.end") == "unknown"),
        "only the open one is asked about: {asked:?}"
    );
    stage.stop(&[&producer, &consumer])
}

pub fn filters(stage: &Stage<'_>) -> Outcome {
    let topic = stage.topic("NORMAL")?;
    let producer = stage.open("producer", &topic, &[])?;
    let (tags, sql) = (stage.group("")?, stage.group("")?);
    let by_tag = stage.open("simple", &topic, &[("group", &tags), ("expression", "a || b")])?;
    let by_sql = stage.open("consumer", &topic, &[("group", &sql), ("sql", "n > 3 AND TAGS = 'a'")])?;
    let messages: Vec<Msg> =
        (0..12).map(|n| Msg::new(&topic, format!("{n}")).with("tags", ["a", "b", "c"][n % 3]).with("p.n", n)).collect();
    stage.send(&producer, &messages)?;
    let rows = stage.receive(&by_tag, 8, stage.invisible)?;
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
pub fn crossing(stage: &Stage<'_>) -> Outcome {
    let topic = stage.topic("MIXED")?;
    let remoting = stage.lab.driver(Client::Java5)?;
    let namesrv = stage.namesrv;
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
            // The Python client keeps a message's keys as a set: their order is not what was given to it.
            let mut keys: Vec<&str> = row.get("keys").split(' ').collect();
            keys.sort_unstable();
            ensure_eq!((row.get("tags"), keys), ("t", vec!["k1", "k2"]), "tag and keys of {}", row.get("body"));
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
        let stage = Stage::beside(lab, client, &cluster)?;
        topic = stage.topic("NORMAL")?;
        producer = stage.open("producer", &topic, &[])?;
        consumer = stage.open("consumer", &topic, &[("group", &stage.group("")?)])?;
        stage.send(&producer, &[Msg::new(&topic, "before")])?;
        stage.driver.wait_events(&consumer, 1, DELIVERY)?;
    }
    cluster.broker.kill();
    cluster.broker.start(&lab.tools)?;
    let stage = Stage::beside(lab, client, &cluster)?;
    wait_for(DELIVERY, "sending after the broker was killed", || {
        Ok(stage.send(&producer, &[Msg::new(&topic, "after")]).ok().map(drop))
    })?;
    wait_for(DELIVERY, "the message sent after the kill", || {
        Ok(stage.driver.events(&consumer).iter().any(|row| row.get("body") == "after").then_some(()))
    })?;
    stage.stop(&[&producer, &consumer])
}
