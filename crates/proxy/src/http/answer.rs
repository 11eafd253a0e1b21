//! Answers: JSON, and refusals as `{"code", "message"}` under the HTTP status that goes with the code.

use std::convert::Infallible;

use bytes::Bytes;
use http_body_util::{Either, Full, StreamBody};
use hyper::body::Frame;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use serde::Serialize;
use serde_json::json;
use tokio_stream::wrappers::ReceiverStream;

use crate::http::body::Taken;
use crate::http::message::Received;
use crate::pb::Code;
use crate::status::Refused;

/// A piece of a stream that cannot fail: what fails ends it.
pub(crate) type Piece = Result<Frame<Bytes>, Infallible>;

/// An answer as a whole, or a stream of events.
pub(crate) type Answer = Response<Either<Full<Bytes>, StreamBody<ReceiverStream<Piece>>>>;

/// Why a request is not done.
#[derive(Debug)]
pub(crate) struct Failure {
    status: StatusCode,
    code: &'static str,
    message: String,
    /// Methods of the path, when the one asked is none of them.
    allow: Option<&'static str>,
}

impl Failure {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Failure { status, code, message: message.into(), allow: None }
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Refused::new(Code::BadRequest, message).into()
    }

    pub fn forbidden(message: impl Into<String>) -> Self {
        Refused::new(Code::Forbidden, message).into()
    }

    pub fn not_found(message: impl Into<String>) -> Self {
        Refused::new(Code::NotFound, message).into()
    }

    pub fn too_many(message: impl Into<String>) -> Self {
        Refused::new(Code::TooManyRequests, message).into()
    }

    pub fn too_slow(message: impl Into<String>) -> Self {
        Refused::new(Code::RequestTimeout, message).into()
    }

    pub fn too_large(message: impl Into<String>) -> Self {
        Refused::new(Code::PayloadTooLarge, message).into()
    }

    pub fn method(allow: &'static str) -> Self {
        let message = format!("this path takes {allow}");
        let failure = Failure::new(StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", message);
        Failure { allow: Some(allow), ..failure }
    }

    pub fn media_type(message: impl Into<String>) -> Self {
        Failure::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UNSUPPORTED_MEDIA_TYPE", message)
    }

    pub fn unavailable(message: impl Into<String>) -> Self {
        Failure::new(StatusCode::SERVICE_UNAVAILABLE, "SERVICE_UNAVAILABLE", message)
    }

    /// Whether the broker failed without a code that says how.
    pub fn is_internal(&self) -> bool {
        self.status == StatusCode::INTERNAL_SERVER_ERROR
    }

    pub fn answer(self) -> Answer {
        let mut answer = json(self.status, &json!({ "code": self.code, "message": self.message }));
        if let Some(allow) = self.allow {
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
        }
        answer
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        Failure::new(status_of(refused.code), refused.code.as_str_name(), refused.message)
    }
}

/// RocketMQ's codes are HTTP's with two digits more, but for a few that HTTP means otherwise.
fn status_of(code: Code) -> StatusCode {
    match code {
        Code::MessageBodyEmpty => StatusCode::BAD_REQUEST,
        Code::MessagePropertiesTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Code::HaNotAvailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::Unsupported | Code::VersionUnsupported => StatusCode::NOT_IMPLEMENTED,
        other => {
            let number = u16::try_from(other as i32 / 100).unwrap_or_default();
            let status = StatusCode::from_u16(number).ok();
            let failed = status.filter(|status| status.is_client_error() || status.is_server_error());
            failed.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
        }
    }
}

pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Answer {
    // Only text, numbers and lists are written: that does not fail.
    let text = serde_json::to_vec(value).unwrap_or_default();
    whole(status, "application/json", text.into())
}

/// Text, and the room of what it tells, which it takes until it is written.
struct Kept {
    text: Vec<u8>,
    _room: Vec<Taken>,
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        &self.text
    }
}

pub(crate) fn kept(text: Vec<u8>, room: Vec<Taken>) -> Bytes {
    Bytes::from_owner(Kept { text, _room: room })
}

/// Messages, as a JSON list.
pub(crate) fn messages(messages: Vec<Received>) -> Answer {
    let text = serde_json::to_vec(&messages).unwrap_or_default();
    let room = messages.into_iter().filter_map(|message| message.room).collect();
    whole(StatusCode::OK, "application/json", kept(text, room))
}

pub(crate) fn whole(status: StatusCode, content_type: &'static str, body: Bytes) -> Answer {
    with(status, content_type, Either::Left(Full::new(body)))
}

/// Server-sent events, as they come.
pub(crate) fn events(pieces: ReceiverStream<Piece>) -> Answer {
    with(StatusCode::OK, "text/event-stream", Either::Right(StreamBody::new(pieces)))
}

fn with(
    status: StatusCode,
    content_type: &'static str,
    body: Either<Full<Bytes>, StreamBody<ReceiverStream<Piece>>>,
) -> Answer {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_the_status_http_means() {
        for (code, status) in [
            (Code::BadRequest, 400),
            (Code::IllegalTopic, 400),
            (Code::MessageBodyEmpty, 400),
            (Code::Forbidden, 403),
            (Code::TopicNotFound, 404),
            (Code::MessageBodyTooLarge, 413),
            (Code::TooManyRequests, 429),
            (Code::InternalServerError, 500),
            (Code::NotImplemented, 501),
            (Code::MasterPersistenceTimeout, 504),
            // Never a success.
            (Code::Ok, 500),
            (Code::MultipleResults, 500),
            (Code::FailedToConsumeMessage, 500),
        ] {
            assert_eq!(status_of(code).as_u16(), status, "{code:?}");
        }
    }
}
