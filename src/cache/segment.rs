//! One segment: a contiguous piece of a stream in a sparse file of its own, byte for byte, and which of
//! its chunks are here.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use crate::base::chunk::chunks_of;
use crate::base::{CHUNK_BYTES, Digest, chunk_count, chunk_range};

use super::Cache;
use super::disk::{Disk, count};
use super::stored::StoredSegment;

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

/// When bytes were asked for, by how often a segment had been found wrong by then. See [`Segment::remove_all`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Epoch(pub(super) u64);

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
    /// It was asked for before the segment was found wrong.
    Outdated,
    /// The data is not as long as the chunk, or the chunk does not exist.
    WrongLength,
}

/// Why a chunk is looked at.
#[derive(Clone, Copy, Debug)]
enum Visit {
    /// Somebody wants its bytes.
    Read,
    /// Somebody wants to know whether they are right.
    Check,
}

/// One segment of the cache. All methods may wait for the disk, none for the network.
#[derive(Debug)]
pub struct Segment {
    cache: Arc<Cache>,
    stored: Arc<StoredSegment>,
}

impl Segment {
    pub(super) fn new(cache: Arc<Cache>, stored: Arc<StoredSegment>) -> Self {
        Self { cache, stored }
    }

    fn disk(&self) -> &Disk {
        self.cache.disk()
    }

    /// Which one it is.
    #[must_use]
    pub fn id(&self) -> &SegmentId {
        &self.stored.id
    }

