//! Locks on queues, held at the broker for an orderly group (RocketMQ 5.5 `RebalanceLockManager`): while one member has
//! a queue's lock, no other reads it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ferromq_protocol::body::{self, LockBatchRequestBody, LockBatchResponseBody};
use ferromq_protocol::code::request;
use ferromq_protocol::json;

use crate::client::body_of;
use crate::consumer::Group;
use crate::error::{Error, Result};
use crate::message::MessageQueue;

/// How often locks are renewed (`rocketmq.client.rebalance.lockInterval`).
pub(crate) const RENEWAL: Duration = Duration::from_secs(20);
/// A lock not renewed for this long counts as lost (`rocketmq.client.rebalance.lockMaxLiveTime`); the broker gives it to
/// others after 60 s.
pub(crate) const LIFETIME: Duration = Duration::from_secs(30);

/// Takes or renews locks; answers those that are held now. A broker that cannot be asked grants none.
pub(crate) async fn lock(group: &Group, queues: impl Iterator<Item = &MessageQueue>) -> BTreeSet<MessageQueue> {
    let mut held = BTreeSet::new();
    for (broker, queues) in by_broker(queues) {
        match ask(group, broker, queues, request::LOCK_BATCH_MQ).await {
            Ok(granted) => held.extend(granted),
            Err(e) => tracing::warn!(%broker, "queues not locked: {e}"),
        }
    }
    held
}

/// Gives locks back.
pub(crate) async fn unlock(group: &Group, queues: impl Iterator<Item = &MessageQueue>) {
    for (broker, queues) in by_broker(queues) {
        if let Err(e) = ask(group, broker, queues, request::UNLOCK_BATCH_MQ).await {
            tracing::warn!(%broker, "queues not unlocked, others have to wait for them: {e}");
        }
    }
}

fn by_broker<'q>(queues: impl Iterator<Item = &'q MessageQueue>) -> BTreeMap<&'q str, Vec<&'q MessageQueue>> {
    let mut brokers: BTreeMap<&str, Vec<&MessageQueue>> = BTreeMap::new();
    for queue in queues {
        brokers.entry(&queue.broker_name).or_default().push(queue);
    }
    brokers
}

async fn ask(group: &Group, broker: &str, queues: Vec<&MessageQueue>, code: i32) -> Result<Vec<MessageQueue>> {
    let addr = group.shared.master_addr(broker)?;
    let on_wire = |queue: &MessageQueue| body::MessageQueue {
        broker_name: queue.broker_name.clone(),
        queue_id: queue.queue_id,
        topic: queue.topic.clone(),
    };
    let body = LockBatchRequestBody {
        client_id: group.shared.client_id.clone(),
        consumer_group: group.config.consumer_group.clone(),
        mq_set: queues.into_iter().map(on_wire).collect(),
        only_this_broker: false,
    };
    let bytes = json::to_vec_standard(&body).map_err(|e| Error::Illegal(e.to_string()))?;
    let answer = group.shared.ask(&addr, code, |_| {}, &bytes).await?;
    if code == request::UNLOCK_BATCH_MQ {
        return Ok(Vec::new());
    }
    let granted: LockBatchResponseBody = body_of(&addr, &answer)?;
    let ours =
        |q: body::MessageQueue| MessageQueue { topic: q.topic, broker_name: q.broker_name, queue_id: q.queue_id };
    Ok(granted.lock_ok_mq_set.into_iter().map(ours).collect())
}
