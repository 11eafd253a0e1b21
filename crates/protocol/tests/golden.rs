//! Frames captured from the Java client and servers of RocketMQ 5.5.0 (`tests/golden`): every one is read, its header
//! family and body lose nothing, and what is written from them reads the same.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::PathBuf;

use ferromq_protocol::body::*;
use ferromq_protocol::frame::split;
use ferromq_protocol::header::{
    admin::*, client::*, group::*, namesrv::*, offset::*, pop::*, pull::*, query::*, send::*, topic::*,
};
use ferromq_protocol::{
    Command, Encoding, FieldError, Fields, Frame, FrameWriter, Head, MAX_FRAME_BYTES, OwnedCommand, json,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

struct Golden {
    name: String,
    bytes: Vec<u8>,
    /// Code of the request, also for a response.
    request_code: i32,
}

fn goldens(folder: &str) -> Vec<Golden> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(folder);
    let mut all: Vec<Golden> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            let request_code = name.split('-').next().unwrap().parse().unwrap();
            Golden { bytes: std::fs::read(path).unwrap(), name, request_code }
        })
        .collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(all.len() > 150, "golden frames are missing in {}", folder.display());
    all
}

fn parse(bytes: &[u8]) -> Command<'_> {
    let (frame, len) = split(bytes, MAX_FRAME_BYTES).unwrap().unwrap();
    assert_eq!(len, bytes.len());
    Command::parse(frame).unwrap()
}

fn field_map(fields: &Fields<'_>) -> BTreeMap<String, String> {
    let text = |text: ferromq_protocol::Text<'_>| text.to_str().unwrap().into_owned();
    fields.iter().map(|(key, value)| (text(key), text(value))).collect()
}

#[test]
fn every_frame_is_read() {
    for (folder, encoding) in [("json", Encoding::Json), ("binary", Encoding::Binary)] {
        for golden in goldens(folder) {
            let command = parse(&golden.bytes);
            let head = command.head;
            assert_eq!((head.encoding, head.version, head.language), (encoding, 513, 0), "{}", golden.name);
            assert_eq!(head.is_response(), golden.name.contains("response"), "{}", golden.name);
            assert_eq!(head.is_oneway(), golden.name.contains("oneway"), "{}", golden.name);
            if !head.is_response() {
                assert_eq!(head.code, golden.request_code, "{}", golden.name);
            } else {
                let code: i32 = golden.name.split('-').nth(2).unwrap().parse().unwrap();
                assert_eq!(head.code, code, "{}", golden.name);
            }
            let owned = OwnedCommand::from_frame_bytes(golden.bytes.clone()).unwrap();
            assert_eq!(field_map(&owned.command().fields), field_map(&command.fields), "{}", golden.name);
            assert_eq!(owned.body(), command.body, "{}", golden.name);
            assert_eq!(owned.command().remark, command.remark, "{}", golden.name);
        }
    }
}

/// Writes `command` again, with its fields in the order they came.
fn rewrite(command: &Command<'_>) -> Vec<u8> {
    let head = command.head;
    let mut out = Vec::new();
    let mut writer = if head.is_response() {
        FrameWriter::response(&mut out, &head, head.code)
    } else {
        FrameWriter::request(&mut out, head.encoding, head.code, head.opaque, head.is_oneway())
    };
    if let Some(remark) = command.remark {
        writer.remark(&remark.to_str().unwrap());
    }
    for (key, value) in command.fields.iter() {
        writer.text(&key.to_str().unwrap(), value);
    }
    writer.finish_with_body(command.body);
    out
}

#[test]
fn binary_frames_are_written_byte_for_byte() {
    const LANGUAGE_AT: usize = 10;
    for golden in goldens("binary") {
        let command = parse(&golden.bytes);
        // Java writes an empty text as one, and reads it as none.
        let dropped = command.fields.iter().count() < count_binary_fields(&golden.bytes);
        let mut out = rewrite(&command);
        if !command.head.is_response() {
            assert_eq!(out[LANGUAGE_AT], 12, "our requests say RUST");
            out[LANGUAGE_AT] = 0;
        }
        assert!(dropped || out == golden.bytes, "{}", golden.name);
    }
}

