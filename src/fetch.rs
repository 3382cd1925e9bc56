//! Fetching: brings the chunks of blobs from their sources into the cache, and is the only one to ask a
//! source for blobs.
//!
//! The noun is the [`Feed`]: one for each segment, shared by all mounts that show it, so that each chunk is
//! fetched once however many readers want it. Its [`Origin`] says how the segment's bytes come out of the blob: they
//! are a part of it, or what a part of it decodes to. A *run* is one walk forward through a segment over one or more
//! requests; readers wait in *slots* for the chunks that a run passes. What a reader wants is fetched
//! before what read-ahead guesses.
//!
//! A chunk is handed to its readers as soon as it is whole, before the disk has it; if the cache cannot
//! take it, readers are served all the same. A chunk whose digest is known is checked before anybody sees it;
//! a segment without known chunk digests is checked once it is complete, as its [`Proving`] says.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use crate::base::{Digest, Error, ErrorKind, Result, chunk_count};
use crate::cache::{Cache, DocumentKind, SegmentId};
use crate::layer::{LayerProof, SegmentProof};
use crate::registry::BlobSource;

use limits::SourceLimits;

mod counters;
mod feed;
mod fill;
mod lease;
mod limits;
mod origin;
mod passage;
mod readers;
mod reading;
mod run;
mod slot;
mod sources;
mod state;
mod verify;
mod sequence;
mod window;

pub use counters::{ByCause, Cause, Counters, Totals};
pub use feed::{Coming, Feed, Proving, Standing, Wanted};
pub use lease::{FeedLease, Tell};
pub use origin::{BlobBytes, Origin, SegmentSource};
pub use passage::Passage;
pub use readers::{Readers, Served, Wait};
pub use sequence::Sequence;
pub use sources::Sources;

/// Chunks on their way to the disk at once; each holds its bytes in memory.
const STORES_MAX: usize = 16;

/// Chunks kept in memory that the cache could not take. The kernel asks for a chunk in up to eight pieces,
/// and each would be a fetch of its own.
const RECENT_MAX: usize = 16;

/// The limits and the memory that all blobs share.
#[derive(Debug)]
pub struct Fetcher {
    cache: Arc<Cache>,
    handle: Handle,
    /// By the source's name.
    limits: Mutex<HashMap<String, Weak<SourceLimits>>>,
    stores: Arc<Semaphore>,
    /// Turns of checks that a reader may wait for, and of those that nobody waits for.
    checks: Arc<Semaphore>,
    rechecks: Arc<Semaphore>,
    /// Chunks of the cache for blobs that are being fetched whole, and how many of them there are.
    fill_room: Semaphore,
    fill_chunks_max: u32,
    recent: Mutex<VecDeque<(SegmentId, u64, Bytes)>>,
    feeds: Mutex<HashMap<SegmentId, Weak<Feed>>>,
    totals: Arc<Totals>,
    readers: Arc<Readers>,
}

/// A segment, and where its bytes come from.
#[derive(Debug)]
pub struct SegmentSpec {
    /// Its place in the cache.
    pub id: SegmentId,
    /// The blob that the bytes are of, for errors.
    pub blob: Digest,
    /// Its bytes.
    pub bytes: u64,
    /// How they come out of the blob.
    pub origin: Origin,
    /// Where the blob is to be had.
    pub sources: Arc<Sources>,
    /// How they come to be proven.
    pub proving: Proving,
    /// The digests of its chunks, where they are known.
    pub proof: Option<SegmentProof>,
}

/// How one mount wants a blob to be fetched.
#[derive(Clone, Copy, Debug)]
pub struct FetchSettings {
    /// How long a fetch may go without any progress before its readers get an error.
    pub retry_budget: Duration,
    /// Whether the rest of a file is fetched once it is plainly being read through.
    pub whole_files: bool,
}

impl Fetcher {
    /// A fetcher into `cache` whose tasks run on `handle`.
    #[must_use]
    pub fn new(cache: Arc<Cache>, handle: Handle) -> Arc<Self> {
        // Documents may take an eighth of the cache.
        let fill_chunks = chunk_count(cache.bytes_max() / 8 * 7);
        let fill_chunks_max = u32::try_from(fill_chunks).unwrap_or(u32::MAX);
        let checks_max = std::thread::available_parallelism().map_or(1, usize::from);
        Arc::new(Self {
            cache,
            handle,
            limits: Mutex::new(HashMap::new()),
            stores: Arc::new(Semaphore::new(STORES_MAX)),
            checks: Arc::new(Semaphore::new(checks_max)),
            rechecks: Arc::new(Semaphore::new(checks_max)),
            fill_room: Semaphore::new(fill_chunks_max as usize),
            fill_chunks_max,
            recent: Mutex::new(VecDeque::new()),
            feeds: Mutex::new(HashMap::new()),
            totals: Arc::default(),
            readers: Arc::default(),
        })
    }

    /// The cache that is fetched into.
    #[must_use]
    pub fn cache(&self) -> &Arc<Cache> {
        &self.cache
    }

    /// What was counted of all that was fetched.
    #[must_use]
    pub fn totals(&self) -> &Arc<Totals> {
        &self.totals
    }

    /// What was counted of all readers.
    #[must_use]
    pub fn readers(&self) -> &Arc<Readers> {
        &self.readers
    }

