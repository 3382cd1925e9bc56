//! One segment: who wants which of its chunks, what is under way, and what is known about its bytes.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::base::{Algorithm, Digest, Error, ErrorKind, Result, chunk_count, chunk_range, clock};
use crate::cache::{Segment, SegmentId};
use crate::layer::SegmentProof;

use super::counters::{Counters, Counts};
use super::lease::{Listener, Tell};
use super::readers::Readers;
use super::slot::Slot;
use super::state::{Pending, RunKind, State};
use super::verify::Verification;
use super::window::{Plan, ReadAhead, WINDOW_MAX};
use super::{Fetcher, Origin, SegmentSpec, Sources, lock};

/// What is known about bytes that came from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Nothing of it is here.
    Absent,
    /// Failed its check.
    Rejected,
    /// Fetched, the blob not yet complete and verified.
    Pending,
    /// Matched a digest that the manifest vouches for.
    Proven,
}

impl Standing {
    /// The name used in attributes and reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Rejected => "rejected",
            Self::Pending => "pending",
            Self::Proven => "proven",
        }
    }
}

/// Why a chunk is rejected that has a digest of its own.
pub(super) const NOT_ITS_BYTES: &str = "not the bytes of its digest";

/// Where a wanted chunk is to be had.
#[derive(Debug)]
pub enum Wanted {
    /// In the segment, at least until a moment ago.
    Cached,
    /// On its way, or here in memory.
    Coming(Coming),
}

/// A chunk on its way.
#[derive(Debug)]
pub struct Coming(Arc<Slot>);

impl Coming {
    /// The chunk's bytes, all of them.
    ///
    /// # Errors
    /// What the fetch failed with once its attempts were used up.
    pub async fn bytes(self) -> Result<Bytes> {
        self.0.wait().await
    }
}

/// How the bytes of a segment come to be proven where no chunk digests are known yet.
#[derive(Clone)]
pub enum Proving {
    /// The segment is the whole blob, which is hashed once it is complete.
    Whole,
    /// The segment is a part of something larger, which is told whenever a chunk was stored.
    Part(Tell),
    /// The origin yields nothing that does not match a digest which the manifest vouches for.
    Origin,
}

impl std::fmt::Debug for Proving {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Whole => "Whole",
            Self::Part(_) => "Part",
            Self::Origin => "Origin",
        })
    }
}

/// See the module's text.
#[derive(Debug)]
pub struct Feed {
    pub(super) fetcher: Arc<Fetcher>,
    /// The blob's.
    pub(super) digest: Digest,
    /// Of the segment.
    pub(super) bytes: u64,
    pub(super) origin: Origin,
    pub(super) sources: Arc<Sources>,
    pub(super) proving: Proving,
    pub(super) segment: Arc<Segment>,
    pub(super) state: Mutex<State>,
    pub(super) proof: OnceLock<SegmentProof>,
    pub(super) verification: watch::Sender<Verification>,
    /// Held by everybody who waits for the whole segment to be verified.
    pub(super) waiting: Arc<()>,
    pub(super) counts: Counts,
    pub(super) listeners: Mutex<Vec<Listener>>,
    pub(super) is_checked: AtomicBool,
    read_ahead: Mutex<ReadAhead>,
    last_access: AtomicU64,
}

