//! Outcomes: RocketMQ's codes in the answer's own `status`, never as gRPC errors (`ResponseBuilder`).

use ferromq_client::Error;
use ferromq_protocol::code::response;
use ferromq_protocol::{FieldError, OwnedCommand};
use ferromq_remoting::InvokeError;

use crate::pb::{Code, Status};

/// Why a call is not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub code: Code,
    pub message: String,
}

impl Refused {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Refused { code, message: message.into() }
    }

    /// What the broker's answer means.
    pub fn by_broker(answer: &OwnedCommand) -> Self {
        Refused::new(code_of(answer.head().code), answer.remark_lossy())
    }
}

impl From<InvokeError> for Refused {
    fn from(error: InvokeError) -> Self {
        let code = match error {
            InvokeError::Timeout(_) => Code::ProxyTimeout,
            InvokeError::TooManyInFlight { .. } => Code::TooManyRequests,
            _ => Code::InternalServerError,
        };
        Refused::new(code, error.to_string())
    }
}

/// A broker's answer that cannot be read.
impl From<FieldError> for Refused {
    fn from(error: FieldError) -> Self {
        Refused::new(Code::InternalServerError, error.to_string())
    }
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        match error {
            Error::Unreachable { source, .. } => source.into(),
            Error::UnknownBroker(_) => Refused::new(Code::BadRequest, error.to_string()),
            _ => Refused::new(Code::InternalServerError, error.to_string()),
        }
    }
}

impl From<Refused> for Status {
    fn from(refused: Refused) -> Self {
        status(refused.code, refused.message)
    }
}

fn code_of(broker_code: i32) -> Code {
    match broker_code {
        response::SUCCESS => Code::Ok,
        response::SYSTEM_BUSY => Code::TooManyRequests,
        response::REQUEST_CODE_NOT_SUPPORTED => Code::NotImplemented,
        response::SUBSCRIPTION_GROUP_NOT_EXIST => Code::ConsumerGroupNotFound,
        response::TOPIC_NOT_EXIST => Code::TopicNotFound,
        response::QUERY_NOT_FOUND => Code::OffsetNotFound,
        response::NO_PERMISSION => Code::Forbidden,
        response::MESSAGE_ILLEGAL | response::INVALID_PARAMETER => Code::BadRequest,
        response::LMQ_QUOTA_EXCEEDED => Code::LiteTopicQuotaExceeded,
        response::LITE_SUBSCRIPTION_QUOTA_EXCEEDED => Code::LiteSubscriptionQuotaExceeded,
        response::SUBSCRIPTION_PARSE_FAILED => Code::IllegalFilterExpression,
        _ => Code::InternalServerError,
    }
}

pub(crate) fn status(code: Code, message: impl Into<String>) -> Status {
    Status { code: code.into(), message: message.into() }
}

pub(crate) fn ok() -> Status {
    status(Code::Ok, Code::Ok.as_str_name())
}

/// The outcome of a call whose entries have their own: theirs when they agree.
pub(crate) fn overall<'a>(entries: impl IntoIterator<Item = &'a Option<Status>>) -> Status {
    let mut entries = entries.into_iter().flatten();
    let Some(first) = entries.next() else { return ok() };
    match entries.all(|entry| entry.code == first.code) {
        true => first.clone(),
        false => status(Code::MultipleResults, Code::MultipleResults.as_str_name()),
    }
}
