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
pub(crate) const MAX_MS: i64 = 43_200_000;

pub(crate) async fn change(
    service: &Service,
    caller: &Caller,
    request: ChangeInvisibleDurationRequest,
) -> Result<ChangeInvisibleDurationResponse, Refused> {
    let topic = names::topic(request.topic.as_ref())?;
    let group = service.clients.broadcasts.group_of(caller, names::group(request.group.as_ref())?).await?;
    let time = request.invisible_duration.as_ref().map_or(0, millis);
    // Zero brings it back at once: clients do so that do not know the group's delays.
    if !(0..=MAX_MS).contains(&time) {
        return Err(Refused::new(
            Code::IllegalInvisibleTime,
            format!("the invisible time {time} ms is not within 0..={MAX_MS}"),
        ));
    }
    let latest = service.renewals.latest(caller, &group, &request.receipt_handle).await?;
    let latest = latest.of_lite(request.lite_topic.as_deref());
    let line = service.door.line(caller);
    let wait = Wait { invisible_ms: time, suspend: request.suspend.unwrap_or(false) };
    let handle = one(&line, &topic, &group, &latest.handle, wait).await?;
    service.renewals.release(latest);
    Ok(ChangeInvisibleDurationResponse { status: Some(status::ok()), receipt_handle: handle.text().to_owned() })
}

/// When a message comes back.
pub(crate) struct Wait {
    pub invisible_ms: i64,
    /// Its pop does not count as a try of messages of a lite topic.
    pub suspend: bool,
}

impl Wait {
    /// After this time, as another try.
    pub fn of(invisible_ms: i64) -> Self {
        Wait { invisible_ms, suspend: false }
    }
}

/// Changes the time of one message; the handle that counts from now on.
pub(crate) async fn one(line: &Line, topic: &str, group: &str, handle: &Handle, wait: Wait) -> Result<Handle, Refused> {
    let parts = handle.parts();
    let topic = parts.origin.real_topic(topic, group);
    let offset = parts.queue_offset.unwrap_or(-1);
    let header = ChangeInvisibleTimeHeader {
        consumer_group: Text::plain(group),
        topic: Text::plain(&topic),
        queue_id: parts.queue_id.unwrap_or(-1),
        extra_info: Text::plain(handle.text()),
        offset,
        invisible_time: wait.invisible_ms,
        lite_topic: handle.lite().map(Text::plain),
        suspend: wait.suspend,
    };
    let broker = line.at(parts.broker_name)?;
    let answer = broker.call(request::CHANGE_MESSAGE_INVISIBLETIME, |frame| header.write(frame), &[]).await?;
    let changed = ChangeInvisibleTimeResponseHeader::read(&answer.command().fields)?;
    let next = ReceiptHandle {
        start_offset: offset,
        pop_time: changed.pop_time,
        invisible_time: changed.invisible_time,
        revive_queue: changed.revive_qid,
        ..parts
    };
    Ok(Handle::new(&next, handle.log_position()).of_lite(handle.lite()))
}
