//! Producers and consumers.
