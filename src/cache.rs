//! The bounded disk cache of one directory: segments of streams in sparse files, with the chunks of each
//! that are here, and small documents by digest.
//!
//! A directory has one owner process, held by an advisory lock. What comes out of the cache is what went
//! in, or nothing: a damaged chunk, map or document is a miss that is logged, counted and dropped. A disk
//! that refuses never fails a caller; stores are skipped until it works again.
//!
//! Nothing here touches the network, starts a thread, or knows what the bytes mean. No lock is held across
//! a disk operation: a chunk's state says who may touch its bytes meanwhile (see `chunks`).

mod access_key;
mod chunks;
mod crowding;
mod disk;
mod documents;
mod eviction;
mod health;
mod map;
mod owner;
mod paths;
mod pins;
pub mod probe;
mod recovery;
mod segment;
mod stored;
#[cfg(test)]
mod tests;

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, Weak};
use std::time::SystemTime;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::base::{Digest, Error, ErrorKind, Result, ResultExt as _};

use self::disk::{Disk, Surroundings, lock};
use self::eviction::{Limits, Oldest};
use self::owner::Owner;
use self::stored::{Freed, StoredSegment};

pub use owner::HeldBy;
pub use paths::{CachePaths, DocumentKey, DocumentKind};
pub use pins::{PinnedArtifact, PinnedContent};
pub use segment::{DirectSegment, Epoch, Pin, Segment, SegmentId, SkipReason, Stored};

/// How much of the file system stays free of us.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FreeSpaceFloor {
    /// So many bytes.
    Bytes(u64),
    /// So many hundredths of the file system's size.
    Percent(f64),
}

impl FreeSpaceFloor {
    /// In bytes, on a file system of `total` bytes.
    #[must_use]
    pub fn bytes_of(self, total: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Percent(percent) => (total as f64 * percent.clamp(0.0, 100.0) / 100.0) as u64,
        }
    }
}

/// Where the cache lies and how large it may grow.
#[derive(Clone, Debug)]
pub struct CacheSettings {
    /// The directory; made (0700) if it is missing.
    pub directory: PathBuf,
    /// Bytes of chunks and documents in all.
    pub bytes_max: u64,
    /// What stays free on the directory's file system.
    pub free_space_min: FreeSpaceFloor,
}

/// What has happened since the cache was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheCounters {
    /// Reads answered.
    pub hits: u64,
    /// Reads not answered.
    pub misses: u64,
    /// Chunks dropped to make room.
    pub evicted_chunks: u64,
    /// Their bytes.
    #[serde(default)]
    pub evicted_bytes: u64,
    /// Bytes of chunks that were stored before anybody asked for them, and went without having been read.
    #[serde(default)]
    pub unread_bytes: u64,
    /// Chunks and documents whose bytes or records were not what was stored.
    pub damaged_chunks: u64,
    /// Chunks stored.
    pub stored_chunks: u64,
    /// Chunks that were offered and not stored, those already there or found wrong aside.
    pub skipped_stores: u64,
}

/// What the cache holds right now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheInfo {
    /// Where it lies.
    pub directory: PathBuf,
    /// Bytes of chunks and documents that are allowed.
    pub bytes_max: u64,
    /// Bytes of chunks and documents that are there.
    pub used_bytes: u64,
    /// Bytes that the file system has free for us; 0 if it does not answer.
    pub free_bytes: u64,
    /// Segments with at least one chunk.
    pub segments: u64,
    /// Those with all of them.
    pub complete_segments: u64,
    /// Chunks.
    pub chunks: u64,
    /// Why chunks are not stored at present, and since when.
    pub degraded: Option<String>,
    /// What has happened since the start.
    pub counters: CacheCounters,
}

/// What [`Cache::prune`] removes. Pinned content stays in every case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prune {
    /// Everything, documents too.
    All,
    /// The segments that nobody holds a [`Segment`] of.
    Unused,
    /// The least recently used chunks, until so many bytes are left.
    DownTo(u64),
}

/// What [`Cache::prune`] removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PruneReport {
    /// Bytes of chunks and documents removed.
    pub removed_bytes: u64,
    /// Chunks removed.
    pub removed_chunks: u64,
    /// Bytes left, because they are pinned or within what was asked for.
    pub kept_bytes: u64,
}

