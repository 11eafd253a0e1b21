//! QueryRoute: the queues of a topic and where they are (`RouteActivity`).

use ferromq_protocol::sys_flag::perm;

use crate::call::Caller;
use crate::message::resource;
use crate::names;
use crate::pb::{Broker, Endpoints, MessageQueue, Permission, QueryRouteRequest, QueryRouteResponse};
use crate::service::Service;
use crate::status::{self, Refused};

pub(crate) async fn query(
    service: &Service,
    caller: &Caller,
    request: QueryRouteRequest,
) -> Result<QueryRouteResponse, Refused> {
    let topic = names::topic(request.topic.as_ref())?;
    let message_queues = queues(service, &topic, service.endpoints(caller, request.endpoints)).await?;
    Ok(QueryRouteResponse { status: Some(status::ok()), message_queues })
}

/// All queues of a topic, by broker in the order clients know: readable ones, writable ones, both, none.
pub(crate) async fn queues(service: &Service, name: &str, endpoints: Endpoints) -> Result<Vec<MessageQueue>, Refused> {
    let topic = service.door.topic(name).await?;
    let accept: Vec<i32> = topic.accepted().iter().copied().map(i32::from).collect();
    let mut queues = Vec::new();
    for share in &topic.brokers {
        // Whoever serves the broker's queues is behind this proxy, as its master would be.
        let broker = Broker { name: share.broker.to_string(), id: 0, endpoints: Some(endpoints.clone()) };
        let mut ids = 0..;
        for (permission, count) in permissions(share.perm, share.read, share.write) {
            for _ in 0..count {
                queues.push(MessageQueue {
                    topic: Some(resource(name)),
                    id: ids.next().unwrap_or_default(),
                    permission: permission.into(),
                    broker: Some(broker.clone()),
                    accept_message_types: accept.clone(),
                });
            }
        }
    }
    Ok(queues)
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
