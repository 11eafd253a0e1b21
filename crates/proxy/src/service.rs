//! Every call of the protocol on one page. What is not served answers gRPC's UNIMPLEMENTED.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use ferromq_remoting::LocalPeer;
use tokio::sync::watch;
use tokio_stream::Stream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

use crate::access::AccessAddresses;
use crate::call::Caller;
use crate::clients::Clients;
use crate::door::Door;
use crate::observe::{Calls, Node, Outcome, Protocol, Sent, Who};
use crate::pb::messaging_service_server::MessagingService;
use crate::pb::*;
use crate::renewal::Renewals;
use crate::rpc::{
    ack, assignment, dead_letter, end_transaction, heartbeat, invisible, lite, offset, pull, recall, receive, route,
    send, telemetry,
};
use crate::shelf::Shelves;
use crate::status::Refused;
use crate::tls::Ends;

/// What all calls share.
#[derive(Clone)]
pub(crate) struct Service {
    pub door: Door,
    pub clients: Arc<Clients>,
    pub renewals: Arc<Renewals>,
    pub calls: Arc<Calls>,
    /// Answers of many pieces, until they are read.
    pub shelves: Shelves,
    /// What clients are told instead of the address they used.
    access: Option<AccessAddresses>,
    /// True once the proxy stops: streams end then.
    pub stopped: watch::Receiver<bool>,
}

impl Service {
    pub fn new(door: Door, node: Node, access: Option<AccessAddresses>, stopped: watch::Receiver<bool>) -> Self {
        let (clients, renewals) = (Clients::new(door.clone()), Renewals::new(door.clone()));
        let (calls, shelves) = (Arc::new(Calls::new(node)), Shelves::default());
        Service { clients: Arc::new(clients), renewals: Arc::new(renewals), calls, shelves, access, door, stopped }
    }

    /// Where a client is to find the brokers: here. It is told the address it names itself, or has used: whoever comes from
    /// inside and from outside gets on with what has worked.
    pub fn endpoints(&self, caller: &Caller, named: Option<Endpoints>) -> Endpoints {
        match &self.access {
            Some(AccessAddresses(told)) => told.clone(),
            None => named.filter(|named| !named.addresses.is_empty()).unwrap_or_else(|| caller.reached()),
        }
    }
}

/// A call that is being served. Dropped without an answer, it was given up by its client: that has cancelled it, as clients do
/// at a call's deadline, or is gone.
struct UnderWay<'s> {
    calls: &'s Calls,
    /// The name of its answer.
    answer: &'static str,
    /// The answer comes in pieces, for which the call may wait.
    in_pieces: bool,
    began: Instant,
    caller: Result<Caller, Refused>,
    /// The code of its answer, and what became of that.
    outcome: (i32, Sent),
}

impl<'s> UnderWay<'s> {
    fn new(calls: &'s Calls, answer: &'static str, in_pieces: bool, caller: Result<Caller, Refused>) -> Self {
        let outcome = (Code::Unspecified.into(), Sent::Cancelled);
        UnderWay { calls, answer, in_pieces, began: Instant::now(), caller, outcome }
    }

    fn answered(mut self, code: i32) {
        self.outcome = (code, Sent::Success);
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let (code, sent) = self.outcome;
        let call = self.answer.strip_suffix("Response").unwrap_or(self.answer);
        let outcome = Outcome { protocol: Protocol::Grpc, call, code, polls: Some(self.in_pieces), sent };
        self.calls.served(outcome, &Who(self.caller.as_ref().ok()), self.began);
    }
}

/// What the calls of one connection share.
pub(crate) struct Connected {
    service: Arc<Service>,
    ends: Ends,
    peer: Option<Arc<LocalPeer>>,
}

impl Connected {
    pub fn new(service: Arc<Service>, ends: Ends) -> Self {
        Connected { peer: service.door.peer(ends), service, ends }
    }

    /// Who makes a call, by its headers.
    fn caller(&self, metadata: &MetadataMap) -> Result<Caller, Refused> {
        Caller::read(metadata, self.ends, self.peer.clone())
    }
}

pub(crate) type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Serves one call: its outcome stands in the answer's status, whatever it is.
macro_rules! answer {
    ($self:ident, $request:ident, $call:path, $answer:ident) => {{
        let call = UnderWay::new(&$self.service.calls, stringify!($answer), false, $self.caller($request.metadata()));
        let outcome = match &call.caller {
            Ok(caller) => $call(&$self.service, caller, $request.into_inner()).await,
            Err(refused) => Err(refused.clone()),
        };
        let answer = outcome.unwrap_or_else(|refused: Refused| {
            let mut answer = $answer::default();
            answer.status = Some(refused.into());
            answer
        });
        call.answered(answer.status.as_ref().map_or(0, |status| status.code));
        Ok(Response::new(answer))
    }};
}

/// Serves one call whose answer comes in pieces.
macro_rules! answer_in_pieces {
    ($self:ident, $request:ident, $call:path, $nothing:path, $answer:ident) => {{
        let call = UnderWay::new(&$self.service.calls, stringify!($answer), true, $self.caller($request.metadata()));
        let outcome = match &call.caller {
            Ok(caller) => $call(&$self.service, caller, $request.into_inner()).await,
            Err(refused) => Err(refused.clone()),
        };
        call.answered(outcome.as_ref().map_or_else(|refused| refused.code, |_| Code::Ok).into());
        Ok(Response::new(outcome.unwrap_or_else($nothing)))
    }};
}

#[tonic::async_trait]
impl MessagingService for Connected {
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
        answer_in_pieces!(self, request, receive::receive, receive::nothing, ReceiveMessageResponse)
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

    async fn pull_message(
        &self,
        request: Request<PullMessageRequest>,
    ) -> Result<Response<Self::PullMessageStream>, Status> {
        answer_in_pieces!(self, request, pull::pull, pull::nothing, PullMessageResponse)
    }

    async fn update_offset(
        &self,
        request: Request<UpdateOffsetRequest>,
    ) -> Result<Response<UpdateOffsetResponse>, Status> {
        answer!(self, request, offset::update, UpdateOffsetResponse)
    }

    async fn get_offset(&self, request: Request<GetOffsetRequest>) -> Result<Response<GetOffsetResponse>, Status> {
        answer!(self, request, offset::get, GetOffsetResponse)
    }

    async fn query_offset(
        &self,
        request: Request<QueryOffsetRequest>,
    ) -> Result<Response<QueryOffsetResponse>, Status> {
        answer!(self, request, offset::query, QueryOffsetResponse)
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
        let caller = self.caller(request.metadata());
        telemetry::talk(&self.service, caller, request)
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
        request: Request<SyncLiteSubscriptionRequest>,
    ) -> Result<Response<SyncLiteSubscriptionResponse>, Status> {
        answer!(self, request, lite::sync, SyncLiteSubscriptionResponse)
    }
}
