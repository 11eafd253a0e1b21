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
    let handle = service.renewals.latest(&request.receipt_handle)?;
    let line = service.door.line(caller);
    forward_one(&line, &topic, &group, &handle, &request.message_id).await?;
    service.renewals.release(&request.receipt_handle);
    Ok(ForwardMessageToDeadLetterQueueResponse { status: Some(status::ok()) })
}

/// Stores the dead letter first, and only then takes the message from the group.
pub(crate) async fn forward_one(
    line: &Line,
    topic: &str,
    group: &str,
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
    line.call(request::CONSUMER_SEND_MSG_BACK, |frame| header.write(frame), &[]).await?;
    ack::one(line, topic, group, handle).await
}
