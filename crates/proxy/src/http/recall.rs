//! DELETE of a message that is not delivered yet.

use ferromq_protocol::id::RecallHandle;
use hyper::StatusCode;
use serde_json::json;

use crate::call::Caller;
use crate::http::Endpoint;
use crate::http::answer::{self, Answer, Failure};
use crate::http::query::Query;
use crate::http::route::Asked;
use crate::message::resource;
use crate::pb::RecallMessageRequest;
use crate::rpc;

pub(crate) async fn recall(endpoint: &Endpoint, topic: &str, handle: &str, asked: Asked) -> Result<Answer, Failure> {
    Query::parse(asked.head.uri.query())?.end()?;
    if RecallHandle::parse(handle).is_none() {
        return Err(Failure::bad_request(format!("'{handle}' is no recall handle")));
    }
    let caller = Caller::of_http(asked.ends, format!("http@{}", asked.ends.peer.ip()));
    let request = RecallMessageRequest { topic: Some(resource(topic)), recall_handle: handle.to_owned() };
    let recalled = rpc::recall::recall(&endpoint.service, &caller, request).await?;
    Ok(answer::json(StatusCode::OK, &json!({ "messageId": recalled.message_id })))
}
