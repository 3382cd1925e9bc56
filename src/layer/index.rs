//! The LayerIndex: every entry of a layer and the way into its stream, made once by a first reading.
//!
//! It lives in the bytes in which it is stored, and is searched there: opening one is a check, not a reading, and one
//! that is mapped from a file takes no memory that the kernel could not have back. It assumes that whoever stores it
//! guards it with a checksum; what it says is checked all the same when it is opened, so that a damaged index is an
//! error, and never an offset outside of the stream nor a path that leads out of the tree.

use std::fmt;
use std::ops::Range;

use bytes::Bytes;

use self::record::{ATTRIBUTES_BYTES, AttributesRecord, EntryRecord, Kind, MEMBER_RECORD_BYTES, u64_at};
use super::restart::RestartTable;
use super::spans::SpanTable;
use super::{Entry, EntryKind, Extent, Extents, RootAttributes, Timestamp, Xattr};
use crate::base::{Digest, Error, ErrorKind, Result};

mod decode;
mod encode;
mod paths;
mod record;
mod stream;

/// Bytes from which on a file has a segment of its own, so that a complete one can be handed to the kernel.
pub const MEMBER_BYTES_MIN: u64 = 1 << 20;

/// A piece of a layer's stream that is cached in a segment of its own: a large file, from its first byte to its last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Where it begins in the stream.
    pub stream_offset: u64,
    /// Its bytes; never zero.
    pub bytes: u64,
}

/// How a layer's stream is had from its blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LayerStream {
    /// It is the blob.
    Plain,
    /// It is decoded from the nearest of these points.
    Restart(RestartTable),
    /// It is virtual: these spans, one after the other, each decoded by itself.
    Spans(SpanTable),
}

/// What a [`LayerIndex`] is made of.
#[derive(Clone, Debug)]
pub struct IndexParts {
    /// The layer's blob.
    pub layer: Digest,
    /// Bytes of the blob.
    pub blob_bytes: u64,
    /// Bytes of the stream.
    pub stream_bytes: u64,
    /// The digest of the stream, where it is known.
    pub diff_id: Option<Digest>,
    /// The way into the stream.
    pub stream: LayerStream,
    /// What the archive says of its root.
    pub root: Option<RootAttributes>,
    /// The entries in the order in which the layer holds them; of several with one path the last one counts.
    pub entries: Vec<Entry>,
    /// The large files in the order of the stream.
    pub members: Vec<Member>,
    /// What may surprise.
    pub warnings: Vec<String>,
    /// The short name of the index that the layer carried itself and from which this one was made, such as
    /// `estargz`, `zstd:chunked`, `seek table` or `soci`.
    pub carried: Option<String>,
    /// Whether what is said here is vouched for by the manifest, or was made from a blob that matched its digest.
    pub trusted: bool,
}

/// An entry where it lies in its index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryRef<'a> {
    /// Its path, valid as a [`crate::base::RelPath`].
    pub path: &'a [u8],
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits, with set-id and sticky bits (`0o7777`).
    pub mode: u32,
    /// The owner's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
    /// The time of the last change of its content.
    pub mtime: Timestamp,
    /// Its extended attributes, by name, each name once.
    pub xattrs: Box<[Xattr]>,
}

