//! The broker's management side over real sockets: clients and their groups, order locks, topics, groups, registration.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod clients;
mod figures;
mod limits;
mod registration;
mod support;
mod tables;