    /// Its length in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.stored.bytes
    }

    /// How many chunks it has.
    #[must_use]
    pub fn chunk_count(&self) -> u64 {
        chunk_count(self.stored.bytes)
    }

    /// Whether `chunk` is here, checked or not.
    #[must_use]
    pub fn is_present(&self, chunk: u64) -> bool {
        self.stored.chunks().is_present(chunk)
    }

    /// Bytes of the chunks that are here.
    #[must_use]
    pub fn cached_bytes(&self) -> u64 {
        self.stored.chunks().present_bytes()
    }

    /// Whether all chunks are here, checked or not. Never true of a segment without bytes.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.stored.chunks().is_complete()
    }

    /// Fills `buffer` (cleared first) with exactly the bytes `range` of the segment and returns true, or
    /// returns false and leaves it empty: a chunk is missing or turned out damaged.
    ///
    /// The first use of a chunk after a start checks all of it against the recorded BLAKE3. What fails that,
    /// or cannot be read, is dropped, counted and logged.
    #[must_use]
    pub fn read(&self, range: Range<u64>, buffer: &mut Vec<u8>) -> bool {
        let is_nothing = range.is_empty();
        let hit = self.read_as(Visit::Read, range, buffer);
        if is_nothing {
            return hit;
        }
        let counters = &self.disk().counters;
        count(if hit { &counters.hits } else { &counters.misses });
        hit
    }

    /// As [`Self::read`], for whoever checks the bytes and has no use for them: no chunk counts as read by this.
    #[must_use]
    pub fn read_to_check(&self, range: Range<u64>, buffer: &mut Vec<u8>) -> bool {
        self.read_as(Visit::Check, range, buffer)
    }

    fn read_as(&self, visit: Visit, range: Range<u64>, buffer: &mut Vec<u8>) -> bool {
        buffer.clear();
        if range.is_empty() {
            return true;
        }
        let hit = range.end <= self.stored.bytes
            && self.with_chunks(visit, chunks_of(&range), |data| {
                buffer.clear();
                read_into(data, range.start, range.end - range.start, buffer)
            });
        if !hit {
            buffer.clear();
        }
        hit
    }

    /// Calls `read` as a reader of `chunks`, all of them here and checked. False if they are not, or if it
    /// failed; they are then dropped.
    fn with_chunks(
        &self,
        visit: Visit,
        chunks: Range<u64>,
        mut read: impl FnMut(&File) -> io::Result<()>,
    ) -> bool {
        let disk = self.disk();
        let (incarnation, unchecked, data) = {
            let mut table = self.stored.chunks();
            if !table.begin_read(chunks.clone(), disk.tick()) {
                return false;
            }
            if matches!(visit, Visit::Read) {
                table.note_read(chunks.clone());
            }
            (table.incarnation, table.unchecked(chunks.clone()), table.data.clone())
        };
        let mut damaged = Vec::new();
        let mut vanished = false;
        let mut why = None;
        let data = data.map_or_else(|| self.stored.open_data(disk, incarnation), |data| Ok(Some(data)));
        match data {
            Ok(Some(data)) => {
                damaged.extend(unchecked.into_iter().filter(|chunk| !self.check(&data, incarnation, *chunk)));
                if damaged.is_empty()
                    && let Err(error) = read(&data)
                {
                    why = Some(format!("it cannot be read: {error}"));
                    damaged.extend(chunks.clone());
                }
            }
            // Evicted since: no longer here.
            Ok(None) => vanished = true,
            // This says nothing about the file.
            Err(error) if is_out_of_descriptors(&error) => {
                vanished = true;
                tracing::warn!(%error, "a cache file cannot be opened for want of descriptors");
            }
            Err(error) => {
                why = Some(format!("its file cannot be opened: {error}"));
                damaged.extend(chunks.clone());
            }
        }
        let ours = {
            let mut table = self.stored.chunks();
            if table.incarnation == incarnation { table.end_read(chunks) } else { Vec::new() }
        };
        self.stored.clear(disk, incarnation, &ours);
        let why = why.as_deref().unwrap_or("its bytes are not those that were stored");
        self.stored.drop_damaged(disk, incarnation, &damaged, why);
        damaged.is_empty() && !vanished
    }

    /// Whether the whole chunk is what its digest says. Only for a reader of it.
    fn check(&self, data: &File, incarnation: u64, chunk: u64) -> bool {
        let Some(digest) = self.stored.chunks().digest(chunk) else { return false };
        let range = chunk_range(chunk, self.stored.bytes);
        let mut bytes = Vec::with_capacity(CHUNK_BYTES as usize);
        let right = read_into(data, range.start, range.end - range.start, &mut bytes).is_ok()
            && blake3::hash(&bytes) == digest;
        let mut table = self.stored.chunks();
        if right && table.incarnation == incarnation {
            table.mark_checked(chunk);
        }
        right
    }

    /// The BLAKE3 of a chunk that is here.
    #[must_use]
    pub fn chunk_digest(&self, chunk: u64) -> Option<blake3::Hash> {
        self.stored.chunks().digest(chunk).map(blake3::Hash::from_bytes)
    }

    /// What bytes that are asked for from now on belong to.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.stored.chunks().epoch()
    }

    /// Stores the whole chunk `chunk`, whose BLAKE3 is `digest` and which was asked for in `epoch`, and makes room for
    /// it first. Never fails the caller. Whoever has stored the last one calls [`Self::sync_if_complete`].
    pub fn store(&self, chunk: u64, data: &[u8], digest: blake3::Hash, epoch: Epoch) -> Stored {
        self.store_as(false, chunk, data, digest, epoch)
    }

    /// As [`Self::store`], of a chunk that nobody has asked for yet. If it goes before anybody reads it, that is
    /// counted: see [`Self::unread_bytes`].
    pub fn store_unread(&self, chunk: u64, data: &[u8], digest: blake3::Hash, epoch: Epoch) -> Stored {
        self.store_as(true, chunk, data, digest, epoch)
    }

    /// Makes a segment durable of which all is here. That takes as long as the disk takes to write it.
    pub fn sync_if_complete(&self) {
        if self.is_complete() {
            self.stored.sync(self.disk());
        }
    }

    /// Notes that `chunks` were read, though not through [`Self::read`].
    pub fn note_read(&self, chunks: Range<u64>) {
        self.stored.chunks().note_read(chunks);
    }

    /// Bytes of chunks of this segment that were stored before anybody asked for them, and went without having been
    /// read. What the kernel was handed counts as read.
    #[must_use]
    pub fn unread_bytes(&self) -> u64 {
        self.stored.chunks().unread_gone()
    }

    fn store_as(&self, unread: bool, chunk: u64, data: &[u8], digest: blake3::Hash, epoch: Epoch) -> Stored {
        let outcome = self.store_chunk(unread, chunk, data, digest, epoch);
        let counters = &self.disk().counters;
        match outcome {
            Stored::Stored => {
                count(&counters.stored_chunks);
                self.disk().health.worked();
            }
            Stored::Skipped(SkipReason::AlreadyThere | SkipReason::Outdated) => {}
            Stored::Skipped(_) => count(&counters.skipped_stores),
        }
        outcome
    }

    fn store_chunk(
        &self,
        unread: bool,
        chunk: u64,
        data: &[u8],
        digest: blake3::Hash,
        epoch: Epoch,
    ) -> Stored {
        let range = chunk_range(chunk, self.stored.bytes);
        if range.is_empty() || range.end - range.start != data.len() as u64 {
            return Stored::Skipped(SkipReason::WrongLength);
        }
        let incarnation = {
            let mut table = self.stored.chunks();
            if let Err(reason) = table.begin_store(chunk, epoch) {
                return Stored::Skipped(reason);
            }
            if unread {
                table.note_unread(chunk);
            }
            table.incarnation
        };
        let refusal = if !self.disk().health.may_try() {
            Some(SkipReason::Degraded)
        } else if !self.cache.make_room(data.len() as u64) {
            Some(SkipReason::NoRoom)
        } else {
            None
        };
        if let Some(reason) = refusal {
            let mut table = self.stored.chunks();
            if table.incarnation == incarnation {
                table.abandon_store(chunk);
            }
            return Stored::Skipped(reason);
        }
        self.stored.store(self.disk(), incarnation, chunk, data, digest)
    }

    /// Forgets the chunks, which turned out wrong; what is being read goes when its readers have left. Of a
    /// segment that was handed over, all of it.
    pub fn remove(&self, chunks: Range<u64>) {
        self.stored.remove(self.disk(), chunks.start..chunks.end.min(self.chunk_count()));
    }

    /// Forgets everything, which turned out wrong, and begins another epoch: what was asked for before is not stored
    /// any more, whenever and on whose behalf it comes.
    pub fn remove_all(&self) {
        self.stored.chunks().begin_epoch();
        self.stored.unlink(self.disk());
    }

    /// Keeps what is here from being evicted or pruned while the pin lives.
    #[must_use]
    pub fn pin(self: &Arc<Self>) -> Pin {
        self.stored.chunks().pins += 1;
        Pin { segment: Arc::clone(self) }
    }

    /// The whole segment as a plain read-only file, if all of it is here and checked since the start. From then
    /// on the file is only ever unlinked, so that who reads it keeps the bytes.
    #[must_use]
    pub fn open_direct(self: &Arc<Self>) -> Option<DirectSegment> {
        let pin = self.pin();
        let incarnation = {
            let mut table = self.stored.chunks();
            if table.leaving || !table.is_checked() {
                return None;
            }
            let tick = self.disk().tick();
            table.touch(0..self.chunk_count(), tick);
            table.note_read(0..self.chunk_count());
            table.handed_over = true;
            table.incarnation
        };
        // Recorded first: a later start must know it even if this process ends here.
        let file = self
            .stored
            .record_hand_over(self.disk(), incarnation)
            .and_then(|ours| if ours { File::open(&self.stored.data_path).map(Some) } else { Ok(None) });
        match file {
            Ok(Some(file)) if self.stored.chunks().incarnation == incarnation => {
                Some(DirectSegment { file, pin })
            }
            Ok(_) => None,
            Err(error) => {
                let path = self.stored.data_path.display();
                tracing::warn!(%path, %error, "a cache file cannot be handed to the kernel");
                None
            }
        }
    }

    /// Checks every chunk that was not checked since the start; true if then all are here and believed.
    /// Reads up to the whole segment: for a background task.
    pub fn check_all(&self) -> bool {
        let unchecked = self.stored.chunks().unchecked(0..self.chunk_count());
        for chunk in unchecked {
            // Being a reader is the check; what fails it is dropped there.
            self.with_chunks(Visit::Check, chunk..chunk + 1, |_| Ok(()));
        }
        self.stored.chunks().is_checked()
    }

    /// Counts as a use of the chunks, for bytes that were not read through [`Self::read`].
    pub fn touch(&self, chunks: Range<u64>) {
        let tick = self.disk().tick();
        self.stored.chunks().touch(chunks, tick);
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        self.cache.released(&self.stored);
    }
}

