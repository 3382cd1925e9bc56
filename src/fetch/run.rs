//! A run: the task that walks forward through a blob, request after request, and hands out each chunk as
//! soon as it is whole.
//!
//! A run goes on over failures: it resumes at the byte after the last one received, after a pause that
//! doubles, until nothing has come for its whole budget. It stops when it has brought what it was started
//! for, when what follows is cached, or when another run brings it.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinSet;

use crate::base::backoff::Backoff;
use crate::base::{Error, ErrorKind, Result, chunk_count, clock};
use crate::cache::{Epoch, SkipReason, Stored};
use crate::registry::BlobBody;

use super::feed::{Feed, NOT_ITS_BYTES};
use super::sources::LeasedSource;
use super::state::RunKind;
use super::{BlobBytes, lock};

/// The first pause after a failure, and the longest: a registry may ask for more with `Retry-After`, up to
/// the same bound.
pub(super) const PAUSE_FIRST: Duration = Duration::from_millis(100);
pub(super) const PAUSE_MAX: Duration = Duration::from_secs(20);

/// How long a request is kept open for a reader that has stopped. A connection costs the registry little, a
/// new request 5 ms of CPU.
const IDLE_MAX: Duration = Duration::from_secs(10);

/// Cached chunks in a row that make a run skip them by a new request; fewer are cheaper to receive again.
const SKIP_MIN: u64 = 4;

/// Failures of one chunk's own check after which its readers get an error: it has then come twice.
const CHUNK_REJECTIONS_MAX: u32 = 2;

/// What a run does after a chunk.
enum Step {
    /// Takes the next chunk from the same body.
    Continue,
    /// Waits for its end to move.
    Pause,
    /// Is done with this body, and perhaps altogether.
    Leave,
}

/// How a request ended that did not fail.
enum Outcome {
    /// All that was wanted of it has been handed out.
    Served,
    /// A chunk failed its own check, or was asked for before all of the segment failed one, and is to be fetched again; or
    /// other parts of the blob did, and what comes may be as wrong as they are.
    Rejected,
}

/// The task's own state; what others may see of it is in [`super::state::Run`].
struct Driver {
    blob: Arc<Feed>,
    id: u64,
    kind: RunKind,
    /// The chunk that is being put together, and what came of it so far.
    chunk: u64,
    partial: BytesMut,
    /// When the present request was made, or that of what is in `partial`.
    epoch: Epoch,
    /// How far in the blob bytes have come, whatever came again since: a source that breaks off at the same place
    /// each time makes no progress.
    furthest: u64,
    /// The sources' count of mistakes when what is in `partial` was asked for.
    mistakes: u64,
    attempts: Attempts,
    chunk_rejections: HashMap<u64, u32>,
    stores: JoinSet<()>,
}

/// On whose account a chunk came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    /// Somebody waited for it.
    pub(super) was_awaited: bool,
    /// It was fetched before anybody would.
    pub(super) is_ahead: bool,
}

impl Arrival {
    /// Whether it may turn out to have come in vain.
    fn is_unread(self) -> bool {
        self.is_ahead && !self.was_awaited
    }
}

/// The retries of a run, and since when it has got nothing.
struct Attempts {
    backoff: Backoff,
    idle_since: Instant,
    failures: u32,
}

impl Attempts {
    fn new() -> Self {
        Self { backoff: Backoff::new(PAUSE_FIRST, PAUSE_MAX), idle_since: clock::now(), failures: 0 }
    }

    /// A chunk has come: what fails next has nothing to do with what failed before.
    fn succeeded(&mut self) {
        if self.failures > 0 {
            (self.failures, self.backoff) = (0, Backoff::new(PAUSE_FIRST, PAUSE_MAX));
        }
    }
}

impl Feed {
    /// Lets run `id` go in a task of its own.
    pub(super) fn spawn_run(self: &Arc<Self>, id: u64) {
        let blob = self.clone();
        let task = self.fetcher.handle.spawn(async move {
            // Its readers have been told, and nobody else asks.
            let _ = blob.drive_run(id).await;
        });
        if let Some(run) = lock(&self.state).run(id) {
            run.abort = Some(task.abort_handle());
        }
    }

