//! Reads stored records as a pull answer carries them (RocketMQ 5.5 `MessageDecoder`). Written for the tests alone, from
//! the format, so that it can disagree with the server.

use crate::{Outcome, Stop};

/// One stored message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    pub queue_id: i32,
    pub flag: i32,
    pub queue_offset: i64,
    pub physical_offset: i64,
    pub sys_flag: i32,
    pub born_timestamp: i64,
    pub store_timestamp: i64,
    pub reconsume_times: i32,
    pub body: Vec<u8>,
    pub topic: String,
    /// The property text as stored.
    pub properties: String,
    /// The whole record, byte for byte.
    pub raw: Vec<u8>,
}

impl Stored {
    /// The value of one property.
    pub fn property(&self, key: &str) -> Option<&str> {
        self.properties
            .split('\u{2}')
            .filter_map(|pair| pair.split_once('\u{1}'))
            .find(|(k, _)| *k == key)
            .map(|(_, v)| v)
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Outcome<&'a [u8]> {
        if count > self.0.len() {
            return Err(Stop::Failed(format!("record ends early: {count} bytes wanted, {} left", self.0.len())));
        }
        let (head, tail) = self.0.split_at(count);
        self.0 = tail;
        Ok(head)
    }

    fn int(&mut self, bytes: usize) -> Outcome<i64> {
        let mut value = 0i64;
        for byte in self.take(bytes)? {
            value = (value << 8) | i64::from(*byte);
        }
        let unused = 64 - 8 * bytes as u32;
        Ok((value << unused) >> unused)
    }
}

/// Splits a pull answer's body into its records, and checks each one's sizes and CRC.
pub fn decode_all(mut bytes: &[u8]) -> Outcome<Vec<Stored>> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let size = Reader(bytes).int(4)?;
        let size = usize::try_from(size).ok().filter(|s| *s > 91 && *s <= bytes.len());
        let size =
            size.ok_or_else(|| Stop::Failed(format!("record {} of the answer has a wrong size", records.len())))?;
        records.push(decode(&bytes[..size])?);
        bytes = &bytes[size..];
    }
    Ok(records)
}

fn decode(raw: &[u8]) -> Outcome<Stored> {
    let mut r = Reader(raw);
    let _size = r.int(4)?;
    let magic = r.int(4)?;
    let topic_len_bytes = match magic {
        -626_843_481 => 1,
        -626_843_477 => 2,
        other => return Err(Stop::Failed(format!("record magic {other}"))),
    };
    let crc = r.int(4)?;
    let queue_id = r.int(4)? as i32;
    let flag = r.int(4)? as i32;
    let queue_offset = r.int(8)?;
    let physical_offset = r.int(8)?;
    let sys_flag = r.int(4)? as i32;
    let born_timestamp = r.int(8)?;
    r.take(if sys_flag & 0x10 == 0 { 8 } else { 20 })?;
    let store_timestamp = r.int(8)?;
    r.take(if sys_flag & 0x20 == 0 { 8 } else { 20 })?;
    let reconsume_times = r.int(4)? as i32;
    let _prepared = r.int(8)?;
    let body_len = r.int(4)? as usize;
    let body = r.take(body_len)?.to_vec();
    let topic_len = r.int(topic_len_bytes)? as usize;
    let topic = String::from_utf8_lossy(r.take(topic_len)?).into_owned();
    let properties_len = r.int(2)? as usize;
    let properties = String::from_utf8_lossy(r.take(properties_len)?).into_owned();
    if !r.0.is_empty() {
        return Err(Stop::Failed(format!("record at {physical_offset} has {} bytes too many", r.0.len())));
    }
    if i64::from(crc32fast::hash(&body) & 0x7fff_ffff) != crc && !body.is_empty() {
        return Err(Stop::Failed(format!("record at {physical_offset} has a wrong body crc")));
    }
    Ok(Stored {
        queue_id,
        flag,
        queue_offset,
        physical_offset,
        sys_flag,
        born_timestamp,
        store_timestamp,
        reconsume_times,
        body,
        topic,
        properties,
        raw: raw.to_vec(),
    })
}
