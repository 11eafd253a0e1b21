//! Structure-aware inputs for every decoder, made from a string of bytes, and what must hold for any input. Used by
//! the property tests here and by the targets in `fuzz/`: the one draws the bytes at random, the other searches them.

pub use crate::choices::Choices;
use ferromq_protocol::body::*;
use ferromq_protocol::command::MAX_FIELDS;
use ferromq_protocol::frame::{announced_len, split};
use ferromq_protocol::header::{
    RpcHeader, admin::*, client::*, group::*, namesrv::*, offset::*, pop::*, pull::*, query::*, send::*, topic::*,
};
use ferromq_protocol::{
    Command, Encoding, Fields, FrameWriter, Head, MAX_FRAME_BYTES, OwnedCommand, id, json, properties, topic,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

impl Choices<'_> {
    fn number(&mut self) -> i64 {
        let wide = (0..8).fold(0_i64, |value, _| value << 8 | i64::from(self.byte()));
        match self.byte() % 8 {
            0 => 0,
            1 => -1,
            2 => i64::from(i32::MAX),
            3 => i64::MIN,
            4 => i64::MAX,
            5 => wide,
            _ => wide % 1000,
        }
    }

    fn text(&mut self) -> String {
        const PIECES: [&str; 16] = [
            "TopicTest",
            "group",
            "",
            " ",
            "ä中😀",
            "\"",
            "\\",
            "\u{1}",
            "\u{2}",
            "%RETRY%g",
            "true",
            "-7",
            "\n\t",
            "\u{0}",
            "\\u0041",
            "x",
        ];
        let pieces = self.below(5);
        (0..pieces).map(|_| self.pick(&PIECES)).collect()
    }
}

/// Every field name of every family, and some of none.
const KEYS: [&str; 117] = [
    "a",
    "b",
    "c",
    "d",
    "e",
    "f",
    "g",
    "h",
    "i",
    "j",
    "k",
    "l",
    "m",
    "n",
    "producerGroup",
    "topic",
    "defaultTopic",
    "defaultTopicQueueNums",
    "queueId",
    "sysFlag",
    "bornTimestamp",
    "flag",
    "properties",
    "reconsumeTimes",
    "unitMode",
    "maxReconsumeTimes",
    "batch",
    "bname",
    "ns",
    "nsd",
    "oway",
    "lo",
    "consumerGroup",
    "queueOffset",
    "maxMsgNums",
    "commitOffset",
    "suspendTimeoutMillis",
    "subscription",
    "subVersion",
    "expressionType",
    "maxMsgBytes",
    "requestSource",
    "proxyFrowardClientId",
    "liteTopic",
    "suggestWhichBrokerId",
    "nextBeginOffset",
    "minOffset",
    "maxOffset",
    "offset",
    "timestamp",
    "boundaryType",
    "key",
    "maxNum",
    "beginTimestamp",
    "endTimestamp",
    "clientID",
    "group",
    "isForce",
    "clientAddr",
    "clientId",
    "jstackEnable",
    "msgId",
    "brokerName",
    "readQueueNums",
    "writeQueueNums",
    "perm",
    "topicFilterType",
    "order",
    "attributes",
    "groupName",
    "cleanOffset",
    "compareGroup",
    "srcGroup",
    "destGroup",
    "namespace",
    "value",
    "brokerAddr",
    "clusterName",
    "haServerAddr",
    "brokerId",
    "bodyCrc32",
    "compressed",
    "cluster",
    "statsName",
    "statsKey",
    "username",
    "invisibleTime",
    "pollTime",
    "bornTime",
    "initMode",
    "extraInfo",
    "popTime",
    "reviveQid",
    "hasMsg",
    "tranStateTableOffset",
    "commitOrRollback",
    "commitLogOffset",
    "originMsgId",
    "delayLevel",
    "bornHost",
    "storeHost",
    "storeTimestamp",
    "recallHandle",
    "indexLastUpdateTimestamp",
    "indexLastUpdatePhyoffset",
    "transactionId",
    "setZeroIfNotFound",
    "filterGroups",
    "restNum",
    "startOffsetInfo",
    "pollingNum",
    "wipeTopicCount",
    "addTopicCount",
    "isOrder",
    "changed",
    "version",
    "unheard of",
];