    /// Carries out run `id` and settles with those that wait for it.
    pub(super) async fn drive_run(self: &Arc<Self>, id: u64) -> Result<()> {
        let Some(kind) = lock(&self.state).run(id).map(|run| run.kind) else { return Ok(()) };
        let mut driver = Driver {
            blob: self.clone(),
            id,
            kind,
            chunk: 0,
            partial: BytesMut::new(),
            epoch: self.segment.epoch(),
            furthest: 0,
            mistakes: self.sources.mistakes(),
            attempts: Attempts::new(),
            chunk_rejections: HashMap::new(),
            stores: JoinSet::new(),
        };
        let result = driver.drive().await;
        while driver.stores.join_next().await.is_some() {}
        self.finish_run(id, &result, driver.attempts.idle_since);
        result
    }

    /// `idle_since`: when the run last got something.
    fn finish_run(self: &Arc<Self>, id: u64, result: &Result<()>, idle_since: Instant) {
        let mut started = Vec::new();
        {
            let mut state = lock(&self.state);
            let expected = state.end_run(id);
            let late = idle_since + self.sources.retry_budget() / 2;
            for chunk in expected {
                // Whoever came when the run had used up half of its patience has hardly waited.
                let is_new = state.slots.get(&chunk).is_some_and(|pending| pending.wanted_at > late);
                match result {
                    Err(error) if !(error.kind().is_transient() && is_new) => {
                        if let Some(pending) = state.slots.remove(&chunk) {
                            pending.slot.complete(Err(error.clone()));
                        }
                    }
                    // Or it stopped short of a chunk that a reader counted on: another run goes for it.
                    _ => {
                        let run = state.add_run(RunKind::Demand, chunk..chunk + 1, chunk + 1);
                        if let Some(pending) = state.slots.get_mut(&chunk) {
                            pending.run = run;
                        }
                        started.push(run);
                    }
                }
            }
        }
        if let Err(error) = result {
            tracing::warn!(digest = %self.digest, error = error.chain(), "gave up a fetch");
        }
        for run in started {
            self.spawn_run(run);
        }
    }
}

impl Driver {
    async fn drive(&mut self) -> Result<()> {
        loop {
            self.blob.check_not_rejected()?;
            let limits = self.source()?.limits;
            let mut permit = limits.permit(self.kind).await;
            let Some(range) = self.next_request() else { return Ok(()) };
            let leased = self.source()?;
            // While it waited, the mount may have ended whose source it was, or another source have got its turn.
            if !Arc::ptr_eq(&leased.limits, &limits) {
                continue;
            }
            if self.attempts.failures == 0 {
                self.attempts.idle_since = clock::now();
            }
            let outcome = self.request(&leased, range, &mut permit).await;
            drop(permit);
            match outcome {
                Ok(Outcome::Served) => {}
                Ok(Outcome::Rejected) => self.partial.clear(),
                Err(failure) => self.pause_after(failure, &leased).await?,
            }
        }
    }

    /// The bytes to ask for next, or nothing when the run has come to its end.
    fn next_request(&mut self) -> Option<Range<u64>> {
        let blob = self.blob.clone();
        let mut state = lock(&blob.state);
        let whole_elsewhere = state.hand_to_whole_run(self.id);
        let (mut next, end) = state.run(self.id).map(|run| (run.next, run.end))?;
        while next < end {
            if blob.segment.is_present(next) && !state.is_awaited(next) {
                next += 1;
            } else if self.kind.is_ahead()
                && let Some(left_to) = state.left_to_another(self.id, next)
            {
                next = left_to;
            } else {
                break;
            }
        }
        let run = state.run(self.id)?;
        run.next = next;
        run.is_under_way = false;
        if next >= end || whole_elsewhere {
            return None;
        }
        // Before the source is chosen, so that what one sends that is not trusted any more is out of date.
        let (epoch, mistakes) = (blob.segment.epoch(), blob.sources.mistakes());
        if next != self.chunk || epoch != self.epoch || mistakes != self.mistakes {
            self.partial.clear();
            (self.chunk, self.epoch, self.mistakes) = (next, epoch, mistakes);
        }
        let start = blob.byte_range(next).start + self.partial.len() as u64;
        let mut last = next;
        while last + 1 < run.request_end && !blob.segment.is_present(last + 1) {
            last += 1;
        }
        run.request_end = last + 1;
        run.end = run.end.min(run.request_end);
        run.is_under_way = true;
        Some(start..blob.byte_range(last).end)
    }

