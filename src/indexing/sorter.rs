//! The sorter: blocks of a stream in their order go in; entries are told, and chunks handed to the segments that they
//! belong to.
//!
//! It works at the speed at which the stream comes and keeps no block longer than it takes to sort it. The digests of
//! all chunks are kept, 32 bytes each, so that the layer's proof is there when its end is reached.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::base::{CHUNK_BYTES, Result, chunk_count};
use crate::fetch::Passage;
use crate::layer::tar::{TarEnd, TarItem, TarReader};
use crate::layer::{ChunkDigest, EntryKind, Extents, MEMBER_BYTES_MIN, Member, SegmentProof};

use super::Layer;
use super::probe::is_archive;
use super::segments::{WINDOW_BYTES, window_number};

/// What a stream turned out to be.
#[derive(Debug)]
pub(super) enum Sorted {
    /// An archive; its entries have been told.
    Archive {
        /// What may surprise.
        warnings: Vec<String>,
        /// The digests of the chunks of all segments.
        proofs: BTreeMap<u32, SegmentProof>,
    },
    /// Something else; nothing of it was kept, unless one file was expected.
    NoArchive {
        /// As above.
        proofs: BTreeMap<u32, SegmentProof>,
    },
}

/// See the module's text.
pub(super) struct Sorter {
    layer: Arc<Layer>,
    /// None for a stream that is one file.
    reader: Option<TarReader>,
    stream_offset: u64,
    /// Whether what comes is kept; decided by the first block.
    is_wanted: Option<bool>,
    window: Option<(u64, Arc<Passage>)>,
    /// The member that is going by.
    member: Option<OpenMember>,
    digests: BTreeMap<u32, Vec<ChunkDigest>>,
    /// Bytes that may still be kept for nobody who waits.
    room: u64,
}

struct OpenMember {
    number: u32,
    member: Member,
    passage: Option<Arc<Passage>>,
    chunk: u64,
    partial: BytesMut,
}

impl OpenMember {
    fn end(&self) -> u64 {
        self.member.stream_offset + self.member.bytes
    }
}

impl Sorter {
    /// For the stream of `layer`: a tar, or else one file. At most `room` bytes are kept that nobody waits for.
    pub(super) fn new(layer: Arc<Layer>, is_archive: bool, room: u64) -> Self {
        Self {
            layer,
            reader: is_archive.then(TarReader::new),
            stream_offset: 0,
            is_wanted: None,
            window: None,
            member: None,
            digests: BTreeMap::new(),
            room,
        }
    }

    /// Takes the next block: a mebibyte, or what is left at the end.
    ///
    /// # Errors
    /// Those of the tar reader.
    pub(super) fn take(&mut self, block: Bytes) -> Result<()> {
        let is_wanted = *self.is_wanted.get_or_insert_with(|| self.reader.is_none() || is_archive(&block));
        self.layer.progressed();
        if !is_wanted {
            self.stream_offset += block.len() as u64;
            return Ok(());
        }
        let start = self.stream_offset;
        let end = start + block.len() as u64;
        self.read_entries(&block)?;
        self.sort_into_window(&block)?;
        self.sort_into_members(&block, start, end)?;
        self.stream_offset = end;
        Ok(())
    }

    /// Finds the entries whose headers end in `block`.
    fn read_entries(&mut self, block: &Bytes) -> Result<()> {
        let Some(reader) = &mut self.reader else { return Ok(()) };
        let mut rest = &block[..];
        while !rest.is_empty() {
            let fed = reader.feed(rest)?;
            rest = &rest[fed.taken..];
            if let Some(item) = fed.item {
                if let Some(member) = member_of(&item) {
                    self.layer.segments()?.add_member(member);
                }
                self.layer.found(item);
            }
        }
        Ok(())
    }

    /// The block as a chunk of its window.
    fn sort_into_window(&mut self, block: &Bytes) -> Result<()> {
        let (window, chunk) =
            (self.stream_offset / WINDOW_BYTES, self.stream_offset % WINDOW_BYTES / CHUNK_BYTES);
        let number = window_number(window);
        let mut bytes = block.clone();
        if (bytes.len() as u64) < CHUNK_BYTES {
            let mut whole = block.to_vec();
            whole.resize(CHUNK_BYTES as usize, 0);
            bytes = whole.into();
        }
        let digest = blake3::hash(&bytes);
        self.digests.entry(number).or_default().push(*digest.as_bytes());
        let stream = self.stream_offset..self.stream_offset + block.len() as u64;
        if self.layer.segments()?.member_of(&stream).is_some() {
            return Ok(());
        }
        if self.window.as_ref().is_none_or(|(open, _)| *open != window) {
            self.window = self.layer.segments()?.passage(number)?.map(|passage| (window, passage));
        }
        if let Some((_, passage)) = &self.window {
            let keeps = self.room >= CHUNK_BYTES;
            if passage.bring(chunk, bytes, digest, keeps)? && keeps {
                self.room -= CHUNK_BYTES;
            }
        }
        Ok(())
    }

