//! Remoting clients that know nothing but the address of a proxy: that of a broker's own process, and one in front of two
//! brokers. Everything that they do with a NameServer has to work through it, also when a broker dies behind it.

use crate::common::{ALL, DELIVERY, each_once, numbered, start};
use ferromq_contract::cluster::{create_typed_topic, transaction_timeout};
use ferromq_contract::driver::{Driver, Msg, Row};
use ferromq_contract::proxy::Proxy;
use ferromq_contract::runner::{Case, Client, Lab};
use ferromq_contract::server::{Broker, Make, Namesrv, free_ports};
use ferromq_contract::wire::{Conn, code};
use ferromq_contract::{Outcome, Stop, ensure, ensure_eq, wait_for};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::net::TcpListener;
use std::thread;

pub fn cases() -> Vec<Case> {
    let mut all = vec![Case::waiting("proxy_remoting::java5-tls::begins_a_handshake", begins_a_handshake)];
    for client in ALL.into_iter().chain([Client::Java5Tls]) {
        let label = client.label();
        all.push(Case::waiting(format!("proxy_remoting::{label}::of_one_broker"), move |lab| {
            serve(&Place::of_one_broker(lab, client)?)
        }));
        all.push(Case::waiting(format!("proxy_remoting::{label}::of_two_brokers"), move |lab| {
            serve(&Place::of_two_brokers(lab, client)?)
        }));
        all.push(Case::waiting(format!("proxy_remoting::{label}::through_a_broker_kill"), move |lab| {
            through_a_kill(Place::of_two_brokers(lab, client)?)
        }));
    }
    all
}

/// Servers, and the one address that clients know.
struct Place<'a> {
    lab: &'a Lab,
    client: Client,
    driver: &'a Driver,
    namesrv: Namesrv,
    brokers: Vec<Broker>,
    _proxy: Option<Proxy>,
    door: String,
}

