//! Reads file ranges: index, cache and fetch brought together.
//!
//! A [`Content`] is one mount's way to the bytes of its layers. A read is first tried against the cache alone,
//! in the caller's thread; what is missing is a task. No answer is ever shorter than what was asked for.

mod pieces;

use std::collections::HashSet;
use std::fs::File;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::base::chunk::chunks_of;
use crate::base::{Digest, Histogram, Joined, Result};
use crate::cache::{DirectSegment, Pin, SegmentId};
use crate::fetch::{Counters, Feed, FeedLease, FetchSettings, Fetcher, Readers, Served};
use crate::indexing::{LayerLease, Watcher};
use crate::layer::{Extents, FileBody};
use crate::registry::BlobSource;

use pieces::{Piece, pieces};

pub use crate::fetch::Standing;

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

impl ContentSettings {
    /// What they mean for fetching.
    #[must_use]
    pub fn fetch(&self) -> FetchSettings {
        FetchSettings { retry_budget: self.read_timeout, whole_files: self.whole_files }
    }
}

/// The bytes of one layer.
#[derive(Debug)]
pub enum LayerContent {
    /// The blob is the only file.
    Whole(FeedLease),
    /// Files are parts of what the blob holds.
    Parts(LayerLease),
}

impl LayerContent {
    fn blob(&self) -> &Digest {
        match self {
            Self::Whole(lease) => lease.feed().digest(),
            Self::Parts(lease) => lease.layer().blob(),
        }
    }

    fn readers(&self) -> &Arc<Readers> {
        match self {
            Self::Whole(lease) => lease.feed().readers(),
            Self::Parts(lease) => lease.layer().readers(),
        }
    }

    fn counters(&self) -> Counters {
        match self {
            Self::Whole(lease) => lease.counters(),
            Self::Parts(lease) => lease.counters(),
        }
    }
}

/// The content of all layers of one mount.
#[derive(Debug)]
pub struct Content {
    layers: Vec<LayerContent>,
    settings: ContentSettings,
    /// What is counted of all readers of the cache.
    readers: Arc<Readers>,
    /// How long those of this mount waited.
    waits: Arc<Histogram>,
}

/// A complete, verified cache file that the kernel may read itself.
#[derive(Debug)]
pub struct DirectFile {
    /// Byte for byte the file, from offset 0.
    pub file: File,
    /// What keeps it so.
    pub kept: Kept,
}

/// Holds a file in the cache for as long as the kernel reads it: no hole is punched in it.
#[derive(Debug, Default)]
pub struct Kept {
    #[expect(dead_code, reason = "the pin does its work by being alive")]
    pin: Option<Pin>,
}

impl DirectFile {
    /// A file that no cache can evict.
    #[must_use]
    pub fn unpinned(file: File) -> Self {
        Self { file, kept: Kept::default() }
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
        let layers = layers
            .into_iter()
            .map(|(digest, bytes)| fetcher.blob(&digest, bytes, source.clone(), settings.fetch()))
            .map(|lease| lease.map(LayerContent::Whole))
            .collect::<Result<_>>()?;
        Ok(Self::of(layers, settings))
    }

    /// The content of `layers`.
    #[must_use]
    pub fn of(layers: Vec<LayerContent>, settings: ContentSettings) -> Self {
        let readers = layers.first().map(LayerContent::readers).cloned().unwrap_or_default();
        Self { layers, settings, readers, waits: Arc::default() }
    }

    /// Answers from the cache alone: fills `buffer` (cleared first) with exactly the bytes `range` of `file`, or returns
    /// `false` and leaves the read to [`Self::read`]. May wait for the disk, never for
    /// the network. `range` must lie within the file.
    ///
    /// # Errors
    /// `Corrupt` when the content was rejected.
    pub fn read_cached(&self, file: &FileBody, range: Range<u64>, buffer: &mut Vec<u8>) -> Result<bool> {
        let layer = &self.layers[file.layer];
        if let LayerContent::Whole(lease) = layer {
            lease.feed().check_not_rejected()?;
        }
        if self.settings.verify_before_read && !is_verified(layer) {
            return Ok(false);
        }
        match &pieces(layer, file, range)?[..] {
            // By far the most reads.
            [Piece::Bytes(feed, range)] => {
                let is_hit = feed.read_cached(range.clone(), buffer)?;
                if is_hit {
                    self.readers.got_cached(buffer.len() as u64);
                }
                Ok(is_hit)
            }
            several => {
                buffer.clear();
                let (mut part, mut stored) = (Vec::new(), 0);
                for piece in several {
                    match piece {
                        Piece::Zeros(count) => buffer.resize(buffer.len() + count, 0),
                        Piece::Bytes(feed, range) if feed.read_cached(range.clone(), &mut part)? => {
                            stored += part.len() as u64;
                            buffer.extend_from_slice(&part);
                        }
                        Piece::Bytes(..) => return Ok(false),
                    }
                }
                self.readers.got_cached(stored);
                Ok(true)
            }
        }
    }

