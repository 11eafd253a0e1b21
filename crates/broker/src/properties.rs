//! The properties of a sent message, from what the producer wrote to what is stored, in one pass and without a map.
//!
//! RocketMQ's broker reads the text into a map and writes the map back (`AbstractSendMessageProcessor`,
//! `SendMessageProcessor`): WAIT and POP_CK vanish, MSG_REGION, TRACE_ON and CLUSTER get the broker's values, pairs
//! without a key or a value are dropped. The bytes here are the same but for the order of pairs, which no reader uses.

use std::ops::Range;

use ferromq_protocol::record::{MessageParts, Record};
use ferromq_store::Queue;

/// Ends a key (RocketMQ's `NAME_VALUE_SEPARATOR`).
const VALUE: u8 = 1;
/// Ends a pair (RocketMQ's `PROPERTY_SEPARATOR`).
pub(crate) const PAIR: u8 = 2;

/// What kind of message the properties make it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Kind {
    #[default]
    Normal,
    /// TRAN_MSG is true.
    Transaction,
    /// DELAY holds a level above 0.
    Delay,
    /// One of the TIMER_ properties that ask for a time.
    Timer,
    /// DELAY is no number.
    BrokenDelay,
    /// INNER_NUM without an inner batch, or INNER_MULTI_QUEUE_OFFSET where nobody would replace it.
    InnerBatch,
}

/// What the broker needs to know of a message's properties. Ranges index the rewritten text.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub uniq_key: Option<Range<usize>>,
    pub keys: Option<Range<usize>>,
    pub tags: Option<Range<usize>>,
    /// INNER_MULTI_DISPATCH: the light queues it is to stand in.
    pub lights: Option<Range<usize>>,
    /// `__LITE_TOPIC`: the lite topic of the message's topic that it belongs to.
    pub lite: Option<Range<usize>>,
    /// WAIT is "false": the producer does not wait for flush and replication.
    pub no_wait: bool,
    pub kind: Kind,
    /// `_SYS_MSG_PRIORITY_` of a message that is nothing but a priority message: the queue it wants.
    pub priority: Option<u32>,
    /// DELAY.
    pub delay_level: i32,
    /// A TIMER_ property asks for a time.
    timer: bool,
}

impl Seen {
    /// Whether the message is to be delivered later; also told when the kind is another.
    pub fn is_delayed(&self) -> bool {
        self.delay_level > 0 || self.timer
    }
}

/// Where the key of the first pair ends, if it has a value, and where the pair does.
#[inline]
fn first_pair(text: &[u8]) -> (Option<usize>, usize) {
    match separator(text, 0) {
        Some(split) if text[split] == VALUE => {
            let mut end = separator(text, split + 1);
            while let Some(at) = end.filter(|at| text[*at] == VALUE) {
                end = separator(text, at + 1);
            }
            (Some(split), end.unwrap_or(text.len()))
        }
        end => (None, end.unwrap_or(text.len())),
    }
}

/// Where the first separator of either kind stands from `at` on. Keys and values are a few bytes: eight at a time are done
/// with them before a vector search has begun.
#[inline]
fn separator(text: &[u8], mut at: usize) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    while let Some(block) = text.get(at..).and_then(<[u8]>::first_chunk) {
        let block = u64::from_le_bytes(*block);
        // The lowest high bit that is set belongs to a byte below 3.
        let small = block.wrapping_sub(ONES * u64::from(PAIR + 1)) & !block & HIGHS;
        if small == 0 {
            at += 8;
            continue;
        }
        at += (small.trailing_zeros() / 8) as usize;
        if text[at] != 0 {
            return Some(at);
        }
        at += 1;
    }
    text.get(at..)?.iter().position(|byte| matches!(*byte, VALUE | PAIR)).map(|n| at + n)
}

