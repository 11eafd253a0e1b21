//! A broker that holds numbered messages and one group.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use ferromq_protocol::code::{request, response};
use ferromq_protocol::record::{self, MessageParts};
use parking_lot::Mutex;

use crate::fake::{Answer, Asked, Fake};

/// One stored record.
fn stored(topic: &str, queue: i32, offset: i64, tag: &str) -> Vec<u8> {
    let properties = format!("TAGS\u{1}{tag}\u{2}UNIQ_KEY\u{1}ID{queue}-{offset}\u{2}");
    let body = format!("message {offset}");
    let host = "127.0.0.1:10911".parse().unwrap();
    let parts = MessageParts {
        topic,
        queue_id: queue as u32,
        body: body.as_bytes(),
        properties: properties.as_bytes(),
        tags: None,
        keys: None,
        uniq_key: None,
        flag: 0,
        sys_flag: 0,
        born_timestamp: 0,
        born_host: host,
        store_host: host,
        reconsume_times: 0,
        prepared_transaction_offset: 0,
    };
    let mut out = Vec::new();
    record::encode(&parts, &mut out).unwrap();
    record::patch(&mut out, offset, 1000 + offset as u64, 0);
    out
}

/// What the scripted broker holds.
pub struct Broker {
    /// Messages in each queue.
    messages: i64,
    /// Members besides the one under test.
    pub others: Mutex<Vec<String>>,
    member: Mutex<String>,
    pub committed: Mutex<BTreeMap<i32, i64>>,
    /// Whether locks are granted.
    pub locks: AtomicBool,
    /// The next pull of each queue is told to go here.
    pub reset_to: AtomicI64,
}

impl Broker {
    pub fn new(messages: i64) -> Arc<Broker> {
        Arc::new(Broker {
            messages,
            others: Mutex::default(),
            member: Mutex::default(),
            committed: Mutex::default(),
            locks: AtomicBool::new(true),
            reset_to: AtomicI64::new(-1),
        })
    }

    pub fn start(self: &Arc<Broker>) -> Fake {
        let broker = self.clone();
        Fake::start(move |asked| broker.answer(asked))
    }

    fn answer(&self, asked: &Asked) -> Option<Answer> {
        let queue: i32 = asked.field("queueId").parse().unwrap_or(0);
        let empty = |code| Some((code, vec![], vec![]));
        match asked.code {
            request::HEART_BEAT => {
                let text = String::from_utf8_lossy(&asked.body).into_owned();
                let id = text.split(r#""clientID":""#).nth(1).and_then(|t| t.split('"').next()).unwrap_or("");
                *self.member.lock() = id.to_owned();
                empty(0)
            }
            request::GET_CONSUMER_LIST_BY_GROUP => {
                let mut ids = self.others.lock().clone();
                ids.push(self.member.lock().clone());
                let ids: Vec<String> = ids.iter().map(|id| format!("{id:?}")).collect();
                Some((0, vec![], format!(r#"{{"consumerIdList":[{}]}}"#, ids.join(",")).into_bytes()))
            }
            request::QUERY_CONSUMER_OFFSET => match self.committed.lock().get(&queue) {
                Some(offset) => Some((0, vec![("offset", offset.to_string())], vec![])),
                None => empty(response::QUERY_NOT_FOUND),
            },
            request::GET_MAX_OFFSET => Some((0, vec![("offset", self.messages.to_string())], vec![])),
            request::UPDATE_CONSUMER_OFFSET => {
                self.committed.lock().insert(queue, asked.field("commitOffset").parse().unwrap());
                empty(0)
            }
            request::LOCK_BATCH_MQ if self.locks.load(Ordering::SeqCst) => {
                let text = String::from_utf8_lossy(&asked.body).into_owned();
                let set = text.split(r#""mqSet":"#).nth(1).and_then(|t| t.split(']').next()).unwrap_or("[");
                Some((0, vec![], format!(r#"{{"lockOKMQSet":{set}]}}"#).into_bytes()))
            }
            request::LOCK_BATCH_MQ => Some((0, vec![], br#"{"lockOKMQSet":[]}"#.to_vec())),
            request::PULL_MESSAGE => self.pull(asked, queue),
            _ => empty(0),
        }
    }

    fn pull(&self, asked: &Asked, queue: i32) -> Option<Answer> {
        let fields = |next: i64| {
            vec![
                ("suggestWhichBrokerId", "0".to_owned()),
                ("nextBeginOffset", next.to_string()),
                ("minOffset", "0".to_owned()),
                ("maxOffset", self.messages.to_string()),
            ]
        };
        let reset = self.reset_to.swap(-1, Ordering::SeqCst);
        if reset >= 0 {
            return Some((response::PULL_OFFSET_MOVED, fields(reset), vec![]));
        }
        let offset: i64 = asked.field("queueOffset").parse().unwrap();
        let max: i64 = asked.field("maxMsgNums").parse().unwrap();
        let next = (offset + max).min(self.messages);
        if next <= offset {
            // Waits like a long poll does: no answer here.
            return None;
        }
        let tag = |o: i64| if o % 2 == 0 { "Aa" } else { "BB" };
        let body = (offset..next).flat_map(|o| stored(asked.field("topic"), queue, o, tag(o))).collect();
        Some((0, fields(next), body))
    }
}
