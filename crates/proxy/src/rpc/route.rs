//! QueryRoute: the queues of a topic and where they are (`RouteActivity`).

use ferromq_broker::Shared;
use ferromq_protocol::sys_flag::perm;

use crate::call::Caller;
use crate::message::resource;
use crate::names;
use crate::pb::{
    Broker, Code, Endpoints, MessageQueue, MessageType, Permission, QueryRouteRequest, QueryRouteResponse,
};
use crate::service::Service;
use crate::status::{self, Refused};

pub(crate) async fn query(
    service: &Service,
    caller: &Caller,
    request: QueryRouteRequest,
) -> Result<QueryRouteResponse, Refused> {
    let topic = names::topic(request.topic.as_ref())?;
    let message_queues = queues(service, &topic, caller.endpoints(request.endpoints))?;
    Ok(QueryRouteResponse { status: Some(status::ok()), message_queues })
}

/// All queues of a topic, in the order clients know: readable ones, writable ones, both, none.
pub(crate) fn queues(service: &Service, name: &str, endpoints: Endpoints) -> Result<Vec<MessageQueue>, Refused> {
    let door = &service.door;
    let config = shape(&door.broker, name)
        .ok_or_else(|| Refused::new(Code::TopicNotFound, format!("no route of topic {name}")))?;
    let broker = Broker { name: door.broker_name().to_owned(), id: 0, endpoints: Some(endpoints) };
    let accept: Vec<i32> = accepted(config.message_type.as_deref()).into_iter().map(i32::from).collect();
    let mut queues = Vec::new();
    for (permission, count) in permissions(config.perm, config.read, config.write) {
        for _ in 0..count {
            queues.push(MessageQueue {
                topic: Some(resource(name)),
                id: queues.len() as i32,
                permission: permission.into(),
                broker: Some(broker.clone()),
                accept_message_types: accept.clone(),
            });
        }
    }
    Ok(queues)
}

/// What a topic looks like.
pub(crate) struct Shape {
    pub perm: i32,
    pub read: i32,
    pub write: i32,
    /// Attribute `message.type`.
    pub message_type: Option<String>,
}

/// A topic as it is, or as the first message would make it.
pub(crate) fn shape(broker: &Shared, name: &str) -> Option<Shape> {
    if let Some(topic) = broker.topics.get(name) {
        let config = topic.config();
        let message_type = config.attributes.get("message.type").cloned();
        return Some(Shape {
            perm: config.perm,
            read: config.read_queue_nums,
            write: config.write_queue_nums,
            message_type,
        });
    }
    // As remoting clients get the route of the template.
    let template = broker.topics.get(ferromq_protocol::topic::AUTO_CREATE_TOPIC_KEY)?;
    let config = template.config();
    let count = i32::try_from(broker.config.default_topic_queue_nums).unwrap_or(i32::MAX).min(config.write_queue_nums);
    let perm = config.perm & (perm::READ | perm::WRITE);
    Some(Shape { perm, read: count, write: count, message_type: None })
}

fn permissions(perm: i32, read: i32, write: i32) -> [(Permission, i32); 4] {
    let (none, both) = ((Permission::None, 0), read.min(write));
    match (perm::is_readable(perm), perm::is_writeable(perm)) {
        (true, true) => {
            [(Permission::Read, read - both), (Permission::Write, write - both), (Permission::ReadWrite, both), none]
        }
        (true, false) => [(Permission::Read, read), none, none, none],
        (false, true) => [(Permission::Write, write), none, none, none],
        (false, false) => [(Permission::None, read.max(write).max(1)), none, none, none],
    }
}

/// The kinds of messages a topic of a type takes.
pub(crate) fn accepted(message_type: Option<&str>) -> Vec<MessageType> {
    match message_type {
        None | Some("NORMAL") => vec![MessageType::Normal],
        Some("FIFO") => vec![MessageType::Fifo],
        Some("DELAY") => vec![MessageType::Delay],
        Some("TRANSACTION") => vec![MessageType::Transaction],
        Some("PRIORITY") => vec![MessageType::Priority],
        Some("LITE") => vec![MessageType::Lite],
        Some("MIXED") => {
            vec![MessageType::Normal, MessageType::Fifo, MessageType::Delay, MessageType::Transaction]
        }
        Some(_) => vec![MessageType::Unspecified],
    }
}
