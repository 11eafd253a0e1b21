//! From the log to consume queues and index, in log order, as far as messages may be seen.
//!
//! Cooperative: whoever calls [`Inner::dispatch`] and gets the lock does everybody's work; no thread is woken for it, and
//! nobody waits for it, except that those who append faster than one thread dispatches are held back. Appends leave small
//! items in a bounded list (`Pending`); when it overflows, dispatch reads the log instead until it has caught up.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

use ferromq_protocol::record::{self, Entry, Record};
use ferromq_protocol::sys_flag::message as flags;
use ferromq_protocol::topic;

use crate::append;
use crate::index::{self, Keyed};
use crate::labels::Labels;
use crate::lives::Ended;
use crate::lmq;
use crate::queue::{CqEntry, Kind, Queue};
use crate::redispatch::Doubts;
use crate::space::queue_name;
use crate::store::Inner;

/// Most items that wait; beyond it the log is read again, which costs about three times as much a message. Some 7 MiB,
/// and the messages of 50 ms at full speed: what a dispatcher that lost its processor has to catch up with.
const MAX_PENDING: usize = 131_072;
/// Items that wait from which on whoever appends more takes part, or waits until the list is short again.
const CROWDED: usize = 16_384;
/// Longest such wait: a dispatcher that the disk holds up does not hold up those who append.
const MAX_HOLD_BACK: Duration = Duration::from_millis(5);
/// Records taken from the log at once.
const READ_BACK: usize = 1024;
/// Most messages a caller dispatches for itself and others; what is left is for a thread of the store.
const MAX_PER_CALL: usize = 8192;

/// A message that became visible to consumers.
pub struct Arrival<'a> {
    pub queue: &'a Arc<Queue>,
    pub queue_offset: i64,
    /// Hash of the tag, 0 without one.
    pub tags_code: i64,
    /// Position in the log, bytes.
    pub physical_offset: u64,
    /// Milliseconds since 1970.
    pub store_timestamp: i64,
}

/// Messages of one queue, one behind the other.
pub(crate) struct Group {
    pub queue: Arc<Queue>,
    pub len: usize,
}

/// A message that is in the log but not in its queue, or not in one of its further, light queues.
#[derive(Clone, Copy)]
pub(crate) struct Item {
    pub queue_offset: i64,
    pub physical_offset: u64,
    pub size: u32,
    pub hash_count: u32,
    pub tags_code: i64,
    pub store_timestamp: i64,
    /// Offsets it takes in its queue.
    pub messages: i16,
    pub in_queue: bool,
    /// Read from the log, it may name light queues.
    pub fans_out: bool,
}

impl Item {
    fn end(&self) -> u64 {
        self.physical_offset + u64::from(self.size)
    }

    /// The same message in a light queue.
    pub fn in_light(&self, queue_offset: i64) -> Item {
        Item { queue_offset, messages: 1, hash_count: 0, fans_out: false, ..*self }
    }

    pub fn keyed(&self) -> Keyed {
        Keyed { hashes: self.hash_count as usize, offset: self.physical_offset, timestamp: self.store_timestamp }
    }

    /// Its entry in a queue of that kind.
    pub fn entry(&self, kind: Kind) -> CqEntry {
        CqEntry {
            queue_offset: self.queue_offset,
            messages: self.messages,
            physical_offset: self.physical_offset as i64,
            size: self.size as i32,
            tags_code: self.tags_code,
            store_timestamp: if kind == Kind::Batch { self.store_timestamp } else { 0 },
        }
    }
}

/// What appends left for dispatch.
#[derive(Default)]
pub(crate) struct Pending {
    items: Vec<Item>,
    /// The queues of the items, in order.
    groups: Vec<Group>,
    hashes: Vec<u32>,
    /// Items were left out since the list was last empty.
    overflowed: bool,
}

impl Pending {
    /// Adds the items of one append, all or none.
    pub fn push(
        &mut self,
        hashes: &[u32],
        groups: impl Iterator<Item = Group>,
        items: impl ExactSizeIterator<Item = Item>,
    ) {
        if self.overflowed || self.items.len() + items.len() > MAX_PENDING {
            self.overflowed = true;
            return;
        }
        self.hashes.extend_from_slice(hashes);
        self.groups.extend(groups);
        self.items.extend(items);
    }

    /// Whether more comes than is dispatched.
    fn is_crowded(&self) -> bool {
        self.overflowed || self.items.len() >= CROWDED
    }
}

