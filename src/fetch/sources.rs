//! The sources of a blob: one for each mount that shows it, and whose turn it is.
//!
//! A source is leased: it serves all readers of the blob while the mount lives that brought it. What fails is tried
//! with the next one. A source all of whose hosts sent wrong bytes has its turn only when there is no other.

use std::collections::HashMap;
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
    /// Whether it had a turn since wrong bytes came the last time.
    was_asked: bool,
    /// Whether there is nothing behind it that may have other bytes than the wrong ones that came.
    is_spent: bool,
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
    /// Raised whenever what came turns out to be wrong.
    mistakes: AtomicU64,
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
        let (was_asked, is_spent) = (false, false);
        state.leased.push(LeasedSource { lease, was_asked, is_spent, source, limits, settings });
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
        let mut state = lock(&self.state);
        let all_spent = state.leased.iter().all(|leased| leased.is_spent);
        let turn = state.turn;
        let mut worthy: Vec<_> =
            state.leased.iter_mut().filter(|leased| all_spent || !leased.is_spent).collect();
        let turn = turn.checked_rem(worthy.len()).unwrap_or_default();
        let gone = || Error::new(ErrorKind::Unavailable, "the mount has ended");
        let leased = worthy.get_mut(turn).ok_or_else(gone)?;
        leased.was_asked = true;
        Ok(leased.clone())
    }

    /// Gives the next source its turn.
    pub fn fail_over(&self) {
        let mut state = lock(&self.state);
        state.turn = state.turn.wrapping_add(1);
    }

    /// Notes that bytes which came of the blob `digest` are not those of it. Says whether the next ones come from a host
    /// that is not known to send wrong ones: it is worth asking once more then, and there is an end to that.
    pub fn distrust(&self, digest: &Digest) -> bool {
        self.fail_over();
        self.mistakes.fetch_add(1, Ordering::Release);
        // All of them: any may have brought what is wrong.
        let have_others: HashMap<u64, bool> =
            self.all().into_iter().map(|leased| (leased.lease, leased.source.distrust(digest))).collect();
        let mut state = lock(&self.state);
        for leased in &mut state.leased {
            let was_asked = std::mem::take(&mut leased.was_asked);
            match have_others.get(&leased.lease) {
                Some(false) if was_asked => leased.is_spent = true,
                _ => {}
            }
        }
        state.leased.iter().any(|leased| !leased.is_spent)
    }

    /// Notes that bytes which came of the blob `digest` make little sense, without proof that they are wrong. Says whether
    /// the next ones may come from another host.
    pub fn doubt(&self, digest: &Digest) -> bool {
        self.fail_over();
        let leased = self.all();
        let elsewhere = leased.iter().filter(|leased| leased.source.doubt(digest)).count() > 0;
        elsewhere || leased.len() > 1
    }

    fn all(&self) -> Vec<LeasedSource> {
        lock(&self.state).leased.clone()
    }

    /// How often what came turned out to be wrong: what comes of a request that is older is not to be used any more.
    pub(super) fn mistakes(&self) -> u64 {
        self.mistakes.load(Ordering::Acquire)
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
