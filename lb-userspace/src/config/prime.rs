//! Primes, for ring sizes.

/// Most slots that a ring may have: the largest prime below 2^20.
pub(super) const LARGEST: u32 = 1_048_573;

/// Trial division: at most 512 steps for a ring's size.
pub(super) fn is_prime(number: u32) -> bool {
    number == 2
        || number > 2
            && !number.is_multiple_of(2)
            && (3..).step_by(2).take_while(|d| d * d <= number).all(|d| !number.is_multiple_of(d))
}

/// The nearest primes below and above `number` that a ring may have as its size.
pub(super) fn nearest(number: u32) -> (Option<u32>, Option<u32>) {
    let below = (2..number.min(LARGEST + 1)).rev().find(|&n| is_prime(n));
    let above = (number.saturating_add(1)..=LARGEST).find(|&n| is_prime(n));
    (below, above)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_a_sieve() {
        let mut composite = vec![false; LARGEST as usize + 4];
        composite[..2].fill(true);
        for n in 2..1025 {
            (n * n..composite.len()).step_by(n).for_each(|multiple| composite[multiple] = true);
        }
        for (number, composite) in (0..).zip(composite) {
            assert_eq!(is_prime(number), !composite, "{number}");
        }
    }

    #[test]
    fn nearest_stays_in_range() {
        assert_eq!(nearest(65536), (Some(65521), Some(65537)));
        assert_eq!(nearest(0), (None, Some(2)));
        assert_eq!(nearest(2), (None, Some(3)));
        assert_eq!(nearest(LARGEST), (Some(1_048_571), None));
        assert_eq!(nearest(u32::MAX), (Some(LARGEST), None));
    }
}
