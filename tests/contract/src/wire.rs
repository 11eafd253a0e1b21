//! The remoting protocol over a blocking socket, for what the official clients would hide: exact codes, damaged frames,
//! pipelining, byte-exact records. Written from the protocol, apart from the servers' own codec.

use crate::record::{Stored, decode_all};
use crate::{Outcome, Stop, While};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Largest answer read.
const MAX_ANSWER: usize = 64 << 20;

/// The request codes the cases use, by RocketMQ's names.
pub mod code {
    pub const PULL_MESSAGE: i32 = 11;
    pub const QUERY_MESSAGE: i32 = 12;
    pub const QUERY_CONSUMER_OFFSET: i32 = 14;
    pub const UPDATE_CONSUMER_OFFSET: i32 = 15;
    pub const UPDATE_AND_CREATE_TOPIC: i32 = 17;
    pub const UPDATE_AND_CREATE_SUBSCRIPTIONGROUP: i32 = 200;
    pub const GET_CONSUMER_LIST_BY_GROUP: i32 = 38;
    pub const SEARCH_OFFSET_BY_TIMESTAMP: i32 = 29;
    pub const GET_MAX_OFFSET: i32 = 30;
    pub const GET_MIN_OFFSET: i32 = 31;
    pub const VIEW_MESSAGE_BY_ID: i32 = 33;
    pub const GET_ROUTEINFO_BY_TOPIC: i32 = 105;
    pub const GET_BROKER_CLUSTER_INFO: i32 = 106;
    pub const CLEAN_EXPIRED_CONSUMEQUEUE: i32 = 306;
    pub const QUERY_TOPIC_CONSUME_BY_WHO: i32 = 300;
    pub const SEND_MESSAGE_V2: i32 = 310;
    pub const SET_MESSAGE_REQUEST_MODE: i32 = 401;
    pub const DELETE_EXPIRED_COMMITLOG: i32 = 329;
}

/// How a request's header is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    Json,
    Binary,
}

/// One response.
#[derive(Clone, Debug)]
pub struct Answer {
    pub code: i32,
    pub opaque: i32,
    pub remark: String,
    pub fields: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Answer {
    /// A header field that must be a number.
    pub fn num(&self, key: &str) -> Outcome<i64> {
        let value = self.fields.get(key).and_then(|v| v.parse().ok());
        value.ok_or_else(|| {
            Stop::Failed(format!("no number under '{key}': code {}, {}, {:?}", self.code, self.remark, self.fields))
        })
    }

    /// Fails unless the code is SUCCESS.
    pub fn ok(self) -> Outcome<Answer> {
        if self.code == 0 { Ok(self) } else { Err(Stop::Failed(format!("code {}: {}", self.code, self.remark))) }
    }
}

/// Where one acknowledged message went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    pub queue: i32,
    pub offset: i64,
    pub offset_id: String,
}

/// One pull's outcome.
#[derive(Clone, Debug)]
pub struct Pulled {
    pub code: i32,
    pub next: i64,
    pub min: i64,
    pub max: i64,
    pub records: Vec<Stored>,
}

/// Milliseconds since the epoch.
#[expect(clippy::disallowed_methods, reason = "the harness shares no code with the servers it tests")]
pub fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64)
}

/// Builds one request frame.
pub fn frame(header: Header, code: i32, opaque: i32, flag: i32, fields: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let head = match header {
        Header::Json => {
            let ext: serde_json::Map<String, Value> = fields.iter().map(|(k, v)| ((*k).to_owned(), json!(v))).collect();
            json!({"code": code, "language": "JAVA", "version": 475, "opaque": opaque, "flag": flag, "extFields": ext,
                   "serializeTypeCurrentRPC": "JSON"})
            .to_string()
            .into_bytes()
        }
        Header::Binary => {
            let mut ext = Vec::new();
            for (key, value) in fields {
                ext.extend((key.len() as u16).to_be_bytes());
                ext.extend(key.as_bytes());
                ext.extend((value.len() as u32).to_be_bytes());
                ext.extend(value.as_bytes());
            }
            let mut head = Vec::new();
            head.extend((code as i16).to_be_bytes());
            head.push(0);
            head.extend(475i16.to_be_bytes());
            head.extend(opaque.to_be_bytes());
            head.extend(flag.to_be_bytes());
            head.extend(0i32.to_be_bytes());
            head.extend((ext.len() as i32).to_be_bytes());
            head.extend(ext);
            head
        }
    };
    raw_frame(u8::from(header == Header::Binary), &head, body)
}

