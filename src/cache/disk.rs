//! What all segments of one cache directory share: where it is, how much of it is used, what time its
//! clock shows, and how the disk is.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use super::crowding::Crowding;
use super::health::{self, Health};
use super::map::BootId;
use super::owner::Owner;
use super::pins::Pins;
use super::stored::StoredSegment;
use super::{CacheCounters, CachePaths};

/// Data files that stay open for the next reader, of all segments together. An archive has one for each of its large
/// files, and the usual limit of a process is 1,024 descriptors; opening one again takes some microseconds.
pub(super) const KEPT_OPEN_MAX: usize = 256;

/// The guard of `mutex`. A panic elsewhere does not stop the cache: every section under a lock leaves
/// what it guards whole.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the machine gives, and a test gives otherwise.
#[derive(Clone, Copy, Debug)]
pub(super) struct Surroundings {
    pub(super) boot: Option<BootId>,
    pub(super) retry_pause: Duration,
}

impl Surroundings {
    pub(super) fn real() -> Self {
        Self { boot: BootId::current(), retry_pause: health::RETRY_PAUSE }
    }
}

/// The counters of [`CacheCounters`], as they are counted.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) hits: AtomicU64,
    pub(super) misses: AtomicU64,
    pub(super) evicted_chunks: AtomicU64,
    pub(super) evicted_bytes: AtomicU64,
    pub(super) unread_bytes: Arc<AtomicU64>,
    pub(super) damaged_chunks: AtomicU64,
    pub(super) stored_chunks: AtomicU64,
    pub(super) skipped_stores: AtomicU64,
}

impl Counters {
    pub(super) fn snapshot(&self) -> CacheCounters {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CacheCounters {
            hits: of(&self.hits),
            misses: of(&self.misses),
            evicted_chunks: of(&self.evicted_chunks),
            evicted_bytes: of(&self.evicted_bytes),
            unread_bytes: of(&self.unread_bytes),
            damaged_chunks: of(&self.damaged_chunks),
            stored_chunks: of(&self.stored_chunks),
            skipped_stores: of(&self.skipped_stores),
        }
    }
}

/// One more.
pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// The directory as its segments see it.
#[derive(Debug)]
pub(super) struct Disk {
    pub(super) paths: CachePaths,
    pub(super) boot: Option<BootId>,
    pub(super) owner: Owner,
    pub(super) health: Health,
    pub(super) counters: Counters,
    pub(super) pins: Pins,
    pub(super) crowding: Crowding,
    /// Bytes of chunks that are present or being written.
    chunk_bytes: AtomicU64,
    /// Bytes of documents; rough while several are written at once.
    document_bytes: AtomicU64,
    /// Advances by two with every store, to an even number; what is read between two stores was used at the odd
    /// one between them. So a hit only reads the clock, and a chunk that is read again and again is noted once.
    clock: AtomicU64,
    /// Those whose data file was opened and may still be, the first one opened first.
    kept_open: Mutex<VecDeque<Weak<StoredSegment>>>,
}

impl Disk {
    pub(super) fn new(paths: CachePaths, owner: Owner, surroundings: Surroundings) -> Self {
        Self {
            paths,
            boot: surroundings.boot,
            owner,
            health: Health::new(surroundings.retry_pause),
            counters: Counters::default(),
            pins: Pins::default(),
            crowding: Crowding::default(),
            chunk_bytes: AtomicU64::new(0),
            document_bytes: AtomicU64::new(0),
            clock: AtomicU64::new(0),
            kept_open: Mutex::default(),
        }
    }

    /// Notes that `segment` keeps its data file open; returns the one that is to close its own for it.
    pub(super) fn kept_open(&self, segment: &Arc<StoredSegment>) -> Option<Arc<StoredSegment>> {
        let mut kept = lock(&self.kept_open);
        kept.push_back(Arc::downgrade(segment));
        if kept.len() > KEPT_OPEN_MAX { kept.pop_front()?.upgrade() } else { None }
    }

    /// Bytes of chunks and documents.
    pub(super) fn used(&self) -> u64 {
        self.chunk_bytes.load(Ordering::Acquire) + self.document_bytes()
    }

    /// Counts `bytes` of chunks as used.
    pub(super) fn add_used(&self, bytes: u64) {
        self.chunk_bytes.fetch_add(bytes, Ordering::AcqRel);
    }

    /// Counts `bytes` of chunks as used no more.
    pub(super) fn sub_used(&self, bytes: u64) {
        let before = self.chunk_bytes.fetch_sub(bytes, Ordering::AcqRel);
        debug_assert!(before >= bytes, "more bytes given back than were used");
    }

    /// Bytes of documents.
    pub(super) fn document_bytes(&self) -> u64 {
        self.document_bytes.load(Ordering::Acquire)
    }

    /// A document of `before` bytes, or none, has become one of `after`.
    pub(super) fn document_changed(&self, before: u64, after: u64) {
        let change = |bytes: u64| Some(bytes.saturating_add(after).saturating_sub(before));
        // Never fails: the change is never refused.
        let _ = self.document_bytes.fetch_update(Ordering::AcqRel, Ordering::Acquire, change);
    }

    /// All documents together were found to have `bytes`.
    pub(super) fn documents_counted(&self, bytes: u64) {
        self.document_bytes.store(bytes, Ordering::Release);
    }

    /// The time of a use.
    pub(super) fn tick(&self) -> u64 {
        self.clock.load(Ordering::Relaxed) + 1
    }

    /// The time of a store, later than every use before.
    pub(super) fn next_tick(&self) -> u64 {
        self.clock.fetch_add(2, Ordering::Relaxed) + 2
    }

    /// Goes on after a use that was recorded before the start.
    pub(super) fn go_on_after(&self, tick: u64) {
        self.clock.fetch_max(tick.saturating_add(1) & !1, Ordering::Relaxed);
    }
}
