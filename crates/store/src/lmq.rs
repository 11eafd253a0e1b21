//! Light message queues (RocketMQ's LMQ, 5.5 `LmqDispatch` and `MultiDispatchUtils`): one record that stands in its own
//! queue and in further ones, `%LMQ%name`, which its producer lists in the property `INNER_MULTI_DISPATCH`.
//!
//! The store adds `INNER_MULTI_QUEUE_OFFSET`, the record's offset in each of them. The numbers are known only under the
//! append lock, when the record's length is settled: they are written with leading zeros, which every reader takes. A
//! light queue is a consume queue like any other, number 0 of the topic that bears its name.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ferromq_protocol::properties::{self, names};
use ferromq_protocol::record::Record;
use ferromq_protocol::topic;

use crate::append::{is_folder_name, is_in_queue};
use crate::error::Reject;
use crate::queue::Queue;
use crate::store::Store;

/// The only queue of a light topic (RocketMQ's `LMQ_QUEUE_ID`).
pub(crate) const QUEUE_ID: u32 = 0;
/// Between two names, and between two offsets.
const SEPARATOR: char = ',';
/// Digits of an offset: as many as the largest has.
const DIGITS: usize = 19;
/// Longest name, bytes: that of a folder.
const MAX_NAME: usize = 255;

/// A queue a record stands in besides its own, and its offset there.
pub(crate) type Place = (Arc<Queue>, i64);

/// The further queues of one message.
pub(crate) struct Lights {
    /// What they are called, until they are looked up.
    names: Vec<Box<str>>,
    pub places: Vec<Place>,
}

impl Lights {
    /// Those that a message asks for, and its properties with room for the offsets. `None` if it asks for none, or its
    /// topic may not have any.
    pub fn of(topic: &str, sys_flag: i32, sent: &[u8]) -> Option<(Lights, Vec<u8>)> {
        let list = properties::get_str(sent, names::INNER_MULTI_DISPATCH)?;
        let names = parse(list).ok().filter(|_| is_in_queue(sys_flag) && allows(topic))?;
        let mut text = Vec::with_capacity(sent.len() + 32 + names.len() * (DIGITS + 1));
        properties::copy_without(sent, names::INNER_MULTI_QUEUE_OFFSET, &mut text);
        let offsets = vec!["0".repeat(DIGITS); names.len()].join(",");
        properties::push(&mut text, names::INNER_MULTI_QUEUE_OFFSET, &offsets);
        let names = names.into_iter().map(Box::from).collect();
        Some((Lights { names, places: Vec::new() }, text))
    }

    /// Looks the queues up.
    pub fn resolve(&mut self, queue: impl Fn(&str) -> Arc<Queue>) {
        self.places = std::mem::take(&mut self.names).iter().map(|name| (queue(name), 0)).collect();
    }

    /// Takes offsets and writes them into the record, at whose end they stand. Only under the append lock.
    pub fn assign(&mut self, record: &mut [u8]) {
        let first = record.len() - self.places.len() * (DIGITS + 1);
        for ((queue, offset), field) in self.places.iter_mut().zip(record[first..].chunks_exact_mut(DIGITS + 1)) {
            *offset = queue.take_next(1);
            field[..DIGITS].copy_from_slice(format!("{offset:0DIGITS$}").as_bytes());
        }
    }

    /// Gives the offsets back after a failed write. Only under the append lock.
    pub fn unassign(&self) {
        self.places.iter().rev().for_each(|(queue, offset)| queue.give_back(*offset));
    }
}

