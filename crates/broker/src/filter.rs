//! A consumer's subscription to one topic, compiled for the filter at the broker (tag hashes).
