//! Bit fields carried in headers and records (RocketMQ 5.5 `MessageSysFlag`, `PullSysFlag`, `TopicSysFlag`,
//! `PermName`).

/// Bits of a message's system flag.
pub mod message {
    pub const COMPRESSED: i32 = 1;
    pub const MULTI_TAGS: i32 = 1 << 1;
    pub const TRANSACTION_NOT: i32 = 0;
    pub const TRANSACTION_PREPARED: i32 = 1 << 2;
    pub const TRANSACTION_COMMIT: i32 = 2 << 2;
    pub const TRANSACTION_ROLLBACK: i32 = 3 << 2;
    pub const BORN_HOST_V6: i32 = 1 << 4;
    pub const STORE_HOST_V6: i32 = 1 << 5;
    pub const NEED_UNWRAP: i32 = 1 << 6;
    pub const INNER_BATCH: i32 = 1 << 7;
    pub const COMPRESSION_LZ4: i32 = 1 << 8;
    pub const COMPRESSION_ZSTD: i32 = 2 << 8;
    pub const COMPRESSION_ZLIB: i32 = 3 << 8;
    pub const COMPRESSION_MASK: i32 = 7 << 8;

    /// The two transaction bits: one of the `TRANSACTION_*` values.
    pub fn transaction_value(flag: i32) -> i32 {
        flag & TRANSACTION_ROLLBACK
    }

    /// `flag` with its transaction bits replaced by `value`.
    pub fn reset_transaction_value(flag: i32, value: i32) -> i32 {
        (flag & !TRANSACTION_ROLLBACK) | value
    }
}

/// Bits of a pull request's system flag.
pub mod pull {
    pub const COMMIT_OFFSET: i32 = 1;
    pub const SUSPEND: i32 = 1 << 1;
    pub const SUBSCRIPTION: i32 = 1 << 2;
    pub const CLASS_FILTER: i32 = 1 << 3;
    pub const LITE_PULL: i32 = 1 << 4;
}

/// Bits of a topic's system flag.
pub mod topic {
    pub const UNIT: i32 = 1;
    pub const UNIT_SUB: i32 = 1 << 1;
}

/// Permission bits of topics and brokers.
pub mod perm {
    pub const INHERIT: i32 = 1;
    pub const WRITE: i32 = 1 << 1;
    pub const READ: i32 = 1 << 2;
    pub const PRIORITY: i32 = 1 << 3;

    pub fn is_readable(perm: i32) -> bool {
        perm & READ != 0
    }

    pub fn is_writeable(perm: i32) -> bool {
        perm & WRITE != 0
    }

    pub fn is_inherited(perm: i32) -> bool {
        perm & INHERIT != 0
    }

    /// What `mqadmin` prints, e.g. `RW-`.
    pub fn text(perm: i32) -> String {
        [(READ, 'R'), (WRITE, 'W'), (INHERIT, 'X')]
            .into_iter()
            .map(|(bit, letter)| if perm & bit != 0 { letter } else { '-' })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transaction_bits_are_replaced() {
        let flag = message::COMPRESSED | message::TRANSACTION_PREPARED | message::INNER_BATCH;
        let commit = message::reset_transaction_value(flag, message::TRANSACTION_COMMIT);
        assert_eq!(message::transaction_value(commit), message::TRANSACTION_COMMIT);
        assert_eq!(commit & !message::TRANSACTION_ROLLBACK, message::COMPRESSED | message::INNER_BATCH);
    }

    #[test]
    fn permissions_read_as_mqadmin_prints_them() {
        assert_eq!(perm::text(6), "RW-");
        assert_eq!(perm::text(7), "RWX");
        assert_eq!(perm::text(0), "---");
        assert!(perm::is_readable(4) && !perm::is_writeable(4));
    }
}
