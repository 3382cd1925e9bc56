//! One segment on disk: its two files, and every operation on them.
//!
//! Data: a sparse file as long as the segment, byte for byte the stream. Map: see `map`. Files are opened
//! by name for each change, and used only if the segment is still in the incarnation in which the change
//! began; so what was removed from outside is noticed, and no change reaches the files of a later
//! incarnation. Only the descriptor for reading is kept, for the segments that were read last.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use rustix::fs::FallocateFlags;

use crate::base::{chunk_range, durable};

use super::chunks::{Chunks, Removal};
use super::disk::{Disk, count, lock};
use super::map::{self, Header, Record, Salt};
use super::owner::make_directory;
use super::{SegmentId, SkipReason, Stored};

/// Bytes of one write to a data file. The kernel takes one of 1 MiB into a folio of that size, which it fills at half the
/// speed of smaller ones (Linux 6.18 on ext4: 2 GiB in 1.0 s of processor time rather than 0.42).
const WRITE_BYTES: usize = 256 << 10;

/// A segment and its files.
#[derive(Debug)]
pub(super) struct StoredSegment {
    pub(super) id: SegmentId,
    pub(super) bytes: u64,
    pub(super) salt: Salt,
    pub(super) data_path: PathBuf,
    pub(super) map_path: PathBuf,
    chunks: Mutex<Chunks>,
}

/// Both files, opened for a change.
struct Files {
    data: File,
    map: File,
}

/// What an eviction gave back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Freed {
    pub(super) chunks: u64,
    pub(super) bytes: u64,
}

impl StoredSegment {
    /// A segment of which nothing is known to be here; touches no file.
    pub(super) fn new(disk: &Disk, id: SegmentId, bytes: u64) -> Self {
        Self::with_chunks(disk, id, bytes, Chunks::new(bytes))
    }

    /// A segment with what was found at the start.
    pub(super) fn with_chunks(disk: &Disk, id: SegmentId, bytes: u64, mut chunks: Chunks) -> Self {
        let (data_path, map_path) = (disk.paths.data(&id), disk.paths.map(&id));
        chunks.kept = disk.pins.keep(&id);
        let chunks = Mutex::new(chunks.counting_unread_in(&disk.counters.unread_bytes));
        Self { salt: Salt::new(&id, bytes), id, bytes, data_path, map_path, chunks }
    }

