//! The answers of sends: when they are written, and what they say.

use std::net::SocketAddr;
use std::sync::Arc;

use ferromq_protocol::code::response;
use ferromq_protocol::{FrameWriter, Head, id};
use ferromq_remoting::Connection;
use ferromq_store::{Appended, Durability};

use super::Sends;
use crate::broker::Shared;
use crate::config::BrokerConfig;
use crate::properties;

/// Hex digits of the physical offset at the end of an offset message id.
const OFFSET_DIGITS: usize = 16;

/// Said of a send that met the end of its topic.
const TOPIC_ENDED: &str =
    "the topic was deleted while the message was on its way: nothing is stored, create the topic and send again";

/// Capacity that the buffers of a reactor keep between drains, entries and bytes.
const KEPT_ENTRIES: usize = 4096;
const KEPT_BYTES: usize = 256 * 1024;

/// An answer that waits for its messages to be appended.
#[derive(Clone, Copy)]
pub(super) struct Waiting {
    pub head: Head,
    /// Place of its connection in [`Sends::conns`].
    pub conn: u32,
    /// The request's messages in the batch.
    pub first: u32,
    pub count: u32,
    pub queue_id: u32,
    /// Bounds of its unique key.
    pub uniq_key: (u32, u32),
    /// Bounds of the handle that takes it back, empty unless it is a timer message; with the unique keys.
    pub recall: (u32, u32),
    /// The producer does not wait for the disk (WAIT=false).
    pub no_wait: bool,
    /// It is a batch that was stored as one record: its unique key is that of all.
    pub inner: bool,
    /// It ends a transaction: the answer has no header.
    pub end: bool,
}

impl Sends {
    /// Appends what was added, and answers. Under SYNC_FLUSH the answers follow from the flush thread.
    pub fn finish(&mut self, broker: &Shared) {
        if self.waiting.is_empty() {
            return;
        }
        self.begin(broker);
        let constants = &broker.send;
        let appended = self.append(broker);
        if appended.is_ok() {
            self.in_hand.appended(self.batch.end_position());
        }
        match appended {
            Err((code, remark)) => {
                broker.stats.count_put_failed(self.batch.len() as u64);
                push_answers(&self.waiting, &self.conns, |waiting, out| {
                    constants.refuse(&waiting.head, code, &remark, out);
                });
            }
            Ok(()) if broker.store.is_sync_flush() => self.answer_when_durable(broker),
            Ok(()) => push_answers(&self.waiting, &self.conns, |waiting, out| {
                constants.accept(waiting, self.batch.results(), &self.uniq_keys, response::SUCCESS, out);
            }),
        }
        self.count_taken();
        let results = self.batch.results();
        let messages = results.iter().map(|stored| u64::from(stored.messages.unsigned_abs())).sum();
        broker.stats.count_put(messages, results.iter().map(|message| u64::from(message.size)).sum());
        self.clear();
        if self.waiting.capacity() > KEPT_ENTRIES {
            self.waiting.shrink_to(KEPT_ENTRIES);
            self.conns.shrink_to(KEPT_ENTRIES);
        }
        for buffer in [&mut self.uniq_keys, &mut self.received, &mut self.stored, &mut self.half] {
            buffer.clear();
            if buffer.capacity() > KEPT_BYTES {
                buffer.shrink_to(KEPT_BYTES);
            }
        }
    }

    fn answer_when_durable(&mut self, broker: &Shared) {
        let constants = &broker.send;
        let (at_once, parked): (Vec<Waiting>, Vec<Waiting>) =
            self.waiting.iter().partition(|waiting| waiting.no_wait || waiting.head.is_oneway());
        push_answers(&at_once, &self.conns, |waiting, out| {
            constants.accept(waiting, self.batch.results(), &self.uniq_keys, response::SUCCESS, out);
        });
        if parked.is_empty() {
            return;
        }
        let results: Vec<Appended> = self.batch.results().to_vec();
        let uniq_keys = self.uniq_keys.clone();
        let conns = self.conns.clone();
        let constants = Arc::clone(constants);
        let answer = move |durability: Durability| {
            push_answers(&parked, &conns, |waiting, out| {
                let code = match durability {
                    Durability::Durable => response::SUCCESS,
                    Durability::TimedOut => response::FLUSH_DISK_TIMEOUT,
                    Durability::Failed => {
                        let remark = "the disk refused to sync, the broker takes no more messages: see its log";
                        return constants.refuse(&waiting.head, response::SERVICE_NOT_AVAILABLE, remark, out);
                    }
                };
                constants.accept(waiting, &results, &uniq_keys, code, out);
            });
        };
        broker.store.when_durable(self.batch.end_position(), Box::new(answer));
    }
}

/// Pushes the answers that `write` makes, those of one connection together.
fn push_answers(waiting: &[Waiting], conns: &[Arc<Connection>], write: impl Fn(&Waiting, &mut Vec<u8>)) {
    for of_one in waiting.chunk_by(|a, b| a.conn == b.conn) {
        // A push fails when the client has gone or reads nothing: it learns the outcome by sending again.
        let _ = conns[of_one[0].conn as usize].push(|out| of_one.iter().for_each(|waiting| write(waiting, out)));
    }
}

