//! The Internet checksum (RFC 1071), over sums of 16-bit big-endian words.

/// Folds carries back in, to 16 bits.
#[inline(always)]
pub const fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// Folded sum of an even number of bytes, not inverted.
pub const fn sum(bytes: &[u8]) -> u16 {
    let mut total = 0u32;
    let mut index = 0;
    while index + 1 < bytes.len() {
        total += (bytes[index] as u32) << 8 | bytes[index + 1] as u32;
        index += 2;
    }
    fold(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn example_of_rfc_1071() {
        assert_eq!(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
    }

    #[test]
    fn carries_fold_twice() {
        assert_eq!(fold(0x0001_ffff), 0x0001);
        assert_eq!(fold(0xffff_ffff), 0xffff);
    }
}
