//! The properties of transaction messages in each of their states, and the body of op messages (RocketMQ's
//! `TransactionalMessageBridge`, `EndTransactionProcessor`, `TransactionalMessageUtil`). Plain functions from text to text.

use std::net::SocketAddr;

use ferromq_protocol::properties::{self, names};
use ferromq_protocol::record::{MessageParts, Record};

/// Tag of op messages: the half messages named in the body have ended.
pub(super) const OP_TAG: &str = "d";
/// Ends each half's offset in the body of an op message.
const OP_SEPARATOR: u8 = b',';
/// Most bytes one offset takes in the body of an op message.
pub(super) const OP_OFFSET_BYTES: usize = 21;

/// What the properties of a half message say.
#[derive(Debug, Default)]
pub(crate) struct HalfView<'a> {
    pub real_topic: Option<&'a str>,
    pub real_queue_id: Option<u32>,
    pub group: Option<&'a str>,
    pub uniq_key: Option<&'a str>,
    /// CHECK_IMMUNITY_TIME_IN_SECONDS if it is a number, milliseconds.
    pub immunity: Option<i64>,
    pub has_immunity: bool,
    /// `None` in a copy that was never asked about.
    pub checks: Option<i32>,
    /// Queue offset of the first copy, in a later one.
    pub first: Option<i64>,
}

impl<'a> HalfView<'a> {
    /// Looks at the properties once; of two equal names the last counts.
    pub fn of(text: &'a [u8]) -> Self {
        let mut view = HalfView::default();
        for (name, value) in properties::iter(text) {
            let Ok(value) = std::str::from_utf8(value) else { continue };
            match std::str::from_utf8(name).unwrap_or_default() {
                names::REAL_TOPIC => view.real_topic = Some(value),
                names::REAL_QUEUE_ID => view.real_queue_id = value.parse().ok(),
                names::PRODUCER_GROUP => view.group = Some(value),
                names::UNIQ_CLIENT_MESSAGE_ID_KEYIDX => view.uniq_key = Some(value),
                names::CHECK_IMMUNITY_TIME_IN_SECONDS => {
                    view.has_immunity = true;
                    let seconds = value.parse::<i64>().ok().filter(|seconds| *seconds >= 0);
                    view.immunity = seconds.map(|seconds| seconds.saturating_mul(1000));
                }
                names::TRANSACTION_CHECK_TIMES => view.checks = Some(value.parse().unwrap_or(-1)),
                names::TRANSACTION_PREPARED_QUEUE_OFFSET => {
                    view.first = value.parse().ok().filter(|offset| *offset >= 0);
                }
                _ => {}
            }
        }
        view
    }

    /// How long the producer has for its first answer, milliseconds.
    pub fn immunity_or(&self, timeout: i64) -> i64 {
        self.immunity.map_or(timeout, |immunity| immunity.max(timeout))
    }
}

/// Adds to the properties of a message what makes it a half: where it really goes, and its transaction's id.
pub(crate) fn push_half(stored: &mut Vec<u8>, uniq_key: &str, topic: &str, queue_id: u32) {
    properties::push(stored, names::TRANSACTION_ID, uniq_key);
    properties::push(stored, names::REAL_TOPIC, topic);
    properties::push(stored, names::REAL_QUEUE_ID, &queue_id.to_string());
}

/// The properties of the committed message. TRAN_MSG stays, as in RocketMQ 5.5.
pub(crate) fn committed(half: &[u8], out: &mut Vec<u8>) {
    copy_without(half, [names::REAL_TOPIC, names::REAL_QUEUE_ID], out);
}

/// The properties of a half that is appended again.
pub(super) fn copied(half: &[u8], checks: i32, first: i64, out: &mut Vec<u8>) {
    copy_without(half, [names::TRANSACTION_CHECK_TIMES, names::TRANSACTION_PREPARED_QUEUE_OFFSET], out);
    properties::push(out, names::TRANSACTION_CHECK_TIMES, &checks.to_string());
    properties::push(out, names::TRANSACTION_PREPARED_QUEUE_OFFSET, &first.to_string());
}

/// The properties of a half that begins anew after it was given up.
pub(super) fn renewed(half: &[u8], out: &mut Vec<u8>) {
    copy_without(half, [names::TRANSACTION_CHECK_TIMES, names::TRANSACTION_PREPARED_QUEUE_OFFSET], out);
    properties::push(out, names::TRANSACTION_CHECK_TIMES, "0");
}

fn copy_without(text: &[u8], left_out: [&str; 2], out: &mut Vec<u8>) {
    for (name, value) in properties::iter(text) {
        if left_out.iter().all(|other| other.as_bytes() != name) {
            out.extend_from_slice(name);
            out.push(properties::NAME_VALUE_SEPARATOR);
            out.extend_from_slice(value);
            out.push(properties::PROPERTY_SEPARATOR);
        }
    }
}

