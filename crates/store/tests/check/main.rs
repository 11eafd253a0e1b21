//! The check of a stopped store: a healthy one has no findings, and damage of every kind is found where it is.
#![allow(clippy::unwrap_used, reason = "a test says by panicking what is wrong")]

#[path = "../common/mod.rs"]
mod common;
mod damage;
mod findings;
mod rebuild;
mod support;
