//! QUERY_ASSIGNMENT (400), SET_MESSAGE_REQUEST_MODE (401) and GET_ALL_MESSAGE_REQUEST_MODE (402): the broker shares out the
//! queues of a topic among the members of a group, for clients that do not do it themselves (RocketMQ's
//! `QueryAssignmentProcessor`).

use std::collections::BTreeSet;
use std::sync::Arc;

use ferromq_common::allocate;
use ferromq_protocol::body::{
    MessageModel, MessageQueue, MessageQueueAssignment, MessageRequestMode, QueryAssignmentRequestBody,
    QueryAssignmentResponseBody, SetMessageRequestModeRequestBody,
};
use ferromq_protocol::code::response;
use ferromq_protocol::{FrameWriter, json, topic as names};

use super::{Call, Refusal};
use crate::broker::Shared;

/// Code 400. The route may have to be fetched: a task of this reactor answers.
pub(crate) fn query(broker: &Arc<Shared>, call: &Call<'_>, _out: &mut Vec<u8>) -> Result<(), Refusal> {
    let asked: QueryAssignmentRequestBody = call.json_body()?;
    names::validate_topic(&asked.topic).map_err(|e| Refusal::new(response::INVALID_PARAMETER, e.to_string()))?;
    names::validate_group(&asked.consumer_group)
        .map_err(|e| Refusal::new(response::INVALID_PARAMETER, e.to_string()))?;
    let (broker, conn, head) = (Arc::clone(broker), Arc::clone(call.conn), call.request.head);
    tokio::spawn(async move {
        let queues = match broker.topic_routes.queues(&asked.topic).await {
            Some(queues) => queues.to_vec(),
            None => own_queues(&broker, &asked.topic),
        };
        let answer = assign(&broker, &asked, queues);
        // A push fails when the client has gone.
        let _ = conn.push(|out| match json::to_vec_standard(&answer) {
            Ok(body) => FrameWriter::response(out, &head, response::SUCCESS).finish_with_body(&body),
            Err(error) => Refusal::new(response::SYSTEM_ERROR, error.to_string()).write(&head, out),
        });
    });
    Ok(())
}

fn own_queues(broker: &Shared, topic: &str) -> Vec<MessageQueue> {
    let known = broker.topics.get(topic).filter(|topic| topic.is_readable());
    let ids = 0..known.map_or(0, |topic| topic.config().read_queue_nums);
    let broker_name = &broker.config.broker_name;
    ids.map(|queue_id| MessageQueue { broker_name: broker_name.clone(), queue_id, topic: topic.to_owned() }).collect()
}

/// What a client gets; no list at all tells it to keep what it has.
fn assign(
    broker: &Shared,
    asked: &QueryAssignmentRequestBody,
    queues: Vec<MessageQueue>,
) -> QueryAssignmentResponseBody {
    let (topic, group) = (asked.topic.as_str(), asked.consumer_group.as_str());
    let config = &broker.config;
    let mode = broker.request_modes.get(topic, group).unwrap_or_else(|| SetMessageRequestModeRequestBody {
        consumer_group: group.to_owned(),
        // Retry topics of groups are pulled, whatever the default is.
        mode: match names::is_retry_topic(topic) {
            true => MessageRequestMode::Pull,
            false => config.pop.default_message_request_mode,
        },
        pop_share_queue_num: config.pop.default_pop_share_queue_num,
        topic: topic.to_owned(),
    });
    let share = if queues.is_empty() {
        None
    } else if asked.message_model == MessageModel::Broadcasting || !config.pop.server_load_balancer_enable {
        Some(queues)
    } else {
        let members = broker.clients.consumer_ids(group);
        share(&asked.strategy_name, &asked.client_id, &queues, &members, &mode)
    };
    let share = share.map(|share| {
        // A queue that two members share comes once.
        let share: BTreeSet<MessageQueue> = share.into_iter().collect();
        let assignment =
            |queue| MessageQueueAssignment { attachments: None, message_queue: Some(queue), mode: mode.mode };
        share.into_iter().map(assignment).collect()
    });
    QueryAssignmentResponseBody { message_queue_assignments: share }
}

