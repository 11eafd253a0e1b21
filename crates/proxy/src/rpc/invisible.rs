//! ChangeInvisibleDuration: when a message that is not handled comes back.

use ferromq_protocol::Text;
use ferromq_protocol::code::request;
use ferromq_protocol::header::pop::{ChangeInvisibleTimeHeader, ChangeInvisibleTimeResponseHeader};
use ferromq_protocol::pop::ReceiptHandle;

use crate::call::Caller;
use crate::door::Line;
use crate::handle::Handle;
use crate::message::millis;
use crate::names;
use crate::pb::{ChangeInvisibleDurationRequest, ChangeInvisibleDurationResponse, Code};
use crate::service::Service;
use crate::status::{self, Refused};

/// Longest time, milliseconds (`maxInvisibleTimeMills`).
const MAX_MS: i64 = 43_200_000;

pub(crate) async fn change(
    service: &Service,
    caller: &Caller,
    request: ChangeInvisibleDurationRequest,
) -> Result<ChangeInvisibleDurationResponse, Refused> {
    let topic = names::topic(request.topic.as_ref())?;
    let group = names::group(request.group.as_ref())?;
    let time = request.invisible_duration.as_ref().map_or(0, millis);
    if !(1..=MAX_MS).contains(&time) {
        return Err(Refused::new(
            Code::IllegalInvisibleTime,
            format!("the invisible time {time} ms is not within 1..={MAX_MS}"),
        ));
    }
    let handle = service.renewals.latest(&request.receipt_handle)?;
    let line = service.door.line(caller);
    let handle = one(&line, &topic, &group, &handle, time).await?;
    service.renewals.release(&request.receipt_handle);
    Ok(ChangeInvisibleDurationResponse { status: Some(status::ok()), receipt_handle: handle.text().to_owned() })
}

/// Changes the time of one message; the handle that counts from now on.
pub(crate) async fn one(
    line: &Line,
    topic: &str,
    group: &str,
    handle: &Handle,
    invisible_ms: i64,
) -> Result<Handle, Refused> {
    let parts = handle.parts();
    let topic = parts.origin.real_topic(topic, group);
    let offset = parts.queue_offset.unwrap_or(-1);
    let header = ChangeInvisibleTimeHeader {
        consumer_group: Text::plain(group),
        topic: Text::plain(&topic),
        queue_id: parts.queue_id.unwrap_or(-1),
        extra_info: Text::plain(handle.text()),
        offset,
        invisible_time: invisible_ms,
        lite_topic: None,
        suspend: false,
    };
    let answer = line.call(request::CHANGE_MESSAGE_INVISIBLETIME, |frame| header.write(frame), &[]).await?;
    let changed = ChangeInvisibleTimeResponseHeader::read(&answer.command().fields)
        .map_err(|error| Refused::new(Code::InternalServerError, error.to_string()))?;
    let next = ReceiptHandle {
        start_offset: offset,
        pop_time: changed.pop_time,
        invisible_time: changed.invisible_time,
        revive_queue: changed.revive_qid,
        ..parts
    };
    Ok(Handle::new(&next, handle.log_position()))
}
