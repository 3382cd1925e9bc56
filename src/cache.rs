//! The bounded disk cache of one directory: segments of streams in sparse files, with the chunks of each
//! that are here, and small documents by digest.
//!
//! A directory has one owner process, held by an advisory lock. What comes out of the cache is what went
//! in, or nothing: a damaged chunk, map or document is a miss that is logged, counted and dropped. A disk
//! that refuses never fails a caller; stores are skipped until it works again.
//!
//! Nothing here touches the network, starts a thread, or knows what the bytes mean. No lock is held across
//! a disk operation: a chunk's state says who may touch its bytes meanwhile (see `chunks`).

mod paths;
mod segment;

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::base::{Digest, Result};

pub use paths::{CachePaths, DocumentKind};
pub use segment::{DirectSegment, Pin, Segment, SegmentId, SkipReason, Stored};

/// How much of the file system stays free of us.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FreeSpaceFloor {
    /// So many bytes.
    Bytes(u64),
    /// So many hundredths of the file system's size.
    Percent(f64),
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
    /// Chunks and documents whose bytes or records were not what was stored.
    pub damaged_chunks: u64,
    /// Chunks stored.
    pub stored_chunks: u64,
    /// Chunks that were offered and not stored, those already there aside.
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

/// The disk cache of one directory. See the module's text.
#[derive(Debug)]
pub struct Cache {}

impl Cache {
    /// Takes the directory over, makes it if it is missing, and recovers what it holds. Starts no threads.
    ///
    /// # Errors
    /// `Busy` naming the directory and its owner's process; what the file system says if the directory cannot
    /// be made or written.
    pub fn open(settings: CacheSettings) -> Result<Arc<Self>> {
        let _ = settings;
        unimplemented!()
    }

    /// The paths of everything in the directory.
    #[must_use]
    pub fn paths(&self) -> &CachePaths {
        unimplemented!()
    }

    /// The segment `id` of `bytes` bytes: the same one for all callers while anybody holds it. Touches no
    /// file; one of another length that is recorded under this id is dropped.
    ///
    /// # Errors
    /// `Invalid` if somebody holds the segment with another length.
    pub fn segment(self: &Arc<Self>, id: &SegmentId, bytes: u64) -> Result<Arc<Segment>> {
        let _ = (id, bytes);
        unimplemented!()
    }

    /// What is here right now.
    #[must_use]
    pub fn info(&self) -> CacheInfo {
        unimplemented!()
    }

    /// Removes what `what` names, except what is pinned.
    ///
    /// # Errors
    /// What the file system says.
    pub fn prune(&self, what: Prune) -> Result<PruneReport> {
        let _ = what;
        unimplemented!()
    }

    /// Makes everything stored so far survive a power loss, and records what was used when. Waits for the disk;
    /// to be called now and then (every 30 s) and at the end. What fails is logged and tried again the next time.
    pub fn sync(&self) {
        unimplemented!()
    }

    /// The document `digest`, or none if it is missing or damaged. The bytes are those that were written under
    /// this name; whether they have this digest is the caller's to check.
    #[must_use]
    pub fn read_document(&self, kind: DocumentKind, digest: &Digest) -> Option<Vec<u8>> {
        let _ = (kind, digest);
        unimplemented!()
    }

    /// Keeps a small document under `digest`, durably; replaces one that is there.
    ///
    /// # Errors
    /// What the file system says.
    pub fn write_document(&self, kind: DocumentKind, digest: &Digest, bytes: &[u8]) -> Result<()> {
        let _ = (kind, digest, bytes);
        unimplemented!()
    }
}