/// What every send of this broker has in common, made once.
pub(crate) struct SendConstants {
    /// The broker's part of an offset message id: its address and port in upper-case hex.
    msg_id_prefix: String,
    /// Value of MSG_REGION.
    region: String,
    /// Value of TRACE_ON.
    trace_on: &'static str,
    /// The pairs the broker adds to stored properties.
    pub stored_suffix: Vec<u8>,
}

impl SendConstants {
    pub fn new(config: &BrokerConfig, store_host: SocketAddr) -> Self {
        let trace_on = if config.trace_on { "true" } else { "false" };
        let mut stored_suffix = Vec::new();
        properties::push(&mut stored_suffix, "MSG_REGION", config.region_id.as_bytes());
        properties::push(&mut stored_suffix, "TRACE_ON", trace_on.as_bytes());
        properties::push(&mut stored_suffix, "CLUSTER", config.broker_cluster_name.as_bytes());
        let mut msg_id_prefix = id::offset_message_id(store_host, 0);
        msg_id_prefix.truncate(msg_id_prefix.len() - OFFSET_DIGITS);
        Self { msg_id_prefix, region: config.region_id.clone(), trace_on, stored_suffix }
    }

    /// Writes the answer of a stored request: SEND_OK, or one of the codes that say what is missing after storing.
    fn accept(&self, waiting: &Waiting, results: &[Appended], uniq_keys: &[u8], code: i32, out: &mut Vec<u8>) {
        if waiting.head.is_oneway() {
            return;
        }
        let messages = &results[waiting.first as usize..(waiting.first + waiting.count) as usize];
        if !messages.iter().all(Appended::is_stored) {
            return self.refuse(&waiting.head, response::TOPIC_NOT_EXIST, TOPIC_ENDED, out);
        }
        if waiting.end {
            // As in RocketMQ, an outcome that is not on the disk in time counts as stored.
            FrameWriter::response(out, &waiting.head, response::SUCCESS).finish();
            return;
        }
        let uniq_key = &uniq_keys[waiting.uniq_key.0 as usize..waiting.uniq_key.1 as usize];
        let first_offset = messages.first().map_or(0, |message| message.queue_offset);
        let ids_len = (messages.len() * (self.msg_id_prefix.len() + OFFSET_DIGITS + 1)).saturating_sub(1);
        let mut frame = FrameWriter::response(out, &waiting.head, code);
        frame
            .plain("msgId", ids_len, |out| self.push_ids(messages, out))
            .i32("queueId", waiting.queue_id as i32)
            .i64("queueOffset", first_offset);
        // The unique key is a string of the request's header, so this never fails.
        if let Ok(uniq_key) = std::str::from_utf8(uniq_key)
            && !uniq_key.is_empty()
        {
            frame.str("transactionId", uniq_key);
            if waiting.inner {
                frame.str("batchUniqId", uniq_key);
            }
        }
        let recall = &uniq_keys[waiting.recall.0 as usize..waiting.recall.1 as usize];
        if let Ok(recall) = std::str::from_utf8(recall)
            && !recall.is_empty()
        {
            frame.str("recallHandle", recall);
        }
        frame.str("MSG_REGION", &self.region).str("TRACE_ON", self.trace_on);
        frame.finish();
    }

    /// The offset message ids of a request's messages, with commas between.
    fn push_ids(&self, messages: &[Appended], out: &mut Vec<u8>) {
        for (at, message) in messages.iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            out.extend_from_slice(self.msg_id_prefix.as_bytes());
            out.extend_from_slice(&hex(message.physical_offset));
        }
    }

    /// Writes the answer of a send that is not stored.
    pub fn refuse(&self, head: &Head, code: i32, remark: &str, out: &mut Vec<u8>) {
        if head.is_oneway() {
            return;
        }
        let mut frame = FrameWriter::response(out, head, code);
        frame.remark(remark).str("MSG_REGION", &self.region).str("TRACE_ON", self.trace_on);
        frame.finish();
    }
}

fn hex(value: u64) -> [u8; OFFSET_DIGITS] {
    // Each half byte becomes a byte of its own, then all bytes become digits at once.
    const SIXES: u64 = 0x0606_0606_0606_0606;
    const ONES: u64 = 0x0101_0101_0101_0101;
    let digits = |half: u32| {
        let mut spread = u64::from(half);
        spread = (spread | spread << 16) & 0x0000_FFFF_0000_FFFF;
        spread = (spread | spread << 8) & 0x00FF_00FF_00FF_00FF;
        spread = (spread | spread << 4) & (ONES * 0x0F);
        let is_letter = (spread + SIXES) >> 4 & ONES;
        (spread + ONES * u64::from(b'0') + is_letter * u64::from(b'A' - b'9' - 1)).to_be_bytes()
    };
    let mut text = [0; OFFSET_DIGITS];
    text[..8].copy_from_slice(&digits((value >> 32) as u32));
    text[8..].copy_from_slice(&digits(value as u32));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_written_as_sixteen_upper_case_digits() {
        for value in [0, 0x1234_ABCD, 0x0123_4567_89AB_CDEF, 0xFEDC_BA98_7654_3210, u64::MAX] {
            assert_eq!(&hex(value)[..], format!("{value:016X}").as_bytes());
        }
    }
}
