//! Bodies of requests: read whole, within limits of size, time and memory, and only as what they say they are.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
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
pub(crate) struct Room(Arc<Semaphore>);

impl Default for Room {
    fn default() -> Self {
        Room(Arc::new(Semaphore::new(ROOM_KIB)))
    }
}

/// A body, and the room it takes while it is held.
pub(crate) struct Held {
    pub bytes: Bytes,
    _room: OwnedSemaphorePermit,
}

impl Room {
    /// Reads a body of at most `limit` bytes.
    pub async fn read(&self, headers: &HeaderMap, body: Incoming, limit: usize) -> Result<Held, Failure> {
        if let Some(encoding) = headers.get(CONTENT_ENCODING) {
            let why = format!("a body is sent as it is, not with Content-Encoding {encoding:?}");
            return Err(Failure::media_type(why));
        }
        let limit = limit.min(ROOM_KIB * 1024);
        let too_large = || Failure::too_large(format!("the body has more than {limit} bytes"));
        let said = body.size_hint();
        if said.lower() > limit as u64 {
            return Err(too_large());
        }
        let most = said.exact().and_then(|said| usize::try_from(said).ok()).unwrap_or(limit);
        let need = u32::try_from(most.div_ceil(1024)).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.0).try_acquire_many_owned(need).map_err(|_| {
            Failure::too_many(format!("bodies under way take all of {} MiB; try again", ROOM_KIB / 1024))
        })?;
        let read = tokio::time::timeout(BODY_LIMIT, Limited::new(body, limit).collect()).await;
        let read = read.map_err(|_| Failure::too_slow(format!("the body did not come within {BODY_LIMIT:?}")))?;
        match read {
            Ok(collected) => Ok(Held { bytes: collected.to_bytes(), _room: room }),
            Err(error) if error.is::<LengthLimitError>() => Err(too_large()),
            Err(error) => Err(Failure::bad_request(format!("the body cannot be read: {error}"))),
        }
    }
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
