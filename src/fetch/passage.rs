//! A passage: the chunks of a segment as they go by while somebody reads the whole layer for the first time.
//!
//! To readers it is a run that brings everything, so that they wait for it instead of asking for the same bytes
//! themselves. What has gone by and was not kept is fetched like anything else.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::base::{Error, Result, chunk_count};
use crate::cache::Epoch;

use super::feed::Feed;
use super::lock;
use super::run::Arrival;
use super::state::RunKind;

/// The chunks of one segment on their way; ends when it is dropped.
#[derive(Debug)]
pub struct Passage {
    feed: Arc<Feed>,
    run: u64,
    /// When the reading began.
    epoch: Epoch,
    failure: OnceLock<Error>,
}

impl Passage {
    /// All chunks of `feed` will go by, in order.
    #[must_use]
    pub fn begin(feed: Arc<Feed>) -> Self {
        let chunks = chunk_count(feed.bytes());
        let epoch = feed.segment.epoch();
        let run = {
            let mut state = lock(&feed.state);
            let id = state.add_run(RunKind::Demand, 0..chunks, chunks);
            if let Some(run) = state.run(id) {
                (run.is_whole, run.is_under_way, run.is_passage) = (true, true, true);
            }
            id
        };
        Self { feed, run, epoch, failure: OnceLock::new() }
    }

    /// The segment.
    #[must_use]
    pub fn feed(&self) -> &Arc<Feed> {
        &self.feed
    }

    /// Hands `bytes`, the whole of `chunk`, to those that wait, and to the cache if `keep` or somebody waited. Waits
    /// for the disk. Returns whether it was offered to the cache; nobody gets what is out of date.
    ///
    /// # Errors
    /// `Corrupt` when the chunk's digest is known and is another.
    pub fn bring(&self, chunk: u64, bytes: Bytes, digest: blake3::Hash, keep: bool) -> Result<bool> {
        if let Some(proof) = self.feed.proof.get()
            && proof.chunk_digest(chunk) != Some(digest.as_bytes())
        {
            self.feed.counts.rejected(1);
            return Err(Error::new(
                crate::base::ErrorKind::Corrupt,
                format!("layer {}: chunk {chunk} of a segment is not what it was before", self.feed.digest()),
            ));
        }
        let was_awaited = {
            let mut state = lock(&self.feed.state);
            if !self.feed.is_current(self.epoch) {
                return Ok(false);
            }
            state.bring(self.run, chunk, &bytes)
        };
        let stores = keep || was_awaited;
        if stores {
            let arrival = Arrival { was_awaited, is_ahead: false };
            self.feed.store(chunk, bytes, digest, self.epoch, arrival);
        } else {
            lock(&self.feed.state).settle(chunk);
        }
        Ok(stores)
    }

    /// What those get that still wait when it ends.
    pub fn fail(&self, failure: Error) {
        // The first one is the cause.
        let _ = self.failure.set(failure);
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        let mut started = Vec::new();
        {
            let mut state = lock(&self.feed.state);
            for chunk in state.end_run(self.run) {
                match self.failure.get() {
                    Some(error) => {
                        if let Some(pending) = state.slots.remove(&chunk) {
                            pending.slot.complete(Err(error.clone()));
                        }
                    }
                    None => {
                        let run = state.add_run(RunKind::Demand, chunk..chunk + 1, chunk + 1);
                        if let Some(pending) = state.slots.get_mut(&chunk) {
                            pending.run = run;
                        }
                        started.push(run);
                    }
                }
            }
        }
        for run in started {
            self.feed.spawn_run(run);
        }
    }
}
