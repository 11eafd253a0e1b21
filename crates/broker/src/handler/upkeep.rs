//! Admin requests that look after the broker: settings (25, 26), statistics by name (315), how the log is read (2004).

use std::sync::Arc;

use ferromq_common::clock;
use ferromq_protocol::code::response;
use ferromq_protocol::header::admin::{GetBrokerConfigResponseHeader, ViewBrokerStatsDataHeader};
use ferromq_protocol::{FrameWriter, Text};

use super::{Call, Refusal};
use crate::broker::Shared;
use crate::live;
use crate::rates::{Flow, Measure};

/// UPDATE_BROKER_CONFIG (25): see `live.rs` for what may change.
pub(crate) fn update_config(broker: &Arc<Shared>, call: &Call<'_>, _out: &mut Vec<u8>) -> Result<(), Refusal> {
    let (text, peer) = (call.request.body.to_vec(), call.conn.peer());
    call.answer_later(broker, move |broker, head, out| {
        tracing::info!("{peer} changes settings: {}", String::from_utf8_lossy(&text).trim());
        live::update(broker, &text)?;
        let mut answer = FrameWriter::response(out, head, response::SUCCESS);
        GetBrokerConfigResponseHeader { version: Text::plain(&version(broker)) }.write(&mut answer);
        answer.finish();
        Ok(())
    })
}

/// GET_BROKER_CONFIG (26): the settings in effect as properties text.
pub(crate) fn config(broker: &Arc<Shared>, call: &Call<'_>, out: &mut Vec<u8>) -> Result<(), Refusal> {
    let mut answer = call.respond(out, response::SUCCESS);
    GetBrokerConfigResponseHeader { version: Text::plain(&version(broker)) }.write(&mut answer);
    answer.finish_with_body(live::effective(broker).as_bytes());
    Ok(())
}

/// A `DataVersion` that grows with each change.
fn version(broker: &Shared) -> String {
    format!(r#"{{"counter":{},"stateVersion":0,"timestamp":0}}"#, broker.live.changes())
}

/// VIEW_BROKER_STATS_DATA (315): messages and bytes of a topic (`TOPIC_PUT_NUMS`, `TOPIC_PUT_SIZE`, key is the topic) or of a
/// group's reading (`GROUP_GET_NUMS`, `GROUP_GET_SIZE`, key `topic@group`) over a minute, an hour, a day.
pub(crate) fn stats_data(broker: &Arc<Shared>, call: &Call<'_>, out: &mut Vec<u8>) -> Result<(), Refusal> {
    let header = ViewBrokerStatsDataHeader::read(&call.request.fields)?;
    let (name, key) = (header.stats_name.to_str()?, header.stats_key.to_str()?);
    let taken = || broker.topics.get(&key).map(|topic| Arc::clone(topic.taken()));
    let (flow, measure): (Option<Arc<Flow>>, Measure) = match &*name {
        "TOPIC_PUT_NUMS" => (taken(), Measure::Messages),
        "TOPIC_PUT_SIZE" => (taken(), Measure::Bytes),
        "GROUP_GET_NUMS" => (broker.rates.find(&key), Measure::Messages),
        "GROUP_GET_SIZE" => (broker.rates.find(&key), Measure::Bytes),
        _ => (None, Measure::Messages),
    };
    // As in RocketMQ, what never moved does not exist.
    let flow = flow
        .filter(|flow| flow.total() > 0)
        .ok_or_else(|| Refusal::new(response::SYSTEM_ERROR, format!("The stats <{name}> <{key}> not exist")))?;
    call.respond_json(out, &flow.data(measure, clock::now_millis()))
}

/// SET_COMMITLOG_READ_MODE (2004): whether the kernel reads ahead in the log's files, until the next start.
pub(crate) fn read_mode(broker: &Arc<Shared>, call: &Call<'_>, out: &mut Vec<u8>) -> Result<(), Refusal> {
    let mode = call.request.fields.opt_str("READ_AHEAD_MODE").unwrap_or_default();
    let read_ahead = match &*mode {
        "0" => true,
        "1" => false,
        _ => {
            let remark =
                "set commitlog readahead mode param value error: READ_AHEAD_MODE is 0 (read ahead) or 1 (random)";
            return Err(Refusal::new(response::INVALID_PARAMETER, remark));
        }
    };
    tracing::info!("{} sets the read ahead mode of the commit log to {mode}", call.conn.peer());
    broker.store.set_log_read_ahead(read_ahead);
    let mut answer = call.respond(out, response::SUCCESS);
    answer.remark(&format!("set commitlog readahead mode success, mode: {mode}"));
    answer.finish();
    Ok(())
}
