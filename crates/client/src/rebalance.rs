//! Which queues this member of a group reads, and how far they are consumed.
//!
//! One task per consumer. It owns the list of queues, starts and stops their tasks, commits offsets and, for an orderly
//! group, renews the locks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use ferromq_common::allocate;
use ferromq_protocol::code::request;
use ferromq_protocol::{FrameWriter, topic};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::client::signalled;
use crate::consumer::Group;
use crate::error::{Error, Result};
use crate::message::MessageQueue;
use crate::queue_task::{self, Progress};
use crate::{lock, pull};

/// How often the queues are shared out anew without being asked to (RocketMQ's `RebalanceService`).
const REBALANCE_INTERVAL: Duration = Duration::from_secs(20);
/// After a rebalance that did not succeed.
const REBALANCE_RETRY: Duration = Duration::from_secs(1);
/// How long an orderly queue that is given up may go on with the message it is at.
const LAST_MESSAGE: Duration = Duration::from_secs(20);

/// A queue this member reads.
struct Reading {
    progress: Arc<Progress>,
    task: JoinHandle<()>,
    committed: i64,
}

/// Rebalances and commits until told to stop; then winds down.
pub(crate) async fn run(group: Arc<Group>, changed: Arc<Notify>) {
    let mut stop = group.stop.subscribe();
    let mut reading: BTreeMap<MessageQueue, Reading> = BTreeMap::new();
    let mut commits =
        tokio::time::interval(group.config.persist_consumer_offset_interval.max(Duration::from_millis(10)));
    let mut renewals = tokio::time::interval(lock::RENEWAL);
    let mut next_rebalance = Instant::now();
    loop {
        tokio::select! {
            () = signalled(&mut stop) => break,
            () = tokio::time::sleep_until(next_rebalance) => {}
            () = changed.notified() => {}
            _ = commits.tick() => {
                commit_all(&group, &mut reading).await;
                continue;
            }
            _ = renewals.tick(), if group.orderly => {
                let held = lock::lock(&group, reading.keys()).await;
                for (queue, reading) in &reading {
                    reading.progress.set_locked(held.contains(queue));
                }
                continue;
            }
        }
        let balanced = share_out(&group, &mut reading).await;
        next_rebalance = Instant::now() + if balanced { REBALANCE_INTERVAL } else { REBALANCE_RETRY };
    }
    for queue in reading.values() {
        queue.progress.stop();
    }
    // All permits back: no handler runs.
    let all = group.config.consume_thread_max.max(1) as u32;
    let handlers = group.permits.acquire_many(all);
    if tokio::time::timeout(group.config.await_termination_when_shutdown, handlers).await.is_err() {
        tracing::warn!("handlers still run, their messages will be delivered again");
    }
    for (queue, reading) in &mut reading {
        reading.task.abort();
        commit(&group, queue, reading).await;
    }
    if group.orderly {
        lock::unlock(&group, reading.keys()).await;
    }
    let name = &group.config.consumer_group;
    group.shared.leave_consumers(name);
    group.shared.unregister(None, Some(name)).await;
}

