//! What a pop hands out.

/// What a pop handed out. The records are in the caller's buffer.
#[derive(Debug, Default)]
pub(crate) struct Popped {
    pub count: u32,
    /// Milliseconds since 1970.
    pub pop_time: i64,
    pub revive_queue: i32,
    /// Messages that are left behind the group's offsets.
    pub rest: i64,
    pub start_offset_info: String,
    pub msg_offset_info: String,
    pub order_count_info: String,
    /// When the first queue that an ordered pop could not touch may be popped again, or the group may read again,
    /// milliseconds since 1970.
    pub blocked_until: Option<i64>,
}

impl Popped {
    /// It is worth another look at `at`, milliseconds since 1970.
    pub fn look_again(&mut self, at: i64) {
        self.blocked_until = Some(self.blocked_until.map_or(at, |other| other.min(at)));
    }
}
