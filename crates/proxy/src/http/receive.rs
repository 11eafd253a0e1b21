//! GET of messages: at once, after a wait, or as a stream of events.

use hyper::header::ACCEPT;
use tokio::sync::OwnedSemaphorePermit;
use tokio_stream::StreamExt;
use tonic::Status;

use crate::call::Caller;
use crate::http::answer::{self, Answer, Failure};
use crate::http::body::Room;
use crate::http::message::Received;
use crate::http::query::Query;
use crate::http::route::Asked;
use crate::http::{Endpoint, MAX_WAITING, events};
use crate::message::{duration, resource};
use crate::pb::receive_message_response::Content;
use crate::pb::{Code, FilterExpression, FilterType, MessageQueue, ReceiveMessageRequest, ReceiveMessageResponse};
use crate::rpc;
use crate::rpc::receive::{INVISIBLE_MS, MAX_WAIT_MS, RENEWED_MS};
use crate::service::{Answers, Service};
use crate::settings::RECEIVE_BATCH;
use crate::status::Refused;
use crate::tls::Ends;

/// Messages of one answer, unless it is said how many.
const MAX: i64 = 1;

/// What is asked for, again and again by a stream of events.
pub(crate) struct Wanted {
    caller: Caller,
    request: ReceiveMessageRequest,
}

pub(crate) async fn receive(endpoint: &Endpoint, topic: &str, asked: Asked) -> Result<Answer, Failure> {
    let accept = asked.head.headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let wants_events = accept.split(',').any(|kind| kind.trim().starts_with("text/event-stream"));
    let mut query = Query::parse(asked.head.uri.query())?;
    let wait_ms = if wants_events { None } else { query.number("waitMs", 0..=MAX_WAIT_MS)? };
    let wanted = Wanted::of(asked.ends, topic, &mut query)?;
    query.end()?;
    let place = place(endpoint)?;
    if wants_events {
        return Ok(events::answer(endpoint, wanted, place).await?);
    }
    let messages = tokio::select! {
        messages = wanted.all(endpoint, wait_ms.unwrap_or(0)) => messages?,
        () = endpoint.stopping() => return Err(Failure::unavailable("the server is stopping")),
    };
    Ok(answer::messages(messages))
}

fn place(endpoint: &Endpoint) -> Result<OwnedSemaphorePermit, Failure> {
    let place = endpoint.waiting.clone().try_acquire_owned();
    place.map_err(|_| Failure::too_many(format!("{MAX_WAITING} requests wait for messages already")))
}

impl Wanted {
    fn of(ends: Ends, topic: &str, query: &mut Query) -> Result<Self, Failure> {
        let group = query.text("group")?.ok_or_else(|| Failure::bad_request("the parameter group is missing"))?;
        let max = query.number("max", 1..=i64::from(RECEIVE_BATCH))?.unwrap_or(MAX);
        let invisible_ms = query.number("invisibleMs", INVISIBLE_MS)?.unwrap_or(RENEWED_MS);
        let filter = match (query.text("filter")?, query.text("sql")?) {
            (Some(_), Some(_)) => return Err(Failure::bad_request("a filter is either of tags or SQL, not both")),
            (Some(tags), None) => Some(expression(FilterType::Tag, tags)),
            (None, sql) => sql.map(|sql| expression(FilterType::Sql, sql)),
        };
        let request = ReceiveMessageRequest {
            message_queue: Some(MessageQueue { topic: Some(resource(topic)), ..MessageQueue::default() }),
            group: Some(resource(&group)),
            filter_expression: filter,
            batch_size: i32::try_from(max).unwrap_or(RECEIVE_BATCH),
            invisible_duration: Some(duration(invisible_ms)),
            ..ReceiveMessageRequest::default()
        };
        // The broker knows a group's settings by its members: each group and topic of an address is one.
        let client_id = format!("http@{}@{group}@{topic}", ends.peer.ip());
        Ok(Wanted { caller: Caller::of_http(ends, client_id), request })
    }

    /// The next messages, one by one; what is not taken is soon for others. None come when the time to wait is over.
    pub async fn look(&self, service: &Service, wait_ms: i64) -> Answers<ReceiveMessageResponse> {
        let mut request = self.request.clone();
        request.long_polling_timeout = Some(duration(wait_ms));
        rpc::receive::receive(service, &self.caller, request).await.unwrap_or_else(rpc::receive::nothing)
    }

    async fn all(&self, endpoint: &Endpoint, wait_ms: i64) -> Result<Vec<Received>, Refused> {
        let mut answer = self.look(&endpoint.service, wait_ms).await;
        let mut messages = Vec::new();
        while let Some(piece) = answer.next().await {
            messages.extend(message(piece, &endpoint.unpacked)?);
        }
        Ok(messages)
    }
}

/// The message of a piece; others have none.
pub(crate) fn message(
    piece: Result<ReceiveMessageResponse, Status>,
    unpacked: &Room,
) -> Result<Option<Received>, Refused> {
    // A client that has not read for too long.
    let piece = piece.map_err(|status| Refused::new(Code::RequestTimeout, status.message()))?;
    match piece.content {
        Some(Content::Message(message)) => Ok(Some(Received::of(message, unpacked))),
        Some(Content::Status(status)) => match status.code() {
            Code::Ok | Code::MessageNotFound => Ok(None),
            code => Err(Refused::new(code, status.message)),
        },
        Some(Content::DeliveryTimestamp(_)) | None => Ok(None),
    }
}

fn expression(kind: FilterType, expression: String) -> FilterExpression {
    FilterExpression { r#type: kind.into(), expression }
}
