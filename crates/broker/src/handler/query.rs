//! Messages by key and by place: QUERY_MESSAGE (12) and VIEW_MESSAGE_BY_ID (33).

use std::sync::Arc;

use ferromq_protocol::FrameWriter;
use ferromq_protocol::code::response;
use ferromq_protocol::header::query::{QueryMessageHeader, QueryMessageResponseHeader, ViewMessageHeader};

use super::{Call, Refusal};
use crate::broker::Shared;

/// Messages one query by unique key looks at (`defaultQueryMaxNum`).
const UNIQUE_KEY_MAX_NUM: u32 = 32;
/// Longest topic and key of a query together, bytes: more than properties can hold is never found.
const MAX_KEY_BYTES: usize = 64 * 1024;
/// Most bytes of records in one answer.
const MAX_ANSWER_BYTES: usize = 8 * 1024 * 1024;

/// Code 12: the records with the key.
pub(crate) fn by_key(broker: &Arc<Shared>, call: &Call<'_>, _out: &mut Vec<u8>) -> Result<(), Refusal> {
    let fields = &call.request.fields;
    let header = QueryMessageHeader::read(fields)?;
    let unique = fields.opt_bool("_UNIQUE_KEY_QUERY").unwrap_or(false);
    let asked = if unique { UNIQUE_KEY_MAX_NUM } else { u32::try_from(header.max_num).unwrap_or(0) };
    let max = asked.min(broker.live.max_msgs_num_batch());
    let (topic, key) = (header.topic.to_str()?.into_owned(), header.key.to_str()?.into_owned());
    if topic.len() + key.len() > MAX_KEY_BYTES {
        let remark = format!("topic and key of a query have at most {MAX_KEY_BYTES} bytes");
        return Err(Refusal::new(response::INVALID_PARAMETER, remark));
    }
    let (begin, end) = (header.begin_timestamp, header.end_timestamp);
    call.answer_later(broker, move |broker, head, out| {
        let hits = broker.store.query_index(&topic, &key, max, begin, end);
        let mut records = Vec::new();
        for offset in &hits.physical_offsets {
            let before = records.len();
            broker.store.record_at(*offset, &mut records);
            if records.len() > MAX_ANSWER_BYTES {
                records.truncate(before);
                break;
            }
        }
        let code = if records.is_empty() { response::QUERY_NOT_FOUND } else { response::SUCCESS };
        let mut frame = FrameWriter::response(out, head, code);
        if records.is_empty() {
            frame.remark("can not find message, maybe time range not correct");
        }
        let header = QueryMessageResponseHeader {
            index_last_update_timestamp: hits.last_update_timestamp,
            index_last_update_phyoffset: hits.last_update_physical_offset,
        };
        header.write(&mut frame);
        frame.finish_with_body(&records);
        Ok(())
    })
}

/// Code 33: the record at a physical offset.
pub(crate) fn by_offset(broker: &Arc<Shared>, call: &Call<'_>, _out: &mut Vec<u8>) -> Result<(), Refusal> {
    let offset = ViewMessageHeader::read(&call.request.fields)?.offset;
    call.answer_later(broker, move |broker, head, out| {
        let mut record = Vec::new();
        let found = u64::try_from(offset).ok().and_then(|offset| broker.store.record_at(offset, &mut record));
        if found.is_none() {
            let remark = format!("can not find message by the offset, {offset}");
            return Err(Refusal::new(response::SYSTEM_ERROR, remark));
        }
        FrameWriter::response(out, head, response::SUCCESS).finish_with_body(&record);
        Ok(())
    })
}
