//! Who a gRPC client says it is, as RocketMQ reads it (`DefaultAuthenticationContextBuilder`):
//! `authorization: MQv2-HMAC-SHA1 Credential=KEY/REGION/SERVICE, SignedHeaders=x-mq-date-time, Signature=HEX`.
//!
//! There is no access control yet: as in RocketMQ with `authenticationEnabled=false` nobody is refused, whatever stands there.
//! The log says who it was, or why RocketMQ would have refused it.

use std::fmt;

use tonic::metadata::MetadataMap;

/// Longest access key that is kept.
const MAX_ACCESS_KEY_BYTES: usize = 255;

/// What a client says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Credential {
    Nobody,
    /// The access key. Its signature is of the right form; nobody has looked whether it is the right one.
    AccessKey(String),
    /// What is wrong, in RocketMQ's words where it has some.
    Malformed(&'static str),
}

impl Credential {
    pub fn of(metadata: &MetadataMap) -> Self {
        let text = |name| metadata.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        match text("authorization") {
            "" => Credential::Nobody,
            _ if text("x-mq-date-time").is_empty() => Credential::Malformed("datetime is null."),
            authorization => parse(authorization).map_or_else(Credential::Malformed, Credential::AccessKey),
        }
    }
}

/// The access key in a header.
fn parse(authorization: &str) -> Result<String, &'static str> {
    let (_, items) = authorization.split_once(' ').ok_or("authentication header is incorrect.")?;
    let (mut key, mut is_signed) = ("", false);
    for item in items.trim_end_matches(',').split(',') {
        let (name, value) =
            item.trim().split_once('=').ok_or("authentication keyValues length is incorrect, actual length=1.")?;
        match name {
            "Credential" => key = value.split('/').next().unwrap_or_default(),
            "Signature" if !is_hex(value) => return Err("create authentication context error."),
            "Signature" => is_signed = true,
            _ => {}
        }
    }
    match key.len() {
        0 => Err("username cannot be null."),
        1..=MAX_ACCESS_KEY_BYTES if is_signed => Ok(key.to_owned()),
        1..=MAX_ACCESS_KEY_BYTES => Err("check signature failed."),
        _ => Err("the access key is too long."),
    }
}

fn is_hex(text: &str) -> bool {
    text.len().is_multiple_of(2) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// As it stands in the log, behind the client.
impl fmt::Display for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Credential::Nobody => Ok(()),
            Credential::AccessKey(key) => write!(f, " as {key}"),
            Credential::Malformed(why) => write!(f, " with a credential that is none ({why})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(authorization: &'static str, time: &'static str) -> Credential {
        let mut metadata = MetadataMap::new();
        for (name, value) in [("authorization", authorization), ("x-mq-date-time", time)] {
            if !value.is_empty() {
                metadata.insert(name, value.parse().unwrap());
            }
        }
        Credential::of(&metadata)
    }

    #[test]
    fn credentials_are_read_as_rocketmq_reads_them() {
        let time = "20260801T120000Z";
        let key = |key: &str| Credential::AccessKey(key.to_owned());
        assert_eq!(of("", time), Credential::Nobody);
        let whole = "MQv2-HMAC-SHA1 Credential=reader/cn/RocketMQ, SignedHeaders=x-mq-date-time, Signature=00fFA1";
        assert_eq!(of(whole, time), key("reader"));
        assert_eq!(of("MQv2-HMAC-SHA1 Signature=,Credential=a=b,", time), key("a=b"));
        for (authorization, why) in [
            ("MQv2-HMAC-SHA1", "authentication header is incorrect."),
            ("MQv2-HMAC-SHA1 Credential", "authentication keyValues length is incorrect, actual length=1."),
            ("MQv2-HMAC-SHA1 Credential=reader, Signature=xyz", "create authentication context error."),
            ("MQv2-HMAC-SHA1 Credential=reader, Signature=abc", "create authentication context error."),
            ("MQv2-HMAC-SHA1 Credential=/cn, Signature=ab", "username cannot be null."),
            ("MQv2-HMAC-SHA1 Signature=ab", "username cannot be null."),
            ("MQv2-HMAC-SHA1 Credential=reader", "check signature failed."),
        ] {
            assert_eq!(of(authorization, time), Credential::Malformed(why), "{authorization}");
        }
        assert_eq!(of(whole, ""), Credential::Malformed("datetime is null."));
        assert_eq!(format!("c{}", of(whole, time)), "c as reader");
    }
}
