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

/// What the sum over a word gains where the word changes (RFC 1624 equation 3: `~m + m'`).
#[inline(always)]
pub const fn difference(old: u16, new: u16) -> u32 {
    !old as u32 + new as u32
}

/// What the sum over an address gains where it becomes another one, folded. Addresses of both
/// families, in the form that they share: the word that tells an IPv4 address is 0xffff, which adds
/// nothing to a one's complement sum, so this holds from one family to the other, too.
#[inline(always)]
pub const fn address_difference(old: &[u8; 16], new: &[u8; 16]) -> u32 {
    fold(!(address_sum(old) as u16) as u32 + address_sum(new)) as u32
}

/// Folded sum over an address, by longer words than [`sum`].
#[inline(always)]
pub const fn address_sum(address: &[u8; 16]) -> u32 {
    let [high, low] = halves(address);
    let half = u32::MAX as u64;
    fold_words((high & half) + (high >> 32) + (low & half) + (low >> 32)) as u32
}

/// Folds a sum over 32-bit words as they lie in memory, of which there are less than 2¹⁶, and turns
/// it where that is needed (RFC 1071 section 2).
#[inline(always)]
pub const fn fold_words(sum: u64) -> u16 {
    fold((sum & 0xffff) as u32 + (sum >> 16 & 0xffff) as u32 + (sum >> 32) as u32).to_be()
}

#[inline(always)]
const fn halves(address: &[u8; 16]) -> [u64; 2] {
    let words = u128::from_ne_bytes(*address);
    [(words >> 64) as u64, words as u64]
}

/// A checksum after the sum over what it covers gained that much (RFC 1624 equation 3).
#[inline(always)]
pub const fn updated(checksum: u16, difference: u32) -> u16 {
    !fold(!checksum as u32 + difference)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn example_of_rfc_1071() {
        assert_eq!(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
    }

    /// RFC 1624 section 4: equation 2 gives 0xffff here, which is wrong.
    #[test]
    fn example_of_rfc_1624() {
        assert_eq!(updated(0xdd2f, difference(0x5555, 0x3285)), 0x0000);
    }

    #[test]
    fn addresses_of_both_families_differ_by_their_sums() {
        let v4 = crate::network::mapped([192, 0, 2, 33]);
        let v6: [u8; 16] = core::array::from_fn(|at| at as u8 ^ 0x5a);
        for (old, new) in [(v4, v6), (v6, v4), (v4, v4), (v6, v6)] {
            let gained = address_difference(&old, &new);
            let sum_of = |address: &[u8; 16]| u32::from(sum(address));
            assert_eq!(gained, u32::from(fold(!sum(&old) as u32 + sum_of(&new))));
            let whole = fold(sum_of(&old) + gained);
            assert_eq!(whole % 0xffff, (sum_of(&new) % 0xffff) as u16);
        }
    }

    #[test]
    fn carries_fold_twice() {
        assert_eq!(fold(0x0001_ffff), 0x0001);
        assert_eq!(fold(0xffff_ffff), 0xffff);
    }
}
