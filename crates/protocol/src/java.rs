//! Values that Java computes its own way and that are part of a format: string hashes and checksums.

/// Java's `String.hashCode` of `text`: over UTF-16 units, wrapping. It is the tag hash of consume queues (sign-extended
/// to 64 bits there), the key hash of the index and the `codeSet` of subscriptions.
pub fn string_hash(text: &str) -> i32 {
    if text.is_ascii() {
        text.bytes().fold(0_i32, |hash, byte| hash.wrapping_mul(31).wrapping_add(i32::from(byte)))
    } else {
        text.encode_utf16().fold(0_i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)))
    }
}

/// CRC-32 with the sign bit cleared, as RocketMQ stores it (`UtilAll.crc32`).
#[inline]
pub fn crc32(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes) & 0x7FFF_FFFF
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_as_java_does() {
        assert_eq!(string_hash(""), 0);
        assert_eq!(string_hash("TagA"), 2_598_919);
        assert_eq!(string_hash("Aa"), string_hash("BB"));
        assert_eq!(string_hash("polygenelubricants"), i32::MIN);
        // U+4E2D U+6587, and a surrogate pair: 0xD83D * 31 + 0xDE00
        assert_eq!(string_hash("中文"), 0x4E2D * 31 + 0x6587);
        assert_eq!(string_hash("😀"), 0xD83D * 31 + 0xDE00);
    }

    #[test]
    fn crc_has_no_sign_bit() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926 & 0x7FFF_FFFF);
        assert_eq!(crc32(b""), 0);
    }
}
