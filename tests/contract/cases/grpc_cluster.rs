//! The proxy as a process of its own, ours in front of two of our brokers and of a Java one, Java's in front of ours: what
//! `grpc.rs` asks of the proxy in a broker's process, and what only a cluster has.

use crate::common::{DELIVERY, each_once, numbered};
use crate::grpc::{self, Stage};
use ferromq_contract::cluster::transaction_timeout;
use ferromq_contract::driver::Msg;
use ferromq_contract::proxy::Proxy;
use ferromq_contract::record::Stored;
use ferromq_contract::runner::{Case, Client, Lab};
use ferromq_contract::server::{Broker, Make, Namesrv};
use ferromq_contract::{Outcome, Stop, ensure, ensure_eq, wait_for};
use std::thread;

/// A theme, and its name for a failure.
type Theme = (&'static str, fn(&Stage<'_>) -> Outcome);

/// What every client must see, whatever stands behind the proxy.
const THEMES: [Theme; 8] = [
    ("simple consumer", grpc::simple_consumer),
    ("push consumer and dead letters", grpc::push_and_dead_letters),
    ("fifo", grpc::fifo),
    ("delayed and recalled", grpc::delayed_and_recalled),
    ("transactions", grpc::transactions),
    ("filters", grpc::filters),
    ("crossing", grpc::crossing),
    ("spread", spread),
];

pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for client in grpc::CLIENTS {
        let label = client.label();
        all.push(Case::waiting(format!("grpc::{label}::proxy_of_two_brokers"), move |lab| {
            serve(lab, client, (Make::Ferro, Make::Ferro), 2)
        }));
        all.push(Case::waiting(format!("grpc::{label}::proxy_of_java_broker"), move |lab| {
            serve(lab, client, (Make::Ferro, Make::Java), 1)
        }));
        // The Rust client gives a call no more time than it lets it wait, which is too little for Java's proxy to take it.
        if client != Client::GrpcRust {
            all.push(Case::waiting(format!("grpc::{label}::java_proxy_of_two_brokers"), move |lab| {
                serve(lab, client, (Make::Java, Make::Ferro), 2)
            }));
        }
        all.push(Case::waiting(format!("grpc::{label}::proxy_through_a_broker_kill"), move |lab| {
            through_a_kill(lab, client)
        }));
    }
    all
}

/// A NameServer, brokers and a proxy in front of them.
pub struct Cluster {
    pub namesrv: Namesrv,
    pub brokers: Vec<Broker>,
    pub proxy: Proxy,
}

impl Cluster {
    pub fn start(lab: &Lab, (proxy, make): (Make, Make), count: usize) -> Outcome<Cluster> {
        if lab.make.is_java() {
            return Err(Stop::Skipped("the case says itself whose servers it needs".into()));
        }
        let folder = lab.folder("grpc-cluster")?;
        let namesrv = Namesrv::start(&lab.tools, make, &folder.join("namesrv"))?;
        let mut brokers = Vec::new();
        for name in ["broker-a", "broker-b"].into_iter().take(count) {
            let mut broker = Broker::new(make, &folder.join(name), name, &namesrv.addr)
                .set("transactionTimeOut", transaction_timeout(make))
                .set("transactionCheckInterval", 1000)
                .set("recallMessageEnable", true)
                .set("enableMixedMessageType", true)
                .set("enablePropertyFilter", true);
            broker.start(&lab.tools)?;
            brokers.push(broker);
        }
        let proxy = Proxy::start(&lab.tools, proxy, &folder.join("proxy"), &namesrv.addr)?;
        Ok(Cluster { namesrv, brokers, proxy })
    }

    fn stage<'a>(&'a self, lab: &'a Lab, client: Client) -> Outcome<Stage<'a>> {
        let (endpoints, namesrv) = (self.proxy.addr.clone(), self.namesrv.addr.as_str());
        Ok(Stage {
            lab,
            client,
            driver: lab.driver(client)?,
            endpoints,
            namesrv,
            brokers: &self.brokers,
            invisible: "30000",
        })
    }
}

