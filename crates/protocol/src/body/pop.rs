//! Pop consumption: acknowledgements in one request, and the file of ordered pops.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// BATCH_ACK_MESSAGE.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BatchAckMessageRequestBody {
    pub acks: Vec<BatchAck>,
    pub broker_name: String,
}

/// Acknowledged messages of one pop from one queue.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct BatchAck {
    #[serde(rename = "c", alias = "consumerGroup")]
    pub group: String,
    /// The topic consumers subscribe to; `retry` says which topic holds the messages.
    #[serde(rename = "t", alias = "topic")]
    pub topic: String,
    /// `0`, `1` or `2`: see [`crate::pop::Origin`].
    #[serde(rename = "r", alias = "retry")]
    pub retry: String,
    #[serde(rename = "so", alias = "startOffset")]
    pub start_offset: i64,
    #[serde(rename = "q", alias = "queueId")]
    pub queue_id: i32,
    #[serde(rename = "rq", alias = "reviveQueueId")]
    pub revive_queue: i32,
    /// Milliseconds since 1970.
    #[serde(rename = "pt", alias = "popTime")]
    pub pop_time: i64,
    /// Milliseconds.
    #[serde(rename = "it", alias = "invisibleTime")]
    pub invisible_time: i64,
    #[serde(rename = "b", alias = "bitSet")]
    pub bits: BitSet,
}

/// A Java `BitSet`: its bytes, the lowest bits first, in base64 or as a list of numbers.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum BitSet {
    Base64(String),
    Bytes(Vec<i16>),
}

impl Default for BitSet {
    fn default() -> Self {
        BitSet::Bytes(Vec::new())
    }
}

impl BitSet {
    /// The bytes, at most `max` of them; `None` for a text that is not base64.
    pub fn bytes(&self, max: usize) -> Option<Vec<u8>> {
        match self {
            BitSet::Bytes(bytes) => Some(bytes.iter().take(max).map(|byte| *byte as u8).collect()),
            BitSet::Base64(text) => base64(text.trim_end_matches('='), max),
        }
    }
}

fn base64(text: &str, max: usize) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(max.min(text.len()));
    let (mut word, mut bits) = (0_u32, 0);
    for byte in text.bytes() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => return None,
        };
        word = word << 6 | u32::from(value);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            if out.len() == max {
                break;
            }
            out.push((word >> bits) as u8);
        }
    }
    Some(out)
}

/// The file `consumerOrderInfo.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConsumerOrderInfoWrapper {
    /// `topic@group` to queue id to what was popped last.
    pub table: BTreeMap<String, BTreeMap<i32, OrderInfo>>,
}

/// The last ordered pop of one queue.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OrderInfo {
    /// Who popped: the same attempt may pop again.
    #[serde(rename = "a", skip_serializing_if = "Option::is_none")]
    pub attempt_id: Option<String>,
    /// A bit for each acknowledged message.
    #[serde(rename = "cm")]
    pub acked: i64,
    /// Milliseconds.
    #[serde(rename = "i")]
    pub invisible_time: Option<i64>,
    /// When it was popped by the broker's clock, milliseconds since 1970.
    #[serde(rename = "l")]
    pub last_consume_timestamp: i64,
    /// The first queue offset, then the distance of each following message from it.
    #[serde(rename = "o")]
    pub offsets: Vec<i64>,
    /// How often a message was popped before, by queue offset.
    #[serde(rename = "oc", skip_serializing_if = "Option::is_none")]
    pub consumed_count: Option<BTreeMap<i64, i32>>,
    /// When a message may be popped again, if not after `invisible_time`, by queue offset.
    #[serde(rename = "ot", skip_serializing_if = "Option::is_none")]
    pub next_visible: Option<BTreeMap<i64, i64>>,
    /// Milliseconds since 1970; part of the handles.
    #[serde(rename = "popTime")]
    pub pop_time: i64,
}

/// The file `messageRequestMode.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MessageRequestModeWrapper {
    /// Topic to group to mode.
    pub message_request_mode_map: BTreeMap<String, BTreeMap<String, super::SetMessageRequestModeRequestBody>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bit_sets_come_in_two_shapes() {
        let body = r#"{"acks":[{"b":"BQE=","c":"G","it":60000,"pt":7,"q":1,"r":"1","rq":2,"so":10,"t":"T"}]}"#;
        let body: BatchAckMessageRequestBody = crate::json::from_slice(body.as_bytes()).unwrap();
        let ack = &body.acks[0];
        assert_eq!((ack.group.as_str(), ack.retry.as_str(), ack.start_offset), ("G", "1", 10));
        assert_eq!(ack.bits.bytes(4), Some(vec![5, 1]));
        assert_eq!(ack.bits.bytes(1), Some(vec![5]));
        let list: BatchAck = crate::json::from_slice(br#"{"bitSet":[5,-1],"consumerGroup":"G"}"#).unwrap();
        assert_eq!((list.bits.bytes(4), list.group.as_str()), (Some(vec![5, 255]), "G"));
        assert_eq!(BitSet::Base64("a b".into()).bytes(4), None);
    }

    #[test]
    fn order_info_is_read_as_java_writes_it() {
        let file = br#"{"table":{"T@G":{0:{"a":"x","cm":1,"i":60000,"l":5,"o":[7,1],"oc":{7:2},"popTime":9}}}}"#;
        let file: ConsumerOrderInfoWrapper = crate::json::from_slice(file).unwrap();
        let info = &file.table["T@G"][&0];
        assert_eq!((info.pop_time, &info.offsets[..], info.invisible_time), (9, &[7, 1][..], Some(60_000)));
        assert_eq!(info.consumed_count.as_ref().unwrap()[&7], 2);
        let again = serde_json::to_vec(&file).unwrap();
        assert_eq!(crate::json::from_slice::<ConsumerOrderInfoWrapper>(&again).unwrap(), file);
    }
}
