//! The wall clock. Every time stamp of a message, a file or a lease comes through here, so that a test or a simulation can
//! reason about one place. Durations are measured with `std::time::Instant`, never with this.

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970-01-01 UTC; 0 if the machine's clock stands before that.
#[allow(clippy::disallowed_methods, reason = "this is the door clippy.toml points to")]
pub fn now_millis() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_clock_stands_after_2020_and_does_not_jump() {
        let first = super::now_millis();
        assert!(first > 1_577_836_800_000);
        assert!(super::now_millis() - first < 60_000);
    }
}