    /// The parts of the block, `start..end` of the stream, that are members'.
    fn sort_into_members(&mut self, block: &Bytes, start: u64, end: u64) -> Result<()> {
        let mut at = start;
        while at < end {
            if self.member.as_ref().is_none_or(|open| open.end() <= at) {
                self.member = None;
                let Some((number, member)) = self.layer.segments()?.next_member(at) else { return Ok(()) };
                if member.stream_offset >= end {
                    return Ok(());
                }
                at = at.max(member.stream_offset);
                let passage = self.layer.segments()?.passage(number)?;
                self.member =
                    Some(OpenMember { number, member, passage, chunk: 0, partial: BytesMut::new() });
            }
            let Some(open) = &mut self.member else { return Ok(()) };
            let until = open.end().min(end);
            // Both within the block, whose length is a usize.
            open.partial.extend_from_slice(&block[(at - start) as usize..(until - start) as usize]);
            at = until;
            self.hand_on_chunks()?;
        }
        Ok(())
    }

    /// Hands on what is whole of the open member.
    fn hand_on_chunks(&mut self) -> Result<()> {
        let Some(open) = &mut self.member else { return Ok(()) };
        loop {
            let left = open.member.bytes.saturating_sub(open.chunk * CHUNK_BYTES);
            let length = left.min(CHUNK_BYTES);
            if length == 0 || (open.partial.len() as u64) < length {
                return Ok(());
            }
            let bytes = open.partial.split_to(length as usize).freeze();
            open.partial.reserve(CHUNK_BYTES as usize);
            let digest = blake3::hash(&bytes);
            self.digests.entry(open.number).or_default().push(*digest.as_bytes());
            if let Some(passage) = &open.passage {
                let keeps = self.room >= length;
                if passage.bring(open.chunk, bytes, digest, keeps)? && keeps {
                    self.room -= length;
                }
            }
            open.chunk += 1;
        }
    }

    /// The stream has ended.
    ///
    /// # Errors
    /// `Invalid` when it ends within an entry.
    pub(super) fn finish(mut self) -> Result<Sorted> {
        if !self.is_wanted.unwrap_or(true) {
            return Ok(Sorted::NoArchive { proofs: BTreeMap::new() });
        }
        let Some(reader) = &self.reader else { return Ok(Sorted::NoArchive { proofs: self.proofs()? }) };
        let warnings = end_warnings(reader.finish()?, self.stream_offset);
        Ok(Sorted::Archive { warnings, proofs: self.proofs()? })
    }

    fn proofs(&mut self) -> Result<BTreeMap<u32, SegmentProof>> {
        let members = self.layer.segments()?.members();
        // What of the last window lies beyond the stream is zeros.
        let beyond = *blake3::hash(&vec![0; CHUNK_BYTES as usize]).as_bytes();
        let mut proofs = BTreeMap::new();
        for (number, mut digests) in std::mem::take(&mut self.digests) {
            let bytes = match number % 2 {
                1 => {
                    digests.resize(chunk_count(WINDOW_BYTES) as usize, beyond);
                    WINDOW_BYTES
                }
                _ => members.get((number / 2 - 1) as usize).map_or(0, |member| member.bytes),
            };
            proofs.insert(number, SegmentProof::new(bytes, digests)?);
        }
        Ok(proofs)
    }
}

/// What may surprise about the end of an archive of `stream_bytes`.
pub(super) fn end_warnings(end: TarEnd, stream_bytes: u64) -> Vec<String> {
    match end {
        TarEnd::Unmarked if stream_bytes > 0 => vec![
            "the archive has no end mark; if it was cut short between two entries, nothing shows it".into(),
        ],
        TarEnd::Unmarked | TarEnd::Marked => Vec::new(),
    }
}

/// The member that `item` is, if it is large enough to be one.
pub(super) fn member_of(item: &TarItem) -> Option<Member> {
    match item {
        TarItem::Entry(entry) => match &entry.kind {
            EntryKind::File { size, extents: Extents::Contiguous { stream_offset } }
                if *size >= MEMBER_BYTES_MIN =>
            {
                Some(Member { stream_offset: *stream_offset, bytes: *size })
            }
            _ => None,
        },
        TarItem::Root(_) => None,
    }
}