/// A valid frame: request or response, either encoding, fields of any family with values of any type.
pub fn frame(choices: &mut Choices<'_>) -> Vec<u8> {
    const CODES: [i32; 10] = [0, 10, 11, 34, 105, 310, 320, 200_050, -1, 32_767];
    let encoding = if choices.one_in(2) { Encoding::Json } else { Encoding::Binary };
    let code = CODES[choices.below(CODES.len())];
    let opaque = choices.number() as i32;
    let mut out = Vec::new();
    let mut writer = if choices.one_in(3) {
        let head = Head { encoding, code: 0, language: 0, version: 0, opaque, flag: 0 };
        FrameWriter::response(&mut out, &head, code as i16 as i32)
    } else {
        FrameWriter::request(&mut out, encoding, code, opaque, choices.one_in(2))
    };
    if choices.one_in(4) {
        writer.remark(&choices.text());
    }
    // The keys of one family stand together; so that required ones are all there, they often come in a row.
    let (start, in_a_row) = (choices.below(KEYS.len()), !choices.one_in(3));
    let start = if choices.one_in(3) { 0 } else { start };
    let all = choices.one_in(6);
    let count = if all { KEYS.len() } else { choices.below(30) };
    for step in 0..count {
        let key = if in_a_row || all { KEYS[(start + step) % KEYS.len()] } else { choices.pick(&KEYS) };
        match choices.byte() % if all { 64 } else { 8 } {
            0 => writer.str(key, &choices.text()),
            1 => writer.bool(key, choices.one_in(2)),
            2 | 3 => writer.i64(key, choices.number()),
            _ => writer.i32(key, choices.number() as i32),
        };
    }
    let body = choices.below(64);
    writer.finish_with_body(&vec![choices.byte(); body]);
    out
}

/// Damages bytes in the ways that hurt parsers: lengths, cuts, copies, single bits, quotes and brackets.
pub fn damage(choices: &mut Choices<'_>, bytes: &mut Vec<u8>) {
    const WORDS: [u32; 10] =
        [0, 1, 3, 4, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, 0x00FF_FFFF, MAX_FRAME_BYTES as u32, 0x0100_0000];
    for _ in 0..choices.below(5) {
        if bytes.is_empty() {
            return;
        }
        let at = choices.below(bytes.len());
        match choices.byte() % 8 {
            0 => bytes[at] ^= 1 << (choices.byte() % 8),
            1 => bytes[at] = choices.byte(),
            2 => bytes.truncate(at),
            3 => {
                let word = WORDS[choices.below(WORDS.len())].to_be_bytes();
                // The two words of the prefix more often than others.
                let at = if choices.one_in(2) { choices.below(8) } else { at };
                for (target, byte) in bytes.iter_mut().skip(at).zip(word) {
                    *target = byte;
                }
            }
            4 => {
                let end = (at + 1 + choices.below(16)).min(bytes.len());
                let piece = bytes[at..end].to_vec();
                let to = choices.below(bytes.len());
                bytes.splice(to..to, piece);
            }
            5 => {
                let end = (at + 1 + choices.below(16)).min(bytes.len());
                bytes.drain(at..end);
            }
            6 => bytes.insert(at, choices.pick(&[b"\"", b"\\", b"{", b"}", b"[", b"]", b":", b",", b"'", b"\0"])[0]),
            _ => {
                let words: [&[u8]; 4] = [b"\\u", b"null", b"{{", b"-9223372036854775809"];
                bytes.splice(at..at, choices.pick(&words).iter().copied());
            }
        }
    }
}

/// A JSON text in fastjson's dialect with the members of RocketMQ's bodies; sometimes not quite JSON.
pub fn body(choices: &mut Choices<'_>) -> Vec<u8> {
    let mut out = String::new();
    object(choices, &mut out, 0);
    out.into_bytes()
}