/// What is known of one layer that holds files. Immutable.
///
/// Entries stand in the order of their paths, component by component, as if `/` were the lowest byte; each path
/// stands once. So the names of a directory follow it, and are found by binary search.
///
/// # Bytes on disk
///
/// Little endian, without gaps: header, texts, members, attributes, xattrs, entries, side data, names, stream. What
/// is small and wanted first comes first. Whatever is searched has records of a fixed size; what they refer to lies
/// in sections beside them, in their order, so that one pass checks that nothing overlaps and nothing is left over.
/// The way into the stream comes last: most of it is windows, which are touched only when they are used.
///
/// | Offset | Bytes | Header |
/// |---|---|---|
/// | 0 | 8 | magic `rfmindex` |
/// | 8 | 4 | version |
/// | 12 | 4 | flags: 1 trusted, 2 the stream's digest is known, 4 made from a carried index, 8 the root is described |
/// | 16 | 8 | bytes of the blob |
/// | 24 | 8 | bytes of the stream |
/// | 32 | 8 | bytes of the texts |
/// | 40 | 8 | number of members |
/// | 48 | 8 | number of attributes |
/// | 56 | 8 | bytes of the xattrs |
/// | 64 | 8 | number of entries |
/// | 72 | 8 | bytes of the side data |
/// | 80 | 8 | bytes of the names |
/// | 88 | 8 | bytes of the stream's section |
/// | 96 | 4 | kind of that section: 0 plain (empty), 1 a [`RestartTable`] |
/// | 100 | 4 | the root's attributes, as their place among the attributes |
/// | 104 | 8 | the root's time of last change, seconds since 1970, signed |
/// | 112 | 4 | its nanoseconds |
/// | 116 | 4 | zero |
///
/// Texts: the layer's digest, the stream's, the carried index's name (empty where the flags deny them), and the
/// warnings; each with its length (4) before it.
///
/// | Offset | Bytes | Member, in the order of the stream |
/// |---|---|---|
/// | 0 | 8 | stream offset |
/// | 8 | 8 | bytes, not zero |
///
/// Attributes are what many entries have in common, each combination once: an archive of a million files has a few
/// dozen of them.
///
/// | Offset | Bytes | Attributes |
/// |---|---|---|
/// | 0 | 1 | kind: 1 file in one piece, 2 sparse file, 3 directory, 4 symbolic link, 5 hard link, 6 character device, 7 block device, 8 fifo |
/// | 1 | 1 | zero |
/// | 2 | 2 | permission bits |
/// | 4 | 4 | the owner's number |
/// | 8 | 4 | the group's number |
/// | 12 | 4 | where their xattrs end, which is where the next ones' begin |
///
/// An xattr: bytes of its name (2), bytes of its value (4), name, value; by name.
///
/// | Offset | Bytes | Entry, in the order of paths |
/// |---|---|---|
/// | 0 | 4 | where its path ends among the names |
/// | 4 | 8 | bytes of the file, or of the link's target; of a device its numbers, major in the upper half |
/// | 12 | 8 | stream offset of a file in one piece; of a link or sparse file, where its side data begin |
/// | 20 | 5 | time of last change, seconds since 1970, signed; what lies beyond is clamped |
/// | 25 | 4 | its nanoseconds |
/// | 29 | 3 | its attributes, as their place |
///
/// What an entry has no use for is zero. Side data: the target of a link; of a sparse file the number of its extents
/// (8), then file offset, stream offset and length (8 each).
///
/// Names: a slash, then each path with a slash behind it. Whole paths, because they are compared in every search and
/// borrowed by every listing; and with slashes between them, because a run of plain names between single slashes can
/// be checked many bytes at a time.
#[derive(Clone)]
pub struct LayerIndex {
    /// The whole encoding.
    bytes: Bytes,
    layer: Digest,
    blob_bytes: u64,
    stream_bytes: u64,
    diff_id: Option<Digest>,
    carried: Option<String>,
    trusted: bool,
    warnings: Vec<String>,
    stream: LayerStream,
    root: Option<RootAttributes>,
    sections: Sections,
}

/// Where the sections lie whose records are read in place.
#[derive(Clone, Debug)]
struct Sections {
    members: Range<usize>,
    attributes: Range<usize>,
    xattrs: Range<usize>,
    entries: Range<usize>,
    side: Range<usize>,
    names: Range<usize>,
}

impl LayerIndex {
    /// The index of `parts`.
    ///
    /// # Errors
    /// `Unsupported` beyond a limit; `Invalid` for parts that do not fit together, such as a file that reaches beyond
    /// the stream, extents or members out of order, xattrs that are not in the order of their names.
    pub fn new(parts: IndexParts) -> Result<Self> {
        let layer = parts.layer.clone();
        let bytes = encode::encode(parts)?;
        decode::open(bytes.into(), &layer).map_err(|flaw| {
            Error::new(ErrorKind::Invalid, format!("the entries of layer {layer} make no index: {flaw}"))
        })
    }

