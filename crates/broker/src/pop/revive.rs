//! Bringing back what was popped and not acknowledged in time (RocketMQ's `PopReviveService`).
//!
//! One thread sleeps until the next check point is due. The messages that are left on it are appended to the group's retry
//! topic, or to its dead letters when they were tried too often, together with their acknowledgement: after a crash
//! either both are there or none, so that nothing comes back twice. A check point that cannot be worked off is tried again.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use ferromq_common::clock;
use ferromq_protocol::body::SubscriptionGroupConfig;
use ferromq_protocol::pop::{self, Origin};
use ferromq_protocol::properties::{self, names};
use ferromq_protocol::record::{self, Entry, Record};
use ferromq_protocol::topic;
use ferromq_store::{AppendBatch, Appended, MessageParts, Queue};
use parking_lot::Mutex;

use super::check_point::Key;
use super::log::with_writer;
use super::queue::PopQueue;
use super::replay::read_foreign;
use crate::broker::Shared;
use crate::properties::look;

/// Most check points of one revive queue that are worked off before others get their turn.
const AT_ONCE: usize = 64;
/// How long a check point that could not be worked off waits; all of them when the log takes nothing.
const AGAIN: Duration = Duration::from_secs(10);
/// Queues of a retry or dead-letter topic.
const RETRY_QUEUES: i32 = 1;

/// The thread.
pub(crate) struct Reviver {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Reviver {
    /// Starts the thread.
    pub fn start(shared: &Arc<Shared>) -> io::Result<Self> {
        let broker = Arc::clone(shared);
        let thread = std::thread::Builder::new().name("pop-revive".into()).spawn(move || {
            while broker.pops.wait_for_due() {
                if !revive_due(&broker) {
                    broker.pops.rest(AGAIN);
                }
            }
        })?;
        Ok(Self { shared: Arc::clone(shared), thread: Mutex::new(Some(thread)) })
    }

    /// Ends the thread after what it has in hand. Again: does nothing.
    pub fn stop(&self) {
        self.shared.pops.stop();
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that revives popped messages died; a restart revives what it left");
        }
    }
}

/// Why a check point could not be worked off.
enum Failure {
    /// The log takes nothing, of no check point.
    Log(String),
    /// It is about this one alone.
    Own(String),
}

impl From<String> for Failure {
    fn from(why: String) -> Self {
        Failure::Own(why)
    }
}

/// Works off what is due; `false` when the log takes nothing.
fn revive_due(broker: &Arc<Shared>) -> bool {
    let mut all = true;
    read_foreign(broker);
    for (queue, key) in broker.pops.due(clock::now_millis(), AT_ONCE) {
        if let Err(failure) = revive(broker, &queue, key) {
            let (is_log, why) = match failure {
                Failure::Log(why) => (true, why),
                Failure::Own(why) => (false, why),
            };
            let (topic, id, group) = (&queue.topic, queue.id, &queue.group);
            tracing::error!(
                "messages of {topic}/{id} that group {group} popped and did not acknowledge cannot come back: {why}; it is tried again in {} s",
                AGAIN.as_secs()
            );
            let now = clock::now_millis();
            if is_log {
                // Others have their turn first then.
                broker.pops.postpone(&queue, key, now);
                all = false;
                break;
            }
            broker.pops.postpone(&queue, key, now + AGAIN.as_millis() as i64);
        }
    }
    broker.store.dispatch();
    broker.answer_ready_polls();
    all
}

/// Works a check point off.
fn revive(broker: &Shared, queue: &Arc<PopQueue>, key: Key) -> Result<(), Failure> {
    // No handle of the queue gets a new life between the look at the check point and its end.
    let _taking = queue.taking.lock();
    let Some(ck) = queue.check_point(key) else { return Ok(()) };
    let normal = pop::normal_topic(&queue.topic, &queue.group);
    let (known, group) = (broker.topics.get(normal), broker.groups.get(&queue.group));
    let (Some(_), Some(group)) = (known, group) else {
        tracing::info!(
            "messages popped by {} from {} are forgotten: one of both was deleted",
            queue.group,
            queue.topic
        );
        broker.pops.remove(queue, key);
        return Ok(());
    };
    let waiting = ck.waiting(key.0);
    let source = broker.store.find_queue(&queue.topic, queue.id);
    let mut made_topic = false;
    with_writer(|writer| {
        let (mut bytes, mut text) = (Vec::new(), Vec::new());
        for offset in &waiting {
            bytes.clear();
            let found = source.as_ref().and_then(|source| {
                let entry = broker.store.entry(source, *offset)?;
                broker.store.look_entry(source, &entry, |record| bytes.extend_from_slice(record.bytes()))
            });
            let (Some(_), Entry::Record(message)) = (found, record::read(&bytes)) else {
                tracing::warn!(
                    "message {offset} of {}/{} is gone from the log before it was consumed",
                    queue.topic,
                    queue.id
                );
                continue;
            };
            let (target, made) = target(broker, queue, normal, &group, &message)?;
            made_topic |= made;
            push(broker, &mut writer.batch, &target, queue, key.1, &message, &mut text)?;
        }
        writer.ack(broker, ck.revive_queue, queue, key, &waiting).map_err(|refusal| refusal.remark.into_owned())?;
        let stored = writer.append(broker).map_err(|error| Failure::Log(error.to_string()))?;
        if !stored.iter().all(Appended::is_stored) {
            return Err(Failure::Own("the topic they come back to was deleted at this moment".into()));
        }
        // No file of offsets may pass the check point before the copies are on the disk.
        broker.pops.appended_to(writer.batch.end_position());
        Ok::<(), Failure>(())
    })?;
    broker.pops.remove(queue, key);
    if made_topic {
        broker.pops.polls.wake_all(normal, &queue.group);
    }
    Ok(())
}

