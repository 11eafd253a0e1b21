//! Which broker a request is for (`AbstractRemotingActivity` and its kin). Codes that are missing are not served by a proxy:
//! what changes brokers is asked of brokers.

use ferromq_protocol::body::{BatchAckMessageRequestBody, LockBatchRequestBody};
use ferromq_protocol::code::request;
use ferromq_protocol::{OwnedCommand, json};

/// Whom a request concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whom {
    /// The proxy itself: the route of a topic.
    Proxy,
    /// The broker that a field names.
    Named(&'static str),
    /// The broker that the body names.
    Body,
    /// Any broker: all know the same.
    Any,
    /// All brokers.
    All,
    /// All brokers, and those that come later: the client is there, or leaves.
    Presence,
}

/// `None`: not served.
pub(super) fn whom(code: i32) -> Option<Whom> {
    Some(match code {
        request::GET_ROUTEINFO_BY_TOPIC => Whom::Proxy,
        request::SEND_MESSAGE_V2 | request::SEND_BATCH_MESSAGE | request::SEND_REPLY_MESSAGE_V2 => Whom::Named("n"),
        request::SEND_MESSAGE
        | request::SEND_REPLY_MESSAGE
        | request::CONSUMER_SEND_MSG_BACK
        | request::END_TRANSACTION
        | request::RECALL_MESSAGE
        | request::PULL_MESSAGE
        | request::LITE_PULL_MESSAGE
        | request::POP_MESSAGE
        | request::POP_LITE_MESSAGE
        | request::PEEK_MESSAGE
        | request::ACK_MESSAGE
        | request::CHANGE_MESSAGE_INVISIBLETIME
        | request::NOTIFICATION
        | request::POLLING_INFO
        | request::QUERY_CONSUMER_OFFSET
        | request::UPDATE_CONSUMER_OFFSET
        | request::SEARCH_OFFSET_BY_TIMESTAMP
        | request::GET_MAX_OFFSET
        | request::GET_MIN_OFFSET
        | request::GET_EARLIEST_MSG_STORETIME => Whom::Named("bname"),
        request::LOCK_BATCH_MQ | request::UNLOCK_BATCH_MQ | request::BATCH_ACK_MESSAGE => Whom::Body,
        request::CHECK_CLIENT_CONFIG
        | request::GET_CONSUMER_LIST_BY_GROUP
        | request::GET_CONSUMER_CONNECTION_LIST
        | request::GET_CONSUMER_RUNNING_INFO
        | request::QUERY_ASSIGNMENT => Whom::Any,
        request::LITE_SUBSCRIPTION_CTL => Whom::All,
        request::HEART_BEAT | request::UNREGISTER_CLIENT => Whom::Presence,
        _ => return None,
    })
}

/// The broker in the body of a request for [`Whom::Body`]; clients ask each broker for its own queues. `None` if it is about
/// nothing.
pub(super) fn broker_in_body(request: &OwnedCommand) -> Result<Option<String>, json::Error> {
    Ok(match request.head().code {
        request::BATCH_ACK_MESSAGE => {
            let BatchAckMessageRequestBody { acks, broker_name } = json::from_slice(request.body())?;
            Some(broker_name).filter(|_| !acks.is_empty())
        }
        _ => {
            let queues: LockBatchRequestBody = json::from_slice(request.body())?;
            queues.mq_set.into_iter().next().map(|queue| queue.broker_name)
        }
    })
}

/// The field with which a request says how long it waits for messages, milliseconds.
pub(super) fn wait_field(code: i32) -> Option<&'static str> {
    match code {
        request::PULL_MESSAGE | request::LITE_PULL_MESSAGE => Some("suspendTimeoutMillis"),
        request::POP_MESSAGE | request::POP_LITE_MESSAGE | request::NOTIFICATION => Some("pollTime"),
        _ => None,
    }
}
