//! Probes: the process lives; the broker takes messages.

use hyper::StatusCode;
use serde_json::json;

use crate::http::Endpoint;
use crate::http::answer::{self, Answer, Failure};

pub(crate) fn live() -> Answer {
    answer::json(StatusCode::OK, &json!({ "status": "live" }))
}

pub(crate) fn ready(endpoint: &Endpoint) -> Result<Answer, Failure> {
    match unready(endpoint) {
        Some(why) => Err(Failure::unavailable(why)),
        None => Ok(answer::json(StatusCode::OK, &json!({ "status": "ready" }))),
    }
}

/// Why no message is taken now, if that is so.
pub(crate) fn unready(endpoint: &Endpoint) -> Option<String> {
    if endpoint.is_stopping() {
        return Some("the server is stopping".to_owned());
    }
    endpoint.service.door.unready()
}
