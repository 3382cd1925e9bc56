//! Fetching a blob whole: for those that read nothing unverified, and for what is fetched before anybody asks.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::base::{Error, ErrorKind, Result, chunk_count};

use super::feed::Feed;
use super::lock;
use super::slot::Slot;
use super::state::RunKind;
use super::verify::Verification;

/// Passes in which nothing of a gap could be kept, before a blob is said not to fit. A store gives up while the room
/// it could have is just being given back by another one's eviction.
const FILL_PASSES_MAX: u32 = 3;

/// How long to leave a gap to another run before looking again.
const OTHERS_PAUSE: Duration = Duration::from_millis(50);

impl Feed {
    /// Fetches all that is missing. Waits until everything is in the cache.
    ///
    /// # Errors
    /// What the fetch failed with; `NoSpace` when the cache cannot hold the whole blob.
    pub async fn fill(self: &Arc<Self>, is_demand: bool) -> Result<()> {
        let kind = if is_demand { RunKind::Demand } else { RunKind::Prefetch };
        let (slot, is_first) = {
            let mut state = lock(&self.state);
            match &state.filling {
                Some(slot) => (slot.clone(), false),
                None => {
                    let slot = Arc::new(Slot::new());
                    state.filling = Some(slot.clone());
                    (slot, true)
                }
            }
        };
        if is_first {
            let blob = self.clone();
            let slot = slot.clone();
            self.fetcher.handle.spawn(async move {
                let result = blob.fill_gaps(kind).await;
                lock(&blob.state).filling = None;
                slot.complete(result.map(|()| Bytes::new()));
            });
        }
        slot.wait().await.map(drop)
    }

    async fn fill_gaps(self: &Arc<Self>, kind: RunKind) -> Result<()> {
        let cannot_keep = || {
            Error::new(
                ErrorKind::NoSpace,
                format!(
                    "blob {} of {} bytes cannot be kept whole in the cache; give it more room with --cache-size",
                    self.digest, self.bytes
                ),
            )
        };
        if self.bytes > self.fetcher.cache.bytes_max() {
            return Err(cannot_keep());
        }
        // Fills that each pinned what they have would take the room from each other until none came to its end.
        let room =
            self.fetcher.fill_chunks_max.min(u32::try_from(chunk_count(self.bytes)).unwrap_or(u32::MAX));
        let _room = self.fetcher.fill_room.acquire_many(room).await;
        let _pin = self.segment.pin();
        let (mut before, mut passes) = (None, 0);
        while let Some(gap) = self.first_gap() {
            self.check_not_rejected()?;
            // A blob that was found wrong meanwhile is fetched again from the start.
            let now = (gap.clone(), self.counters().rejected_chunks);
            if before.as_ref() == Some(&now) {
                passes += 1;
                if passes >= FILL_PASSES_MAX && lock(&self.state).runs.is_empty() {
                    return Err(cannot_keep());
                }
                // Another run brings it, or an eviction under way elsewhere makes room; at once, this one would only
                // ask for the same bytes again.
                tokio::time::sleep(OTHERS_PAUSE).await;
            } else {
                passes = 0;
            }
            before = Some(now);
            let run = lock(&self.state).add_run(kind, gap.clone(), gap.end);
            self.drive_run(run).await?;
            self.checked().await;
        }
        self.verify_if_complete();
        Ok(())
    }

    fn first_gap(&self) -> Option<Range<u64>> {
        let chunks = chunk_count(self.bytes);
        let start = (0..chunks).find(|chunk| !self.segment.is_present(*chunk))?;
        let end = (start..chunks).find(|chunk| self.segment.is_present(*chunk)).unwrap_or(chunks);
        Some(start..end)
    }

    /// Waits until the whole blob has been fetched and verified.
    ///
    /// # Errors
    /// As [`Self::fill`], and `Corrupt` when it does not match its digest.
    pub async fn verified(self: &Arc<Self>) -> Result<()> {
        // Counted, so that the check knows that it is waited for.
        let _waiting = Arc::clone(&self.waiting);
        loop {
            if self.is_verified() {
                return self.check_not_rejected();
            }
            self.check_not_rejected()?;
            self.fill(true).await?;
            self.checked().await;
        }
    }

    /// Waits for a check that is under way.
    async fn checked(&self) {
        let mut verification = self.verification.subscribe();
        // The sender lives as long as `self`.
        let _ = verification.wait_for(|now| !matches!(now, Verification::Running { .. })).await;
    }
}
