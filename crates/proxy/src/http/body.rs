//! Bodies of requests: read whole, within limits of size, time and memory, and only as what they say they are.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::HeaderMap;
use hyper::body::{Body, Incoming};
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE};
use serde::de::DeserializeOwned;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::http::answer::Failure;

/// Memory for the bodies of all requests under way, KiB; a larger body than that is taken by nobody.
const ROOM_KIB: usize = 256 * 1024;
/// Time for a body.
const BODY_LIMIT: Duration = Duration::from_secs(30);

/// Memory for bodies.
#[derive(Clone)]
pub(crate) struct Room(Arc<Semaphore>);

/// Room, until it is dropped.
pub(crate) type Taken = OwnedSemaphorePermit;

impl Default for Room {
    fn default() -> Self {
        Room::of_kib(ROOM_KIB)
    }
}

/// A body, and the room it takes while it is held.
pub(crate) struct Held {
    pub bytes: Bytes,
    _room: Taken,
}

impl Room {
    pub fn of_kib(kib: usize) -> Self {
        Room(Arc::new(Semaphore::new(kib)))
    }

    /// So many KiB, if there is room for them now.
    pub fn take(&self, kib: u32) -> Option<Taken> {
        Arc::clone(&self.0).try_acquire_many_owned(kib).ok()
    }

    /// Reads a body of at most `limit` bytes.
    pub async fn read(&self, headers: &HeaderMap, body: Incoming, limit: usize) -> Result<Held, Failure> {
        if let Some(encoding) = headers.get(CONTENT_ENCODING) {
            let why = format!("a body is sent as it is, not with Content-Encoding {encoding:?}");
            return Err(Failure::media_type(why));
        }
        let limit = limit.min(ROOM_KIB * 1024);
        if body.size_hint().lower() > limit as u64 {
            return Err(too_large(limit));
        }
        let read = tokio::time::timeout(BODY_LIMIT, self.collect(body, limit)).await;
        read.map_err(|_| Failure::too_slow(format!("the body did not come within {BODY_LIMIT:?}")))?
    }

    /// Room is taken for what has come: what is only announced is no reason to refuse others.
    async fn collect(&self, mut body: Incoming, limit: usize) -> Result<Held, Failure> {
        let too_many = || Failure::too_many(format!("bodies under way take all of {} MiB; try again", ROOM_KIB / 1024));
        let mut room = self.take(0).ok_or_else(too_many)?;
        // Together: a body may come byte by byte.
        let mut whole = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| Failure::bad_request(format!("the body cannot be read: {error}")))?;
            let Ok(part) = frame.into_data() else { continue };
            let length = whole.len().saturating_add(part.len());
            if length > limit {
                return Err(too_large(limit));
            }
            let need = length.div_ceil(1024).saturating_sub(room.num_permits());
            room.merge(u32::try_from(need).ok().and_then(|need| self.take(need)).ok_or_else(too_many)?);
            whole.extend_from_slice(&part);
        }
        Ok(Held { bytes: whole.into(), _room: room })
    }
}

fn too_large(limit: usize) -> Failure {
    Failure::too_large(format!("the body has more than {limit} bytes"))
}

/// Whether a body says that it is JSON.
pub(crate) fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = value.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
}

/// A JSON object with certain fields.
pub(crate) fn object<T: DeserializeOwned>(text: &[u8]) -> Result<T, Failure> {
    // A list would be read as the fields in their order.
    if text.trim_ascii_start().first() != Some(&b'{') {
        return Err(Failure::bad_request("the body is no JSON object"));
    }
    read(text, "such JSON object")
}

/// A JSON list of strings.
pub(crate) fn list(text: &[u8]) -> Result<Vec<String>, Failure> {
    read(text, "JSON list of strings")
}

fn read<T: DeserializeOwned>(text: &[u8], expected: &str) -> Result<T, Failure> {
    serde_json::from_slice(text).map_err(|error| Failure::bad_request(format!("the body is no {expected}: {error}")))
}
