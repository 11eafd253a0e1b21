//! What calls may take before they are whole: bytes, time and number, over all connections.
//!
//! A call that would go beyond ends with gRPC's own RESOURCE_EXHAUSTED or DEADLINE_EXCEEDED, since there is no request yet
//! that an answer could belong to. The others are not held up by it. So ends a call whose client waits no longer, by what
//! it has said itself, while it waits for messages or for the rest of its request: most clients give it up then, and those
//! that are gone never will. Other calls are soon over by themselves, since what they ask brokers has a limit of time.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http_body::Frame;
use hyper::body::Incoming;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{Body as HttpBody, BoxFuture, Bytes, Service as _, StdError, http};

use crate::call;
use crate::pb::messaging_service_server::MessagingServiceServer;
use crate::service::{Connected, Service};
use crate::sliced::Sliced;
use crate::tls::Ends;

/// Most calls at the same time, of all connections; a telemetry stream is one for as long as it is open.
const MAX_CALLS: usize = 200_000;
/// Most bytes of requests that are being read or served.
const MAX_BYTES: usize = 512 * 1024 * 1024;
/// How long a request may take from its first byte to its last.
const WHOLE_WITHIN: Duration = Duration::from_secs(30);
/// The call whose requests come at any time.
const TALK: &str = "/apache.rocketmq.v2.MessagingService/Telemetry";
/// The calls that wait for messages.
const WAITING: [&str; 2] =
    ["/apache.rocketmq.v2.MessagingService/ReceiveMessage", "/apache.rocketmq.v2.MessagingService/PullMessage"];

/// What all calls together take.
struct Taken {
    calls: Arc<Semaphore>,
    bytes: AtomicUsize,
}

/// The service behind these bounds.
#[derive(Clone)]
pub(crate) struct Bounded {
    service: Arc<Service>,
    taken: Arc<Taken>,
    max_message: usize,
}

impl Bounded {
    /// `max_message`: largest message, bytes (`grpcMaxInboundMessageSize`).
    pub fn new(service: Arc<Service>, max_message: usize) -> Self {
        let taken = Taken { calls: Arc::new(Semaphore::new(MAX_CALLS)), bytes: AtomicUsize::new(0) };
        Bounded { service, taken: Arc::new(taken), max_message }
    }

    /// The calls of one connection.
    pub fn connected(self, ends: Ends) -> Calls {
        let connected = Connected::new(Arc::clone(&self.service), ends);
        // Lengths are looked at here, before anything is set aside for them.
        let calls = MessagingServiceServer::new(connected)
            .max_decoding_message_size(usize::MAX)
            .max_encoding_message_size(usize::MAX);
        Calls { calls, bounds: self }
    }

    /// Returns when the proxy stops.
    pub async fn stopping(&self) {
        // An error means that the proxy is gone.
        let _ = self.service.stopped.clone().wait_for(|stopped| *stopped).await;
    }
}

/// The calls of one connection.
pub(crate) struct Calls {
    calls: MessagingServiceServer<Connected>,
    bounds: Bounded,
}

impl hyper::service::Service<http::Request<Incoming>> for Calls {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn call(&self, request: http::Request<Incoming>) -> Answering {
        let Bounded { taken, max_message, .. } = &self.bounds;
        let Ok(place) = Arc::clone(&taken.calls).try_acquire_owned() else {
            let status = Status::resource_exhausted(format!("{MAX_CALLS} calls are served already"));
            let answer = Box::pin(std::future::ready(Ok(status.into_http())));
            return Answering { answer, timeout: None, over: None, in_pieces: false, _held: None };
        };
        let held = Arc::new(Held { taken: Arc::clone(taken), bytes: AtomicUsize::new(0), _place: place });
        let path = request.uri().path();
        let (talks, waits) = (path == TALK, WAITING.contains(&path));
        let timeout = request.headers().get("grpc-timeout").and_then(|text| call::timeout(text.to_str().ok()?));
        // A conversation looks after its own end.
        let within = timeout.filter(|_| !talks).map_or(WHOLE_WITHIN, |timeout| timeout.min(WHOLE_WITHIN));
        let request = request.map(|body| Inbound::new(body, Arc::clone(&held), *max_message, talks, within));
        // Most clients say a time with each call: only those that wait for messages pay for a timer.
        let timeout = timeout.filter(|_| waits);
        let answer = self.calls.clone().call(request);
        Answering { answer, timeout, over: None, in_pieces: waits, _held: Some(held) }
    }
}