    /// Reads exactly `range` of `file`, from cache or network. Ends in an error when nothing
    /// arrives for the configured time.
    ///
    /// # Errors
    /// `Corrupt`, `TimedOut`, or what the source failed with once its attempts were used up.
    pub async fn read(&self, file: &FileBody, range: Range<u64>) -> Result<Bytes> {
        let _wait = self.readers.wait(&self.waits);
        let (bytes, served) = self.read_uncounted(file, range).await?;
        self.readers.got(served);
        Ok(bytes)
    }

    /// The same for whoever is no reader; tells where the bytes came from.
    async fn read_uncounted(&self, file: &FileBody, range: Range<u64>) -> Result<(Bytes, Served)> {
        let layer = &self.layers[file.layer];
        if self.settings.verify_before_read {
            self.verified(file.layer).await?;
        }
        let mut served = Served::default();
        let mut out = Joined::with_capacity(usize::try_from(range.end - range.start).unwrap_or_default());
        for piece in pieces(layer, file, range)? {
            match piece {
                Piece::Zeros(count) => out.push_zeros(count),
                Piece::Bytes(feed, range) => {
                    served += feed.read(range, self.settings.read_timeout, &mut out).await?;
                }
            }
        }
        Ok((out.into(), served))
    }

    /// Waits until all of layer `layer` was fetched and matched its digest.
    ///
    /// # Errors
    /// What fetching it failed with; `Corrupt` when it does not match; `TimedOut`.
    pub async fn verified(&self, layer: usize) -> Result<()> {
        match &self.layers[layer] {
            layer if is_verified(layer) => Ok(()),
            LayerContent::Whole(lease) => lease.feed().verified().await,
            LayerContent::Parts(lease) => lease.layer().verified(self.settings.read_timeout).await,
        }
    }

    /// Told for each `open` of `file`: checks in the background what an earlier process
    /// has left in the cache, so that a later open can be handed to the kernel.
    pub fn opened(&self, file: &FileBody) {
        if let Some(feed) = self.own_feed(file) {
            feed.check_in_background();
        }
    }

    /// `file` as a plain file for the kernel, if it is complete and verified.
    #[must_use]
    pub fn direct(&self, file: &FileBody) -> Option<DirectFile> {
        let feed = self.own_feed(file)?;
        if !feed.is_verified() || feed.bytes() == 0 {
            return None;
        }
        let DirectSegment { file, pin } = feed.segment().open_direct()?;
        Some(DirectFile { file, kept: Kept { pin: Some(pin) } })
    }

    /// Keeps the cache file of `file`, which the kernel has from a process before this one.
    #[must_use]
    pub fn keep(&self, file: &FileBody) -> Kept {
        Kept { pin: self.own_feed(file).map(|feed| feed.segment().pin()) }
    }

    /// The feed of the segment that holds `file` and nothing else.
    fn own_feed(&self, file: &FileBody) -> Option<Arc<Feed>> {
        match (&self.layers[file.layer], &file.extents) {
            (LayerContent::Whole(lease), _) => Some(Arc::clone(lease.feed())),
            (LayerContent::Parts(lease), Extents::Contiguous { stream_offset }) => {
                let end = stream_offset.checked_add(file.size)?;
                lease.layer().member(&(*stream_offset..end))
            }
            (LayerContent::Parts(_), Extents::Sparse(_)) => None,
        }
    }

    /// The digest of layer `layer`.
    #[must_use]
    pub fn digest(&self, layer: usize) -> &Digest {
        self.layers[layer].blob()
    }

    /// What layer `layer` is called in the cache.
    #[must_use]
    pub fn cached_as(&self, layer: usize) -> &Digest {
        match &self.layers[layer] {
            LayerContent::Whole(lease) => &lease.feed().id().layer,
            LayerContent::Parts(lease) => lease.layer().cached_as(),
        }
    }

    /// The bytes that layer `layer` has in the cache once all of it is there; none as long as that is not known.
    #[must_use]
    pub fn stream_bytes(&self, layer: usize) -> Option<u64> {
        match &self.layers[layer] {
            LayerContent::Whole(lease) => Some(lease.feed().bytes()),
            LayerContent::Parts(lease) => lease.layer().index().map(|index| index.stream_bytes()),
        }
    }

