//! The messages of one SEND_BATCH_MESSAGE: each becomes a record of its own with consecutive queue offsets, stored with
//! exactly the properties its producer wrote (`MessageExtEncoder.encode(MessageExtBatch)`). In a topic with
//! `queue.type=BatchCQ` a batch that has a unique key becomes one record, which consumers take apart
//! (`SendMessageProcessor.sendBatchMessage`).

use std::ops::Range;

use ferromq_protocol::code::response;
use ferromq_protocol::header::send::SendHeader;
use ferromq_protocol::record::{self, BatchError, Content, InnerMessage};
use ferromq_protocol::topic as names;
use ferromq_store::Alike;

use super::lights::check_lights;
use super::topic::check_key;
use super::{Sends, Target, illegal_size, parts, push_key, queue_of, refuse_other_kinds, rejected};
use crate::broker::Shared;
use crate::handler::{Call, Refusal};
use crate::properties::{self, Seen};

/// Most messages in one SEND_BATCH_MESSAGE.
const MAX_INNER_MESSAGES: usize = 32 * 1024;

impl Sends {
    pub(super) fn add_batch(
        &mut self,
        broker: &Shared,
        call: &Call<'_>,
        header: &SendHeader<'_>,
        target: &Target,
    ) -> Result<(), Refusal> {
        let name = target.topic.name();
        if name.starts_with(names::RETRY_PREFIX) || target.dead_letter {
            let remark = format!("batch request does not support retry group {name}");
            return Err(Refusal::new(response::MESSAGE_ILLEGAL, remark));
        }
        if name.len() > names::MAX_TOPIC_LEN {
            let remark = format!("message topic length too long {}", name.len());
            return Err(Refusal::new(response::MESSAGE_ILLEGAL, remark));
        }
        let body = call.request.body;
        if body.is_empty() || body.len() > broker.max_message_size {
            return Err(illegal_size(broker));
        }
        // The properties of the request itself are not stored, but they can forbid it and they name the transaction id.
        self.received.clear();
        self.stored.clear();
        header.properties.push_to(&mut self.received);
        let whole = properties::rewrite(&self.received, &mut self.stored);
        refuse_other_kinds(whole.kind)?;

        // All or none: what joined the append batch leaves it again when a later message is no good.
        let first = self.batch.len();
        let inner = target.topic.is_batch() && whole.uniq_key.is_some();
        let pushed = match inner {
            true => self.push_as_one(broker, call, header, target, &whole),
            false => self.push_each(broker, call, header, target),
        };
        if let Err(refusal) = pushed {
            self.batch.truncate(first);
            return Err(refusal);
        }
        self.note_taken(&target.topic, first);
        let uniq_key = whole.uniq_key.map_or(&[][..], |range| &self.stored[range]);
        let uniq_key = push_key(&mut self.uniq_keys, uniq_key);
        self.wait(call, first, target.queue_id, whole.no_wait, uniq_key);
        if let Some(waiting) = self.waiting.last_mut() {
            waiting.inner = inner;
        }
        Ok(())
    }

    fn push_each(
        &mut self,
        broker: &Shared,
        call: &Call<'_>,
        header: &SendHeader<'_>,
        target: &Target,
    ) -> Result<(), Refusal> {
        let queue = queue_of(broker, call, target)?;
        let common = parts(broker, call, header, target, &[], &[], &Seen::default());
        let alike = Alike::new(queue, &common).map_err(|reject| rejected(broker, reject))?;
        for (at, inner) in record::batch(call.request.body).enumerate() {
            let inner = checked(at, inner, MAX_INNER_MESSAGES)?;
            let seen = properties::look(inner.properties);
            refuse_other_kinds(seen.kind)?;
            check_lights(broker, target, &seen, inner.properties)?;
            // RocketMQ takes it and compacts it away whatever it says.
            check_key(target, &seen, inner.properties)?;
            let part = |range: Option<Range<usize>>| range.map(|range| &inner.properties[range]);
            let content = Content {
                flag: inner.flag,
                body: inner.body,
                properties: inner.properties,
                tags: part(seen.tags),
                keys: part(seen.keys),
                uniq_key: part(seen.uniq_key),
                may_fan_out: seen.lights.is_some(),
            };
            self.batch.push_alike(&alike, &content).map_err(|reject| rejected(broker, reject))?;
        }
        Ok(())
    }

    /// One record for all. `whole`: what the request's properties say, which are the record's.
    fn push_as_one(
        &mut self,
        broker: &Shared,
        call: &Call<'_>,
        header: &SendHeader<'_>,
        target: &Target,
        whole: &Seen,
    ) -> Result<(), Refusal> {
        let queue = queue_of(broker, call, target)?;
        let mut messages = 0;
        for (at, inner) in record::batch(call.request.body).enumerate() {
            let seen = properties::look(checked(at, inner, i16::MAX as usize)?.properties);
            refuse_other_kinds(seen.kind)?;
            if seen.lights.is_some() || whole.lights.is_some() {
                let remark = "a batch of a topic with queue.type=BatchCQ is one record and stands in its own queue only: send messages for light queues (INNER_MULTI_DISPATCH) one by one";
                return Err(Refusal::new(response::MESSAGE_ILLEGAL, remark));
            }
            messages += 1;
        }
        properties::push(&mut self.stored, "CLUSTER", broker.config.broker_cluster_name.as_bytes());
        let parts = parts(broker, call, header, target, call.request.body, &self.stored, whole);
        self.batch.push_inner_batch(queue, &parts, messages).map_err(|reject| rejected(broker, reject))?;
        Ok(())
    }
}

/// The `at`-th message of a batch of at most `max`.
#[inline]
fn checked(at: usize, inner: Result<InnerMessage<'_>, BatchError>, max: usize) -> Result<InnerMessage<'_>, Refusal> {
    if at >= max {
        return Err(Refusal::new(response::MESSAGE_ILLEGAL, format!("a batch holds at most {max} messages")));
    }
    inner.map_err(|e| Refusal::new(response::MESSAGE_ILLEGAL, e.to_string()))
}
