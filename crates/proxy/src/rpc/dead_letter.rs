//! ForwardMessageToDeadLetterQueue: a message cannot be handled.

use ferromq_protocol::Text;
use ferromq_protocol::code::request;
use ferromq_protocol::header::send::ConsumerSendMsgBackHeader;

use crate::call::Caller;
use crate::door::Line;
use crate::handle::Handle;
use crate::names;
use crate::pb::{Code, ForwardMessageToDeadLetterQueueRequest, ForwardMessageToDeadLetterQueueResponse};
use crate::rpc::ack;
use crate::service::Service;
use crate::status::{self, Refused};

/// Straight to the dead letters, without another try.
const NO_RETRY: i32 = -1;

pub(crate) async fn forward(
    service: &Service,
    caller: &Caller,
    request: ForwardMessageToDeadLetterQueueRequest,
) -> Result<ForwardMessageToDeadLetterQueueResponse, Refused> {
    let topic = names::topic(request.topic.as_ref())?;
    let group = names::group(request.group.as_ref())?;
    let own = service.clients.broadcasts.group_of(caller, group.clone()).await?;
    let latest = service.renewals.latest(caller, &own, &request.receipt_handle).await?;
    let latest = latest.of_lite(request.lite_topic.as_deref());
    let line = service.door.line(caller);
    forward_one(&line, &topic, (&group, &own), &latest.handle, &request.message_id).await?;
    service.renewals.release(latest);
    Ok(ForwardMessageToDeadLetterQueueResponse { status: Some(status::ok()) })
}

/// Stores the dead letter first, for the group, and only then takes the message from whose it is.
pub(crate) async fn forward_one(
    line: &Line,
    topic: &str,
    (group, own): (&str, &str),
    handle: &Handle,
    message_id: &str,
) -> Result<(), Refused> {
    let offset = handle.log_position().ok_or_else(|| {
        Refused::new(Code::InvalidReceiptHandle, "the receipt handle does not say where the message is stored")
    })?;
    let header = ConsumerSendMsgBackHeader {
        offset,
        group: Text::plain(group),
        delay_level: NO_RETRY,
        origin_msg_id: Some(Text::plain(message_id)),
        origin_topic: Some(Text::plain(topic)),
        unit_mode: false,
        max_reconsume_times: Some(0),
    };
    let broker = line.at(handle.parts().broker_name)?;
    broker.call(request::CONSUMER_SEND_MSG_BACK, |frame| header.write(frame), &[]).await?;
    ack::one(line, topic, own, handle).await
}
