//! The messages of one SEND_BATCH_MESSAGE: each becomes a record of its own with consecutive queue offsets, stored with
//! exactly the properties its producer wrote (`MessageExtEncoder.encode(MessageExtBatch)`).

use ferromq_protocol::code::response;
use ferromq_protocol::header::send::SendHeader;
use ferromq_protocol::record;
use ferromq_protocol::topic as names;

use super::{Sends, Target, check_lights, illegal_size, parts, push_key, queue_of, refuse_other_kinds, rejected};
use crate::broker::Shared;
use crate::handler::{Call, Refusal};
use crate::properties;

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
        if let Err(refusal) = self.push_inner(broker, call, header, target) {
            self.batch.truncate(first);
            return Err(refusal);
        }
        self.note_taken(&target.topic, first);
        let uniq_key = whole.uniq_key.map_or(&[][..], |range| &self.stored[range]);
        let uniq_key = push_key(&mut self.uniq_keys, uniq_key);
        self.wait(call, first, target.queue_id, whole.no_wait, uniq_key);
        Ok(())
    }

    fn push_inner(
        &mut self,
        broker: &Shared,
        call: &Call<'_>,
        header: &SendHeader<'_>,
        target: &Target,
    ) -> Result<(), Refusal> {
        let queue = queue_of(broker, call, target)?;
        for (at, inner) in record::batch(call.request.body).enumerate() {
            let inner = inner.map_err(|e| Refusal::new(response::MESSAGE_ILLEGAL, e.to_string()))?;
            if at >= MAX_INNER_MESSAGES {
                let remark = format!("a batch holds at most {MAX_INNER_MESSAGES} messages");
                return Err(Refusal::new(response::MESSAGE_ILLEGAL, remark));
            }
            let seen = properties::look(inner.properties);
            refuse_other_kinds(seen.kind)?;
            check_lights(broker, target, &seen, inner.properties)?;
            let mut parts = parts(broker, call, header, target, inner.body, inner.properties, &seen);
            parts.flag = inner.flag;
            self.batch.push(queue, &parts).map_err(|reject| rejected(broker, reject))?;
        }
        Ok(())
    }
}
