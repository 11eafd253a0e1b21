//! RecallMessage: takes a delayed message back before it is delivered.

use ferromq_protocol::Text;
use ferromq_protocol::code::request;
use ferromq_protocol::header::send::{RecallMessageHeader, RecallMessageResponseHeader};
use ferromq_protocol::id::RecallHandle;

use crate::call::Caller;
use crate::names;
use crate::pb::{Code, RecallMessageRequest, RecallMessageResponse};
use crate::service::Service;
use crate::status::{self, Refused};

pub(crate) async fn recall(
    service: &Service,
    caller: &Caller,
    asked: RecallMessageRequest,
) -> Result<RecallMessageResponse, Refused> {
    let topic = names::topic(asked.topic.as_ref())?;
    // RocketMQ's proxy answers INTERNAL_SERVER_ERROR, though it is the caller who errs.
    let handle = RecallHandle::parse(&asked.recall_handle)
        .ok_or_else(|| Refused::new(Code::BadRequest, "recall handle is invalid"))?;
    let header = RecallMessageHeader {
        producer_group: Some(Text::plain(&topic)),
        topic: Text::plain(&topic),
        recall_handle: Text::plain(&asked.recall_handle),
    };
    let line = service.door.line(caller);
    let broker = line.at(&handle.broker_name)?;
    let answer = broker.call(request::RECALL_MESSAGE, |frame| header.write(frame), &[]).await?;
    let message_id = RecallMessageResponseHeader::read(&answer.command().fields)
        .map(|header| header.msg_id.to_lossy().into_owned())
        .map_err(|error| Refused::new(Code::InternalServerError, error.to_string()))?;
    Ok(RecallMessageResponse { status: Some(status::ok()), message_id })
}
