//! Reading one queue for a group consumer: pull, hand to the handler, remember what is done.
//!
//! One task per queue. It holds the messages of one pull at most: the next pull waits until all of them have a permit to
//! run, so memory is bounded by pull size times queues.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use ferromq_protocol::code::request;
use ferromq_protocol::header::send::ConsumerSendMsgBackHeader;
use ferromq_protocol::properties::names;
use ferromq_protocol::{FrameWriter, Text, topic};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::client::{MASTER_ID, signalled};
use crate::consumer::{Ack, Group, Handling};
use crate::error::{Error, Result};
use crate::lock;
use crate::message::{MessageQueue, ReceivedMessage};
use crate::pull::{Pull, PullStatus};

/// Pause after a pull that failed.
const PAUSE_AFTER_ERROR: Duration = Duration::from_secs(1);
/// How often a queue without its lock looks whether it has it again.
const LOCK_LOOK: Duration = Duration::from_millis(100);
/// Pause before a message is handled again that could not be sent back.
const PAUSE_BEFORE_RETRY: Duration = Duration::from_secs(5);

/// How far a queue has been consumed.
pub(crate) struct Progress {
    state: Mutex<State>,
    stopped: watch::Sender<bool>,
}

struct State {
    /// Offset of the next pull.
    next: i64,
    /// Offsets handed to the handler and not done.
    under_way: BTreeSet<i64>,
    /// When the lock of an orderly queue was last granted.
    locked_at: Option<Instant>,
    /// Counts resets: what was handed out before one no longer matters.
    generation: u64,
}

impl Progress {
    pub fn new(next: i64) -> Self {
        let state = State { next, under_way: BTreeSet::new(), locked_at: None, generation: 0 };
        Self { state: Mutex::new(state), stopped: watch::Sender::new(false) }
    }

    /// Pulls no more.
    pub fn stop(&self) {
        let _ = self.stopped.send_replace(true);
    }

    /// Notes that the queue's lock has been granted or lost.
    pub fn set_locked(&self, locked: bool) {
        self.state.lock().locked_at = locked.then(Instant::now);
    }

    /// Waits for the lock; false when told to stop first.
    async fn locked(&self) -> bool {
        loop {
            if *self.stopped.borrow() {
                return false;
            }
            let at = self.state.lock().locked_at;
            if at.is_some_and(|at| at.elapsed() < lock::LIFETIME) {
                return true;
            }
            tokio::time::sleep(LOCK_LOOK).await;
        }
    }

    /// Everything before this offset is done.
    pub fn commit_point(&self) -> i64 {
        let state = self.state.lock();
        state.under_way.first().copied().unwrap_or(state.next).min(state.next)
    }

    fn next(&self) -> i64 {
        self.state.lock().next
    }

    /// Notes the offsets of one pull before any of them is handled.
    fn begin(&self, offsets: impl Iterator<Item = i64>, next: i64) -> u64 {
        let mut state = self.state.lock();
        state.under_way.extend(offsets);
        state.next = next;
        state.generation
    }

    fn done(&self, offset: i64, generation: u64) {
        let mut state = self.state.lock();
        if state.generation == generation {
            state.under_way.remove(&offset);
        }
    }

    /// The broker moved the group: what was read before it counts no more.
    fn reset(&self, next: i64) {
        let mut state = self.state.lock();
        state.under_way.clear();
        state.generation += 1;
        state.next = next;
    }
}

/// Pulls until stopped.
pub(crate) async fn run(group: Arc<Group>, queue: MessageQueue, progress: Arc<Progress>) {
    let mut stopped = progress.stopped.subscribe();
    let mut broker_id = MASTER_ID;
    let mut failing = false;
    while !*stopped.borrow() {
        if group.orderly && !progress.locked().await {
            return;
        }
        let Some(subscription) = group.subscriptions.get(&queue.topic) else { return };
        let pull = Pull {
            group: &group.config.consumer_group,
            queue: &queue,
            offset: progress.next(),
            max_messages: group.config.pull_batch_size,
            subscription,
            suspend: Some(group.config.broker_suspend_max_time),
            commit: None,
            broker_id,
        };
        let pulled = tokio::select! {
            pulled = pull.run(&group.shared) => pulled,
            () = signalled(&mut stopped) => return,
        };
        let pulled = match pulled {
            Ok(pulled) => pulled,
            Err(e) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(%queue, "pull failed, goes on trying: {e}");
                }
                broker_id = MASTER_ID;
                tokio::time::sleep(PAUSE_AFTER_ERROR).await;
                if matches!(e, Error::UnknownBroker(_) | Error::Unreachable { .. }) {
                    let _ = group.shared.fetch_route(&queue.topic).await;
                }
                continue;
            }
        };
        if std::mem::take(&mut failing) {
            tracing::info!(%queue, "pull works again");
        }
        broker_id = pulled.suggested_broker_id;
        if pulled.status == PullStatus::OffsetIllegal {
            tracing::warn!(%queue, from = pulled.next_begin_offset, "offset was outside the queue or has been reset");
            progress.reset(pulled.next_begin_offset);
            continue;
        }
        let offsets = pulled.messages.iter().map(|m| m.queue_offset);
        let generation = progress.begin(offsets, pulled.next_begin_offset);
        for message in pulled.messages {
            let Ok(permit) = group.permits.clone().acquire_owned().await else { return };
            if *stopped.borrow() {
                return;
            }
            if group.orderly {
                let offset = message.queue_offset;
                if !handle_in_order(&group, message, &progress).await {
                    return;
                }
                progress.done(offset, generation);
                continue;
            }
            let (group, progress) = (group.clone(), progress.clone());
            tokio::spawn(async move {
                let offset = message.queue_offset;
                handle(&group, message, &progress).await;
                progress.done(offset, generation);
                drop(permit);
            });
        }
    }
}

