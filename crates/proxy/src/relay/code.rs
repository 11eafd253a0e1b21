//! Which broker a request is for (`AbstractRemotingActivity` and its kin). Codes that are missing are not served by a proxy:
//! what changes brokers is asked of brokers.

use ferromq_protocol::code::request;

/// Whom a request concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whom {
    /// The proxy itself: the route of a topic.
    Proxy,
    /// The broker that a field names.
    Named(&'static str),
    /// The broker of the queues in the body.
    Queues,
    /// Any broker: all know the same.
    Any,
    /// All brokers.
    All,
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
        | request::ACK_MESSAGE
        | request::CHANGE_MESSAGE_INVISIBLETIME
        | request::NOTIFICATION
        | request::QUERY_CONSUMER_OFFSET
        | request::UPDATE_CONSUMER_OFFSET
        | request::SEARCH_OFFSET_BY_TIMESTAMP
        | request::GET_MAX_OFFSET
        | request::GET_MIN_OFFSET
        | request::GET_EARLIEST_MSG_STORETIME => Whom::Named("bname"),
        request::LOCK_BATCH_MQ | request::UNLOCK_BATCH_MQ => Whom::Queues,
        request::CHECK_CLIENT_CONFIG
        | request::GET_CONSUMER_LIST_BY_GROUP
        | request::GET_CONSUMER_CONNECTION_LIST
        | request::QUERY_ASSIGNMENT => Whom::Any,
        request::HEART_BEAT | request::UNREGISTER_CLIENT => Whom::All,
        _ => return None,
    })
}

/// The field with which a request says how long it waits for messages, milliseconds.
pub(super) fn wait_field(code: i32) -> Option<&'static str> {
    match code {
        request::PULL_MESSAGE | request::LITE_PULL_MESSAGE => Some("suspendTimeoutMillis"),
        request::POP_MESSAGE | request::NOTIFICATION => Some("pollTime"),
        _ => None,
    }
}