/// Members and what they usually hold: n number, s text, b boolean, e name of an enum, t texts, i integers, l objects, o an
/// object, m objects by name, k texts by name, q numbers by queue or number.
const MEMBERS: [(&str, u8); 104] = [
    ("subVersion", b'n'),
    ("heartbeatFingerprint", b'n'),
    ("queueId", b'n'),
    ("counter", b'n'),
    ("stateVersion", b'n'),
    ("timestamp", b'n'),
    ("readQueueNums", b'n'),
    ("writeQueueNums", b'n'),
    ("perm", b'n'),
    ("consumeTps", b'n'),
    ("version", b'n'),
    ("retryMaxTimes", b'n'),
    ("offset", b'n'),
    ("maxOffset", b'n'),
    ("brokerOffset", b'n'),
    ("epoch", b'n'),
    ("totalQueues", b'n'),
    ("gen", b'n'),
    ("initial", b'n'),
    ("sum", b'n'),
    ("tps", b'n'),
    ("physicOffset", b'n'),
    ("lastTimestamp", b'n'),
    ("commitOffset", b'n'),
    ("clientID", b's'),
    ("groupName", b's'),
    ("subString", b's'),
    ("expressionType", b's'),
    ("topic", b's'),
    ("brokerName", b's'),
    ("topicName", b's'),
    ("cluster", b's'),
    ("zoneName", b's'),
    ("clientId", b's'),
    ("orderTopicConf", b's'),
    ("scope", b's'),
    ("bname", b's'),
    ("remark", b's'),
    ("jstack", b's'),
    ("namespace", b's'),
    ("unitMode", b'b'),
    ("withoutSub", b'b'),
    ("order", b'b'),
    ("droped", b'b'),
    ("consumeEnable", b'b'),
    ("onlyThisBroker", b'b'),
    ("enableActingMaster", b'b'),
    ("consumeType", b'e'),
    ("messageModel", b'e'),
    ("consumeFromWhere", b'e'),
    ("topicFilterType", b'e'),
    ("type", b'e'),
    ("mode", b'e'),
    ("consumeResult", b'e'),
    ("tagsSet", b't'),
    ("filterServerList", b't'),
    ("consumerIdList", b't'),
    ("topicList", b't'),
    ("groupList", b't'),
    ("codeSet", b'i'),
    ("next", b'i'),
    ("consumerDataSet", b'l'),
    ("producerDataSet", b'l'),
    ("subscriptionDataSet", b'l'),
    ("mqSet", b'l'),
    ("lockOKMQSet", b'l'),
    ("brokerDatas", b'l'),
    ("queueDatas", b'l'),
    ("connectionSet", b'l'),
    ("topicConfigList", b'l'),
    ("groupConfigList", b'l'),
    ("subscriptionSet", b'l'),
    ("messageQueueAssignments", b'l'),
    ("queueData", b'l'),
    ("haConnectionInfo", b'l'),
    ("dataVersion", b'o'),
    ("topicConfigSerializeWrapper", b'o'),
    ("groupRetryPolicy", b'o'),
    ("exponentialRetryPolicy", b'o'),
    ("customizedRetryPolicy", b'o'),
    ("subscriptionData", b'o'),
    ("messageQueue", b'o'),
    ("statsMinute", b'o'),
    ("brokerMemberGroup", b'o'),
    ("mappingDetail", b'o'),
    ("topicConfigTable", b'm'),
    ("brokerAddrTable", b'm'),
    ("topicQueueMappingByBroker", b'm'),
    ("topicQueueMappingInfoMap", b'm'),
    ("topicQueueMappingDetailMap", b'm'),
    ("subscriptionGroupTable", b'm'),
    ("subscriptionTable", b'm'),
    ("statusTable", b'm'),
    ("offsetTable", b'm'),
    ("mqTable", b'm'),
    ("table", b'k'),
    ("attributes", b'k'),
    ("brokerAddrs", b'k'),
    ("properties", b'k'),
    ("userConsumerInfo", b'k'),
    ("messageQueueTable", b'q'),
    ("offsetTable", b'q'),
    ("currIdMap", b'q'),
    ("correctionOffsets", b'q'),
];

fn object(choices: &mut Choices<'_>, out: &mut String, depth: usize) {
    out.push('{');
    for _ in 0..choices.below(7) {
        let (name, kind) = MEMBERS[choices.below(MEMBERS.len())];
        match choices.byte() % 8 {
            0 => out.push_str(name),
            _ => {
                out.push('"');
                out.push_str(name);
                out.push('"');
            }
        }
        out.push(':');
        let kind = if choices.one_in(16) { 0 } else { kind };
        member(choices, out, kind, depth + 1);
        if !choices.one_in(16) {
            out.push(',');
        }
    }
    out.push('}');
}

