//! Request code to handler, on one page. Sends (10, 310, 320), the ends of transactions (37) and acknowledgements of pops
//! (200051, 200151) do not stand here: the service collects them into one append per turn (`handler/send.rs`,
//! `handler/ack.rs`). A code that is missing is answered REQUEST_CODE_NOT_SUPPORTED.

use ferromq_protocol::code::request;

use crate::handler::{
    Handler, ack, admin, assignment, clean, client, cold, group, lite, lock, offset, pop, progress, pull, query,
    recall, relay, reply, reset, resume, route, runtime, send_back, topic, upkeep,
};

/// Who answers a request code, or `None`.
pub(crate) fn handler(code: i32) -> Option<Handler> {
    Some(match code {
        // messages
        request::CONSUMER_SEND_MSG_BACK => send_back::send_back,
        request::RECALL_MESSAGE => recall::recall,
        request::RESUME_CHECK_HALF_MESSAGE => resume::check_half,
        request::PULL_MESSAGE | request::LITE_PULL_MESSAGE => pull::pull,
        request::POP_MESSAGE => pop::pop,
        request::PEEK_MESSAGE => pop::peek,
        request::NOTIFICATION => pop::notification,
        request::POLLING_INFO => pop::polling_info,
        request::CHANGE_MESSAGE_INVISIBLETIME => ack::change_invisible_time,
        request::POP_LITE_MESSAGE => lite::pop,
        request::QUERY_MESSAGE => query::by_key,
        request::VIEW_MESSAGE_BY_ID => query::by_offset,
        request::SEND_REPLY_MESSAGE | request::SEND_REPLY_MESSAGE_V2 => reply::reply,
        // offsets
        request::QUERY_CONSUMER_OFFSET => offset::query,
        request::UPDATE_CONSUMER_OFFSET => offset::update,
        request::SEARCH_OFFSET_BY_TIMESTAMP => offset::search,
        request::GET_MAX_OFFSET => offset::max,
        request::GET_MIN_OFFSET => offset::min,
        request::GET_EARLIEST_MSG_STORETIME => offset::earliest,
        request::GET_ALL_CONSUMER_OFFSET => offset::all,
        request::QUERY_CORRECTION_OFFSET => offset::correction,
        // clients
        request::HEART_BEAT => client::heartbeat,
        request::UNREGISTER_CLIENT => client::unregister,
        request::CHECK_CLIENT_CONFIG => client::check_config,
        request::GET_CONSUMER_LIST_BY_GROUP => client::consumer_ids,
        request::LITE_SUBSCRIPTION_CTL => lite::subscribe,
        request::QUERY_ASSIGNMENT => assignment::query,
        request::SET_MESSAGE_REQUEST_MODE => assignment::set_mode,
        request::GET_ALL_MESSAGE_REQUEST_MODE => assignment::all_modes,
        request::LOCK_BATCH_MQ => lock::lock_batch,
        request::UNLOCK_BATCH_MQ => lock::unlock_batch,
        request::GET_CONSUMER_CONNECTION_LIST => admin::consumer_connections,
        request::GET_PRODUCER_CONNECTION_LIST => admin::producer_connections,
        request::GET_ALL_PRODUCER_INFO => admin::all_producers,
        request::GET_CONSUMER_RUNNING_INFO => relay::running_info,
        request::CONSUME_MESSAGE_DIRECTLY => relay::consume_directly,
        // the broker itself
        request::GET_BROKER_CONFIG => upkeep::config,
        request::UPDATE_BROKER_CONFIG => upkeep::update_config,
        request::VIEW_BROKER_STATS_DATA => upkeep::stats_data,
        request::GET_BROKER_RUNTIME_INFO => runtime::runtime_info,
        request::SET_COMMITLOG_READ_MODE => upkeep::read_mode,
        request::DELETE_EXPIRED_COMMITLOG => clean::commit_log,
        request::CLEAN_EXPIRED_CONSUMEQUEUE => clean::consume_queues,
        request::CLEAN_UNUSED_TOPIC => clean::unused_topics,
        request::UPDATE_COLD_DATA_FLOW_CTR_CONFIG => cold::set,
        request::REMOVE_COLD_DATA_FLOW_CTR_CONFIG => cold::remove,
        request::GET_COLD_DATA_FLOW_CTR_INFO => cold::info,
        // topics
        request::GET_ROUTEINFO_BY_TOPIC => route::by_topic,
        request::UPDATE_AND_CREATE_TOPIC => topic::create,
        request::UPDATE_AND_CREATE_TOPIC_LIST => topic::create_list,
        request::UPDATE_AND_CREATE_STATIC_TOPIC => topic::create_static,
        request::DELETE_TOPIC_IN_BROKER => topic::delete,
        request::GET_ALL_TOPIC_CONFIG => topic::all,
        request::GET_TOPIC_CONFIG => topic::get,
        request::GET_TOPIC_STATS_INFO => topic::stats,
        request::GET_SYSTEM_TOPIC_LIST_FROM_BROKER => topic::system_list,
        request::QUERY_CONSUME_QUEUE => topic::consume_queue,
        request::GET_BROKER_LITE_INFO => lite::broker_info,
        request::GET_PARENT_TOPIC_INFO => lite::parent_info,
        request::GET_LITE_TOPIC_INFO => lite::topic_info,
        // groups
        request::GET_LITE_CLIENT_INFO => lite::client_info,
        request::GET_LITE_GROUP_INFO => lite::group_info,
        request::TRIGGER_LITE_DISPATCH => lite::trigger,
        request::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP => group::create,
        request::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP_LIST => group::create_list,
        request::DELETE_SUBSCRIPTIONGROUP => group::delete,
        request::GET_ALL_SUBSCRIPTIONGROUP_CONFIG => group::all,
        request::GET_SUBSCRIPTIONGROUP_CONFIG => group::get,
        request::GET_CONSUME_STATS => progress::of_group,
        request::GET_BROKER_CONSUME_STATS => progress::of_all_groups,
        request::QUERY_CONSUME_TIME_SPAN => progress::time_span,
        request::CLONE_GROUP_OFFSET => progress::clone_offsets,
        request::INVOKE_BROKER_TO_RESET_OFFSET => reset::reset_offset,
        request::INVOKE_BROKER_TO_GET_CONSUMER_STATUS => reset::consumer_status,
        request::UPDATE_AND_GET_GROUP_FORBIDDEN => group::forbidden,
        request::QUERY_TOPIC_CONSUME_BY_WHO => group::groups_of_topic,
        request::QUERY_TOPICS_BY_CONSUMER => group::topics_of_group,
        request::QUERY_SUBSCRIPTION_BY_CONSUMER => group::subscription,
        _ => return None,
    })
}

/// Codes that the fast port (listenPort - 2) does not serve, so that consumers cannot delay producers there.
pub(crate) fn is_closed_on_fast_port(code: i32) -> bool {
    matches!(
        code,
        request::PULL_MESSAGE
            | request::LITE_PULL_MESSAGE
            | request::POP_MESSAGE
            | request::POP_LITE_MESSAGE
            | request::PEEK_MESSAGE
            | request::NOTIFICATION
            | request::POLLING_INFO
    )
}
