//! What `proto/` becomes.
#![allow(clippy::all, clippy::allow_attributes_without_reason, missing_docs, reason = "generated")]

tonic::include_proto!("apache.rocketmq.v2");
