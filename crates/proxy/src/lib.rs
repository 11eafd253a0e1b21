//! The second protocol: `rocketmq.v2` over gRPC, in front of the broker of this process (RocketMQ 5.5's proxy in local
//! mode).
//!
//! # Layout
//! - `server.rs`: listener, threads and end; `tls.rs`: TLS and plaintext on one port.
//! - `service.rs`: every call on one page; `rpc/`: one file for each, or for each family.
//! - `door.rs`: the way into the broker: remoting requests on the caller's thread, without a socket.
//! - `clients.rs`: who is connected, and what the broker asks them; `settings.rs`: what clients are told to do.
//! - `message.rs`: stored records as gRPC messages; `handle.rs`: receipt handles; `renewal.rs`: handles kept alive.
//! - `names.rs`, `status.rs`, `call.rs`: names, outcomes, and who calls.

mod call;
mod clients;
mod door;
mod handle;
mod message;
mod names;
mod pb;
mod renewal;
mod rpc;
mod server;
mod service;
mod settings;
mod status;
mod tls;

pub use server::{Proxy, ProxyConfig, StartError};
