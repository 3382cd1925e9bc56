//! Reading a range of a segment: from the cache, or from what is on its way.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::base::chunk::chunks_of;
use crate::base::{Error, ErrorKind, Joined, Result, chunk_range};

use super::feed::{Coming, Feed, Wanted};
use super::readers::Served;

/// How often a chunk is asked for again that was evicted between its arrival and the read. Each turn needs a
/// whole cache of other chunks to pass in a few microseconds.
const TURNS_MAX: u32 = 8;

impl Feed {
    /// Fills `buffer` (cleared first) with exactly the bytes `range` of the segment from the cache alone; `false`: not all
    /// of them are there. Waits for the disk at most.
    ///
    /// # Errors
    /// `Corrupt` for a blob that was rejected for good.
    pub fn read_cached(self: &Arc<Self>, range: Range<u64>, buffer: &mut Vec<u8>) -> Result<bool> {
        self.check_not_rejected()?;
        let chunks = chunks_of(&range);
        let is_hit = self.segment.read(range, buffer);
        if is_hit {
            self.accessed(chunks);
        }
        Ok(is_hit)
    }

    /// Appends exactly the bytes `range` of the segment to `out`, and says where they came from. Ends in an error when
    /// nothing at all arrives for `limit`.
    ///
    /// # Errors
    /// `Corrupt`, `TimedOut`, or what the source failed with once its attempts were used up.
    pub async fn read(
        self: &Arc<Self>,
        range: Range<u64>,
        limit: Duration,
        out: &mut Joined,
    ) -> Result<Served> {
        let wanted = self.want(chunks_of(&range))?;
        self.accessed(chunks_of(&range));
        self.take(wanted, range, limit, out).await
    }

    /// The same for a reader whose next steps are known, so that nothing is guessed from this one.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub async fn read_quietly(
        self: &Arc<Self>,
        range: Range<u64>,
        limit: Duration,
        out: &mut Joined,
    ) -> Result<Served> {
        let wanted = self.want(chunks_of(&range))?;
        self.take(wanted, range, limit, out).await
    }

    async fn take(
        self: &Arc<Self>,
        wanted: Vec<Wanted>,
        range: Range<u64>,
        limit: Duration,
        out: &mut Joined,
    ) -> Result<Served> {
        let mut wanted = wanted.into_iter();
        let mut served = Served::default();
        for chunk in chunks_of(&range) {
            let whole = chunk_range(chunk, self.bytes);
            let part = range.start.max(whole.start)..range.end.min(whole.end);
            let bytes = part.end - part.start;
            let from_network = self.append(chunk, part, wanted.next(), limit, out).await?;
            served.add(from_network, bytes);
        }
        Ok(served)
    }

    /// Appends the bytes `part` of chunk `chunk` to `out`; says whether they came from the network.
    async fn append(
        self: &Arc<Self>,
        chunk: u64,
        part: Range<u64>,
        mut wanted: Option<Wanted>,
        limit: Duration,
        out: &mut Joined,
    ) -> Result<bool> {
        let mut buffer = Vec::new();
        for _ in 0..TURNS_MAX {
            if let Some(Wanted::Coming(coming)) = wanted {
                let bytes = self.wait(chunk, part.start, coming, limit).await?;
                let chunk_start = chunk_range(chunk, self.bytes).start;
                let slice = to_usize(part.start - chunk_start)..to_usize(part.end - chunk_start);
                if bytes.len() < slice.end {
                    let message = format!("blob {}: chunk {chunk} is short", self.digest);
                    return Err(Error::new(ErrorKind::Corrupt, message));
                }
                out.push(bytes.slice(slice));
                return Ok(true);
            }
            if self.segment.read(part.clone(), &mut buffer) {
                out.push(buffer.into());
                return Ok(false);
            }
            wanted = self.want(chunk..chunk + 1)?.pop();
        }
        Err(Error::new(
            ErrorKind::Io,
            format!(
                "blob {} at byte {}: evicted {TURNS_MAX} times before it could be read; the cache is too small",
                self.digest, part.start
            ),
        ))
    }

    /// Waits for a chunk as long as anything arrives for its blob.
    async fn wait(&self, chunk: u64, start: u64, coming: Coming, limit: Duration) -> Result<Bytes> {
        let coming = coming.bytes();
        tokio::pin!(coming);
        loop {
            let before = self.progress();
            match tokio::time::timeout(limit, &mut coming).await {
                Ok(result) => return result,
                Err(_) if self.progress() != before => {}
                Err(_) => return Err(self.timed_out(chunk, start, limit)),
            }
        }
    }

    fn timed_out(&self, chunk: u64, start: u64, limit: Duration) -> Error {
        let message = format!(
            "blob {} at byte {start} from {}: nothing came within {:.1} s",
            self.digest,
            self.source_names(),
            limit.as_secs_f64()
        );
        match self.why_missing(chunk) {
            Some(cause) => Error::with_source(ErrorKind::TimedOut, message, cause),
            None => Error::new(ErrorKind::TimedOut, message),
        }
    }
}

/// Offsets within a chunk are far below any `usize`.
fn to_usize(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