/// What the holder of the dispatch lock works with.
#[derive(Default)]
pub(crate) struct Dispatcher {
    items: Vec<Item>,
    /// The queues of the items, in order; `len` is what is left of a group.
    groups: Vec<Group>,
    pub hashes: Vec<u32>,
    /// Items, groups and hashes done.
    head: usize,
    group_head: usize,
    hash_head: usize,
    /// Everything before it is in queues and index.
    pub position: u64,
    /// Sum of the ends of all queues.
    pub entries: i64,
    /// Store timestamp of the last message, milliseconds since 1970.
    pub timestamp: i64,
    /// Queues with entries that are not in their files.
    pub dirty: Vec<Arc<Queue>>,
    /// Only while recovery reads: see `redispatch.rs`.
    pub doubts: Doubts,
    /// Deleted topics whose records are still to be dispatched.
    pub ended: Ended,
}

impl Dispatcher {
    /// Drops the work in hand.
    pub fn forget(&mut self) {
        (self.head, self.group_head, self.hash_head) = (0, 0, 0);
        self.items.clear();
        self.groups.clear();
        self.hashes.clear();
    }

    /// Whether there is work in hand.
    pub fn has_work(&self) -> bool {
        self.head < self.items.len()
    }

    /// Adds to the work in hand.
    pub fn take(&mut self, queue: Arc<Queue>, item: Item) {
        self.items.push(item);
        self.groups.push(Group { queue, len: 1 });
    }
}

impl Inner {
    /// See [`crate::Store::dispatch`].
    pub fn dispatch(&self) {
        let mut budget = MAX_PER_CALL;
        loop {
            // What this thread has published is seen by the holder after it lets go, if the lock looks taken.
            fence(Ordering::SeqCst);
            let held_back = || {
                let is_crowded = self.pending.lock().is_crowded();
                is_crowded.then(|| self.dispatcher.try_lock_for(MAX_HOLD_BACK)).flatten()
            };
            let Some(mut dispatcher) = self.dispatcher.try_lock().or_else(held_back) else { return };
            self.drain(&mut dispatcher, &mut budget);
            let position = dispatcher.position;
            self.dispatched.store(position, Ordering::Release);
            drop(dispatcher);
            // Whoever published after the last look and found the lock taken left the work to this thread.
            fence(Ordering::SeqCst);
            if position >= self.visible() || self.failure.is_set() {
                return;
            }
            if budget == 0 {
                return self.background.want_dispatch();
            }
        }
    }

    /// Waits for the lock and dispatches what may be; for threads of the store.
    pub fn dispatch_now(&self) {
        let mut dispatcher = self.dispatcher.lock();
        self.drain(&mut dispatcher, &mut { usize::MAX });
        self.dispatched.store(dispatcher.position, Ordering::Release);
        drop(dispatcher);
        self.dispatch_for_others();
    }

    /// For whoever held the lock without dispatching: callers that found it taken meanwhile left their work.
    pub fn dispatch_for_others(&self) {
        self.dispatch();
        if let Some(after) = self.after_dispatch.get() {
            after();
        }
    }

    /// Dispatches up to the visible position, `budget` messages; the last of them is put into all of its queues, so that
    /// position and entries go together.
    fn drain(&self, d: &mut Dispatcher, budget: &mut usize) {
        while *budget > 0 {
            if !d.has_work() && !self.refill(d) {
                return;
            }
            let limit = self.visible();
            let before = d.head;
            let is_begun = |d: &Dispatcher, next: &Item| {
                d.head.checked_sub(1).is_some_and(|at| d.items[at].physical_offset == next.physical_offset)
            };
            while let Some(next) = d.items.get(d.head).filter(|item| item.end() <= limit)
                && (*budget > 0 || is_begun(d, next))
            {
                *budget -= self.dispatch_run(d, limit, (*budget).max(1)).min(*budget);
            }
            if d.head == before {
                return;
            }
        }
    }

    /// Dispatches the next items of one queue, at most `max`; how many.
    pub fn dispatch_run(&self, d: &mut Dispatcher, limit: u64, max: usize) -> usize {
        let group = &mut d.groups[d.group_head];
        let queue = &group.queue;
        let run = &d.items[d.head..d.head + group.len.min(max)];
        let len = run.iter().take_while(|item| item.end() <= limit).count();
        let run = &run[..len];
        let before = queue.max_offset();
        let in_queue = || run.iter().filter(|item| item.in_queue);
        if in_queue().next().is_some() && !queue.is_deleted() {
            let (was_clean, written) = queue.put(in_queue().map(|item| item.entry(queue.kind())));
            if was_clean {
                d.dirty.push(Arc::clone(queue));
            }
            if let Err(error) = written {
                self.derived_write_failed(&queue_name(queue), &error);
            }
            d.entries += queue.max_offset() - before;
        }
        d.hash_head += self.index.put(&d.hashes[d.hash_head..], run.iter().map(Item::keyed));
        if let Some(last) = run.last() {
            // A record is done when it is in all of its queues.
            let is_done = d.items.get(d.head + len).is_none_or(|next| next.physical_offset != last.physical_offset);
            d.position = if is_done { last.end() } else { last.physical_offset };
            d.timestamp = last.store_timestamp;
        }
        // Pairs with the fence of a pull that is being parked: it sees the new end, or this sees the watcher.
        fence(Ordering::SeqCst);
        if queue.watchers.load(Ordering::Relaxed) > 0 {
            for item in in_queue().filter(|item| item.queue_offset >= before) {
                (self.listener)(&Arrival {
                    queue,
                    queue_offset: item.queue_offset,
                    tags_code: item.tags_code,
                    physical_offset: item.physical_offset,
                    store_timestamp: item.store_timestamp,
                });
            }
        }
        d.head += len;
        group.len -= len;
        d.group_head += usize::from(group.len == 0);
        len
    }