/// The queue that a message comes back to, and whether its topic was made for it.
fn target(
    broker: &Shared,
    queue: &PopQueue,
    normal: &str,
    group: &SubscriptionGroupConfig,
    message: &Record<'_>,
) -> Result<(Arc<Queue>, bool), String> {
    let dead = message.reconsume_times() >= group.retry_max_times.max(0);
    let name = if dead {
        topic::dlq_topic(&queue.group)
    } else if topic::is_retry_topic(&queue.topic) {
        queue.topic.to_string()
    } else {
        let v2 = broker.config.pop.enable_retry_topic_v2;
        (if v2 { Origin::RetryV2 } else { Origin::RetryV1 }).real_topic(normal, &queue.group)
    };
    let missing = broker.topics.get(&name).is_none();
    let topic = broker.topics.create_if_absent(&name, RETRY_QUEUES, 6, false, 0);
    let topic = topic.ok_or_else(|| format!("topic {name} cannot be made"))?;
    if missing && !dead {
        // The group reads it from its first message on, whatever its start elsewhere.
        if broker.offsets.query(&name, &queue.group, 0).is_none() {
            broker.offsets.commit(&name, &queue.group, 0, 0);
        }
    }
    let target = topic.queue(&broker.store, 0).ok_or_else(|| format!("topic {name} has no queue"))?;
    Ok((Arc::clone(target), missing && !dead))
}

/// Adds the copy of a message that comes back.
fn push(
    broker: &Shared,
    batch: &mut AppendBatch,
    target: &Arc<Queue>,
    queue: &PopQueue,
    pop_time: i64,
    message: &Record<'_>,
    text: &mut Vec<u8>,
) -> Result<(), String> {
    text.clear();
    text.extend_from_slice(message.properties());
    if message.reconsume_times() == 0 || properties::get(text, names::FIRST_POP_TIME).is_none() {
        properties::set(text, names::FIRST_POP_TIME, &pop_time.to_string());
    }
    if properties::get(text, names::ORIGIN_GROUP).is_none() {
        properties::push(text, names::ORIGIN_GROUP, &queue.group);
    }
    if topic::is_dlq_topic(target.topic()) {
        let normal = pop::normal_topic(&queue.topic, &queue.group);
        properties::set(text, names::DLQ_ORIGIN_TOPIC, normal);
        if let Some(id) = properties::get_str(message.properties(), names::UNIQ_CLIENT_MESSAGE_ID_KEYIDX) {
            properties::set(text, names::DLQ_ORIGIN_MESSAGE_ID, id);
        }
    }
    if text.len() > properties::MAX_PROPERTIES_BYTES {
        // What the broker adds is for information; the message is not.
        text.clear();
        text.extend_from_slice(message.properties());
    }
    let seen = look(text);
    let part = |range: Option<std::ops::Range<usize>>| range.map(|range| &text[range]);
    let parts = MessageParts {
        topic: target.topic(),
        queue_id: target.id(),
        body: message.body(),
        properties: text,
        tags: part(seen.tags),
        keys: part(seen.keys),
        uniq_key: part(seen.uniq_key),
        flag: message.flag(),
        sys_flag: message.sys_flag(),
        born_timestamp: message.born_timestamp(),
        born_host: broker.store_host,
        store_host: broker.store_host,
        reconsume_times: message.reconsume_times().saturating_add(1),
        prepared_transaction_offset: 0,
    };
    batch.push_stored(target, &parts).map(|_| ()).map_err(|reject| reject.to_string())
}