    /// The index of a raw layer of `bytes` bytes, whose only entry is `entry`.
    ///
    /// # Errors
    /// `Invalid` when the entry is a file that reaches beyond the layer.
    pub fn of_raw_file(layer: &Digest, bytes: u64, entry: Entry) -> Result<Self> {
        Self::new(IndexParts {
            layer: layer.clone(),
            blob_bytes: bytes,
            stream_bytes: bytes,
            diff_id: Some(layer.clone()),
            stream: LayerStream::Plain,
            root: None,
            entries: vec![entry],
            members: Vec::new(),
            warnings: Vec::new(),
            carried: None,
            // The manifest says all that there is to say.
            trusted: true,
        })
    }

    /// Opens an encoding, which is kept, not copied.
    ///
    /// # Errors
    /// `Corrupt` for anything else than what [`Self::bytes`] gave for this layer, as far as that can be told from
    /// within: each value is sound, but only a checksum knows whether it is the one that was stored.
    pub fn decode(bytes: Bytes, layer: &Digest) -> Result<Self> {
        decode::open(bytes, layer).map_err(|flaw| {
            Error::new(ErrorKind::Corrupt, format!("the stored index of layer {layer} is damaged: {flaw}"))
        })
    }

    /// The encoding, which [`Self::decode`] reads.
    #[must_use]
    pub fn bytes(&self) -> Bytes {
        self.bytes.clone()
    }

    /// The layer's blob.
    #[must_use]
    pub fn layer(&self) -> &Digest {
        &self.layer
    }

    /// Bytes of the layer's blob.
    #[must_use]
    pub fn blob_bytes(&self) -> u64 {
        self.blob_bytes
    }

    /// Bytes of the layer's stream.
    #[must_use]
    pub fn stream_bytes(&self) -> u64 {
        self.stream_bytes
    }

    /// The digest of the stream, where it is known.
    #[must_use]
    pub fn diff_id(&self) -> Option<&Digest> {
        self.diff_id.as_ref()
    }

    /// The way into the stream.
    #[must_use]
    pub fn stream(&self) -> &LayerStream {
        &self.stream
    }

    /// The short name of the index that the layer carried itself, if this one was made from it.
    #[must_use]
    pub fn carried(&self) -> Option<&str> {
        self.carried.as_deref()
    }

    /// Whether what is said here is vouched for by the manifest, or was made from a blob that matched its digest.
    #[must_use]
    pub fn is_trusted(&self) -> bool {
        self.trusted
    }

    /// What the archive says of its root.
    #[must_use]
    pub fn root(&self) -> Option<RootAttributes> {
        self.root.clone()
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries().len()
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The path of the entry in place `at`, which must be below [`Self::len`]; valid as a [`crate::base::RelPath`].
    #[must_use]
    pub fn path(&self, at: usize) -> &[u8] {
        let entries = self.entries();
        // After the slash that ends the one before it.
        let start = at.checked_sub(1).map_or(0, |before| EntryRecord(&entries[before]).path_end()) + 1;
        self.names().get(start..EntryRecord(&entries[at]).path_end()).unwrap_or_default()
    }

    /// The place of the entry with this path.
    #[must_use]
    pub fn find(&self, path: &[u8]) -> Option<usize> {
        let (mut from, mut to) = (0, self.len());
        while from < to {
            let middle = from.midpoint(to);
            if paths::order(self.path(middle), path).is_lt() {
                from = middle + 1;
            } else {
                to = middle;
            }
        }
        (from < self.len() && self.path(from) == path).then_some(from)
    }

    /// The entry in place `at`, which must be below [`Self::len`]. Its path is borrowed; what few entries have, their
    /// extended attributes and extents and targets, is copied.
    #[must_use]
    pub fn entry(&self, at: usize) -> EntryRef<'_> {
        let record = EntryRecord(&self.entries()[at]);
        let attributes = self.attributes_of(record.attributes());
        EntryRef {
            path: self.path(at),
            kind: self.kind(&record, attributes.kind),
            mode: attributes.mode,
            uid: attributes.uid,
            gid: attributes.gid,
            mtime: record.mtime(),
            xattrs: attributes.xattrs(),
        }
    }