fn count_binary_fields(frame: &[u8]) -> usize {
    let word = |at: usize| u32::from_be_bytes(frame[at..at + 4].try_into().unwrap()) as usize;
    let mut at = 8 + 13;
    at += 4 + word(at);
    let end = at + 4 + word(at);
    at += 4;
    let mut count = 0;
    while at < end {
        at += 2 + usize::from(u16::from_be_bytes([frame[at], frame[at + 1]]));
        at += 4 + word(at);
        count += 1;
    }
    count
}

#[test]
fn json_frames_are_written_with_the_same_meaning() {
    for golden in goldens("json") {
        let command = parse(&golden.bytes);
        let out = rewrite(&command);
        let again = parse(&out);
        let language = if command.head.is_response() { 0 } else { 12 };
        assert_eq!(again.head, Head { language, ..command.head }, "{}", golden.name);
        assert_eq!(field_map(&again.fields), field_map(&command.fields), "{}", golden.name);
        assert_eq!((again.remark, again.body), (command.remark, command.body), "{}", golden.name);
        // Both are JSON to others, too, and hold the same members.
        let value = |bytes: &[u8]| -> Value {
            let (Frame { header, .. }, _) = split(bytes, MAX_FRAME_BYTES).unwrap().unwrap();
            let mut value: Value = serde_json::from_slice(header).unwrap();
            let object = value.as_object_mut().unwrap();
            object.remove("language");
            // Java writes an empty object where there are no fields.
            if object.get("extFields").is_some_and(|fields| fields.as_object().is_some_and(|map| map.is_empty())) {
                object.remove("extFields");
            }
            value
        };
        assert_eq!(value(&out), value(&golden.bytes), "{}", golden.name);
    }
}

/// Reads a family from `fields` and writes it again: the fields of the result.
type Family = fn(&Fields<'_>, &mut FrameWriter<'_>) -> Result<(), FieldError>;

macro_rules! family {
    ($name:ident) => {
        Some(
            (|fields, writer| {
                $name::read(fields)?.write(writer);
                Ok(())
            }) as Family,
        )
    };
}

fn request_family(code: i32) -> Option<Family> {
    match code {
        310 | 320 | 325 => Some(|fields, writer| {
            SendHeader::read_short(fields)?.write_short(writer);
            Ok(())
        }),
        11 | 361 => family!(PullHeader),
        12 => family!(QueryMessageHeader),
        14 => family!(QueryConsumerOffsetHeader),
        15 => family!(UpdateConsumerOffsetHeader),
        17 => family!(CreateTopicHeader),
        21 => family!(GetAllTopicConfigHeader),
        29 => family!(SearchOffsetHeader),
        30 => family!(GetMaxOffsetHeader),
        31 => family!(GetMinOffsetHeader),
        32 => family!(GetEarliestMsgStoretimeHeader),
        33 => family!(ViewMessageHeader),
        35 => family!(UnregisterClientHeader),
        36 => family!(ConsumerSendMsgBackHeader),
        37 => family!(EndTransactionHeader),
        38 => family!(GetConsumerListByGroupHeader),
        39 => family!(CheckTransactionStateHeader),
        40 => family!(NotifyConsumerIdsChangedHeader),
        100 => family!(PutKvConfigHeader),
        101 | 102 => family!(KvConfigHeader),
        103 => family!(RegisterBrokerHeader),
        104 => family!(UnregisterBrokerHeader),
        105 => family!(GetRouteInfoHeader),
        201 => family!(GetAllSubscriptionGroupHeader),
        202 | 215 | 300 | 351 => family!(TopicHeader),
        203 => family!(GetConsumerConnectionListHeader),
        204 => family!(GetProducerConnectionListHeader),
        205 | 327 => family!(WritePermOfBrokerHeader),
        207 => family!(DeleteSubscriptionGroupHeader),
        208 => family!(GetConsumeStatsHeader),
        216 => family!(DeleteTopicFromNamesrvHeader),
        219 => family!(GetKvListByNamespaceHeader),
        220 | 222 => family!(ResetOffsetHeader),
        221 | 223 => family!(GetConsumerStatusHeader),
        224 => family!(GetTopicsByClusterHeader),
        303 => family!(QueryConsumeTimeSpanHeader),
        307 => family!(GetConsumerRunningInfoHeader),
        309 => family!(ConsumeMessageDirectlyHeader),
        314 => family!(CloneGroupOffsetHeader),
        315 => family!(ViewBrokerStatsDataHeader),
        317 => family!(GetConsumeStatsInBrokerHeader),
        321 => family!(QueryConsumeQueueHeader),
        326 => family!(ReplyMessageHeader),
        343 => family!(GroupHeader),
        345 => family!(QuerySubscriptionByConsumerHeader),
        370 => family!(RecallMessageHeader),
        // 3442 is what is left of 200050 in 16 bits.
        200_050 | 3442 => family!(PopMessageHeader),
        200_051 => family!(AckMessageHeader),
        _ => None,
    }
}