/// The answer to a call, with what the call takes until then.
pub(crate) struct Answering {
    answer: BoxFuture<http::Response<Body>, Infallible>,
    /// How long the client waits for messages, when it says so.
    timeout: Option<Duration>,
    /// The end of that, when there are none at once.
    over: Option<Pin<Box<Sleep>>>,
    /// The answer may be of any size.
    in_pieces: bool,
    _held: Option<Arc<Held>>,
}

impl Future for Answering {
    type Output = Result<http::Response<Body>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(answer) = self.answer.as_mut().poll(cx) {
            let sliced = |answer: http::Response<Body>| answer.map(|body| Body::new(Sliced::new(body)));
            return Poll::Ready(if self.in_pieces { answer.map(sliced) } else { answer });
        }
        let Some(timeout) = self.timeout else { return Poll::Pending };
        let over = self.over.get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
        ready!(over.as_mut().poll(cx));
        // The call ends here, as if it had been given up: what waits at the broker is taken back.
        Poll::Ready(Ok(call::too_late(timeout).into_http()))
    }
}

/// What one call takes, until it is answered and read.
struct Held {
    taken: Arc<Taken>,
    bytes: AtomicUsize,
    _place: OwnedSemaphorePermit,
}

impl Held {
    fn take(&self, bytes: usize) -> Result<(), Status> {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        match self.taken.bytes.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes) {
            all if all > MAX_BYTES => Err(Status::resource_exhausted(format!(
                "requests of more than {MAX_BYTES} bytes are being served; try again"
            ))),
            _ => Ok(()),
        }
    }

    fn give_back(&self) {
        self.taken.bytes.fetch_sub(self.bytes.swap(0, Ordering::Relaxed), Ordering::Relaxed);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.give_back();
    }
}

/// The bytes of a call's requests, as they come.
struct Inbound<B> {
    body: B,
    held: Arc<Held>,
    max_message: usize,
    talks: bool,
    /// How long a request may take.
    within: Duration,
    at: Framing,
    /// Runs while a request is under way and has to be waited for.
    patience: Option<Pin<Box<Sleep>>>,
}

impl<B> Inbound<B> {
    fn new(body: B, held: Arc<Held>, max_message: usize, talks: bool, within: Duration) -> Self {
        Inbound { body, held, max_message, talks, within, at: Framing::default(), patience: None }
    }

    fn take(&mut self, data: &[u8]) -> Result<(), Status> {
        self.held.take(data.len())?;
        self.at.advance(data, self.max_message)?;
        if self.talks && self.at.is_between() {
            self.held.give_back();
            self.patience = None;
        }
        Ok(())
    }
}

