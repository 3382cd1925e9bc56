//! A histogram of durations that costs whoever adds to it two atomic additions, and no lock.
//!
//! Its bounds are the same for all, so that what is slow in one place can be compared with another. A snapshot that is
//! taken while others add may have the last durations in its sum and not yet in a bucket, or the other way round.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The upper bounds of the buckets, in microseconds; a last bucket has none. From the answer out of memory to the
/// longest that a read waits; each is two to three times the one before, where two kinds of answers must be told apart,
/// and five times elsewhere.
pub const BOUNDS_US: [u64; 15] = [
    10,
    25,
    50,
    100,
    500,
    1_000,
    5_000,
    10_000,
    50_000,
    100_000,
    500_000,
    1_000_000,
    5_000_000,
    20_000_000,
    100_000_000,
];

const BUCKETS: usize = BOUNDS_US.len() + 1;

/// See the module's text.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    sum_ns: AtomicU64,
}

/// What a histogram held at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Observed {
    /// How many durations there are in each bucket, and in no other; the last one is that without a bound.
    pub buckets: [u64; BUCKETS],
    /// All durations together.
    pub sum: Duration,
}

impl Histogram {
    /// Without any durations.
    #[must_use]
    pub const fn new() -> Self {
        Self { buckets: [const { AtomicU64::new(0) }; BUCKETS], sum_ns: AtomicU64::new(0) }
    }

    /// Adds `duration`.
    pub fn add(&self, duration: Duration) {
        let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        // Most are short, so that looking from the start is fastest.
        let bucket = BOUNDS_US.iter().position(|bound| ns <= bound * 1000).unwrap_or(BUCKETS - 1);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_ns.fetch_add(ns, Ordering::Relaxed);
    }

    /// What it holds now.
    #[must_use]
    pub fn observed(&self) -> Observed {
        Observed {
            buckets: std::array::from_fn(|bucket| self.buckets[bucket].load(Ordering::Relaxed)),
            sum: Duration::from_nanos(self.sum_ns.load(Ordering::Relaxed)),
        }
    }
}

impl Observed {
    /// How many durations there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_in_the_first_bucket_that_has_room_for_it() {
        let histogram = Histogram::new();
        for us in [0, 10, 11, 100_000_000, 100_000_001, u64::MAX] {
            histogram.add(Duration::from_micros(us));
        }
        let observed = histogram.observed();
        assert_eq!((observed.buckets[0], observed.buckets[1]), (2, 1));
        assert_eq!((observed.buckets[BUCKETS - 2], observed.buckets[BUCKETS - 1]), (1, 2));
        assert_eq!(observed.count(), 6);
    }

    #[test]
    fn the_bounds_grow() {
        assert!(BOUNDS_US.is_sorted_by(|one, next| one < next));
    }
}