/// Puts the two length words before a header of any content.
pub fn raw_frame(kind: u8, head: &[u8], body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(8 + head.len() + body.len());
    out.extend(((4 + head.len() + body.len()) as u32).to_be_bytes());
    out.extend(((u32::from(kind) << 24) | head.len() as u32).to_be_bytes());
    out.extend(head);
    out.extend(body);
    out
}

/// One connection.
pub struct Conn {
    pub stream: TcpStream,
    pub header: Header,
    opaque: i32,
    inbound: Vec<u8>,
    start: usize,
}

impl Conn {
    /// Connects with a read timeout of 20 s.
    pub fn open(addr: &str) -> Outcome<Conn> {
        let stream = TcpStream::connect(addr).doing(format!("connecting to {addr}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        stream.set_write_timeout(Some(Duration::from_secs(20)))?;
        Ok(Conn { stream, header: Header::Json, opaque: 0, inbound: Vec::new(), start: 0 })
    }

    /// Writes a request and returns its opaque.
    pub fn begin(&mut self, code: i32, fields: &[(&str, &str)], body: &[u8]) -> Outcome<i32> {
        self.opaque += 1;
        let bytes = frame(self.header, code, self.opaque, 0, fields, body);
        self.stream.write_all(&bytes)?;
        Ok(self.opaque)
    }

    /// Reads the next response.
    pub fn read(&mut self) -> Outcome<Answer> {
        loop {
            let have = &self.inbound[self.start..];
            if have.len() >= 4 {
                let total = u32::from_be_bytes([have[0], have[1], have[2], have[3]]) as usize;
                if total > MAX_ANSWER {
                    return Err(Stop::Failed(format!("the server announces an answer of {total} bytes")));
                }
                if have.len() >= 4 + total {
                    let answer = parse(&have[4..4 + total])?;
                    self.start += 4 + total;
                    if self.start == self.inbound.len() {
                        self.inbound.clear();
                        self.start = 0;
                    }
                    return Ok(answer);
                }
            }
            if self.start > 0 {
                self.inbound.drain(..self.start);
                self.start = 0;
            }
            let filled = self.inbound.len();
            self.inbound.resize(filled + 65536, 0);
            let read = self.stream.read(&mut self.inbound[filled..]);
            self.inbound.truncate(filled + *read.as_ref().unwrap_or(&0));
            if read? == 0 {
                return Err("the server closed the connection".into());
            }
        }
    }

    /// One request, one response.
    pub fn call(&mut self, code: i32, fields: &[(&str, &str)], body: &[u8]) -> Outcome<Answer> {
        let opaque = self.begin(code, fields, body)?;
        let answer = self.read()?;
        crate::ensure_eq!(answer.opaque, opaque, "the answer's opaque");
        Ok(answer)
    }

    /// Creates or changes a topic with `queues` read and write queues.
    pub fn create_topic(&mut self, topic: &str, queues: u32) -> Outcome {
        self.create_topic_with(topic, queues, "")
    }

    /// Creates a topic with attribute `message.type`.
    pub fn create_typed_topic(&mut self, topic: &str, queues: u32, kind: &str) -> Outcome {
        self.create_topic_with(topic, queues, &format!("+message.type={kind}"))
    }

    fn create_topic_with(&mut self, topic: &str, queues: u32, attributes: &str) -> Outcome {
        let queues = queues.to_string();
        let fields = [
            ("topic", topic),
            ("defaultTopic", "TBW102"),
            ("readQueueNums", queues.as_str()),
            ("writeQueueNums", &queues),
            ("perm", "6"),
            ("topicFilterType", "SINGLE_TAG"),
            ("topicSysFlag", "0"),
            ("order", "false"),
            ("attributes", attributes),
        ];
        self.call(code::UPDATE_AND_CREATE_TOPIC, &fields, &[])?.ok().map(drop).doing(format!("creating topic {topic}"))
    }

    /// Creates or changes a consumer group; `config` is JSON.
    pub fn update_group(&mut self, config: &str) -> Outcome {
        self.call(code::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, &[], config.as_bytes())?
            .ok()
            .map(drop)
            .doing("changing a group")
    }

    /// Sends by code 310 and returns the raw answer.
    pub fn send_raw(&mut self, topic: &str, queue: i32, properties: &str, body: &[u8]) -> Outcome<Answer> {
        let (queue, born) = (queue.to_string(), now_ms().to_string());
        self.call(code::SEND_MESSAGE_V2, &send_fields(topic, &queue, &born, properties), body)
    }

    /// Sends one message; it must be acknowledged.
    pub fn send(&mut self, topic: &str, queue: i32, properties: &str, body: &[u8]) -> Outcome<Sent> {
        sent(&self.send_raw(topic, queue, properties, body)?.ok()?)
    }

    /// Pulls without waiting, with its own subscription.
    pub fn pull(&mut self, topic: &str, queue: i32, offset: i64, max: i32) -> Outcome<Pulled> {
        let (queue, offset, max) = (queue.to_string(), offset.to_string(), max.to_string());
        let answer = self.call(code::PULL_MESSAGE, &pull_fields(topic, &queue, &offset, &max), &[])?;
        if ![0, 19, 20, 21].contains(&answer.code) {
            return Err(Stop::Failed(format!("pull: code {}: {}", answer.code, answer.remark)));
        }
        Ok(Pulled {
            code: answer.code,
            next: answer.num("nextBeginOffset")?,
            min: answer.num("minOffset")?,
            max: answer.num("maxOffset")?,
            records: decode_all(&answer.body)?,
        })
    }

    /// Every record of one queue from `offset` to its end; queue offsets must have no hole.
    pub fn read_queue(&mut self, topic: &str, queue: i32, offset: i64) -> Outcome<Vec<Stored>> {
        let mut all = Vec::new();
        let mut next = offset;
        loop {
            let pulled = self.pull(topic, queue, next, 32)?;
            match pulled.code {
                0 => {
                    for record in pulled.records {
                        crate::ensure_eq!(
                            record.queue_offset,
                            next,
                            "{topic} queue {queue}: queue offset of the next record"
                        );
                        crate::ensure_eq!(
                            (record.queue_id, record.topic.as_str()),
                            (queue, topic),
                            "record of another queue"
                        );
                        next += 1;
                        all.push(record);
                    }
                }
                20 => {}
                _ => {
                    crate::ensure!(
                        next >= pulled.max,
                        "{topic} queue {queue} ends at {next}, its maximum is {}",
                        pulled.max
                    );
                    return Ok(all);
                }
            }
        }
    }

    /// Asks for one of the offsets of a queue (`code` GET_MAX_OFFSET or GET_MIN_OFFSET).
    pub fn bound(&mut self, code: i32, topic: &str, queue: i32) -> Outcome<i64> {
        let queue = queue.to_string();
        self.call(code, &[("topic", topic), ("queueId", &queue)], &[])?.ok()?.num("offset")
    }
}

/// The header of a send (code 310) as the Java client fills it.
pub fn send_fields<'a>(topic: &'a str, queue: &'a str, born: &'a str, properties: &'a str) -> [(&'a str, &'a str); 13] {
    [
        ("a", "contract-producer"),
        ("b", topic),
        ("c", "TBW102"),
        ("d", "4"),
        ("e", queue),
        ("f", "0"),
        ("g", born),
        ("h", "0"),
        ("i", properties),
        ("j", "0"),
        ("k", "false"),
        ("l", "16"),
        ("m", "false"),
    ]
}

/// The header of a pull (code 11) that carries its own subscription and does not wait.
pub fn pull_fields<'a>(topic: &'a str, queue: &'a str, offset: &'a str, max: &'a str) -> [(&'a str, &'a str); 11] {
    [
        ("consumerGroup", "contract-reader"),
        ("topic", topic),
        ("queueId", queue),
        ("queueOffset", offset),
        ("maxMsgNums", max),
        ("sysFlag", "4"),
        ("commitOffset", "0"),
        ("suspendTimeoutMillis", "0"),
        ("subscription", "*"),
        ("subVersion", "0"),
        ("expressionType", "TAG"),
    ]
}