    /// Counts what comes for this run.
    fn counter(&self) -> BlobBytes {
        let (feed, cause) = (self.blob.clone(), self.kind.cause());
        BlobBytes::new(move |bytes| feed.counts.arrived(cause, bytes))
    }

    fn source(&self) -> Result<LeasedSource> {
        self.blob.sources.leased()
    }

    /// One request: its answer and as much of its body as is wanted. The permit is given back while nothing
    /// is taken.
    async fn request(
        &mut self,
        leased: &LeasedSource,
        range: Range<u64>,
        permit: &mut Option<OwnedSemaphorePermit>,
    ) -> Result<Outcome> {
        let blob = self.blob.clone();
        blob.counts.asked();
        let mut body = blob.origin.open(&leased.source, range.clone(), self.counter()).await?;
        if body.range != range && !self.accept_whole(&body) {
            return Ok(Outcome::Served);
        }
        let body_end = chunk_count(body.range.end);
        while self.chunk < body_end {
            let bytes = self.next_chunk(&mut body, leased).await?;
            if blob.sources.mistakes() != self.mistakes || !self.deliver(bytes, leased).await {
                return Ok(Outcome::Rejected);
            }
            match self.step() {
                Step::Continue => {}
                Step::Leave => break,
                Step::Pause => {
                    drop(permit.take());
                    if !self.wait_for_more().await {
                        break;
                    }
                }
            }
        }
        Ok(Outcome::Served)
    }

    /// A body holds more than was asked for: the source does not do ranges. The run reads the whole blob then,
    /// unless another one is doing that already.
    fn accept_whole(&mut self, body: &BlobBody) -> bool {
        let mut state = lock(&self.blob.state);
        if !state.ranges_ignored {
            tracing::warn!(digest = %self.blob.digest, "the source ignores ranges; taking the whole blob");
        }
        state.ranges_ignored = true;
        if state.hand_to_whole_run(self.id) {
            return false;
        }
        let end = chunk_count(body.range.end);
        if let Some(run) = state.run(self.id) {
            if !run.is_whole {
                self.furthest = 0;
            }
            run.is_whole = true;
            run.end = end;
            run.request_end = end;
        }
        self.partial.clear();
        self.chunk = 0;
        true
    }

    /// Puts the next chunk together.
    async fn next_chunk(&mut self, body: &mut BlobBody, leased: &LeasedSource) -> Result<Bytes> {
        let range = self.blob.byte_range(self.chunk);
        let length = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        self.partial.reserve(length.saturating_sub(self.partial.len()));
        while self.partial.len() < length {
            let Some(piece) = body.pieces.next().await else {
                return Err(Error::new(
                    ErrorKind::Unavailable,
                    format!(
                        "blob {} from {}: the body ended at byte {}",
                        self.blob.digest,
                        leased.source.name(),
                        range.start + self.partial.len() as u64
                    ),
                ));
            };
            let piece = piece?;
            let reached = range.start + (self.partial.len() + piece.len()) as u64;
            if reached > self.furthest {
                self.furthest = reached;
                self.attempts.idle_since = clock::now();
                if let Some(run) = lock(&self.blob.state).run(self.id) {
                    run.last_failure = None;
                }
            }
            self.partial.extend_from_slice(&piece);
        }
        Ok(self.partial.split_to(length).freeze())
    }

    /// Checks a chunk, hands it to its readers and sends it to the cache. `false`: it is not what its digest
    /// says, or out of date, and is to be fetched again.
    async fn deliver(&mut self, bytes: Bytes, leased: &LeasedSource) -> bool {
        let blob = self.blob.clone();
        let chunk = self.chunk;
        let digest = blake3::hash(&bytes);
        if let Some(proof) = blob.proof.get()
            && proof.chunk_digest(chunk) != Some(digest.as_bytes())
        {
            return self.reject(chunk, leased);
        }
        let epoch = self.epoch;
        let was_awaited = {
            let mut state = lock(&blob.state);
            if !blob.is_current(epoch) {
                return false;
            }
            state.bring(self.id, chunk, &bytes)
        };
        let arrival = Arrival { was_awaited, is_ahead: self.kind.is_ahead() };
        self.attempts.succeeded();
        self.chunk += 1;
        let permit = blob.fetcher.stores.clone().acquire_owned().await.ok();
        while self.stores.try_join_next().is_some() {}
        self.stores.spawn_blocking(move || {
            blob.store(chunk, bytes, digest, epoch, arrival);
            drop(permit);
        });
        true
    }