impl<'a> Place<'a> {
    fn of_one_broker(lab: &'a Lab, client: Client) -> Outcome<Place<'a>> {
        let mut place = Place::without_brokers(lab, client)?;
        place.add_broker("broker-a", Some(free_ports()))?;
        place.door = place.brokers[0].front_door().ok_or("the broker has no proxy")?;
        Ok(place)
    }

    fn of_two_brokers(lab: &'a Lab, client: Client) -> Outcome<Place<'a>> {
        let mut place = Place::without_brokers(lab, client)?;
        place.add_broker("broker-a", None)?;
        place.add_broker("broker-b", None)?;
        let proxy = Proxy::start(&lab.tools, Make::Ferro, &lab.folder("proxy")?, &place.namesrv.addr)?;
        place.door = proxy.front_door.clone();
        place._proxy = Some(proxy);
        Ok(place)
    }

    fn without_brokers(lab: &'a Lab, client: Client) -> Outcome<Place<'a>> {
        if lab.make.is_java() {
            return Err(Stop::Skipped("Java's proxy knows no clients that do not name the broker they mean".into()));
        }
        let namesrv = Namesrv::start(&lab.tools, Make::Ferro, &lab.folder("namesrv")?)?;
        let driver = lab.driver(client)?;
        Ok(Place { lab, client, driver, namesrv, brokers: Vec::new(), _proxy: None, door: String::new() })
    }

    fn add_broker(&mut self, name: &str, proxy: Option<u16>) -> Outcome {
        let mut broker = Broker::new(Make::Ferro, &self.lab.folder(name)?, name, &self.namesrv.addr)
            .set("transactionTimeOut", transaction_timeout(Make::Ferro))
            .set("transactionCheckInterval", 1000)
            .set("enableMixedMessageType", true);
        broker.grpc = proxy;
        broker.start(&self.lab.tools)?;
        self.brokers.push(broker);
        Ok(())
    }

    fn name(&self, what: &str) -> String {
        self.lab.name(&format!("{what}-{}", self.client.label()))
    }

    fn topic(&self, what: &str) -> Outcome<String> {
        let topic = self.name(what);
        create_typed_topic(&self.brokers, &self.namesrv.addr, &topic, 4, "MIXED")?;
        Ok(topic)
    }

    fn open(&self, verb: &str, group: &str, further: &[(&str, &str)]) -> Outcome<String> {
        let name = self.name(verb);
        start(self.driver, verb, &self.door, &name, group, further)?;
        Ok(name)
    }

    fn stop(&self, names: &[&str]) -> Outcome {
        names.iter().try_for_each(|name| self.driver.call("stop", &[("name", name)]).map(drop))
    }
}

/// A theme, and its name for a failure.
type Theme = (&'static str, fn(&Place<'_>) -> Outcome);

/// All themes at once: they mostly wait.
fn serve(place: &Place<'_>) -> Outcome {
    let mut themes: Vec<Theme> =
        vec![("routes", routes), ("push consumer", pushed), ("order", ordered), ("transactions", transactions)];
    // Other clients do not pop.
    let pops = matches!(place.client, Client::Java5 | Client::Java5Tls);
    themes.extend(pops.then_some(("pop consumer", popped as fn(&Place<'_>) -> Outcome)));
    // What tools read is the Java clients' own.
    themes.extend((place.client != Client::Go).then_some(("tools", tools as fn(&Place<'_>) -> Outcome)));
    thread::scope(|scope| {
        let started: Vec<_> = themes.into_iter().map(|(name, run)| (name, scope.spawn(move || run(place)))).collect();
        let ended = started.into_iter().map(|(name, theme)| match theme.join() {
            Ok(Err(Stop::Failed(why))) => Err(Stop::Failed(format!("{name}: {why}"))),
            Ok(outcome) => outcome,
            Err(_) => Err(Stop::Failed(format!("{name} panicked"))),
        });
        ended.collect()
    })
}

/// The client of the cases with TLS speaks it, to whatever it is told.
fn begins_a_handshake(lab: &Lab) -> Outcome {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let (driver, name) = (lab.driver(Client::Java5Tls)?, lab.name("sealed"));
    start(driver, "producer", &listener.local_addr()?.to_string(), &name, "contract-producers", &[])?;
    let sending = driver.begin("send", &[("name", &name), ("mode", "sync")], &[Msg::new("Nowhere", "lost")])?;
    let mut first = [0];
    listener.accept()?.0.read_exact(&mut first)?;
    drop(listener);
    ensure!(sending.rows().is_err(), "there is nobody who could have taken a message");
    driver.call("stop", &[("name", &name)])?;
    ensure_eq!(first, [22], "the first byte of a connection");
    Ok(())
}

/// No route leads past the proxy.
fn routes(place: &Place<'_>) -> Outcome {
    let topic = place.topic("routes")?;
    let mut door = Conn::open(&place.door)?;
    let answer = door.call(code::GET_ROUTEINFO_BY_TOPIC, &[("topic", &topic)], &[])?.ok()?;
    let route = String::from_utf8_lossy(&answer.body).into_owned();
    for broker in &place.brokers {
        ensure!(route.contains(&format!("\"{}\"", broker.name)), "{} is not in {route}", broker.name);
        ensure!(!route.contains(&broker.addr()), "{} is told: {route}", broker.addr());
    }
    let unknown = door.call(code::GET_ROUTEINFO_BY_TOPIC, &[("topic", "NeverHeardOf")], &[])?;
    ensure_eq!(unknown.code, 17, "code for an unknown topic");
    let refused = door.call(9999, &[], &[])?;
    ensure_eq!(refused.code, 3, "code for an unknown request");
    Ok(())
}

/// Messages come once, failed ones again, from all brokers; the broker knows its client.
fn pushed(place: &Place<'_>) -> Outcome {
    let (topic, group) = (place.topic("pushed")?, place.name("group"));
    let consumer = place.open("consumer", &group, &[("topic", &topic), ("later", "2")])?;
    let producer = place.open("producer", "contract-producers", &[])?;
    let all: Vec<Msg> = numbered("m", 40).into_iter().map(|body| Msg::new(&topic, body)).collect();
    let sent = place.driver.send(&producer, "sync", &all)?;
    ensure_eq!(sent.iter().filter(|row| row.get("status") == "SEND_OK").count(), 40, "messages stored");
    let got = place.driver.wait_events(&consumer, 40, DELIVERY)?;
    for broker in &place.brokers {
        let mut conn = broker.conn()?;
        let stored: Outcome<Vec<_>> = (0..4).map(|queue| conn.read_queue(&topic, queue, 0)).collect();
        ensure!(stored?.iter().map(Vec::len).sum::<usize>() >= 10, "{} has too few of the messages", broker.name);
        let known = conn.call(code::GET_CONSUMER_LIST_BY_GROUP, &[("consumerGroup", &group)], &[])?;
        ensure_eq!(known.code, 0, "whether {} knows the consumer", broker.name);
    }
    place.stop(&[&consumer, &producer])?;
    each_once(&got, numbered("m", 40))
}

const ORDERS: usize = 5;
const STEPS: usize = 8;

/// The textbook's selector and an orderly listener, which locks its queues.
fn ordered(place: &Place<'_>) -> Outcome {
    let topic = place.topic("ordered")?;
    let options = [("topic", topic.as_str()), ("mode", "orderly"), ("suspend", "2")];
    let consumer = place.open("consumer", &place.name("orderly"), &options)?;
    let producer = place.open("producer", "contract-producers", &[("selector", "hash")])?;
    let step = |order: usize, step: usize| Msg::new(&topic, format!("{order}/{step}")).with("hash", order);
    let all: Vec<Msg> = (0..STEPS).flat_map(|s| (0..ORDERS).map(move |o| (o, s))).map(|(o, s)| step(o, s)).collect();
    let mode = if place.client == Client::Go { "sync" } else { "selector" };
    place.driver.send(&producer, mode, &all)?;
    let got = place.driver.wait_events(&consumer, ORDERS * STEPS, DELIVERY)?;
    place.stop(&[&consumer, &producer])?;
    in_order(&got)
}

/// Each order in one queue, its steps as they were sent.
fn in_order(rows: &[Row]) -> Outcome {
    let mut steps: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    let mut queues: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for row in rows {
        let (order, step) = row.get("body").split_once('/').ok_or("a foreign body")?;
        steps.entry(order).or_default().push(step.parse().map_err(|_| "a foreign body")?);
        queues.entry(order).or_default().insert(row.get("queue"));
    }
    ensure_eq!(steps.len(), ORDERS, "orders received");
    for (order, seen) in steps {
        ensure_eq!(seen, (0..STEPS).collect::<Vec<_>>(), "steps of order {order} as they arrived");
        ensure_eq!(queues[order].len(), 1, "queues of order {order}");
    }
    Ok(())
}

/// Outcomes told at once, and told when the broker asks.
fn transactions(place: &Place<'_>) -> Outcome {
    let topic = place.topic("transactions")?;
    let consumer = place.open("consumer", &place.name("settled"), &[("topic", &topic)])?;
    let producer = place.open("transactional", &place.name("deciders"), &[])?;
    let message = |body: &str, local: &str, check: &str| {
        Msg::new(&topic, body).with("p.local", local).with("p.check", check).with("p.unknowns", 0)
    };
    let messages = [
        message("committed", "commit", "rollback"),
        message("rolled back", "rollback", "commit"),
        message("checked and committed", "unknown", "commit"),
        message("also checked and committed", "unknown", "commit"),
        message("checked and rolled back", "unknown", "rollback"),
    ];
    place.driver.begin("transact", &[("name", &producer)], &messages)?.rows()?;
    let asked = |body: &str| place.driver.events(&producer).iter().any(|row| row.get("body") == body);
    let got = place.driver.wait_events(&consumer, 3, DELIVERY)?;
    wait_for(DELIVERY, "a check of what is rolled back", || Ok(asked("checked and rolled back").then_some(())))?;
    place.stop(&[&consumer, &producer])?;
    each_once(&got, ["committed", "checked and committed", "also checked and committed"].map(str::to_owned))
}

/// Queues shared out by the broker.
fn popped(place: &Place<'_>) -> Outcome {
    let (topic, group) = (place.topic("popped")?, place.name("poppers"));
    for broker in &place.brokers {
        let body = format!(r#"{{"consumerGroup":"{group}","mode":"POP","popShareQueueNum":0,"topic":"{topic}"}}"#);
        broker.conn()?.call(code::SET_MESSAGE_REQUEST_MODE, &[], body.as_bytes())?.ok()?;
    }
    let consumer = place.open("consumer", &group, &[("topic", &topic), ("pop", "60000")])?;
    let producer = place.open("producer", "contract-producers", &[])?;
    let all: Vec<Msg> = numbered("m", 40).into_iter().map(|body| Msg::new(&topic, body)).collect();
    place.driver.send(&producer, "sync", &all)?;
    let got = place.driver.wait_events(&consumer, 40, DELIVERY)?;
    let revived = "rmq_sys_REVIVE_LOG_DefaultCluster";
    for broker in &place.brokers {
        let mut conn = broker.conn()?;
        let records: Outcome<i64> = (0..8).map(|queue| conn.bound(code::GET_MAX_OFFSET, revived, queue)).sum();
        ensure!(records? > 0, "nothing was popped at {}", broker.name);
    }
    place.stop(&[&consumer, &producer])?;
    each_once(&got, numbered("m", 40))
}

/// Tools ask the client, by the proxy and by the broker that has a message.
fn tools(place: &Place<'_>) -> Outcome {
    let (topic, group) = (place.topic("asked")?, place.name("asked-group"));
    let consumer = place.open("consumer", &group, &[("topic", &topic)])?;
    let producer = place.open("producer", "contract-producers", &[])?;
    let sent = place.driver.send(&producer, "sync", &[Msg::new(&topic, "look at me")])?;
    place.driver.wait_events(&consumer, 1, DELIVERY)?;
    let clients = format!("consumerStatus -g {group}");
    let id = wait_for(DELIVERY, "the client among those of its group", || {
        let printed = place.lab.mqadmin(&place.door, &clients)?;
        let line = printed.lines().find_map(|line| line.strip_prefix("1 "));
        Ok(line.and_then(|line| line.split(' ').next().map(str::to_owned)))
    })?;
    let told = place.lab.mqadmin(&place.door, &format!("{clients} -i {id} -s"))?;
    for text in ["#Consumer Subscription#", "#Consumer jstack#", topic.as_str()] {
        ensure!(told.contains(text), "{text} is not in what the client says of itself:\n{told}");
    }
    let message = sent.first().map(|row| row.get("offsetid")).unwrap_or_default();
    let push = format!("queryMsgById -t {topic} -c DefaultCluster -i {message} -g {group} -d {id}");
    let pushed = place.lab.mqadmin(&place.namesrv.addr, &push)?;
    ensure!(pushed.contains("consumeResult=CR_SUCCESS"), "what the client made of the message:\n{pushed}");
    let got = place.driver.wait_events(&consumer, 2, DELIVERY)?;
    ensure!(got.iter().all(|row| row.get("body") == "look at me"), "another message: {got:?}");
    place.stop(&[&consumer, &producer])
}

/// One of two brokers is killed: sends go on with the other; it comes back, and what it had is delivered.
fn through_a_kill(mut place: Place<'_>) -> Outcome {
    let topic = place.topic("killed")?;
    let consumer = place.open("consumer", &place.name("survivors"), &[("topic", &topic)])?;
    let producer = place.open("producer", "contract-producers", &[("timeout", "2000")])?;
    let mut acknowledged = Vec::new();
    for n in 0..60 {
        if n == 20 {
            place.brokers[0].kill();
        }
        let body = format!("m-{n}");
        let rows = place.driver.send(&producer, "sync", &[Msg::new(&topic, body.as_str())]);
        if rows.is_ok_and(|rows| rows.iter().all(|row| row.get("status") == "SEND_OK")) {
            acknowledged.push(body);
        }
    }
    let after = acknowledged.len().saturating_sub(20);
    ensure!(after >= 15, "only {after} of 40 messages were taken by the broker that lives");
    place.brokers[0].start(&place.lab.tools)?;
    wait_for(DELIVERY, "all acknowledged messages", || {
        let got: BTreeSet<String> =
            place.driver.events(&consumer).iter().map(|row| row.get("body").to_owned()).collect();
        Ok(acknowledged.iter().all(|body| got.contains(body)).then_some(()))
    })?;
    place.stop(&[&consumer, &producer])
}