    /// The table of chunks; to be held for a look or a step, never across a disk operation.
    pub(super) fn chunks(&self) -> MutexGuard<'_, Chunks> {
        lock(&self.chunks)
    }

    fn header(&self, disk: &Disk, handed_over: bool) -> Header {
        Header { id: self.id.clone(), bytes: self.bytes, handed_over, boot: disk.boot }
    }

    /// Writes a chunk that [`Chunks::begin_store`] gave to the caller in `incarnation`, for which room was made.
    pub(super) fn store(
        &self,
        disk: &Disk,
        incarnation: u64,
        chunk: u64,
        data: &[u8],
        digest: blake3::Hash,
    ) -> Stored {
        let bytes = data.len() as u64;
        let tick = disk.next_tick();
        let record = Record { durable: false, last_use: tick, digest: *digest.as_bytes() };
        let written = self.open_for_store(disk, incarnation).and_then(|files| {
            let Some(files) = files else { return Ok(false) };
            let offset = chunk_range(chunk, self.bytes).start;
            let write = write_in_steps(&files.data, data, offset).and_then(|()| {
                files.map.write_all_at(&record.encode(self.salt, chunk), map::record_offset(chunk))
            });
            if write.is_err() {
                // As if nothing had been written, as far as the disk lets us: the record first.
                let cleared = files.map.write_all_at(&map::ABSENT, map::record_offset(chunk));
                let _ = cleared.and_then(|()| self.punch(&files.data, chunk..chunk + 1));
            }
            write.map(|()| true)
        });
        let removal = {
            let mut chunks = self.chunks();
            let ours = chunks.incarnation == incarnation;
            match written {
                Ok(true) if ours => Some(chunks.finish_store(chunk, record.digest, tick)),
                _ if ours => {
                    chunks.abandon_store(chunk);
                    None
                }
                _ => None,
            }
        };
        match (removal, written) {
            (Some(Removal::NotOurs), _) => return Stored::Stored,
            (Some(Removal::Ours), _) => self.clear(disk, incarnation, &[chunk]),
            (None, Ok(_)) => {}
            (None, Err(error)) => {
                disk.sub_used(bytes);
                // Files that were made for nothing.
                self.unlink_if(disk, Chunks::is_vacant);
                disk.health.refused(&format!("cannot write {}", self.data_path.display()), &error);
                return Stored::Skipped(SkipReason::Degraded);
            }
        }
        disk.sub_used(bytes);
        Stored::Skipped(SkipReason::BeingEvicted)
    }

    /// Both files for writing, made if the segment has none yet; none in another incarnation.
    fn open_for_store(&self, disk: &Disk, incarnation: u64) -> io::Result<Option<Files>> {
        let on_disk = {
            let chunks = self.chunks();
            if chunks.incarnation != incarnation || chunks.leaving {
                return Ok(None);
            }
            chunks.on_disk
        };
        if on_disk {
            return self.open_files(disk, incarnation);
        }
        disk.owner.ensure(&disk.paths)?;
        if let Some(directory) = self.data_path.parent() {
            make_directory(directory)?;
        }
        let made = |path| {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
        };
        // The data first: a map is never without the file it speaks of. Two storers may both come here; both
        // then write the same.
        let data = made(&self.data_path)?;
        data.set_len(self.bytes)?;
        let map = made(&self.map_path)?;
        let header = self.header(disk, false);
        if !has_header(&map, &header)? {
            map.write_all_at(&header.encode(), 0)?;
        }
        let mut chunks = self.chunks();
        if chunks.incarnation != incarnation || chunks.leaving {
            return Ok(None);
        }
        chunks.on_disk = true;
        Ok(Some(Files { data, map }))
    }

    /// Both files of `incarnation` for a change; none in another one. Files that somebody removed are an error,
    /// after which the segment is empty.
    fn open_files(&self, disk: &Disk, incarnation: u64) -> io::Result<Option<Files>> {
        let open = |path| OpenOptions::new().read(true).write(true).open(path);
        let opened = open(&self.data_path).and_then(|data| Ok(Files { data, map: open(&self.map_path)? }));
        let mut chunks = self.chunks();
        // Files are unlinked only after `leaving` is set, and others made only in a later incarnation: so, seen now,
        // the names led to this one's files.
        if chunks.incarnation != incarnation || chunks.leaving {
            return Ok(None);
        }
        if opened.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            let (_, bytes) = chunks.take_all();
            drop(chunks);
            disk.sub_used(bytes);
            let error = io::Error::other("somebody removed it");
            disk.health.refused(&format!("cannot use {}", self.data_path.display()), &error);
        }
        opened.map(Some)
    }

    /// The data file for reading, in `incarnation`; none in another one.
    /// Of all segments, only the last [`super::disk::KEPT_OPEN_MAX`] that were opened keep theirs.
    pub(super) fn open_data(
        self: &Arc<Self>,
        disk: &Disk,
        incarnation: u64,
    ) -> io::Result<Option<Arc<File>>> {
        {
            let chunks = self.chunks();
            if chunks.incarnation != incarnation {
                return Ok(None);
            }
            if let Some(data) = &chunks.data {
                return Ok(Some(Arc::clone(data)));
            }
        }
        let data = Arc::new(File::open(&self.data_path)?);
        let mut chunks = self.chunks();
        if chunks.incarnation != incarnation || chunks.leaving {
            return Ok(None);
        }
        let data = Arc::clone(chunks.data.get_or_insert(data));
        drop(chunks);
        if let Some(longest_open) = disk.kept_open(self) {
            // Whoever reads right now has its own; the next one opens it again.
            longest_open.chunks().data = None;
        }
        Ok(Some(data))
    }

    /// Evicts one chunk that was not used after `tick`, if nobody uses it.
    pub(super) fn evict(&self, disk: &Disk, chunk: u64, tick: u64) -> Freed {
        let incarnation = {
            let mut chunks = self.chunks();
            if !chunks.begin_eviction(chunk, tick) {
                return Freed::default();
            }
            chunks.incarnation
        };
        let range = chunk_range(chunk, self.bytes);
        let bytes = range.end - range.start;
        disk.sub_used(bytes);
        match self.clear_record_and_punch(disk, incarnation, chunk) {
            Ok(()) => {
                let vacant = {
                    let mut chunks = self.chunks();
                    if chunks.incarnation == incarnation {
                        chunks.finish_departure(chunk);
                    }
                    chunks.is_vacant()
                };
                if vacant {
                    self.unlink_if(disk, Chunks::is_vacant);
                }
                Freed { chunks: 1, bytes }
            }
            Err(error) => {
                let mut chunks = self.chunks();
                if chunks.incarnation == incarnation {
                    chunks.keep(chunk);
                    disk.add_used(bytes);
                }
                drop(chunks);
                disk.health.refused(&format!("cannot evict from {}", self.data_path.display()), &error);
                Freed::default()
            }
        }
    }

    /// The record, then the bytes. Fails only if the record is still there.
    fn clear_record_and_punch(&self, disk: &Disk, incarnation: u64, chunk: u64) -> io::Result<()> {
        let Some(files) = self.open_files(disk, incarnation)? else { return Ok(()) };
        // Not synced, which is dear: after a power loss the record may be there again and the bytes not. The
        // chunk's digest finds that at its first use.
        files.map.write_all_at(&map::ABSENT, map::record_offset(chunk))?;
        if let Err(error) = self.punch(&files.data, chunk..chunk + 1) {
            tracing::warn!(path = %self.data_path.display(), %error, "cannot give back the bytes of a chunk");
        }
        Ok(())
    }

    /// Gives the bytes of `chunks`, which are not empty, back to the file system.
    pub(super) fn punch(&self, data: &File, chunks: Range<u64>) -> io::Result<()> {
        let start = chunk_range(chunks.start, self.bytes).start;
        let end = chunk_range(chunks.end.saturating_sub(1), self.bytes).end;
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(rustix::fs::fallocate(data, flags, start, end - start)?)
    }

    /// Unlinks both files, if `still` holds; readers keep the bytes. If they cannot be unlinked, nothing has
    /// happened.
    pub(super) fn unlink_if(&self, disk: &Disk, still: impl FnOnce(&Chunks) -> bool) -> Freed {
        {
            let mut chunks = self.chunks();
            if chunks.leaving || !chunks.on_disk || !still(&chunks) {
                return Freed::default();
            }
            chunks.leaving = true;
        }
        // The map first: data without one is nothing.
        let map_gone = remove_file(&self.map_path);
        let freed = match &map_gone {
            Ok(()) => self.take_all(disk),
            Err(_) => Freed::default(),
        };
        let gone = map_gone.and_then(|()| remove_file(&self.data_path));
        self.chunks().leaving = false;
        if let Err(error) = gone {
            disk.health.refused(&format!("cannot remove {}", self.data_path.display()), &error);
        }
        freed
    }

    /// Forgets the whole segment, whoever uses it.
    pub(super) fn unlink(&self, disk: &Disk) {
        self.unlink_if(disk, |_| true);
        if self.chunks().on_disk {
            self.take_all(disk);
            // The old records are still there. They must not be mixed with later ones: nothing is stored until the
            // next start.
            self.chunks().leaving = true;
        }
    }

    fn take_all(&self, disk: &Disk) -> Freed {
        let (chunks, bytes) = self.chunks().take_all();
        disk.sub_used(bytes);
        Freed { chunks, bytes }
    }

    /// Forgets `chunks`, whoever uses them.
    pub(super) fn remove(&self, disk: &Disk, chunks: Range<u64>) {
        if self.chunks().handed_over {
            self.unlink(disk);
            return;
        }
        let mut ours = Vec::new();
        let (incarnation, freed) = {
            let mut table = self.chunks();
            let before = table.present_bytes();
            for chunk in chunks {
                if table.begin_removal(chunk) == Removal::Ours {
                    ours.push(chunk);
                }
            }
            (table.incarnation, before - table.present_bytes())
        };
        disk.sub_used(freed);
        self.clear(disk, incarnation, &ours);
    }

    /// Clears and punches chunks whose departure is the caller's.
    pub(super) fn clear(&self, disk: &Disk, incarnation: u64, ours: &[u64]) {
        for chunk in ours {
            match self.clear_record_and_punch(disk, incarnation, *chunk) {
                Ok(()) => {
                    let mut chunks = self.chunks();
                    if chunks.incarnation == incarnation {
                        chunks.finish_departure(*chunk);
                    }
                }
                // It stays on its way out: not read, not stored, until the next start.
                Err(error) => {
                    disk.health.refused(&format!("cannot clear {}", self.map_path.display()), &error);
                }
            }
        }
        if !ours.is_empty() {
            self.unlink_if(disk, Chunks::is_vacant);
        }
    }

    /// Notes in the map that somebody else may read the data file from now on.
    pub(super) fn record_hand_over(&self, disk: &Disk, incarnation: u64) -> io::Result<bool> {
        let Some(files) = self.open_files(disk, incarnation)? else { return Ok(false) };
        files.map.write_all_at(&self.header(disk, true).encode(), 0)?;
        Ok(true)
    }

    /// Makes what is stored durable: the bytes, then the records that say so.
    pub(super) fn sync(&self, disk: &Disk) {
        let (incarnation, records, names_durable) = {
            let mut chunks = self.chunks();
            (chunks.incarnation, chunks.begin_sync(), chunks.names_durable)
        };
        if records.is_empty() {
            return;
        }
        let result = self.write_durable(disk, incarnation, &records, names_durable);
        let mut chunks = self.chunks();
        if chunks.incarnation != incarnation {
            return;
        }
        chunks.names_durable |= result.is_ok();
        let ours = chunks.end_sync(&records, result.is_ok());
        if result.is_err() {
            chunks.distrust_unsynced();
        }
        drop(chunks);
        if let Err(error) = result {
            disk.health.refused(&format!("cannot sync {}", self.data_path.display()), &error);
        }
        self.clear(disk, incarnation, &ours);
    }

    fn write_durable(
        &self,
        disk: &Disk,
        incarnation: u64,
        records: &[(u64, Record)],
        names_durable: bool,
    ) -> io::Result<()> {
        let Some(files) = self.open_files(disk, incarnation)? else { return Ok(()) };
        files.data.sync_data()?;
        // Records of neighbours in one write.
        for run in records.chunk_by(|one, next| one.0 + 1 == next.0) {
            let bytes: Vec<u8> =
                run.iter().flat_map(|(chunk, record)| record.encode(self.salt, *chunk)).collect();
            files.map.write_all_at(&bytes, map::record_offset(run[0].0))?;
        }
        files.map.sync_data()?;
        match self.data_path.parent() {
            Some(directory) if !names_durable => durable::sync_directory(directory),
            _ => Ok(()),
        }
    }

    /// Drops the chunks of `damaged`, which the caller found not to be what was stored.
    pub(super) fn drop_damaged(&self, disk: &Disk, incarnation: u64, damaged: &[u64], why: &str) {
        for chunk in damaged {
            // Several readers may find the same one.
            {
                let chunks = self.chunks();
                if chunks.incarnation != incarnation || !chunks.is_present(*chunk) {
                    continue;
                }
            }
            count(&disk.counters.damaged_chunks);
            tracing::warn!(path = %self.data_path.display(), chunk, why, "a damaged chunk is dropped");
            self.remove(disk, *chunk..*chunk + 1);
        }
    }
}

/// Removes a file, which may be gone already.
pub(super) fn remove_file(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Whether the map already belongs to the same segment; then its other marks stay as they are.
fn has_header(map: &File, header: &Header) -> io::Result<bool> {
    let mut bytes = [0; map::HEADER_BYTES];
    match map.read_exact_at(&mut bytes, 0) {
        Ok(()) => Ok(Header::decode(&bytes)
            .is_some_and(|found| Header { handed_over: header.handed_over, ..found } == *header)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

fn write_in_steps(file: &File, data: &[u8], offset: u64) -> io::Result<()> {
    data.chunks(WRITE_BYTES)
        .zip(0..)
        .try_for_each(|(step, number)| file.write_all_at(step, offset + number * WRITE_BYTES as u64))
}