/// What a send's answer says.
pub fn sent(answer: &Answer) -> Outcome<Sent> {
    Ok(Sent {
        queue: answer.num("queueId")? as i32,
        offset: answer.num("queueOffset")?,
        offset_id: answer.fields.get("msgId").cloned().unwrap_or_default(),
    })
}

fn parse(bytes: &[u8]) -> Outcome<Answer> {
    let word = bytes.first_chunk::<4>().map(|w| u32::from_be_bytes(*w)).ok_or("answer without a header length")?;
    let (kind, length) = (word >> 24, (word & 0x00ff_ffff) as usize);
    let head = bytes.get(4..4 + length).ok_or("answer whose header is longer than its frame")?;
    let body = bytes[4 + length..].to_vec();
    if kind == 0 {
        let value: Value = serde_json::from_slice(head).map_err(|e| format!("answer header: {e}"))?;
        let fields = value["extFields"].as_object().map(|ext| {
            ext.iter().map(|(k, v)| (k.clone(), v.as_str().map_or_else(|| v.to_string(), str::to_owned))).collect()
        });
        return Ok(Answer {
            code: value["code"].as_i64().ok_or("answer without a code")? as i32,
            opaque: value["opaque"].as_i64().unwrap_or(-1) as i32,
            remark: value["remark"].as_str().unwrap_or("").to_owned(),
            fields: fields.unwrap_or_default(),
            body,
        });
    }
    parse_binary(head, body).ok_or_else(|| "binary answer header ends early".into())
}

