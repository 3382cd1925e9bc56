//! The sources of a blob: one for each mount that shows it, and whose turn it is.
//!
//! A source is leased: it serves all readers of the blob while the mount lives that brought it. What fails is tried
//! with the next one.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::base::{Digest, Error, ErrorKind, Result};
use crate::registry::BlobSource;

use super::limits::SourceLimits;
use super::{FetchSettings, Fetcher, lock};

/// A source, and the lease that brought it.
#[derive(Clone, Debug)]
pub(super) struct LeasedSource {
    lease: u64,
    pub(super) source: Arc<dyn BlobSource>,
    pub(super) limits: Arc<SourceLimits>,
    pub(super) settings: FetchSettings,
}

/// See the module's text.
#[derive(Debug, Default)]
pub struct Sources {
    state: Mutex<State>,
    /// Bytes that came for all segments together.
    progress: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    leased: Vec<LeasedSource>,
    /// Raised when a source failed, so that the next one has its turn.
    turn: usize,
    leases: u64,
    last_failure: Option<String>,
}

impl Sources {
    /// Adds `source`; returns the lease's number, for [`Self::remove`].
    pub fn add(&self, fetcher: &Fetcher, source: Arc<dyn BlobSource>, settings: FetchSettings) -> u64 {
        let limits = fetcher.limits_of(source.name());
        let mut state = lock(&self.state);
        state.leases += 1;
        let lease = state.leases;
        state.leased.push(LeasedSource { lease, source, limits, settings });
        lease
    }

    /// Takes the source of `lease` away; says whether none is left.
    pub fn remove(&self, lease: u64) -> bool {
        let mut state = lock(&self.state);
        state.leased.retain(|leased| leased.lease != lease);
        state.leased.is_empty()
    }

    /// The source whose turn it is.
    ///
    /// # Errors
    /// `Unavailable` when all mounts are gone.
    pub fn current(&self) -> Result<Arc<dyn BlobSource>> {
        self.leased().map(|leased| leased.source)
    }

    pub(super) fn leased(&self) -> Result<LeasedSource> {
        let state = lock(&self.state);
        let turn = state.turn.checked_rem(state.leased.len()).unwrap_or_default();
        let gone = || Error::new(ErrorKind::Unavailable, "the mount has ended");
        state.leased.get(turn).cloned().ok_or_else(gone)
    }

    /// Gives the next source its turn.
    pub fn fail_over(&self) {
        let mut state = lock(&self.state);
        state.turn = state.turn.wrapping_add(1);
    }

    /// Notes that bytes which came of the blob `digest` are not those of it. Says whether the next ones come from a host
    /// that has not sent any yet: it is worth asking once more then, and there is an end to that.
    pub fn distrust(&self, digest: &Digest) -> bool {
        self.fail_over();
        let sources: Vec<_> =
            lock(&self.state).leased.iter().map(|leased| Arc::clone(&leased.source)).collect();
        // All of them, so no short cut: any may have brought them.
        sources.iter().filter(|source| source.distrust(digest)).count() > 0
    }

    /// Notes what an attempt failed with that is repeated.
    pub(super) fn failed(&self, failure: String) {
        lock(&self.state).last_failure = Some(failure);
    }

    /// What the last attempt to fail has failed with, for those who stop waiting.
    #[must_use]
    pub fn last_failure(&self) -> Option<String> {
        lock(&self.state).last_failure.clone()
    }

    /// Notes that `bytes` came for what all segments wait for.
    pub fn progressed(&self, bytes: u64) {
        self.progress.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn progress(&self) -> u64 {
        self.progress.load(Ordering::Relaxed)
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        lock(&self.state).leased.len()
    }

    /// The longest time that a mount allows a fetch to go without progress.
    pub(super) fn retry_budget(&self) -> Duration {
        let state = lock(&self.state);
        state.leased.iter().map(|leased| leased.settings.retry_budget).max().unwrap_or_default()
    }

    /// The hosts or directories, for messages.
    #[must_use]
    pub fn names(&self) -> String {
        let state = lock(&self.state);
        let mut names: Vec<&str> = state.leased.iter().map(|leased| leased.source.name()).collect();
        names.dedup();
        names.join(", ")
    }
}
