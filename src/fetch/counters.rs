//! What fetching counts: for each segment, and for all of them together.
//!
//! A segment's counters go with it, those of the [`Totals`] with the process. Each count is an atomic addition where the
//! thing happens, once for a piece of a body or for a chunk, never for a read that the cache answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// On whose account bytes were fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A reader waited for them, or they lay on the way to what one waited for.
    Demand,
    /// A reader would probably come to them.
    ReadAhead,
    /// Everything was to be fetched, whether it was read or not.
    Prefetch,
    /// What a layer holds had to be found out: its first bytes, its index, or all of it, read once.
    FirstReading,
}

impl Cause {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Demand, Self::ReadAhead, Self::Prefetch, Self::FirstReading];

    /// The name used in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Demand => "demand",
            Self::ReadAhead => "read_ahead",
            Self::Prefetch => "prefetch",
            Self::FirstReading => "first_reading",
        }
    }
}

/// Bytes by their [`Cause`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ByCause([u64; Cause::ALL.len()]);

impl ByCause {
    /// Those of `cause`.
    #[must_use]
    pub fn of(&self, cause: Cause) -> u64 {
        self.0[cause as usize]
    }

    /// All of them.
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.0.iter().sum()
    }
}

/// The living form of [`ByCause`].
#[derive(Debug, Default)]
pub(super) struct CountedByCause([AtomicU64; Cause::ALL.len()]);

impl CountedByCause {
    pub(super) fn add(&self, cause: Cause, bytes: u64) {
        self.0[cause as usize].fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn now(&self) -> ByCause {
        ByCause(std::array::from_fn(|cause| self.0[cause].load(Ordering::Relaxed)))
    }
}

/// What was counted for a segment since it was first wanted, or for several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Bytes of bodies that arrived.
    pub fetched: ByCause,
    /// Bytes of chunks that were fetched before anybody asked for them, and went without having been read: evicted,
    /// removed, not taken by the cache, or brought by somebody else meanwhile. Parts of chunks that never came to be
    /// whole are not among them.
    pub wasted_bytes: u64,
    /// Requests made.
    pub requests: u64,
    /// Chunks that failed their check.
    pub rejected_chunks: u64,
}

impl Counters {
    /// Bytes of bodies that arrived, for whatever cause.
    #[must_use]
    pub fn network_bytes(&self) -> u64 {
        self.fetched.sum()
    }

    /// These and `others`.
    #[must_use]
    pub fn plus(self, others: Self) -> Self {
        self.combined(others, u64::saturating_add)
    }

    /// What came after `before`.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        self.combined(before, u64::saturating_sub)
    }

    /// With `bytes` more of a first reading.
    #[must_use]
    pub fn with_first_reading(mut self, bytes: u64) -> Self {
        self.fetched.0[Cause::FirstReading as usize] += bytes;
        self
    }

    fn combined(self, other: Self, of: impl Fn(u64, u64) -> u64) -> Self {
        let fetched = std::array::from_fn(|cause| of(self.fetched.0[cause], other.fetched.0[cause]));
        Self {
            fetched: ByCause(fetched),
            wasted_bytes: of(self.wasted_bytes, other.wasted_bytes),
            requests: of(self.requests, other.requests),
            rejected_chunks: of(self.rejected_chunks, other.rejected_chunks),
        }
    }
}

/// The living form of [`Counters`], for one segment; it adds to the totals too.
#[derive(Debug)]
pub(super) struct Counts {
    totals: Arc<Totals>,
    fetched: CountedByCause,
    dropped_bytes: AtomicU64,
    requests: AtomicU64,
    rejected_chunks: AtomicU64,
    /// Bytes that went unread out of the segment's place in the cache before this was made.
    unread_before: u64,
}

impl Counts {
    pub(super) fn new(totals: Arc<Totals>, unread_before: u64) -> Self {
        let (fetched, dropped_bytes, requests, rejected_chunks) = Default::default();
        Self { totals, fetched, dropped_bytes, requests, rejected_chunks, unread_before }
    }

