//! A sequence: a whole blob from its start to its end, read once and not cached.
//!
//! For whoever makes something else of a blob than its bytes. Broken transfers go on at the byte after the last one
//! received, at the next source's turn and after growing pauses, until nothing has come for the budget. Nothing here
//! checks digests.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt as _;

use crate::base::backoff::Backoff;
use crate::base::{Digest, Error, ErrorKind, Result, clock};
use crate::registry::{BlobBody, BlobSource};

use super::limits::SourceLimits;
use super::run::{PAUSE_FIRST, PAUSE_MAX};
use super::state::RunKind;
use super::{BlobBytes, Fetcher};

/// Gives the sources of a blob, whose mounts come and go meanwhile.
pub trait SequenceSource: Send + Sync {
    /// The source whose turn is `turn`, and how long it may go without progress; none when all are gone.
    fn source(&self, turn: usize) -> Option<(Arc<dyn BlobSource>, Duration)>;
}

/// See the module's text.
pub struct Sequence {
    fetcher: Arc<Fetcher>,
    sources: Arc<dyn SequenceSource>,
    digest: Digest,
    bytes: u64,
    counter: BlobBytes,
    position: u64,
    turn: usize,
    body: Option<BlobBody>,
    backoff: Backoff,
    idle_since: Instant,
}

impl std::fmt::Debug for Sequence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sequence")
            .field("digest", &self.digest)
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}

impl Sequence {
    /// The blob `digest` of `bytes` bytes from its start, beginning with the source whose turn is `turn`.
    #[must_use]
    pub fn new(
        fetcher: Arc<Fetcher>,
        sources: Arc<dyn SequenceSource>,
        digest: Digest,
        bytes: u64,
        turn: usize,
        counter: BlobBytes,
    ) -> Self {
        Self {
            fetcher,
            sources,
            digest,
            bytes,
            counter,
            position: 0,
            turn,
            body: None,
            backoff: Backoff::new(PAUSE_FIRST, PAUSE_MAX),
            idle_since: clock::now(),
        }
    }

    /// The next piece; none at the end.
    ///
    /// # Errors
    /// What the sources failed with once the attempts were used up.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        while self.position < self.bytes {
            let Some((source, budget)) = self.sources.source(self.turn) else {
                return Err(Error::new(ErrorKind::Unavailable, "the mount has ended"));
            };
            let limits = self.fetcher.limits_of(source.name());
            match self.attempt(&source, &limits).await {
                Ok(piece) => {
                    self.position += piece.len() as u64;
                    self.idle_since = clock::now();
                    self.backoff = Backoff::new(PAUSE_FIRST, PAUSE_MAX);
                    return Ok(Some(piece));
                }
                Err(failure) => self.pause_after(failure, &source, &limits, budget).await?,
            }
        }
        Ok(None)
    }

    async fn attempt(&mut self, source: &Arc<dyn BlobSource>, limits: &SourceLimits) -> Result<Bytes> {
        loop {
            let body = match &mut self.body {
                Some(body) => body,
                None => {
                    let _permit = limits.permit(RunKind::Demand).await;
                    let range = self.position..self.bytes;
                    self.body
                        .insert(self.counter.counted(source.blob(&self.digest, self.bytes, range).await?))
                }
            };
            let Some(piece) = body.pieces.next().await else {
                let text = format!("the body ended at byte {}", body.range.start);
                return Err(Error::new(ErrorKind::Unavailable, text));
            };
            let mut piece = piece?;
            // A source that does not do ranges sends what is here already.
            let known = usize::try_from(self.position.saturating_sub(body.range.start)).unwrap_or(usize::MAX);
            body.range.start += piece.len() as u64;
            if known < piece.len() {
                return Ok(piece.split_off(known));
            }
        }
    }

    async fn pause_after(
        &mut self,
        failure: Error,
        source: &Arc<dyn BlobSource>,
        limits: &SourceLimits,
        budget: Duration,
    ) -> Result<()> {
        self.body = None;
        self.turn += 1;
        let pause = self.backoff.pause(failure.retry_after());
        limits.slow_read_ahead(pause);
        let others = self.sources.source(self.turn).is_some_and(|(next, _)| !Arc::ptr_eq(&next, source));
        let is_final = !failure.kind().is_transient() && !others;
        if is_final || self.idle_since.elapsed() + pause > budget {
            return Err(failure.context(format!(
                "cannot fetch blob {} at byte {} from {} ({:.1} s without progress)",
                self.digest,
                self.position,
                source.name(),
                self.idle_since.elapsed().as_secs_f64()
            )));
        }
        tracing::debug!(digest = %self.digest, source = source.name(), error = failure.chain(), "a fetch failed; trying again");
        tokio::time::sleep(pause).await;
        Ok(())
    }
}