fn response_family(request_code: i32) -> Option<Family> {
    match request_code {
        310 | 320 | 325 => family!(SendResponseHeader),
        11 | 361 => family!(PullResponseHeader),
        12 => family!(QueryMessageResponseHeader),
        14 | 29 | 30 | 31 => family!(OffsetResponseHeader),
        21 => family!(GetAllTopicConfigResponseHeader),
        26 => family!(GetBrokerConfigResponseHeader),
        32 => family!(GetEarliestMsgStoretimeResponseHeader),
        101 => family!(GetKvConfigResponseHeader),
        103 => family!(RegisterBrokerResponseHeader),
        201 => family!(GetAllSubscriptionGroupResponseHeader),
        205 => family!(WipeWritePermOfBrokerResponseHeader),
        327 => family!(AddWritePermOfBrokerResponseHeader),
        370 => family!(RecallMessageResponseHeader),
        200_050 => family!(PopMessageResponseHeader),
        _ => None,
    }
}

/// Fields that stand beside any family.
const GENERIC: [&str; 12] = [
    "ns",
    "nsd",
    "bname",
    "oway",
    "lo",
    "MSG_REGION",
    "TRACE_ON",
    "_UNIQUE_KEY_QUERY",
    "IS_SUB_CHANGE",
    "IS_SUPPORT_HEART_BEAT_V2",
    "FILTER_SERVER_LIST",
    "ReqT",
];

#[test]
fn header_families_lose_no_field() {
    for golden in goldens("json").into_iter().chain(goldens("binary")) {
        let command = parse(&golden.bytes);
        let mut expected = field_map(&command.fields);
        expected.retain(|key, _| !GENERIC.contains(&key.as_str()));
        let family = match (command.head.is_response(), command.head.code) {
            (false, code) => request_family(code),
            (true, 0 | 19..=22 | 210) => response_family(golden.request_code),
            (true, _) => None,
        };
        if expected.is_empty() {
            continue;
        }
        let Some(family) = family else {
            panic!("{} has fields of no family: {expected:?}", golden.name);
        };
        let mut out = Vec::new();
        let head = Head { encoding: command.head.encoding, ..command.head };
        let mut writer = FrameWriter::response(&mut out, &head, 0);
        family(&command.fields, &mut writer).unwrap_or_else(|e| panic!("{}: {e}", golden.name));
        writer.finish();
        let mut written = field_map(&parse(&out).fields);
        written.retain(|key, _| !GENERIC.contains(&key.as_str()));
        // Defaults that the sender left out are written.
        written.retain(|key, value| expected.contains_key(key) || !matches!(value.as_str(), "0" | "false" | "-1"));
        assert_eq!(written, expected, "{}", golden.name);
    }
}

