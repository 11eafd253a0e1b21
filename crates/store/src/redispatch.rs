//! Records that recovery reads, to their queues and the index.
//!
//! A queue's records stand in the log in the order of their offsets. One that does not go on where its queue ends is
//! damaged (no checksum guards the place a record names), or is the first behind records that are lost, or the first of
//! a topic that was deleted and made again. The record alone does not tell; the next one of its queue does, so it waits
//! for that one.

use std::collections::HashMap;
use std::sync::Arc;

use ferromq_protocol::record::Record;

use crate::dispatch::{Dispatcher, Item};
use crate::lmq;
use crate::queue::Queue;
use crate::store::Inner;

/// Records that wait, at most one for each queue, by the queue.
pub(crate) type Doubts = HashMap<u64, (Arc<Queue>, Item)>;

impl Inner {
    /// Dispatches one record of the log during recovery; `false` if one of its queues lacks entries before it.
    /// `may_be_behind`: queues may have entries of later records.
    pub fn redispatch(&self, record: &Record<'_>, may_begin_anywhere: bool, may_be_behind: bool) -> bool {
        let mut d = self.dispatcher.lock();
        let d = &mut *d;
        d.forget();
        let Some((queue, item)) = self.item_of(record, &d.ended, &mut d.hashes) else { return true };
        let lights = if item.fans_out { lmq::stored(record) } else { Vec::new() };
        let redispatch =
            |d: &mut Dispatcher, queue, item| self.redispatch_item(d, queue, item, may_begin_anywhere, may_be_behind);
        if !redispatch(d, queue, item) {
            return false;
        }
        lights.into_iter().all(|(name, offset)| {
            d.hashes.clear();
            redispatch(d, self.queue(name, lmq::QUEUE_ID), item.in_light(offset))
        })
    }

    fn redispatch_item(
        &self,
        d: &mut Dispatcher,
        queue: Arc<Queue>,
        item: Item,
        may_begin_anywhere: bool,
        may_be_behind: bool,
    ) -> bool {
        if item.in_queue {
            let (offset, end) = (item.queue_offset, queue.max_offset());
            // The queue of a topic that was deleted and made again holds the messages of one life only.
            if may_be_behind && queue.is_ahead_of(offset, item.physical_offset) {
                return true;
            }
            let doubt = if d.doubts.is_empty() { None } else { d.doubts.remove(&queue.uid()) };
            match doubt {
                Some((queue, doubt)) if is_continued(&doubt, offset, end) => {
                    if doubt.queue_offset < end {
                        if doubt.queue_offset > 0 && !may_begin_anywhere {
                            return false;
                        }
                        queue.restart();
                    }
                    d.take(queue, doubt);
                }
                doubt => {
                    doubt.iter().for_each(|(queue, item)| tell_misplaced(queue, item));
                    let is_there = offset < end && item.physical_offset < queue.built_to();
                    let is_first = end == 0 && may_begin_anywhere;
                    // What waited stands where the record of `end` has to stand: its own offset is wrong.
                    let is_second = doubt.is_some_and(|(_, doubt)| offset == end + i64::from(doubt.messages));
                    if offset != end && !is_there && !is_first && !is_second {
                        if offset > end && !may_begin_anywhere {
                            return false;
                        }
                        self.index.put(&d.hashes, [item.keyed()].into_iter());
                        d.doubts.insert(queue.uid(), (queue, Item { hash_count: 0, ..item }));
                        return true;
                    }
                }
            }
        }
        d.take(queue, item);
        self.dispatch_all(d);
        true
    }

    /// After the last record: those that no other followed. A queue goes on behind a gap, and begins anew; but a record
    /// that names the place of another is left out.
    pub fn settle_doubts(&self) {
        let mut d = self.dispatcher.lock();
        let d = &mut *d;
        for (_, (queue, item)) in std::mem::take(&mut d.doubts) {
            if item.queue_offset < queue.max_offset() {
                if item.queue_offset > 0 {
                    tell_misplaced(&queue, &item);
                    continue;
                }
                queue.restart();
            }
            d.hashes.clear();
            d.take(queue, item);
            self.dispatch_all(d);
        }
    }

    /// All the work in hand.
    fn dispatch_all(&self, d: &mut Dispatcher) {
        while d.has_work() {
            self.dispatch_run(d, u64::MAX, usize::MAX);
        }
        d.forget();
    }
}

/// Whether two records on end, the first of them in doubt, are the queue behind a gap or a queue that began anew: both
/// lie on one side of its end, in order. Of a queue with one message the second record of the new one is at the end.
fn is_continued(doubt: &Item, next: i64, end: i64) -> bool {
    let (doubt, behind) = (doubt.queue_offset, doubt.queue_offset.saturating_add(i64::from(doubt.messages)));
    doubt < next && (doubt > end || next < end || (doubt == 0 && next == behind))
}

fn tell_misplaced(queue: &Queue, item: &Item) {
    tracing::error!(
        topic = queue.topic(),
        queue = queue.id(),
        offset = item.queue_offset,
        position = item.physical_offset,
        "a record in the commit log names a wrong place in its queue: it is damaged and left out, what follows is served"
    );
}
