//! Who calls: the metadata and the connection of one request.

use std::sync::Arc;
use std::time::Duration;

use ferromq_protocol::version::{language, language_number};
use ferromq_remoting::LocalPeer;
use tonic::Status;
use tonic::metadata::MetadataMap;

use crate::credential::Credential;
use crate::pb::{Address, AddressScheme, Code, Endpoints};
use crate::status::Refused;
use crate::tls::Ends;

/// Longest client id, bytes.
const MAX_CLIENT_ID_BYTES: usize = 255;
/// A gRPC call waits at least so long for messages, milliseconds (`grpcClientConsumerMinLongPollingTimeoutMillis`).
const LEAST_WAIT_MS: i64 = 5_000;
/// Longest time after which a call is ended.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

/// The caller of one request.
#[derive(Clone)]
pub(crate) struct Caller {
    pub client_id: String,
    /// Who it says it is; HTTP clients cannot say it.
    pub credential: Credential,
    /// Language byte of remoting headers.
    pub language: u8,
    pub ends: Ends,
    /// What the broker of this process knows the connection as.
    pub peer: Option<Arc<LocalPeer>>,
    /// How long the client waits for an answer, when it says so.
    pub timeout: Option<Duration>,
    /// The least time a call waits for messages, milliseconds.
    pub least_wait_ms: i64,
}

impl Caller {
    /// Reads the headers of a request that came over a connection; without `x-mq-client-id` nothing is served.
    pub fn read(metadata: &MetadataMap, ends: Ends, peer: Option<Arc<LocalPeer>>) -> Result<Self, Refused> {
        let text = |name| metadata.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let client_id = text("x-mq-client-id");
        if client_id.is_empty() || client_id.len() > MAX_CLIENT_ID_BYTES {
            let why = format!("client id (x-mq-client-id) must have 1 to {MAX_CLIENT_ID_BYTES} bytes");
            return Err(Refused::new(Code::ClientIdRequired, why));
        }
        Ok(Caller {
            client_id: client_id.to_owned(),
            credential: Credential::of(metadata),
            language: language_byte(text("x-mq-language")),
            ends,
            peer,
            timeout: timeout(text("grpc-timeout")),
            least_wait_ms: LEAST_WAIT_MS,
        })
    }

    /// The caller of an HTTP request.
    pub fn of_http(ends: Ends, client_id: String) -> Self {
        let credential = Credential::Nobody;
        Caller { client_id, credential, language: language::HTTP, ends, peer: None, timeout: None, least_wait_ms: 0 }
    }

    /// The address at which the client itself has reached us.
    pub fn reached(&self) -> Endpoints {
        let local = self.ends.local;
        let scheme = if local.is_ipv4() { AddressScheme::IPv4 } else { AddressScheme::IPv6 };
        let address = Address { host: local.ip().to_string(), port: local.port().into() };
        Endpoints { scheme: scheme.into(), addresses: vec![address] }
    }
}

/// RocketMQ's `LanguageCode` of what clients write.
fn language_byte(name: &str) -> u8 {
    let name = match name {
        "GOLANG" => "GO",
        "DOT_NET" => "DOTNET",
        same => same,
    };
    language_number(name.as_bytes())
}

/// `grpc-timeout`: a number of at most 8 digits and a unit. Beyond a day it is none: Java's clients say sixty years for
/// streams that are to stay.
pub(crate) fn timeout(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u64 = number.parse().ok().filter(|_| number.len() <= 8)?;
    let timeout = match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    };
    Some(timeout).filter(|timeout| *timeout <= LONGEST_TIMEOUT)
}

/// How a call ends that takes longer than its client waits.
pub(crate) fn too_late(timeout: Duration) -> Status {
    Status::deadline_exceeded(format!("the client waits no longer than {timeout:?}, as its grpc-timeout says"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::Who;

    #[test]
    fn timeouts_have_a_unit() {
        assert_eq!(timeout("3S"), Some(Duration::from_secs(3)));
        assert_eq!(timeout("86400000m"), Some(Duration::from_secs(86_400)));
        for none in ["", "S", "3", "3x", "-1S", "123456789S", "é", "86401S", "31536000M"] {
            assert_eq!(timeout(none), None, "{none}");
        }
    }

    #[test]
    fn the_log_has_the_access_key_and_never_the_signature() {
        let mut metadata = MetadataMap::new();
        metadata.insert("x-mq-client-id", "client".parse().unwrap());
        metadata.insert("x-mq-date-time", "20260801T120000Z".parse().unwrap());
        metadata.insert("authorization", "MQv2-HMAC-SHA1 Credential=reader, Signature=C0FFEE".parse().unwrap());
        let ends = Ends { peer: "10.0.0.1:4711".parse().unwrap(), local: "10.0.0.2:8081".parse().unwrap() };
        let caller = Caller::read(&metadata, ends, None).unwrap();
        assert_eq!(Who(Some(&caller)).to_string(), "client at 10.0.0.1:4711 as reader");
    }
}
