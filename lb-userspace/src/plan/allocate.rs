//! Free numbers and free ranges: always the lowest, so that maps stay small.

use std::collections::BTreeSet;

/// Numbers from a first one on.
pub(super) struct Numbers {
    taken: BTreeSet<u32>,
    next: u32,
}

impl Numbers {
    /// All numbers from `first` on but those that are taken.
    pub(super) fn from(first: u32, taken: impl Iterator<Item = u32>) -> Self {
        Self { taken: taken.collect(), next: first }
    }

    /// The lowest free number.
    pub(super) fn take(&mut self) -> u32 {
        while self.taken.contains(&self.next) {
            self.next += 1;
        }
        self.taken.insert(self.next);
        self.next
    }

    /// One more than the highest number taken.
    pub(super) fn end(&self) -> u32 {
        self.taken.last().map_or(0, |highest| highest + 1)
    }
}

/// Ranges of slots.
pub(super) struct Ranges {
    /// Start and end of each, in order; they don't overlap.
    taken: BTreeSet<(u32, u32)>,
}

impl Ranges {
    /// With these starts and lengths taken.
    pub(super) fn with(taken: impl Iterator<Item = (u32, u32)>) -> Self {
        Self { taken: taken.map(|(start, length)| (start, start + length)).collect() }
    }

    /// Start of the first free range of that length.
    pub(super) fn take(&mut self, length: u32) -> u32 {
        let mut start = 0;
        for &(taken, end) in &self.taken {
            if taken - start >= length {
                break;
            }
            start = end;
        }
        self.taken.insert((start, start + length));
        start
    }

    /// One more than the highest slot taken.
    pub(super) fn end(&self) -> u32 {
        self.taken.last().map_or(0, |&(_, end)| end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_fill_gaps_first() {
        let mut numbers = Numbers::from(1, [1, 3].into_iter());
        assert_eq!([numbers.take(), numbers.take(), numbers.take()], [2, 4, 5]);
        assert_eq!(numbers.end(), 6);
    }

    #[test]
    fn ranges_fill_gaps_that_are_long_enough() {
        let mut ranges = Ranges::with([(10, 5), (20, 5)].into_iter());
        assert_eq!([ranges.take(6), ranges.take(5), ranges.take(5)], [0, 15, 25]);
        assert_eq!(ranges.end(), 30);
    }
}