impl Feed {
    pub(super) fn new(
        fetcher: Arc<Fetcher>,
        spec: SegmentSpec,
        segment: Arc<Segment>,
        whole_files: bool,
    ) -> Self {
        let SegmentSpec { blob: digest, bytes, origin, sources, proving, proof, .. } = spec;
        let cache_bytes = fetcher.cache.bytes_max();
        // Read-ahead that is evicted before it is read is fetched twice: sixteen streams together may fill half of
        // the cache, and a file is only read through to its end where it fits twice.
        let window_max = (chunk_count(cache_bytes) / 32).clamp(2, WINDOW_MAX);
        let whole_files = whole_files && bytes <= cache_bytes / 2;
        let read_ahead = ReadAhead::new(chunk_count(bytes), whole_files, window_max);
        let verification = match (&proof, &proving) {
            (Some(_), _) | (None, Proving::Origin) => Verification::Verified,
            (None, Proving::Whole | Proving::Part(_)) => Verification::Open { rejections: 0 },
        };
        let counts = Counts::new(Arc::clone(&fetcher.totals), segment.unread_bytes());
        let blob = Self {
            fetcher,
            digest,
            bytes,
            origin,
            sources,
            proving,
            segment,
            state: Mutex::default(),
            proof: proof.map_or_else(OnceLock::new, OnceLock::from),
            verification: watch::Sender::new(verification),
            waiting: Arc::new(()),
            counts,
            listeners: Mutex::default(),
            is_checked: AtomicBool::new(false),
            read_ahead: Mutex::new(read_ahead),
            last_access: AtomicU64::new(u64::MAX),
        };
        blob.drop_what_the_proof_disproves();
        blob
    }

    /// A chunk that was stored before the blob was verified must match as well. Says whether one did not.
    pub(super) fn drop_what_the_proof_disproves(&self) -> bool {
        let Some(proof) = self.proof.get() else { return false };
        let mut were_wrong = false;
        for chunk in 0..chunk_count(self.bytes) {
            let stored = self.segment.chunk_digest(chunk);
            if stored.is_some_and(|digest| proof.chunk_digest(chunk) != Some(digest.as_bytes())) {
                self.log_rejected(chunk, "cache", NOT_ITS_BYTES);
                self.counts.rejected(1);
                self.segment.remove(chunk..chunk + 1);
                were_wrong = true;
            }
        }
        were_wrong
    }

    /// The one line of a chunk that is rejected (docs/logs.md).
    pub(super) fn log_rejected(&self, chunk: u64, source: &str, error: &str) {
        tracing::error!(digest = %self.digest, chunk, source, error, "rejected a chunk");
    }

    /// The blob's name.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// The segment's place in the cache.
    #[must_use]
    pub fn id(&self) -> &SegmentId {
        self.segment.id()
    }

    /// The segment's length in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Where its chunks are cached.
    #[must_use]
    pub fn segment(&self) -> &Arc<Segment> {
        &self.segment
    }