    /// Whether layer `layer` is one file.
    #[must_use]
    pub fn is_file(&self, layer: usize) -> bool {
        matches!(self.layers[layer], LayerContent::Whole(_))
    }

    /// The number of layers.
    #[must_use]
    pub fn layer_count(&self) -> usize {
        self.layers.len()
    }

    /// The segments that `file` is cached in, each with the chunks that it is cached as and the segment's bytes.
    ///
    /// # Errors
    /// As [`crate::indexing::Layer::feed`].
    pub fn segments(&self, file: &FileBody) -> Result<Vec<(SegmentId, Range<u64>, u64)>> {
        let layer = &self.layers[file.layer];
        let of = |piece: Piece| match piece {
            Piece::Zeros(_) => None,
            Piece::Bytes(feed, range) => Some((feed.id().clone(), chunks_of(&range), feed.bytes())),
        };
        let pieces = if file.size == 0 { Vec::new() } else { pieces(layer, file, 0..file.size)? };
        Ok(pieces.into_iter().filter_map(of).collect())
    }

    /// How many bytes of `file` are cached.
    #[must_use]
    pub fn cached_bytes(&self, file: &FileBody) -> u64 {
        match self.own_feed(file) {
            Some(feed) => feed.segment().cached_bytes(),
            None => pieces::cached_bytes(&self.layers[file.layer], file),
        }
    }

    /// What is known about the cached bytes of `file`.
    #[must_use]
    pub fn standing(&self, file: &FileBody) -> Standing {
        if let Some(feed) = self.own_feed(file) {
            return feed.standing();
        }
        match &self.layers[file.layer] {
            _ if file.size == 0 => Standing::Proven,
            layer if pieces::cached_bytes(layer, file) == 0 => Standing::Absent,
            layer if is_verified(layer) => Standing::Proven,
            _ => Standing::Pending,
        }
    }

    /// Has `watcher` told the entries of layer `layer` while it is being read for the first time.
    pub fn watch(&self, layer: usize, watcher: Watcher) {
        if let LayerContent::Parts(lease) = &self.layers[layer] {
            lease.watch(watcher);
        }
    }

    /// What was counted for these layers since the mount. Another mount of the same layer counts the same.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.blobs().map(LayerContent::counters).fold(Counters::default(), Counters::plus)
    }

    /// Bytes fetched for these layers since the mount.
    #[must_use]
    pub fn network_bytes(&self) -> u64 {
        self.counters().network_bytes()
    }

    /// Chunks of these layers that failed their check since the mount.
    #[must_use]
    pub fn rejected_chunks(&self) -> u64 {
        self.counters().rejected_chunks
    }

    /// How long readers of these layers waited for what was not in the cache.
    #[must_use]
    pub fn waits(&self) -> &Histogram {
        &self.waits
    }

    /// One layer for each blob: layers of the same content share theirs, and what was fetched was fetched once.
    fn blobs(&self) -> impl Iterator<Item = &LayerContent> {
        let mut seen = HashSet::new();
        self.layers.iter().filter(move |layer| seen.insert(layer.blob()))
    }

    /// Calls `callback` with the layer whenever bytes already served are found wrong, so that the kernel's copy
    /// can be dropped. Not called from a thread that serves reads.
    pub fn on_rejected(&self, callback: Box<dyn Fn(usize) + Send + Sync>) {
        let callback: Arc<dyn Fn(usize) + Send + Sync> = callback.into();
        for (at, layer) in self.layers.iter().enumerate() {
            let callback = callback.clone();
            let tell = Arc::new(move || callback(at));
            match layer {
                LayerContent::Whole(lease) => lease.on_rejected(tell),
                LayerContent::Parts(lease) => lease.on_rejected(tell),
            }
        }
    }

    /// Fetches `file` whole, until all of it is in the cache.
    ///
    /// # Errors
    /// What the fetch failed with; `NoSpace` when the cache cannot hold it.
    pub async fn fill(&self, file: &FileBody) -> Result<()> {
        if let Some(feed) = self.own_feed(file) {
            return feed.fill(false).await;
        }
        // A piece at a time: what is a part of a segment cannot be held in it, and need not be held here.
        const STEP_BYTES: u64 = 1 << 20;
        let mut start = 0;
        while start < file.size {
            let end = file.size.min(start + STEP_BYTES);
            self.read_uncounted(file, start..end).await?;
            start = end;
        }
        Ok(())
    }
}

/// Whether each chunk of `layer` is checked by a digest of its own.
fn is_verified(layer: &LayerContent) -> bool {
    match layer {
        LayerContent::Whole(lease) => lease.feed().is_verified(),
        LayerContent::Parts(lease) => lease.layer().is_proven(),
    }
}
