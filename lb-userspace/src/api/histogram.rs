//! How often something took how long.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Upper bounds of the buckets in seconds.
const BOUNDS: [f64; 10] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0];

/// Durations, counted by how long they are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Histogram {
    /// How many there were, those above the last bucket's bound too.
    pub count: u64,
    /// All of them together.
    pub sum_seconds: f64,
    /// From the shortest to the longest.
    pub buckets: Vec<Bucket>,
}

/// Durations of about the same length.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bucket {
    /// None is longer; those that the bucket before counts are not in this one.
    pub at_most_seconds: f64,
    /// How many there were.
    pub count: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        let buckets = BOUNDS.map(|at_most_seconds| Bucket { at_most_seconds, count: 0 });
        Self { count: 0, sum_seconds: 0.0, buckets: buckets.into() }
    }
}

impl Histogram {
    /// Counts one more.
    pub fn observe(&mut self, took: Duration) {
        let seconds = took.as_secs_f64();
        self.count += 1;
        self.sum_seconds += seconds;
        if let Some(bucket) = self.buckets.iter_mut().find(|b| seconds <= b.at_most_seconds) {
            bucket.count += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_duration_is_in_one_bucket_or_beyond_them() {
        let mut histogram = Histogram::default();
        for micros in [0, 500, 501, 10_000, 1_000_000, 1_000_001] {
            histogram.observe(Duration::from_micros(micros));
        }
        let counts: Vec<_> = histogram.buckets.iter().map(|bucket| bucket.count).collect();
        assert_eq!(counts, [2, 1, 0, 0, 1, 0, 0, 0, 0, 1]);
        assert_eq!(histogram.count, 6);
        assert!((histogram.sum_seconds - 2.011_002).abs() < 1e-9);
    }
}