/// Calls the handler until the message is acknowledged or back at the broker, or the queue is no longer ours.
async fn handle(group: &Group, mut message: ReceivedMessage, progress: &Progress) {
    loop {
        let ack = guarded((group.handler)(as_sent(group, message.clone()))).await;
        if ack == Ack::Done {
            return;
        }
        match send_back(group, &message, AFTER_A_WHILE).await {
            Ok(()) => return,
            Err(e) => tracing::warn!(id = message.message_id(), "not sent back, will be handled again here: {e}"),
        }
        message.reconsume_times += 1;
        tokio::time::sleep(PAUSE_BEFORE_RETRY).await;
        if *progress.stopped.borrow() {
            return;
        }
    }
}

/// Calls the handler until the message is acknowledged or, after its last try, a dead letter. False when the queue is no
/// longer ours.
async fn handle_in_order(group: &Group, mut message: ReceivedMessage, progress: &Progress) -> bool {
    while progress.locked().await {
        if guarded((group.handler)(as_sent(group, message.clone()))).await == Ack::Done {
            return true;
        }
        let max = group.config.max_reconsume_times;
        if max >= 0 && message.reconsume_times >= max {
            match send_back(group, &message, TO_DEAD_LETTERS).await {
                Ok(()) => return true,
                Err(e) => tracing::warn!(id = message.message_id(), "no dead letter yet, will be tried again: {e}"),
            }
        } else {
            message.reconsume_times += 1;
        }
        tokio::time::sleep(group.config.suspend_current_queue_time).await;
    }
    false
}

/// A retried message under the topic it was sent to.
fn as_sent(group: &Group, mut message: ReceivedMessage) -> ReceivedMessage {
    if topic::group_of_retry_topic(&message.queue.topic) == Some(&group.config.consumer_group)
        && let Some(original) = message.property(names::RETRY_TOPIC)
    {
        message.queue.topic = original.to_owned();
    }
    message
}

/// A handler that panics has not done its message.
async fn guarded(mut handling: Handling) -> Ack {
    poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| handling.as_mut().poll(cx))) {
        Ok(poll) => poll,
        Err(_) => {
            tracing::error!("the handler panicked, its message will be delivered again");
            Poll::Ready(Ack::Later)
        }
    })
    .await
}

/// Delay level by which the broker chooses the delay from the number of tries.
const AFTER_A_WHILE: i32 = 0;
/// Delay level of no further delivery.
const TO_DEAD_LETTERS: i32 = -1;

/// Gives a message back to the broker.
async fn send_back(group: &Group, message: &ReceivedMessage, delay_level: i32) -> Result<()> {
    let addr = group.shared.master_addr(&message.queue.broker_name)?;
    let original = message.property(names::RETRY_TOPIC).unwrap_or(&message.queue.topic);
    let max = group.config.max_reconsume_times;
    let header = ConsumerSendMsgBackHeader {
        offset: message.commit_log_offset,
        group: Text::plain(&group.config.consumer_group),
        delay_level,
        origin_msg_id: Some(Text::plain(message.message_id())),
        origin_topic: Some(Text::plain(original)),
        unit_mode: false,
        max_reconsume_times: (max >= 0).then_some(max),
    };
    let fields = |writer: &mut FrameWriter<'_>| header.write(writer);
    group.shared.ask(&addr, request::CONSUMER_SEND_MSG_BACK, fields, &[]).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commits_follow_the_oldest_message_under_way() {
        let progress = Progress::new(10);
        assert_eq!(progress.commit_point(), 10);
        let generation = progress.begin([10, 11, 14].into_iter(), 15);
        progress.done(11, generation);
        assert_eq!(progress.commit_point(), 10);
        progress.done(10, generation);
        assert_eq!(progress.commit_point(), 14);
        progress.done(14, generation);
        assert_eq!(progress.commit_point(), 15);
    }

    #[test]
    fn a_reset_forgets_what_was_under_way() {
        let progress = Progress::new(10);
        let old = progress.begin([10, 11].into_iter(), 12);
        progress.reset(5);
        assert_eq!(progress.commit_point(), 5);
        let new = progress.begin([5, 10].into_iter(), 11);
        progress.done(10, old);
        progress.done(5, new);
        assert_eq!(progress.commit_point(), 10, "the old 10 is not the new one");
    }
}
