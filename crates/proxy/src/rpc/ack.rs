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
    let group = service.clients.broadcasts.group_of(caller, names::group(request.group.as_ref())?).await?;
    if request.entries.len() > MAX_ENTRIES {
        return Err(Refused::new(Code::BadRequest, format!("more than {MAX_ENTRIES} entries in one call")));
    }
    let line = service.door.line(caller);
    let mut entries = Vec::with_capacity(request.entries.len());
    for entry in request.entries {
        let lite = entry.lite_topic.as_deref();
        let outcome = held(service, caller, &line, (&topic, &group), &entry.receipt_handle, lite).await;
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

async fn held(
    service: &Service,
    caller: &Caller,
    line: &Line,
    (topic, group): (&str, &str),
    handle: &str,
    lite: Option<&str>,
) -> Result<(), Refused> {
    let latest = service.renewals.latest(caller, group, handle).await?.of_lite(lite);
    one(line, topic, group, &latest.handle).await?;
    service.renewals.release(latest);
    Ok(())
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
        lite_topic: handle.lite().map(Text::plain),
    };
    let broker = line.at(parts.broker_name)?;
    broker.call(request::ACK_MESSAGE, |frame| header.write(frame), &[]).await.map(drop)
}
