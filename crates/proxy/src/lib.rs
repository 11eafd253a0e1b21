//! The second protocol: `rocketmq.v2` over gRPC, in front of the broker of this process or of a cluster (RocketMQ 5.5's
//! proxy in local and in cluster mode), and the same calls over plain HTTP for every other language.
//!
//! # Layout
//! - `server.rs`: listener, threads and end; `tls.rs`: TLS and plaintext on one port, `unsealed.rs`: on that of remoting
//!   clients; `certificate.rs`: files that may change; `inbound.rs`: what calls may take; `patient.rs`: peers that have to
//!   read;
//!   `shelf.rs`: answers that are not read; `commands.rs`: nor what clients are asked.
//! - `service.rs`: every call on one page; `rpc/`: one file for each, or for each family.
//! - `door.rs`: the way into brokers; `cluster.rs`: those that NameServers know, `topic.rs`: which of them gets a message.
//! - `clients.rs`: who is connected, and what brokers ask them; `member.rs`: what brokers know of them; `questions.rs`:
//!   what tools ask; `settings.rs`: what clients are told to do.
//! - `broadcast.rs`: groups of which each client gets every message.
//! - `message.rs`: stored records as gRPC messages; `handle.rs`: receipt handles; `renewal.rs`: handles kept alive.
//! - `http.rs`, `http/`: the same calls for whoever speaks plain HTTP.
//! - `relay.rs`, `relay/`: remoting clients that know the proxy only, in front of a cluster.
//! - `names.rs`, `status.rs`, `call.rs`, `access.rs`: names, outcomes, who calls, and what addresses they are told;
//!   `credential.rs`: who they say they are; `codec.rs`: how much memory a call holds.

mod access;
mod broadcast;
mod call;
mod certificate;
mod clients;
mod cluster;
mod codec;
mod commands;
mod credential;
mod door;
mod handle;
mod http;
mod inbound;
mod member;
mod message;
mod names;
mod observe;
mod patient;
mod pb;
mod questions;
mod relay;
mod renewal;
mod rpc;
mod server;
mod service;
mod settings;
mod shelf;
mod sliced;
mod status;
mod tls;
mod topic;
mod unsealed;

pub use access::AccessAddresses;
pub use certificate::{CertificateFiles, TlsError};
pub use cluster::ClusterConfig;
pub use observe::Node;
pub use relay::RemotingDoor;
pub use server::{Proxy, ProxyConfig, StartError};
pub use tls::TlsMode;
