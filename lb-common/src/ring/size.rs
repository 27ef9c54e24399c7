//! How many slots a ring has where the operator doesn't say.

/// The most slots of a ring.
pub const MAX_SIZE: u32 = 1_048_573;

/// Slots of all rings together: 4 GiB of them, twice what 4,096 rings of the default size have.
pub const MAX_SLOTS: u64 = 1 << 29;

/// Primes just below or above powers of two. The smallest is what 655 backends need: a service that
/// grows up to there keeps its ring's size, which not every flow survives a change of.
const SIZES: [u32; 5] = [65_537, 131_071, 262_139, 524_287, MAX_SIZE];

/// Slots of a new ring of that many backends: a prime, at least 100 slots a backend, so that rounding
/// gives nobody of average weight more than 1 % above its share. More than 10,485 backends get
/// [`MAX_SIZE`].
pub fn default_size(backends: usize) -> u32 {
    let enough = |&size: &u32| size as usize / 100 >= backends;
    SIZES.into_iter().find(enough).unwrap_or(MAX_SIZE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_primes() {
        for size in SIZES {
            let divisor = (2..).take_while(|divisor| divisor * divisor <= size);
            assert!(divisor.into_iter().all(|divisor| size % divisor != 0), "{size}");
        }
    }

    #[test]
    fn grows_with_the_backends() {
        assert_eq!(default_size(0), 65_537);
        assert_eq!(default_size(655), 65_537);
        assert_eq!(default_size(656), 131_071);
        assert_eq!(default_size(10_485), MAX_SIZE);
        assert_eq!(default_size(usize::MAX), MAX_SIZE);
    }
}