impl<B> HttpBody for Inbound<B>
where
    B: HttpBody<Data = Bytes, Error: Into<StdError>> + Unpin,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let me = self.get_mut();
        match Pin::new(&mut me.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                let taken = frame.data_ref().map_or(Ok(()), |data| me.take(data));
                Poll::Ready(Some(taken.map(|()| frame)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(Status::from_error(error.into())))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending if !(me.talks && me.at.is_between()) => {
                let within = me.within;
                let patience = me.patience.get_or_insert_with(|| Box::pin(tokio::time::sleep(within)));
                patience.as_mut().poll(cx).map(|()| {
                    Some(Err(Status::deadline_exceeded(format!("the request was not whole within {within:?}"))))
                })
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

/// Where a stream of messages stands. Before each are five bytes, the last four of them its length.
#[derive(Default)]
struct Framing {
    head: [u8; 5],
    /// Bytes of the head that are there.
    have: usize,
    /// Bytes of the message that are to come.
    left: usize,
}

impl Framing {
    fn is_between(&self) -> bool {
        self.have == 0
    }

    fn advance(&mut self, mut data: &[u8], max_message: usize) -> Result<(), Status> {
        while !data.is_empty() {
            if self.have < self.head.len() {
                let part = data.len().min(self.head.len() - self.have);
                self.head[self.have..self.have + part].copy_from_slice(&data[..part]);
                self.have += part;
                data = &data[part..];
                let [_, length @ ..] = self.head;
                self.left = u32::from_be_bytes(length) as usize;
                if self.have == self.head.len() && self.left > max_message {
                    let why = format!("a message of {} bytes is larger than {max_message}", self.left);
                    return Err(Status::resource_exhausted(why));
                }
            } else {
                let part = data.len().min(self.left);
                self.left -= part;
                data = &data[part..];
            }
            if self.have == self.head.len() && self.left == 0 {
                self.have = 0;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use tonic::Code;

    /// A client that sends what it has and then nothing more.
    struct Stalled(Vec<Bytes>);

    impl HttpBody for Stalled {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            match self.0.pop() {
                Some(data) => Poll::Ready(Some(Ok(Frame::data(data)))),
                None => Poll::Pending,
            }
        }
    }

    fn taken(calls: usize) -> Arc<Taken> {
        Arc::new(Taken { calls: Arc::new(Semaphore::new(calls)), bytes: AtomicUsize::new(0) })
    }

    fn inbound(taken: &Arc<Taken>, data: &[u8], talks: bool) -> Inbound<Stalled> {
        let place = Arc::clone(&taken.calls).try_acquire_owned().unwrap();
        let held = Held { taken: Arc::clone(taken), bytes: AtomicUsize::new(0), _place: place };
        let body = Stalled(vec![Bytes::copy_from_slice(data)]);
        Inbound::new(body, Arc::new(held), 100, talks, WHOLE_WITHIN)
    }

    async fn next(body: &mut Inbound<Stalled>) -> Option<Result<Frame<Bytes>, Status>> {
        poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await
    }

    #[test]
    fn messages_are_told_apart_wherever_they_are_cut() {
        let two = [0, 0, 0, 0, 3, 1, 2, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 9];
        let ends = [8, 13, 19];
        for cut in 0..=two.len() {
            let mut at = Framing::default();
            at.advance(&two[..cut], 100).unwrap();
            assert_eq!(at.is_between(), cut == 0 || ends.contains(&cut), "{cut}");
            at.advance(&two[cut..], 100).unwrap();
            assert!(at.is_between(), "{cut}");
        }
        let status = Framing::default().advance(&[0, 255, 255, 255, 255], 100).unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_is_not_whole_in_time_is_given_up_and_what_it_took_is_free() {
        let taken = taken(1);
        let mut body = inbound(&taken, &[0, 0, 0, 0, 50, 1, 2], false);
        assert!(next(&mut body).await.unwrap().is_ok());
        assert_eq!(taken.bytes.load(Ordering::Relaxed), 7);
        assert_eq!(next(&mut body).await.unwrap().unwrap_err().code(), Code::DeadlineExceeded);
        drop(body);
        assert_eq!(taken.bytes.load(Ordering::Relaxed), 0);
        assert_eq!(taken.calls.available_permits(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_waits_for_messages_ends_at_its_deadline() {
        let timeout = Duration::from_secs(6);
        let answer = Box::pin(std::future::pending());
        let answering = Answering { answer, timeout: Some(timeout), over: None, in_pieces: true, _held: None };
        let answer = tokio::time::timeout(2 * timeout, answering).await.expect("it goes on").unwrap();
        assert_eq!(answer.headers()["grpc-status"], (Code::DeadlineExceeded as i32).to_string().as_str());
    }

    #[tokio::test(start_paused = true)]
    async fn a_conversation_may_be_silent_between_requests() {
        let taken = taken(1);
        let mut body = inbound(&taken, &[0, 0, 0, 0, 1, 1], true);
        assert!(next(&mut body).await.unwrap().is_ok());
        assert_eq!(taken.bytes.load(Ordering::Relaxed), 0, "it is read and done with");
        let silence = tokio::time::timeout(100 * WHOLE_WITHIN, next(&mut body)).await;
        assert!(silence.is_err(), "{silence:?}");
    }

    #[tokio::test]
    async fn bytes_beyond_the_bound_are_refused() {
        let taken = taken(1);
        taken.bytes.store(MAX_BYTES - 3, Ordering::Relaxed);
        let mut body = inbound(&taken, &[0, 0, 0, 0, 1, 1], false);
        assert_eq!(next(&mut body).await.unwrap().unwrap_err().code(), Code::ResourceExhausted);
        drop(body);
        assert_eq!(taken.bytes.load(Ordering::Relaxed), MAX_BYTES - 3);
    }
}
