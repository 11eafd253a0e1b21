//! QueryAssignment: the queues a push consumer receives from. A broker deals messages out to whoever asks, so that one
//! assignment stands for all its queues, unless the group consumes in order.

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
    let mut queues = route::queues(service, &topic, service.endpoints(caller, request.endpoints)).await?;
    queues.retain(|queue| matches!(queue.permission(), Permission::Read | Permission::ReadWrite));
    if queues.is_empty() {
        return Err(Refused::new(Code::Forbidden, format!("topic {topic} has no readable queue")));
    }
    let is_fifo = service.clients.get(&caller.client_id).is_some_and(|client| {
        let settings = client.settings();
        settings::is_fifo(&settings) && !settings::is_lite(&settings)
    });
    if !is_fifo {
        queues.dedup_by(|next, queue| next.broker == queue.broker);
        queues.iter_mut().for_each(|queue| queue.id = -1);
    }
    let assignments = queues.into_iter().map(|queue| Assignment { message_queue: Some(queue) }).collect();
    Ok(QueryAssignmentResponse { status: Some(status::ok()), assignments })
}
