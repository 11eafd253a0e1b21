//! The body of REGISTER_BROKER in its three forms (RocketMQ 5.5 `RegisterBrokerBody`).
//!
//! Pure functions on bytes from the network: bounded memory, no panic.

use std::io::Read;

use ferromq_protocol::body::{
    DataVersion, RegisterBrokerBody, TopicConfig, TopicConfigSerializeWrapper, TopicQueueMappingInfo,
};
use ferromq_protocol::{java, json, version};
use flate2::read::ZlibDecoder;

use crate::route::BrokerTopics;

/// Most bytes a compressed body may grow to; 262,144 topics of 127 bytes need 42 MiB.
pub const MAX_INFLATED_BYTES: u64 = 64 * 1024 * 1024;

/// First byte of zlib data with the usual window.
const ZLIB_FIRST_BYTE: u8 = 0x78;

/// Why a body could not be read.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The checksum of the header is another.
    #[error("crc32 not match")]
    Crc,
    /// Broken JSON.
    #[error("failed to decode RegisterBrokerBody: {0}")]
    Json(String),
    /// Broken or oversized compressed form.
    #[error("failed to decode RegisterBrokerBody: {0}")]
    Inflate(std::io::Error),
    /// A topic in text form that is none.
    #[error("failed to decode RegisterBrokerBody: the topic configuration {0:?} has not five words")]
    TopicText(String),
}

/// Checks (`crc` 0: no check) and reads the body of a broker of this `MQVersion` ordinal.
pub fn read(body: &[u8], compressed: bool, crc: i32, broker_version: i32) -> Result<BrokerTopics, BodyError> {
    if crc != 0 && crc != java::crc32(body) as i32 {
        return Err(BodyError::Crc);
    }
    if body.is_empty() {
        return Ok(BrokerTopics::default());
    }
    // Older brokers send topics only.
    if broker_version < version::V3_0_11 {
        let wrapper: TopicConfigSerializeWrapper = from_json(body)?;
        return Ok(BrokerTopics {
            data_version: wrapper.data_version,
            topics: wrapper.topic_config_table.into_values().collect(),
            ..BrokerTopics::default()
        });
    }
    // Brokers of Apache RocketMQ 5.5 with `compressedRegister` compress the body and say `compressed=false`, so their own
    // name server refuses them. No JSON begins with the first byte of zlib data.
    if compressed || body[0] == ZLIB_FIRST_BYTE {
        return inflate(body, broker_version);
    }
    let body: RegisterBrokerBody = from_json(body)?;
    let wrapper = body.topic_config_serialize_wrapper;
    Ok(BrokerTopics {
        data_version: wrapper.data_version,
        topics: wrapper.topic_config_table.into_values().collect(),
        mappings: wrapper.topic_queue_mapping_info_map.into_values().collect(),
        filter_servers: body.filter_server_list,
    })
}

fn from_json<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, BodyError> {
    json::from_slice(bytes).map_err(|e| BodyError::Json(e.to_string()))
}

fn inflate(body: &[u8], broker_version: i32) -> Result<BrokerTopics, BodyError> {
    let mut parts = Parts(ZlibDecoder::new(body).take(MAX_INFLATED_BYTES));
    let data_version: DataVersion = from_json(&parts.sized()?)?;
    let mut topics = Vec::new();
    for _ in 0..parts.int()? {
        topics.push(topic_from_text(&String::from_utf8_lossy(&parts.sized()?))?);
    }
    // As in RocketMQ a broken list of filter servers is no reason to refuse the broker.
    let filter_servers = from_json(&parts.sized()?).unwrap_or_default();
    let mut mappings: Vec<TopicQueueMappingInfo> = Vec::new();
    // Newer brokers append the mappings of static topics.
    if broker_version >= version::V5_0_0 {
        for _ in 0..parts.int()? {
            mappings.push(from_json(&parts.sized()?)?);
        }
    }
    Ok(BrokerTopics { data_version, topics, mappings, filter_servers: Some(filter_servers) })
}

/// `name read write perm filterType[ attributes]`, one space between.
fn topic_from_text(text: &str) -> Result<TopicConfig, BodyError> {
    let bad = || BodyError::TopicText(text.chars().take(300).collect());
    let words: Vec<&str> = text.splitn(6, ' ').collect();
    let [name, read, write, perm, _filter_type, ..] = words.as_slice() else {
        return Err(bad());
    };
    let int = |word: &str| word.parse::<i32>().map_err(|_| bad());
    Ok(TopicConfig {
        topic_name: (*name).to_owned(),
        read_queue_nums: int(read)?,
        write_queue_nums: int(write)?,
        perm: int(perm)?,
        ..TopicConfig::default()
    })
}

/// Length-prefixed parts of the inflated bytes.
struct Parts<R>(R);

impl<R: Read> Parts<R> {
    fn int(&mut self) -> Result<u32, BodyError> {
        let mut bytes = [0; 4];
        self.0.read_exact(&mut bytes).map_err(BodyError::Inflate)?;
        // A negative count or length of Java becomes a huge one here and ends at the end of the data.
        Ok(u32::from_be_bytes(bytes))
    }

