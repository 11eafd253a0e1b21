//! Heartbeat and NotifyClientTermination.

use crate::call::Caller;
use crate::names;
use crate::pb::{
    ClientType, HeartbeatRequest, HeartbeatResponse, NotifyClientTerminationRequest, NotifyClientTerminationResponse,
};
use crate::service::Service;
use crate::settings;
use crate::status::{self, Refused};

pub(crate) async fn beat(
    service: &Service,
    caller: &Caller,
    request: HeartbeatRequest,
) -> Result<HeartbeatResponse, Refused> {
    if request.client_type() != ClientType::Producer {
        names::group(request.group.as_ref())?;
    }
    service.clients.known(caller)?.beat().await?;
    Ok(HeartbeatResponse { status: Some(status::ok()) })
}

pub(crate) async fn leave(
    service: &Service,
    caller: &Caller,
    _: NotifyClientTerminationRequest,
) -> Result<NotifyClientTerminationResponse, Refused> {
    let group = service.clients.get(&caller.client_id).and_then(|client| settings::group(&client.settings()));
    let left = service.clients.leave(caller).await;
    service.renewals.client_left(&caller.client_id).await;
    left?;
    if let Some(group) = group {
        service.clients.broadcasts.leave(caller, &group).await?;
    }
    Ok(NotifyClientTerminationResponse { status: Some(status::ok()) })
}
