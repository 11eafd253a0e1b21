//! QueryAssignment: the queues a push consumer receives from. The broker deals messages out to whoever asks, so that one
//! assignment stands for all queues, unless the group consumes in order.

use crate::call::Caller;
use crate::names;
use crate::pb::{Assignment, Code, Permission, QueryAssignmentRequest, QueryAssignmentResponse};
use crate::rpc::route;
use crate::service::Service;
use crate::settings;
use crate::status::{self, Refused};

pub(crate) async fn query(
    service: &Service,
    caller: &Caller,
    request: QueryAssignmentRequest,
) -> Result<QueryAssignmentResponse, Refused> {
    let topic = names::topic(request.topic.as_ref())?;
    names::group(request.group.as_ref())?;
    let mut queues = route::queues(service, &topic, caller.endpoints(request.endpoints))?;
    queues.retain(|queue| matches!(queue.permission(), Permission::Read | Permission::ReadWrite));
    if queues.is_empty() {
        return Err(Refused::new(Code::Forbidden, format!("topic {topic} has no readable queue")));
    }
    let is_fifo = service.clients.get(&caller.client_id).is_some_and(|client| settings::is_fifo(&client.settings()));
    if !is_fifo {
        queues.truncate(1);
        queues[0].id = -1;
    }
    let assignments = queues.into_iter().map(|queue| Assignment { message_queue: Some(queue) }).collect();
    Ok(QueryAssignmentResponse { status: Some(status::ok()), assignments })
}