fn member(choices: &mut Choices<'_>, out: &mut String, kind: u8, depth: usize) {
    match kind {
        _ if depth > 8 => out.push_str("null"),
        b'n' => out.push_str(&choices.number().to_string()),
        b's' => quoted(choices, out),
        b'b' => out.push_str(choices.pick(&["true", "false", "\"true\""])),
        b'e' => out.push_str(choices.pick(&[
            "\"SINGLE_TAG\"",
            "\"CONSUME_PASSIVELY\"",
            "\"CLUSTERING\"",
            "\"CONSUME_FROM_LAST_OFFSET\"",
            "0",
            "\"CUSTOMIZED\"",
            "\"POP\"",
            "\"CR_LATER\"",
        ])),
        b't' | b'i' | b'l' => {
            out.push('[');
            for _ in 0..choices.below(4) {
                member(
                    choices,
                    out,
                    if kind == b't' {
                        b's'
                    } else if kind == b'i' {
                        b'n'
                    } else {
                        b'o'
                    },
                    depth + 1,
                );
                out.push(',');
            }
            out.push(']');
        }
        b'o' => object(choices, out, depth),
        b'm' | b'k' | b'q' => {
            out.push('{');
            for _ in 0..choices.below(4) {
                match choices.byte() % 4 {
                    0 => out.push_str(r#"{"brokerName":"b","queueId":1,"topic":"t"}"#),
                    1 => out.push_str(&choices.below(9).to_string()),
                    _ => quoted(choices, out),
                }
                out.push(':');
                let kind = if kind == b'm' {
                    b'o'
                } else if kind == b'k' {
                    b's'
                } else {
                    b'n'
                };
                member(choices, out, kind, depth + 1);
                out.push(',');
            }
            out.push('}');
        }
        _ => value(choices, out, depth),
    }
}

fn quoted(choices: &mut Choices<'_>, out: &mut String) {
    let text = serde_json::to_string(&choices.text()).unwrap_or_default();
    if choices.one_in(8) { out.push_str(&text.replace('"', "'")) } else { out.push_str(&text) }
}

fn value(choices: &mut Choices<'_>, out: &mut String, depth: usize) {
    const WORDS: [&str; 14] = [
        "null",
        "true",
        "false",
        "\"SINGLE_TAG\"",
        "\"CONSUME_PASSIVELY\"",
        "\"CLUSTERING\"",
        "\"CONSUME_FROM_LAST_OFFSET\"",
        "1.5",
        "-0",
        "1e400",
        "\"7\"",
        "\"\"",
        "[]",
        "{}",
    ];
    match if depth > 8 { 0 } else { choices.byte() % 8 } {
        0 | 1 => out.push_str(choices.pick(&WORDS)),
        2 => out.push_str(&choices.number().to_string()),
        3 => quoted(choices, out),
        4 => {
            out.push('[');
            for _ in 0..choices.below(4) {
                value(choices, out, depth + 1);
                out.push(',');
            }
            out.push(']');
        }
        _ => object(choices, out, depth),
    }
}

/// Reads `bytes` as a stream of frames the way a connection does. Nothing may panic; what is read can be written and
/// reads the same again.
pub fn check_stream(bytes: &[u8]) {
    let mut rest = bytes;
    loop {
        match split(rest, MAX_FRAME_BYTES) {
            Ok(Some((frame, len))) => {
                assert_eq!(announced_len(rest), Some(len));
                assert!(len >= 8 && frame.header.len() + frame.body.len() + 8 == len);
                if let Ok(command) = Command::parse(frame) {
                    check_command(&command);
                    let owned = OwnedCommand::from_frame_bytes(rest[..len].to_vec()).expect("a frame that was parsed");
                    assert!(same(&owned.command(), &command) && owned.body() == frame.body);
                }
                rest = &rest[len..];
            }
            Ok(None) => {
                assert!(announced_len(rest).is_none_or(|len| len > rest.len()));
                return;
            }
            Err(_) => return,
        }
    }
}

fn same(a: &Command<'_>, b: &Command<'_>) -> bool {
    a.head == b.head && a.remark == b.remark && a.body == b.body && a.fields.iter().eq(b.fields.iter())
}

fn check_command(command: &Command<'_>) {
    let fields = &command.fields;
    assert!(fields.len() <= MAX_FIELDS);
    for (key, value) in fields.iter() {
        let _ = (value.to_str(), value.to_lossy(), value.parse_i32(), value.parse_i64(), value.parse_bool());
        if let Ok(key) = key.to_str() {
            assert!(fields.get(&key).is_some());
        }
        let text = value.bytes();
        check_properties(&text);
        if let Ok(text) = std::str::from_utf8(&text) {
            check_names(text);
        }
    }
    for encoding in [Encoding::Json, Encoding::Binary] {
        check_families(fields, encoding);
    }
}

/// Every family that can be read from `fields` writes what reads the same.
fn check_families(fields: &Fields<'_>, encoding: Encoding) {
    let head = Head { encoding, code: 0, language: 0, version: 0, opaque: 0, flag: 0 };
    // An empty text is none in the binary form.
    let has_empty = fields.iter().any(|(_, value)| value.is_empty());
    let lossless = encoding == Encoding::Json || !has_empty;
    macro_rules! families {
        ($($name:ident)*) => {$(
            if let Ok(header) = $name::read(fields) {
                let mut out = Vec::new();
                let mut writer = FrameWriter::response(&mut out, &head, 0);
                header.write(&mut writer);
                writer.finish();
                let owned = OwnedCommand::from_frame_bytes(out).expect("a frame we wrote");
                let command = owned.command();
                assert!(!lossless || $name::read(&command.fields).as_ref() == Ok(&header), "{header:?}");
            }
        )*};
    }
    families! {
        RpcHeader SendResponseHeader ConsumerSendMsgBackHeader EndTransactionHeader CheckTransactionStateHeader
        ReplyMessageHeader RecallMessageHeader PullHeader PullResponseHeader QueryConsumerOffsetHeader
        UpdateConsumerOffsetHeader SearchOffsetHeader GetMaxOffsetHeader GetMinOffsetHeader OffsetResponseHeader
        QueryMessageHeader ViewMessageHeader QueryConsumeQueueHeader UnregisterClientHeader ResetOffsetHeader
        GetConsumerRunningInfoHeader ConsumeMessageDirectlyHeader CreateTopicHeader TopicHeader GetAllTopicConfigHeader
        DeleteSubscriptionGroupHeader GroupHeader GetConsumeStatsHeader CloneGroupOffsetHeader PutKvConfigHeader
        RegisterBrokerHeader UnregisterBrokerHeader GetRouteInfoHeader BrokerHeartbeatHeader ViewBrokerStatsDataHeader
        UserHeader AclHeader PopMessageHeader PopMessageResponseHeader AckMessageHeader ChangeInvisibleTimeHeader
        NotificationHeader NotificationResponseHeader ChangeInvisibleTimeResponseHeader PollingInfoHeader
        PollingInfoResponseHeader QueryMessageResponseHeader RecallMessageResponseHeader GetConsumerListByGroupHeader
        GetEarliestMsgStoretimeHeader GetEarliestMsgStoretimeResponseHeader NotifyConsumerIdsChangedHeader
        GetConsumerConnectionListHeader GetProducerConnectionListHeader GetConsumerStatusHeader
        GetAllTopicConfigResponseHeader GetAllSubscriptionGroupHeader GetAllSubscriptionGroupResponseHeader
        QueryConsumeTimeSpanHeader QueryCorrectionOffsetHeader GetConsumeStatsInBrokerHeader
        QuerySubscriptionByConsumerHeader UpdateGroupForbiddenHeader KvConfigHeader GetKvConfigResponseHeader
        GetKvListByNamespaceHeader RegisterBrokerResponseHeader QueryDataVersionResponseHeader WritePermOfBrokerHeader
        WipeWritePermOfBrokerResponseHeader AddWritePermOfBrokerResponseHeader DeleteTopicFromNamesrvHeader
        GetTopicsByClusterHeader GetBrokerMemberGroupHeader GetBrokerConfigResponseHeader ResumeCheckHalfMessageHeader
        ListUsersHeader ListAclsHeader
    }
    for short in [false, true] {
        let read = |fields| -> Result<SendHeader<'_>, _> {
            if short { SendHeader::read_short(fields) } else { SendHeader::read_long(fields) }
        };
        let Ok(header) = read(fields) else { continue };
        let mut out = Vec::new();
        let mut writer = FrameWriter::response(&mut out, &head, 0);
        if short {
            header.write_short(&mut writer)
        } else {
            header.write_long(&mut writer)
        }
        writer.finish();
        let owned = OwnedCommand::from_frame_bytes(out).expect("a frame we wrote");
        let command = owned.command();
        let read = if short { SendHeader::read_short(&command.fields) } else { SendHeader::read_long(&command.fields) };
        // Properties that are absent are written as an empty text, which the binary form cannot hold either.
        assert!(!lossless || read.as_ref() == Ok(&header), "{header:?}");
    }
}