    fn kind(&self, record: &EntryRecord<'_>, kind: Kind) -> EntryKind {
        let size = record.size();
        let (major, minor) = record.device();
        match kind {
            Kind::File => {
                EntryKind::File { size, extents: Extents::Contiguous { stream_offset: record.place() } }
            }
            Kind::SparseFile => {
                let extents = self.side_extents(record.place()).unwrap_or_default();
                let extents = extents.iter().map(record::extent);
                EntryKind::File { size, extents: Extents::Sparse(extents.collect()) }
            }
            Kind::Directory => EntryKind::Directory,
            Kind::Symlink => {
                EntryKind::Symlink { target: self.side(record.place(), size).unwrap_or_default().into() }
            }
            Kind::HardLink => {
                EntryKind::HardLink { target: self.side(record.place(), size).unwrap_or_default().into() }
            }
            Kind::CharDevice => EntryKind::CharDevice { major, minor },
            Kind::BlockDevice => EntryKind::BlockDevice { major, minor },
            Kind::Fifo => EntryKind::Fifo,
        }
    }

    /// How many large files have a segment of their own.
    #[must_use]
    pub fn member_count(&self) -> usize {
        self.member_records().len()
    }

    /// The large file in place `at` of the stream's order, which must be below [`Self::member_count`].
    #[must_use]
    pub fn member(&self, at: usize) -> Member {
        let record = &self.member_records()[at];
        Member { stream_offset: u64_at(record, 0), bytes: u64_at(record, 8) }
    }

    /// All large files in the stream's order.
    pub fn members(&self) -> impl Iterator<Item = Member> {
        (0..self.member_count()).map(|at| self.member(at))
    }

    /// What may surprise.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        self.warnings.clone()
    }

    fn member_records(&self) -> &[[u8; MEMBER_RECORD_BYTES]] {
        self.bytes[self.sections.members.clone()].as_chunks().0
    }

    fn entries(&self) -> &[[u8; record::ENTRY_BYTES]] {
        self.bytes[self.sections.entries.clone()].as_chunks().0
    }

    fn attributes(&self) -> &[[u8; ATTRIBUTES_BYTES]] {
        self.bytes[self.sections.attributes.clone()].as_chunks().0
    }

    fn names(&self) -> &[u8] {
        &self.bytes[self.sections.names.clone()]
    }

    /// The attributes in place `at`. That it is one was checked when the index was opened.
    fn attributes_of(&self, at: u32) -> Attributes<'_> {
        let all = self.attributes();
        let at = at as usize;
        let record = |at: usize| all.get(at).map(AttributesRecord);
        let Some(own) = record(at) else { return Attributes::NONE };
        let start = at.checked_sub(1).and_then(record).map_or(0, |before| before.xattrs_end());
        let xattrs = &self.bytes[self.sections.xattrs.clone()];
        Attributes {
            kind: own.kind().unwrap_or(Kind::Fifo),
            mode: own.mode(),
            uid: own.uid(),
            gid: own.gid(),
            xattrs: xattrs.get(start..own.xattrs_end()).unwrap_or_default(),
        }
    }

    /// `length` bytes of the side data; none where they reach beyond them.
    fn side(&self, start: u64, length: u64) -> Option<&[u8]> {
        let start = usize::try_from(start).ok()?;
        let end = start.checked_add(usize::try_from(length).ok()?)?;
        self.bytes[self.sections.side.clone()].get(start..end)
    }

    /// The extents whose number stands at `start` of the side data; none where they reach beyond them.
    fn side_extents(&self, start: u64) -> Option<&[[u8; record::EXTENT_BYTES]]> {
        let count = u64_at(self.side(start, 8)?.first_chunk::<8>()?, 0);
        let bytes = count.checked_mul(record::EXTENT_BYTES as u64)?;
        Some(self.side(start.checked_add(8)?, bytes)?.as_chunks().0)
    }
}

/// Attributes where they lie.
struct Attributes<'a> {
    kind: Kind,
    mode: u32,
    uid: u32,
    gid: u32,
    xattrs: &'a [u8],
}

impl Attributes<'_> {
    const NONE: Self = Self { kind: Kind::Fifo, mode: 0, uid: 0, gid: 0, xattrs: &[] };

    fn xattrs(&self) -> Box<[Xattr]> {
        let mut rest = self.xattrs;
        std::iter::from_fn(|| record::next_xattr(&mut rest))
            .map(|(name, value)| Xattr { name: name.into(), value: value.into() })
            .collect()
    }
}

impl fmt::Debug for LayerIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LayerIndex")
            .field("layer", &self.layer)
            .field("entries", &self.len())
            .field("bytes", &self.bytes.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