    fn sized(&mut self) -> Result<Vec<u8>, BodyError> {
        let len = u64::from(self.int()?);
        let mut bytes = Vec::new();
        let read = self.0.by_ref().take(len).read_to_end(&mut bytes).map_err(BodyError::Inflate)?;
        if (read as u64) < len {
            return Err(BodyError::Inflate(std::io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn deflated(parts: &[&[u8]]) -> Vec<u8> {
        let mut out = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
        for part in parts {
            out.write_all(part).unwrap();
        }
        out.finish().unwrap()
    }

    fn sized(text: &str) -> Vec<u8> {
        let mut out = (text.len() as u32).to_be_bytes().to_vec();
        out.extend_from_slice(text.as_bytes());
        out
    }

    fn compressed_body() -> Vec<u8> {
        let mut raw = sized(r#"{"counter":7,"stateVersion":2,"timestamp":1700000000000}"#);
        raw.extend(2u32.to_be_bytes());
        raw.extend(sized("orders 8 4 6 SINGLE_TAG {}"));
        raw.extend(sized("TBW102 8 8 7 SINGLE_TAG "));
        raw.extend(sized("[\"10.0.0.1:7070\"]"));
        raw.extend(1u32.to_be_bytes());
        raw.extend(sized(r#"{"bname":"broker-a","currIdMap":{0:0,1:1},"dirty":false,"epoch":3,"scope":"__global__","topic":"static","totalQueues":2}"#));
        deflated(&[&raw])
    }

    #[test]
    fn compressed_form_of_5x() {
        let bytes = compressed_body();
        let body = read(&bytes, true, java::crc32(&bytes) as i32, 475).unwrap();
        assert_eq!((body.data_version.counter, body.data_version.state_version), (7, 2));
        let topics: Vec<_> = body
            .topics
            .iter()
            .map(|t| (t.topic_name.as_str(), t.read_queue_nums, t.write_queue_nums, t.perm))
            .collect();
        assert_eq!(topics, [("orders", 8, 4, 6), ("TBW102", 8, 8, 7)]);
        assert_eq!(body.filter_servers, Some(vec!["10.0.0.1:7070".to_owned()]));
        assert_eq!((body.mappings[0].topic.as_deref(), body.mappings[0].total_queues), (Some("static"), 2));
    }

    #[test]
    fn brokers_before_5_have_no_mappings() {
        assert!(read(&compressed_body(), true, 0, 399).unwrap().mappings.is_empty());
    }

    #[test]
    fn compressed_although_the_header_denies_it() {
        assert_eq!(read(&compressed_body(), false, 0, 513).unwrap().topics.len(), 2);
    }

    #[test]
    fn plain_form() {
        let text = br#"{"filterServerList":[],"topicConfigSerializeWrapper":{"dataVersion":{"counter":1,"stateVersion":0,"timestamp":5},"topicConfigTable":{"orders":{"attributes":{},"order":false,"perm":6,"readQueueNums":8,"topicFilterType":"SINGLE_TAG","topicName":"orders","topicSysFlag":0,"writeQueueNums":8}},"topicQueueMappingInfoMap":{}}}"#;
        let body = read(text, false, 0, 475).unwrap();
        assert_eq!(body.topics[0].topic_name, "orders");
        assert_eq!(body.data_version.timestamp, 5);
        assert_eq!(body.filter_servers, Some(vec![]));
    }

    #[test]
    fn checksum() {
        let bytes = compressed_body();
        assert!(matches!(read(&bytes, true, java::crc32(&bytes) as i32 ^ 1, 475), Err(BodyError::Crc)));
        assert!(read(b"", false, 0, 475).unwrap().topics.is_empty());
    }

    #[test]
    fn damage_is_an_error_at_every_length() {
        let bytes = compressed_body();
        for cut in 1..bytes.len() {
            // The checksum at the end of zlib data may be missing without loss.
            let _ = read(&bytes[..cut], true, 0, 475);
        }
        assert!(read(&bytes[..bytes.len() / 2], true, 0, 475).is_err());
        let huge = deflated(&[&u32::MAX.to_be_bytes(), b"{}"]);
        assert!(matches!(read(&huge, true, 0, 475), Err(BodyError::Inflate(_))));
        assert!(matches!(topic_from_text("a 1 2"), Err(BodyError::TopicText(_))));
        assert!(matches!(topic_from_text("a 1 x 6 SINGLE_TAG"), Err(BodyError::TopicText(_))));
    }

    #[test]
    fn a_bomb_stops_at_the_limit() {
        let mut raw = ((MAX_INFLATED_BYTES * 2) as u32).to_be_bytes().to_vec();
        raw.resize(MAX_INFLATED_BYTES as usize + 100, b' ');
        assert!(matches!(read(&deflated(&[&raw]), true, 0, 475), Err(BodyError::Inflate(_))));
    }
}
