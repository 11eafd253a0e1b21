//! Server-sent events: messages as they come, until the client leaves or the server stops.

use std::sync::Arc;

use hyper::body::Frame;
use serde::Serialize;
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use crate::http::Endpoint;
use crate::http::answer::{self, Answer, Piece};
use crate::http::body::Room;
use crate::http::receive::{Wanted, message};
use crate::pb::ReceiveMessageResponse;
use crate::service::{Answers, Service};
use crate::status::Refused;

/// How long one look for messages waits, milliseconds; afterwards a line tells the client that all is well.
const WAIT_MS: i64 = 10_000;
/// Pieces that wait until the connection takes them.
const AHEAD: usize = 1;

/// The stream begins with a first look: when that is refused, so that its status says so, the answer is like any other.
pub(crate) async fn answer(
    endpoint: &Endpoint,
    wanted: Wanted,
    place: OwnedSemaphorePermit,
) -> Result<Answer, Refused> {
    let mut first = wanted.look(&endpoint.service, 0).await;
    if let Some(status) = first.next().await {
        message(status, &endpoint.unpacked)?;
    }
    let (pieces, taken) = mpsc::channel(AHEAD);
    let (service, unpacked) = (Arc::clone(&endpoint.service), endpoint.unpacked.clone());
    let mut stopped = service.stopped.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = stream((&service, &unpacked), &wanted, first, &pieces) => {}
            () = pieces.closed() => {}
            _ = stopped.wait_for(|stopped| *stopped) => {}
        }
        drop(place);
    });
    Ok(answer::events(ReceiverStream::new(taken)))
}

async fn stream(
    (service, unpacked): (&Service, &Room),
    wanted: &Wanted,
    first: Answers<ReceiveMessageResponse>,
    pieces: &mpsc::Sender<Piece>,
) {
    let mut looked = first;
    loop {
        match pass_on(looked, unpacked, pieces).await {
            Ok(0) => send(pieces, ": no new message\n\n".to_owned()).await,
            Ok(_) => {}
            Err(refused) => {
                let why = json!({ "code": refused.code.as_str_name(), "message": refused.message });
                return send(pieces, event("error", &why)).await;
            }
        }
        looked = wanted.look(service, WAIT_MS).await;
    }
}

/// Passes on what a look has brought, each message when there is room for it; how many there were.
async fn pass_on(
    mut looked: Answers<ReceiveMessageResponse>,
    unpacked: &Room,
    pieces: &mpsc::Sender<Piece>,
) -> Result<usize, Refused> {
    let mut count = 0;
    loop {
        // Without a client there is no room any more, and nobody waits for this.
        let Ok(room) = pieces.reserve().await else { return Ok(count) };
        let Some(piece) = looked.next().await else { return Ok(count) };
        if let Some(message) = message(piece, unpacked)? {
            let text = event("message", &message).into_bytes();
            room.send(Ok(Frame::data(answer::kept(text, message.room.into_iter().collect()))));
            count += 1;
        }
    }
}

async fn send(pieces: &mpsc::Sender<Piece>, text: String) {
    // A client that has gone hears nothing: the stream ends elsewhere.
    let _ = pieces.send(Ok(Frame::data(text.into()))).await;
}

/// JSON has no line break of its own, so that one line takes it.
fn event(name: &str, data: &impl Serialize) -> String {
    let data = serde_json::to_string(data).unwrap_or_default();
    format!("event: {name}\ndata: {data}\n\n")
}