    /// What was counted so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counts.now(self.segment.unread_bytes())
    }

    /// How many bytes have arrived since the blob was first wanted: as long as this grows, it is worth waiting.
    /// Bytes that come again and again count too; a fetch that gets nothing else ends by itself.
    #[must_use]
    pub fn progress(&self) -> u64 {
        self.counts.arrived_bytes().wrapping_add(self.sources.progress())
    }

    /// Why `chunk` does not come, as far as that is known.
    #[must_use]
    pub fn why_missing(&self, chunk: u64) -> Option<Error> {
        lock(&self.state).last_failure(chunk)
    }

    /// What is known about the bytes that are here.
    #[must_use]
    pub fn standing(&self) -> Standing {
        match *self.verification.borrow() {
            Verification::Rejected => Standing::Rejected,
            _ if self.bytes == 0 => Standing::Proven,
            _ if self.segment.cached_bytes() == 0 => Standing::Absent,
            Verification::Verified => Standing::Proven,
            Verification::Open { .. } | Verification::Running { .. } => Standing::Pending,
        }
    }

    /// The hosts or directories that serve it, for messages.
    #[must_use]
    pub fn source_names(&self) -> String {
        self.sources.names()
    }

    /// What is counted of all readers of the cache.
    #[must_use]
    pub fn readers(&self) -> &Arc<Readers> {
        &self.fetcher.readers
    }

    /// Whether each chunk is checked by a digest of its own.
    #[must_use]
    pub fn is_verified(&self) -> bool {
        matches!(*self.verification.borrow(), Verification::Verified) || self.bytes == 0
    }

    /// Fails when the blob was found wrong as often as it was fetched.
    ///
    /// # Errors
    /// `Corrupt`, naming the blob.
    pub fn check_not_rejected(&self) -> Result<()> {
        if matches!(*self.verification.borrow(), Verification::Rejected) {
            return Err(self.rejection());
        }
        Ok(())
    }

    fn rejection(&self) -> Error {
        Error::new(
            ErrorKind::Corrupt,
            format!(
                "blob {} from {}: the bytes do not match the digest, after fetching them again too",
                self.digest,
                self.source_names()
            ),
        )
    }

    /// Says for each of `chunks` where it is to be had, and starts fetching those that nobody fetches yet,
    /// neighbours in one request.
    ///
    /// # Errors
    /// `Corrupt` for a blob that was rejected for good.
    pub fn want(self: &Arc<Self>, chunks: Range<u64>) -> Result<Vec<Wanted>> {
        self.check_not_rejected()?;
        let mut wanted = Vec::new();
        let mut started = Vec::new();
        {
            let mut state = lock(&self.state);
            for chunk in chunks {
                if let Some(pending) = state.slots.get_mut(&chunk) {
                    pending.wanted_at = clock::now();
                    pending.is_wanted = true;
                    wanted.push(Wanted::Coming(Coming(pending.slot.clone())));
                } else if self.segment.is_present(chunk) {
                    wanted.push(Wanted::Cached);
                } else if let Some(bytes) = self.fetcher.recall(self.id(), chunk) {
                    wanted.push(Wanted::Coming(Coming(Arc::new(Slot::filled(bytes)))));
                } else {
                    let pending = Pending::new(self.run_for(&mut state, chunk, &mut started));
                    wanted.push(Wanted::Coming(Coming(pending.slot.clone())));
                    state.slots.insert(chunk, pending);
                }
            }
        }
        for run in started {
            self.spawn_run(run);
        }
        Ok(wanted)
    }

    /// The run that will bring `chunk`: one that is near, the one just started for its neighbour, or a new one.
    fn run_for(&self, state: &mut State, chunk: u64, started: &mut Vec<u64>) -> u64 {
        if let Some(run) = state.runs.iter().find(|run| run.is_whole && run.next <= chunk) {
            return run.id;
        }
        if let Some(run) = started.last().and_then(|id| state.run(*id))
            && run.end == chunk
        {
            run.end += 1;
            run.request_end = run.request_end.max(run.end);
            return run.id;
        }
        if let Some(run) = state.run_that_brings(chunk) {
            return run;
        }
        let id = state.add_run(RunKind::Demand, chunk..chunk + 1, chunk + 1);
        started.push(id);
        id
    }

    /// Notes that a reader got or wants `chunks`, and fetches ahead of it.
    pub fn accessed(self: &Arc<Self>, chunks: Range<u64>) {
        // The kernel reads a chunk in several pieces; only the first says something new.
        if chunks.is_empty() || self.last_access.swap(chunks.end, Ordering::Relaxed) == chunks.end {
            return;
        }
        let plan = lock(&self.read_ahead).access(&chunks);
        if let Some(plan) = plan {
            self.fetch_ahead(&plan);
        }
    }

    fn fetch_ahead(self: &Arc<Self>, plan: &Plan) {
        let filled = chunk_count(self.origin.filled_bytes().min(self.bytes));
        let plan_end = plan.ahead.end.min(filled);
        if plan.ahead.start >= plan_end {
            return;
        }
        let started = {
            let mut state = lock(&self.state);
            if state.runs.iter().any(|run| run.is_whole) {
                return;
            }
            let mut start = state.extend_run(plan.ahead.start, plan_end);
            while start < plan_end && self.segment.is_present(start) {
                start += 1;
            }
            if start >= plan_end {
                return;
            }
            let request_end = if plan.open_ended { filled } else { plan_end };
            state.add_run(RunKind::Ahead, start..plan_end, request_end)
        };
        self.spawn_run(started);
    }

    pub(super) fn byte_range(&self, chunk: u64) -> Range<u64> {
        chunk_range(chunk, self.bytes)
    }

    pub(super) fn algorithm(&self) -> Algorithm {
        self.digest.algorithm()
    }
}
