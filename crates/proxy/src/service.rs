//! Every call of the protocol on one page. What is not served answers gRPC's UNIMPLEMENTED.

use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::watch;
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

use crate::call::Caller;
use crate::clients::Clients;
use crate::door::Door;
use crate::pb::messaging_service_server::MessagingService;
use crate::pb::*;
use crate::renewal::Renewals;
use crate::rpc::{
    ack, assignment, dead_letter, end_transaction, heartbeat, invisible, recall, receive, route, send, telemetry,
};
use crate::status::Refused;

/// What all calls share.
pub(crate) struct Service {
    pub door: Door,
    pub clients: Arc<Clients>,
    pub renewals: Renewals,
    /// True once the proxy stops: streams end then.
    pub stopped: watch::Receiver<bool>,
}

impl Service {
    pub fn new(door: Door, stopped: watch::Receiver<bool>) -> Self {
        Service { clients: Arc::new(Clients::new(door.clone())), renewals: Renewals::default(), door, stopped }
    }
}

pub(crate) type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Serves one call: its outcome stands in the answer's status, whatever it is.
macro_rules! answer {
    ($self:ident, $request:ident, $call:path, $answer:ident) => {{
        let outcome = match Caller::of(&$request) {
            Ok(caller) => $call($self, &caller, $request.into_inner()).await,
            Err(refused) => Err(refused),
        };
        let answer = outcome.unwrap_or_else(|refused: Refused| {
            let mut answer = $answer::default();
            answer.status = Some(refused.into());
            answer
        });
        Ok(Response::new(answer))
    }};
}

fn unserved(call: &str) -> Status {
    Status::unimplemented(format!("{call} is not served"))
}

#[tonic::async_trait]
impl MessagingService for Service {
    type ReceiveMessageStream = Answers<ReceiveMessageResponse>;
    type PullMessageStream = Answers<PullMessageResponse>;
    type TelemetryStream = Answers<TelemetryCommand>;

    async fn query_route(&self, request: Request<QueryRouteRequest>) -> Result<Response<QueryRouteResponse>, Status> {
        answer!(self, request, route::query, QueryRouteResponse)
    }

    async fn heartbeat(&self, request: Request<HeartbeatRequest>) -> Result<Response<HeartbeatResponse>, Status> {
        answer!(self, request, heartbeat::beat, HeartbeatResponse)
    }

    async fn send_message(
        &self,
        request: Request<SendMessageRequest>,
    ) -> Result<Response<SendMessageResponse>, Status> {
        answer!(self, request, send::send, SendMessageResponse)
    }

    async fn query_assignment(
        &self,
        request: Request<QueryAssignmentRequest>,
    ) -> Result<Response<QueryAssignmentResponse>, Status> {
        answer!(self, request, assignment::query, QueryAssignmentResponse)
    }

    async fn receive_message(
        &self,
        request: Request<ReceiveMessageRequest>,
    ) -> Result<Response<Self::ReceiveMessageStream>, Status> {
        let answers = match Caller::of(&request) {
            Ok(caller) => receive::receive(self, &caller, request.into_inner()).await,
            Err(refused) => receive::nothing(refused),
        };
        Ok(Response::new(Box::pin(tokio_stream::iter(answers.into_iter().map(Ok)))))
    }

    async fn ack_message(&self, request: Request<AckMessageRequest>) -> Result<Response<AckMessageResponse>, Status> {
        answer!(self, request, ack::ack, AckMessageResponse)
    }

    async fn forward_message_to_dead_letter_queue(
        &self,
        request: Request<ForwardMessageToDeadLetterQueueRequest>,
    ) -> Result<Response<ForwardMessageToDeadLetterQueueResponse>, Status> {
        answer!(self, request, dead_letter::forward, ForwardMessageToDeadLetterQueueResponse)
    }

    async fn pull_message(&self, _: Request<PullMessageRequest>) -> Result<Response<Self::PullMessageStream>, Status> {
        Err(unserved("PullMessage"))
    }

    async fn update_offset(&self, _: Request<UpdateOffsetRequest>) -> Result<Response<UpdateOffsetResponse>, Status> {
        Err(unserved("UpdateOffset"))
    }

    async fn get_offset(&self, _: Request<GetOffsetRequest>) -> Result<Response<GetOffsetResponse>, Status> {
        Err(unserved("GetOffset"))
    }

    async fn query_offset(&self, _: Request<QueryOffsetRequest>) -> Result<Response<QueryOffsetResponse>, Status> {
        Err(unserved("QueryOffset"))
    }

    async fn end_transaction(
        &self,
        request: Request<EndTransactionRequest>,
    ) -> Result<Response<EndTransactionResponse>, Status> {
        answer!(self, request, end_transaction::end, EndTransactionResponse)
    }

    async fn telemetry(
        &self,
        request: Request<Streaming<TelemetryCommand>>,
    ) -> Result<Response<Self::TelemetryStream>, Status> {
        telemetry::talk(self, request)
    }

    async fn notify_client_termination(
        &self,
        request: Request<NotifyClientTerminationRequest>,
    ) -> Result<Response<NotifyClientTerminationResponse>, Status> {
        answer!(self, request, heartbeat::leave, NotifyClientTerminationResponse)
    }

    async fn change_invisible_duration(
        &self,
        request: Request<ChangeInvisibleDurationRequest>,
    ) -> Result<Response<ChangeInvisibleDurationResponse>, Status> {
        answer!(self, request, invisible::change, ChangeInvisibleDurationResponse)
    }

    async fn recall_message(
        &self,
        request: Request<RecallMessageRequest>,
    ) -> Result<Response<RecallMessageResponse>, Status> {
        answer!(self, request, recall::recall, RecallMessageResponse)
    }

    async fn sync_lite_subscription(
        &self,
        _: Request<SyncLiteSubscriptionRequest>,
    ) -> Result<Response<SyncLiteSubscriptionResponse>, Status> {
        Err(unserved("SyncLiteSubscription"))
    }
}