/// Makes `reading` this member's share of all topics. False when something could not be asked.
async fn share_out(group: &Arc<Group>, reading: &mut BTreeMap<MessageQueue, Reading>) -> bool {
    let mut balanced = true;
    for topic in group.subscriptions.keys() {
        let share = match share_of(group, topic).await {
            Ok(share) => share,
            // The retry topic comes with the first heartbeat and takes a while to reach the name server.
            Err(Error::NoRoute { .. } | Error::NoQueue { .. }) if topic::is_retry_topic(topic) => continue,
            Err(e) => {
                tracing::warn!(%topic, "rebalance failed: {e}");
                balanced = false;
                continue;
            }
        };
        let gone: Vec<MessageQueue> =
            reading.keys().filter(|queue| queue.topic == *topic && !share.contains(queue)).cloned().collect();
        for queue in gone {
            if let Some(old) = reading.remove(&queue) {
                give_up(group, &queue, old).await;
            }
        }
        let new: Vec<MessageQueue> = share.into_iter().filter(|queue| !reading.contains_key(queue)).collect();
        let held = if group.orderly { lock::lock(group, new.iter()).await } else { BTreeSet::new() };
        for queue in new {
            if group.orderly && !held.contains(&queue) {
                // The member that had it is still at its last message.
                balanced = false;
                continue;
            }
            match group.first_offset(&queue).await {
                Ok(offset) => {
                    let progress = Arc::new(Progress::new(offset));
                    progress.set_locked(group.orderly);
                    let work = queue_task::run(group.clone(), queue.clone(), progress.clone());
                    let task = tokio::spawn(work);
                    tracing::info!(%queue, offset, group = group.config.consumer_group, "queue taken");
                    reading.insert(queue, Reading { progress, task, committed: -1 });
                }
                Err(e) => {
                    tracing::warn!(%queue, "no offset to begin at: {e}");
                    balanced = false;
                }
            }
        }
    }
    balanced
}

async fn give_up(group: &Group, queue: &MessageQueue, mut old: Reading) {
    old.progress.stop();
    if group.orderly && tokio::time::timeout(LAST_MESSAGE, &mut old.task).await.is_err() {
        tracing::warn!(%queue, "a handler takes long, the next reader of its queue starts beside it");
    }
    old.task.abort();
    commit(group, queue, &mut old).await;
    if group.orderly {
        lock::unlock(group, std::iter::once(queue)).await;
    }
    tracing::info!(%queue, group = group.config.consumer_group, "queue given up");
}

/// This member's queues of a topic.
async fn share_of(group: &Group, topic: &str) -> Result<BTreeSet<MessageQueue>> {
    let route = group.shared.route(topic).await?;
    let mut members = group.members(&route.subscribe).await;
    if !members.as_ref().is_ok_and(|ids| ids.contains(&group.shared.client_id)) {
        // The broker is new, or has restarted, and does not know this member yet.
        group.shared.heartbeat().await;
        members = group.members(&route.subscribe).await;
    }
    let mut members = members?;
    members.sort();
    Ok(allocate::averagely(&group.shared.client_id, &route.subscribe, &members).iter().cloned().collect())
}

async fn commit_all(group: &Group, reading: &mut BTreeMap<MessageQueue, Reading>) {
    for (queue, reading) in reading {
        let offset = reading.progress.commit_point();
        if offset == reading.committed {
            continue;
        }
        let header = pull::commit_header(&group.config.consumer_group, queue, offset);
        let fields = |writer: &mut FrameWriter<'_>| header.write(writer);
        let sent = match group.shared.master_addr(&queue.broker_name) {
            Ok(addr) => group.shared.tell(&addr, request::UPDATE_CONSUMER_OFFSET, fields, &[]).await,
            Err(e) => Err(e),
        };
        match sent {
            Ok(()) => reading.committed = offset,
            Err(e) => tracing::warn!(%queue, "offset not committed, will be tried again: {e}"),
        }
    }
}

/// Commits one queue and waits for the answer.
async fn commit(group: &Group, queue: &MessageQueue, reading: &mut Reading) {
    let offset = reading.progress.commit_point();
    if offset == reading.committed {
        return;
    }
    let header = pull::commit_header(&group.config.consumer_group, queue, offset);
    let fields = |writer: &mut FrameWriter<'_>| header.write(writer);
    let answer = match group.shared.master_addr(&queue.broker_name) {
        Ok(addr) => group.shared.ask(&addr, request::UPDATE_CONSUMER_OFFSET, fields, &[]).await,
        Err(e) => Err(e),
    };
    match answer {
        Ok(_) => reading.committed = offset,
        Err(e) => tracing::warn!(%queue, "offset not committed, its messages may be delivered again: {e}"),
    }
}