/// Reads `bytes` as every body. Nothing may panic; what is read writes in both forms what reads the same.
pub fn check_body(bytes: &[u8]) {
    fn one<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
        let Ok(body) = json::from_slice::<T>(bytes) else { return };
        for written in [json::to_vec_standard(&body), json::to_vec_fastjson1(&body)] {
            let written = written.expect("a body has a form in JSON");
            let again = json::from_slice::<T>(&written).expect("a body that was written");
            assert_eq!(again, body);
        }
    }
    macro_rules! bodies { ($($name:ident)*) => { $(one::<$name>(bytes);)* }; }
    bodies! {
        HeartbeatData CheckClientRequestBody ConsumerConnection ProducerConnection ProducerTableInfo
        GetConsumerListByGroupResponseBody QuerySubscriptionResponseBody SubscriptionGroupConfig SubscriptionGroupWrapper
        SubscriptionGroupList GroupList GroupForbidden TopicQueueMappingDetail TopicConfigAndQueueMapping
        LockBatchRequestBody LockBatchResponseBody ResetOffsetBody ResetOffsetBodyForC GetConsumerStatusBody
        ConsumerOffsetSerializeWrapper QueryAssignmentRequestBody QueryAssignmentResponseBody TopicRouteData ClusterInfo
        GetBrokerMemberGroupResponseBody ConsumerRunningInfo ConsumeMessageDirectlyResult TopicStatsTable ConsumeStats
        ConsumeStatsList BrokerStatsData QueryConsumeTimeSpanBody QueryConsumeQueueResponseBody HaRuntimeInfo
        RegisterBrokerBody TopicConfigAndMappingSerializeWrapper TopicList KvTable CreateTopicListRequestBody DataVersion
    }
    let _ = json::from_slice::<serde_json::Value>(bytes);
    let _ = json::from_slice::<Vec<String>>(bytes);
}

/// Editing properties leaves the others as they are.
pub fn check_properties(text: &[u8]) {
    let before: Vec<(Vec<u8>, Vec<u8>)> =
        properties::iter(text).map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
    let mut edited = text.to_vec();
    properties::set(&mut edited, "KEYS", "k1 k2");
    assert_eq!(properties::get_str(&edited, "KEYS"), Some("k1 k2"));
    assert!(properties::remove(&mut edited, "KEYS") && properties::get(&edited, "KEYS").is_none());
    let others = before.into_iter().filter(|(name, _)| name != b"KEYS");
    let after = properties::iter(&edited).map(|(name, value)| (name.to_vec(), value.to_vec()));
    assert!(others.eq(after));
}

/// Ids and names made of any text.
pub fn check_names(text: &str) {
    if let Some((host, offset)) = id::parse_offset_message_id(text) {
        assert!(id::offset_message_id(host, offset).eq_ignore_ascii_case(text));
    }
    if topic::validate_topic(text).is_ok() {
        assert!(!text.is_empty() && text.len() <= 255 && !text.contains(['/', '\\', '.', '\0']));
    }
    let _ = topic::validate_group(text);
    let _ = ferromq_protocol::java::string_hash(text);
}
