//! Fetching: brings the chunks of blobs from their sources into the cache, and is the only one to ask a
//! source for blobs.
//!
//! The noun is the [`Blob`]: one for each digest, shared by all mounts that show it, so that each chunk is
//! fetched once however many readers want it. A *run* is one walk forward through a blob over one or more
//! requests; readers wait in *slots* for the chunks that a run passes. What a reader wants is fetched
//! before what read-ahead guesses.
//!
//! A chunk is handed to its readers as soon as it is whole, before the disk has it; if the cache cannot
//! take it, readers are served all the same. A chunk whose digest is known is checked before anybody sees it;
//! a blob without known chunk digests is checked once it is complete, and its chunks' digests are recorded.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use crate::base::{Digest, Error, ErrorKind, Result, chunk_count};
use crate::cache::{Cache, DocumentKind, SegmentId};
use crate::layer::LayerProof;
use crate::registry::BlobSource;

use limits::SourceLimits;

mod blob;
mod fill;
mod lease;
mod limits;
mod run;
mod slot;
mod state;
mod verify;
mod window;

pub use blob::{Blob, Coming, Counters, Standing, Wanted};
pub use lease::BlobLease;

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
    /// Chunks of the cache for blobs that are being fetched whole, and how many of them there are.
    fill_room: Semaphore,
    fill_chunks_max: u32,
    recent: Mutex<VecDeque<(Digest, u64, Bytes)>>,
    blobs: Mutex<HashMap<Digest, Weak<Blob>>>,
}

/// How one mount wants a blob to be fetched.
#[derive(Clone, Copy, Debug)]
pub struct BlobSettings {
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
        Arc::new(Self {
            cache,
            handle,
            limits: Mutex::new(HashMap::new()),
            stores: Arc::new(Semaphore::new(STORES_MAX)),
            fill_room: Semaphore::new(fill_chunks_max as usize),
            fill_chunks_max,
            recent: Mutex::new(VecDeque::new()),
            blobs: Mutex::new(HashMap::new()),
        })
    }

    /// The cache that is fetched into.
    #[must_use]
    pub fn cache(&self) -> &Arc<Cache> {
        &self.cache
    }

    /// The blob `digest` of `bytes` bytes, fetched through `source` while the lease lives; other mounts'
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
        settings: BlobSettings,
    ) -> Result<BlobLease> {
        // No read of it would ever ask for anything that could be checked.
        if bytes == 0 && *digest != Digest::of(digest.algorithm(), b"") {
            let text =
                format!("blob {digest} has 0 bytes in the manifest, but that is not the digest of nothing");
            return Err(Error::new(ErrorKind::Corrupt, text));
        }
        let known = lock(&self.blobs).get(digest).and_then(Weak::upgrade);
        if let Some(blob) = known {
            return BlobLease::new(blob, bytes, source, settings);
        }
        let id = SegmentId { layer: digest.clone(), number: 0 };
        let segment = self.cache.segment(&id, bytes)?;
        let index = self
            .cache
            .read_document(DocumentKind::Proof, digest)
            .and_then(|encoded| LayerProof::decode(&encoded, digest, bytes).ok());
        let made = Arc::new(Blob::new(self.clone(), digest.clone(), bytes, segment, index, settings));
        let blob = {
            let mut blobs = lock(&self.blobs);
            blobs.retain(|_, blob| blob.strong_count() > 0);
            match blobs.get(digest).and_then(Weak::upgrade) {
                Some(other) => other,
                None => {
                    blobs.insert(digest.clone(), Arc::downgrade(&made));
                    made
                }
            }
        };
        BlobLease::new(blob, bytes, source, settings)
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

    fn recall(&self, digest: &Digest, chunk: u64) -> Option<Bytes> {
        let recent = lock(&self.recent);
        recent
            .iter()
            .find(|(of, number, _)| *number == chunk && of == digest)
            .map(|(_, _, bytes)| bytes.clone())
    }

    fn remember(&self, digest: &Digest, chunk: u64, bytes: Bytes) {
        let mut recent = lock(&self.recent);
        recent.retain(|(of, number, _)| *number != chunk || of != digest);
        if recent.len() == RECENT_MAX {
            recent.pop_front();
        }
        recent.push_back((digest.clone(), chunk, bytes));
    }

    fn forget(&self, digest: &Digest) {
        lock(&self.recent).retain(|(of, _, _)| of != digest);
    }
}

/// Nothing is left half changed by a panic under these locks: each section is a few assignments.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
