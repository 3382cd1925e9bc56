//! One segment: a contiguous piece of a stream in a sparse file of its own, byte for byte, and which of
//! its chunks are here.

use std::fs::File;
use std::ops::Range;
use std::sync::Arc;

use crate::base::Digest;

/// Which segment of which layer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SegmentId {
    /// The layer's blob.
    pub layer: Digest,
    /// Its place among the layer's segments; 0 for the only one of a raw layer.
    pub number: u32,
}

/// What became of a chunk that was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// It is present.
    Stored,
    /// It is not, or was before; the caller goes on without.
    Skipped(SkipReason),
}

/// Why a chunk was not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SkipReason {
    /// It is present, or being stored by somebody else.
    AlreadyThere,
    /// Budget or disk are full with what may not be evicted.
    NoRoom,
    /// The disk refuses; [`super::CacheInfo::degraded`] says why.
    Degraded,
    /// An older copy is on its way out.
    BeingEvicted,
    /// The data is not as long as the chunk, or the chunk does not exist.
    WrongLength,
}

/// One segment of the cache. All methods may wait for the disk, none for the network.
#[derive(Debug)]
pub struct Segment {}

impl Segment {
    /// Which one it is.
    #[must_use]
    pub fn id(&self) -> &SegmentId {
        unimplemented!()
    }

    /// Its length in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        unimplemented!()
    }

    /// How many chunks it has.
    #[must_use]
    pub fn chunk_count(&self) -> u64 {
        unimplemented!()
    }

    /// Whether `chunk` is here, checked or not.
    #[must_use]
    pub fn is_present(&self, chunk: u64) -> bool {
        let _ = chunk;
        unimplemented!()
    }

    /// Bytes of the chunks that are here.
    #[must_use]
    pub fn cached_bytes(&self) -> u64 {
        unimplemented!()
    }

    /// Whether all chunks are here, checked or not.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        unimplemented!()
    }

    /// Fills `buffer` (cleared first) with exactly the bytes `range` of the segment and returns true, or
    /// returns false and leaves it empty: a chunk is missing or turned out damaged.
    ///
    /// The first use of a chunk after a start checks all of it against the recorded BLAKE3. What fails that,
    /// or cannot be read, is dropped, counted and logged.
    #[must_use]
    pub fn read(&self, range: Range<u64>, buffer: &mut Vec<u8>) -> bool {
        let _ = (range, buffer);
        unimplemented!()
    }

    /// The BLAKE3 of a chunk that is here.
    #[must_use]
    pub fn chunk_digest(&self, chunk: u64) -> Option<blake3::Hash> {
        let _ = chunk;
        unimplemented!()
    }

    /// Stores the whole chunk `chunk`, whose BLAKE3 is `digest`, and makes room for it first. Never fails the
    /// caller.
    pub fn store(&self, chunk: u64, data: &[u8], digest: blake3::Hash) -> Stored {
        let _ = (chunk, data, digest);
        unimplemented!()
    }

    /// Forgets the chunks, which turned out wrong; what is being read goes when its readers have left.
    pub fn remove(&self, chunks: Range<u64>) {
        let _ = chunks;
        unimplemented!()
    }

    /// Forgets everything.
    pub fn remove_all(&self) {
        unimplemented!()
    }

    /// Keeps what is here from being evicted or pruned while the pin lives.
    #[must_use]
    pub fn pin(self: &Arc<Self>) -> Pin {
        unimplemented!()
    }

    /// The whole segment as a plain read-only file, if all of it is here and checked since the start. From then
    /// on the file is only ever unlinked, so that who reads it keeps the bytes.
    #[must_use]
    pub fn open_direct(self: &Arc<Self>) -> Option<DirectSegment> {
        unimplemented!()
    }

    /// Checks every chunk that was not checked since the start; true if then all are here and believed.
    /// Reads up to the whole segment: for a background task.
    pub fn check_all(&self) -> bool {
        unimplemented!()
    }

    /// Counts as a use of the chunks, for bytes that were not read through [`Self::read`].
    pub fn touch(&self, chunks: Range<u64>) {
        let _ = chunks;
        unimplemented!()
    }
}

/// While it lives, nothing of its segment is evicted or pruned.
#[derive(Debug)]
pub struct Pin {}

/// A complete segment as a file that the kernel may read itself.
#[derive(Debug)]
pub struct DirectSegment {
    /// The bytes; opened for reading only.
    pub file: File,
    /// Keeps the file in the cache.
    pub pin: Pin,
}