/// Names and offsets that a stored record has in light queues.
pub(crate) fn stored<'a>(record: &Record<'a>) -> Vec<(&'a str, i64)> {
    let get = |name| properties::get_str(record.properties(), name);
    let (Some(list), Some(offsets)) = (get(names::INNER_MULTI_DISPATCH), get(names::INNER_MULTI_QUEUE_OFFSET)) else {
        return Vec::new();
    };
    let is_allowed = is_in_queue(record.sys_flag()) && std::str::from_utf8(record.topic()).is_ok_and(allows);
    let Some(names) = parse(list).ok().filter(|_| is_allowed) else { return Vec::new() };
    let offsets: Vec<i64> = offsets.split(SEPARATOR).filter_map(|text| text.parse().ok()).collect();
    // Whatever does not match was not written by a broker.
    if names.len() == offsets.len() { names.into_iter().zip(offsets).collect() } else { Vec::new() }
}

/// The offset of the record in the queue, if it stands there.
pub fn offset_in(record: &Record<'_>, queue: &Queue) -> Option<i64> {
    if (record.topic(), record.queue_id() as u32) == (queue.topic().as_bytes(), queue.id()) {
        return Some(record.queue_offset());
    }
    let places = if queue.is_light() { stored(record) } else { Vec::new() };
    places.into_iter().find(|(name, _)| *name == queue.topic()).map(|(_, offset)| offset)
}

/// Whether a name is that of a light queue.
pub(crate) fn is_light(name: &str) -> bool {
    name.starts_with(topic::LMQ_PREFIX)
}

/// Whether records of the topic may stand in further queues: not what waits to be delivered or was given up.
fn allows(name: &str) -> bool {
    !name.starts_with(topic::RETRY_PREFIX) && !name.starts_with(topic::DLQ_PREFIX) && !topic::is_system_topic(name)
}

/// The names in a list.
fn parse(list: &str) -> Result<Vec<&str>, Reject> {
    let names: Vec<&str> = list.trim_end_matches(SEPARATOR).split(SEPARATOR).collect();
    let is_good = |name: &&str| is_light(name) && is_folder_name(name) && name.len() <= MAX_NAME;
    if let Some(bad) = names.iter().find(|name| !is_good(name)) {
        return Err(Reject::LightQueue { name: (*bad).to_owned() });
    }
    let distinct: BTreeSet<&str> = names.iter().copied().collect();
    if distinct.len() < names.len() {
        return Err(Reject::LightQueueTwice);
    }
    Ok(names)
}

impl Queue {
    pub(crate) fn is_light(&self) -> bool {
        is_light(self.topic())
    }
}

impl Store {
    /// Whether messages may stand in light queues.
    pub fn has_light_queues(&self) -> bool {
        self.inner.config.multi_dispatch
    }

    /// How many light queues there are, and may be.
    pub fn light_queues(&self) -> (usize, usize) {
        (self.inner.context.lights.load(Ordering::Relaxed), self.inner.config.max_lmq_consume_queue_num)
    }

    /// Whether a message of the topic may stand in the light queues of a list, the property `INNER_MULTI_DISPATCH`. Always,
    /// where the property has no meaning.
    pub fn check_light_queues(&self, topic: &str, list: &str) -> Result<(), Reject> {
        if !self.inner.config.multi_dispatch || !allows(topic) {
            return Ok(());
        }
        let names = parse(list)?;
        // It stands there already.
        if names.contains(&topic) {
            return Err(Reject::LightQueueTwice);
        }
        let new = names.iter().filter(|name| self.find_queue(name, QUEUE_ID).is_none()).count();
        self.has_room_for_light(new)
    }

    /// The handle of the light queue `name` (`%LMQ%...`), made if it is not there and `max_lmq_consume_queue_num` allows.
    pub fn light_queue(&self, name: &str) -> Result<Arc<Queue>, Reject> {
        if self.find_queue(name, QUEUE_ID).is_none() {
            parse(name)?;
            self.has_room_for_light(1)?;
        }
        Ok(self.queue(name, QUEUE_ID))
    }

    fn has_room_for_light(&self, new: usize) -> Result<(), Reject> {
        let max = self.inner.config.max_lmq_consume_queue_num;
        let there = self.inner.context.lights.load(Ordering::Relaxed);
        if new > 0 && there + new > max { Err(Reject::TooManyLightQueues { max }) } else { Ok(()) }
    }
}
