//! A sequence: a blob, or a part of one, from its start to its end, read once and not cached.
//!
//! For whoever makes something else of a blob than its bytes. Broken transfers go on at the byte after the last one
//! received, at the next source's turn and after growing pauses, for as long as any mount wants it: what is wanted of
//! a first reading has bounds of its own. Nothing here checks digests.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;

use crate::base::backoff::Backoff;
use crate::base::{Digest, Error, ErrorKind, Result};
use crate::registry::BlobBody;

use super::run::{PAUSE_FIRST, PAUSE_MAX};
use super::sources::LeasedSource;
use super::state::RunKind;
use super::{BlobBytes, Sources};

/// See the module's text.
pub struct Sequence {
    sources: Arc<Sources>,
    digest: Digest,
    bytes: u64,
    /// How far it is read.
    end: u64,
    counter: BlobBytes,
    position: u64,
    body: Option<BlobBody>,
    backoff: Backoff,
    /// Failures since the last byte came.
    failures: usize,
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
    /// The blob `digest` of `bytes` bytes from its start.
    #[must_use]
    pub fn new(sources: Arc<Sources>, digest: Digest, bytes: u64, counter: BlobBytes) -> Self {
        let backoff = Backoff::new(PAUSE_FIRST, PAUSE_MAX);
        Self { sources, digest, bytes, end: bytes, counter, position: 0, body: None, backoff, failures: 0 }
    }

    /// The part `range` of the same.
    #[must_use]
    pub fn part(
        sources: Arc<Sources>,
        digest: Digest,
        bytes: u64,
        range: Range<u64>,
        counter: BlobBytes,
    ) -> Self {
        Self { position: range.start, end: range.end, ..Self::new(sources, digest, bytes, counter) }
    }

    /// The next piece; none at the end.
    ///
    /// # Errors
    /// What each source failed with for good; `Unavailable` when all mounts are gone.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        while self.position < self.end {
            let leased = self.sources.leased()?;
            match self.attempt(&leased).await {
                Ok(piece) => {
                    self.position += piece.len() as u64;
                    self.failures = 0;
                    self.backoff = Backoff::new(PAUSE_FIRST, PAUSE_MAX);
                    return Ok(Some(piece));
                }
                Err(failure) => self.pause_after(failure, &leased).await?,
            }
        }
        Ok(None)
    }

    async fn attempt(&mut self, leased: &LeasedSource) -> Result<Bytes> {
        loop {
            let body = match &mut self.body {
                Some(body) => body,
                None => {
                    let _permit = leased.limits.permit(RunKind::Demand).await;
                    let range = self.position..self.end;
                    let body = leased.source.blob(&self.digest, self.bytes, range).await?;
                    self.body.insert(self.counter.counted(body))
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
                let mut piece = piece.split_off(known);
                piece.truncate(usize::try_from(self.end - self.position).unwrap_or(usize::MAX));
                return Ok(piece);
            }
        }
    }

    async fn pause_after(&mut self, failure: Error, leased: &LeasedSource) -> Result<()> {
        self.body = None;
        self.failures += 1;
        let elsewhere = match failure.kind() {
            ErrorKind::Corrupt => self.sources.distrust(&self.digest),
            _ => {
                self.sources.fail_over();
                false
            }
        };
        let source = leased.source.name();
        let failure = failure
            .context(format!("cannot fetch blob {} at byte {} from {source}", self.digest, self.position));
        if !failure.kind().is_transient() && self.failures >= self.sources.count() && !elsewhere {
            return Err(failure);
        }
        let pause = self.backoff.pause(failure.retry_after());
        leased.limits.slow_read_ahead(pause);
        let failure = failure.chain();
        tracing::warn!(failures = self.failures, "{failure}; trying again");
        self.sources.failed(failure);
        tokio::time::sleep(pause).await;
        Ok(())
    }
}