/// The message of a record with another place and other properties.
pub(crate) fn moved<'a>(record: &Record<'a>, topic: &'a str, queue_id: u32, properties: &'a [u8]) -> MessageParts<'a> {
    MessageParts {
        topic,
        queue_id,
        body: record.body(),
        properties,
        tags: properties::get(properties, names::TAGS),
        keys: properties::get(properties, names::KEYS),
        uniq_key: properties::get(properties, names::UNIQ_CLIENT_MESSAGE_ID_KEYIDX),
        flag: record.flag(),
        sys_flag: record.sys_flag(),
        born_timestamp: record.born_timestamp(),
        born_host: record.born_host(),
        store_host: record.store_host(),
        reconsume_times: record.reconsume_times(),
        prepared_transaction_offset: 0,
    }
}

/// An op message.
pub(super) fn op<'a>(body: &'a [u8], properties: &'a [u8], host: SocketAddr, now: i64) -> MessageParts<'a> {
    MessageParts {
        topic: ferromq_protocol::topic::TRANS_OP_HALF,
        queue_id: 0,
        body,
        properties,
        tags: Some(OP_TAG.as_bytes()),
        keys: None,
        uniq_key: None,
        flag: 0,
        sys_flag: 0,
        born_timestamp: now,
        born_host: host,
        store_host: host,
        reconsume_times: 0,
        prepared_transaction_offset: 0,
    }
}

/// Adds a half's queue offset to the body of an op message.
pub(super) fn push_op(body: &mut Vec<u8>, half_offset: i64) {
    body.extend_from_slice(half_offset.to_string().as_bytes());
    body.push(OP_SEPARATOR);
}

/// The half offsets an op message names. Text that is no offset is passed over.
pub(super) fn op_offsets(body: &[u8]) -> impl Iterator<Item = i64> {
    body.split(|byte| *byte == OP_SEPARATOR).filter_map(|text| std::str::from_utf8(text).ok()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(pairs: &[(&str, &str)]) -> Vec<u8> {
        let mut out = Vec::new();
        for (name, value) in pairs {
            properties::push(&mut out, name, value);
        }
        out
    }

    #[test]
    fn a_half_knows_its_real_place_and_loses_it_when_committed() {
        let mut half = text(&[("TRAN_MSG", "true"), ("PGROUP", "g"), ("UNIQ_KEY", "U"), ("a", "1")]);
        push_half(&mut half, "U", "Orders", 3);
        let view = HalfView::of(&half);
        assert_eq!((view.real_topic, view.real_queue_id, view.group), (Some("Orders"), Some(3), Some("g")));
        assert_eq!((view.checks, view.first, view.immunity_or(6000)), (None, None, 6000));
        let mut out = Vec::new();
        committed(&half, &mut out);
        assert_eq!(
            out,
            text(&[("TRAN_MSG", "true"), ("PGROUP", "g"), ("UNIQ_KEY", "U"), ("a", "1"), ("__transactionId__", "U")])
        );
    }

    #[test]
    fn copies_count_their_checks_and_name_the_first() {
        let half = text(&[("PGROUP", "g"), ("CHECK_IMMUNITY_TIME_IN_SECONDS", "60")]);
        let (mut once, mut twice) = (Vec::new(), Vec::new());
        copied(&half, 1, 7, &mut once);
        copied(&once, 2, 7, &mut twice);
        let view = HalfView::of(&twice);
        assert_eq!((view.checks, view.first, view.immunity_or(6000)), (Some(2), Some(7), 60_000));
        assert_eq!(properties::iter(&twice).count(), 4);
    }

    #[test]
    fn numbers_that_are_none_are_survived() {
        let odd = text(&[
            ("CHECK_IMMUNITY_TIME_IN_SECONDS", "soon"),
            ("TRANSACTION_CHECK_TIMES", "x"),
            ("TRAN_PREPARED_QUEUE_OFFSET", "-5"),
            ("REAL_QID", "-1"),
        ]);
        let view = HalfView::of(&odd);
        assert_eq!((view.immunity_or(6000), view.has_immunity), (6000, true));
        assert_eq!((view.checks, view.first, view.real_queue_id), (Some(-1), None, None));
        let huge = text(&[("CHECK_IMMUNITY_TIME_IN_SECONDS", "9223372036854775807")]);
        assert_eq!(HalfView::of(&huge).immunity_or(6000), i64::MAX);
    }

    #[test]
    fn op_bodies_are_read_as_they_are_written() {
        let mut body = Vec::new();
        for offset in [0, 17, i64::MAX] {
            push_op(&mut body, offset);
        }
        assert_eq!(body, b"0,17,9223372036854775807,");
        assert_eq!(op_offsets(&body).collect::<Vec<_>>(), [0, 17, i64::MAX]);
        assert_eq!(op_offsets(b",x,5").collect::<Vec<_>>(), [5]);
        assert!(OP_OFFSET_BYTES > i64::MAX.to_string().len());
    }
}
