//! That no room can be made: everything that is here is pinned or in use.
//!
//! Reads go on then, and what they fetch is not stored. It is said in the log, not more often than anybody reads
//! it, and in the status for as long as it is so.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::base::{CHUNK_BYTES, clock};

use super::Cache;
use super::disk::lock;
use super::eviction::Oldest;
use super::stored::StoredSegment;

/// How often it is said in the log at most. It comes and goes while large files are fetched into a small cache.
const LOG_PAUSE: Duration = Duration::from_secs(60);

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Crowding {
    is_so: AtomicBool,
    logged_at: Mutex<Option<Instant>>,
}

impl Crowding {
    /// No room could be made; says whether that is to be logged.
    pub(super) fn begins(&self) -> bool {
        self.is_so.store(true, Ordering::Relaxed);
        let mut logged_at = lock(&self.logged_at);
        let is_due = logged_at.is_none_or(|at| at.elapsed() > LOG_PAUSE);
        if is_due {
            *logged_at = Some(clock::now());
        }
        is_due
    }

    /// Room was made.
    pub(super) fn is_over(&self) {
        if self.is_so.load(Ordering::Relaxed) {
            self.is_so.store(false, Ordering::Relaxed);
        }
    }

    /// Whether the last one who wanted room did not get any.
    pub(super) fn is_so(&self) -> bool {
        self.is_so.load(Ordering::Relaxed)
    }
}

impl Cache {
    /// Why no room can be made.
    pub(super) fn crowded_by(&self) -> String {
        let kept = |stored: &Arc<StoredSegment>| {
            let chunks = stored.chunks();
            if chunks.kept { chunks.present_bytes() } else { 0 }
        };
        let pinned: u64 = self.stored().iter().map(kept).sum();
        format!(
            "there is no room for anything else: of the {} bytes that the cache {} may hold, {pinned} are pinned and the \
             others in use; unpin something (refmount cache unpin), or give it more with --cache-size",
            self.limits.bytes_max,
            self.disk.paths.root().display()
        )
    }

    /// Why no room can be made, if that is still so.
    pub(super) fn crowded(&self) -> Option<String> {
        let is_full = || self.disk.used() + CHUNK_BYTES > self.limits.bytes_max;
        (self.disk.crowding.is_so() && is_full() && Oldest::is_none(&self.stored()))
            .then(|| self.crowded_by())
    }
}
