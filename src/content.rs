//! Reads file ranges: index, cache and fetch brought together.
//!
//! A [`Content`] is one mount's way to the bytes of its layers. A read is first tried against the cache alone,
//! in the caller's thread; what is missing is a task. No answer is ever shorter than what was asked for.

use std::collections::HashSet;
use std::fs::File;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::base::chunk::chunks_of;
use crate::base::{Digest, Error, ErrorKind, Result, chunk_range};
use crate::cache::{DirectSegment, Pin};
use crate::fetch::{Coming, Feed, FeedLease, FetchSettings, Fetcher, Wanted};
use crate::layer::FileBody;
use crate::registry::BlobSource;

pub use crate::fetch::Standing;

/// How often a chunk is asked for again that was evicted between its arrival and the read. Each turn needs a
/// whole cache of other chunks to pass in a few microseconds.
const TURNS_MAX: u32 = 8;

/// How one mount reads.
#[derive(Clone, Copy, Debug)]
pub struct ContentSettings {
    /// Whether a file's blob is fetched and verified before its first byte is served.
    pub verify_before_read: bool,
    /// Whether the rest of a file is fetched once it is plainly being read through.
    pub whole_files: bool,
    /// How long a read may wait while nothing at all arrives for its blob.
    pub read_timeout: Duration,
}

/// The content of all layers of one mount.
#[derive(Debug)]
pub struct Content {
    layers: Vec<FeedLease>,
    settings: ContentSettings,
}

/// A complete, verified cache file that the kernel may read itself; pinned in the cache while this lives.
#[derive(Debug)]
pub struct DirectFile {
    /// Byte for byte the file, from offset 0.
    pub file: File,
    /// Held for what its drop does.
    #[expect(dead_code, reason = "the pin does its work by being alive")]
    pin: Option<Pin>,
}

impl DirectFile {
    /// A file that no cache can evict.
    #[must_use]
    pub fn unpinned(file: File) -> Self {
        Self { file, pin: None }
    }
}

impl Content {
    /// The content of raw layers, each a blob with its length, fetched through `source`.
    ///
    /// # Errors
    /// As [`Fetcher::blob`].
    pub fn new(
        fetcher: &Arc<Fetcher>,
        source: &Arc<dyn BlobSource>,
        layers: impl IntoIterator<Item = (Digest, u64)>,
        settings: ContentSettings,
    ) -> Result<Self> {
        let blob_settings =
            FetchSettings { retry_budget: settings.read_timeout, whole_files: settings.whole_files };
        let layers = layers
            .into_iter()
            .map(|(digest, bytes)| fetcher.blob(&digest, bytes, source.clone(), blob_settings))
            .collect::<Result<_>>()?;
        Ok(Self { layers, settings })
    }

    fn blob(&self, layer: usize) -> &Arc<Feed> {
        self.layers[layer].feed()
    }

    /// Answers from the cache alone: fills `buffer` (cleared first) with exactly the bytes `range` of `file`, or returns `false` and leaves the read to [`Self::read`]. May wait for the disk, never for
    /// the network. `range` must lie within the file.
    ///
    /// # Errors
    /// `Corrupt` when the content was rejected.
    pub fn read_cached(&self, file: &FileBody, range: Range<u64>, buffer: &mut Vec<u8>) -> Result<bool> {
        let blob = self.blob(file.layer);
        blob.check_not_rejected()?;
        if self.settings.verify_before_read && !blob.is_verified() {
            return Ok(false);
        }
        let chunks = chunks_of(&range);
        let is_hit = blob.segment().read(range, buffer);
        if is_hit {
            blob.accessed(chunks);
        }
        Ok(is_hit)
    }

    /// Reads exactly `range` of `file`, from cache or network. Ends in an error when nothing
    /// arrives for the configured time.
    ///
    /// # Errors
    /// `Corrupt`, `TimedOut`, or what the source failed with once its attempts were used up.
    pub async fn read(&self, file: &FileBody, range: Range<u64>) -> Result<Vec<u8>> {
        let layer = file.layer;
        let blob = self.blob(layer);
        if self.settings.verify_before_read && !blob.is_verified() {
            blob.verified().await?;
        }
        let mut out = Vec::with_capacity(usize::try_from(range.end - range.start).unwrap_or_default());
        let chunks = chunks_of(&range);
        let mut wanted = blob.want(chunks.clone())?.into_iter();
        blob.accessed(chunks.clone());
        for chunk in chunks {
            let whole = chunk_range(chunk, blob.bytes());
            let part = range.start.max(whole.start)..range.end.min(whole.end);
            self.append(layer, chunk, part, wanted.next(), &mut out).await?;
        }
        Ok(out)
    }