/// The share of one client; `None` for a strategy that is unknown or a group without members.
fn share(
    strategy: &str,
    client_id: &str,
    queues: &[MessageQueue],
    members: &[String],
    mode: &SetMessageRequestModeRequestBody,
) -> Option<Vec<MessageQueue>> {
    let allocate = |client_id: &str| -> Option<Vec<MessageQueue>> {
        match strategy {
            "AVG" => Some(allocate::averagely(client_id, queues, members).to_vec()),
            "AVG_BY_CIRCLE" => Some(allocate::by_circle(client_id, queues, members).into_iter().cloned().collect()),
            _ => None,
        }
    };
    if members.is_empty() {
        return None;
    }
    if mode.mode == MessageRequestMode::Pull {
        return allocate(client_id);
    }
    let sharing = usize::try_from(mode.pop_share_queue_num).unwrap_or(0);
    if sharing == 0 || sharing >= members.len() - 1 {
        // Everybody pops everything: a queue id below 0 stands for all queues of a broker.
        return Some(queues.iter().map(|queue| MessageQueue { queue_id: -1, ..queue.clone() }).collect());
    }
    let index = members.iter().position(|member| member == client_id);
    if members.len() > queues.len() {
        return Some(index.map(|index| queues[index % queues.len()].clone()).into_iter().collect());
    }
    // The own share, and those of the next members.
    let mut share = allocate(client_id)?;
    for next in index.into_iter().flat_map(|index| (1..=sharing).map(move |n| index + n)) {
        share.extend(allocate(&members[next % members.len()])?);
    }
    Some(share)
}

/// Code 401.
pub(crate) fn set_mode(broker: &Arc<Shared>, call: &Call<'_>, _out: &mut Vec<u8>) -> Result<(), Refusal> {
    let mode: SetMessageRequestModeRequestBody = call.json_body()?;
    if names::is_retry_topic(&mode.topic) {
        return Err(Refusal::new(response::NO_PERMISSION, "retry topic is not allowed to set mode"));
    }
    if broker.topics.get(&mode.topic).is_none() {
        return Err(Refusal::new(response::TOPIC_NOT_EXIST, format!("topic[{}] not exist", mode.topic)));
    }
    if broker.groups.find(&mode.consumer_group).is_none() {
        return Err(Refusal::new(response::SUBSCRIPTION_GROUP_NOT_EXIST, "subscription group does not exist"));
    }
    if !broker.request_modes.set(mode) {
        let remark = "too many pairs of topic and group have a request mode of their own";
        return Err(Refusal::new(response::SYSTEM_ERROR, remark));
    }
    call.respond_when_saved(broker.topics.saving());
    Ok(())
}

/// Code 402: the whole table, for a replica.
pub(crate) fn all_modes(broker: &Arc<Shared>, call: &Call<'_>, out: &mut Vec<u8>) -> Result<(), Refusal> {
    call.respond_json(out, &broker.request_modes.snapshot())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queues(count: i32) -> Vec<MessageQueue> {
        (0..count).map(|queue_id| MessageQueue { broker_name: "b".into(), queue_id, topic: "T".into() }).collect()
    }

    fn ids(strategy: &str, client: &str, queue_count: i32, members: usize, pop: Option<i32>) -> Option<Vec<i32>> {
        let members: Vec<String> = (0..members).map(|n| format!("m{n}")).collect();
        let mode = SetMessageRequestModeRequestBody {
            mode: if pop.is_some() { MessageRequestMode::Pop } else { MessageRequestMode::Pull },
            pop_share_queue_num: pop.unwrap_or_default(),
            ..SetMessageRequestModeRequestBody::default()
        };
        let share = share(strategy, client, &queues(queue_count), &members, &mode)?;
        Some(share.iter().map(|queue| queue.queue_id).collect())
    }

    #[test]
    fn pulled_queues_belong_to_one_member() {
        assert_eq!(ids("AVG", "m0", 8, 3, None), Some(vec![0, 1, 2]));
        assert_eq!(ids("AVG_BY_CIRCLE", "m1", 8, 3, None), Some(vec![1, 4, 7]));
        assert_eq!(ids("AVG", "stranger", 8, 3, None), Some(vec![]));
        assert_eq!(ids("CONSISTENT_HASH", "m0", 8, 3, None), None);
        assert_eq!(ids("AVG", "m0", 8, 0, None), None);
    }

    #[test]
    fn popped_queues_are_shared_by_as_many_members_as_was_set() {
        assert_eq!(ids("AVG", "m0", 3, 4, Some(0)), Some(vec![-1, -1, -1]));
        assert_eq!(ids("AVG", "m0", 3, 4, Some(3)), Some(vec![-1, -1, -1]));
        assert_eq!(ids("AVG", "m0", 3, 1, Some(5)), Some(vec![-1, -1, -1]));
        assert_eq!(ids("AVG", "m0", 8, 4, Some(1)), Some(vec![0, 1, 2, 3]));
        assert_eq!(ids("AVG", "m3", 8, 4, Some(2)), Some(vec![6, 7, 0, 1, 2, 3]));
        assert_eq!(ids("AVG", "m5", 4, 6, Some(1)), Some(vec![1]));
        assert_eq!(ids("AVG", "m0", 4, 6, Some(-7)), Some(vec![-1, -1, -1, -1]));
    }
}
