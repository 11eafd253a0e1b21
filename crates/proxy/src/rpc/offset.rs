//! UpdateOffset, GetOffset and QueryOffset: how far groups have read, and where queues begin and end. RocketMQ's proxy does
//! not serve them; they do what remoting clients ask for.

use ferromq_protocol::Text;
use ferromq_protocol::code::request;
use ferromq_protocol::header::offset::{
    GetMaxOffsetHeader, GetMinOffsetHeader, OffsetResponseHeader, QueryConsumerOffsetHeader, SearchOffsetHeader,
    UpdateConsumerOffsetHeader,
};

use crate::call::Caller;
use crate::pb::{
    Code, GetOffsetRequest, GetOffsetResponse, QueryOffsetPolicy, QueryOffsetRequest, QueryOffsetResponse,
    UpdateOffsetRequest, UpdateOffsetResponse,
};
use crate::rpc::pull::Place;
use crate::service::Service;
use crate::status::{self, Refused};
use crate::{message, names};

pub(crate) async fn update(
    service: &Service,
    caller: &Caller,
    request: UpdateOffsetRequest,
) -> Result<UpdateOffsetResponse, Refused> {
    let place = Place::find(service, request.message_queue.as_ref()).await?;
    let group = names::group(request.group.as_ref())?;
    if request.offset < 0 {
        return Err(Refused::new(Code::IllegalOffset, format!("the offset {} is below 0", request.offset)));
    }
    let header = UpdateConsumerOffsetHeader {
        consumer_group: Text::plain(&group),
        topic: Text::plain(&place.topic),
        queue_id: place.queue_id,
        commit_offset: request.offset,
    };
    let line = service.door.line(caller);
    let broker = line.at(&place.broker)?;
    broker.call(request::UPDATE_CONSUMER_OFFSET, |frame| header.write(frame), &[]).await?;
    Ok(UpdateOffsetResponse { status: Some(status::ok()) })
}

pub(crate) async fn get(
    service: &Service,
    caller: &Caller,
    request: GetOffsetRequest,
) -> Result<GetOffsetResponse, Refused> {
    let place = Place::find(service, request.message_queue.as_ref()).await?;
    let group = names::group(request.group.as_ref())?;
    let header = QueryConsumerOffsetHeader {
        consumer_group: Text::plain(&group),
        topic: Text::plain(&place.topic),
        queue_id: place.queue_id,
        set_zero_if_not_found: Some(false),
    };
    let line = service.door.line(caller);
    let broker = line.at(&place.broker)?;
    let answer = broker.call(request::QUERY_CONSUMER_OFFSET, |frame| header.write(frame), &[]).await?;
    let OffsetResponseHeader { offset } = OffsetResponseHeader::read(&answer.command().fields)?;
    Ok(GetOffsetResponse { status: Some(status::ok()), offset })
}

pub(crate) async fn query(
    service: &Service,
    caller: &Caller,
    request: QueryOffsetRequest,
) -> Result<QueryOffsetResponse, Refused> {
    let place = Place::find(service, request.message_queue.as_ref()).await?;
    let (topic, queue_id) = (Text::plain(&place.topic), place.queue_id);
    let line = service.door.line(caller);
    let broker = line.at(&place.broker)?;
    let answer = match request.query_offset_policy() {
        QueryOffsetPolicy::Beginning => {
            let header = GetMinOffsetHeader { topic, queue_id };
            broker.call(request::GET_MIN_OFFSET, |frame| header.write(frame), &[]).await?
        }
        QueryOffsetPolicy::End => {
            let header = GetMaxOffsetHeader { topic, queue_id, committed: None };
            broker.call(request::GET_MAX_OFFSET, |frame| header.write(frame), &[]).await?
        }
        QueryOffsetPolicy::Timestamp => {
            let time = request.timestamp.as_ref().ok_or_else(|| Refused::new(Code::BadRequest, "no timestamp"))?;
            let timestamp = message::millis_of(time);
            let header = SearchOffsetHeader { topic, queue_id, timestamp, boundary_type: None, lite_topic: None };
            broker.call(request::SEARCH_OFFSET_BY_TIMESTAMP, |frame| header.write(frame), &[]).await?
        }
    };
    let OffsetResponseHeader { offset } = OffsetResponseHeader::read(&answer.command().fields)?;
    Ok(QueryOffsetResponse { status: Some(status::ok()), offset })
}