    /// Notes that `bytes` arrived.
    pub(super) fn arrived(&self, cause: Cause, bytes: u64) {
        self.fetched.add(cause, bytes);
        self.totals.fetched.add(cause, bytes);
    }

    /// Notes that `bytes` were fetched in vain that never came into the cache.
    pub(super) fn dropped(&self, bytes: u64) {
        self.dropped_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.totals.dropped_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Notes a request.
    pub(super) fn asked(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes that a check of `chunks` has failed.
    pub(super) fn rejected(&self, chunks: u64) {
        self.totals.verify_failures.fetch_add(1, Ordering::Relaxed);
        self.rejected_with_others(chunks);
    }

    /// Notes that `chunks` went with a check of something larger that has failed.
    pub(super) fn rejected_with_others(&self, chunks: u64) {
        self.rejected_chunks.fetch_add(chunks, Ordering::Relaxed);
        self.totals.rejected_chunks.fetch_add(chunks, Ordering::Relaxed);
    }

    /// How many bytes have arrived.
    pub(super) fn arrived_bytes(&self) -> u64 {
        self.fetched.now().sum()
    }

    /// What was counted so far; `unread` is what the cache has counted for the segment.
    pub(super) fn now(&self, unread: u64) -> Counters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counters {
            fetched: self.fetched.now(),
            wasted_bytes: read(&self.dropped_bytes) + unread.saturating_sub(self.unread_before),
            requests: read(&self.requests),
            rejected_chunks: read(&self.rejected_chunks),
        }
    }
}

/// What all segments of a cache have counted together, those that are gone too.
#[derive(Debug, Default)]
pub struct Totals {
    fetched: CountedByCause,
    dropped_bytes: AtomicU64,
    verify_failures: AtomicU64,
    rejected_chunks: AtomicU64,
}

impl Totals {
    /// Notes that `bytes` of a first reading arrived.
    pub fn read_first(&self, bytes: u64) {
        self.fetched.add(Cause::FirstReading, bytes);
    }

    /// Notes that the check of a whole layer has failed.
    pub(super) fn layer_rejected(&self) {
        self.verify_failures.fetch_add(1, Ordering::Relaxed);
    }

    /// Bytes of bodies that arrived.
    #[must_use]
    pub fn fetched(&self) -> ByCause {
        self.fetched.now()
    }

    /// Bytes that were fetched before anybody asked for them, and that the cache did not take or had already.
    #[must_use]
    pub fn dropped_bytes(&self) -> u64 {
        self.dropped_bytes.load(Ordering::Relaxed)
    }

    /// Checks against a digest that failed: of a chunk, of a blob, or of a layer's stream.
    #[must_use]
    pub fn verify_failures(&self) -> u64 {
        self.verify_failures.load(Ordering::Relaxed)
    }

    /// Chunks that were dropped for it.
    #[must_use]
    pub fn rejected_chunks(&self) -> u64 {
        self.rejected_chunks.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_segment_counts_is_in_the_totals_and_what_was_before_it_is_not_its_own() {
        let totals = Arc::new(Totals::default());
        let counts = Counts::new(Arc::clone(&totals), 100);
        counts.arrived(Cause::ReadAhead, 7);
        counts.arrived(Cause::Demand, 5);
        counts.dropped(2);
        counts.rejected(3);
        let now = counts.now(101);
        assert_eq!((now.network_bytes(), now.fetched.of(Cause::ReadAhead)), (12, 7));
        assert_eq!((now.wasted_bytes, now.rejected_chunks), (3, 3));
        assert_eq!(totals.fetched().sum(), 12);
        assert_eq!((totals.verify_failures(), totals.rejected_chunks()), (1, 3));
        counts.arrived(Cause::Demand, 1);
        assert_eq!(counts.now(101).since(now).network_bytes(), 1);
        assert_eq!(now.plus(now).with_first_reading(4).network_bytes(), 28);
    }
}
