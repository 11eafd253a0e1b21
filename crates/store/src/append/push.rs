//! Adding a message to a batch: checked, encoded and its CRC computed, outside of any lock.

use std::sync::Arc;

use ferromq_protocol::record::{Content, Encoder, MessageParts};
use ferromq_protocol::sys_flag::message as flags;
use ferromq_protocol::topic;

use super::{AppendBatch, Message, delay, is_folder_name, is_in_queue, tags_code};
use crate::dispatch::Group;
use crate::error::Reject;
use crate::index;
use crate::lmq::Lights;
use crate::queue::Queue;

/// What messages of one queue have in common that differ in their content only: checked and encoded once for all of them.
pub struct Alike<'a> {
    queue: &'a Arc<Queue>,
    encoder: Encoder<'a>,
    sys_flag: i32,
    is_in_queue: bool,
    is_indexed: bool,
    is_scheduled: bool,
}

impl<'a> Alike<'a> {
    /// For messages like `m`.
    pub fn new(queue: &'a Arc<Queue>, m: &MessageParts<'a>) -> Result<Self, Reject> {
        if m.topic != queue.topic() || m.queue_id != queue.id() {
            return Err(Reject::OtherQueue);
        }
        if !is_folder_name(m.topic) {
            return Err(Reject::TopicName);
        }
        let kind = flags::transaction_value(m.sys_flag);
        Ok(Self {
            queue,
            encoder: Encoder::new(m)?,
            sys_flag: m.sys_flag,
            is_in_queue: is_in_queue(m.sys_flag),
            is_indexed: queue.context().index && kind != flags::TRANSACTION_ROLLBACK,
            is_scheduled: m.topic == topic::SCHEDULE,
        })
    }
}

impl AppendBatch {
    /// Encodes a message; its place in the batch.
    pub fn push(&mut self, queue: &Arc<Queue>, m: &MessageParts<'_>) -> Result<usize, Reject> {
        self.push_alike(&Alike::new(queue, m)?, &m.content())
    }

    /// The same of one of several that are alike.
    pub fn push_alike(&mut self, alike: &Alike<'_>, m: &Content<'_>) -> Result<usize, Reject> {
        let context = alike.queue.context();
        if m.body.len() > context.max_body {
            return Err(Reject::Body { len: m.body.len(), max: context.max_body });
        }
        self.encode(alike, m, context.max_record)
    }

    /// Encodes the copy of a message that the log holds already. It was accepted once: a `maxMessageSize` that was lowered
    /// since does not concern it, only a log file must have room for it.
    pub fn push_stored(&mut self, queue: &Arc<Queue>, m: &MessageParts<'_>) -> Result<usize, Reject> {
        self.encode(&Alike::new(queue, m)?, &m.content(), queue.context().max_stored)
    }

    fn encode(&mut self, alike: &Alike<'_>, m: &Content<'_>, max_record: u64) -> Result<usize, Reject> {
        let queue = alike.queue;
        let context = queue.context();
        let lights = match context.multi_dispatch && m.may_fan_out {
            true => Lights::of(queue.topic(), alike.sys_flag, m.properties),
            false => None,
        };
        let before = self.bytes.len();
        let properties = lights.as_ref().map_or(m.properties, |(_, properties)| properties.as_slice());
        let size = alike.encoder.encode(m.flag, m.body, properties, &mut self.bytes)?;
        if size as u64 > max_record {
            self.bytes.truncate(before);
            return Err(Reject::TooLarge { len: size, max: max_record });
        }
        let hashes_before = self.hashes.len();
        if alike.is_indexed {
            index::push_hashes(queue.key_prefix(), m.uniq_key, m.keys, &mut self.hashes);
        }
        match self.groups.last_mut() {
            Some(group) if Arc::ptr_eq(&group.queue, queue) => group.len += 1,
            _ => self.groups.push(Group { queue: Arc::clone(queue), len: 1 }),
        }
        self.fans_out |= lights.is_some();
        self.messages.push(Message {
            size: size as u32,
            hash_count: (self.hashes.len() - hashes_before) as u32,
            tags_code: tags_code(m.tags),
            delay: alike.is_scheduled.then(|| delay(m.properties, &context.delays)).flatten(),
            in_queue: alike.is_in_queue,
            inner: None,
            lights: lights.map(|(lights, _)| Box::new(lights)),
        });
        Ok(self.messages.len() - 1)
    }
}
