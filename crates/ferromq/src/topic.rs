//! `ferromq topic`: list, create, delete, route.

use crate::cli::{Cluster, TopicCommand};
use crate::{Failure, connect, printer};
use ferromq_client::{Client, Error, TopicSettings};
use ferromq_protocol::topic;
use std::time::Duration;

/// How long a new topic may take until the NameServer tells clients of it.
const VISIBLE_WITHIN: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Does what the command says.
pub fn run(command: TopicCommand) -> Result<(), Failure> {
    connect::block_on(async {
        match command {
            TopicCommand::List { cluster, all } => list(&cluster, all).await,
            TopicCommand::Create { topic, cluster, queues, message_type } => {
                let client = connect::client(&cluster)?;
                let attributes =
                    message_type.map(|kind| format!("+message.type={}", format!("{kind:?}").to_uppercase()));
                let brokers = create(&client, &cluster, &topic, queues, attributes).await?;
                printer::lines([format!("topic {topic} has {queues} queues on each of: {}", brokers.join(", "))]);
                Ok(())
            }
            TopicCommand::Delete { topic, cluster } => {
                let client = connect::client(&cluster)?;
                let explain = |error: Error| connect::explain(&error, &cluster);
                // Asked first, so that a misspelled name is an error and not a silent success.
                client.admin().topic_route(&topic).await.map_err(explain)?;
                client.admin().delete_topic(None, &topic).await.map_err(explain)?;
                printer::lines([format!("topic {topic} is deleted")]);
                Ok(())
            }
            TopicCommand::Route { topic, cluster } => route(&cluster, &topic).await,
        }
    })
}

/// Creates or changes a topic on all masters and waits until its route can be seen. The addresses of the masters.
/// `attributes` as `mqadmin updateTopic -a` takes them.
pub async fn create(
    client: &Client,
    cluster: &Cluster,
    topic: &str,
    queues: u32,
    attributes: Option<String>,
) -> Result<Vec<String>, Failure> {
    let (queues, attributes) = (i32::try_from(queues)?, attributes.unwrap_or_default());
    let settings =
        TopicSettings { read_queue_nums: queues, write_queue_nums: queues, attributes, ..TopicSettings::new(topic) };
    let created = client.admin().update_topic_in_cluster(None, &settings).await;
    let brokers = created.map_err(|error| connect::explain(&error, cluster))?;
    let visible = async {
        while client.admin().topic_route(topic).await.is_err() {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    if tokio::time::timeout(VISIBLE_WITHIN, visible).await.is_err() {
        return Err(Failure(format!(
            "topic {topic} is created, but the NameServer does not know it after {} s; clients may take a while to find it",
            VISIBLE_WITHIN.as_secs()
        )));
    }
    Ok(brokers)
}

async fn list(cluster: &Cluster, all: bool) -> Result<(), Failure> {
    let client = connect::client(cluster)?;
    let topics = client.admin().topics().await.map_err(|error| connect::explain(&error, cluster))?;
    let mut names: Vec<_> = topics.topic_list.into_iter().filter(|name| all || !is_own(name)).collect();
    names.sort_unstable();
    printer::lines(names);
    Ok(())
}

fn is_own(name: &str) -> bool {
    topic::is_system_topic(name) || ["%RETRY%", "%DLQ%", "RMQ_SYS_"].iter().any(|prefix| name.starts_with(prefix))
}

async fn route(cluster: &Cluster, topic: &str) -> Result<(), Failure> {
    let client = connect::client(cluster)?;
    let route = client.admin().topic_route(topic).await.map_err(|error| connect::explain(&error, cluster))?;
    printer::lines([format!("{:<24} {:<24} {:>6} {:>6} {:>5}", "BROKER", "ADDRESS", "READ", "WRITE", "PERM")]);
    for queues in &route.queue_datas {
        let brokers = route.broker_datas.iter().filter(|broker| broker.broker_name == queues.broker_name);
        for (id, address) in brokers.flat_map(|broker| &broker.broker_addrs) {
            let name =
                if *id == 0 { queues.broker_name.clone() } else { format!("{} (slave {id})", queues.broker_name) };
            let (read, write, perm) = (queues.read_queue_nums, queues.write_queue_nums, queues.perm);
            printer::lines([format!("{name:<24} {address:<24} {read:>6} {write:>6} {perm:>5}")]);
        }
    }
    Ok(())
}