/// Appends the text that is stored to `out`: the pairs of `sent` that stay, each ended by its separator. The caller
/// appends what the broker adds.
pub(crate) fn rewrite(sent: &[u8], out: &mut Vec<u8>) -> Seen {
    let mut seen = Seen::default();
    let (mut transaction, mut later, mut ordered) = (false, false, false);
    let mut priority = None;
    let mut rest = sent;
    while !rest.is_empty() {
        let (split, end) = first_pair(rest);
        let pair = &rest[..end];
        rest = rest.get(end + 1..).unwrap_or_default();
        let Some(split) = split else { continue };
        let (key, value) = (&pair[..split], &pair[split + 1..]);
        if key.is_empty() || value.is_empty() {
            continue;
        }
        let at = out.len() + split + 1..out.len() + pair.len();
        match key {
            b"WAIT" => {
                seen.no_wait = !value.eq_ignore_ascii_case(b"true");
                continue;
            }
            b"POP_CK" | b"MSG_REGION" | b"TRACE_ON" | b"CLUSTER" => continue,
            // The broker's own notes on half messages: a producer's word would end another's transaction.
            b"TRAN_PREPARED_QUEUE_OFFSET" | b"TRANSACTION_CHECK_TIMES" => continue,
            // The store's word.
            b"INNER_MULTI_QUEUE_OFFSET" => continue,
            b"INNER_MULTI_DISPATCH" => seen.lights = Some(at),
            b"__LITE_TOPIC" => seen.lite = Some(at),
            b"UNIQ_KEY" => seen.uniq_key = Some(at),
            b"KEYS" => seen.keys = Some(at),
            b"TAGS" => seen.tags = Some(at),
            b"TRAN_MSG" => transaction = value.eq_ignore_ascii_case(b"true"),
            b"DELAY" => {
                later = true;
                match number(value) {
                    Some(level) => seen.delay_level = level,
                    None => seen.kind = Kind::BrokenDelay,
                }
            }
            b"TIMER_DELIVER_MS" | b"TIMER_DELAY_MS" | b"TIMER_DELAY_SEC" => {
                later = true;
                seen.timer = true;
            }
            b"__SHARDINGKEY" => ordered = true,
            b"_SYS_MSG_PRIORITY_" => {
                priority = Some(pair);
                seen.priority = number(value).and_then(|priority| u32::try_from(priority).ok());
                continue;
            }
            b"INNER_NUM" => seen.kind = Kind::InnerBatch,
            _ => {}
        }
        out.extend_from_slice(pair);
        out.push(PAIR);
    }
    if seen.kind == Kind::Normal {
        seen.kind = match (transaction, seen.delay_level > 0, seen.timer) {
            (true, ..) => Kind::Transaction,
            (_, true, _) => Kind::Delay,
            (_, _, true) => Kind::Timer,
            _ => Kind::Normal,
        };
    }
    // The priority of a message that is something else as well is dropped; what is no priority is anybody's property.
    let dropped = seen.priority.is_some() && (transaction || later || ordered);
    if let Some(pair) = priority.filter(|_| !dropped) {
        out.extend_from_slice(pair);
        out.push(PAIR);
    }
    seen.priority = seen.priority.filter(|_| !dropped);
    seen
}

fn number(value: &[u8]) -> Option<i32> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// Appends one pair.
pub(crate) fn push(out: &mut Vec<u8>, key: &str, value: &[u8]) {
    out.extend_from_slice(key.as_bytes());
    out.push(VALUE);
    out.extend_from_slice(value);
    out.push(PAIR);
}

/// The value of a key in a text of properties, as a producer wrote it.
pub(crate) fn find<'t>(text: &'t [u8], key: &[u8]) -> Option<&'t [u8]> {
    text.split(|byte| *byte == PAIR).find_map(|pair| {
        let value = pair.strip_prefix(key)?.strip_prefix(&[VALUE])?;
        (!value.is_empty()).then_some(value)
    })
}

/// The message of a record for another queue, with other properties.
pub(crate) fn copy<'a>(record: &Record<'a>, queue: &'a Queue, stored: &'a [u8]) -> MessageParts<'a> {
    let seen = look(stored);
    let part = |range: &Option<Range<usize>>| range.clone().map(|r| &stored[r]);
    MessageParts {
        topic: queue.topic(),
        queue_id: queue.id(),
        body: record.body(),
        properties: stored,
        tags: part(&seen.tags),
        keys: part(&seen.keys),
        uniq_key: part(&seen.uniq_key),
        flag: record.flag(),
        sys_flag: record.sys_flag(),
        born_timestamp: record.born_timestamp(),
        born_host: record.born_host(),
        store_host: record.store_host(),
        reconsume_times: record.reconsume_times(),
        prepared_transaction_offset: 0,
    }
}