    /// Counts a chunk that failed its own check. `true`: its readers have got their error, go on after it.
    fn reject(&mut self, chunk: u64, leased: &LeasedSource) -> bool {
        let blob = &self.blob;
        blob.counts.rejected(1);
        let source = leased.source.name();
        blob.log_rejected(chunk, source, NOT_ITS_BYTES);
        let rejections = self.chunk_rejections.entry(chunk).or_default();
        *rejections += 1;
        let elsewhere = blob.sources.distrust(&blob.digest);
        let mut state = lock(&blob.state);
        if *rejections < CHUNK_REJECTIONS_MAX || elsewhere {
            return false;
        }
        if let Some(pending) = state.slots.remove(&chunk) {
            pending.slot.complete(Err(Error::new(
                ErrorKind::Corrupt,
                format!(
                    "blob {} at byte {}: {source} sends bytes that do not match the digest, twice",
                    blob.digest,
                    blob.byte_range(chunk).start
                ),
            )));
        }
        if let Some(run) = state.run(self.id) {
            run.next = run.next.max(chunk + 1);
        }
        self.chunk += 1;
        true
    }

    fn step(&self) -> Step {
        let mut state = lock(&self.blob.state);
        let covered = self.kind.is_ahead() && state.covered_by_another(self.id, self.chunk).is_some();
        let rest_cached = (self.chunk..self.chunk + SKIP_MIN).all(|chunk| {
            chunk >= chunk_count(self.blob.bytes)
                || (self.blob.segment.is_present(chunk) && !state.is_awaited(chunk))
        });
        match state.run(self.id) {
            None => Step::Leave,
            Some(run) if self.chunk >= run.request_end => Step::Leave,
            Some(run) if run.is_whole => Step::Continue,
            Some(_) if covered || rest_cached => Step::Leave,
            Some(run) if self.chunk >= run.end => Step::Pause,
            Some(_) => Step::Continue,
        }
    }

    /// Waits, without taking more of the body, until the run's end has moved. `false`: the reader has stopped.
    async fn wait_for_more(&self) -> bool {
        let deadline = tokio::time::sleep(IDLE_MAX);
        tokio::pin!(deadline);
        loop {
            let wake = match lock(&self.blob.state).run(self.id) {
                None => return false,
                Some(run) if self.chunk < run.end => return true,
                Some(run) => run.wake.clone(),
            };
            tokio::select! {
                () = wake.notified() => {}
                () = &mut deadline => return self.stop_at_end(),
            }
        }
    }

    /// Gives the request up, unless its end has moved in the same moment.
    fn stop_at_end(&self) -> bool {
        match lock(&self.blob.state).run(self.id) {
            Some(run) if self.chunk < run.end => true,
            Some(run) => {
                run.request_end = run.end;
                false
            }
            None => false,
        }
    }

