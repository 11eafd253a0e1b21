//! What is done with messages that were received, by their receipt handles: each handle has its own outcome.

use hyper::StatusCode;
use serde::Serialize;

use crate::call::Caller;
use crate::http::answer::{self, Answer, Failure};
use crate::http::query::Query;
use crate::http::route::Asked;
use crate::http::{Endpoint, body};
use crate::message::{duration, resource};
use crate::pb::{
    AckMessageEntry, AckMessageRequest, ChangeInvisibleDurationRequest, Code, ForwardMessageToDeadLetterQueueRequest,
    Status,
};
use crate::rpc::invisible::MAX_MS;
use crate::rpc::{ack, dead_letter, invisible};
use crate::service::Service;
use crate::status::{self, Refused};

/// Most handles of one request.
const MAX_HANDLES: usize = 256;
/// Largest list of them, bytes.
const MAX_LIST_BYTES: usize = 256 * 1024;

/// What can be done.
#[derive(Clone, Copy)]
pub(crate) enum Verb {
    Ack,
    DeadLetter,
    Invisible,
}

impl Verb {
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "ack" => Some(Verb::Ack),
            "dead-letter" => Some(Verb::DeadLetter),
            "invisible" => Some(Verb::Invisible),
            _ => None,
        }
    }
}

/// What became of one handle.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Outcome {
    receipt_handle: String,
    code: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    /// The handle that counts from now on.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_receipt_handle: Option<String>,
}

impl Outcome {
    fn new(receipt_handle: String, status: Status, next_receipt_handle: Option<String>) -> Self {
        let code = status.code();
        let message = (code != Code::Ok).then_some(status.message);
        Outcome { receipt_handle, code: code.as_str_name(), message, next_receipt_handle }
    }

    fn is_done(&self) -> bool {
        self.code == Code::Ok.as_str_name()
    }
}

/// The group's messages that one request is about.
struct Group<'a> {
    service: &'a Service,
    caller: Caller,
    topic: &'a str,
    group: &'a str,
}

pub(crate) async fn apply(
    endpoint: &Endpoint,
    topic: &str,
    group: &str,
    verb: Verb,
    asked: Asked,
) -> Result<Answer, Failure> {
    let Asked { ends, head, body } = asked;
    if !body::is_json(&head.headers) {
        return Err(Failure::media_type("receipt handles are sent as application/json: a list of strings"));
    }
    let mut query = Query::parse(head.uri.query())?;
    let time = match verb {
        Verb::Invisible => query.number("invisibleMs", 0..=MAX_MS)?,
        Verb::Ack | Verb::DeadLetter => None,
    };
    query.end()?;
    let held = endpoint.room.read(&head.headers, body, MAX_LIST_BYTES).await?;
    let handles = body::list(&held.bytes)?;
    if handles.is_empty() || handles.len() > MAX_HANDLES {
        return Err(Failure::bad_request(format!("the list has {} handles, not 1 to {MAX_HANDLES}", handles.len())));
    }
    let caller = Caller::of_http(ends, format!("http@{}@{group}@{topic}", ends.peer.ip()));
    let of_group = Group { service: &endpoint.service, caller, topic, group };
    let outcomes = match (verb, time) {
        (Verb::Ack, _) => of_group.ack(handles).await?,
        (Verb::DeadLetter, _) => of_group.dead_letter(handles).await,
        (Verb::Invisible, Some(time)) => of_group.invisible(handles, time).await,
        (Verb::Invisible, None) => return Err(Failure::bad_request("the parameter invisibleMs is missing")),
    };
    let status = if outcomes.iter().all(Outcome::is_done) { StatusCode::OK } else { StatusCode::MULTI_STATUS };
    Ok(answer::json(status, &outcomes))
}

impl Group<'_> {
    async fn ack(&self, handles: Vec<String>) -> Result<Vec<Outcome>, Refused> {
        let entry = |receipt_handle| AckMessageEntry { receipt_handle, ..AckMessageEntry::default() };
        let request = AckMessageRequest {
            group: Some(resource(self.group)),
            topic: Some(resource(self.topic)),
            entries: handles.into_iter().map(entry).collect(),
        };
        let answer = ack::ack(self.service, &self.caller, request).await?;
        let outcome = |entry: crate::pb::AckMessageResultEntry| {
            Outcome::new(entry.receipt_handle, entry.status.unwrap_or_default(), None)
        };
        Ok(answer.entries.into_iter().map(outcome).collect())
    }

    async fn dead_letter(&self, handles: Vec<String>) -> Vec<Outcome> {
        let mut outcomes = Vec::with_capacity(handles.len());
        for receipt_handle in handles {
            let request = ForwardMessageToDeadLetterQueueRequest {
                group: Some(resource(self.group)),
                topic: Some(resource(self.topic)),
                receipt_handle: receipt_handle.clone(),
                ..ForwardMessageToDeadLetterQueueRequest::default()
            };
            let forwarded = dead_letter::forward(self.service, &self.caller, request).await;
            let status = forwarded.map_or_else(Into::into, |_| status::ok());
            outcomes.push(Outcome::new(receipt_handle, status, None));
        }
        outcomes
    }

    async fn invisible(&self, handles: Vec<String>, time: i64) -> Vec<Outcome> {
        let mut outcomes = Vec::with_capacity(handles.len());
        for receipt_handle in handles {
            let request = ChangeInvisibleDurationRequest {
                group: Some(resource(self.group)),
                topic: Some(resource(self.topic)),
                receipt_handle: receipt_handle.clone(),
                invisible_duration: Some(duration(time)),
                ..ChangeInvisibleDurationRequest::default()
            };
            outcomes.push(match invisible::change(self.service, &self.caller, request).await {
                Ok(changed) => Outcome::new(receipt_handle, status::ok(), Some(changed.receipt_handle)),
                Err(refused) => Outcome::new(receipt_handle, refused.into(), None),
            });
        }
        outcomes
    }
}