/// The tag, keys and unique key of a stored text (an inner message of a batch, which is stored as it came).
pub(crate) fn look(stored: &[u8]) -> Seen {
    let mut seen = Seen::default();
    let mut start = 0;
    while start < stored.len() {
        let (split, end) = first_pair(&stored[start..]);
        let end = start + end;
        if let Some(split) = split {
            let value = start + split + 1..end;
            if !value.is_empty() {
                match &stored[start..start + split] {
                    b"UNIQ_KEY" => seen.uniq_key = Some(value),
                    b"KEYS" => seen.keys = Some(value),
                    b"TAGS" => seen.tags = Some(value),
                    b"INNER_MULTI_DISPATCH" => seen.lights = Some(value),
                    b"INNER_MULTI_QUEUE_OFFSET" => seen.kind = Kind::InnerBatch,
                    b"DELAY" => seen.kind = Kind::Delay,
                    b"TIMER_DELIVER_MS" | b"TIMER_DELAY_MS" | b"TIMER_DELAY_SEC" => seen.kind = Kind::Timer,
                    b"TRAN_MSG" if stored[value.clone()].eq_ignore_ascii_case(b"true") => seen.kind = Kind::Transaction,
                    _ => {}
                }
            }
        }
        start = end + 1;
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(sent: &[u8]) -> (Vec<u8>, Seen) {
        let mut out = Vec::new();
        let seen = rewrite(sent, &mut out);
        (out, seen)
    }

    #[test]
    fn pairs_stay_and_the_brokers_own_vanish() {
        let (out, seen) = rewritten(
            b"UNIQ_KEY\x01U1\x02WAIT\x01true\x02TAGS\x01a\x02POP_CK\x01x\x02MSG_REGION\x01r\x02KEYS\x01k1 k2\x02",
        );
        assert_eq!(out, b"UNIQ_KEY\x01U1\x02TAGS\x01a\x02KEYS\x01k1 k2\x02");
        assert_eq!(&out[seen.uniq_key.unwrap()], b"U1");
        assert_eq!(&out[seen.tags.unwrap()], b"a");
        assert_eq!(&out[seen.keys.unwrap()], b"k1 k2");
        assert_eq!((seen.no_wait, seen.kind), (false, Kind::Normal));
    }

    #[test]
    fn a_missing_last_separator_is_added_and_broken_pairs_are_dropped() {
        let (out, seen) = rewritten(b"a\x01\x02\x01b\x02\x02nothing\x02TAGS\x01t");
        assert_eq!(out, b"TAGS\x01t\x02");
        assert_eq!(&out[seen.tags.unwrap()], b"t");
    }

    #[test]
    fn a_value_may_hold_the_key_separator() {
        let (out, _) = rewritten(b"k\x01a\x01b\x02");
        assert_eq!(out, b"k\x01a\x01b\x02");
    }

    #[test]
    fn kinds_are_told() {
        for (text, kind) in [
            (&b"TRAN_MSG\x01true\x02"[..], Kind::Transaction),
            (b"TRAN_MSG\x01false\x02", Kind::Normal),
            (b"DELAY\x013\x02", Kind::Delay),
            (b"DELAY\x010\x02", Kind::Normal),
            (b"DELAY\x01x\x02", Kind::BrokenDelay),
            (b"TIMER_DELAY_SEC\x015\x02", Kind::Timer),
            (b"WAIT\x01false\x02", Kind::Normal),
        ] {
            assert_eq!(rewritten(text).1.kind, kind, "{text:?}");
        }
        assert!(rewritten(b"WAIT\x01false\x02").1.no_wait);
    }

    #[test]
    fn a_priority_is_dropped_beside_another_kind() {
        for (text, priority, stays) in [
            (&b"_SYS_MSG_PRIORITY_\x013\x02TAGS\x01a\x02"[..], Some(3), true),
            (b"_SYS_MSG_PRIORITY_\x010\x02", Some(0), true),
            (b"_SYS_MSG_PRIORITY_\x01-3\x02", None, true),
            (b"_SYS_MSG_PRIORITY_\x01high\x02DELAY\x011\x02", None, true),
            (b"_SYS_MSG_PRIORITY_\x013\x02DELAY\x011\x02", None, false),
            (b"_SYS_MSG_PRIORITY_\x013\x02TIMER_DELAY_MS\x0110\x02", None, false),
            (b"__SHARDINGKEY\x01k\x02_SYS_MSG_PRIORITY_\x013\x02", None, false),
            (b"_SYS_MSG_PRIORITY_\x013\x02TRAN_MSG\x01true\x02", None, false),
        ] {
            let (out, seen) = rewritten(text);
            assert_eq!(seen.priority, priority, "{text:?}");
            assert_eq!(find(&out, b"_SYS_MSG_PRIORITY_").is_some(), stays, "{text:?}");
            assert_eq!(seen.tags.map(|tags| out[tags].to_vec()), find(&out, b"TAGS").map(<[u8]>::to_vec));
        }
    }

    #[test]
    fn inner_messages_are_looked_at_without_a_copy() {
        let text = b"UNIQ_KEY\x01U\x02TAGS\x01t";
        let seen = look(text);
        assert_eq!(&text[seen.uniq_key.unwrap()], b"U");
        assert_eq!(&text[seen.tags.unwrap()], b"t");
    }

    proptest::proptest! {
        #[test]
        fn separators_are_found_wherever_they_stand(text in proptest::collection::vec(0u8..6, 0..60), at in 0..60_usize) {
            let one_by_one = (at..text.len()).find(|at| matches!(text[*at], VALUE | PAIR));
            assert_eq!(separator(&text, at.min(text.len())), one_by_one);
            let sparse: Vec<u8> = text.iter().flat_map(|byte| [0xFF, 0x80, *byte, 3, 0, 0x7F, 0x81]).collect();
            let one_by_one = (at..sparse.len()).find(|at| matches!(sparse[*at], VALUE | PAIR));
            assert_eq!(separator(&sparse, at.min(sparse.len())), one_by_one);
        }

        #[test]
        fn any_bytes_are_survived(text in proptest::collection::vec(0u8..6, 0..200)) {
            let (out, _) = rewritten(&text);
            let mut again = Vec::new();
            rewrite(&out, &mut again);
            assert_eq!(out, again);
            look(&text);
        }
    }
}