    /// Decides whether `failure` ends the run, and waits before the next attempt if not.
    async fn pause_after(&mut self, failure: Error, leased: &LeasedSource) -> Result<()> {
        self.attempts.failures += 1;
        let is_wrong = failure.kind() == ErrorKind::Corrupt;
        let elsewhere = match is_wrong {
            true => self.blob.sources.distrust(&self.blob.digest),
            false => {
                self.blob.sources.fail_over();
                false
            }
        };
        if let Some(run) = lock(&self.blob.state).run(self.id) {
            run.is_under_way = false;
            run.last_failure = Some(failure.clone());
        }
        let sources = u32::try_from(self.blob.sources.count()).unwrap_or(u32::MAX);
        // What came and is wrong is asked for once more, also where there is nobody else to ask.
        let attempts_max = if is_wrong {
            self.blob.counts.rejected(1);
            let (chunk, source) = (self.chunk, leased.source.name());
            self.blob.log_rejected(chunk, source, &failure.chain());
            sources.max(CHUNK_REJECTIONS_MAX)
        } else {
            sources
        };
        if !failure.kind().is_transient() && self.attempts.failures >= attempts_max && !elsewhere {
            return Err(self.explain(failure, leased));
        }
        let pause = self.attempts.backoff.pause(failure.retry_after());
        // Whoever has too much to do, said so or not, does without our guesses first.
        leased.limits.slow_read_ahead(pause);
        if self.attempts.idle_since.elapsed() + pause > leased.settings.retry_budget {
            return Err(self.explain(failure, leased));
        }
        tracing::debug!(
            digest = %self.blob.digest,
            source = leased.source.name(),
            failures = self.attempts.failures,
            pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX),
            error = failure.chain(),
            "a fetch failed; trying again"
        );
        tokio::time::sleep(pause).await;
        Ok(())
    }

    fn explain(&self, failure: Error, leased: &LeasedSource) -> Error {
        let offset = self.blob.byte_range(self.chunk).start + self.partial.len() as u64;
        failure.context(format!(
            "cannot fetch blob {} at byte {offset} from {} (attempt {}, {:.1} s without progress)",
            self.blob.digest,
            leased.source.name(),
            self.attempts.failures,
            self.attempts.idle_since.elapsed().as_secs_f64()
        ))
    }
}

impl Feed {
    /// Puts a chunk that was asked for in `epoch` into the cache, and closes its slot: from now on, readers find it
    /// there.
    pub(super) fn store(
        self: &Arc<Self>,
        chunk: u64,
        bytes: Bytes,
        digest: blake3::Hash,
        epoch: Epoch,
        arrival: Arrival,
    ) {
        // It may have become known since the chunk was handed out; what it disproves must not come to be proven.
        if self.is_disproved(chunk, &digest) {
            return self.reject_stored(chunk);
        }
        let length = bytes.len() as u64;
        let stored = match arrival.is_unread() {
            true => self.segment.store_unread(chunk, &bytes, digest, epoch),
            false => self.segment.store(chunk, &bytes, digest, epoch),
        };
        let is_here = matches!(stored, Stored::Stored | Stored::Skipped(SkipReason::AlreadyThere));
        if !is_here && arrival.was_awaited {
            let _state = lock(&self.state);
            if self.is_current(epoch) {
                self.fetcher.remember(self.id(), chunk, bytes);
            }
        }
        // Or since this was asked: then what was here before has been looked at, and this one has not.
        if self.is_disproved(chunk, &digest) {
            if matches!(stored, Stored::Stored) {
                self.segment.remove(chunk..chunk + 1);
            }
            self.fetcher.forget(self.id());
            return self.reject_stored(chunk);
        }
        let was_wanted = lock(&self.state).settle(chunk);
        if arrival.is_unread() {
            match stored {
                Stored::Stored if was_wanted => self.segment.note_read(chunk..chunk + 1),
                Stored::Stored => {}
                // Somebody else has brought it too.
                Stored::Skipped(SkipReason::AlreadyThere) => self.counts.dropped(length),
                Stored::Skipped(_) if was_wanted => {}
                Stored::Skipped(_) => self.counts.dropped(length),
            }
        }
        if is_here {
            self.verify_if_complete();
        }
        // Beside the check, which reads from memory what the disk is writing.
        if matches!(stored, Stored::Stored) {
            self.segment.sync_if_complete();
        }
    }

    /// Whether what was asked for in `epoch` may be handed out. To be asked under the lock of the state.
    pub(super) fn is_current(&self, epoch: Epoch) -> bool {
        self.segment.epoch() == epoch && self.check_not_rejected().is_ok()
    }

    fn is_disproved(&self, chunk: u64, digest: &blake3::Hash) -> bool {
        self.proof.get().is_some_and(|proof| proof.chunk_digest(chunk) != Some(digest.as_bytes()))
    }

    /// A chunk that was handed out turned out wrong before the cache had it.
    fn reject_stored(&self, chunk: u64) {
        self.counts.rejected(1);
        let source = self.source_names();
        self.log_rejected(chunk, &source, NOT_ITS_BYTES);
        lock(&self.state).settle(chunk);
        self.tell_rejected();
    }
}

#[cfg(test)]
mod tests;