/// While it lives, nothing of its segment is evicted or pruned.
#[derive(Debug)]
pub struct Pin {
    segment: Arc<Segment>,
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.segment.stored.chunks().pins -= 1;
    }
}

/// A complete segment as a file that the kernel may read itself.
#[derive(Debug)]
pub struct DirectSegment {
    /// The bytes; opened for reading only.
    pub file: File,
    /// Keeps the file in the cache.
    pub pin: Pin,
}

/// Fills `buffer`, which is empty, with `bytes` bytes from `offset` on.
fn read_into(file: &File, offset: u64, bytes: u64, buffer: &mut Vec<u8>) -> io::Result<()> {
    let wanted = usize::try_from(bytes).map_err(io::Error::other)?;
    buffer.reserve_exact(wanted);
    if buffer.capacity() != wanted {
        // The other way would read as much as there is room for.
        buffer.resize(wanted, 0);
        return file.read_exact_at(buffer, offset);
    }
    // Without clearing memory that is overwritten at once.
    while buffer.len() < wanted {
        let at = offset + buffer.len() as u64;
        match rustix::io::pread(file, rustix::buffer::spare_capacity(buffer), at) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    matches!(
        rustix::io::Errno::from_io_error(error),
        Some(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE | rustix::io::Errno::NOMEM)
    )
}
