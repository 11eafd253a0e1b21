//! AckMessage: messages were handled.

use ferromq_protocol::Text;
use ferromq_protocol::code::request;
use ferromq_protocol::header::pop::AckMessageHeader;

use crate::call::Caller;
use crate::door::Line;
use crate::handle::Handle;
use crate::names;
use crate::pb::{AckMessageRequest, AckMessageResponse, AckMessageResultEntry, Code};
use crate::service::Service;
use crate::status::{self, Refused};

/// Most entries of one call.
const MAX_ENTRIES: usize = 4096;

pub(crate) async fn ack(
    service: &Service,
    caller: &Caller,
    request: AckMessageRequest,
) -> Result<AckMessageResponse, Refused> {
    let topic = names::topic(request.topic.as_ref())?;
    let group = names::group(request.group.as_ref())?;
    if request.entries.len() > MAX_ENTRIES {
        return Err(Refused::new(Code::BadRequest, format!("more than {MAX_ENTRIES} entries in one call")));
    }
    let line = service.door.line(caller);
    let mut entries = Vec::with_capacity(request.entries.len());
    for entry in request.entries {
        let outcome = match service.renewals.latest(&entry.receipt_handle) {
            Ok(handle) => one(&line, &topic, &group, &handle).await,
            Err(refused) => Err(refused),
        };
        if outcome.is_ok() {
            service.renewals.release(&entry.receipt_handle);
        }
        let status = outcome.map_or_else(Into::into, |()| status::ok());
        entries.push(AckMessageResultEntry {
            message_id: entry.message_id,
            receipt_handle: entry.receipt_handle,
            status: Some(status),
        });
    }
    let status = status::overall(entries.iter().map(|entry| &entry.status));
    Ok(AckMessageResponse { status: Some(status), entries })
}

/// Acknowledges one message.
pub(crate) async fn one(line: &Line, topic: &str, group: &str, handle: &Handle) -> Result<(), Refused> {
    let parts = handle.parts();
    let topic = parts.origin.real_topic(topic, group);
    let header = AckMessageHeader {
        consumer_group: Text::plain(group),
        topic: Text::plain(&topic),
        queue_id: parts.queue_id.unwrap_or(-1),
        extra_info: Text::plain(handle.text()),
        offset: parts.queue_offset.unwrap_or(-1),
        lite_topic: None,
    };
    line.call(request::ACK_MESSAGE, |frame| header.write(frame), &[]).await.map(drop)
}
