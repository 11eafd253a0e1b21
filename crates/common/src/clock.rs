//! The wall clock. Every time stamp of a message, a file or a lease comes through here, so that a test or a simulation can
//! reason about one place. Durations are measured with `std::time::Instant`, never with this.

use std::time::{SystemTime, UNIX_EPOCH};

use tz::TimeZone;

/// Milliseconds since 1970-01-01 UTC; 0 if the machine's clock stands before that.
#[allow(clippy::disallowed_methods, reason = "this is the door clippy.toml points to")]
pub fn now_millis() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

/// Hour of the day, 0 to 23, where the machine stands (`TZ`, else `/etc/localtime`); in UTC where neither can be read.
pub fn local_hour() -> u32 {
    let now = now_millis() / 1000;
    let zone = TimeZone::local().unwrap_or_else(|_| TimeZone::utc());
    hour_at(now, zone.find_local_time_type(now).map_or(0, |local| local.ut_offset()))
}

fn hour_at(unix_seconds: i64, ut_offset_seconds: i32) -> u32 {
    ((unix_seconds + i64::from(ut_offset_seconds)).rem_euclid(86_400) / 3600) as u32
}

#[cfg(test)]
mod tests {
    #[test]
    fn hours_count_from_local_midnight() {
        let day = 86_400 * 19_000;
        assert_eq!((super::hour_at(day, 0), super::hour_at(day + 3599, 0), super::hour_at(day + 3600, 0)), (0, 0, 1));
        assert_eq!(
            (super::hour_at(day, 8 * 3600), super::hour_at(day, -3600), super::hour_at(day, 20_700)),
            (8, 23, 5)
        );
        assert!(super::local_hour() < 24);
    }

    #[test]
    fn the_clock_stands_after_2020_and_does_not_jump() {
        let first = super::now_millis();
        assert!(first > 1_577_836_800_000);
        assert!(super::now_millis() - first < 60_000);
    }
}
