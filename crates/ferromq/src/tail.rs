//! `ferromq tail`: the messages of a topic as they are and as they come, without a consumer group of its own, so that nothing
//! about the topic's real consumers changes.
//!
//! One task per queue pulls and waits at the broker; one channel of bounded size brings the messages to the printer.

use crate::cli::TailArgs;
use crate::{Failure, connect, printer, text};
use ferromq_client::{Client, Error, MessageQueue, PullConsumer, PullStatus, ReceivedMessage, Subscription};
use ferromq_common::clock;
use serde_json::json;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// RocketMQ's group for tools; brokers have it from the start.
const GROUP: &str = "TOOLS_CONSUMER";
/// Messages asked for at once.
const BATCH: u32 = 32;
/// Messages between the readers and the printer.
const WAITING_MESSAGES: usize = 256;
/// How long a pull waits at the broker.
const WAIT: Duration = Duration::from_secs(15);
/// Pause after a failure, and between two looks for a topic that is not there yet.
const RETRY: Duration = Duration::from_secs(1);
/// How often new queues and brokers are looked for.
const ROUTE_PERIOD: Duration = Duration::from_secs(10);

/// Where reading starts.
#[derive(Clone, Copy)]
enum Start {
    Beginning,
    Next,
    Since(i64),
}

/// Prints messages until it is stopped, has printed enough, or nobody reads.
pub fn run(arguments: TailArgs) -> Result<(), Failure> {
    connect::block_on(async {
        let client = connect::client(&arguments.cluster)?;
        tokio::select! {
            done = follow(&client, &arguments) => done?,
            _ = tokio::signal::ctrl_c() => {}
        }
        client.shutdown().await;
        Ok(())
    })
}

async fn follow(client: &Client, arguments: &TailArgs) -> Result<(), Failure> {
    let consumer = Arc::new(client.pull_consumer(GROUP)?);
    let subscription =
        Arc::new(if arguments.tag == "*" { Subscription::all() } else { Subscription::tags(&arguments.tag) });
    let (arrived, mut messages) = mpsc::channel(WAITING_MESSAGES);
    let mut start = match (arguments.from_beginning, arguments.since) {
        (true, _) => Start::Beginning,
        (_, Some(span)) => Start::Since(clock::now_millis() - span as i64),
        _ => Start::Next,
    };
    let mut known = HashSet::new();
    let mut waiting_for_topic = false;
    let mut look = tokio::time::interval(ROUTE_PERIOD);
    let mut printed = 0;
    loop {
        tokio::select! {
            _ = look.tick() => match consumer.queues(&arguments.topic).await {
                Ok(queues) => {
                    for queue in queues.into_iter().filter(|queue| known.insert(queue.clone())) {
                        let offset = first_offset(&consumer, &queue, start).await;
                        let offset = offset.map_err(|error| connect::explain(&error, &arguments.cluster))?;
                        tokio::spawn(read(consumer.clone(), subscription.clone(), queue, offset, arrived.clone()));
                    }
                    // What appears from now on is new as a whole.
                    start = Start::Beginning;
                    if waiting_for_topic {
                        waiting_for_topic = false;
                        look = tokio::time::interval(ROUTE_PERIOD);
                    }
                }
                Err(Error::NoRoute { .. }) if known.is_empty() => {
                    start = Start::Beginning;
                    if !waiting_for_topic {
                        waiting_for_topic = true;
                        printer::error(&format!("topic {} does not exist yet; waiting for its first message", arguments.topic));
                        look = tokio::time::interval(RETRY);
                        look.reset();
                    }
                }
                Err(error) if known.is_empty() => return Err(connect::explain(&error, &arguments.cluster)),
                Err(error) => tracing::debug!("route not refreshed: {error}"),
            },
            Some(message) = messages.recv() => {
                let shown = if arguments.json { as_json(&message) } else { as_text(&message) };
                printed += 1;
                if !printer::line(&shown) || arguments.count.is_some_and(|count| printed >= count) {
                    return Ok(());
                }
            }
        }
    }
}

async fn first_offset(consumer: &PullConsumer, queue: &MessageQueue, start: Start) -> Result<i64, Error> {
    match start {
        Start::Beginning => consumer.min_offset(queue).await,
        Start::Next => consumer.max_offset(queue).await,
        Start::Since(timestamp) => consumer.search_offset(queue, timestamp).await,
    }
}

/// Reads one queue for as long as somebody listens.
async fn read(
    consumer: Arc<PullConsumer>,
    subscription: Arc<Subscription>,
    queue: MessageQueue,
    mut offset: i64,
    arrived: mpsc::Sender<ReceivedMessage>,
) {
    let mut failing = false;
    while !arrived.is_closed() {
        match consumer.pull(&queue, offset, BATCH, &subscription, Some(WAIT)).await {
            Ok(pulled) => {
                failing = false;
                if pulled.status != PullStatus::NoNewMessage {
                    offset = pulled.next_begin_offset;
                }
                for message in pulled.messages {
                    if arrived.send(message).await.is_err() {
                        return;
                    }
                }
            }
            Err(error) => {
                if !failing {
                    printer::error(&format!(
                        "queue {} of {}: {error}; trying again",
                        queue.queue_id, queue.broker_name
                    ));
                }
                failing = true;
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

fn as_text(message: &ReceivedMessage) -> String {
    let tag = message.tag().map(|tag| format!("  [{}]", text::body(tag.as_bytes()))).unwrap_or_default();
    let MessageQueue { broker_name, queue_id, .. } = &message.queue;
    let place = format!("{broker_name}:{queue_id}@{}", message.queue_offset);
    format!("{}  {place}{tag}  {}", text::utc(message.store_timestamp), text::body(&message.body))
}

/// A message as one JSON object.
pub fn as_json(message: &ReceivedMessage) -> String {
    let mut object = json!({
        "topic": message.topic(),
        "broker": message.queue.broker_name,
        "queueId": message.queue.queue_id,
        "queueOffset": message.queue_offset,
        "messageId": message.message_id(),
        "offsetMessageId": message.offset_message_id,
        "storeTimestamp": message.store_timestamp,
        "bornTimestamp": message.born_timestamp,
        "properties": message.properties,
    });
    match std::str::from_utf8(&message.body) {
        Ok(body) => object["body"] = body.into(),
        Err(_) => object["bodyHex"] = text::hexadecimal(&message.body).into(),
    }
    object.to_string()
}