fn parse_binary(head: &[u8], body: Vec<u8>) -> Option<Answer> {
    fn take<'a>(rest: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
        let (head, tail) = rest.split_at_checked(count)?;
        *rest = tail;
        Some(head)
    }
    fn int(rest: &mut &[u8], bytes: usize) -> Option<i64> {
        Some(take(rest, bytes)?.iter().fold(0, |value, byte| (value << 8) | i64::from(*byte)))
    }
    let mut rest = head;
    let code = int(&mut rest, 2)? as i16;
    take(&mut rest, 3)?;
    let opaque = int(&mut rest, 4)? as i32;
    take(&mut rest, 4)?;
    let remark_len = int(&mut rest, 4)? as usize;
    let remark = String::from_utf8_lossy(take(&mut rest, remark_len)?).into_owned();
    let ext_len = int(&mut rest, 4)? as usize;
    let mut ext = take(&mut rest, ext_len)?;
    let mut fields = BTreeMap::new();
    while !ext.is_empty() {
        let key_len = int(&mut ext, 2)? as usize;
        let key = String::from_utf8_lossy(take(&mut ext, key_len)?).into_owned();
        let value_len = int(&mut ext, 4)? as usize;
        fields.insert(key, String::from_utf8_lossy(take(&mut ext, value_len)?).into_owned());
    }
    Some(Answer { code: i32::from(code), opaque, remark, fields, body })
}