/// Reads a body and writes it again.
type Body = fn(&[u8]) -> Vec<u8>;

fn through<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Vec<u8> {
    json::to_vec_fastjson1(&json::from_slice::<T>(bytes).unwrap()).unwrap()
}

fn body_type(request_code: i32, response: bool) -> Option<Body> {
    Some(match (request_code, response) {
        (18, false) => through::<CreateTopicListRequestBody>,
        (34, false) => through::<HeartbeatData>,
        (41 | 42, false) => through::<LockBatchRequestBody>,
        (46, false) => through::<CheckClientRequestBody>,
        (103, false) => through::<RegisterBrokerBody>,
        (200, false) => through::<SubscriptionGroupConfig>,
        (220, false) => through::<ResetOffsetBody>,
        (400, false) => through::<QueryAssignmentRequestBody>,
        (401, false) => through::<SetMessageRequestModeRequestBody>,
        (21, true) => through::<TopicConfigAndMappingSerializeWrapper>,
        (28 | 103 | 219, true) => through::<KvTable>,
        (38, true) => through::<GetConsumerListByGroupResponseBody>,
        (41, true) => through::<LockBatchResponseBody>,
        (105, true) => through::<TopicRouteData>,
        (106, true) => through::<ClusterInfo>,
        (201, true) => through::<SubscriptionGroupWrapper>,
        (202, true) => through::<TopicStatsTable>,
        (203, true) => through::<ConsumerConnection>,
        (204, true) => through::<ProducerConnection>,
        (206 | 224 | 343, true) => through::<TopicList>,
        (208, true) => through::<ConsumeStats>,
        (221 | 223, true) => through::<GetConsumerStatusBody>,
        (222, true) => through::<ResetOffsetBody>,
        (300, true) => through::<GroupList>,
        (303, true) => through::<QueryConsumeTimeSpanBody>,
        (307, true) => through::<ConsumerRunningInfo>,
        (309, true) => through::<ConsumeMessageDirectlyResult>,
        (315, true) => through::<BrokerStatsData>,
        (317, true) => through::<ConsumeStatsList>,
        (321, true) => through::<QueryConsumeQueueResponseBody>,
        (328, true) => through::<ProducerTableInfo>,
        (345, true) => through::<QuerySubscriptionResponseBody>,
        (351, true) => through::<TopicConfigAndQueueMapping>,
        (400, true) => through::<QueryAssignmentResponseBody>,
        (907, true) => through::<HaRuntimeInfo>,
        _ => return None,
    })
}

/// Order means nothing in Java's maps and sets. Members `...TimeStampStr` are texts that Java derives from others.
fn sorted(mut value: Value) -> Value {
    match &mut value {
        Value::Array(items) => {
            *items = std::mem::take(items).into_iter().map(sorted).collect();
            items.sort_by_key(ToString::to_string);
        }
        Value::Object(members) => {
            members.retain(|key, _| !key.ends_with("TimeStampStr"));
            let mut list: Vec<_> =
                std::mem::take(members).into_iter().map(|(key, value)| (key, sorted(value))).collect();
            list.sort_by(|a, b| a.0.cmp(&b.0));
            members.extend(list);
        }
        _ => {}
    }
    value
}

#[test]
fn bodies_lose_no_member() {
    let mut seen = 0;
    for golden in goldens("json").into_iter().chain(goldens("binary")) {
        let command = parse(&golden.bytes);
        if command.body.first() != Some(&b'{') {
            continue;
        }
        let response = command.head.is_response();
        let body = body_type(golden.request_code, response);
        let body = body.unwrap_or_else(|| panic!("{} has a body of unknown type", golden.name));
        let read = |bytes: &[u8]| sorted(json::from_slice::<Value>(bytes).unwrap());
        let written = body(command.body);
        assert_eq!(read(&written), read(command.body), "{}", golden.name);
        seen += 1;
    }
    assert!(seen > 60);
}