    /// Appends the bytes `part` of chunk `chunk` to `out`.
    async fn append(
        &self,
        layer: usize,
        chunk: u64,
        part: Range<u64>,
        mut wanted: Option<Wanted>,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let blob = self.blob(layer);
        let mut buffer = Vec::new();
        for _ in 0..TURNS_MAX {
            if let Some(Wanted::Coming(coming)) = wanted {
                let bytes = self.wait(layer, chunk, part.start, coming).await?;
                let chunk_start = chunk_range(chunk, blob.bytes()).start;
                let slice = to_usize(part.start - chunk_start)..to_usize(part.end - chunk_start);
                let bytes = bytes.get(slice).ok_or_else(|| {
                    Error::new(ErrorKind::Corrupt, format!("blob {}: chunk {chunk} is short", blob.digest()))
                })?;
                out.extend_from_slice(bytes);
                return Ok(());
            }
            if blob.segment().read(part.clone(), &mut buffer) {
                out.extend_from_slice(&buffer);
                return Ok(());
            }
            wanted = blob.want(chunk..chunk + 1)?.pop();
        }
        Err(Error::new(
            ErrorKind::Io,
            format!(
                "blob {} at byte {}: evicted {TURNS_MAX} times before it could be read; the cache is too small",
                blob.digest(),
                part.start
            ),
        ))
    }

    /// Waits for a chunk as long as anything arrives for its blob.
    async fn wait(&self, layer: usize, chunk: u64, start: u64, coming: Coming) -> Result<Bytes> {
        let blob = self.blob(layer);
        let limit = self.settings.read_timeout;
        let coming = coming.bytes();
        tokio::pin!(coming);
        loop {
            let before = blob.progress();
            match tokio::time::timeout(limit, &mut coming).await {
                Ok(result) => return result,
                Err(_) if blob.progress() != before => {}
                Err(_) => return Err(self.timed_out(layer, chunk, start, limit)),
            }
        }
    }

    fn timed_out(&self, layer: usize, chunk: u64, start: u64, limit: Duration) -> Error {
        let blob = self.blob(layer);
        let message = format!(
            "blob {} at byte {start} from {}: nothing came within {:.1} s",
            blob.digest(),
            blob.source_names(),
            limit.as_secs_f64()
        );
        match blob.why_missing(chunk) {
            Some(cause) => Error::with_source(ErrorKind::TimedOut, message, cause),
            None => Error::new(ErrorKind::TimedOut, message),
        }
    }

    /// Told for each `open` of `file`: checks in the background what an earlier process
    /// has left in the cache, so that a later open can be handed to the kernel.
    pub fn opened(&self, file: &FileBody) {
        self.blob(file.layer).check_in_background();
    }

    /// `file` as a plain file for the kernel, if it is complete and verified.
    #[must_use]
    pub fn direct(&self, file: &FileBody) -> Option<DirectFile> {
        let blob = self.blob(file.layer);
        if !blob.is_verified() || blob.bytes() == 0 {
            return None;
        }
        let DirectSegment { file, pin } = blob.segment().open_direct()?;
        Some(DirectFile { file, pin: Some(pin) })
    }

    /// The digest of layer `layer`.
    #[must_use]
    pub fn digest(&self, layer: usize) -> &Digest {
        self.blob(layer).digest()
    }

    /// How many bytes of `file` are cached.
    #[must_use]
    pub fn cached_bytes(&self, file: &FileBody) -> u64 {
        self.blob(file.layer).segment().cached_bytes()
    }

    /// What is known about the cached bytes of `file`.
    #[must_use]
    pub fn standing(&self, file: &FileBody) -> Standing {
        self.blob(file.layer).standing()
    }

    /// Bytes fetched for these layers since the mount.
    #[must_use]
    pub fn network_bytes(&self) -> u64 {
        self.leases().map(FeedLease::network_bytes).sum()
    }

    /// Chunks of these layers that failed their check since the mount.
    #[must_use]
    pub fn rejected_chunks(&self) -> u64 {
        self.leases().map(FeedLease::rejected_chunks).sum()
    }

    /// One lease for each blob: layers of the same content share theirs, and what was fetched was fetched once.
    fn leases(&self) -> impl Iterator<Item = &FeedLease> {
        let mut seen = HashSet::new();
        self.layers.iter().filter(move |lease| seen.insert(lease.feed().digest()))
    }

    /// Calls `callback` with the layer whenever bytes already served are found wrong, so that the kernel's copy
    /// can be dropped. Not called from a thread that serves reads.
    pub fn on_rejected(&self, callback: Box<dyn Fn(usize) + Send + Sync>) {
        let callback: Arc<dyn Fn(usize) + Send + Sync> = callback.into();
        for (layer, lease) in self.layers.iter().enumerate() {
            let callback = callback.clone();
            lease.on_rejected(Arc::new(move || callback(layer)));
        }
    }

    /// Fetches `file` whole, until all of it is in the cache.
    ///
    /// # Errors
    /// What the fetch failed with; `NoSpace` when the cache cannot hold it.
    pub async fn fill(&self, file: &FileBody) -> Result<()> {
        self.blob(file.layer).fill(false).await
    }
}

/// Offsets within a chunk are far below any `usize`.
fn to_usize(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
