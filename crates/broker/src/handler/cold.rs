//! Thresholds for cold reads: UPDATE_COLD_DATA_FLOW_CTR_CONFIG (2001), REMOVE_COLD_DATA_FLOW_CTR_CONFIG (2002),
//! GET_COLD_DATA_FLOW_CTR_INFO (2003). They hold until the broker stops, as in RocketMQ.

use std::sync::Arc;

use ferromq_common::properties::Properties;
use ferromq_protocol::code::response;

use super::{Call, Refusal};
use crate::broker::Shared;
use crate::cold;

/// Longest body of a change, bytes.
const MAX_BYTES: usize = 64 * 1024;

/// Code 2001: the body is lines of `group=bytes`.
pub(crate) fn set(broker: &Arc<Shared>, call: &Call<'_>, out: &mut Vec<u8>) -> Result<(), Refusal> {
    let limits = Properties::parse(body(call)?).map_err(|e| invalid(e.to_string()))?;
    let limits: Result<Vec<_>, _> =
        limits.entries().iter().map(|entry| cold::parse_limit(&entry.key, &entry.value)).collect();
    let limits = limits?;
    tracing::info!("{} sets thresholds for cold reads: {limits:?}", call.conn.peer());
    broker.cold.set_limits(limits)?;
    call.respond(out, response::SUCCESS).finish();
    Ok(())
}

/// Code 2002: the body is the name of a group.
pub(crate) fn remove(broker: &Arc<Shared>, call: &Call<'_>, out: &mut Vec<u8>) -> Result<(), Refusal> {
    let group = std::str::from_utf8(body(call)?).map_err(|_| invalid("the body is the name of a group".into()))?;
    broker.cold.remove_limit(group.trim());
    call.respond(out, response::SUCCESS).finish();
    Ok(())
}

/// Code 2003.
pub(crate) fn info(broker: &Arc<Shared>, call: &Call<'_>, out: &mut Vec<u8>) -> Result<(), Refusal> {
    call.respond_json(out, &broker.cold.info(broker))
}

fn body<'a>(call: &Call<'a>) -> Result<&'a [u8], Refusal> {
    let body = call.request.body;
    if body.len() > MAX_BYTES {
        return Err(invalid(format!("the body has {} bytes, at most {MAX_BYTES} are read", body.len())));
    }
    Ok(body)
}

fn invalid(remark: String) -> Refusal {
    Refusal::new(response::INVALID_PARAMETER, remark)
}
