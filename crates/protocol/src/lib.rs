//! RocketMQ wire formats: pure codecs without I/O.
