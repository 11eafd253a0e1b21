//! The Broker.