    /// The blob `digest` of `bytes` bytes as one segment, fetched through `source` while the lease lives; other mounts'
    /// sources serve too. Whoever asks must have been shown the blob's name by a manifest that its own
    /// credentials resolved. `settings.whole_files` counts for the first lease of a blob.
    ///
    /// # Errors
    /// `Corrupt` when the blob is already known under another size, or cannot have this one.
    pub fn blob(
        self: &Arc<Self>,
        digest: &Digest,
        bytes: u64,
        source: Arc<dyn BlobSource>,
        settings: FetchSettings,
    ) -> Result<FeedLease> {
        // No read of it would ever ask for anything that could be checked.
        if bytes == 0 && *digest != Digest::of(digest.algorithm(), b"") {
            let text =
                format!("blob {digest} has 0 bytes in the manifest, but that is not the digest of nothing");
            return Err(Error::new(ErrorKind::Corrupt, text));
        }
        let id = SegmentId { layer: digest.clone(), number: 0 };
        let known = lock(&self.feeds).get(&id).and_then(Weak::upgrade);
        let feed = match known {
            Some(feed) => feed,
            None => {
                let proof = self.proof(&id, bytes);
                let spec = SegmentSpec {
                    id,
                    blob: digest.clone(),
                    bytes,
                    origin: Origin::blob(digest.clone(), bytes),
                    sources: Arc::default(),
                    proving: Proving::Whole,
                    proof,
                };
                self.feed(spec, settings.whole_files)?
            }
        };
        FeedLease::new(feed, bytes, source, settings)
    }

    /// The feed of the segment that `spec` describes: the same one for all while anybody holds it. It fetches nothing
    /// until there is a source.
    ///
    /// # Errors
    /// As [`Cache::segment`].
    pub fn feed(self: &Arc<Self>, spec: SegmentSpec, whole_files: bool) -> Result<Arc<Feed>> {
        let id = spec.id.clone();
        let sources = Arc::clone(&spec.sources);
        // One whose mounts are gone may still answer a last reader; it fetches nothing for others.
        let known = |feeds: &HashMap<SegmentId, Weak<Feed>>| {
            feeds.get(&id).and_then(Weak::upgrade).filter(|feed| Arc::ptr_eq(&feed.sources, &sources))
        };
        if let Some(known) = known(&lock(&self.feeds)) {
            return Ok(known);
        }
        let segment = self.cache.segment(&id, spec.bytes)?;
        let made = Arc::new(Feed::new(self.clone(), spec, segment, whole_files));
        let mut feeds = lock(&self.feeds);
        feeds.retain(|_, feed| feed.strong_count() > 0);
        if let Some(known) = known(&feeds) {
            return Ok(known);
        }
        feeds.insert(id.clone(), Arc::downgrade(&made));
        Ok(made)
    }

    /// The chunk digests of the segment `id` of `bytes` bytes that were recorded when its layer was verified.
    #[must_use]
    pub fn proof(&self, id: &SegmentId, bytes: u64) -> Option<SegmentProof> {
        let encoded = self.cache.read_document(DocumentKind::Proof, &id.layer)?;
        let proof = LayerProof::decode(&encoded, &id.layer).ok()?;
        proof.segment(id.number).filter(|proof| proof.bytes() == bytes).cloned()
    }

    /// Keeps what `proof` says of its layer's segments, beside what is known of others.
    pub fn record_proof(&self, proof: &LayerProof) {
        let layer = proof.layer();
        let before = self.cache.read_document(DocumentKind::Proof, layer);
        let before = before.and_then(|encoded| LayerProof::decode(&encoded, layer).ok());
        let all = before.map_or_else(|| proof.clone(), |before| before.with(proof));
        if let Err(error) = self.cache.write_document(DocumentKind::Proof, layer, &all.encode()) {
            tracing::warn!(digest = %layer, error = error.chain(), "the digests of the verified chunks are not kept");
        }
    }

    /// What all requests to the source `name` share.
    fn limits_of(&self, name: &str) -> Arc<SourceLimits> {
        let mut limits = lock(&self.limits);
        if let Some(known) = limits.get(name).and_then(Weak::upgrade) {
            return known;
        }
        limits.retain(|_, limits| limits.strong_count() > 0);
        let made = Arc::new(SourceLimits::default());
        limits.insert(name.to_owned(), Arc::downgrade(&made));
        made
    }

    fn recall(&self, id: &SegmentId, chunk: u64) -> Option<Bytes> {
        let recent = lock(&self.recent);
        recent.iter().find(|(of, number, _)| *number == chunk && of == id).map(|(_, _, bytes)| bytes.clone())
    }

    fn remember(&self, id: &SegmentId, chunk: u64, bytes: Bytes) {
        let mut recent = lock(&self.recent);
        recent.retain(|(of, number, _)| *number != chunk || of != id);
        if recent.len() == RECENT_MAX {
            recent.pop_front();
        }
        recent.push_back((id.clone(), chunk, bytes));
    }

    /// Drops what is remembered of the segment `id`, and returns those chunks.
    fn forget(&self, id: &SegmentId) -> Vec<(u64, Bytes)> {
        let mut recent = lock(&self.recent);
        let (forgotten, kept) = std::mem::take(&mut *recent).into_iter().partition(|(of, _, _)| of == id);
        *recent = kept;
        let forgotten: VecDeque<(SegmentId, u64, Bytes)> = forgotten;
        forgotten.into_iter().map(|(_, chunk, bytes)| (chunk, bytes)).collect()
    }
}

/// Nothing is left half changed by a panic under these locks: each section is a few assignments.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
