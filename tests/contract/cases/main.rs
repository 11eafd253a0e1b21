//! The contract: what the official, unmodified clients and hostile peers must see. Each module holds the cases of one
//! theme and lists them; `cargo test --release -p ferromq-contract -- NAME` runs those whose names contain NAME.

mod bad;
mod batch_queue;
mod broadcast;
mod churn;
mod compaction;
mod consume;
mod dead;
mod fanout;
mod faults;
mod fields;
mod filter;
mod groups;
mod grpc;
mod grpc_asked;
mod grpc_broadcast;
mod grpc_cluster;
mod grpc_lite;
mod http;
mod http_doors;
mod lag;
mod later;
mod lmq;
mod members;
mod mixed;
mod mqadmin;
mod order;
mod pop;
mod proxy_remoting;
mod queues;
mod read;
mod reply;
mod retention;
mod routes;
mod send;
mod takeover;
mod textbook;
mod transaction;

use ferromq_contract::runner::Failed;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut cases = Vec::new();
    cases.extend(send::cases());
    cases.extend(fields::cases());
    cases.extend(read::cases());
    cases.extend(consume::cases());
    cases.extend(broadcast::cases());
    cases.extend(groups::cases());
    cases.extend(members::cases());
    cases.extend(routes::cases());
    cases.extend(queues::cases());
    cases.extend(churn::cases());
    cases.extend(reply::cases());
    cases.extend(order::cases());
    cases.extend(transaction::cases());
    cases.extend(filter::cases());
    cases.extend(pop::cases());
    cases.extend(later::cases());
    cases.extend(dead::cases());
    cases.extend(grpc::cases());
    cases.extend(grpc_cluster::cases());
    cases.extend(proxy_remoting::cases());
    cases.extend(http::cases());
    cases.extend(http_doors::cases());
    cases.extend(bad::cases());
    cases.extend(textbook::cases());
    cases.extend(mixed::cases());
    cases.extend(mqadmin::cases());
    cases.extend(lag::cases());
    cases.extend(takeover::cases());
    cases.extend(lmq::cases());
    cases.extend(batch_queue::cases());
    cases.extend(compaction::cases());
    cases.extend(faults::cases());
    cases.extend(retention::cases());
    cases.extend(fanout::cases());
    ferromq_contract::runner::main(cases, Failed::RunsAgain)
}

/// The steps most cases begin with.
mod common {
    use ferromq_contract::cluster::Cluster;
    use ferromq_contract::driver::{Driver, Row};
    use ferromq_contract::record::Stored;
    use ferromq_contract::runner::{Client, Lab};
    use ferromq_contract::server::Broker;
    use ferromq_contract::{Outcome, ensure_eq, wait_for};
    use std::collections::BTreeMap;
    use std::time::Duration;

    /// Every client under test.
    pub const ALL: [Client; 3] = [Client::Java5, Client::Java4, Client::Go];
    /// The Java clients.
    pub const JAVA: [Client; 2] = [Client::Java5, Client::Java4];
    /// How long a message may take to its consumer. The Java client can drop a heartbeat while it starts and is then
    /// refused until its next one, 30 s later, by any server; it may have to learn of a retry topic by its timer as well.
    pub const DELIVERY: Duration = Duration::from_secs(120);

    /// A client on the standing server, with a fresh topic.
    pub struct Stage<'a> {
        pub driver: &'a Driver,
        pub cluster: &'a Cluster,
        pub topic: String,
        pub client: Client,
        lab: &'a Lab,
    }

    /// Runs `ferromq check-store` with the broker's own settings: exit code and report.
    pub fn check_store(lab: &Lab, broker: &Broker, options: &[&str]) -> Outcome<(Option<i32>, serde_json::Value)> {
        let mut command = std::process::Command::new(lab.tools.ferromq()?);
        command.arg("check-store").arg(broker.store()).arg("-c").arg(broker.folder.join("broker.conf"));
        let output = command.args(["--output", "json"]).args(options).output()?;
        let errors = String::from_utf8_lossy(&output.stderr);
        let report = serde_json::from_slice(&output.stdout).map_err(|e| format!("check-store: {e}: {errors}"))?;
        Ok((output.status.code(), report))
    }

    impl<'a> Stage<'a> {
        /// Sets up a topic of that many queues; none are made for 0.
        pub fn new(lab: &'a Lab, client: Client, what: &str, queues: u32) -> Outcome<Stage<'a>> {
            let driver = lab.driver(client)?;
            let cluster = lab.cluster()?;
            let topic = lab.name(&format!("{what}-{}", client.label()));
            if queues > 0 {
                cluster.create_topic(&topic, queues)?;
            }
            Ok(Stage { driver, cluster, topic, client, lab })
        }

        pub fn name(&self, what: &str) -> String {
            self.lab.name(&format!("{what}-{}", self.client.label()))
        }

        /// Starts a producer and returns its name.
        pub fn producer(&self, further: &[(&str, &str)]) -> Outcome<String> {
            let name = self.name("producer");
            start(self.driver, "producer", &self.cluster.namesrv.addr, &name, "contract-producers", further)?;
            Ok(name)
        }

        /// Starts a push consumer on the topic and returns its name.
        pub fn consumer(&self, group: &str, further: &[(&str, &str)]) -> Outcome<String> {
            let name = self.name("consumer");
            let mut all = vec![("topic", self.topic.as_str())];
            all.extend_from_slice(further);
            start(self.driver, "consumer", &self.cluster.namesrv.addr, &name, group, &all)?;
            Ok(name)
        }

        pub fn stop(&self, name: &str) -> Outcome {
            self.driver.call("stop", &[("name", name)]).map(drop)
        }

        /// Everything stored in the topic, read without a client, by queue; waits until there are `count` messages.
        pub fn stored(&self, queues: i32, count: usize) -> Outcome<Vec<Vec<Stored>>> {
            let mut conn = self.cluster.broker.conn()?;
            let mut last = 0;
            let all = wait_for(Duration::from_secs(10), "", || {
                let all: Outcome<Vec<_>> = (0..queues).map(|queue| conn.read_queue(&self.topic, queue, 0)).collect();
                let all = all?;
                last = all.iter().map(Vec::len).sum();
                Ok((last >= count).then_some(all))
            });
            ensure_eq!(last, count, "messages stored in the topic");
            all
        }
    }

    /// Starts a producer, consumer, puller or lite consumer in a driver.
    pub fn start(
        driver: &Driver,
        verb: &str,
        namesrv: &str,
        name: &str,
        group: &str,
        further: &[(&str, &str)],
    ) -> Outcome {
        let mut all = vec![("namesrv", namesrv), ("name", name), ("group", group)];
        all.extend_from_slice(further);
        driver.call(verb, &all).map(drop)
    }

    /// How often each body occurs.
    pub fn bodies<'r>(rows: impl IntoIterator<Item = &'r Row>) -> BTreeMap<String, usize> {
        let mut all = BTreeMap::new();
        for row in rows {
            *all.entry(row.get("body").to_owned()).or_insert(0) += 1;
        }
        all
    }

    /// Fails unless each expected body was received exactly once and nothing else was.
    pub fn each_once(rows: &[Row], expected: impl IntoIterator<Item = String>) -> Outcome {
        let expected: BTreeMap<String, usize> = expected.into_iter().map(|body| (body, 1)).collect();
        ensure_eq!(bodies(rows), expected, "bodies and how often they came");
        Ok(())
    }

    /// `prefix-0`, `prefix-1`, ...
    pub fn numbered(prefix: &str, count: usize) -> Vec<String> {
        (0..count).map(|i| format!("{prefix}-{i}")).collect()
    }
}