/// All themes at once: they mostly wait.
fn serve(lab: &Lab, client: Client, makes: (Make, Make), count: usize) -> Outcome {
    let cluster = Cluster::start(lab, makes, count)?;
    let stage = &cluster.stage(lab, client)?;
    thread::scope(|scope| {
        let started = THEMES.map(|(name, theme)| (name, scope.spawn(move || theme(stage))));
        let ended = started.map(|(name, theme)| match theme.join() {
            Ok(Err(Stop::Failed(why))) => Err(Stop::Failed(format!("{name}: {why}"))),
            Ok(outcome) => outcome,
            Err(_) => Err(Stop::Failed(format!("{name} panicked"))),
        });
        ended.into_iter().collect()
    })
}

/// Messages go to all brokers, those of a group to one queue; a consumer gets them all.
fn spread(stage: &Stage<'_>) -> Outcome {
    let (topic, group) = (stage.topic("MIXED")?, stage.group("")?);
    let producer = stage.open("producer", &topic, &[])?;
    let simple = stage.open("simple", &topic, &[("group", &group)])?;
    let plain = numbered("plain", 24).into_iter().map(|body| Msg::new(&topic, body));
    let grouped = numbered("grouped", 8).into_iter().map(|body| Msg::new(&topic, body).with("group", "one"));
    stage.send(&producer, &plain.chain(grouped).collect::<Vec<_>>())?;
    let mut queues_of_group = 0;
    for broker in stage.brokers {
        let (queues, starts) =
            (queues(broker, &topic)?, |message: &Stored, text: &[u8]| message.body.starts_with(text));
        let plain = queues.iter().flatten().filter(|message| starts(message, b"plain")).count();
        ensure!(plain >= 6, "{} has {plain} of 24 messages", broker.name);
        queues_of_group +=
            queues.iter().filter(|queue| queue.iter().any(|message| starts(message, b"grouped"))).count();
    }
    ensure_eq!(queues_of_group, 1, "queues with messages of the group");
    let rows = stage.receive(&simple, 32, stage.invisible)?;
    each_once(&rows, numbered("plain", 24).into_iter().chain(numbered("grouped", 8)))?;
    stage.stop(&[&producer, &simple])
}

/// What a broker has of a topic, by queue.
fn queues(broker: &Broker, topic: &str) -> Outcome<Vec<Vec<Stored>>> {
    let mut conn = broker.conn()?;
    (0..4).map(|queue| conn.read_queue(topic, queue, 0)).collect()
}

/// One of two brokers is killed: sends go on with the other; it comes back, and what it had is delivered.
fn through_a_kill(lab: &Lab, client: Client) -> Outcome {
    let mut cluster = Cluster::start(lab, (Make::Ferro, Make::Ferro), 2)?;
    let (topic, producer, consumer);
    {
        let stage = cluster.stage(lab, client)?;
        topic = stage.topic("NORMAL")?;
        producer = stage.open("producer", &topic, &[])?;
        consumer = stage.open("consumer", &topic, &[("group", &stage.group("")?)])?;
        stage.send(
            &producer,
            &numbered("before", 8).into_iter().map(|body| Msg::new(&topic, body)).collect::<Vec<_>>(),
        )?;
        stage.driver.wait_events(&consumer, 8, DELIVERY)?;
    }
    cluster.brokers[1].kill();
    let sent = numbered("while", 8);
    {
        let stage = cluster.stage(lab, client)?;
        for body in &sent {
            wait_for(DELIVERY, "sending while a broker is down", || {
                Ok(stage.send(&producer, &[Msg::new(&topic, body.clone())]).ok().map(drop))
            })?;
        }
    }
    cluster.brokers[1].start(&lab.tools)?;
    let stage = cluster.stage(lab, client)?;
    for body in numbered("after", 8) {
        wait_for(DELIVERY, "sending after the broker came back", || {
            Ok(stage.send(&producer, &[Msg::new(&topic, body.clone())]).ok().map(drop))
        })?;
    }
    wait_for(DELIVERY, "all messages at the push consumer", || {
        let rows = stage.driver.events(&consumer);
        let has = |body: &String| rows.iter().any(|row| row.get("body") == body);
        Ok((sent.iter().chain(&numbered("after", 8)).all(has)).then_some(()))
    })?;
    wait_for(DELIVERY, "messages on the broker that came back", || {
        if queues(&stage.brokers[1], &topic)?.iter().flatten().any(|message| message.body.starts_with(b"after")) {
            return Ok(Some(()));
        }
        stage.send(&producer, &[Msg::new(&topic, "after-all")])?;
        Ok(None)
    })?;
    stage.stop(&[&producer, &consumer])
}
