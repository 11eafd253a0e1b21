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
    /// When another look is worth it at the earliest, milliseconds since 1970: an ordered pop may touch the first queue again,
    /// the group may read again, a queue has messages behind those that the filter passed by.
    pub blocked_until: Option<i64>,
}

impl Popped {
    /// It is worth another look at `at`, milliseconds since 1970.
    pub fn look_again(&mut self, at: i64) {
        self.blocked_until = Some(self.blocked_until.map_or(at, |other| other.min(at)));
    }
}