/// A segment that is on disk, or that somebody holds.
#[derive(Debug)]
struct Known {
    stored: Arc<StoredSegment>,
    /// What callers hold of it.
    handle: Weak<Segment>,
}

/// The disk cache of one directory. See the module's text.
#[derive(Debug)]
pub struct Cache {
    disk: Disk,
    limits: Limits,
    oldest: Oldest,
    segments: Mutex<HashMap<SegmentId, Known>>,
    access_key: Mutex<Option<[u8; 32]>>,
}

impl Cache {
    /// Takes the directory over, makes it if it is missing, and recovers what it holds. Starts no threads.
    ///
    /// # Errors
    /// `Busy` naming the directory and its owner's process; what the file system says if the directory cannot
    /// be made or written.
    pub fn open(settings: CacheSettings) -> Result<Arc<Self>> {
        Self::open_in(settings, Surroundings::real(), None)
    }

    /// As [`Self::open`], of a directory that another process holds for this one.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_held(settings: CacheSettings, held_by: HeldBy) -> Result<Arc<Self>> {
        Self::open_in(settings, Surroundings::real(), Some(held_by))
    }

    /// The lock of the directory, for whoever keeps it beyond this process.
    ///
    /// # Errors
    /// `Io` when there are no descriptors left.
    pub fn lock(&self) -> Result<OwnedFd> {
        self.disk.owner.lock().context(|| "cannot hold on to the lock of the cache")
    }

    fn open_in(
        settings: CacheSettings,
        surroundings: Surroundings,
        held_by: Option<HeldBy>,
    ) -> Result<Arc<Self>> {
        let paths = CachePaths::new(settings.directory);
        let owner = Owner::take(&paths, held_by)?;
        let disk = Disk::new(paths, owner, surroundings);
        let cannot = || format!("cannot recover the cache in {}", disk.paths.root().display());
        // First: nothing of them is to go because others are too many.
        disk.pins.recover(&disk.paths).context(cannot)?;
        documents::recover(&disk, settings.bytes_max).context(cannot)?;
        access_key::recover(&disk).context(cannot)?;
        let mut segments = HashMap::new();
        for segment in recovery::recover_segments(&disk).context(cannot)? {
            {
                let chunks = segment.chunks();
                disk.add_used(chunks.present_bytes());
                disk.go_on_after(chunks.last_use());
            }
            segments.insert(segment.id.clone(), Known { stored: Arc::new(segment), handle: Weak::new() });
        }
        let cache = Arc::new(Self {
            disk,
            limits: Limits::new(settings.bytes_max, settings.free_space_min),
            oldest: Oldest::default(),
            segments: Mutex::new(segments),
            access_key: Mutex::default(),
        });
        // It may have been larger before.
        cache.evict_down_to(settings.bytes_max);
        Ok(cache)
    }

    fn disk(&self) -> &Disk {
        &self.disk
    }

    /// The paths of everything in the directory.
    #[must_use]
    pub fn paths(&self) -> &CachePaths {
        &self.disk.paths
    }

    /// The segment `id` of `bytes` bytes: the same one for all callers while anybody holds it. Touches no
    /// file, unless one of another length is recorded under this id, which is dropped.
    ///
    /// # Errors
    /// `Invalid` if somebody holds the segment with another length; `Busy` while such a one is being removed.
    pub fn segment(self: &Arc<Self>, id: &SegmentId, bytes: u64) -> Result<Arc<Segment>> {
        loop {
            let other = {
                let mut segments = lock(&self.segments);
                match segments.entry(id.clone()) {
                    Entry::Occupied(known) if known.get().stored.bytes != bytes => {
                        let known = known.get();
                        if known.handle.strong_count() > 0 {
                            return Err(Error::new(
                                ErrorKind::Invalid,
                                format!(
                                    "segment {} of {} is in use with {} bytes, and asked for with {bytes}: \
                                     one of two manifests states a wrong size",
                                    id.number, id.layer, known.stored.bytes
                                ),
                            ));
                        }
                        Arc::clone(&known.stored)
                    }
                    Entry::Occupied(mut known) => return Ok(self.handle(known.get_mut())),
                    Entry::Vacant(vacant) => {
                        let stored = Arc::new(StoredSegment::new(&self.disk, id.clone(), bytes));
                        return Ok(self.handle(vacant.insert(Known { stored, handle: Weak::new() })));
                    }
                }
            };
            // Outside of the lock, and still known meanwhile, so that nobody makes files of the same names.
            other.unlink_if(&self.disk, |_| true);
            if other.chunks().leaving || other.chunks().on_disk {
                return Err(Error::new(
                    ErrorKind::Busy,
                    format!(
                        "segment {} of {} is being removed from the cache; try again",
                        id.number, id.layer
                    ),
                ));
            }
            let mut segments = lock(&self.segments);
            if let Entry::Occupied(known) = segments.entry(id.clone())
                && Arc::ptr_eq(&known.get().stored, &other)
                && known.get().handle.strong_count() == 0
            {
                known.remove();
            }
        }
    }

    fn handle(self: &Arc<Self>, known: &mut Known) -> Arc<Segment> {
        known.handle.upgrade().unwrap_or_else(|| {
            let segment = Arc::new(Segment::new(Arc::clone(self), Arc::clone(&known.stored)));
            known.handle = Arc::downgrade(&segment);
            segment
        })
    }

    /// A handle of `stored` is gone: nothing of it is kept open or in memory that is not needed.
    fn released(&self, stored: &Arc<StoredSegment>) {
        let mut segments = lock(&self.segments);
        let Entry::Occupied(known) = segments.entry(stored.id.clone()) else { return };
        if !Arc::ptr_eq(&known.get().stored, stored) || known.get().handle.strong_count() > 0 {
            return;
        }
        let mut chunks = stored.chunks();
        chunks.data = None;
        if !chunks.on_disk && !chunks.leaving {
            known.remove();
        }
    }

    fn stored(&self) -> Vec<Arc<StoredSegment>> {
        lock(&self.segments).values().map(|known| Arc::clone(&known.stored)).collect()
    }

    fn make_room(&self, bytes: u64) -> bool {
        let is_made = self.limits.make_room(&self.disk, bytes, || self.evict_oldest());
        if is_made {
            self.disk.crowding.is_over();
        } else if self.disk.health.degraded().is_none() && self.disk.crowding.begins() {
            tracing::warn!(reason = self.crowded_by(), "the cache is degraded: reads go on without storing");
        }
        is_made
    }

    fn evict_oldest(&self) -> Option<Freed> {
        let freed = self.oldest.evict(&self.disk, || self.stored())?;
        self.disk.counters.evicted_chunks.fetch_add(freed.chunks, Ordering::Relaxed);
        self.disk.counters.evicted_bytes.fetch_add(freed.bytes, Ordering::Relaxed);
        Some(freed)
    }

    fn evict_down_to(&self, bytes: u64) -> Freed {
        let mut all = Freed::default();
        while self.disk.used() > bytes
            && let Some(freed) = self.evict_oldest()
        {
            all.chunks += freed.chunks;
            all.bytes += freed.bytes;
        }
        all
    }

    /// What is here right now.
    #[must_use]
    pub fn info(&self) -> CacheInfo {
        let mut info = CacheInfo {
            directory: self.disk.paths.root().to_owned(),
            bytes_max: self.limits.bytes_max,
            used_bytes: self.disk.used(),
            free_bytes: Limits::free_bytes(&self.disk.paths),
            segments: 0,
            complete_segments: 0,
            chunks: 0,
            degraded: self.degraded(),
            counters: self.disk.counters.snapshot(),
        };
        for stored in self.stored() {
            let chunks = stored.chunks();
            info.segments += u64::from(chunks.present() > 0);
            info.complete_segments += u64::from(chunks.is_complete());
            info.chunks += chunks.present();
        }
        info
    }

    /// The bound on what is cached, in bytes.
    #[must_use]
    pub fn bytes_max(&self) -> u64 {
        self.limits.bytes_max
    }

    /// Bytes of chunks and documents that are there.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.disk.used()
    }

    /// What has happened since the start.
    #[must_use]
    pub fn counters(&self) -> CacheCounters {
        self.disk.counters.snapshot()
    }

    /// Why reads go on without the cache, if they do.
    #[must_use]
    pub fn degraded(&self) -> Option<String> {
        self.disk.health.degraded().or_else(|| self.crowded())
    }

    /// What is here of each layer, by what it is called in the cache.
    #[must_use]
    pub fn layers(&self) -> BTreeMap<Digest, u64> {
        let mut layers = BTreeMap::new();
        for stored in self.stored() {
            let bytes = stored.chunks().present_bytes();
            if bytes > 0 {
                *layers.entry(stored.id.layer.clone()).or_default() += bytes;
            }
        }
        layers
    }

    /// Removes what `what` names, except what is pinned.
    ///
    /// # Errors
    /// What the file system says.
    pub fn prune(&self, what: Prune) -> Result<PruneReport> {
        let mut report = PruneReport::default();
        let mut add = |freed: Freed| {
            report.removed_chunks += freed.chunks;
            report.removed_bytes += freed.bytes;
        };
        match what {
            Prune::DownTo(bytes) => add(self.evict_down_to(bytes)),
            Prune::All => {
                for stored in self.stored() {
                    add(stored.unlink_if(&self.disk, |chunks| !chunks.is_pinned()));
                }
                let removed = documents::remove_all(&self.disk);
                let cannot = || format!("cannot prune the cache in {}", self.disk.paths.root().display());
                report.removed_bytes += removed.context(cannot)?;
            }
            Prune::Unused => {
                let unused = |known: &&Known| known.handle.strong_count() == 0;
                let unused: Vec<_> = {
                    let segments = lock(&self.segments);
                    segments.values().filter(unused).map(|known| Arc::clone(&known.stored)).collect()
                };
                for stored in unused {
                    add(stored.unlink_if(&self.disk, |chunks| !chunks.is_pinned()));
                }
            }
        }
        self.oldest.forget();
        lock(&self.segments).retain(|_, known| {
            let chunks = known.stored.chunks();
            known.handle.strong_count() > 0 || chunks.on_disk || chunks.leaving
        });
        report.kept_bytes = self.disk.used();
        Ok(report)
    }

    /// Makes everything stored so far survive a power loss, and records what was used when. Waits for the disk;
    /// to be called now and then (every 30 s) and at the end. What fails is logged and tried again the next time.
    pub fn sync(&self) {
        for stored in self.stored() {
            stored.sync(&self.disk);
        }
    }

    /// The document of `key`, which for most is a digest; none if it is missing or damaged. The bytes are those that
    /// were written under this name; whether they have this digest is the caller's to check.
    #[must_use]
    pub fn read_document<'a>(&self, kind: DocumentKind, key: impl Into<DocumentKey<'a>>) -> Option<Vec<u8>> {
        documents::read(&self.disk, kind, key.into())
    }

    /// As [`Self::read_document`], but mapped and not read: for documents that are large, or kept for long. The bytes
    /// stay when the document is replaced or removed.
    #[must_use]
    pub fn map_document<'a>(&self, kind: DocumentKind, key: impl Into<DocumentKey<'a>>) -> Option<Bytes> {
        documents::map(&self.disk, kind, key.into())
    }

    /// All documents of a kind, each with the time of its last change or [`Self::touch_document`]. Damaged ones are left
    /// out.
    ///
    /// # Errors
    /// What the file system says.
    pub fn documents(&self, kind: DocumentKind) -> Result<Vec<(Vec<u8>, SystemTime)>> {
        documents::all(&self.disk, kind).context(|| "cannot read the documents of the cache")
    }

    /// Notes that the document of `key` is of use still.
    ///
    /// # Errors
    /// What the file system says.
    pub fn touch_document<'a>(&self, kind: DocumentKind, key: impl Into<DocumentKey<'a>>) -> Result<()> {
        documents::touch(&self.disk, kind, key.into()).context(|| "cannot note the use of a document")
    }

    /// A key that this directory has alone, and that stays as long as the directory does: for fingerprints of what must
    /// not be stored. Made when it is first asked for.
    ///
    /// # Errors
    /// What the file system says.
    pub fn access_key(&self) -> Result<[u8; 32]> {
        let known = *lock(&self.access_key);
        if let Some(key) = known {
            return Ok(key);
        }
        let found = access_key::read_or_make(&self.disk)?;
        // Who was faster has written last, or has read what was written.
        Ok(*lock(&self.access_key).get_or_insert(found))
    }

    /// Keeps a document under `key`, durably; replaces one that is there. Documents take an eighth of the cache at
    /// most, then the oldest go.
    ///
    /// # Errors
    /// What the file system says.
    pub fn write_document<'a>(
        &self,
        kind: DocumentKind,
        key: impl Into<DocumentKey<'a>>,
        bytes: &[u8],
    ) -> Result<()> {
        documents::write(&self.disk, self.limits.bytes_max, kind, key.into(), bytes)
    }
}