    /// Takes the next items from the list, or from the log after an overflow.
    fn refill(&self, d: &mut Dispatcher) -> bool {
        d.forget();
        d.ended.forget_before(d.position);
        {
            let mut pending = self.pending.lock();
            std::mem::swap(&mut pending.items, &mut d.items);
            std::mem::swap(&mut pending.groups, &mut d.groups);
            std::mem::swap(&mut pending.hashes, &mut d.hashes);
            if !d.items.is_empty() {
                return true;
            }
            if !pending.overflowed {
                return false;
            }
            if d.position >= self.log.end() {
                pending.overflowed = false;
                return false;
            }
        }
        let limit = self.visible();
        let mut position = d.position;
        while d.items.len() < READ_BACK && position < limit {
            let segment = self.log.segment(position);
            let Some((segment, bytes)) = segment.as_ref().and_then(|s| Some((s, s.bytes_from(position, limit)?)))
            else {
                self.fail(&format!("reading the commit log back at {position}"), &"no file holds it");
                break;
            };
            match record::read(bytes) {
                Entry::Record(record) => {
                    if let Some((queue, item)) = self.item_of(&record, &d.ended, &mut d.hashes) {
                        let lights = if item.fans_out { lmq::stored(&record) } else { Vec::new() };
                        d.take(queue, item);
                        for (name, offset) in lights {
                            let light = self.queue_at(&d.ended, name, lmq::QUEUE_ID, position);
                            light.into_iter().for_each(|light| d.take(light, item.in_light(offset)));
                        }
                    }
                    position += record.bytes().len() as u64;
                }
                Entry::Blank => position = segment.end(),
                Entry::Invalid(damage) => {
                    self.fail(&format!("reading the commit log back at {position}"), &damage);
                    break;
                }
            }
        }
        if d.items.is_empty() {
            // Only records that no queue takes.
            d.position = position;
        }
        !d.items.is_empty()
    }

    /// What dispatch needs to know of a stored record, and its queue; its hashes are appended to `hashes`. `None` if the
    /// record has no topic that could be a folder, or one that ended without the queue.
    pub fn item_of(&self, record: &Record<'_>, ended: &Ended, hashes: &mut Vec<u32>) -> Option<(Arc<Queue>, Item)> {
        let Some(name) = std::str::from_utf8(record.topic()).ok().filter(|name| append::is_folder_name(name)) else {
            tracing::error!(
                position = record.physical_offset(),
                "the topic of a stored record is no name; no consumer will see the record"
            );
            return None;
        };
        let labels = Labels::of(record.properties());
        let physical_offset = u64::try_from(record.physical_offset()).ok()?;
        let queue = self.queue_at(ended, name, u32::try_from(record.queue_id()).ok()?, physical_offset)?;
        let before = hashes.len();
        if queue.context().index && flags::transaction_value(record.sys_flag()) != flags::TRANSACTION_ROLLBACK {
            index::push_hashes(queue.key_prefix(), labels.uniq_key, labels.keys, hashes);
        }
        let delay = (name == topic::SCHEDULE).then(|| append::delay(record.properties(), &queue.context().delays));
        let item = Item {
            queue_offset: record.queue_offset(),
            physical_offset,
            size: record.bytes().len() as u32,
            hash_count: (hashes.len() - before) as u32,
            tags_code: delay
                .flatten()
                .map_or_else(|| append::tags_code(labels.tags), |ms| record.store_timestamp() + ms),
            store_timestamp: record.store_timestamp(),
            messages: if queue.is_batch() { append::messages_in(record) } else { 1 },
            in_queue: append::is_in_queue(record.sys_flag()),
            fans_out: labels.fans_out,
        };
        Some((queue, item))
    }
}
