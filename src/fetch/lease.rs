//! A mount's claim on a blob: what keeps its fetches going, and what is counted for it.

use std::sync::Arc;

use crate::base::{Error, ErrorKind, Result};
use crate::registry::BlobSource;

use super::counters::Counters;
use super::feed::Feed;
use super::{FetchSettings, lock};

/// Whoever is told that something happened.
pub type Tell = Arc<dyn Fn() + Send + Sync>;

/// Somebody to tell when bytes that were handed out turn out to be wrong.
pub(super) struct Listener {
    lease: u64,
    pub(super) tell: Tell,
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listener").field("lease", &self.lease).finish_non_exhaustive()
    }
}

/// One mount's claim on a [`Feed`]. When the last one goes, what is still being fetched is given up.
#[derive(Debug)]
pub struct FeedLease {
    id: u64,
    blob: Arc<Feed>,
    counters_before: Counters,
}

impl FeedLease {
    pub(super) fn new(
        blob: Arc<Feed>,
        bytes: u64,
        source: Arc<dyn BlobSource>,
        settings: FetchSettings,
    ) -> Result<Self> {
        if blob.bytes != bytes {
            let text = format!(
                "blob {} has {} bytes in one manifest and {bytes} in another",
                blob.digest, blob.bytes
            );
            return Err(Error::new(ErrorKind::Corrupt, text));
        }
        let id = blob.sources.add(&blob.fetcher, source, settings);
        Ok(Self { id, counters_before: blob.counters(), blob })
    }

    /// The blob.
    #[must_use]
    pub fn feed(&self) -> &Arc<Feed> {
        &self.blob
    }

    /// What was counted since the lease began.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.blob.counters().since(self.counters_before)
    }

    /// Has `tell` called, while the lease lives, whenever bytes that were handed out turn out to be wrong.
    pub fn on_rejected(&self, tell: Tell) {
        lock(&self.blob.listeners).push(Listener { lease: self.id, tell });
    }
}

impl Drop for FeedLease {
    fn drop(&mut self) {
        lock(&self.blob.listeners).retain(|listener| listener.lease != self.id);
        if self.blob.sources.remove(self.id) {
            self.blob.abandon();
        }
    }
}

impl Feed {
    /// Has `tell` called whenever bytes that were handed out turn out to be wrong; for whoever keeps the feed as long
    /// as it wants to be told.
    pub fn on_rejected(&self, tell: Tell) {
        lock(&self.listeners).push(Listener { lease: 0, tell });
    }

    /// Gives up what is still being fetched: the last source is gone.
    pub fn abandon(&self) {
        let mut state = lock(&self.state);
        // A passage is fed by somebody else, who goes on.
        for run in state.runs.extract_if(.., |run| !run.is_passage) {
            if let Some(abort) = run.abort {
                abort.abort();
            }
        }
        for (_, pending) in state.slots.drain() {
            pending.slot.complete(Err(Error::new(ErrorKind::Unavailable, "the mount has ended")));
        }
    }
}
