//! The proxy in front of a broker, as clients see it from outside.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod access;
mod bench;
mod certificate;
mod cluster;
mod given_up;
mod http_bodies;
mod input;
mod limits;
mod lite;
mod offsets;
mod questions;
mod relay;
mod remoting_tls;
mod tls_mode;
mod wire;

/// The generated server, which no test uses, names it.
mod codec {
    pub use tonic_prost::ProstCodec as SmallCodec;
}

/// What `proto/` becomes, for a client.
mod pb {
    #![allow(clippy::all, clippy::allow_attributes_without_reason, dead_code, reason = "generated")]
    tonic::include_proto!("apache.rocketmq.v2");
}
